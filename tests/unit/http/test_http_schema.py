"""Requests made from the OpenAPI document, good ones and bad ones: every answer is one that the document announces.

The requests come from a seed and are kept in no database: the same tests make the same requests. (Run alone or among
others they may differ: hypothesis takes constants from the modules that are loaded.)
"""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from http_stage import Stage, sample_app, stage
from hypothesis import HealthCheck, settings
from schemathesis.checks import CheckFunction
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from actors import SystemClock
from orchestrator.deliveries_memory import Promise
from orchestrator.http.openapi import document
from orchestrator.http.routes import ROUTES
from orchestrator.http.streams import Polling

EXAMPLES_MAX = 15
START_SECONDS_MAX = 20.0


@pytest.fixture(scope="module")
def node_url() -> Iterator[str]:
    """A node in a thread of its own: who makes the requests blocks."""
    loop, ready, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    found: list[Stage] = []

    async def serve() -> None:
        clock = SystemClock()
        async with stage(clock=clock, news=Polling(clock)) as node:
            node.deliveries.sessions |= {"s", "0"}
            node.deliveries.callbacks["0"] = Promise("s", token="0")
            await node.has("s")
            await node.has("0")
            found.append(node)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), name="node")
    thread.start()
    assert ready.wait(START_SECONDS_MAX)
    yield found[0].url
    loop.call_soon_threadsafe(stop.set)
    thread.join(START_SECONDS_MAX)
    loop.close()
    assert [] == [line for line in found[0].logs if line["log_level"] in {"error", "critical"}]


# The document needs no server, so each operation is a test of its own. It needs no key either: what a key opens has
# tests of its own, and a request with a wrong one would end before it says anything.
schema = schemathesis.openapi.from_dict(
    document(ROUTES, sample_app(), needs_key=False), config=SchemathesisConfig(seed=1)
)


@schema.parametrize()
@settings(
    max_examples=EXAMPLES_MAX,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_one_that_the_document_announces(case: schemathesis.Case[Any], node_url: str) -> None:
    """Status, type, headers and body; what the document allows is taken, what it forbids is refused."""
    untold: list[CheckFunction] = []
    if "cursor" in (case.query or {}):
        # A cursor is one only if a listing returned it, and no schema can say that.
        untold.append(positive_data_acceptance)
    if any(value != value.strip() for value in map(str, (case.headers or {}).values())):
        # White space around a header's value is no part of it (RFC 9110, section 5.5): what arrives is another value.
        untold.append(negative_data_rejection)
    case.call_and_validate(base_url=node_url, excluded_checks=untold)
