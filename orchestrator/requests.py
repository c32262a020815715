"""What a handler asks of its session's actor, as messages: payloads as a journal can hold them, ids as all derive them.

A payload that is too long for the journal is stored here, before it is asked for. Whatever stands beside one is
bounded, because all of it must fit into one item (I12).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from orchestrator.callbacks import approval_id_of, digest_of_operation
from orchestrator.calls import AgentCall, ApprovalCall, ChildCall
from orchestrator.payloads import to_json
from orchestrator.session import messages as m
from orchestrator.session.state import SessionState
from orchestrator.session.values import Json, derive_session_id

Seal: TypeAlias = Callable[[str, Callable[[int], Json]], Awaitable[Json]]
"""See `Driver.sealed`."""


async def agent_request(operation: str, call: AgentCall, seal: Seal, *, bytes_beside: int) -> m.AgentRequested:
    """Return the request to run an agent. Raises what `Seal` and `to_json` do."""
    kwargs: Json = None
    if call.kwargs:
        kwargs = to_json(dict(call.kwargs), "kwargs", bytes_max=bytes_beside)
    return m.AgentRequested(
        operation=operation,
        agent=call.agent,
        prompt=await seal(f"{operation}.prompt", lambda most: to_json(call.prompt, "prompt", bytes_max=most)),
        kwargs=kwargs if isinstance(kwargs, dict) else None,
        timeout=call.timeout,
        retry=call.retry.spec,
    )


async def approval_request(
    session_id: str, operation: str, call: ApprovalCall, seal: Seal, *, bytes_beside: int
) -> m.ApprovalAsked:
    """Return the request to ask people. Raises what `Seal` and `to_json` do."""
    names = call.approvers
    return m.ApprovalAsked(
        operation=operation,
        callback_id=approval_id_of(session_id, operation),
        subject=await seal(operation, lambda most: to_json(call.subject, "subject", bytes_max=most)),
        approvers=None if names is None else to_json([*names], "approvers", bytes_max=bytes_beside),
        timeout=call.timeout,
    )


async def child_request(parent: SessionState, operation: str, call: ChildCall, seal: Seal) -> m.ChildRequested:
    """Return the request to start a session and await its end. Raises what `Seal` and `to_json` do."""
    if call.key is None:
        child_id = f"{call.session_type}-{digest_of_operation(parent.session_id, operation)}"
    else:
        child_id = derive_session_id(parent.started.tenant, call.session_type, call.key)
    payload = await seal(operation, lambda most: to_json(call.input, "input", bytes_max=most))
    return m.ChildRequested(operation, call.session_type, child_id, payload)
