"""A journal whose items somebody changed by hand: an error that names the place, and never quotes what stands there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from orchestrator.journal import UnreadableEvent
from orchestrator.session.events import StepCompleted
from tests.contract.stage import SESSION, OpenTable, append, events_of, recorded, started

if TYPE_CHECKING:
    from types_aiobotocore_dynamodb.type_defs import AttributeValueTypeDef

SECRET = "S3CR3T"
PLACE = {"PK": {"S": f"SESSION#{SESSION}"}, "SK": {"S": "EVENT#0000000002"}}
TEXT: AttributeValueTypeDef = {"S": SECRET}
CHANGES: list[dict[str, AttributeValueTypeDef | None]] = [
    {"at": None},
    {"at": TEXT},
    {"at": {"S": "2026-01-31T12:00:00.000"}},
    {"at": {"N": "5"}},
    {"epoch": None},
    {"epoch": TEXT},
    {"epoch": {"N": "1.5"}},
    {"epoch": {"BOOL": True}},
    {"node": None},
    {"event_id": None},
    {"status": None},
    {"status": {"S": "TELEPORTED"}},
    {"data": None},
    {"data": TEXT},
    {"data": {"S": f'{{"result": 1, "attempt": "{SECRET}"}}'}},
    {"operation": None},
]
"""Attributes in place of those that were written; `None` takes one away."""


async def test_an_item_that_somebody_changed_is_unreadable(opened: OpenTable) -> None:
    """Whoever reads the journal, or meets the item where the next event was to go, is told which one it is."""
    journal = opened.journal()
    second = recorded(2, StepCompleted("fetch", 1, 1))
    await append(journal, recorded(1, started()), second)
    written = await opened.wire_item(PLACE["PK"]["S"], PLACE["SK"]["S"])
    assert written is not None
    for change in CHANGES:
        changed: dict[str, AttributeValueTypeDef | None] = {**written, **change}
        item = {name: value for name, value in changed.items() if value is not None}
        await opened.clients.dynamodb.put_item(TableName=opened.name, Item=item)
        with pytest.raises(UnreadableEvent) as read:
            await events_of(journal)
        with pytest.raises(UnreadableEvent) as met:
            await append(journal, recorded(2, StepCompleted("fetch", 2, 1), node="node-b"))
        for refused in (read.value, met.value):
            assert SECRET not in f"{refused} {refused.__cause__}", change
    await opened.clients.dynamodb.put_item(TableName=opened.name, Item=written)
    assert second == (await events_of(journal))[1]
