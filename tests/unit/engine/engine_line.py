"""A node's line to the tables: what a test can hold, lose or cut of what the engine asks of them.

To change it: one wrapper for every adapter, which carries calls through the line and decides nothing.
"""

import asyncio
import inspect
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, TypeVar, cast

from actors.signals import Signal
from orchestrator.cluster import Head

T = TypeVar("T")

PATIENCE_SECONDS = 5.0
"""How long a test waits for what must happen; only a failing test waits that long."""


class PowerCut(Exception):
    """The node has no power: whatever it asks of the table, the table does not hear."""


class Line:
    """A node's line to the table. It can be cut for good, or held, as a frozen process holds its own requests."""

    def __init__(self, changed: Signal) -> None:
        self._changed = changed
        self._held: asyncio.Event | None = None
        self._held_call = ""
        self._held_answer = ""
        self._is_cut = False
        self._cut_before: Counter[str] = Counter()
        self._cut_after = ""
        self._faults: dict[str, tuple[int, Exception]] = {}
        self.calls = 0
        self._cut_at = 0
        self._freezes_at = 0
        self._freezes_answered = False
        self._is_frozen = False
        self._reached = asyncio.Event()

    @property
    def is_cut(self) -> bool:
        """Whether nothing passes any more."""
        return self._is_cut

    @property
    def is_held(self) -> bool:
        """Whether some calls or answers are kept on their way."""
        return self._held is not None

    def cut(self) -> None:
        """Let nothing pass any more, in neither direction."""
        self._is_cut = True
        self.thaw()

    def cut_before(self, name: str, *, calls: int = 1) -> None:
        """Cut the line when the table is called `name` (append, read, create, claim, end, release) that often."""
        self._cut_before[name] = calls

    def cut_at(self, call: int) -> None:
        """Cut the line at the call of that number, whatever it is: the table does not hear it."""
        self._cut_at = call

    def cut_after(self, name: str) -> None:
        """Cut the line once the table did what it was called for: the answer is lost."""
        self._cut_after = name

    def fail_once(self, name: str, error: Exception, *, after: int = 0) -> None:
        """Raise `error` instead of carrying the call of that name, after so many that pass."""
        self._faults[name] = (after, error)

    def hold(self) -> None:
        """Keep every request on its way until `thaw`."""
        self.hold_on("")

    def hold_on(self, name: str) -> None:
        """Keep calls of that name on their way until `thaw`."""
        self._held, self._held_call = asyncio.Event(), name
        self._reached.clear()

    def freeze_at(self, call: int, *, answered: bool = False) -> None:
        """Hold everything, both ways, from the call of that number on: that one unheard, or done and its answer kept.

        As a process that stands still: `thaw` lets it go on, as if no time had passed.
        """
        self._freezes_at, self._freezes_answered = call, answered

    def hold_answer(self, name: str) -> None:
        """Keep the answers to calls of that name on their way until `thaw`: the table did what it was asked."""
        self._held_answer = name
        self.hold_on("no request")

    async def until_held(self) -> None:
        """Return once somebody waits on the held line."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self._reached.wait()

    def thaw(self) -> None:
        """Let pass what was held, and whatever comes."""
        self._freezes_at = 0
        held, self._held, self._held_answer, self._is_frozen = self._held, None, "", False
        if held is not None:
            held.set()

    async def out(self, name: str) -> None:
        """Carry a request to the table."""
        self.calls += 1
        self._is_cut |= self.calls == self._cut_at
        if self.calls == self._freezes_at and not self._freezes_answered:
            self._freeze()
        if self._held is not None and self._held_call in {"", name}:
            self._reached.set()
            await self._held.wait()
        if self._cut_before[name]:
            self._cut_before[name] -= 1
            self._is_cut |= self._cut_before[name] == 0
        self._check()
        if name in self._faults:
            passing, error = self._faults.pop(name)
            if not passing:
                raise error
            self._faults[name] = (passing - 1, error)

    async def back(self, name: str) -> None:
        """Carry the answer back."""
        self._changed.fire()
        if self._freezes_answered and self._freezes_at and self.calls >= self._freezes_at:
            self._freeze()
        if self._held is not None and (self._is_frozen or self._held_answer == name):
            self._reached.set()
            await self._held.wait()
        self._is_cut |= self._cut_after == name
        self._check()

    def _freeze(self) -> None:
        self._freezes_at = 0
        self.hold()
        self._is_frozen = True

    def _check(self) -> None:
        if self._is_cut:
            raise PowerCut


JOURNAL_WRITES = frozenset({"append"})
HEAD_WRITES = frozenset(
    {"create", "claim", "settle_takeovers", "end", "release", "settle_outbox", "bump_inbox", "make_due", "annotate"}
)
INBOX_WRITES = frozenset({"put", "delete"})
QUOTA_WRITES = frozenset({"admit", "enqueue", "promote", "dismiss", "free"})
USAGE_WRITES = frozenset({"count", "take"})


class _Lined:
    """Any adapter, at the end of a line. What it is not told to carry passes by: no engine test cuts that."""

    def __init__(
        self,
        adapter: object,
        line: Line,
        writes: frozenset[str],
        reads: frozenset[str],
        prefix: str,
        standing: dict[str, Head] | None,
    ) -> None:
        self._adapter = adapter
        self._line = line
        self._writes = writes
        self._reads = reads
        self._prefix = prefix
        self._standing = standing

    def __getattr__(self, name: str) -> Any:
        method, called = getattr(self._adapter, name), f"{self._prefix}{name}"

        async def written(*args: object, **kwargs: object) -> object:
            await self._line.out(called)
            answer: object = await method(*args, **kwargs)
            if self._standing is not None and isinstance(answer, Head):
                self._standing[answer.session_id] = answer
            await self._line.back(called)
            return answer

        async def asked(*args: object, **kwargs: object) -> object:
            await self._line.out(called)
            answer: object = await method(*args, **kwargs)
            return answer

        async def streamed(*args: object, **kwargs: object) -> AsyncIterator[object]:
            await self._line.out(called)
            async for each in method(*args, **kwargs):
                yield each

        if name in self._writes:
            return written
        if name not in self._reads:
            return method
        return streamed if inspect.isasyncgenfunction(method) else asked


def at_the_end_of(
    line: Line,
    adapter: T,
    *,
    writes: frozenset[str],
    reads: frozenset[str] = frozenset(),
    prefix: str = "",
    standing: dict[str, Head] | None = None,
) -> T:
    """Return the adapter as a node reaches it: its writes go out and their answers come back, its reads go out.

    Calls go by their names behind the prefix; `standing` gets each HEAD that a write returns.
    """
    return cast("T", _Lined(adapter, line, writes, reads, prefix, standing))
