"""Notices to the node's log: who approves then finds the session there, or in a listing. A token never goes there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.notifications import ApprovalNotice
from orchestrator.session.values import format_instant

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger


class LogChannel:
    """Approvals as log lines. Of ends, the session's own line tells."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        self._log = log

    async def tell_approval(self, notice: ApprovalNotice) -> None:
        """Write the line."""
        self._log.info(
            "approval_requested",
            session_id=notice.session_id,
            session_type=notice.session_type,
            operation=notice.name,
            callback_id=notice.callback_id,
            notification_id=notice.notification_id,
            times_out_at=None if notice.times_out_at is None else format_instant(notice.times_out_at),
        )
