"""One command as a process: its settings, its event loop, and every known fault as one line with its exit code."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

import uvloop

from orchestrator.aws.clients import UNREACHABLE
from orchestrator.aws.faults import RequestFailed
from orchestrator.cli.client import Client, NoOpenApproval, open_client
from orchestrator.cli.output import Exit, fail
from orchestrator.deliveries import CallbackAnswered, CallbackExpired, NotAnApprover, UnknownCallback, WrongToken
from orchestrator.errors import OrchestratorError, RegistrationError, SettingsError, Unavailable
from orchestrator.inbox import SessionEnded, UnknownSession
from orchestrator.settings import Settings, load

if TYPE_CHECKING:
    from typing import Literal

T = TypeVar("T")
NewLoop: TypeAlias = Callable[[], asyncio.AbstractEventLoop]

REFUSALS: Final = (SessionEnded, NotAnApprover, CallbackAnswered, CallbackExpired, WrongToken)
"""What a node would answer by its code: here it stands before the text."""


def settings_of_process() -> Settings:
    """Return the settings; ends the command with a line that names the one that is wrong."""
    try:
        return load()
    except SettingsError as error:
        fail(str(error), Exit.USAGE)


def log_format(settings: Settings) -> Literal["json", "console"]:
    """Return the format that is set, or the one that suits whoever reads standard error."""
    return settings.log_format or ("console" if sys.stderr.isatty() else "json")


def with_client(use: Callable[[Client], Awaitable[T]], *, new_loop: NewLoop = uvloop.new_event_loop) -> T:
    """Return what `use` makes of the queue and the table; see `run`."""
    settings = settings_of_process()

    async def used() -> T:
        async with open_client(settings) as client:
            return await use(client)

    return run(used(), new_loop=new_loop)


def run(work: Awaitable[T], *, new_loop: NewLoop = uvloop.new_event_loop) -> T:
    """Run to the end on uvloop, unless told otherwise; every known fault becomes one line and its exit code."""

    async def awaited() -> T:
        return await work

    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            return runner.run(awaited())
    except BrokenPipeError:
        # Whoever read our output has seen enough, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(int(Exit.DONE)) from None
    except (UnknownSession, UnknownCallback, NoOpenApproval) as error:
        fail(str(error), Exit.NOT_FOUND)
    except (SettingsError, RegistrationError) as error:
        fail(str(error), Exit.USAGE)
    except (Unavailable, *UNREACHABLE) as error:
        fail(str(error), Exit.UNREACHABLE)
    except REFUSALS as error:
        fail(f"{error.code}: {error}", Exit.FAILED)
    except (OrchestratorError, RequestFailed) as error:
        fail(str(error), Exit.FAILED)
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def leave() -> None:
    """End the process without waiting for any thread: one that never returns would hold it for ever.

    To be called in the event loop, whose end waits for the threads of `asyncio.to_thread`.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(Exit.DONE)
