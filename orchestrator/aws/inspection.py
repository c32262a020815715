"""Looks at a deployment without changing it: what is there, how it is set up, and which calls we are allowed.

Whether a call is allowed is found by making it so that it cannot succeed: a condition that does not hold, a receipt
that is none, a body that no queue takes. Who is not allowed hears so before any of that is looked at. All that is
written is an object of two bytes, deleted again.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import aiohttp
from botocore.exceptions import BotoCoreError, ClientError

from orchestrator.aws.clients import UNREACHABLE, Clients
from orchestrator.aws.faults import error_code
from orchestrator.aws.items import PARTITION_KEY, SORT_KEY
from orchestrator.aws.keys import TABLE_CONTEXT, region_of
from orchestrator.settings import Settings

ANSWER_SECONDS_MAX: Final = 10.0
SKEW_SECONDS_MAX: Final = 60.0
"""A clock that is further off is wrong: timers fire by it, and from five minutes on AWS refuses what it signs."""
PROBE_PREFIX: Final = "probes/"
NO_ANSWER: Final = "NO_ANSWER"
DENIED: Final = frozenset(
    {
        *(
            "AccessDenied",
            "AccessDeniedException",
            "AccessDeniedError",
            "AuthorizationError",
            "AuthorizationErrorException",
        ),
        *("NotAuthorized", "UnauthorizedOperation", "KMS.AccessDeniedException", "AllAccessDisabled", "403"),
    }
)
"""Codes of a call that we are not allowed to make."""
UNSIGNED: Final = frozenset(
    {
        *("InvalidSignatureException", "SignatureDoesNotMatch", "RequestTimeTooSkewed", "RequestExpired"),
        *("UnrecognizedClientException", "InvalidClientTokenId", "InvalidAccessKeyId", "IncompleteSignature"),
        *("ExpiredToken", "ExpiredTokenException", "MissingAuthenticationToken", "MissingAuthenticationTokenException"),
    }
)
"""Codes of a call whose signature counts for nothing: the wrong credentials, or the wrong time."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What a call came to: `fields` of its answer, or the `code` and text of its error."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    code: str | None = None
    text: str = ""

    @property
    def is_denied(self) -> bool:
        """Whether we are not allowed to make the call."""
        return self.code in DENIED

    @property
    def is_unsigned(self) -> bool:
        """Whether AWS does not accept who we say we are, or when."""
        return self.code in UNSIGNED


@dataclass(frozen=True, slots=True)
class Permission:
    """One action of IAM on one resource, and what a call that needs it came to."""

    action: str
    resource: str
    answered: Answered


