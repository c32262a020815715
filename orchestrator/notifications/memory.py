"""Notices kept in memory, tokens and all. Shipped for tests."""

from __future__ import annotations

from orchestrator.notifications import ApprovalNotice


class MemoryNotifications:
    """`Notifications` of one process: `approvals` holds each notice, in order."""

    def __init__(self) -> None:
        self.approvals: list[ApprovalNotice] = []

    async def approval_requested(self, notice: ApprovalNotice) -> None:
        """See `Notifications.approval_requested`."""
        self.approvals.append(notice)
