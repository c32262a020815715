"""Notices kept in memory, tokens and all, in the order in which they were told. Shipped for tests."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.notifications import LOG, TASK_TOKEN, ApprovalNotice, EndNotice, NotDelivered, WorldNotice, owes_task
from orchestrator.session.state import SessionState


class MemoryNotifications:
    """`Notifications` of one process: `approvals` and `ends` hold each notice as often as it was told, in order.

    `told` holds channel and id of each of them. Ends are told on `channels_of_end`; a channel that is a key of `faults`
    takes nothing, and says so by the error there.
    """

    def __init__(self, *, channels_of_end: Sequence[str] = (), channels_of_approval: Sequence[str] = (LOG,)) -> None:
        self.channels_of_end = tuple(channels_of_end)
        self.channels_of_approval = tuple(channels_of_approval)
        self.faults: dict[str, NotDelivered] = {}
        self.approvals: list[ApprovalNotice] = []
        self.ends: list[EndNotice] = []
        self.told: list[tuple[str, str]] = []
        self.tasks_kept: list[str] = []

    def of_end(self, ended: SessionState) -> tuple[str, ...]:
        """See `Notifications.of_end`."""
        channels = self.channels_of_end
        return channels if owes_task(ended) else tuple(each for each in channels if each != TASK_TOKEN)

    def of_approval(self) -> tuple[str, ...]:
        """See `Notifications.of_approval`."""
        return self.channels_of_approval

    async def tell(self, notice: WorldNotice, channel: str) -> None:
        """See `Notifications.tell`."""
        fault = self.faults.get(channel)
        if fault is not None:
            raise fault
        self.told.append((channel, notice.notification_id))
        if isinstance(notice, ApprovalNotice):
            self.approvals.append(notice)
        else:
            self.ends.append(notice)

    async def keep_task(self, task_token: str) -> None:
        """See `Notifications.keep_task`."""
        self.tasks_kept.append(task_token)