async def asked(call: Awaitable[Any]) -> Answered:
    """Return what the call came to; one attempt."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS_MAX):
            answer = await call
    except ClientError as error:
        return Answered(
            code=error_code(error) or "UNKNOWN", text=str(error.response.get("Error", {}).get("Message", ""))
        )
    except (BotoCoreError, *UNREACHABLE) as error:
        return Answered(code=NO_ANSWER, text=f"{type(error).__name__}: {error}"[:300])
    return Answered(fields=answer or {})


@dataclass(frozen=True, slots=True)
class Inspection:
    """The resources that the settings name, as they are."""

    clients: Clients
    settings: Settings

    @property
    def region(self) -> str:
        """Where they are."""
        return self.clients.region

    async def time_at_aws(self) -> datetime | None:
        """Return what time it is at AWS, to the second; asked without a signature, which a wrong clock would spoil."""
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS_MAX)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as http,
                http.get(self.clients.dynamodb.meta.endpoint_url) as answer,
            ):
                return parsedate_to_datetime(answer.headers["Date"])
        except (aiohttp.ClientError, TimeoutError, KeyError, ValueError):
            return None

    # --- the payload key -----------------------------------------------------------------------------------------

    async def payload_key_permissions(self, key_arn: str) -> AsyncIterator[Permission]:
        """Yield what a node does with the key that payloads are encrypted under, action by action."""
        client = await self.clients.outlets.kms(region_of(key_arn))
        context = {TABLE_CONTEXT: self.settings.table}
        made = await asked(client.generate_data_key(KeyId=key_arn, KeySpec="AES_256", EncryptionContext=context))
        yield Permission("kms:GenerateDataKey", key_arn, made)
        if made.code is None:
            blob = made.fields["CiphertextBlob"]
            opened = client.decrypt(KeyId=made.fields["KeyId"], CiphertextBlob=blob, EncryptionContext=context)
            yield Permission("kms:Decrypt", key_arn, await asked(opened))

    # --- the table -----------------------------------------------------------------------------------------------

    async def table(self) -> Answered:
        """Return the table's description."""
        return await asked(self.clients.dynamodb.describe_table(TableName=self.settings.table))

    async def time_to_live(self) -> Answered:
        """Return what expires in it."""
        return await asked(self.clients.dynamodb.describe_time_to_live(TableName=self.settings.table))

    async def backups(self) -> Answered:
        """Return whether it can be restored to any point in time."""
        return await asked(self.clients.dynamodb.describe_continuous_backups(TableName=self.settings.table))

    async def table_permissions(self, indexes: Mapping[str, str]) -> AsyncIterator[Permission]:
        """Yield what a node does with the table, action by action; `indexes` maps each to its partition key."""
        name, client = self.settings.table, self.clients.dynamodb
        key: Any = {PARTITION_KEY: {"S": f"DOCTOR#{uuid.uuid4().hex}"}, SORT_KEY: {"S": "PROBE"}}
        unmet: Any = {"TableName": name, "ConditionExpression": f"attribute_exists({PARTITION_KEY})"}
        one: Any = {":one": {"S": "1"}}
        calls: list[tuple[str, Awaitable[Any]]] = [
            ("GetItem", client.get_item(TableName=name, Key=key)),
            ("PutItem", client.put_item(Item=key, **unmet)),
            (
                "UpdateItem",
                client.update_item(Key=key, UpdateExpression="SET x = :one", ExpressionAttributeValues=one, **unmet),
            ),
            ("DeleteItem", client.delete_item(Key=key, **unmet)),
            ("Query", self._query(None, PARTITION_KEY)),
        ]
        for action, call in calls:
            yield Permission(f"dynamodb:{action}", name, await asked(call))
        for index, partition in indexes.items():
            yield Permission("dynamodb:Query", f"{name}/index/{index}", await asked(self._query(index, partition)))
        # An empty key is refused for what it is; one that is not there is not updated.
        keyed = [{"S": ""}, {"S": ""}], [{"S": "1"}, *key.values()]
        statements = (
            f"INSERT INTO \"{name}\" VALUE {{'{PARTITION_KEY}': ?, '{SORT_KEY}': ?}}",
            f'UPDATE "{name}" SET "x"=? WHERE "{PARTITION_KEY}"=? AND "{SORT_KEY}"=?',
        )
        for action, statement, parameters in zip(("PartiQLInsert", "PartiQLUpdate"), statements, keyed, strict=True):
            batch: Any = [{"Statement": statement, "Parameters": parameters}]
            answered = await asked(client.batch_execute_statement(Statements=batch))
            yield Permission(f"dynamodb:{action}", name, _first_of(answered))

    def _query(self, index: str | None, partition: str) -> Awaitable[Any]:
        request: Any = {
            "TableName": self.settings.table,
            "KeyConditionExpression": "#p = :p",
            "ExpressionAttributeNames": {"#p": partition},
            "ExpressionAttributeValues": {":p": {"S": "DOCTOR"}},
            "Limit": 1,
        }
        return self.clients.dynamodb.query(**request | ({} if index is None else {"IndexName": index}))

    # --- the queues ----------------------------------------------------------------------------------------------

    async def queue(self, name_or_url: str) -> tuple[str | None, Answered]:
        """Return a queue's URL and its attributes; no URL where there is no such queue, or we may not see it."""
        url = name_or_url
        if not url.startswith(("http://", "https://")):
            found = await asked(self.clients.sqs.get_queue_url(QueueName=name_or_url))
            if found.code is not None:
                return None, found
            url = str(found.fields["QueueUrl"])
        return url, await asked(self.clients.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"]))

    async def queue_permissions(self, url: str, name: str) -> AsyncIterator[Permission]:
        """Yield what is done with a queue, action by action. The poll is a receive of a message that waits there."""
        client = self.clients.sqs
        bogus: Any = [{"Id": "0", "ReceiptHandle": "none"}]
        hidden: Any = [{"Id": "0", "ReceiptHandle": "none", "VisibilityTimeout": 0}]
        unsendable: Any = [{"Id": "0", "MessageBody": "\x00"}]
        calls: list[tuple[str, Awaitable[Any]]] = [
            (
                "ReceiveMessage",
                client.receive_message(QueueUrl=url, MaxNumberOfMessages=1, VisibilityTimeout=0, WaitTimeSeconds=0),
            ),
            ("DeleteMessage", client.delete_message_batch(QueueUrl=url, Entries=bogus)),
            ("ChangeMessageVisibility", client.change_message_visibility_batch(QueueUrl=url, Entries=hidden)),
            ("SendMessage", client.send_message_batch(QueueUrl=url, Entries=unsendable)),
        ]
        for action, call in calls:
            yield Permission(f"sqs:{action}", name, await asked(call))

    # --- the bucket ----------------------------------------------------------------------------------------------

    async def bucket_permissions(self) -> AsyncIterator[Permission]:
        """Yield what is done with the bucket: an object is written, read and deleted."""
        name, key = self.settings.bucket, f"{PROBE_PREFIX}{uuid.uuid4().hex}"
        # Encrypted as the bucket says, like whatever nodes put there: its key may be what refuses us.
        written = await asked(self.clients.s3.put_object(Bucket=name, Key=key, Body=b"ok"))
        yield Permission("s3:PutObject", f"{name}/{key}", written)
        if written.code is not None:
            return
        yield Permission("s3:GetObject", f"{name}/{key}", await asked(self._read(name, key)))
        yield Permission(
            "s3:DeleteObject", f"{name}/{key}", await asked(self.clients.s3.delete_object(Bucket=name, Key=key))
        )

    async def lifecycle(self) -> Answered:
        """Return the bucket's lifecycle rules."""
        return await asked(self.clients.s3.get_bucket_lifecycle_configuration(Bucket=self.settings.bucket))

    async def _read(self, name: str, key: str) -> Mapping[str, Any]:
        answer = await self.clients.s3.get_object(Bucket=name, Key=key)
        async with answer["Body"] as stream:
            await stream.read()
        return {}

    # --- what hears of ends --------------------------------------------------------------------------------------

    async def bus(self) -> Answered:
        """Return the event bus, where one is named."""
        client = await self.clients.outlets.events()
        return await asked(client.describe_event_bus(Name=self.settings.event_bus))

    async def put_events(self) -> Permission:
        """Return whether we may put events on the bus; one without a source is taken by none."""
        client = await self.clients.outlets.events()
        entries: Any = [{"EventBusName": self.settings.event_bus, "Source": "", "DetailType": "", "Detail": ""}]
        answered = await asked(client.put_events(Entries=entries))
        failed = (answered.fields.get("Entries") or [{}])[0]
        if failed.get("ErrorCode"):
            answered = Answered(code=failed["ErrorCode"], text=failed.get("ErrorMessage", ""))
        return Permission("events:PutEvents", self.settings.event_bus, answered)

    async def publish(self, topic_arn: str) -> Permission:
        """Return whether we may publish to the topic; an empty message is published by none."""
        client = await self.clients.outlets.sns()
        return Permission("sns:Publish", topic_arn, await asked(client.publish(TopicArn=topic_arn, Message="")))


def redrive_of(attributes: Mapping[str, str]) -> tuple[str, int] | None:
    """Return the ARN of the queue that takes what was received too often, and how often that is; `None` for none."""
    try:
        policy = json.loads(attributes.get("RedrivePolicy", ""))
        return str(policy["deadLetterTargetArn"]), int(policy["maxReceiveCount"])
    except (ValueError, KeyError, TypeError):
        return None


def _first_of(answered: Answered) -> Answered:
    """Return what became of the one statement of a batch: its answer is 200 whatever that was."""
    responses = answered.fields.get("Responses") or [{}]
    error = responses[0].get("Error")
    return answered if error is None else Answered(code=str(error.get("Code", "")), text=str(error.get("Message", "")))
