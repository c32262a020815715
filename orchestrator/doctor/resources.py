"""The checks of the table, the queues and the bucket: that they are there, set up as they must be, and ours to use."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Final

from orchestrator.aws.inspection import NO_ANSWER, Answered, Inspection, Permission, redrive_of
from orchestrator.aws.provision import RETENTION_SECONDS, VISIBILITY_SECONDS, deviations, table_definition
from orchestrator.doctor import Finding, error, warning, well
from orchestrator.intake import UNKNOWN_RECEIVES_MAX

TIME_TO_LIVE: Final = "expires_at"
RECEIVES_MAX: Final = 100
"""Past so many, a message that takes nodes down does it for hours."""
_MISSING: Final = frozenset(
    {
        *("ResourceNotFoundException", "AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"),
        *("NoSuchBucket", "404", "NoSuchLifecycleConfiguration"),
    }
)
_PROVISION: Final = "orchestrator provision"
_OF_OPERATORS: Final = {
    "sqs:SendMessage": "`orchestrator submit` and `redrive`",
    "sqs:ReceiveMessage": "`orchestrator redrive` and `why`",
    "sqs:DeleteMessage": "`orchestrator redrive`",
    "sqs:ChangeMessageVisibility": "`orchestrator redrive` and `why`",
    "s3:DeleteObject": "this probe alone: the object stays until a lifecycle rule takes it",
}
"""Actions that nodes do not need on that resource → who does."""


async def of_table(found: Inspection) -> AsyncIterator[Finding]:
    """Check the table, its key, its indexes, what expires in it, its backups, and what we may do with it."""
    name, described = found.settings.table, await found.table()
    if described.code is not None:
        yield _unseen("table", name, described, "dynamodb:DescribeTable", "Resources.Table")
        return
    table = described.fields["Table"]
    if table["TableStatus"] != "ACTIVE":
        yield error("table", f"{name} is {table['TableStatus']}", "wait until it is ACTIVE")
    else:
        yield well("table", f"{name} is there")
    wanted = table_definition(name)
    wrong = [*deviations(table, wanted)]
    for each in wrong:
        named = next((index for index in _WITHOUT if f"index {index}" in each), None)
        if named is None:
            yield error("table key", each, "create another table, and name it: ORCHESTRATOR_TABLE")
            return
        yield error(f"index {named}", f"{each}: {_WITHOUT[named]}", _INDEXES)
    for index in _WITHOUT:
        if not any(f"index {index}" in each for each in wrong):
            yield well(f"index {index}", "is there")
    yield await _of_time_to_live(found)
    yield await _of_backups(found)
    partitions = {each["IndexName"]: each["KeySchema"][0]["AttributeName"] for each in wanted["GlobalSecondaryIndexes"]}
    there = {each["IndexName"] for each in table.get("GlobalSecondaryIndexes", ())}
    usable = {index: partition for index, partition in partitions.items() if index in there}
    async for permission in found.table_permissions(usable):
        yield _allowed(permission)


async def of_queues(found: Inspection) -> AsyncIterator[Finding]:
    """Check the queue, its dead-letter queue, and what we may do with both."""
    settings = found.settings
    dead_url, dead = await found.queue(settings.dead_letter_queue_name)
    url, queue = await found.queue(settings.queue)
    dead_arn = str(dead.fields.get("Attributes", {}).get("QueueArn", ""))
    for check, name, where, answered in (
        ("queue", settings.queue_name, url, queue),
        ("dead-letter queue", settings.dead_letter_queue_name, dead_url, dead),
    ):
        if where is None:
            yield _unseen(check, name, answered, "sqs:GetQueueUrl", "Resources.Queue, Resources.DeadLetterQueue")
        elif answered.code is not None:
            yield _untold(check, name, answered, "sqs:GetQueueAttributes")
        else:
            attributes = answered.fields["Attributes"]
            for each in _of_queue(check, name, attributes, dead_arn):
                yield each
        if where is not None:
            async for permission in found.queue_permissions(where, name):
                yield _allowed(permission, is_nodes=_is_of_node(permission.action, is_dead=check != "queue"))


async def of_bucket(found: Inspection) -> AsyncIterator[Finding]:
    """Check that objects can be written to the bucket and read again, and that what is left over goes some day."""
    name, is_there = found.settings.bucket, True
    async for permission in found.bucket_permissions():
        if permission.answered.code in _MISSING:
            is_there = False
            yield _unseen("bucket", name, permission.answered, permission.action, "Resources.Bucket")
        else:
            yield _allowed(permission, is_nodes=permission.action != "s3:DeleteObject")
    if not is_there:
        return
    rules = await found.lifecycle()
    if rules.code == "NoSuchLifecycleConfiguration" or (rules.code is None and not rules.fields.get("Rules")):
        yield warning(
            "bucket lifecycle",
            f"{name} has no rule that deletes anything: payloads of sessions long forgotten are kept, and paid for",
            "template: Resources.Bucket.Properties.LifecycleConfiguration (days after ORCHESTRATOR_RETENTION_DAYS)",
        )
    elif rules.code is not None:
        yield _untold("bucket lifecycle", name, rules, "s3:GetLifecycleConfiguration")
    else:
        yield well("bucket lifecycle", f"{name} has {len(rules.fields['Rules'])} rules")


async def of_payload_key(found: Inspection) -> AsyncIterator[Finding]:
    """Check that payloads can be encrypted, and read again, where the settings name a key for that."""
    if found.settings.payload_key_arn is None:
        return
    async for permission in found.payload_key_permissions(found.settings.payload_key_arn):
        if permission.answered.code is None or permission.answered.is_denied:
            yield _allowed(permission, is_nodes=True)
        else:
            yield error(
                "payload key",
                f"{permission.resource}: {permission.answered.code}: {permission.answered.text:.200}",
                "ORCHESTRATOR_PAYLOAD_KEY_ARN: enable that key, or name one that is there; nodes do not start",
            )


_INDEXES: Final = (
    "template: Resources.Table.Properties.GlobalSecondaryIndexes (or: aws dynamodb update-table); nodes do not start"
)
_WITHOUT: Final = {
    "by-owner": "the sessions of a node that dies are never taken over",
    "by-due": "sessions that wait for an instant never wake, and none is handed over",
    "by-state": "sessions cannot be listed, and blocked or limited ones are not found",
}


async def _of_time_to_live(found: Inspection) -> Finding:
    told = await found.time_to_live()
    if told.code is not None:
        return _untold("time to live", found.settings.table, told, "dynamodb:DescribeTimeToLive")
    description = told.fields["TimeToLiveDescription"]
    is_on = description.get("TimeToLiveStatus") in {"ENABLED", "ENABLING"}
    if is_on and description.get("AttributeName") == TIME_TO_LIVE:
        return well("time to live", f"items expire by `{TIME_TO_LIVE}`")
    return error(
        "time to live",
        f"nothing expires by `{TIME_TO_LIVE}`: the table grows for ever",
        f"aws dynamodb update-time-to-live --table-name {found.settings.table} "
        f"--time-to-live-specification Enabled=true,AttributeName={TIME_TO_LIVE}",
    )


async def _of_backups(found: Inspection) -> Finding:
    told, name = await found.backups(), found.settings.table
    if told.code is not None:
        return _untold("point-in-time recovery", name, told, "dynamodb:DescribeContinuousBackups")
    recovery = told.fields["ContinuousBackupsDescription"].get("PointInTimeRecoveryDescription", {})
    if recovery.get("PointInTimeRecoveryStatus") == "ENABLED":
        return well("point-in-time recovery", "is on")
    return warning(
        "point-in-time recovery",
        f"is off: what deletes items of {name} by mistake deletes sessions for good",
        f"aws dynamodb update-continuous-backups --table-name {name} "
        "--point-in-time-recovery-specification PointInTimeRecoveryEnabled=true",
    )


def _of_queue(check: str, name: str, attributes: Mapping[str, str], dead_arn: str) -> Iterator[Finding]:
    yield well(check, f"{name} is there")
    is_dead = check != "queue"
    if not is_dead:
        yield _of_redrive(name, attributes, dead_arn)
        visible = int(attributes.get("VisibilityTimeout", "0"))
        says = f"of {name} is {visible} s"
        if visible < VISIBILITY_SECONDS:
            mend = f"template: Resources.Queue.Properties.VisibilityTimeout: {VISIBILITY_SECONDS}"
            yield warning("visibility timeout", f"{says}: other readers than our nodes get messages twice", mend)
        else:
            yield well("visibility timeout", says)
    retention = int(attributes.get("MessageRetentionPeriod", "0"))
    if is_dead and retention < RETENTION_SECONDS:
        yield warning(
            "dead-letter retention",
            f"{name} keeps letters for {retention / 86_400:g} days, counted from when they were first sent",
            f"template: Resources.DeadLetterQueue.Properties.MessageRetentionPeriod: {RETENTION_SECONDS}",
        )
    if attributes.get("SqsManagedSseEnabled") != "true" and not attributes.get("KmsMasterKeyId"):
        yield warning(f"{check} encryption", f"{name} is not encrypted", "template: SqsManagedSseEnabled: true")


def _of_redrive(name: str, attributes: Mapping[str, str], dead_arn: str) -> Finding:
    redrive = redrive_of(attributes)
    policy = f'{{"deadLetterTargetArn": "{dead_arn}", "maxReceiveCount": 10}}'
    mend = f"template: Resources.Queue.Properties.RedrivePolicy: {policy}"
    if redrive is None:
        says = f"{name} has none: a message that fails in every node comes back until it expires, and is lost then"
        return error("redrive", says, mend)
    target, receives = redrive
    if dead_arn and target != dead_arn:
        return error("redrive", f"{name} sends its dead letters to {target}, and ours go to {dead_arn}", mend)
    if receives <= UNKNOWN_RECEIVES_MAX:
        says = (
            f"{name} gives up after {receives} receives, before a node says why ({UNKNOWN_RECEIVES_MAX + 1} at least)"
        )
        return error("redrive", says, mend)
    if receives > RECEIVES_MAX:
        return warning("redrive", f"{name} gives up after {receives} receives: a bad message does harm for long", mend)
    return well("redrive", f"after {receives} receives to {target.rpartition(':')[2]}")


def _is_of_node(action: str, *, is_dead: bool) -> bool:
    """Return whether a node does this: it writes dead letters, and reads the queue."""
    return (action == "sqs:SendMessage") is is_dead


def _allowed(permission: Permission, *, is_nodes: bool = True) -> Finding:
    check, answered = f"permission {permission.action}", permission.answered
    if answered.is_denied:
        says = f"{permission.action} is not allowed on {permission.resource}"
        mend = f"allow {permission.action} on it (template: the policies of Resources.TaskRole)"
        if is_nodes:
            return error(check, f"{says}: {answered.text}"[:300], mend)
        return warning(check, f"{says}; a node does not need it, {_OF_OPERATORS[permission.action]} does", mend)
    if answered.is_unsigned or answered.code == NO_ANSWER:
        return error(check, f"{answered.code}: {answered.text}", "see the findings on credentials and the clock")
    return well(check, f"on {permission.resource}")


def _unseen(check: str, name: str, answered: Answered, action: str, resource: str) -> Finding:
    """Return why something that must be there was not found."""
    if answered.code in _MISSING:
        return error(check, f"there is no {check} {name}", f"{_PROVISION} (template: {resource})")
    if answered.is_denied:
        return error(check, f"{action} is not allowed on {name}: {answered.text}"[:300], f"allow {action} on it")
    return error(check, f"{name}: {answered.code}: {answered.text}", "see the findings on credentials and the clock")


def _untold(check: str, name: str, answered: Answered, action: str) -> Finding:
    """Return that something is not known of what is there: no node asks that, so it may well be right."""
    if answered.is_denied:
        return warning(check, f"cannot be told: {action} is not allowed on {name}", f"allow {action}, to check this")
    return warning(check, f"cannot be told of {name}: {answered.code}: {answered.text}"[:300], "look at it by hand")
