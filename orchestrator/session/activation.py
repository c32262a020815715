"""Where a session is in memory, and since which event: each takeover begins another stay."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from orchestrator.session.frozen import quick


@quick
@dataclass(frozen=True, slots=True)
class Activation:
    """A stay of the session in a node's memory, since event `seq`; `previous` is the event that began the last one."""

    seq: int
    at: datetime
    node: str
    epoch: int
    previous: int | None = None
