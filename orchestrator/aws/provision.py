"""Creates what the product needs and finds missing: the table with its indexes, the two queues, the bucket, the bus.

Safe to repeat. What exists is left as it is: in an account, the template of `deploy/` is the owner of these resources.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from orchestrator.aws.clients import Clients
from orchestrator.aws.faults import Refused, error_code
from orchestrator.aws.items import PARTITION_KEY, SORT_KEY
from orchestrator.settings import Settings

if TYPE_CHECKING:
    from types_aiobotocore_dynamodb.type_defs import CreateTableInputTypeDef, GlobalSecondaryIndexUnionTypeDef
    from types_aiobotocore_s3.type_defs import ServerSideEncryptionConfigurationTypeDef

RECEIVES_MAX: Final = 10
"""Deliveries before SQS itself moves a message to the dead-letter queue."""
VISIBILITY_SECONDS: Final = 30
RETENTION_SECONDS: Final = 1_209_600
"""Fourteen days, the longest SQS allows: a long outage must not eat messages."""

BY_OWNER: Final = "by-owner"
BY_DUE: Final = "by-due"
BY_STATE: Final = "by-state"

BUCKET_ENCRYPTION: Final[ServerSideEncryptionConfigurationTypeDef] = {
    "Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]
}
"""What S3 does by itself where nothing is set; an emulator has to be told."""

_EXISTS: Final = frozenset(
    {
        "ResourceInUseException",
        "QueueAlreadyExists",
        "QueueNameExists",
        "BucketAlreadyOwnedByYou",
        "BucketAlreadyExists",
        "ResourceAlreadyExistsException",
    }
)


async def provision(clients: Clients, settings: Settings) -> tuple[str, ...]:
    """Create what is missing and return what was created, in words; `()` when everything was there.

    Raises:
        Refused: AWS does not let us, or a name is taken by somebody else.
    """
    created: list[str] = []
    if await _created(clients.dynamodb.create_table(**table_definition(settings.table))):
        await clients.dynamodb.get_waiter("table_exists").wait(TableName=settings.table)
        await clients.dynamodb.update_time_to_live(
            TableName=settings.table,
            TimeToLiveSpecification={"Enabled": True, "AttributeName": "expires_at"},
        )
        created.append(f"table {settings.table}")
    created += await _queues(clients, settings)
    if await _bucket_is_missing(clients, settings.bucket):
        if clients.region == "us-east-1":
            bucket = clients.s3.create_bucket(Bucket=settings.bucket)
        else:
            bucket = clients.s3.create_bucket(
                Bucket=settings.bucket,
                CreateBucketConfiguration={"LocationConstraint": clients.region},  # type: ignore[typeddict-item]
            )
        if await _created(bucket):
            await clients.s3.put_bucket_encryption(
                Bucket=settings.bucket, ServerSideEncryptionConfiguration=BUCKET_ENCRYPTION
            )
            created.append(f"bucket {settings.bucket}")
    # The default bus is everybody's already, and an ARN may lead to another account's.
    if settings.event_bus not in {"", "default"} and not settings.event_bus.startswith("arn:"):
        events = await clients.outlets.events()
        if await _created(events.create_event_bus(Name=settings.event_bus)):
            created.append(f"event bus {settings.event_bus}")
    return tuple(created)


async def _queues(clients: Clients, settings: Settings) -> list[str]:
    created: list[str] = []
    if await _queue_is_missing(clients, settings.dead_letter_queue_name):
        await _created(
            clients.sqs.create_queue(
                QueueName=settings.dead_letter_queue_name,
                Attributes={"MessageRetentionPeriod": str(RETENTION_SECONDS), "SqsManagedSseEnabled": "true"},
            )
        )
        created.append(f"queue {settings.dead_letter_queue_name}")
    if await _queue_is_missing(clients, settings.queue_name):
        dead_letters = await clients.sqs.get_queue_url(QueueName=settings.dead_letter_queue_name)
        attributes = await clients.sqs.get_queue_attributes(
            QueueUrl=dead_letters["QueueUrl"], AttributeNames=["QueueArn"]
        )
        redrive = {"deadLetterTargetArn": attributes["Attributes"]["QueueArn"], "maxReceiveCount": RECEIVES_MAX}
        await _created(
            clients.sqs.create_queue(
                QueueName=settings.queue_name,
                Attributes={
                    "VisibilityTimeout": str(VISIBILITY_SECONDS),
                    "MessageRetentionPeriod": str(RETENTION_SECONDS),
                    "ReceiveMessageWaitTimeSeconds": "20",
                    "SqsManagedSseEnabled": "true",
                    "RedrivePolicy": json.dumps(redrive),
                },
            )
        )
        created.append(f"queue {settings.queue_name}")
    return created


async def _queue_is_missing(clients: Clients, name: str) -> bool:
    try:
        await clients.sqs.get_queue_url(QueueName=name)
    except ClientError as error:
        if error_code(error) in {"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"}:
            return True
        raise Refused(f"queue {name}: {error}") from error
    return False


async def _bucket_is_missing(clients: Clients, name: str) -> bool:
    # Asked first: us-east-1 answers 200 to the creation of a bucket that is there already (S3, CreateBucket).
    try:
        await clients.s3.head_bucket(Bucket=name)
    except ClientError as error:
        return error_code(error) == "404"
    return False


async def _created(creation: Awaitable[object]) -> bool:
    try:
        await creation
    except ClientError as error:
        if error_code(error) in _EXISTS:
            return False
        raise Refused(str(error)) from error
    return True


def table_definition(name: str) -> CreateTableInputTypeDef:
    """Return the table with its three sparse indexes: `by-owner`, `by-due`, `by-state`."""
    attributes = (PARTITION_KEY, SORT_KEY, "owner", "due_shard", "wake_at", "state_key", "updated_at")
    return {
        "TableName": name,
        "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [{"AttributeName": a, "AttributeType": "S"} for a in attributes],
        "KeySchema": [
            {"AttributeName": PARTITION_KEY, "KeyType": "HASH"},
            {"AttributeName": SORT_KEY, "KeyType": "RANGE"},
        ],
        "GlobalSecondaryIndexes": [
            _index(BY_OWNER, "owner", PARTITION_KEY),
            _index(BY_DUE, "due_shard", "wake_at"),
            _index(BY_STATE, "state_key", "updated_at", "session_type", "tenant", "state", "created_at"),
        ],
    }


def _index(name: str, partition: str, sort: str, *included: str) -> GlobalSecondaryIndexUnionTypeDef:
    return {
        "IndexName": name,
        "KeySchema": [
            {"AttributeName": partition, "KeyType": "HASH"},
            {"AttributeName": sort, "KeyType": "RANGE"},
        ],
        "Projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": list(included)}
        if included
        else {"ProjectionType": "KEYS_ONLY"},
    }


def deviations(described: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    """Yield what of a table's description is not as nodes need it, in words; nothing for one that is."""
    if _key(described) != _key(wanted):
        yield f"its key is not {PARTITION_KEY} (HASH) and {SORT_KEY} (RANGE)"
    standing = {index["IndexName"]: index for index in described.get("GlobalSecondaryIndexes", ())}
    for index in wanted["GlobalSecondaryIndexes"]:
        name = index["IndexName"]
        found = standing.get(name)
        if found is None:
            yield f"it has no index {name}"
        elif _key(found) != _key(index):
            yield f"the key of its index {name} is not {' and '.join(attribute for attribute, _ in _key(index))}"
        elif found.get("IndexStatus", "ACTIVE") in {"CREATING", "DELETING"}:
            yield f"its index {name} is {found['IndexStatus']}"
        elif not _projects(found, index):
            yield f"its index {name} does not project {', '.join(index['Projection']['NonKeyAttributes'])}"


def _key(described: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(each["AttributeName"], each["KeyType"]) for each in described["KeySchema"]]


def _projects(standing: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    projection = standing["Projection"]
    needed = set(wanted["Projection"].get("NonKeyAttributes", ()))
    return projection["ProjectionType"] == "ALL" or needed <= set(projection.get("NonKeyAttributes", ()))
