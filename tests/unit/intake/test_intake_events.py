"""Events of EventBridge: which triggers they match, and what their handlers receive."""

from typing import Any

import pytest
from intake_stage import event, in_sns, made, s3_event
from pydantic import BaseModel

from orchestrator import Event, Orchestrator, RegistrationError, SessionContext
from orchestrator.errors import Poison
from orchestrator.session.values import derive_session_id
from orchestrator.triggers import fits


def app_with(**trigger: Any) -> Orchestrator:
    """Return an application with one trigger on events, of session type `order`."""
    app = Orchestrator()

    @app.on_event(**trigger)
    @app.session("order")
    async def order(ctx: SessionContext, given: Any) -> None: ...

    return app


def matches(body: dict[str, Any], **trigger: Any) -> bool:
    """Return whether the trigger starts a session for the event; then nothing is refused."""
    found = made(app_with(**trigger), body)
    assert bool(found.starts) is not bool(found.refusals)
    return bool(found.starts)


def test_the_handler_receives_the_event_and_its_id_is_the_key() -> None:
    """The same, inside of an SNS envelope."""
    body = event({"n": 1})
    (start,) = made(app_with(), body).starts
    assert derive_session_id("default", "order", "e-1") == start.session_id
    given = Event.model_validate(start.input)
    assert ("e-1", "acme.shop", "Order Placed", {"n": 1}) == (given.id, given.source, given.detail_type, given.detail)
    assert ("2026-01-01T12:00:00Z", "eu-central-1", "111122223333", ()) == (
        given.time,
        given.region,
        given.account,
        given.resources,
    )
    assert [start] == made(app_with(), in_sns(body)).starts


class Order(BaseModel):
    item: str


def test_a_transform_makes_the_input_that_the_handler_takes() -> None:
    """A model, or what it is made of."""
    app = Orchestrator()

    @app.on_event(source="acme.shop", transform=lambda e: Order(item=e.detail["item"]))
    @app.session("models")
    async def models(ctx: SessionContext, order: Order) -> None: ...

    @app.on_event(detail_type="Order*", transform=lambda e: {"item": e.detail["item"]})
    @app.session("objects")
    async def objects(ctx: SessionContext, order: Order) -> None: ...

    @app.on_event()
    @app.session("events")
    async def events(ctx: SessionContext, order: Order) -> None: ...

    found = made(app, event({"item": "tea"}))
    assert [("models", {"item": "tea"}), ("objects", {"item": "tea"})] == [
        (start.session_type, start.input) for start in found.starts
    ]
    assert [("INVALID_INPUT", "on_event() of session type 'events': input.item: Field required")] == found.refusals


def test_an_event_of_an_unknown_source_is_refused_as_one_without_a_trigger() -> None:
    """By its source and its detail type."""
    assert [("NO_TRIGGER", "no trigger matches source 'acme.other', detail-type 'Order Placed'")] == made(
        app_with(source="acme.shop"), event(source="acme.other")
    ).refusals


def test_an_event_that_is_none_is_refused_by_its_field() -> None:
    """As if it were sent by hand."""
    for name in ("id", "detail"):
        body = event()
        del body[name]
        with pytest.raises(Poison, match=f"^{name}: Field required"):
            made(app_with(), body)


def test_what_s3_tells_the_bus_reaches_triggers_on_events_too() -> None:
    """Also what starts nothing as an object: its tags changed, it was removed."""
    app = app_with(source="aws.s3", match={"detail": {"object": {"key": [{"prefix": "in/"}]}}})

    @app.on_s3_object(prefix="in/")
    @app.session("document")
    async def document(ctx: SessionContext, given: Any) -> None: ...

    kinds = ("Object Created", "Object Deleted", "Object Tags Added")
    found = [made(app, s3_event("in/a", detail_type=kind)) for kind in kinds]
    assert [["document", "order"], ["order"], ["order"]] == [
        sorted(start.session_type for start in each.starts) for each in found
    ]
    assert "NO_TRIGGER" == made(app, s3_event("a", detail_type="Object Tags Added")).refusals[0][0]


