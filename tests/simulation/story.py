"""What the sessions of a simulation do: acts, drawn from the seed, that play every operation a handler has.

To change it: a new operation of the product gets an act here. What runs outside the journal (steps, agents) writes a
`Record` each time it begins, with a value of its own, which is also its result: so the checker can tell which of them
the session saw.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from random import Random
from types import ModuleType
from typing import Any, TypeAlias

from orchestrator import (
    AgentFailed,
    ApprovalTimedOut,
    Callback,
    CallbackFailed,
    ChildSessionFailed,
    OperationTimedOut,
    Orchestrator,
    RetryPolicy,
    SessionContext,
    StepFailed,
    StepInterrupted,
    current_invocation,
)
from tests.simulation import code_after, code_before

Act: TypeAlias = Any
"""The kind of the act, and what it needs: JSON, as it stands in a session's input."""

SIMPLE = (
    *("step", "step", "thread", "once", "shaky", "sleep", "agent", "agent", "bad agent", "slow agent", "large"),
    *("approval", "callback", "undo", "progress", "scope"),
)
OF_ROOTS = ("signal", "signal", "signal", "signal", "signal or not")
OF_PARENTS = ("child", "child", "abandoned", "parallel", "race", "again", "child again", "shared", "shared")
LARGE_CHARS = 5_000
HUGE_CHARS = 420_000
"""Too long for any item of the table."""
LULLS: tuple[list[Act], ...] = ([], [], [["sleep", 0.1]], [["step", None]])
"""What a session does between two signals."""
RETRY = RetryPolicy(max_attempts=3)
CODES: tuple[ModuleType, ...] = (code_before, code_after)

Ran: TypeAlias = Callable[[str, str, int, int, str, str], None]
"""Told of each run: session, operation, attempt, epoch (0 where unknown), value, and `once` for `at_most_once`."""


def mail_plot(draws: Random) -> list[Act]:
    """Return acts that wait for signals, and do little besides: so that they come in while the session leaves."""
    acts: list[Act] = []
    for _ in range(draws.randint(2, 6)):
        acts.append(["signal", None])
        acts.extend(draws.choice(LULLS))
    return acts


def plot(draws: Random, depth: int, *, is_root: bool = False) -> list[Act]:
    """Return some acts for a handler to play."""
    return [act(draws, depth, is_root=is_root) for _ in range(draws.randint(1, 4))]


def act(draws: Random, depth: int, *, is_root: bool = False) -> Act:
    """Return one act: its kind, and what it needs."""
    kind = draws.choice(SIMPLE + OF_ROOTS * is_root + OF_PARENTS * (depth > 0))
    match kind:
        case "sleep" | "agent":
            return [kind, draws.choice([0.1, 1, 3, 8])]
        case "approval" | "callback":
            return [kind, draws.choice([None, None, 2, 20])]
        case "large":
            return [kind, HUGE_CHARS if draws.random() < 0.05 else LARGE_CHARS]
        case "child" | "abandoned" | "race":
            return [kind, plot(draws, depth - 1)]
        case "scope":
            return [kind, plot(draws, 0)]
        case "parallel":
            return [kind, [act(draws, 0) for _ in range(draws.randint(2, 3))]]
        case "shared":
            return [kind, draws.choice(["one", "two"])]
        case _:
            return [kind, None]


