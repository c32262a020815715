"""One run of a remote agent: submit its task once, follow it to its end, and cancel it if nobody waits for it any more.

The submission is a recorded call: after a crash of this node, and in a later attempt, the same task is followed on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Final, Protocol

import httpx
import structlog

from orchestrator.agents import AgentReply, Connections
from orchestrator.agents.a2a import A2AAgent
from orchestrator.agents.a2a.http import connection, origin_of
from orchestrator.agents.a2a.legacy import DIALECT as LEGACY
from orchestrator.agents.a2a.legacy import LegacyPeer
from orchestrator.agents.a2a.sdk import MethodUnknown, peer_with_card
from orchestrator.agents.a2a.tasks import Outgoing, PushAddress, RemoteTask, State, failure_of, outgoing
from orchestrator.agents.farewell import outcome_of
from orchestrator.agents.payload import name_of_run
from orchestrator.errors import ApprovalTimedOut, OperationTimedOut
from orchestrator.invocation import CallResult, Calls, Invocation, current_invocation
from orchestrator.remote import AgentTaskLost, AgentUnreadable, RemoteFault
from orchestrator.session.values import Json

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

POLL_SECONDS_FIRST: Final = 0.25
POLL_SECONDS_MAX: Final = 20.0
POLL_GROWTH: Final = 1.5
LAG_SECONDS: Final = 1.0
"""Between looks at a task that has an answer and shows its question still."""
PUSH_SECONDS_FIRST: Final = 600.0
PUSH_SECONDS_MAX: Final = 3_600.0
"""After so long without a push we look for ourselves: they are sent once, by most agents, and may be lost."""
PUSH_GROWTH: Final = 2.0
SILENCE_SECONDS_MAX: Final = 300.0
"""For how long a remote agent may be out of reach while we follow its task: it may just be restarted."""
PUSH_PATH: Final = "/a2a"
"""Where pushes are taken, under a callback's address."""

log: FilteringBoundLogger = structlog.get_logger("orchestrator")


class Peer(Protocol):
    """A remote agent, by one generation of the protocol."""

    @property
    def dialect(self) -> str:
        """Which one that is, as a recorded call keeps it."""
        ...

    @property
    def url(self) -> str:
        """Where it is."""
        ...

    @property
    def pushes(self) -> bool:
        """Whether it can tell of a task's progress by itself."""
        ...

    async def submit(self, message: Outgoing) -> RemoteTask:
        """Ask, without waiting for the end if the agent can do without that; return the task it made of it."""
        ...

    async def get(self, task_id: str) -> RemoteTask:
        """Return the task as it is now. Raises `AgentTaskLost` for one that it does not know."""
        ...

    async def subscribe(self, task_id: str, address: PushAddress) -> None:
        """Have it tell of the task's progress there from now on."""
        ...

    async def cancel(self, task_id: str) -> None:
        """Ask it to end the task."""
        ...


class A2ARun:
    """An `Agent` over a remote one."""

    def __init__(self, agent: A2AAgent, connections: Connections) -> None:
        self._agent = agent
        self._connections = connections
        self._tls = httpx.create_ssl_context()
        self._origins = frozenset(origin_of(httpx.URL(url)) for url in (agent.url, *agent.origins))

    async def run(self, prompt: Json, kwargs: Mapping[str, Json]) -> AgentReply:
        """See `Agent.run`."""
        headers = await self._agent.headers() if callable(self._agent.headers) else self._agent.headers
        async with connection(headers, self._origins, self._tls, self._connections.clock.now) as http:
            return await Errand(self._agent, http, current_invocation(), self._connections).run(prompt, kwargs)


@dataclass(frozen=True, slots=True)
class Known:
    """A task that was submitted, as the journal keeps it; `number` counts the submissions of one run, from 1."""

    task_id: str
    dialect: str
    number: int
    push: bool


