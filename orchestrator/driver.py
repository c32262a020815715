"""Drives the operations of one run of a handler: hands back what is recorded, begins what is new, reports how it went.

Nothing here appends or decides. A step's function runs inside the handler's own tasks; all else is an effect that the
session's actor owes, and is only awaited here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final, TypeAlias, TypeVar

from orchestrator.admission import Admission
from orchestrator.answers import approval_of, message_of
from orchestrator.app import SessionType
from orchestrator.artifacts import ArtifactUnreadable, disclosed, is_reference
from orchestrator.callbacks import callback_id_of
from orchestrator.calls import AgentCall, Approval, ApprovalCall, Callback, ChildCall, SessionArtifacts, StepCall, Undo
from orchestrator.context import UNDO_RETRY, observe
from orchestrator.errors import NonDeterminismError, OperationFailed, Unavailable, revive, storable
from orchestrator.handler_ports import HandlerPorts
from orchestrator.parking import all_wait
from orchestrator.passages import RESULT_SUFFIX, SUBMIT_SUFFIX, Interruption
from orchestrator.patches import is_new_side
from orchestrator.payloads import InvalidPayload, copied, result_type_of, to_json
from orchestrator.replay import Turnstile
from orchestrator.requests import agent_request, approval_request, child_request
from orchestrator.session import events as e
from orchestrator.session import messages as m
from orchestrator.session.state import Operation, SessionState
from orchestrator.session.transitions import OperationKind, Phase
from orchestrator.session.values import Json
from orchestrator.shared_waits import SharedWaits
from orchestrator.signal_waits import SignalWaits
from orchestrator.step_runs import StepRuns
from orchestrator.tokens import CallbackTokens
from orchestrator.user_code import Branches

T = TypeVar("T")

HELD_SECONDS: Final = 1.0
REFUSED_AT_ONCE_MAX: Final = 10
"""Operations that are refused at once to a handler that is cut off; for further ones it waits, so as not to spin."""

Obstacle: TypeAlias = NonDeterminismError | ArtifactUnreadable | Unavailable
"""Why a session cannot go on for now: its code, a payload, or the bucket or table that refuses us."""


class Driver:
    """The `Operations` of one run's context."""

    def __init__(self, state: SessionState, session_type: SessionType, ports: HandlerPorts) -> None:
        """Prepare to replay what `state` holds and to go on from there."""
        self._state = state
        self._session_type = session_type
        self._ports = ports
        self._turnstile = Turnstile(state, ports.clock, self._stalled, self._force)
        self.under_way = self._turnstile.under_way
        self._task: asyncio.Task[object] | None = None
        self._branches: Branches = set()
        self.tokens = CallbackTokens(state.session_id, ports)
        self._undos: list[Undo] = []
        self.signal_waits = SignalWaits()
        self._answers = SharedWaits()
        self._patched: set[str] = set()
        self.obstacle: Obstacle | None = None
        self.is_stopped = state.stop is not None
        self.is_forced = False
        # It left its journal, is to be ended, or is cut off because its session leaves memory.
        self._is_over = False
        self.is_left = False
        self._refused = 0
        self._held: list[asyncio.Future[None]] = []
        self._admission = Admission(is_shut=state.is_held)
        self._is_compensating = False
        self._waiting: list[asyncio.Task[object] | None] = []
        self._reports = 0
        self.said = 0

    # --- for the run and the actor -------------------------------------------------------------------------------

    def begin(self, task: asyncio.Task[object] | None, branches: Branches) -> None:
        """Note the handler's own task and the living tasks that it started."""
        self._task = task
        self._branches = branches
        self._turnstile.begin(task, branches)

    def changed(self, operation: Operation) -> None:
        """Take an operation as the journal has it after a new event."""
        self._turnstile.changed(operation)

    def signal_arrived(self, name: str) -> None:
        """Let those who wait for a signal of that name ask again, in the order they asked."""
        self.signal_waits.arrived(name, self._tell)

    def considered(self, request: m.Request, state: SessionState) -> None:
        """Note that the actor has taken the request; of a signal, it is its arrival that counts from here on."""
        if isinstance(request, m.SignalAwaited):
            self.signal_waits.considered(request)
        elif state.is_held and request.operation not in state.operations:
            self._admission.refuse(request.operation)

    def stop(self, interruption: Interruption) -> None:
        """Let the handler hear, in its turn, that the session is to end."""
        self.is_stopped = True
        self._turnstile.interrupt(interruption)

    def hold(self, *, is_held: bool) -> None:
        """Let the handler begin nothing new, or let it go on: with what was asked meanwhile, and not begun."""
        self._admission.is_shut = is_held
        self._ports.on_waiting()
        if is_held:
            return
        for request in self._admission.refused:
            self._tell(request)
        self.signal_waits.ask_again(self._tell)
        self._admission.open()

    def leave(self) -> None:
        """Begin nothing any more: the handler is cut off, because its session leaves memory or this node."""
        self.is_left = self._is_over = True

    def close(self) -> None:
        """End the operations of branches that outlive their handler, and refer back to nobody: the run is over.

        Nothing would ever wake such a branch. One that awaits no operation is left alone: a library may have started
        it, for others too.
        """
        self.leave()
        self._turnstile.close()
        self._admission.close()
        for held in self._held:
            held.cancel()
        # A cancelled task keeps its error, with all frames that this passed.
        self._task = None

    def unclaimed(self) -> Operation | None:
        """Return the first recorded operation that nobody asked for; `None` when all have been."""
        return self._turnstile.unclaimed()

    @property
    def only_waits(self) -> bool:
        """Whether the handler waits for what comes from outside, and nothing of it runs or is being recorded."""
        held = self._admission.held
        has_work = self._reports > len(held) or self._turnstile.has_breakable
        return bool(self._waiting or held) and not has_work

    @property
    def is_parked(self) -> bool:
        """Whether nothing but what comes from outside can make the handler go on: it may leave memory."""
        living = (*self._branches, *(() if self._task is None else (self._task,)))
        waiting = {task for task in (*self._waiting, *self._admission.held) if task is not None}
        is_quiet = self.signal_waits.are_answered and self._turnstile.is_quiet
        return self.only_waits and is_quiet and all_wait(living, waiting)

    async def compensate(self) -> None:
        """Run the undo steps, the latest first. One that fails for good leaves the others to run."""
        self._turnstile.finish()
        self._is_compensating = True
        while self._undos:
            undo = self._undos.pop()
            try:
                await self.step(undo.operation, StepCall(undo.fn, undo.args, {}, UNDO_RETRY, None, "at_least_once"))
            except OperationFailed as failed:
                self._ports.log.error("undo_failed", operation=undo.operation, code=failed.error.code)

    def sealed(self, name: str, dump: Callable[[int], Json]) -> Awaitable[Json]:
        """Return what `dump(bytes_max)` returns as a journal can hold it: itself, or its reference in the bucket."""
        return self._got(self._ports.payloads.seal_dump(self._state.session_id, name, dump))

    async def opened(self, value: Json) -> Json:
        """Return the payload that a journal holds. Nothing overtakes it while it is fetched."""
        if not is_reference(value):
            # The handler may change what it is given; what the state holds must stay as the journal has it.
            return copied(disclosed(value))
        with self._turnstile.held():
            return await self._got(self._ports.payloads.open(value))

    def refuse(self, obstacle: Obstacle) -> None:
        """Block the session: told to the actor, not raised, because the handler's own `except` must not hide it."""
        if self.obstacle is None:
            self.obstacle, self._is_over = obstacle, True
            self._ports.block(obstacle)

    # --- `Operations` --------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """See `Operations.epoch`."""
        return self._state.epoch

    @property
    def is_replaying(self) -> bool:
        """See `Operations.is_replaying`."""
        return self._turnstile.is_replaying

    @property
    def artifacts(self) -> SessionArtifacts:
        """See `Operations.artifacts`."""
        return self._ports.artifacts

    async def step(self, operation: str, call: StepCall) -> object:
        """See `Operations.step`."""
        result_type = result_type_of(call.fn)
        known = await self._reach(operation, OperationKind.STEP)
        # Not kept: it refers back here, which would hold the memory of both until the cyclic collector comes by.
        runs = StepRuns(self._state, self._ports, self._turnstile, self.sealed, self.tokens.described, self._show_work)
        while known is None or not known.is_settled:
            attempt = 1 if known is None else known.attempt
            if known is not None and known.next_attempt_at is not None:
                await runs.pause(operation, known.next_attempt_at, call.retry)
            if call.semantics == "at_most_once":
                known = await self._report(operation, m.StepStarting(operation, attempt))
                if known.is_settled:
                    break
            known = await self._report(operation, await runs.attempt(operation, attempt, call, result_type))
        outcome = await self._outcome(known)
        try:
            return result_type.load(outcome, operation)
        except InvalidPayload as error:
            # What is recorded fitted when it was: the code has changed, and the session waits for code that fits.
            self.refuse(NonDeterminismError(f"a result of {_name(known)}", f"another type of it ({error})"))
            await self._hold()
            raise

    async def invoke_agent(self, operation: str, call: AgentCall) -> Json:
        """See `Operations.invoke_agent`."""
        known = await self._reach(operation, OperationKind.AGENT)
        if known is None:
            asked = await agent_request(operation, call, self.sealed, bytes_beside=self._beside)
            known = await self._report(operation, asked)
        # Its run may wait for somebody outside; one that works keeps the session in memory by itself.
        return await self._arrived(operation, known)

    async def sleep(self, operation: str, seconds: float) -> None:
        """See `Operations.sleep`."""
        known = await self._reach(operation, OperationKind.TIMER)
        if known is None:
            known = await self._report(operation, m.TimerRequested(operation, seconds))
        await self._arrived(operation, known)

    async def create_callback(self, operation: str, timeout: float | None) -> Callback:
        """See `Operations.create_callback`."""
        known = await self._reach(operation, OperationKind.CALLBACK)
        if known is None:
            asked = m.CallbackRequested(operation, callback_id_of(self._state.session_id, operation), timeout)
            known = await self._report(operation, asked)
        observe(known.changed_at)
        order = known.order
        assert isinstance(order, e.CallbackCreated), f"{operation} is a callback without its order"
        token = self.tokens.new()
        if self._turnstile.known(operation + RESULT_SUFFIX) is None or not self.is_replaying:
            # Of one that is answered too, where it may yet be handed out: the answer can overtake the record of that.
            # Nothing overtakes it meanwhile: a replay, which issues none, would have another order.
            with self._turnstile.held():
                submitted = self._turnstile.known(operation + SUBMIT_SUFFIX)
                standing = await self._got(self.tokens.issue(token, operation, order, submitted=submitted))
            if standing is not None and standing.answer is not None:
                # Whoever had it decided may have died before it was delivered.
                self._tell(message_of(standing))
        return Callback(
            id=order.callback_id,
            token=token,
            url=self._ports.callback_url(order.callback_id),
            await_result=lambda: self._callback_result(operation),
        )

    async def request_approval(self, operation: str, call: ApprovalCall) -> Approval:
        """See `Operations.request_approval`."""
        known = await self._reach(operation, OperationKind.APPROVAL)
        if known is None:
            asked = await approval_request(
                self._state.session_id, operation, call, self.sealed, bytes_beside=self._beside
            )
            known = await self._report(operation, asked)
        return approval_of(await self._arrived(operation, known))

    async def wait_for_signal(self, operation: str, name: str, timeout: float | None) -> Json:
        """See `Operations.wait_for_signal`."""
        known = await self._reach(operation, OperationKind.SIGNAL)
        if known is not None and known.is_settled:
            return await self._outcome(known)
        with self.signal_waits.asking(m.SignalAwaited(operation, name, timeout), self._tell):
            return await self._arrived(operation, known)

    async def run_session(self, operation: str, call: ChildCall) -> Json:
        """See `Operations.run_session`."""
        known = await self._reach(operation, OperationKind.CHILD)
        if known is None:
            known = await self._report(operation, await child_request(self._state, operation, call, self.sealed))
        return await self._arrived(operation, known)

    async def progress(self, operation: str, message: str, percent: float | None, data: object) -> None:
        """See `Operations.progress`."""
        # Nothing hangs on people's events: one that is not recorded is not worth holding up a replay for.
        if self._turnstile.known(operation) is None and not self.is_replaying:
            # Nor does anything overtake it while it is recorded: a replay passes it by at once.
            with self._turnstile.held():
                payload = await self.sealed(operation, lambda most: to_json(data, "data", bytes_max=most))
                if not self._is_over:
                    self._ports.tell(m.ProgressMade(operation, storable(message), percent, payload))
                    await self._turnstile.reported(operation)
            if self._is_over:
                await self._hold()

    def patched(self, change_id: str) -> bool:
        """See `Operations.patched`."""
        if change_id in self._state.patches or change_id in self._patched:
            return True
        known_at_start, in_code = self._state.started.patches, self._session_type.patches
        is_new = is_new_side(change_id, known_at_start, in_code, is_replaying=self.is_replaying)
        if is_new and not self.is_replaying:
            self._patched.add(change_id)
            self._tell(m.PatchReached(change_id))
        return is_new

    def on_failure(self, undo: Undo) -> None:
        """See `Operations.on_failure`."""
        self._undos.append(undo)

    # --- how an operation goes -----------------------------------------------------------------------------------

    async def _reach(self, operation: str, kind: OperationKind) -> Operation | None:
        known = self._turnstile.known(operation)
        if known is not None and known.kind is not kind:
            self.refuse(NonDeterminismError(_name(known), f"{kind} {operation!r}"))
        if self._is_over:
            await self._hold()
        reached = await self._turnstile.reach(operation)
        while reached is None and self._admission.is_shut and not self._is_over:
            await self._only_waiting(self._admission.opened())
            # A stop opens the gate too, and is to be heard of before anything begins.
            reached = await self._turnstile.reach(operation)
        if self._is_over:
            await self._hold()
        return reached

    async def _hold(self) -> None:
        """Never return, but for what compensates: nothing more of the handler may be recorded."""
        if self.is_left and self._refused < REFUSED_AT_ONCE_MAX:
            # A `finally` of the handler's that runs because its session leaves memory, or this node.
            self._refused += 1
            raise asyncio.CancelledError
        is_undo = self.obstacle is None and self._is_compensating and asyncio.current_task() is self._task
        if is_undo and not self.is_left:
            return
        if self.is_left or self.is_forced or (self._task is not None and self._task.cancelling()):
            # It swallowed its cancellation. Not at once, or a handler that swallows them all would spin.
            await self._ports.clock.sleep(HELD_SECONDS)
            raise asyncio.CancelledError
        held: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._held.append(held)
        await held

    async def _got(self, work: Awaitable[T]) -> T:
        """Return what comes of it. What is lost, or refused to us, holds the session back: nothing can stand for it."""
        try:
            return await work
        except (ArtifactUnreadable, Unavailable) as obstacle:
            self.refuse(obstacle)
            await self._hold()
            raise

    async def _report(self, operation: str, message: m.Message) -> Operation:
        """Tell the actor, and return the operation as the journal has it then."""
        if self._is_over:
            await self._hold()
        seen = self._turnstile.known(operation)
        self._reports += 1
        self._show_work()
        try:
            with self._admission.asking(message):
                self._tell(message)
                return await self._turnstile.next_change(operation, after_seq=0 if seen is None else seen.changed_seq)
        finally:
            self._reports -= 1
            self._show_work()

    def _tell(self, message: m.Message) -> None:
        self.said += 1
        if self._turnstile.has_struck and isinstance(message, m.REQUESTS):
            message = replace(message, knew_of_stop=True)
        self._ports.tell(message)

    def _show_work(self) -> None:
        """Let the actor look at `only_waits` again: one branch begins or ends to work while others wait."""
        if self._waiting:
            self._ports.on_waiting()

    async def _settled(self, operation: str, known: Operation | None) -> Json:
        """Return the outcome, once it is recorded."""
        while known is None or not known.is_settled:
            known = await self._turnstile.next_change(operation, after_seq=0 if known is None else known.changed_seq)
        return await self._outcome(known)

    async def _arrived(self, operation: str, known: Operation | None) -> Json:
        """Return the outcome of what comes from outside; meanwhile the handler only waits."""
        if known is not None and known.is_settled:
            return await self._outcome(known)
        return await self._only_waiting(self._settled(operation, known))

    async def _only_waiting(self, arrival: Awaitable[T]) -> T:
        """Await what comes from outside, and show that meanwhile."""
        task = asyncio.current_task()
        self._waiting.append(task)
        self._ports.on_waiting()
        try:
            return await arrival
        finally:
            self._waiting.remove(task)
            # A task that is cancelled here keeps this frame with its error, and must not be kept by it.
            del task
            self._ports.on_waiting()

    async def _outcome(self, known: Operation) -> Json:
        observe(known.changed_at)
        if known.phase is Phase.FAILED:
            assert known.error is not None, f"{known.operation_id} failed without an error"
            raise revive(known.operation_id.removesuffix(RESULT_SUFFIX), known.kind, known.error)
        return await self.opened(known.result) if is_reference(known.result) else copied(disclosed(known.result))

    async def _callback_result(self, operation: str) -> Json:
        result = operation + RESULT_SUFFIX

        async def answer() -> Json:
            return await self._arrived(result, await self._reach(result, OperationKind.CALLBACK))

        return await self._answers.get(result, answer)

    @property
    def _beside(self) -> int:
        """How many bytes may stand beside a payload: together they must stay under what an item holds (I12)."""
        return self._ports.payloads.inline_bytes_max // 2

    def _stalled(self, recorded: Operation, asked: str) -> None:
        self.refuse(NonDeterminismError(_name(recorded), f"operation {asked!r}"))

    def _force(self) -> None:
        """End the handler: it was asked to end, and took too long."""
        self.is_forced = self._is_over = True
        for task in (*self._branches, self._task):
            if task is not None:
                task.cancel()


def _name(operation: Operation) -> str:
    return f"{operation.kind} {operation.operation_id!r}"
