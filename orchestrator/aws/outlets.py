"""The services that notices go to: EventBridge, SNS, Step Functions. One attempt of each call; what failed is a code.

Whoever calls keeps what was not delivered and tries again much later, so nothing here is patient. Quotas: EventBridge,
`PutEvents` (10 entries, 256 KB together); SNS, `Publish` (256 KB); Step Functions, `SendTask…`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from orchestrator.aws.clients import UNREACHABLE, Outlets
from orchestrator.aws.faults import Verdict, error_code, verdict_of
from orchestrator.errors import OrchestratorError

if TYPE_CHECKING:
    from types_aiobotocore_events.type_defs import PutEventsRequestEntryTypeDef
    from types_aiobotocore_sns.type_defs import MessageAttributeValueTypeDef

ENTRIES_MAX: Final = 10
REQUEST_BYTES_MAX: Final = 250_000
"""Of all entries of a request, under the documented 256 KB with room for what is counted besides."""
_ENTRY_BYTES: Final = 14
"""What EventBridge counts for the time of an entry ("Calculating PutEvents event entry size")."""
SOURCE: Final = "session-orchestrator"

T = TypeVar("T")


class CallFailed(OrchestratorError):
    """A call had no good answer; `reason` is a code. `is_over`: what it was about has ended, and needs none."""

    code = "CALL_FAILED"

    def __init__(self, reason: str, *, is_over: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_over = is_over


async def _once(call: Awaitable[T]) -> T:
    """Return the answer to the one attempt. Raises `CallFailed`."""
    try:
        return await call
    except ClientError as error:
        raise CallFailed(error_code(error) or "UNKNOWN", is_over=verdict_of(error) is Verdict.OVER) from None
    except (BotoCoreError, *UNREACHABLE) as error:
        raise CallFailed(type(error).__name__) from None


@dataclass(frozen=True, slots=True)
class Entry:
    """One event for a bus; `detail` is the text of a JSON object."""

    detail_type: str
    detail: str
    at: datetime
    trace_header: str | None

    @property
    def size(self) -> int:
        """What it counts for, in bytes."""
        texts = (SOURCE, self.detail_type, self.detail, self.trace_header or "")
        return _ENTRY_BYTES + sum(len(text.encode()) for text in texts)


class Bus:
    """One event bus, by its name or ARN."""

    def __init__(self, outlets: Outlets, name: str) -> None:
        self._outlets = outlets
        self.name = name

    async def exists(self) -> bool:
        """Return whether it is there. Raises `CallFailed` where that cannot be told."""
        client = await _once(self._outlets.events())
        try:
            await _once(client.describe_event_bus(Name=self.name))
        except CallFailed as failed:
            if failed.reason == "ResourceNotFoundException":
                return False
            raise
        return True

    async def put(self, entries: Sequence[Entry]) -> list[str | None]:
        """Send the entries; return the error code of each, `None` for one that was taken. Raises `CallFailed`."""
        client = await _once(self._outlets.events())
        answer = await _once(client.put_events(Entries=[self._entry(entry) for entry in entries]))
        # 200 may hide that some failed, and says so here (EventBridge, PutEvents, FailedEntryCount).
        results = [None if each.get("EventId") else each.get("ErrorCode", "UNKNOWN") for each in answer["Entries"]]
        return results if len(results) == len(entries) else ["UNKNOWN"] * len(entries)

    def _entry(self, entry: Entry) -> PutEventsRequestEntryTypeDef:
        fields: PutEventsRequestEntryTypeDef = {
            "Source": SOURCE,
            "DetailType": entry.detail_type,
            "Detail": entry.detail,
            "Time": entry.at,
            "EventBusName": self.name,
        }
        if entry.trace_header is not None:
            fields["TraceHeader"] = entry.trace_header
        return fields


class Topic:
    """One SNS topic, by its ARN."""

    def __init__(self, outlets: Outlets, arn: str) -> None:
        self._outlets = outlets
        self._arn = arn

    async def publish(
        self, subject: str, text: str, attributes: Mapping[str, str], *, group: str, message: str
    ) -> None:
        """Send the message. `group` and `message` order and identify it on a FIFO topic. Raises `CallFailed`."""
        client = await _once(self._outlets.sns())
        typed: dict[str, MessageAttributeValueTypeDef] = {
            name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()
        }
        if self._arn.endswith(".fifo"):
            await _once(
                client.publish(
                    TopicArn=self._arn,
                    Subject=subject,
                    Message=text,
                    MessageAttributes=typed,
                    MessageGroupId=group,
                    MessageDeduplicationId=message,
                )
            )
        else:
            await _once(client.publish(TopicArn=self._arn, Subject=subject, Message=text, MessageAttributes=typed))


class Tasks:
    """The Step Functions tasks that wait for us, each by its token. Every call raises `CallFailed`."""

    def __init__(self, outlets: Outlets) -> None:
        self._outlets = outlets

    async def succeed(self, token: str, output: str) -> None:
        """End the task with that output (the text of a JSON value)."""
        client = await _once(self._outlets.stepfunctions())
        await _once(client.send_task_success(taskToken=token, output=output))

    async def fail(self, token: str, error: str, cause: str) -> None:
        """Let the task fail."""
        client = await _once(self._outlets.stepfunctions())
        await _once(client.send_task_failure(taskToken=token, error=error, cause=cause))

    async def beat(self, token: str) -> None:
        """Begin the task's `HeartbeatSeconds` anew."""
        client = await _once(self._outlets.stepfunctions())
        await _once(client.send_task_heartbeat(taskToken=token))
