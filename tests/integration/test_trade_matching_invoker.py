"""A function with a limit of a third of what an agent takes, called again and again: one run for each document."""

import asyncio
from pathlib import Path
from typing import Final

import aiohttp

from examples.trade_matching.app import TRADES, Document, Outcome
from examples.trade_matching.demo import BUCKET, DOCUMENTS, prepare
from examples.trade_matching.invoker import invoked
from orchestrator.cli.client import open_client
from orchestrator.settings import load
from tests.emulators import REGION
from tests.integration.deployment import Deployment, Worker

APP: Final = "examples.trade_matching.app:app"
# As 60 s are to 160 to 280 s.
LIMIT_SECONDS: Final = 0.5
MODEL_SECONDS: Final = 1.5
TRADE: Final = "AWB-2026-0304"


async def test_a_document_runs_once_though_its_callers_are_cut_off_and_it_is_uploaded_under_two_names(
    deployment: Deployment,
) -> None:
    """Each call is told the id of the session that runs; a copy under another name is the same document."""
    async with open_client(load()) as client:
        await prepare(client)
    worker = await deployment.start(APP, MODEL_SECONDS=str(MODEL_SECONDS), AWS_DEFAULT_REGION=REGION)
    bank = await uploaded(deployment, "bank/awb-2026-0304.pdf", "bank/awb-2026-0304.pdf")
    first = await session_of(worker, 1)
    async with aiohttp.ClientSession() as http:
        calls = await invoked(http, worker.base_url, bank, limit_seconds=LIMIT_SECONDS, calls_max=9)
        assert len(calls) >= 3, "it was cut off, and called again"
        assert {(200, first)} == {(call.status, call.session_id) for call in calls}
        assert [None] * (len(calls) - 1) == [call.outcome for call in calls[:-1]]
        assert Outcome(trade_reference=TRADE, side="bank", status="WAITING") == calls[-1].outcome

        await uploaded(deployment, "bank/awb-2026-0304.pdf", "bank/Copy of 0304 (1).pdf")
        await worker.logged("duplicate_absorbed", session_id=first)
        slip = await uploaded(deployment, "counterparty/awb-2026-0304.pdf", "counterparty/sent by mail.pdf")
        second = await session_of(worker, 2)
        await uploaded(deployment, "counterparty/awb-2026-0304.pdf", "counterparty/awb-2026-0304.pdf")
        calls = await invoked(http, worker.base_url, slip, limit_seconds=LIMIT_SECONDS, calls_max=9)
    assert {(200, second)} == {(call.status, call.session_id) for call in calls}
    await worker.logged("duplicate_absorbed", session_id=second)
    outcome = calls[-1].outcome
    assert outcome is not None
    assert ("MISMATCHED", ["amount"]) == (outcome.status, [each.field for each in outcome.differences])

    assert 2 == len(await worker.logged("session_accepted"))
    for session_id in (first, second):
        statuses = await deployment.statuses(session_id)
        assert (1, 1) == (statuses.count("AGENT_STARTED"), statuses.count("AGENT_COMPLETED"))
        assert "AGENT_RETRYING" not in statuses
    trade = await deployment.clients.dynamodb.get_item(TableName=TRADES, Key={"trade_reference": {"S": TRADE}})
    assert {"S": f"{second}/record"} == trade["Item"]["recorded_by"]


async def uploaded(deployment: Deployment, file: str, key: str) -> Document:
    """Put one of the example's documents into the bucket under that name; S3 tells the queue of it."""
    body = await asyncio.to_thread(Path(DOCUMENTS, file).read_bytes)
    answer = await deployment.clients.s3.put_object(Bucket=BUCKET, Key=key, Body=body)
    return Document(bucket=BUCKET, key=key, etag=answer["ETag"].strip('"'))


async def session_of(worker: Worker, number: int) -> str:
    """Return the id of the n-th session that was accepted, once it is."""
    return str((await worker.logged("session_accepted", times=number))[number - 1]["session_id"])
