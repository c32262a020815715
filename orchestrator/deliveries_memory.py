"""Deliveries in memory: the same protocol and the same refusals. Shipped for tests; it delivers to nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.deliveries import (
    CallbackAnswered,
    CallbackExpired,
    CallbackStatus,
    NotAnApprover,
    UnknownApproval,
    UnknownCallback,
    WrongToken,
)
from orchestrator.inbox import MessageConflict, SessionEnded, UnknownSession
from orchestrator.session.values import Json, canonical_json


@dataclass(slots=True)
class Promise:
    """A callback or an approval. Without `approvers` anybody may answer; `answer` is the text of the first one."""

    session_id: str
    token: str = ""
    approvers: frozenset[str] | None = None
    has_expired: bool = False
    answer: str | None = None


class MemoryDeliveries:
    """`Deliveries` of one process. A test fills `sessions`, `ended`, `callbacks` and `approvals`."""

    def __init__(self, new_id: Callable[[], str]) -> None:
        self._new_id = new_id
        self.sessions: set[str] = set()
        self.ended: set[str] = set()
        self.messages: dict[tuple[str, str], str] = {}
        self.callbacks: dict[str, Promise] = {}
        self.approvals: dict[tuple[str, str], Promise] = {}

    async def signal(self, session_id: str, name: str, data: Json, message_id: str | None) -> str:
        """See `Deliveries.signal`."""
        return await self._put(session_id, message_id, ["signal", name, data])

    async def cancel(self, session_id: str, reason: str | None, message_id: str | None) -> str:
        """See `Deliveries.cancel`."""
        return await self._put(session_id, message_id, ["cancel", reason])

    async def pause(self, session_id: str, reason: str | None, message_id: str | None) -> str:
        """See `Deliveries.pause`."""
        return await self._put(session_id, message_id, ["pause", reason])

    async def resume(self, session_id: str, reason: str | None, message_id: str | None) -> str:
        """See `Deliveries.resume`."""
        return await self._put(session_id, message_id, ["resume", reason])

    async def kill(self, session_id: str, reason: str | None, message_id: str | None) -> str:
        """See `Deliveries.kill`."""
        return await self._put(session_id, message_id, ["kill", reason])

    async def callback(self, callback_id: str, token: str, status: CallbackStatus, result: Json, error: Json) -> None:
        """See `Deliveries.callback`."""
        await asyncio.sleep(0)
        promise = self.callbacks.get(callback_id)
        if promise is None:
            raise UnknownCallback(callback_id)
        if token != promise.token:
            raise WrongToken(callback_id)
        by = result.get("by") if isinstance(result, dict) else None
        if status == "SUCCESS" and promise.approvers is not None and by not in promise.approvers:
            raise NotAnApprover(str(by))
        self._answer(callback_id, promise, [status, result, error])

    async def approve(self, session_id: str, name: str, approved: bool, by: str, comment: str | None) -> None:
        """See `Deliveries.approve`."""
        await asyncio.sleep(0)
        if session_id not in self.sessions:
            raise UnknownSession(session_id)
        promise = self.approvals.get((session_id, name))
        if promise is None:
            raise UnknownApproval(session_id, name)
        if promise.approvers is not None and by not in promise.approvers:
            raise NotAnApprover(by)
        self._answer(f"{session_id}/{name}", promise, [approved, by, comment])

    async def _put(self, session_id: str, message_id: str | None, body: Json) -> str:
        await asyncio.sleep(0)
        if session_id not in self.sessions:
            raise UnknownSession(session_id)
        message_id = message_id or self._new_id()
        text = canonical_json(body)
        standing = self.messages.get((session_id, message_id))
        if standing is None and session_id in self.ended:
            raise SessionEnded(session_id)
        if standing not in {None, text}:
            raise MessageConflict(session_id, message_id)
        self.messages[session_id, message_id] = text
        return message_id

    def _answer(self, callback_id: str, promise: Promise, answer: Json) -> None:
        text = canonical_json(answer)
        if promise.answer == text:
            return
        if promise.answer is not None:
            raise CallbackAnswered(callback_id)
        if promise.session_id in self.ended:
            raise SessionEnded(promise.session_id)
        if promise.has_expired:
            raise CallbackExpired(callback_id)
        promise.answer = text
