"""`Notifications` of a deployment: the channels that its settings name, each told apart from the others."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator import notifications as n
from orchestrator.notifications import ApprovalNotice, EndNotice, NotDelivered, WorldNotice, owes_task
from orchestrator.notifications.eventbridge import EventBridgeChannel
from orchestrator.notifications.log import LogChannel
from orchestrator.notifications.sns import SNSChannel
from orchestrator.notifications.stepfunctions import StepFunctionsChannel
from orchestrator.notifications.webhooks import WebhookChannel
from orchestrator.session.state import SessionState


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
        return (*((n.TASK_TOKEN,) if owes_task(ended) else ()), *self._of_all())

    def of_approval(self) -> tuple[str, ...]:
        """See `Notifications.of_approval`."""
        return (n.LOG, *((n.TOPIC,) if self.topic is not None else ()), *self._of_all())

    def _of_all(self) -> tuple[str, ...]:
        has_bus = self.bus is not None and self.bus.is_on
        return (*((n.EVENTS,) if has_bus else ()), *((n.WEBHOOK,) if self.webhook is not None else ()))

    async def tell(self, notice: WorldNotice, channel: str) -> None:
        """See `Notifications.tell`."""
        match channel, notice:
            case n.EVENTS, _ if self.bus is not None:
                await self.bus.tell(notice)
            case n.WEBHOOK, _ if self.webhook is not None:
                await self.webhook.tell(notice)
            case n.TASK_TOKEN, EndNotice():
                await self.tasks.tell(notice)
            case n.TOPIC, ApprovalNotice() if self.topic is not None:
                await self.topic.tell(notice)
            case n.LOG, ApprovalNotice():
                await self.log.tell_approval(notice)
            case _:
                # It was one when the notice was written down, or is one where newer code runs.
                raise NotDelivered("NO_SUCH_CHANNEL")

    async def keep_task(self, task_token: str) -> None:
        """See `Notifications.keep_task`."""
        await self.tasks.keep(task_token)