class Story:
    """The session types of one simulation. `ran` is told of each run of a step or an agent."""

    def __init__(self, ran: Ran) -> None:
        self._ran = ran
        self._numbers = count(1)
        self.tokens: dict[str, str] = {}

    def close(self) -> None:
        """Refer back to nobody: the product remembers the types of functions that it has met, and so the functions."""
        self._ran = _nobody

    def app(self, code: int) -> Orchestrator:
        """Return the application of that deployment: `CODES[code]`."""
        app = Orchestrator()
        app.agent("agent")(self._agent)
        app.agent("bad")(self._bad_agent)
        app.session("main")(self._main)
        app.session("child")(self._child)
        app.session("failing")(self._failing)
        app.session("deployed")(self._deployed(CODES[code]))
        return app

    # --- what runs outside the journal ---------------------------------------------------------------------------

    def _begin(self, epoch: int = 0, detail: str = "") -> str:
        run = current_invocation()
        value = f"{run.operation}|{next(self._numbers)}"
        self._ran(run.session_id, run.operation, run.attempt, epoch, value, detail)
        return value

    async def _step(self, epoch: int) -> str:
        return self._begin(epoch)

    def _in_thread(self, epoch: int) -> str:
        return self._begin(epoch)

    async def _once(self, epoch: int) -> str:
        value = self._begin(epoch, "once")
        await asyncio.sleep(0.05)
        return value

    async def _shaky(self, epoch: int) -> str:
        value = self._begin(epoch)
        if current_invocation().attempt < 2:
            raise ValueError("not at the first attempt")
        return value

    async def _large(self, epoch: int, chars: int) -> list[str]:
        return [self._begin(epoch), "x" * chars]

    async def _undo(self) -> str:
        return self._begin()

    async def _agent(self, prompt: float) -> str:
        value = self._begin()
        await asyncio.sleep(prompt)
        return value

    async def _bad_agent(self, _: object) -> None:
        self._begin()
        await asyncio.sleep(0.5)
        raise ValueError("bad")

    # --- handlers ------------------------------------------------------------------------------------------------

    async def _main(self, ctx: SessionContext, payload: Any) -> dict[str, Any]:
        return await self._play(ctx, payload)

    async def _child(self, ctx: SessionContext, payload: Any) -> str:
        await self._play(ctx, payload)
        return "done"

    async def _failing(self, ctx: SessionContext, payload: Any) -> None:
        ctx.on_failure("undo", self._undo)
        await self._play(ctx, payload)
        raise ValueError("it was to fail")

    def _deployed(self, code: ModuleType) -> Callable[[SessionContext, Any], Any]:
        async def step(ctx: SessionContext, name: str) -> str:
            await ctx.sleep(0.5)
            return await ctx.step(name, self._step, ctx.epoch)

        async def deployed(ctx: SessionContext, payload: Any) -> dict[str, Any]:
            return {"seen": await code.handler(ctx, step)}

        deployed.__module__ = code.__name__
        return deployed

    async def _play(self, ctx: SessionContext, payload: Any) -> dict[str, Any]:
        given = payload if isinstance(payload, dict) else {"acts": payload}
        acts, signals = given["acts"], list(given.get("signals", []))
        seen: list[str] = []
        for number, each in enumerate(acts, start=1):
            if each == ["again", None]:
                ctx.continue_as_new({"acts": acts[number:], "signals": signals})
            await self._act(ctx, each, signals, seen)
        return {"seen": seen, "signals": signals}

    async def _act(self, ctx: SessionContext, each: Act, signals: list[object], seen: list[str]) -> None:
        kind, detail = each
        if kind in {"step", "thread", "once", "shaky", "large"}:
            await self._act_step(ctx, kind, detail, seen)
        elif kind in OF_PARENTS and kind not in {"parallel", "again"}:
            await act_with_child(ctx, kind, detail)
        else:
            await self._act_alone(ctx, each, signals, seen)

    async def _act_step(self, ctx: SessionContext, kind: str, detail: Any, seen: list[str]) -> None:
        match kind:
            case "step":
                seen.append(await ctx.step("step", self._step, ctx.epoch))
            case "thread":
                seen.append(await ctx.step("thread", self._in_thread, ctx.epoch))
            case "once":
                with suppress(StepInterrupted):
                    seen.append(await ctx.step("once", self._once, ctx.epoch, semantics="at_most_once"))
            case "shaky":
                with suppress(StepFailed):
                    seen.append(await ctx.step("shaky", self._shaky, ctx.epoch, retry=RETRY))
            case _:
                value, filling = await ctx.step("large", self._large, ctx.epoch, detail)
                assert detail == len(filling), f"{value} came back with {len(filling)} characters"

    async def _act_alone(  # noqa: PLR0912 - one arm an act
        self, ctx: SessionContext, each: Act, signals: list[object], seen: list[str]
    ) -> None:
        kind, detail = each
        match kind:
            case "sleep":
                await ctx.sleep(detail)
            case "agent":
                seen.append(str(await ctx.invoke_agent("agent", detail)))
            case "bad agent":
                with suppress(AgentFailed):
                    await ctx.invoke_agent("bad", None, retry=RetryPolicy(max_attempts=2))
            case "slow agent":
                with suppress(OperationTimedOut):
                    seen.append(str(await ctx.invoke_agent("agent", 30, timeout=2)))
            case "undo":
                ctx.on_failure("undo", self._undo)
            case "progress":
                await ctx.progress("going on")
            case "scope":
                await ctx.scope("scope", lambda scope: self._play(scope, detail))
            case "signal" | "signal or not":
                with suppress(OperationTimedOut):
                    signals.append(await ctx.wait_for_signal("go", timeout=None if kind == "signal" else 3))
            case "approval":
                with suppress(ApprovalTimedOut):
                    await ctx.request_approval("approval", timeout=detail)
            case "callback":
                with suppress(OperationTimedOut, CallbackFailed):
                    assert "answer" == await ctx.wait_for_callback("callback", self._submit, timeout=detail)
            case "parallel":
                await ctx.gather(*(self._act(ctx, branch, signals, seen) for branch in detail))
            case "never":
                await ctx.wait_for_signal("never")
            case _:
                raise AssertionError(f"no act {kind!r}")

    async def _submit(self, callback: Callback) -> None:
        self.tokens[callback.id] = callback.token


def _nobody(*_: object) -> None:
    """Be told, and do nothing."""


async def act_with_child(ctx: SessionContext, kind: str, detail: Any) -> None:
    """Play an act in which another session is started."""
    match kind:
        case "child":
            assert "done" == await ctx.run_session("child", detail)
        case "child again":
            assert "done" == await ctx.run_session("child", [["sleep", 0.1], ["again", None], ["step", None]])
        case "shared":
            # It ends with who asked for it first.
            with suppress(ChildSessionFailed):
                assert "done" == await ctx.run_session("child", [["sleep", 1], ["agent", 1]], key=detail)
        case "abandoned":
            _ = begin_child(ctx, [*detail, ["never", None]])
            await ctx.sleep(1)
        case "race":
            racing = [begin_child(ctx, detail), begin_child(ctx, [["sleep", 2]])]
            done, late = await asyncio.wait(racing, return_when=asyncio.FIRST_COMPLETED)
            for task in late:
                task.cancel()
            assert {"done"} == {task.result() for task in done}
        case _:
            raise AssertionError(f"no act {kind!r}")


def begin_child(ctx: SessionContext, acts: list[Act]) -> asyncio.Task[Any]:
    """Begin a child, and return its end to come; nobody has to ask how that was."""

    async def ended() -> object:
        return await ctx.run_session("child", acts)

    child = asyncio.create_task(ended())
    child.add_done_callback(lambda done: done.cancelled() or done.exception())
    return child
