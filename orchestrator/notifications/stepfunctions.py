"""The task of a state machine that waits for a session's end (`….waitForTaskToken`), answered by its token.

A task that is over for Step Functions, whatever ended it, has been answered as far as we are concerned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from actors import Clock
from orchestrator.aws.outlets import CallFailed, Tasks
from orchestrator.notifications import EndNotice, NotDelivered
from orchestrator.notifications.document import cut, size_of
from orchestrator.session.transitions import SessionStatus
from orchestrator.session.values import Json, compact_json

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

OUTPUT_BYTES_MAX: Final = 262_144
ERROR_LENGTH_MAX: Final = 256
CAUSE_LENGTH_MAX: Final = 32_768
"""Step Functions, `SendTaskSuccess` and `SendTaskFailure`; an output counts in bytes ("Quotas", payload size)."""


class StepFunctionsChannel:
    """Answers to tasks, and their heartbeats every `heartbeat_seconds`; `None`: none are sent."""

    def __init__(
        self, tasks: Tasks, clock: Clock, log: FilteringBoundLogger, *, heartbeat_seconds: float | None
    ) -> None:
        self._tasks = tasks
        self._clock = clock
        self._log = log
        self._heartbeat_seconds = heartbeat_seconds

    async def tell(self, notice: EndNotice) -> None:
        """Answer the task. Raises `NotDelivered`."""
        assert notice.task_token is not None, f"{notice.session_id} has no task to answer"
        try:
            if notice.state is SessionStatus.COMPLETED:
                await self._tasks.succeed(notice.task_token, output_of(notice))
            else:
                await self._tasks.fail(notice.task_token, *failure_of(notice))
        except CallFailed as failed:
            if not failed.is_over:
                raise NotDelivered(failed.reason) from None
            self._log.warning("task_was_over", session_id=notice.session_id, code=failed.reason)

    async def keep(self, task_token: str) -> None:
        """See `Notifications.keep_task`."""
        while self._heartbeat_seconds is not None:
            try:
                await self._tasks.beat(task_token)
            except CallFailed as failed:
                self._log.warning("task_heartbeat_failed", code=failed.reason, is_over=failed.is_over)
                if failed.is_over:
                    return
            await self._clock.sleep(self._heartbeat_seconds)


def output_of(notice: EndNotice) -> str:
    """Return the result as the task's output; over the limit, what says where it is to be read."""
    output: Json = notice.result
    if size_of(output) > OUTPUT_BYTES_MAX:
        output = {"session_id": notice.session_id, "state": notice.state.value, "result_omitted": True}
    return compact_json(output)


def failure_of(notice: EndNotice) -> tuple[str, str]:
    """Return the task's error and its cause, of a session that did not complete."""
    code, message = ("", "") if notice.error is None else (notice.error.code, notice.error.message)
    return cut(code or notice.state.value, ERROR_LENGTH_MAX), cut(message, CAUSE_LENGTH_MAX)
