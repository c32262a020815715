"""Who starts sessions, sends them messages, cancels and answers them: each until told that it was heard.

To change it: senders only, by the queue and over HTTP, with the repetitions and mistakes of real ones. They write down
what they were told; what became of it is the checker's affair.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import Random
from typing import Any, TypeAlias, TypeVar

from orchestrator.deliveries import (
    CallbackAnswered,
    CallbackExpired,
    NotAnApprover,
    UnknownApproval,
    UnknownCallback,
    WrongToken,
)
from orchestrator.inbox import MessageConflict, SessionEnded, UnknownSession
from orchestrator.intake.formats import StartBody
from orchestrator.router import Accepted, IdempotencyConflict
from orchestrator.service import Node
from orchestrator.session.values import derive_session_id, payload_digest
from tests.simulation.checker import Record
from tests.simulation.loops import SimLoop, settle
from tests.simulation.network import Cloud
from tests.simulation.node import SimNode, Unanswered
from tests.simulation.outlets import TASK_PREFIX
from tests.simulation.story import OF_ROOTS, Act, Story

T = TypeVar("T")

LATE = (SessionEnded, UnknownApproval, CallbackAnswered, CallbackExpired, NotAnApprover)
"""What a sender hears whose message is not needed any more."""
REFUSALS = (*LATE, IdempotencyConflict, UnknownSession, UnknownCallback, WrongToken, MessageConflict)
"""What is an answer. With any other error, a 5xx over HTTP, one asks again."""
BAD_BODIES = (
    "no JSON",
    "[]",
    "{}",
    '{"kind": "dance"}',
    '{"kind": "start", "session_type": "unknown"}',
    '{"kind": "start", "session_type": "main", "tenant": "no tenant!"}',
    '{"kind": "signal", "session_id": "nobody", "name": "go", "message_id": "m"}',
    '{"kind": "callback", "callback_id": "c", "token": "t", "status": "PERHAPS"}',
    '{"Records": [{"eventSource": "aws:s3"}]}',
    "{" * 2_000,
)

OFTEN_KILLED = 0.15

Nodes: TypeAlias = Callable[[], list[SimNode]]


class People:
    """The senders of one simulation."""

    def __init__(
        self,
        cloud: Cloud,
        loop: SimLoop,
        nodes: Nodes,
        story: Story,
        draws: Random,
        *,
        signal_pauses: tuple[float, ...],
        operator: Random | None = None,
    ) -> None:
        """`operator` draws what somebody does who pauses, resumes and kills sessions; `None` for nobody."""
        self._cloud = cloud
        self._loop = loop
        self._nodes = nodes
        self._story = story
        self._draws = draws
        self._signal_pauses = signal_pauses
        self._operator = operator
        self.records: list[Record] = []
        self._jobs: list[asyncio.Task[None]] = []
        self._answering: list[asyncio.Task[None]] = []

    @property
    def are_done(self) -> bool:
        """Whether everybody has been told what they asked."""
        return all(job.done() for job in self._jobs)

    def errors(self) -> list[str]:
        """Return what went wrong with the senders themselves."""
        failed = (job for job in self._jobs + self._answering if job.done() and not job.cancelled())
        return [f"a sender failed: {job.exception()!r}" for job in failed if job.exception() is not None]

    def begin(self, work: Awaitable[None], *, for_ever: bool = False) -> None:
        """Let somebody do something."""
        job: asyncio.Task[None] = self._loop.create_task(work)  # type: ignore[arg-type]
        (self._answering if for_ever else self._jobs).append(job)

    # --- starting ------------------------------------------------------------------------------------------------

    async def see_through(self, name: str, session_type: str, acts: list[Act]) -> None:
        """Start a session, and send it what it waits for."""
        await self._pause(0, 1, 3)
        draws, is_cancelled = self._draws, self._draws.random() < 0.35
        if is_cancelled and draws.random() < 0.5:
            acts = [*acts, ["agent", 1_000_000_000]]
        body: dict[str, Any] = {"kind": "start", "session_type": session_type, "input": acts, "tenant": "acme"}
        if draws.random() < 0.5:
            body["idempotency_key"] = name
            session_id = derive_session_id("acme", session_type, name)
        else:
            body["session_id"] = session_id = name
        if self._cloud.outlets.has_bus:
            body["task_token"] = f"{TASK_PREFIX}{session_id}"
        async with asyncio.TaskGroup() as jobs:
            for _ in range(draws.choice((1, 1, 2))):
                jobs.create_task(self._start(body, session_id))
            if draws.random() < 0.2:
                jobs.create_task(self._start({**body, "input": [["step", None], *acts]}, session_id))
            jobs.create_task(self._send_signals(session_id, sum(kind in OF_ROOTS for kind, _ in acts)))
            if is_cancelled:
                jobs.create_task(self._cancel(session_id))
            if self._operator is not None:
                jobs.create_task(self._operate(session_id, self._operator))

    async def _start(self, body: dict[str, Any], session_id: str) -> None:
        digest = payload_digest(body["session_type"], body["tenant"], body["input"])
        if self._draws.random() < 0.5:
            await self._put_start(body, session_id, digest)
            return
        wanted = StartBody.model_validate({name: value for name, value in body.items() if name != "kind"})

        async def start(node: Node) -> Accepted:
            return await node.router.start(node.http.reader.start(wanted, None))

        try:
            accepted = await self.ask(start)
        except IdempotencyConflict:
            self._write(Record("conflict", session_id, value=digest))
            return
        assert accepted.session_id == session_id, f"{accepted.session_id} instead of {session_id}"
        self._accepted(session_id, digest)

    async def _put_start(self, body: dict[str, Any], session_id: str, digest: str) -> None:
        acknowledged = asyncio.Event()
        message_id = self._cloud.queue.put(json.dumps(body), acknowledged.set)
        await acknowledged.wait()
        dead = next((d for d in self._cloud.queue.dead_letters if d.message_id == message_id), None)
        if dead is not None and dead.code == "IDEMPOTENCY_CONFLICT":
            self._write(Record("bad", session_id, value=message_id))
            self._write(Record("conflict", session_id, value=digest))
        elif dead is None:
            self._accepted(session_id, digest)

    def _accepted(self, session_id: str, digest: str) -> None:
        table, pk = self._cloud.table, f"SESSION#{session_id}"
        is_durable = table.item(pk, "HEAD") is not None and table.item(pk, f"EVENT#{1:010d}") is not None
        self._write(Record("accepted", session_id, value=digest, detail="" if is_durable else "not durable"))

    # --- telling -------------------------------------------------------------------------------------------------

    async def _send_signals(self, session_id: str, count: int) -> None:
        for number in range(count):
            await self._pause(*self._signal_pauses)
            message_id = f"{session_id}-{number}"

            async def send(node: Node, number: int = number, message_id: str = message_id) -> str:
                return await node.http.deliveries.signal(session_id, "go", number, message_id)

            if self._draws.random() < 0.4:
                body = {"kind": "signal", "session_id": session_id, "name": "go", "data": number}
                await self._put({**body, "message_id": message_id}, session_id, message_id)
            elif await self._until_known(send) is None:
                return
            self._write(Record("told", session_id, message_id=message_id, detail="signal"))

    async def _cancel(self, session_id: str) -> None:
        await self._pause(0, 0, 1, 5, 15)
        for reason in self._draws.choice([["no more"], ["no more", "once more"]]):
            message_id = f"{session_id}-{reason}".replace(" ", "-")

            async def cancel(node: Node, reason: str = reason, message_id: str = message_id) -> str:
                return await node.http.deliveries.cancel(session_id, reason, message_id)

            if await self._until_known(cancel) is None:
                return
            self._write(Record("told", session_id, message_id=message_id, detail="cancel"))

    async def _operate(self, session_id: str, draws: Random) -> None:
        """Pause the session, and let it go later; or end it at once."""
        for _ in range(draws.choice((0, 1, 2))):
            for word in ("pause", "resume"):
                await asyncio.sleep(draws.choice((0, 0.5, 2, 10)))
                if not await self._control(word, session_id, f"{session_id}-{word}-{draws.randrange(10**9)}"):
                    return
        if draws.random() < OFTEN_KILLED:
            await asyncio.sleep(draws.choice((0, 1, 5)))
            await self._control("kill", session_id, f"{session_id}-kill")

    async def _control(self, word: str, session_id: str, message_id: str) -> bool:
        """Return whether the session was there to hear it."""

        async def tell(node: Node) -> str:
            deliveries = node.http.deliveries
            control = {"pause": deliveries.pause, "resume": deliveries.resume, "kill": deliveries.kill}[word]
            return await control(session_id, "says the operator", message_id)

        if await self._until_known(tell) is None:
            return False
        self._write(Record("told", session_id, message_id=message_id, detail=word))
        return True

    async def _put(self, body: dict[str, Any], session_id: str, message_id: str) -> None:
        """Send by the queue, until it is acknowledged; what is refused for good is a message that came too late."""
        while True:
            acknowledged = asyncio.Event()
            sent = self._cloud.queue.put(json.dumps(body), acknowledged.set)
            await acknowledged.wait()
            dead = next((d for d in self._cloud.queue.dead_letters if d.message_id == sent), None)
            if dead is None:
                return
            self._write(Record("bad", session_id, message_id=message_id, value=sent))
            if dead.code != "UNKNOWN_SESSION":
                return

    async def send_rubbish(self, count: int) -> None:
        """Send messages that can never succeed."""
        for _ in range(count):
            await self._pause(0, 1, 5)
            sent = self._cloud.queue.put(self._draws.choice(BAD_BODIES))
            self._write(Record("bad", value=sent))

    # --- answering -----------------------------------------------------------------------------------------------

    async def answer_for_ever(self) -> None:
        """Answer whatever waits for a person or a callback, sooner or later."""
        while True:
            await self._pause(0.5, 2, 4)
            for callback in self._open_callbacks():
                with suppress(*LATE, UnknownCallback, WrongToken):
                    await self._answer(*callback)

    def _open_callbacks(self) -> list[tuple[str, str, str, str]]:
        """Return session, operation, callback id and kind of what somebody waits for, by the journals."""
        found: list[tuple[str, str, str, str]] = []
        asked = {"CALLBACK_CREATED": "callback", "APPROVAL_REQUESTED": "approval"}
        for item in self._cloud.table.items():
            if item.get("status") in asked:
                session_id = str(item["PK"]).removeprefix("SESSION#")
                operation, kind = str(item["operation"]), asked[str(item["status"])]
                events = self._cloud.table.partition(f"SESSION#{session_id}", "EVENT#")
                answered = {"CALLBACK_COMPLETED", "CALLBACK_FAILED", "CALLBACK_TIMED_OUT"}
                is_over = any(e.get("operation") == operation and e["status"] in answered for e in events)
                if not is_over and not str(events[-1]["status"]).startswith("AGENT_BACKGROUND_TASK_"):
                    callback_id = json.loads(str(item["data"]))["callback_id"]
                    found.append((session_id, operation, callback_id, kind))
        return found

    async def _answer(self, session_id: str, operation: str, callback_id: str, kind: str) -> None:
        if kind == "approval":
            await self.ask(lambda node: node.http.deliveries.approve(session_id, operation, True, "me", None))
        elif callback_id in self._story.tokens:
            token = self._story.tokens[callback_id]
            await self.ask(lambda node: node.http.deliveries.callback(callback_id, token, "SUCCESS", "answer", None))

    # --- asking --------------------------------------------------------------------------------------------------

    async def ask(self, call: Callable[[Node], Awaitable[T]]) -> T:
        """Ask one node after another until one answers; raises what it answers with, if that is a refusal."""
        while True:
            nodes = [node for node in self._nodes() if node.takes]
            if nodes:
                try:
                    return await self._asked(self._draws.choice(nodes), call)
                except (Unanswered, _Later):
                    pass
            await self._pause(0.1, 1)

    async def _until_known(self, call: Callable[[Node], Awaitable[T]]) -> T | None:
        """Ask until the session is known; return None where it takes no message any more."""
        while True:
            try:
                return await self.ask(call)
            except UnknownSession:
                await self._pause(0.1, 1)
            except LATE:
                return None

    async def _asked(self, node: SimNode, call: Callable[[Node], Awaitable[T]]) -> T:
        answered: asyncio.Future[T] = self._loop.create_future()

        def answer(result: T | None, error: Exception | None) -> None:
            if error is not None and not isinstance(error, (*REFUSALS, Unanswered)):
                error = _Later(repr(error))
            self._loop.call_soon(settle, answered, result, error)

        node.ask(call, answer)
        return await answered

    async def _pause(self, *seconds: float) -> None:
        await asyncio.sleep(self._draws.choice(seconds))

    def _write(self, record: Record) -> None:
        self.records.append(record)


class _Later(Exception):
    """The node answered with an error that says: try again."""
