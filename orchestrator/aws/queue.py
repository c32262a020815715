"""The queue's wire: receive, delete in tens, prolong visibility, send. Messages as values, nothing of their meaning.

Quotas: SQS, "Amazon SQS message quotas" (10 messages a request, 20 s of polling, 1 MiB a message with its attributes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal, TypedDict

from botocore.exceptions import ClientError
from pydantic import BaseModel, Field

from orchestrator.aws.clients import Clients
from orchestrator.aws.faults import Patience, Refused, Verdict, verdict_of
from orchestrator.aws.signed import SignedClient
from orchestrator.session.frozen import quick

if TYPE_CHECKING:
    from types_aiobotocore_sqs import SQSClient
    from types_aiobotocore_sqs.type_defs import MessageSystemAttributeValueTypeDef

BATCH_MAX: Final = 10
MESSAGE_BYTES_MAX: Final = 1_048_576
ATTRIBUTES_MAX: Final = 10
_SYSTEM: Final = ("ApproximateReceiveCount", "AWSTraceHeader", "MessageGroupId", "SentTimestamp")


@quick
@dataclass(frozen=True, slots=True)
class QueueMessage:
    """One delivery. `attributes` are the sender's (text ones), `receive_count` starts at 1.

    `group` is the message group, a tenant's; `sent_at` when it was put on the queue.
    """

    message_id: str
    receipt: str
    body: str
    receive_count: int
    trace_header: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    group: str | None = None
    sent_at: datetime | None = None


class Queue:
    """One SQS queue by its URL."""

    def __init__(self, client: SQSClient, signed: SignedClient, url: str, patience: Patience) -> None:
        self._client = client
        self._signed = signed
        self.url = url
        self._patience = patience

    async def receive(
        self, *, messages_max: int, wait_seconds: int, visibility_seconds: int
    ) -> tuple[QueueMessage, ...]:
        """Return up to `messages_max` (1..10) deliveries; `()` when none came within the wait. One attempt.

        Raises whatever the call raises: the receiver backs off and keeps its health honest.
        """
        answer = await self._signed.call(
            "ReceiveMessage",
            {
                "QueueUrl": self.url,
                "MaxNumberOfMessages": min(messages_max, BATCH_MAX),
                "WaitTimeSeconds": wait_seconds,
                "VisibilityTimeout": visibility_seconds,
                "MessageSystemAttributeNames": [*_SYSTEM],
                "MessageAttributeNames": ["All"],
            },
        )
        try:
            return tuple(_message(wire) for wire in _Received.model_validate(answer).messages)
        except ValueError:
            # No service of AWS writes such a thing: something on the way did. Its text may quote what was sent.
            raise ConnectionError("the answer to a poll holds what is no message") from None

    async def delete(self, receipts: Sequence[str]) -> None:
        """Delete up to 10 deliveries. One that cannot be deleted comes again, which is harmless."""
        entries = [{"Id": str(i), "ReceiptHandle": receipt} for i, receipt in enumerate(receipts)]
        request = {"QueueUrl": self.url, "Entries": entries}
        await self._patience.insist(lambda: self._signed.call("DeleteMessageBatch", request))

    async def prolong(self, receipts: Sequence[str], *, seconds: int) -> None:
        """Hide up to 10 deliveries for that long from now; a receipt that is no longer valid is passed over."""
        entries = [
            {"Id": str(i), "ReceiptHandle": receipt, "VisibilityTimeout": seconds} for i, receipt in enumerate(receipts)
        ]
        await self._patience.insist(
            lambda: self._client.change_message_visibility_batch(QueueUrl=self.url, Entries=entries)  # type: ignore[arg-type]
        )

    async def depth(self) -> int:
        """Return about how many messages it holds that nobody has in hand. Raises `Refused`."""
        try:
            answer = await self._patience.insist(
                lambda: self._client.get_queue_attributes(
                    QueueUrl=self.url, AttributeNames=["ApproximateNumberOfMessages"]
                )
            )
        except ClientError as error:
            raise Refused(f"{self.url}: {error}") from error
        return int(answer["Attributes"]["ApproximateNumberOfMessages"])

    async def send(
        self,
        body: str,
        *,
        attributes: Mapping[str, str] | None = None,
        tenant: str | None = None,
        trace_header: str | None = None,
    ) -> str:
        """Put a message on the queue and return its message id. One tenant's messages do not hold up another's.

        Raises:
            Refused: the body or an attribute is not acceptable to SQS.
        """
        # On a standard queue a group keeps no order: it makes the queue a fair one (SQS, "Fair queues").
        options: _Options = {} if tenant is None else {"MessageGroupId": tenant}
        if trace_header is not None:
            options["MessageSystemAttributes"] = {"AWSTraceHeader": {"DataType": "String", "StringValue": trace_header}}
        try:
            answer = await self._patience.insist(
                lambda: self._client.send_message(
                    QueueUrl=self.url,
                    MessageBody=body,
                    MessageAttributes={
                        name: {"DataType": "String", "StringValue": text} for name, text in (attributes or {}).items()
                    },
                    **options,
                )
            )
        except ClientError as error:
            raise Refused(f"{self.url}: {error}") from error
        return answer["MessageId"]


async def find_queue(clients: Clients, name_or_url: str, patience: Patience) -> Queue:
    """Return the queue of that name or URL.

    Raises:
        Refused: there is no such queue, or we may not see it.
    """
    if name_or_url.startswith(("http://", "https://")):
        return Queue(clients.sqs, clients.signed_sqs, name_or_url, patience)
    try:
        answer = await patience.insist(lambda: clients.sqs.get_queue_url(QueueName=name_or_url))
    except ClientError as error:
        hint = "; `orchestrator provision` creates it" if verdict_of(error) is Verdict.MISSING else ""
        raise Refused(f"queue {name_or_url}: {error}{hint}") from error
    return Queue(clients.sqs, clients.signed_sqs, answer["QueueUrl"], patience)


class _Options(TypedDict, total=False):
    MessageGroupId: str
    MessageSystemAttributes: dict[Literal["AWSTraceHeader"], MessageSystemAttributeValueTypeDef]


class _Attribute(BaseModel):
    string_value: str | None = Field(default=None, alias="StringValue")


class _Message(BaseModel):
    """A message as `ReceiveMessage` answers it (SQS API Reference)."""

    message_id: str = Field(alias="MessageId")
    receipt: str = Field(alias="ReceiptHandle")
    body: str = Field(default="", alias="Body")
    system: dict[str, str] = Field(default_factory=dict, alias="Attributes")
    attributes: dict[str, _Attribute] = Field(default_factory=dict, alias="MessageAttributes")


class _Received(BaseModel):
    messages: list[_Message] = Field(default_factory=list, alias="Messages")


def _message(wire: _Message) -> QueueMessage:
    return QueueMessage(
        message_id=wire.message_id,
        receipt=wire.receipt,
        body=wire.body,
        receive_count=int(wire.system.get("ApproximateReceiveCount", "1")),
        trace_header=wire.system.get("AWSTraceHeader"),
        group=wire.system.get("MessageGroupId"),
        sent_at=_instant(wire.system.get("SentTimestamp")),
        attributes={
            name: value.string_value for name, value in wire.attributes.items() if value.string_value is not None
        },
    )


def _instant(millis: str | None) -> datetime | None:
    """Return the instant; `None` where none was told, or what is none."""
    try:
        return None if millis is None else datetime.fromtimestamp(int(millis) / 1_000, UTC)
    except (ValueError, OverflowError, OSError):
        return None
