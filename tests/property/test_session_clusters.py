"""Any sessions on a cluster whose nodes die, drain, freeze and answer late: each runs to one end, and nothing is left.

Everything follows from a seed: what the handlers do, what people send, what goes wrong and when. Set `CLUSTER_SEEDS`
to `500-900` to play those instead of the few that are played by default.
"""

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from random import Random
from typing import Any, TypeAlias

import pytest
from engine_cluster import Cluster, Member
from engine_world import World
from structlog.testing import capture_logs

from orchestrator import (
    AgentFailed,
    ApprovalTimedOut,
    Callback,
    ChildSessionFailed,
    OperationTimedOut,
    Orchestrator,
    RetryPolicy,
    SessionContext,
)
from orchestrator.intake import Start
from orchestrator.journal.folding import read_state
from orchestrator.session import events as e
from orchestrator.session.ending import first_generation
from orchestrator.session.transitions import ENDED
from orchestrator.session.values import canonical_json

SEEDS = os.environ.get("CLUSTER_SEEDS", "0-99")
SEEDS_A_TEST = 20
TERMINAL = (e.SessionCompleted, e.SessionFailed, e.SessionCancelled, e.SessionContinued)
ENDS = ("cut at", "cut before", "cut after", "drain")
DEATHS_MAX = 4
"""Fewer than the takeovers without an event in between that are taken for a crash loop."""
ROUNDS_MAX = 2_500
QUIET_ROUNDS = 400
"""So long time passes in small steps; then in seconds."""

Act: TypeAlias = Any
"""The kind of the act, and what it needs: JSON, as it stands in a session's input."""

SIMPLE = ("step", "sleep", "agent", "bad agent", "approval", "callback", "undo", "progress")
OF_ROOTS = ("signal", "signal", "signal or not")
OF_PARENTS = ("child", "child", "abandoned", "parallel", "race", "again", "child again", "shared", "shared")
CALLS = (
    *("journal.append", "journal.read", "inbox.put", "inbox.read", "inbox.delete", "wake_ups.put"),
    *("heads.create", "heads.claim", "heads.end", "heads.release", "heads.get", "heads.make_due"),
    *("heads.bump_inbox", "heads.settle_outbox", "quotas.admit", "quotas.enqueue", "quotas.promote"),
    *("quotas.dismiss", "quotas.free", "callbacks.issue", "callbacks.decide", "notifications.approval_requested"),
)


# --- what sessions do ----------------------------------------------------------------------------------------------


def plot(draws: Random, depth: int, *, is_root: bool = False) -> list[Act]:
    """Return some acts for a handler to play."""
    return [act(draws, depth, is_root=is_root) for _ in range(draws.randint(1, 4))]


def act(draws: Random, depth: int, *, is_root: bool = False) -> Act:
    """Return one act: its kind, and what it needs."""
    kind = draws.choice(SIMPLE + OF_ROOTS * is_root + OF_PARENTS * (depth > 0))
    match kind:
        case "sleep" | "agent":
            return [kind, draws.choice([0.1, 1, 3, 40])]
        case "approval" | "callback":
            return [kind, draws.choice([None, None, 2, 20])]
        case "child" | "abandoned" | "race":
            return [kind, plot(draws, depth - 1)]
        case "parallel":
            return [kind, [act(draws, 0) for _ in range(draws.randint(2, 3))]]
        case "shared":
            return [kind, draws.choice(["one", "two"])]
        case _:
            return [kind, None]


