"""What the actor tests share: a scripted actor, a manual clock, a system that must not leak tasks.

To change it: no test logic here, and no second runtime: the actors run on the real one.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from actors import ActorContext, ActorSystem, Failure, ManualClock, settle

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

Script = Callable[["Scripted", str], Awaitable[None]]


async def do_nothing(actor: "Scripted", message: str) -> None:
    """Handle a message by just having received it."""


class Scripted:
    """An actor that writes down what happens to it, and does what its script says."""

    def __init__(self, context: ActorContext[str], diary: list[str], script: Script) -> None:
        self.context = context
        self.diary = diary
        self.script = script

    async def activate(self) -> None:
        """Write it down."""
        self.diary.append("activate")

    async def receive(self, message: str) -> None:
        """Write it down, and follow the script."""
        self.diary.append(message)
        await self.script(self, message)

    async def deactivate(self) -> None:
        """Write it down."""
        self.diary.append("deactivate")


def scripted(diary: list[str], script: Script = do_nothing) -> Callable[[ActorContext[str]], Scripted]:
    """Return a factory of `Scripted` actors that share `diary`."""
    return lambda context: Scripted(context, diary, script)


async def ending(work: Awaitable[object]) -> object:
    """Return what `work` returns, or the class of what it raises, for tasks whose error must not end their group."""
    try:
        return await work
    except Exception as error:
        return type(error)


def explode(*args: object) -> None:
    """Raise ZeroDivisionError, wherever a callback is due."""
    raise ZeroDivisionError(args)


class Gate:
    """Holds whoever passes until it is opened."""

    def __init__(self) -> None:
        self._open = asyncio.Event()

    def open(self) -> None:
        """Let everybody pass from now on."""
        self._open.set()

    async def passing(self, actor: object = None, message: str = "") -> None:
        """Return once open. Usable as a script."""
        await self._open.wait()


@asynccontextmanager
async def running(
    clock: ManualClock | None = None, on_escalation: Callable[[Failure], None] | None = None
) -> AsyncIterator[ActorSystem]:
    """Yield a system on manual time, and check that it leaves no task behind."""
    before = asyncio.all_tasks()
    async with ActorSystem(clock=clock or ManualClock(NOON), on_escalation=on_escalation) as system:
        yield system
    await settle()
    assert before == asyncio.all_tasks()
