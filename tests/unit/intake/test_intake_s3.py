"""S3 notifications: which object they are about, on both ways, and what a trigger makes of it."""

import sys
from typing import Any
from urllib.parse import quote_plus

import pytest
from intake_stage import BUCKET, in_sns, made, record, records, s3_event

from orchestrator import Orchestrator, S3Object, SessionContext
from orchestrator.errors import Poison
from orchestrator.intake import Start
from orchestrator.session.values import derive_session_id


def app_with(**trigger: Any) -> Orchestrator:
    """Return an application with one trigger on objects, of session type `document`."""
    app = Orchestrator()

    @app.on_s3_object(**trigger)
    @app.session("document")
    async def document(ctx: SessionContext, given: Any) -> None:
        pass

    return app


def object_in(start: Start) -> S3Object:
    return S3Object.model_validate(start.input)


KEYS = {
    "plus": ("a+b.pdf", "a%2Bb.pdf"),
    "space": ("a b.pdf", "a+b.pdf"),
    "an escaped plus as text": ("a%2Bb.pdf", "a%252Bb.pdf"),
    "unicode": ("Zürich/日本語 🍵.pdf", quote_plus("Zürich/日本語 🍵.pdf")),
    "1,024 bytes": ("é" * 512, quote_plus("é" * 512)),
    "not encoded at all": ("in/a.pdf", "in/a.pdf"),
}


@pytest.mark.parametrize(("key", "encoded"), KEYS.values(), ids=KEYS)
def test_a_key_arrives_as_people_wrote_it_on_both_ways(key: str, encoded: str) -> None:
    """S3 encodes it, EventBridge does not; and both are one session."""
    app = app_with()
    (direct,) = made(app, records(record(encoded))).starts
    (by_bus,) = made(app, s3_event(key)).starts
    assert (key, key) == (object_in(direct).key, object_in(by_bus).key)
    assert (
        direct.session_id == by_bus.session_id == derive_session_id("default", "document", f"s3://{BUCKET}/{key}#0055")
    )


@pytest.mark.parametrize("key", ["", "x" * 1_025, "%ff"])
def test_what_is_no_key_is_refused_and_named(key: str) -> None:
    """No object of S3 has it."""
    ((reason, text),) = made(app_with(), records(record(key))).refusals
    assert ("INVALID_MESSAGE", True) == (reason, "Records.0.s3.object.key: " in text), text


def test_the_object_is_the_same_on_both_ways() -> None:
    """But for the time, of which EventBridge tells the seconds only."""
    app = app_with()
    direct_names: dict[str, Any] = {"versionId": "v", "eTag": "e", "size": 5, "sequencer": "00AB"}
    names_on_the_bus: dict[str, Any] = {"version-id": "v", "etag": "e", "size": 5, "sequencer": "00AB"}
    (direct,) = made(app, records(record("a", **direct_names))).starts
    (by_bus,) = made(app, s3_event("a", **names_on_the_bus)).starts
    expected = S3Object(bucket=BUCKET, key="a", version_id="v", etag="e", sequencer="00AB", size=5)
    assert [expected, expected] == [
        object_in(each).model_copy(update={"event_time": None}) for each in (direct, by_bus)
    ]


@pytest.mark.parametrize("none", ["null", "", None])
def test_a_bucket_without_versions_tells_writes_by_their_sequencer(none: str | None) -> None:
    """What stands for no version is the same for every write."""
    (first,) = made(app_with(), records(record("a", versionId=none, sequencer="1"))).starts
    (second,) = made(app_with(), records(record("a", versionId=none, sequencer="2"))).starts
    assert object_in(first).version_id is None
    assert first.session_id != second.session_id


def test_records_of_two_buckets_start_a_session_each() -> None:
    """One message may tell of many objects."""
    both = made(app_with(), records(record("a"), record("a", bucket="others")))
    assert [(BUCKET, "a"), ("others", "a")] == [(object_in(s).bucket, object_in(s).key) for s in both.starts]
    assert 2 == len({start.session_id for start in both.starts})


def test_a_record_that_is_wrong_stops_no_other() -> None:
    """The dead letter names the two that started nothing, each with its place."""
    body = records(record("a.pdf"), {"eventSource": "aws:s3"}, record("a.txt"), record("b.pdf"))
    found = made(app_with(suffix=".pdf"), body)
    assert ["a.pdf", "b.pdf"] == [object_in(start).key for start in found.starts]
    assert ["INVALID_MESSAGE", "NO_TRIGGER"] == [reason for reason, _ in found.refusals]
    assert "Records.1.eventName: Field required" == found.refusals[0][1]
    assert f"Records.2: no trigger matches s3://{BUCKET}/a.txt" == found.refusals[1][1]