class Stage:
    """The session types that play the acts, and what leaves them for the outside."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.tokens: dict[str, str] = {}
        self.app = Orchestrator()
        self.app.agent("agent")(self._agent)
        self.app.agent("bad")(self._bad_agent)
        self.app.session("main")(self._main)
        self.app.session("child")(self._child)

    async def _agent(self, prompt: float) -> float:
        await self._world.clock.sleep(prompt)
        return prompt

    async def _bad_agent(self, _: object) -> None:
        await self._world.clock.sleep(0.5)
        raise ValueError("bad")

    async def _main(self, ctx: SessionContext, payload: object) -> object:
        return await self._play(ctx, payload)

    async def _child(self, ctx: SessionContext, payload: object) -> str:
        await self._play(ctx, payload)
        return "done"

    async def _play(self, ctx: SessionContext, payload: Any) -> list[object]:
        acts, signals = (payload["acts"], payload["signals"]) if isinstance(payload, dict) else (payload, [])
        for number, each in enumerate(acts, start=1):
            if each == ["again", None]:
                ctx.continue_as_new({"acts": acts[number:], "signals": signals})
            await self._act(ctx, each, signals)
        return signals

    async def _act(self, ctx: SessionContext, each: Act, signals: list[object]) -> None:
        kind, detail = each
        match kind:
            case "step":
                await ctx.step("step", note)
            case "sleep":
                await ctx.sleep(detail)
            case "agent":
                assert detail == await ctx.invoke_agent("agent", detail)
            case "bad agent":
                with suppress(AgentFailed):
                    await ctx.invoke_agent("bad", None, retry=RetryPolicy(max_attempts=2))
            case "undo":
                ctx.on_failure("undo", note)
            case "progress":
                await ctx.progress("going on")
            case "signal" | "signal or not":
                with suppress(OperationTimedOut):
                    signals.append(await ctx.wait_for_signal("go", timeout=None if kind == "signal" else 3))
            case "approval":
                with suppress(ApprovalTimedOut):
                    await ctx.request_approval("approval", timeout=detail)
            case "callback":
                with suppress(OperationTimedOut):
                    assert "answer" == await ctx.wait_for_callback("callback", self._submit, timeout=detail)
            case "parallel":
                await ctx.gather(*(self._act(ctx, branch, signals) for branch in detail))
            case "never":
                await ctx.wait_for_signal("never")
            case _:
                await act_with_child(ctx, kind, detail)

    async def _submit(self, callback: Callback) -> None:
        self.tokens[callback.id] = callback.token


async def note() -> int:
    """Be a step."""
    return 1


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


# --- what goes on around them --------------------------------------------------------------------------------------


class People:
    """Who starts sessions, sends them signals, cancels them and answers them: each until told that it was heard."""

    def __init__(self, cluster: Cluster, stage: Stage, draws: Random) -> None:
        self._cluster = cluster
        self._stage = stage
        self._draws = draws
        self._world = cluster.world
        self.cancelled: set[str] = set()

    async def see_through(self, session_id: str, acts: list[Act]) -> None:
        """Start a session, and send it what it waits for."""
        await self._pause(0, 1, 3)
        is_cancelled = self._draws.random() < 0.4
        if is_cancelled and self._draws.random() < 0.5:
            acts = [*acts, ["agent", 1_000_000_000]]
        size = len(canonical_json(acts))
        start = Start("main", session_id, "default", acts, input_bytes=size)
        async with asyncio.TaskGroup() as jobs:
            jobs.create_task(self._cluster.ask(lambda node: node.router.start(start)))
            jobs.create_task(self._send_signals(session_id, sum(kind in OF_ROOTS for kind, _ in acts)))
            if is_cancelled:
                jobs.create_task(self._cancel(session_id))

    async def _send_signals(self, session_id: str, count: int) -> None:
        for number in range(count):
            await self._pause(0, 0, 0.1, 1, 10)
            message_id = f"{session_id}-{number}"

            async def send(node: Member, number: int = number, message_id: str = message_id) -> str:
                return await node.deliveries.signal(session_id, "go", number, message_id)

            if await self._cluster.ask(send) is None:
                return

    async def _cancel(self, session_id: str) -> None:
        await self._pause(0, 0, 1, 10, 60)
        self.cancelled.add(session_id)
        for reason in self._draws.choice([["no more"], ["no more", "once more"]]):

            async def cancel(node: Member, reason: str = reason) -> str:
                return await node.deliveries.cancel(session_id, reason, f"{session_id} {reason}".replace(" ", "-"))

            await self._cluster.ask(cancel)

    async def answer_for_ever(self) -> None:
        """Answer whatever waits for a person or a callback, sooner or later."""
        while True:
            await self._pause(0.5, 2, 4)
            for head in self._world.heads.all():
                state = await read_state(self._world.journal, head.session_id)
                if state is not None and not state.has_ended:
                    for name, operation in state.open_operations.items():
                        await self._answer(head.session_id, name, operation.order)

    async def _answer(self, session_id: str, name: str, order: object) -> None:
        match order:
            case e.ApprovalRequested():
                await self._cluster.ask(lambda node: node.deliveries.approve(session_id, name, True, "me", None))
            case e.CallbackCreated(callback_id=callback_id) if callback_id in self._stage.tokens:
                token = self._stage.tokens[callback_id]
                await self._cluster.ask(
                    lambda node: node.deliveries.callback(callback_id, token, "SUCCESS", "answer", None)
                )

    async def _pause(self, *seconds: float) -> None:
        await self._world.clock.sleep(self._draws.choice(seconds))


async def trouble(cluster: Cluster, draws: Random) -> None:
    """Let some things go wrong; return when the last of them has begun."""
    deaths = 0
    for _ in range(draws.randint(1, 8)):
        await cluster.world.clock.sleep(draws.choice([0, 0.3, 1, 3, 8]))
        able = [member for member in cluster.members if member.takes and not member.line.is_held]
        kind = draws.choice(
            ["cut at", "cut before", "cut after", "drain", "hold", "hold", "answer", "answer", "freeze"]
        )
        is_end = kind in {"cut at", "cut before", "cut after", "drain"}
        if able and not (is_end and deaths == DEATHS_MAX):
            deaths += is_end
            strike(cluster, draws.choice(able), kind, draws)


def strike(cluster: Cluster, member: Member, kind: str, draws: Random) -> None:
    """Let one thing go wrong at one node."""
    line, call = member.line, draws.choice(CALLS)
    match kind:
        case "cut at":
            line.cut_at(line.calls + draws.randint(1, 60))
        case "cut before":
            line.cut_before(call, calls=draws.randint(1, 3))
        case "cut after":
            line.cut_after(call)
        case "drain":
            member.stop()
        case "freeze":
            line.hold()
            cluster.world.clock.call_later(draws.choice([0.5, 2, 12]), line.thaw)
        case _:
            if kind == "hold":
                line.hold_on(call)
            else:
                line.hold_answer(call)
            cluster.world.clock.call_later(draws.choice([0.1, 1, 5, 35]), line.thaw)


# --- the play ------------------------------------------------------------------------------------------------------


async def play(seed: int) -> list[str]:
    """Return what is wrong with what came of the seed; `[]` where all is well."""
    draws = Random(seed)
    world = World(tenant_limit=draws.choice([0, 0, 1, 2, 3]))
    world.passivate_after = draws.choice([0.05, 0.3, 2, 30])
    stage = Stage(world)
    plots = {f"s{number}": plot(draws, 2, is_root=True) for number in range(draws.randint(1, 4))}
    with capture_logs() as logs, ThreadPoolExecutor(1) as threads:
        cluster = Cluster(stage.app, world, draws, threads)
        people = People(cluster, stage, draws)
        going_on = [asyncio.ensure_future(people.see_through(*each)) for each in plots.items()]
        going_on.append(asyncio.ensure_future(trouble(cluster, draws)))
        answering = asyncio.ensure_future(people.answer_for_ever())
        try:
            has_ended = await until_all_ended(cluster, draws, going_on)
        finally:
            for each in (*going_on, answering):
                each.cancel()
            await asyncio.gather(*going_on, answering, return_exceptions=True)
            await cluster.close()
    wrong = [f"{line['event']}: {line}" for line in logs if line["log_level"] in {"error", "critical"}]
    if not has_ended:
        wrong += [f"never ended: {head}" for head in world.heads.all() if head.status not in ENDED or head.outbox]
        wrong += ["somebody was never answered"] * (not all(each.done() for each in going_on))
    return wrong + await flaws(world, people.cancelled)


async def until_all_ended(cluster: Cluster, draws: Random, going_on: Sequence[asyncio.Task[None]]) -> bool:
    """Let time pass until everything is over, or much too long has passed; return whether it is over."""
    for number in range(ROUNDS_MAX):
        if sum(member.stays for member in cluster.members) < 2 and draws.random() < 0.3:
            cluster.join()
        await cluster.pass_time(0.25 if number < QUIET_ROUNDS else 1)
        are_done = [each.done() and each.result() is None for each in going_on]
        heads = cluster.world.heads.all()
        is_quiet = all(are_done) and not any(member.line.is_held for member in cluster.members)
        if is_quiet and all(head.status in ENDED and not head.outbox for head in heads):
            return True
    return False


async def flaws(world: World, cancelled: set[str]) -> list[str]:
    """Return what must not be in a world in which everything has ended."""
    found: list[str] = []
    quota = await world.quotas.get("default")
    if (quota.used, quota.queued) != (0, 0):
        found.append(f"slots are left: {quota}")
    for head in world.heads.all():
        session_id, recorded = head.session_id, await world.recorded(head.session_id)
        story = await world.story(session_id)
        root = first_generation(session_id)
        end = recorded[-1].event
        if head.owner is not None and head.status in ENDED:
            found.append(f"{session_id} has ended, and is owned by {head.owner}")
        if [each.seq for each in recorded] != list(range(1, len(recorded) + 1)):
            found.append(f"{session_id} has gaps: {story}")
        if [each for each in recorded if isinstance(each.event, TERMINAL)] != recorded[-1:]:
            found.append(f"{session_id} has not one end: {story}")
        if isinstance(end, e.SessionFailed) or (
            isinstance(end, e.SessionCancelled) and head.session_type == "main" and root not in cancelled
        ):
            found.append(f"{session_id} ended without reason: {end}")
        signals = end.result if isinstance(end, e.SessionCompleted) and head.session_type == "main" else []
        if isinstance(signals, list) and signals != [*range(len(signals))]:
            found.append(f"{session_id} took signals out of order: {signals}")
    return found


def seeds() -> list[range]:
    """Return the seeds to play, so many for each test."""
    first, _, last = SEEDS.partition("-")
    return [
        range(number, min(number + SEEDS_A_TEST, int(last or first) + 1))
        for number in range(int(first), int(last or first) + 1, SEEDS_A_TEST)
    ]


@pytest.mark.parametrize("some", seeds(), ids=lambda some: f"{some.start}-{some.stop - 1}")
async def test_every_session_runs_to_one_end_whatever_happens_to_the_cluster(some: range) -> None:
    """No outbox, slot or owner is left, signals are taken in order, and no node has logged an error."""
    for seed in some:
        assert [] == await play(seed), f"CLUSTER_SEEDS={seed}"
