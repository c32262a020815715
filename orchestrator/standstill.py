"""What runs for real while virtual time stands still: the user's steps and agents, threads, and asyncio's own time.

Code on a `ManualClock` is at rest when the loop has settled and none of this is under way. Nothing here is told when
user code goes on; so it looks at the tasks of the running loop, and whoever waits looks again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Final

from actors import background, settle
from orchestrator import user_code
from orchestrator.artifacts.payloads import PayloadStore
from orchestrator.artifacts.session_files import SessionFiles
from orchestrator.handler import HandlerRun
from orchestrator.parking import chain_of, holds_timer

LOOK_AGAIN_SECONDS: Final = 0.002
TURNS_MAX: Final = 1_000_000
"""Turns of the loop: a handler of a thousand branches takes tens of thousands for one instant."""

_CALL: Final = user_code.call.__code__
_HANDLERS: Final = frozenset({HandlerRun.run.__code__, user_code._contained.__code__})
_PACKAGE: Final = Path(__file__).parent
_ACTORS: Final = background.__file__
_STORE: Final = frozenset(
    method.__code__ for method in (PayloadStore.open, PayloadStore.seal, SessionFiles.get, SessionFiles.put)
)


@dataclass(frozen=True, slots=True)
class Work:
    """Something under way. `link` is the coroutine that does it; `ends_itself`: a thread runs it, and will end."""

    link: object
    name: str
    ends_itself: bool


def work_under_way() -> list[Work]:
    """Return what is under way in the running loop; `[]` when everything there waits for the orchestrator."""
    found = (_work_of(task) for task in asyncio.all_tasks())
    return [work for work in found if work is not None]


def check_loop() -> None:
    """Return if the running loop is asyncio's own.

    Raises:
        RuntimeError: it is another one, such as uvloop's, which hides whether it is at rest.
    """
    if not hasattr(asyncio.get_running_loop(), "_ready"):
        raise RuntimeError(
            f"{type(asyncio.get_running_loop()).__module__} hides whether it is at rest: run tests and replays on "
            "asyncio's own event loop"
        )


async def rest() -> None:
    """Return when nothing is ready to run any more."""
    await settle(TURNS_MAX)


async def look_again() -> None:
    """Let a moment of real time pass."""
    await asyncio.sleep(LOOK_AGAIN_SECONDS)


def _work_of(task: asyncio.Task[object]) -> Work | None:
    chain = tuple(chain_of(task.get_coro()))
    codes: list[CodeType | None] = [getattr(link, "cr_code", None) for link in chain]
    for position, code in enumerate(codes):
        if code is _CALL:
            # Without a coroutine further in, its function runs in a thread.
            in_thread = not any(codes[position + 1 :])
            return Work(chain[position], _called(chain[position]), ends_itself=in_thread)
        if code in _STORE:
            return Work(chain[position], "the artifact store", ends_itself=True)
    if _HANDLERS.isdisjoint(codes):
        return None
    # Frames of our own hold none, and to look into a frame takes long.
    foreign = (link for link, code in zip(chain, codes, strict=True) if code is not None and not _is_ours(code))
    holder = next((link for link in foreign if holds_timer(link)), None)
    return None if holder is None else Work(holder, "a timer of asyncio's own in a handler", ends_itself=False)


@cache
def _is_ours(code: CodeType) -> bool:
    return Path(code.co_filename).is_relative_to(_PACKAGE) or code.co_filename == _ACTORS


def _called(call: object) -> str:
    frame = getattr(call, "cr_frame", None)
    fn: Callable[..., object] | None = None if frame is None else frame.f_locals.get("fn")
    return getattr(fn, "__qualname__", None) or type(fn).__name__
