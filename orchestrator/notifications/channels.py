"""`Notifications` of a deployment: the channels that its settings name, each told apart from the others."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.notifications import (
    EVENTS,
    LOG,
    TASK_TOKEN,
    TOPIC,
    WEBHOOK,
    ApprovalNotice,
    EndNotice,
    NotDelivered,
    WorldNotice,
)
from orchestrator.notifications.eventbridge import EventBridgeChannel
from orchestrator.notifications.log import LogChannel
from orchestrator.notifications.sns import SNSChannel
from orchestrator.notifications.stepfunctions import StepFunctionsChannel
from orchestrator.notifications.webhooks import WebhookChannel
from orchestrator.session.state import SessionState
from orchestrator.session.transitions import SessionStatus


@dataclass(frozen=True, slots=True)
class Channels:
    """See `Notifications`; `None` is a channel that this deployment does not have."""

    log: LogChannel
    tasks: StepFunctionsChannel
    bus: EventBridgeChannel | None = None
    topic: SNSChannel | None = None
    webhook: WebhookChannel | None = None

    async def run(self) -> None:
        """Keep what the channels know of their targets up to date; returns when there is no more to know."""
        if self.bus is not None:
            await self.bus.run()

    def of_end(self, ended: SessionState) -> tuple[str, ...]:
        """See `Notifications.of_end`."""
        has_task = ended.started.task_token is not None and ended.status is not SessionStatus.CONTINUED
        return (*((TASK_TOKEN,) if has_task else ()), *self._of_all())

    def of_approval(self) -> tuple[str, ...]:
        """See `Notifications.of_approval`."""
        return (LOG, *((TOPIC,) if self.topic is not None else ()), *self._of_all())

    def _of_all(self) -> tuple[str, ...]:
        has_bus = self.bus is not None and self.bus.is_on
        return (*((EVENTS,) if has_bus else ()), *((WEBHOOK,) if self.webhook is not None else ()))

    async def tell(self, notice: WorldNotice, channel: str) -> None:
        """See `Notifications.tell`."""
        match channel, notice:
            case "events", _ if self.bus is not None:
                await self.bus.tell(notice)
            case "webhook", _ if self.webhook is not None:
                await self.webhook.tell(notice)
            case "task-token", EndNotice():
                await self.tasks.tell(notice)
            case "topic", ApprovalNotice() if self.topic is not None:
                await self.topic.tell(notice)
            case "log", ApprovalNotice():
                await self.log.tell_approval(notice)
            case _:
                # It was one when the notice was written down, or is one where newer code runs.
                raise NotDelivered("NO_SUCH_CHANNEL")

    async def keep_task(self, task_token: str) -> None:
        """See `Notifications.keep_task`."""
        await self.tasks.keep(task_token)