@dataclass(slots=True)
class Errand:
    """One run, over one connection."""

    agent: A2AAgent
    http: httpx.AsyncClient
    invocation: Invocation
    connections: Connections
    peer: Peer | None = None
    submitted: RemoteTask | None = None
    """What the agent answered when its task was submitted, if that was in this run."""

    async def run(self, prompt: Json, kwargs: Mapping[str, Json]) -> AgentReply:
        """Return what the agent answers.

        A task that failed, or was lost, in an attempt before this one is let be, and another is submitted.
        """
        name = name_of_run(self.invocation.idempotency_key)
        for number in count(1):
            self.submitted = None
            submit = partial(self._submit, outgoing(f"{name}-{number}", prompt, kwargs), number)
            match await self._calls.run(f"submit.{number}", submit):
                case {"task_id": str(task_id), "dialect": str(dialect), "attempt": int(attempt), "push": bool(push)}:
                    is_ours = attempt == self.invocation.attempt
                    try:
                        task = await self._ended(Known(task_id, dialect, number, push))
                    except AgentTaskLost:
                        if is_ours:
                            raise
                        continue
                    failure = failure_of(task)
                    if failure is None:
                        return AgentReply(task.result, task.usage)
                    if is_ours:
                        raise failure
                case {"result": result, "usage": usage}:
                    return AgentReply(result, usage if isinstance(usage, dict) else None)
                case _:
                    raise AgentUnreadable("the submission of its task is recorded in no way that is known here")
        raise AssertionError("there is a number after each")

    @property
    def _calls(self) -> Calls:
        assert self.invocation.calls is not None, "an agent run without its calls"
        return self.invocation.calls

    async def _submit(self, message: Outgoing, number: int) -> CallResult:
        """Ask, in whichever generation of the protocol the agent understands."""
        peer = await self._peer_for(None)
        push = await self._push_address(number, 1) if self.agent.push and peer.pushes else None
        try:
            task = await peer.submit(replace(message, push=push))
        except MethodUnknown:
            self.peer = peer = LegacyPeer(self.http, peer.url)
            task = await peer.submit(message)
        self.submitted = task
        if task.task_id is None:
            # Nobody could ask for it again.
            return CallResult({"result": task.result, "usage": task.usage})
        return CallResult(
            {
                "task_id": task.task_id,
                "dialect": peer.dialect,
                "attempt": self.invocation.attempt,
                "push": push is not None and peer.pushes,
            }
        )

    async def _peer_for(self, dialect: str | None) -> Peer:
        """Return the agent, by the dialect in which its task was submitted; `None` for the latest that it speaks."""
        if self.peer is None:
            url = self.agent.url
            with_card = await peer_with_card(self.http, url)
            if with_card is None or dialect == LEGACY:
                self.peer = LegacyPeer(self.http, url if with_card is None else with_card.url)
            else:
                self.peer = with_card
        return self.peer

    async def _ended(self, known: Known) -> RemoteTask:
        """Return the task as it is when it goes on no more; asks to cancel it once nobody waits for that any more."""
        try:
            task = await self._stopped(known)
            if self.agent.asks_people:
                task = await self._talked_over(known, task)
        except asyncio.CancelledError:
            if self.invocation.is_over():
                await self._cancel(known)
            raise
        if task.state in {State.INPUT_REQUIRED, State.AUTH_REQUIRED}:
            # It would wait for somebody who does not come.
            await self._cancel(known)
        return task

    async def _talked_over(self, known: Known, task: RemoteTask) -> RemoteTask:
        """Return the task once it asks nothing more of the people here, or they refuse to answer."""
        for question in count(1):
            if task.state is not State.INPUT_REQUIRED:
                return task
            name = f"{known.number}.{question}"
            try:
                answer = await self._calls.ask(f"input.{name}", {"agent": self.agent.url, "asks": task.said})
            except ApprovalTimedOut:
                return task
            if not answer.approved:
                return task
            reply = partial(self._reply, known, name, answer.comment or "yes", task.mark)
            answered = await self._calls.run(f"reply.{name}", reply)
            task = await self._stopped(known, behind=str(answered))
        raise AssertionError("there is a number after each")

    async def _reply(self, known: Known, name: str, text: str, mark: str) -> CallResult:
        message_id = f"{name_of_run(self.invocation.idempotency_key)}-{name}"
        peer = await self._peer_for(known.dialect)
        await peer.submit(Outgoing(message_id, text, task_id=known.task_id))
        return CallResult(mark)

    async def _stopped(self, known: Known, behind: str | None = None) -> RemoteTask:
        """Return the task once it goes on no more; `behind` is the mark of a status that was answered already."""
        while True:
            task = await (self._awaited(known) if known.push else self._followed(known))
            if not behind or task.mark != behind:
                return task
            await self._pause(LAG_SECONDS)

    async def _followed(self, known: Known) -> RemoteTask:
        """Look at the task again and again until it goes on no more."""
        pause, told = POLL_SECONDS_FIRST, ""
        while (task := await self._sight(known)).state is State.OPEN:
            if task.said and task.said != told:
                told = task.said
                self.invocation.progress(told)
            await self._pause(pause)
            pause = min(POLL_SECONDS_MAX, pause * POLL_GROWTH)
        return task

    async def _awaited(self, known: Known) -> RemoteTask:
        """Look at the task whenever the agent tells that it goes on no more, or has told nothing for long.

        Between two looks the run is parked: it ends here, and begins anew.
        """
        for round_ in count(1):
            task = await self._sight(known)
            if task.state is not State.OPEN:
                return task
            if round_ > 1:
                subscribe = partial(self._subscribe, known, round_)
                await self._calls.run(f"subscribe.{known.number}.{round_}", subscribe)
            with suppress(OperationTimedOut):
                await self._calls.answer(_push_name(known.number, round_))
        raise AssertionError("there is a number after each")

    async def _subscribe(self, known: Known, round_: int) -> CallResult:
        peer = await self._peer_for(known.dialect)
        await peer.subscribe(known.task_id, await self._push_address(known.number, round_))
        return CallResult(None)

    async def _push_address(self, number: int, round_: int) -> PushAddress:
        seconds = min(PUSH_SECONDS_MAX, PUSH_SECONDS_FIRST * PUSH_GROWTH ** min(round_ - 1, 10))
        ticket = await self._calls.callback(_push_name(number, round_), timeout=seconds)
        return PushAddress(f"{ticket.url}{PUSH_PATH}", ticket.token)

    async def _sight(self, known: Known) -> RemoteTask:
        """Return the task as it is now; faults of the agent's front are waited out.

        Raises:
            RemoteFault: for too long. AgentTaskLost: it does not know the task.
        """
        if self.submitted is not None:
            seen, self.submitted = self.submitted, None
            return seen
        clock, pause = self.connections.clock, POLL_SECONDS_FIRST
        began_at = clock.monotonic()
        while True:
            try:
                return await (await self._peer_for(known.dialect)).get(known.task_id)
            except AgentTaskLost:
                raise
            except RemoteFault as fault:
                if clock.monotonic() - began_at > SILENCE_SECONDS_MAX:
                    raise
                await self._pause(pause, least=fault.retry_after or 0.0)
                pause = min(POLL_SECONDS_MAX, pause * POLL_GROWTH)

    async def _pause(self, seconds: float, least: float = 0.0) -> None:
        # Spread: sessions that began together must not ask together.
        await self.connections.clock.sleep(max(least, seconds * (1 + self.connections.draw()) / 2))

    async def _cancel(self, known: Known) -> None:
        """Ask the agent to end the task."""

        async def cancelled() -> None:
            await (await self._peer_for(known.dialect)).cancel(known.task_id)

        code = await outcome_of(cancelled())
        log.info("remote_task_cancelled", operation=self.invocation.operation, code=code)


def _push_name(number: int, round_: int) -> str:
    return f"push.{number}.{round_}"
