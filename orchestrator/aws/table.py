"""The one table, as the rest of the product uses it: conditional writes, consistent reads, pages to the last.

Every call is tried until DynamoDB decides it; what it decides against comes back as a value or a named exception.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar, cast

from botocore.exceptions import ClientError, NoCredentialsError

from orchestrator.aws import items
from orchestrator.aws.faults import FAULTS, REPEATED, Patience, Refused, Verdict, error_code, verdict_of
from orchestrator.aws.group_commit import BATCH_WRITES_MAX, Done, Fate, GroupCommit, Rejected, Undecided, Unmet
from orchestrator.aws.items import PARTITION_KEY, SORT_KEY, Insert, Item, Key, TransactWrite, Write
from orchestrator.aws.provision import deviations, table_definition
from orchestrator.aws.signed import SignedClient
from orchestrator.errors import OrchestratorError
from orchestrator.session.values import Json

if TYPE_CHECKING:
    from types_aiobotocore_dynamodb import DynamoDBClient
    from types_aiobotocore_dynamodb.type_defs import QueryInputTypeDef

T = TypeVar("T")


TRANSACTION_WRITES_MAX: Final = 100
"""Actions of one `TransactWriteItems` (DynamoDB, quotas)."""


class ConditionUnmet(OrchestratorError):
    """A conditional write met something else; `item` is what stands there now, `None` for nothing."""

    code = "CONDITION_UNMET"

    def __init__(self, key: Key, item: Item | None) -> None:
        super().__init__(f"{key.pk} {key.sk} is not as expected")
        self.key = key
        self.item = item


DONE: Final = Done()


class Table:
    """Conditional writes and consistent reads on one table."""

    def __init__(
        self,
        client: DynamoDBClient,
        signed: SignedClient,
        name: str,
        patience: Patience,
        *,
        batch_writes_max: int = BATCH_WRITES_MAX,
    ) -> None:
        """Wrap the SDK's client, and the one beside it that a busy node asks all the time: for batches and queries."""
        self._client = client
        self._signed = signed
        self._name = name
        self._patience = patience
        self._commit = GroupCommit(self._send, patience, batch_writes_max=batch_writes_max)

    async def run(self) -> None:
        """Carry the writes until cancelled; the owner of the table keeps this running as a task."""
        await self._commit.run()

    async def check(self) -> datetime | None:
        """Return what time it is at AWS, if the table is there as we need it; `None` where AWS does not tell.

        Raises:
            Refused: it is not there, or we may not see it, or its key is another or an index missing: with that alone
                a node would run, and never wake a session.
        """
        described = await self._insist(lambda: self._client.describe_table(TableName=self._name))
        wrong = next(deviations(described["Table"], table_definition(self._name)), None)
        if wrong is not None:
            raise Refused(f"table {self._name}: {wrong}; `orchestrator doctor` says what to mend")
        try:
            return parsedate_to_datetime(described["ResponseMetadata"]["HTTPHeaders"]["date"])
        except (KeyError, ValueError):
            return None

    async def write(self, write: Write) -> Item | None:
        """Make one conditional write durable; return the new item where DynamoDB told it.

        Raises:
            ConditionUnmet: the condition does not hold (the item that stands there was read consistently).
            Refused: the write is malformed or not permitted.
        """
        try:
            fate = await self._commit.submit(write)
        except (ClientError, NoCredentialsError) as error:
            raise Refused(f"{self._name}: {error}") from error
        except ValueError as error:
            # Its text may quote what cannot be put on the wire.
            raise Refused(f"{self._name}: {type(error).__name__}: {write.key.sk} holds what has no JSON") from None
        if isinstance(fate, Done):
            return fate.item
        raise ConditionUnmet(write.key, fate.item or await self.get(write.key))

    async def write_all(self, writes: Sequence[TransactWrite]) -> None:
        """Make all writes or none, in one transaction of at most 100.

        A repetition after a lost answer may find its own writes: whoever asks for what cannot be redone can tell them.

        Raises:
            ConditionUnmet: the condition of one of them does not hold (the first such one is named).
            Refused: the transaction is malformed or not permitted.
        """
        assert len(writes) <= TRANSACTION_WRITES_MAX, f"{len(writes)} writes in one transaction"
        token = uuid.uuid4().hex
        actions = [items.transact_action(self._name, write) for write in writes]

        async def transact() -> None:
            try:
                await self._client.transact_write_items(TransactItems=actions, ClientRequestToken=token)
            except self._client.exceptions.TransactionCanceledException as error:
                reasons = [reason.get("Code", "None") for reason in error.response.get("CancellationReasons", [])]
                for write, reason in zip(writes, reasons, strict=False):
                    if FAULTS.get(reason) is Verdict.CONDITION:
                        raise ConditionUnmet(write.key, await self.get(write.key)) from None
                raise _Conflicted(reasons) from error

        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._patience.insist(transact)
            except _Conflicted as conflict:
                if any(FAULTS.get(reason) not in REPEATED for reason in conflict.reasons if reason != "None"):
                    raise Refused(f"{self._name}: {conflict.__cause__}") from conflict
                await self._patience.clock.sleep(self._patience.backoff(attempt))
            except ClientError as error:
                raise Refused(f"{self._name}: {error}") from error

    async def get(self, key: Key) -> Item | None:
        """Return the item as of now (a consistent read); `None` where there is none."""
        request = {
            "TableName": self._name,
            "Key": items.to_wire({PARTITION_KEY: key.pk, SORT_KEY: key.sk}),
            "ConsistentRead": True,
        }
        return await self._insist(partial(self._item, request))

    async def delete(self, key: Key) -> None:
        """Remove the item; nothing happens where there is none."""
        await self._insist(
            lambda: self._client.delete_item(
                TableName=self._name, Key=items.to_wire({PARTITION_KEY: key.pk, SORT_KEY: key.sk})
            )
        )

    def partition(self, pk: str, *, sk_after: str, sk_until: str) -> AsyncIterator[Item]:
        """Yield the items of a partition with `sk_after < SK <= sk_until`, in order, by consistent reads."""
        return self._pages(
            {
                "TableName": self._name,
                "ConsistentRead": True,
                # BETWEEN is inclusive at both ends; the zero character makes the smallest key after `sk_after`.
                "KeyConditionExpression": f"{PARTITION_KEY} = :pk AND {SORT_KEY} BETWEEN :low AND :high",
                "ExpressionAttributeValues": items.to_wire({":pk": pk, ":low": f"{sk_after}\x00", ":high": sk_until}),
            }
        )

    def index(
        self, name: str, partition: tuple[str, str], *, until: tuple[str, str] | None = None, newest_first: bool = False
    ) -> AsyncIterator[Item]:
        """Yield the items of one partition of an index, in its order; the index lags behind the table.

        `partition` is (attribute, value); `until` is (attribute, greatest value that is wanted).
        """
        names = {"#p": partition[0]}
        values: Item = {":p": partition[1]}
        condition = "#p = :p"
        if until is not None:
            names["#s"] = until[0]
            values[":until"] = until[1]
            condition += " AND #s <= :until"
        return self._pages(
            {
                "TableName": self._name,
                "IndexName": name,
                "KeyConditionExpression": condition,
                "ExpressionAttributeNames": names,
                "ExpressionAttributeValues": items.to_wire(values),
                "ScanIndexForward": not newest_first,
            }
        )

    async def _pages(self, request: QueryInputTypeDef) -> AsyncIterator[Item]:
        while True:
            page, last_key = await self._insist(partial(self._page, request))
            for item in page:
                yield item
            if last_key is None:
                return
            request["ExclusiveStartKey"] = last_key

    async def _item(self, request: Mapping[str, object]) -> Item | None:
        # Not by the SDK: it takes a body that is no JSON for an answer without fields, as if nothing were there.
        wire = (await self._signed.call("GetItem", request)).get("Item")
        return None if wire is None else _parsed(wire)

    async def _page(self, request: QueryInputTypeDef) -> tuple[list[Item], items.Wire | None]:
        """Return a page's items, and the key behind which the next one begins; `None` for the last page."""
        answer = await self._signed.call("Query", request)
        rows, last_key = answer.get("Items"), answer.get("LastEvaluatedKey")
        if not isinstance(rows, list) or not isinstance(last_key, dict | None):
            raise ConnectionError("the answer to a query holds no items")
        return [_parsed(row) for row in rows], cast("items.Wire", last_key) or None

    async def _insist(self, call: Callable[[], Awaitable[T]]) -> T:
        """Return the call's answer; raises `Refused` for an error that patience does not mend."""
        try:
            return await self._patience.insist(call)
        except (ClientError, NoCredentialsError) as error:
            hint = "; `orchestrator provision` creates it" if verdict_of(error) is Verdict.MISSING else ""
            raise Refused(f"table {self._name}: {error}{hint}") from error

    async def _send(self, writes: Sequence[Write]) -> Sequence[Fate]:
        if len(writes) == 1:
            return [await self._send_alone(writes[0])]
        statements = [items.batch_statement(self._name, write) for write in writes]
        answer = await self._signed.call("BatchExecuteStatement", {"Statements": statements})
        responses = answer.get("Responses")
        if not isinstance(responses, list) or len(responses) != len(writes):
            raise ConnectionError(f"half an answer to {len(writes)} statements")
        self._patience.reachability.succeeded()
        return [self._fate(response) for response in responses]

    async def _send_alone(self, write: Write) -> Fate:
        try:
            if isinstance(write, Insert):
                await self._client.put_item(**items.lone_put(self._name, write))
                fate: Fate = Done()
            else:
                answer = await self._client.update_item(**items.lone_update(self._name, write))
                if "Attributes" not in answer:
                    # The SDK takes a body that is no JSON for an answer without fields.
                    raise ConnectionError("the answer to an update holds no item")
                fate = Done(items.from_wire(answer["Attributes"]))
        except ClientError as error:
            if FAULTS.get(error_code(error)) is not Verdict.CONDITION:
                raise
            standing = error.response.get("Item")
            fate = Unmet(items.from_wire(standing) if isinstance(standing, dict) and standing else None)
        self._patience.reachability.succeeded()
        return fate

    def _fate(self, response: Json) -> Fate:
        error = response.get("Error") if isinstance(response, dict) else None
        if not isinstance(error, dict):
            return DONE
        code, text = str(error.get("Code", "")), str(error.get("Message", ""))
        raised = ClientError({"Error": {"Code": code, "Message": text}}, "BatchExecuteStatement")
        verdict = FAULTS.get(code, Verdict.REFUSED)
        if verdict is Verdict.CONDITION:
            return Unmet()
        if verdict in REPEATED:
            self._patience.note(raised)
            return Undecided(raised)
        return Rejected(raised)


class _Conflicted(Exception):
    """A transaction was cancelled for other reasons than its conditions."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__(", ".join(reasons))
        self.reasons = reasons


def _parsed(wire: object) -> Item:
    """Return the item of an answer. Raises `ConnectionError` for what is none: the call is made again."""
    try:
        return items.from_wire(cast("items.Wire", wire))
    except (AttributeError, TypeError, ValueError, ArithmeticError) as error:
        # No service of AWS writes such a thing: something on the way did.
        raise ConnectionError(f"an item that is none: {type(error).__name__}") from None
