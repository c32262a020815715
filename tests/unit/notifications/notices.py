"""Notices of a made-up session, and services that notices go to as the simulation plays them.

To change it: no test logic here.
"""

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from orchestrator.notifications import ApprovalNotice, EndNotice, notification_id
from orchestrator.session.transitions import SessionStatus
from orchestrator.session.values import ErrorRecord, Json

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

COMPLETED = EndNotice(
    notification_id=notification_id("order-17"),
    session_id="order-17",
    session_type="research",
    tenant="acme",
    state=SessionStatus.COMPLETED,
    started_at=NOON,
    ended_at=NOON,
    result={"url": "https://example.test/report"},
    error=None,
    continued_as=None,
    parent=None,
    trace=TRACE,
    task_token="the task's token",
)
FAILED = replace(
    COMPLETED, state=SessionStatus.FAILED, result=None, error=ErrorRecord("StepFailed", "STEP_FAILED", "no tea")
)
ASKED = ApprovalNotice(
    notification_id=notification_id("order-17", "publish"),
    session_id="order-17",
    session_type="research",
    tenant="acme",
    name="publish",
    subject={"title": "Tea"},
    approvers=["ann", "bob"],
    requested_at=NOON,
    times_out_at=NOON,
    callback_id="approval-1",
    url="https://orchestrator.test/callbacks/approval-1",
    trace=None,
    token="the approval's token",
)


def completed_with(result: Json) -> EndNotice:
    """Return the notice of a session that came to this."""
    return replace(COMPLETED, result=result)


def about(number: int) -> EndNotice:
    """Return the notice of one of many sessions."""
    return replace(COMPLETED, session_id=f"s{number}", notification_id=notification_id(f"s{number}"))


Perform = Callable[[str, Mapping[str, Any]], Coroutine[Any, Any, dict[str, Any]]]


class _Client:
    """A client of the SDK: `client.put_events(Entries=…)`."""

    def __init__(self, perform: Perform) -> None:
        self._perform = perform

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, dict[str, Any]]]:
        operation = "".join(part.capitalize() for part in name.split("_"))
        return lambda **request: self._perform(operation, request)


class PlayedOutlets:
    """`Outlets` whose every call is played by one function."""

    def __init__(self, perform: Perform) -> None:
        self._client: Any = _Client(perform)

    async def events(self) -> Any:
        """See `Outlets.events`."""
        return self._client

    async def sns(self) -> Any:
        """See `Outlets.sns`."""
        return self._client

    async def stepfunctions(self) -> Any:
        """See `Outlets.stepfunctions`."""
        return self._client

    async def kms(self, region: str | None = None) -> Any:
        """See `Outlets.kms`."""
        return self._client