@pytest.mark.parametrize(
    ("trigger", "expected"),
    [
        ({}, True),
        ({"source": "acme.shop"}, True),
        ({"source": "acme.*"}, True),
        ({"source": "acme"}, False),
        ({"detail_type": "Order Placed"}, True),
        ({"detail_type": "order*"}, False),
        ({"match": lambda e: e.detail["n"] > 1}, True),
        ({"match": lambda e: e.detail["n"] > 2}, False),
        ({"match": {"source": ["acme.shop"], "detail-type": ["Order Placed"]}}, True),
        ({"match": {"detail": {"n": [2]}}, "source": "zoo"}, False),
    ],
)
def test_a_trigger_matches_by_source_type_and_more(trigger: dict[str, Any], expected: bool) -> None:
    """Case-sensitive, with wildcards."""
    assert expected is matches(event({"n": 2}), **trigger)


def test_a_match_that_raises_refuses_the_event_for_this_trigger() -> None:
    """It might have been meant."""
    ((reason, text),) = made(app_with(match=lambda e: e.detail["n"]), event()).refusals
    assert ("TRIGGER_FAILED", "on_event() of session type 'order': match raised KeyError: 'n'") == (reason, text)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ({"a": ["x", "y"]}, True),
        ({"a": ["z"]}, False),
        ({"a": [{"prefix": "x"}], "n": [1]}, True),
        ({"a": [{"suffix": "z"}]}, False),
        ({"n": [True]}, False),
        ({"yes": [1]}, False),
        ({"yes": [True], "none": [None]}, True),
        ({"absent": [None]}, False),
        ({"absent": [{"exists": False}], "a": [{"exists": True}]}, True),
        ({"absent": {"deeper": [{"exists": False}]}}, True),
        ({"absent": {"deeper": ["x"]}}, False),
        ({"a": {"deeper": ["x"]}}, False),
        ({"tags": ["red"]}, True),
        ({"tags": ["blue", {"prefix": "gr"}]}, True),
        ({"a": [{"anything-but": ["y", "z"]}]}, True),
        ({"a": [{"anything-but": "x"}]}, False),
        ({"absent": [{"anything-but": "x"}]}, False),
        ({"deep": {"er": {"n": [2, 3]}}}, True),
        ({}, True),
    ],
)
def test_a_pattern_means_what_it_means_in_a_rule(pattern: dict[str, Any], expected: bool) -> None:
    """EventBridge User Guide, "Event patterns"."""
    value = {"a": "x", "n": 1, "yes": True, "none": None, "tags": ["red", "green"], "deep": {"er": {"n": 3}}}
    assert expected is fits(pattern, value)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"source": None}, "source None is no text"),
        ({"match": "x"}, "match 'x' is neither a function nor a pattern"),
        ({"match": {"detail": {"n": 1}}}, "match.detail.n 1 is no list of values; write [1]"),
        ({"match": {"detail": {"n": [{"numeric": [">", 1]}]}}}, "anything-but, exists, prefix, suffix is known"),
        ({"match": {"a": [{"prefix": 5}]}}, "match.a: prefix 5 is no text"),
        ({"match": {"a": [{"exists": "no"}]}}, "match.a: exists 'no' is neither true nor false"),
        ({"match": {"a": [[1]]}}, "match.a [1] is no text, number"),
        ({"transform": "x"}, "transform 'x' is no function"),
        ({"key": 5}, "key 5 is no function"),
        ({"tenant": "a b"}, "tenant 'a b' is not an id"),
    ],
)
def test_a_trigger_declared_wrongly_is_refused_when_it_is_declared(wrong: dict[str, Any], text: str) -> None:
    """With the argument that is wrong, and what would be right."""
    with pytest.raises(RegistrationError) as caught:
        app_with(**wrong)
    assert text in str(caught.value)


def test_a_transform_that_would_have_to_be_awaited_is_refused() -> None:
    """It is called while a message is read."""

    async def transform(given: Event) -> str:
        return given.id

    with pytest.raises(RegistrationError, match="transform must be a plain function"):
        app_with(transform=transform)


def test_a_trigger_on_what_is_no_session_handler_is_refused() -> None:
    """It is known when the application is loaded."""
    app = Orchestrator()

    @app.on_event(source="acme")
    async def forgotten(ctx: SessionContext) -> None: ...

    with pytest.raises(RegistrationError, match=r"on_event\(source='acme'\) on .*forgotten, which is no @session"):
        app.triggers()
