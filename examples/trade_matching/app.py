"""Trade matching: one durable session for each confirmation that arrives as a PDF. `make demo` runs it.

The handler reads like a script, and survives like a database: whatever process dies, another one goes on from the last
recorded operation. What each operation does is below it, and a repetition of any of them is harmless.
"""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from typing import Final, Literal

from aiobotocore.session import get_session
from pydantic import BaseModel

from examples.trade_matching.confirmations import (
    Confirmation,
    Difference,
    Side,
    UnreadableDocument,
    differences,
    extract,
)
from orchestrator import NonRetryable, Orchestrator, RetryPolicy, S3Object, SessionContext, current_invocation

TRADES: Final = "trades"
"""The example's own table: one item a trade, its key `trade_reference`."""
MODEL_SECONDS: Final = float(os.environ.get("MODEL_SECONDS", "1"))
MODEL_CALLS_MAX: Final = 4
RETRY: Final = RetryPolicy(max_attempts=5)

app = Orchestrator()
aws = get_session()


class Document(BaseModel):
    """Where a confirmation lies, and what tells its content from every other."""

    bucket: str
    key: str
    etag: str


class Outcome(BaseModel):
    """What a document led to: the first one of a trade waits for the other side's, the second is matched with it."""

    trade_reference: str
    side: Side
    status: Literal["MATCHED", "MISMATCHED", "WAITING"]
    differences: tuple[Difference, ...] = ()


def document_of(created: S3Object) -> Document:
    return Document(bucket=created.bucket, key=created.key, etag=created.etag or "")


def content_of(document: S3Object | Document) -> str:
    """Declare what is one document: whatever its name, the same content is the same session."""
    return f"content:{document.etag}"


@app.on_s3_object(suffix=".pdf", transform=document_of, key=content_of)
@app.session("confirm-trade")
async def confirm_trade(ctx: SessionContext, document: Document) -> Outcome:
    answer = await ctx.invoke_agent("extractor", document, timeout=timedelta(minutes=5), retry=RETRY)
    mine = Confirmation.model_validate(answer)
    theirs = await ctx.step("meet", meet, mine, retry=RETRY)
    if theirs is None:
        return Outcome(trade_reference=mine.trade_reference, side=mine.side, status="WAITING")
    return await ctx.step("record", record, compare(mine, theirs), retry=RETRY)


@app.agent("extractor")
class Extractor:
    """Stands in for a model: a parser does the reading, the pause is the time that a model would think.

    As a model's endpoint would, it takes a few calls at a time and lets the others wait.
    """

    def __init__(self) -> None:
        self._calls = asyncio.Semaphore(MODEL_CALLS_MAX)

    async def invoke_async(self, prompt: object, **_: object) -> Confirmation:
        document = Document.model_validate(prompt)
        async with self._calls, aws.create_client("s3") as s3:
            stored = await s3.get_object(Bucket=document.bucket, Key=document.key)
            pdf = await stored["Body"].read()
            await asyncio.sleep(MODEL_SECONDS)
            try:
                return await asyncio.to_thread(extract, pdf)
            except UnreadableDocument as error:
                # The document will not get better: the session fails now, with this reason, and without more attempts.
                raise NonRetryable(str(error)) from error


async def meet(mine: Confirmation) -> Confirmation | None:
    """Leave our side's word with the trade; return the other side's if that came first, else `None`."""
    word = {mine.side: mine.model_dump_json(), "first_side": mine.side}
    trade = await keep_first(mine.trade_reference, **word)
    first_side = trade["first_side"]
    return None if first_side == mine.side else Confirmation.model_validate_json(trade[first_side])


def compare(mine: Confirmation, theirs: Confirmation) -> Outcome:
    found = differences(mine, theirs)
    status: Final = "MISMATCHED" if found else "MATCHED"
    return Outcome(trade_reference=mine.trade_reference, side=mine.side, status=status, differences=found)


async def record(outcome: Outcome) -> Outcome:
    """Record the trade's result, and who found it; return the result that stands."""
    key = current_invocation().idempotency_key
    trade = await keep_first(outcome.trade_reference, result=outcome.model_dump_json(), recorded_by=key)
    return Outcome.model_validate_json(trade["result"])


async def keep_first(trade_reference: str, **words: str) -> dict[str, str]:
    """Write those attributes that the trade does not have yet; return the trade as it stands then.

    DynamoDB applies the updates of one item one after another, so of two sides that arrive at the same instant exactly
    one becomes `first_side`, and the other sees both words. What stands is never replaced, so a step that runs again,
    after a crash or for a document sent twice, changes nothing and gets the same answer.
    """
    async with aws.create_client("dynamodb") as dynamodb:
        answer = await dynamodb.update_item(
            TableName=TRADES,
            Key={"trade_reference": {"S": trade_reference}},
            UpdateExpression="SET " + ", ".join(f"#{name} = if_not_exists(#{name}, :{name})" for name in words),
            ExpressionAttributeNames={f"#{name}": name for name in words},
            ExpressionAttributeValues={f":{name}": {"S": word} for name, word in words.items()},
            ReturnValues="ALL_NEW",
        )
    return {name: value["S"] for name, value in answer["Attributes"].items()}