@pytest.mark.parametrize(
    "body",
    [
        {"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": BUCKET},
        records(),
        records(record("a", name="ObjectRemoved:Delete")),
        records(record("a", name="ObjectRestore:Completed")),
        s3_event("a", detail_type="Object Deleted", reason="DeleteObject"),
    ],
    ids=["test", "no records", "removed", "restored", "removed, by EventBridge"],
)
def test_what_creates_no_object_starts_nothing_and_is_no_error(body: dict[str, Any]) -> None:
    """Whoever subscribes a queue to everything does no wrong."""
    assert made(app_with(), body) == made(app_with(), in_sns(body))
    assert ([], []) == (made(app_with(), body).starts, made(app_with(), body).refusals)


def test_several_triggers_start_their_sessions_and_one_that_fails_stops_no_other() -> None:
    """What is wrong is said of the trigger and of the field."""
    app = Orchestrator()

    @app.on_s3_object(prefix="in/", transform=lambda created: {"pages": created.key})
    @app.session("counts")
    async def counts(ctx: SessionContext, given: dict[str, int]) -> None: ...

    @app.on_s3_object(prefix="in/", transform=lambda created: int(created.key))
    @app.session("raises")
    async def raises(ctx: SessionContext, given: object) -> None: ...

    @app.on_s3_object(prefix="in/", transform=lambda created: object())
    @app.session("odd")
    async def odd(ctx: SessionContext, given: object) -> None: ...

    @app.on_s3_object(transform=lambda created: created.key)
    @app.session("keys")
    async def keys(ctx: SessionContext, key: str) -> None: ...

    found = made(app, records(record("in/a")))
    assert [("keys", "in/a")] == [(start.session_type, start.input) for start in found.starts]
    assert ["INVALID_INPUT", "TRIGGER_FAILED", "INVALID_INPUT"] == [reason for reason, _ in found.refusals]
    texts = [text for _, text in found.refusals]
    assert texts[0].startswith("Records.0: on_s3_object(prefix='in/') of session type 'counts': input.pages: Input")
    assert "of session type 'raises': transform raised ValueError: invalid literal" in texts[1]
    assert "of session type 'odd': input: " in texts[2]


def test_two_triggers_of_one_session_type_are_one_session() -> None:
    """The first one that matches says what of."""
    app = Orchestrator()

    @app.on_s3_object(prefix="in/", transform=lambda created: "first")
    @app.on_s3_object(suffix=".pdf", transform=lambda created: "declared before")
    @app.session("document")
    async def document(ctx: SessionContext, given: str) -> None: ...

    assert ["declared before"] == [start.input for start in made(app, records(record("in/a.pdf"))).starts]


def test_a_trigger_says_whose_session_it_is_and_by_what_it_is_known() -> None:
    """The same content under another name is the same session, and the same as that of a start message."""
    app = app_with(tenant=lambda created: created.key.partition("/")[0], key=lambda created: created.etag)
    starts = made(
        app, records(record("acme/a", eTag="e"), record("acme/b", eTag="e"), record("zoo/a", eTag="e"))
    ).starts
    acme, zoo = (derive_session_id(tenant, "document", "e") for tenant in ("acme", "zoo"))
    assert [("acme", acme), ("acme", acme), ("zoo", zoo)] == [(start.tenant, start.session_id) for start in starts]
    assert "acme" == made(app_with(tenant="acme"), records(record("a"))).starts[0].tenant


@pytest.mark.parametrize(
    ("trigger", "reason", "text"),
    [
        (
            {"key": lambda created: created.etag},
            "TRIGGER_FAILED",
            "key: a text of 1 to 1024 characters is needed, not None",
        ),
        ({"key": lambda created: "x" * 1_025}, "TRIGGER_FAILED", "key: a text"),
        ({"key": lambda created: "\ud800"}, "TRIGGER_FAILED", "key: a text"),
        ({"tenant": lambda created: created.key}, "INVALID_MESSAGE", "tenant: 'a b' is not an id"),
        ({"transform": lambda created: created / 0}, "TRIGGER_FAILED", "transform raised TypeError"),
        ({"transform": lambda created: sys.exit(3)}, "TRIGGER_FAILED", "transform raised SystemExit"),
    ],
)
def test_what_a_trigger_may_not_give_is_refused(trigger: dict[str, Any], reason: str, text: str) -> None:
    """By the name of what gave it."""
    ((actual, said),) = made(app_with(**trigger), records(record("a+b"))).refusals
    assert (reason, True) == (actual, text in said), said


def test_what_is_wrong_inside_of_envelopes_says_where() -> None:
    """Else one looks for it in the letter itself."""
    with pytest.raises(Poison, match=r"^Message: Message: the body is not JSON") as caught:
        made(app_with(), in_sns(in_sns("{bad")))
    assert "INVALID_JSON" == caught.value.reason
    ((_, text),) = made(app_with(prefix="in/"), in_sns(records(record("a")))).refusals
    assert f"Message: Records.0: no trigger matches s3://{BUCKET}/a" == text
    with pytest.raises(Poison, match=r"^Message: Message: Message: Message: envelopes are nested too deep"):
        made(app_with(), in_sns(in_sns(in_sns(in_sns(records())))))
