"""Which write of an object was seen last: S3 tells of writes in any order, and what is older is news no more.

`LatestWrites` is the protocol; `dynamodb` and `memory` keep it, and one contract suite holds both to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol

KEPT: Final = timedelta(days=30)
"""A message is kept for at most 14 days in a queue (SQS, quotas), and as long again among the dead letters."""


@dataclass(frozen=True, slots=True)
class ObjectWrite:
    """One write, or removal, of an object. `sequencer` orders those of one key, and says nothing across keys."""

    bucket: str
    key: str
    sequencer: str


class LatestWrites(Protocol):
    """The latest write of each object that was seen within the last 30 days."""

    async def note(self, write: ObjectWrite) -> str:
        """Note the write unless a later one was seen; return the sequencer of the latest then: its own, where it is.

        Returning means that it is durable. Safe to repeat.
        """
        ...


def is_older(sequencer: str, than: str) -> bool:
    """Return whether that write came before the other one, of the same key.

    The shorter text is padded with zeros on the right, then they compare as texts (S3 User Guide, "Event message
    structure").
    """
    width = max(len(sequencer), len(than))
    return sequencer.ljust(width, "0") < than.ljust(width, "0")
