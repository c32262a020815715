"""A doctor finds what is broken, each thing alone, and says what mends it; of what is well it says so."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from actors import Clock, SystemClock
from orchestrator.aws.provision import BY_DUE, BY_OWNER, BY_STATE, table_definition
from orchestrator.aws.table import Table
from orchestrator.building import note_clock
from orchestrator.cluster import NodeRecord
from orchestrator.cluster.memory import MemoryNodes
from orchestrator.doctor import Level
from orchestrator.doctor.resources import of_bucket, of_payload_key, of_queues, of_table
from orchestrator.doctor.surroundings import of_nodes, of_outlets, of_traces
from orchestrator.intake import UNKNOWN_RECEIVES_MAX
from orchestrator.machine import this_machine
from orchestrator.settings import Settings
from tests.contract.fault_proxy import Answer, Fault, FaultProxy, Forward, Request, fault_proxy, refusal
from tests.contract.operations_stage import Check, Operated, operated, wrong
from tests.contract.stage import clients_of, patience_of
from tests.emulators import Emulator, fresh_account

ALWAYS = 1_000
DENIED = refusal("AccessDeniedException")
S3_DENIED = Answer(403, b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>", {"Content-Type": "text/xml"})


@pytest.fixture
async def deployed(ministack: Emulator, proxy: FaultProxy) -> AsyncIterator[Operated]:
    """A deployment behind the wire."""
    async with operated(ministack, through=proxy.endpoint_url) as running:
        yield running


def denied_if(is_meant: Callable[[Request], bool]) -> Fault:
    """Deny those requests, and pass on the others."""

    async def answer(request: Request, raw: bytes, forward: Forward) -> Answer:
        return await DENIED(request, raw, forward) if is_meant(request) else await forward(raw)

    return answer


def on_queue(name: str) -> Callable[[Request], bool]:
    """Return whether a request is about the queue of that name."""
    return lambda request: str(request.body.get("QueueUrl", "")).endswith(f"/{name}")


async def s3_denied(_request: Request, _raw: bytes, _forward: Forward) -> Answer:
    """Deny a request to S3."""
    return S3_DENIED


async def test_of_a_deployment_that_is_well_nothing_is_wrong_nor_changed(deployed: Operated, proxy: FaultProxy) -> None:
    """What `orchestrator provision` makes has no errors; backups and a lifecycle rule are for an account to decide."""
    findings = await deployed.findings()
    assert [] == wrong(findings)
    assert {"point-in-time recovery", "bucket lifecycle", "nodes"} == {
        name for name, _ in wrong(findings, Level.WARNING)
    }
    assert all(each.mend for each in findings if each.level is not Level.OK)

    # And looking changes nothing: no item, no message, and of the bucket's object nothing is left.
    scan = await deployed.clients.dynamodb.scan(TableName=deployed.settings.table)
    assert [] == scan["Items"]
    for name in (deployed.settings.queue_name, deployed.settings.dead_letter_queue_name):
        assert [] == await deployed.held(name)
    listing = await deployed.clients.s3.list_objects_v2(Bucket=deployed.settings.bucket)
    assert 0 == listing["KeyCount"]
    assert proxy.of("PUT", "DELETE")


# --- permissions -----------------------------------------------------------------------------------------------------

QUEUE = "orchestrator-sessions"
DEAD = f"{QUEUE}-dlq"


PERMISSIONS: Final[list[tuple[Check, str, Fault, str, Level]]] = [
    (of_table, "DescribeTable", DENIED, "table", Level.ERROR),
    (of_table, "GetItem", DENIED, "permission dynamodb:GetItem", Level.ERROR),
    (of_table, "PutItem", DENIED, "permission dynamodb:PutItem", Level.ERROR),
    (of_table, "UpdateItem", DENIED, "permission dynamodb:UpdateItem", Level.ERROR),
    (of_table, "DeleteItem", DENIED, "permission dynamodb:DeleteItem", Level.ERROR),
    (of_table, "Query", DENIED, "permission dynamodb:Query", Level.ERROR),
    (
        of_table,
        "Query",
        denied_if(lambda r: r.body.get("IndexName") == BY_DUE),
        "permission dynamodb:Query",
        Level.ERROR,
    ),
    (
        of_table,
        "BatchExecuteStatement",
        denied_if(lambda r: r.statements[0]["Statement"].startswith("INSERT")),
        "permission dynamodb:PartiQLInsert",
        Level.ERROR,
    ),
    (
        of_table,
        "BatchExecuteStatement",
        denied_if(lambda r: r.statements[0]["Statement"].startswith("UPDATE")),
        "permission dynamodb:PartiQLUpdate",
        Level.ERROR,
    ),
    (of_table, "DescribeTimeToLive", DENIED, "time to live", Level.WARNING),
    (of_table, "DescribeContinuousBackups", DENIED, "point-in-time recovery", Level.WARNING),
    (of_queues, "GetQueueUrl", DENIED, "queue", Level.ERROR),
    (of_queues, "GetQueueAttributes", DENIED, "queue", Level.WARNING),
    (of_queues, "ReceiveMessage", denied_if(on_queue(QUEUE)), "permission sqs:ReceiveMessage", Level.ERROR),
    (of_queues, "ReceiveMessage", denied_if(on_queue(DEAD)), "permission sqs:ReceiveMessage", Level.WARNING),
    (of_queues, "DeleteMessageBatch", denied_if(on_queue(QUEUE)), "permission sqs:DeleteMessage", Level.ERROR),
    (of_queues, "ChangeMessageVisibilityBatch", DENIED, "permission sqs:ChangeMessageVisibility", Level.ERROR),
    (of_queues, "SendMessageBatch", denied_if(on_queue(DEAD)), "permission sqs:SendMessage", Level.ERROR),
    (of_queues, "SendMessageBatch", denied_if(on_queue(QUEUE)), "permission sqs:SendMessage", Level.WARNING),
    (of_bucket, "PUT", s3_denied, "permission s3:PutObject", Level.ERROR),
    (of_bucket, "GET", s3_denied, "permission s3:GetObject", Level.ERROR),
    (of_bucket, "DELETE", s3_denied, "permission s3:DeleteObject", Level.WARNING),
    (of_outlets, "PutEvents", DENIED, "event bus", Level.ERROR),
    (of_outlets, "DescribeEventBus", DENIED, "event bus", Level.ERROR),
]


async def test_each_permission_that_is_missing_is_named(deployed: Operated, proxy: FaultProxy) -> None:
    """With the resource and the action; as an error where nodes need it, else with who does."""
    for check, operation, fault, name, level in PERMISSIONS:
        proxy.arm(operation, fault, times=ALWAYS)
        findings = await deployed.found_by(check)
        proxy.disarm()
        named = [says for each, says in wrong(findings, level) if each == name]
        assert named, (operation, findings)
        assert all("not allowed" in says for says in named)
        assert (level is Level.ERROR) is bool(wrong(findings)), (operation, findings)


async def test_the_probe_of_the_bucket_is_encrypted_as_the_bucket_says(deployed: Operated) -> None:
    """Past the bucket's own key it would not see that this refuses us."""
    asked: list[set[str]] = []

    def note(params: dict[str, Any], **_: object) -> None:
        asked.append({*params})

    deployed.clients.s3.meta.events.register("provide-client-params.s3.PutObject", note)
    assert [] == wrong(await deployed.found_by(of_bucket))
    assert [{"Bucket", "Key", "Body"}] == asked


# --- what is missing, or set up otherwise ----------------------------------------------------------------------------


async def remade(deployed: Operated, name: str, **changes: Any) -> dict[str, str]:
    """Return the errors with another table in the place of the deployment's."""
    definition: Any = {**table_definition(name), **changes}
    indexes = definition["GlobalSecondaryIndexes"]
    used = {key["AttributeName"] for each in (definition, *indexes) for key in each["KeySchema"]}
    kept = [each for each in definition["AttributeDefinitions"] if each["AttributeName"] in used]
    await deployed.clients.dynamodb.create_table(**{**definition, "AttributeDefinitions": kept})
    settings = deployed.settings.model_copy(update={"table": name})
    return dict(wrong(await replace(deployed, settings=settings).found_by(of_table)))


async def test_a_table_that_is_not_as_nodes_need_it_is_found_with_what_that_costs(deployed: Operated) -> None:
    """Without an index, with one that projects too little, with another key; what expires, a new one does not know."""
    indexes: Any = [*table_definition("t")["GlobalSecondaryIndexes"]]
    for index in (BY_OWNER, BY_DUE, BY_STATE):
        others = [each for each in indexes if each["IndexName"] != index]
        errors = await remade(deployed, f"without-{index}", GlobalSecondaryIndexes=others)
        assert {f"index {index}", "time to live"} == set(errors)
        assert errors[f"index {index}"].startswith(f"it has no index {index}: ")
    poor = [*indexes[:2], {**indexes[2], "Projection": {"ProjectionType": "KEYS_ONLY"}}]
    errors = await remade(deployed, "poor", GlobalSecondaryIndexes=poor)
    assert "does not project session_type" in errors[f"index {BY_STATE}"]
    flat = await remade(deployed, "flat", KeySchema=[{"AttributeName": "PK", "KeyType": "HASH"}])
    assert {"table key": "its key is not PK (HASH) and SK (RANGE)"} == flat


async def test_what_is_not_there_is_found_by_the_name_that_is_set(deployed: Operated) -> None:
    """And what makes it."""
    topic = "arn:aws:sns:us-east-1:1:no"
    cases: list[tuple[str, str, Check, str, str]] = [
        ("table", "no-such-table", of_table, "table", "there is no table no-such-table"),
        ("queue", "no-such-queue", of_queues, "queue", "there is no queue no-such-queue"),
        ("bucket", "no-such-bucket", of_bucket, "bucket", "there is no bucket no-such-bucket"),
        ("event_bus", "no-bus", of_outlets, "event bus", "there is no event bus no-bus: nobody hears of ends there"),
        ("approval_topic_arn", topic, of_outlets, "approval topic", f"there is no topic {topic}"),
    ]
    for setting, value, check, name, says in cases:
        settings = deployed.settings.model_copy(update={setting: value})
        assert says == dict(wrong(await replace(deployed, settings=settings).found_by(check)))[name]


async def test_queues_that_are_set_up_otherwise_are_found(deployed: Operated) -> None:
    """A message that fails in every node must go somewhere, and not before a node has said why."""
    await deployed.clients.sqs.create_queue(QueueName="elsewhere")
    dead, elsewhere = await deployed.arn(DEAD), await deployed.arn("elsewhere")

    def redrive(target: str, receives: int) -> dict[str, str]:
        return {"RedrivePolicy": f'{{"deadLetterTargetArn": "{target}", "maxReceiveCount": {receives}}}'}

    cases: list[tuple[str, dict[str, str], str, Level, str]] = [
        (QUEUE, {"RedrivePolicy": ""}, "redrive", Level.ERROR, "has none"),
        (QUEUE, redrive(dead, UNKNOWN_RECEIVES_MAX), "redrive", Level.ERROR, "before a node says why"),
        (QUEUE, redrive(dead, 1_000), "redrive", Level.WARNING, "gives up after 1000 receives"),
        (QUEUE, redrive(elsewhere, 10), "redrive", Level.ERROR, "sends its dead letters to"),
        (QUEUE, {"VisibilityTimeout": "5"}, "visibility timeout", Level.WARNING, "is 5 s"),
        (QUEUE, {"SqsManagedSseEnabled": "false"}, "queue encryption", Level.WARNING, "is not encrypted"),
        (
            DEAD,
            {"MessageRetentionPeriod": "345600"},
            "dead-letter retention",
            Level.WARNING,
            "keeps letters for 4 days",
        ),
    ]
    for name, attributes, check, level, says in cases:
        changed: Any = attributes
        await deployed.clients.sqs.set_queue_attributes(QueueUrl=await deployed.url(name), Attributes=changed)
        found = dict(wrong(await deployed.found_by(of_queues), level))
        assert says in found[check], found


# --- clocks and credentials ------------------------------------------------------------------------------------------


class Off(SystemClock):
    """A machine whose clock is wrong."""

    def __init__(self, by: timedelta) -> None:
        self._by = by

    def now(self) -> datetime:
        """Return what this machine takes for the time."""
        return datetime.now(UTC) + self._by


async def test_a_clock_that_is_off_by_an_hour_is_told_by_how_much(deployed: Operated, proxy: FaultProxy) -> None:
    """AWS refuses what is signed so, and so nothing else is asked: the clock is what to mend."""
    proxy.arm("DescribeTable", refusal("InvalidSignatureException"), times=ALWAYS)
    for hours, way, early in ((1, "ahead of", "early"), (-1, "behind", "late")):
        findings = await deployed.findings(clock=Off(timedelta(hours=hours)))
        found = {each.check: each for each in findings}
        # The second may turn while we look.
        told = found["clock"].says.replace("3599", "3600").replace("3601", "3600")
        says = f"this machine's clock is 3600 s {way} AWS's: timers fire {early}, and signatures are refused"
        assert (says, Level.ERROR) == (told, found["clock"].level)
        assert ("set the clock", Level.ERROR) == (found["credentials"].mend, found["credentials"].level)
        assert {"clock", "credentials", "trace export"} == set(found)


async def test_a_node_whose_clock_is_wrong_says_so_when_it_starts(deployed: Operated) -> None:
    """By how much: the table's description tells what time it is at AWS."""
    patience = patience_of()
    table = Table(deployed.clients.dynamodb, deployed.clients.signed_dynamodb, deployed.settings.table, patience)
    at_aws = await table.check()
    with this_machine() as machine:
        for hours, said in ((0, []), (1, [3_600]), (-1, [-3_600])):
            with capture_logs() as lines:
                note_clock(at_aws, replace(machine, clock=Off(timedelta(hours=hours))))
            assert said == [round(line["seconds_ahead"] / 60) * 60 for line in lines if line["event"] == "clock_wrong"]


async def test_credentials_that_are_refused_are_told_of_once(deployed: Operated, proxy: FaultProxy) -> None:
    """Not again with every resource."""
    proxy.arm("DescribeTable", refusal("UnrecognizedClientException"), times=ALWAYS)
    assert ["credentials"] == [name for name, _ in wrong(await deployed.findings())]


async def test_a_region_without_an_answer_is_told_of_once(deployed: Operated, ministack: Emulator) -> None:
    """By the address that nothing answers at."""
    async with fault_proxy(ministack.endpoint_url) as gone:
        address = gone.endpoint_url
    async with clients_of(address, fresh_account()) as clients:
        ((check, says),) = wrong(await Operated(clients, Settings()).findings())
    assert ("connection", f"nothing answers at {address}") == (check, says)


# --- nodes and traces ------------------------------------------------------------------------------------------------


class Beating(MemoryNodes):
    """A registry in which one node beats whenever somebody looks."""

    async def all(self) -> AsyncIterator[NodeRecord]:
        """See `Nodes.all`."""
        async for node in super().all():
            if node.node_id == "alive" and node.declared_dead_at is None:
                await self.beat("alive", sessions=3)
            yield node


async def said_of(nodes: MemoryNodes, clock: Clock | None = None) -> list[tuple[str, Level]]:
    """Return what is said of these nodes."""
    found = of_nodes(nodes, clock or SystemClock(), heartbeat_seconds=0.02)
    return [(each.says.partition(",")[0], each.level) async for each in found]


async def test_nodes_that_beat_are_told_from_those_that_do_not() -> None:
    """One that is registered and silent died, or cannot reach the table; one that left in order is not missed."""
    nodes, begun = Beating(), datetime(2026, 1, 1, tzinfo=UTC)
    assert [("none is registered: what is accepted waits", Level.WARNING)] == await said_of(nodes)
    for name in ("alive", "silent", "left"):
        await nodes.register(NodeRecord(name, 0, f"{name}.test:8080", begun, "0.1.0"))
    await nodes.declare_dead("left", at=begun, beat=None)
    expected = [("alive at alive.test:8080", Level.OK), ("silent at silent.test:8080", Level.WARNING)]
    assert expected == await said_of(nodes)
    await nodes.declare_dead("alive", at=begun, beat=None)
    assert ("none of those that are registered beats", Level.ERROR) == (await said_of(nodes))[-1]


@pytest.mark.parametrize(
    ("status", "level", "says"),
    [(200, Level.OK, "answers"), (404, Level.ERROR, "answers 404"), (0, Level.ERROR, "nothing answers at")],
)
async def test_a_collector_that_does_not_take_traces_is_found(
    monkeypatch: pytest.MonkeyPatch, status: int, level: Level, says: str
) -> None:
    """An empty export is sent to it, as the exporter would."""
    asked: list[tuple[str, str, bytes]] = []

    async def take(request: web.Request) -> web.Response:
        asked.append((request.path, request.headers["Content-Type"], await request.read()))
        return web.Response(status=status)

    application = web.Application()
    application.router.add_post("/{path:.*}", take)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    if status == 0:
        await runner.cleanup()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{host}:{port}/")
    (found,) = [each async for each in of_traces()]
    await runner.cleanup()
    assert level is found.level
    assert says in found.says
    assert asked == ([("/v1/traces", "application/x-protobuf", b"")] if status else [])


async def test_without_a_collector_there_is_nothing_to_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Telemetry is off where no endpoint is set."""
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", raising=False)
    assert [Level.OK] == [each.level async for each in of_traces()]


@pytest.mark.parametrize("off", [{"OTEL_TRACES_EXPORTER": "none"}, {"OTEL_SDK_DISABLED": "true"}])
async def test_where_traces_are_not_wanted_their_collector_is_not_asked(off: dict[str, str]) -> None:
    """As the exporter itself reads the variables: metrics may go to that endpoint."""
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", **off}
    assert [Level.OK] == [each.level async for each in of_traces(environ)]


@pytest.mark.parametrize(
    ("status", "level", "says"),
    [
        (200, Level.OK, "answers"),
        (400, Level.OK, "answers"),
        (403, Level.ERROR, "xray:PutTraceSegments is not allowed"),
        (500, Level.ERROR, "answers 500"),
    ],
)
async def test_x_ray_that_refuses_our_signature_is_found(status: int, level: Level, says: str) -> None:
    """The probe is signed, as what the exporter sends; that it is empty is no fault of the deployment."""
    url = "https://xray.eu-central-1.amazonaws.com/v1/traces"
    asked: list[str] = []

    def status_of(whom: str) -> int:
        asked.append(whom)
        return status

    (found,) = [each async for each in of_traces({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": url}, status_of)]
    assert (level, True, [url]) == (found.level, says in found.says, asked)


async def test_a_payload_key_is_tried_where_one_is_set(deployed: Operated, proxy: FaultProxy) -> None:
    """Making a data key and opening it, each alone; a key that is disabled says so, and nothing is said of none."""
    assert [] == await deployed.found_by(of_payload_key)
    kms = await deployed.clients.outlets.kms()
    arn = (await kms.create_key())["KeyMetadata"]["Arn"]
    encrypting = replace(deployed, settings=deployed.settings.model_copy(update={"payload_key_arn": arn}))
    assert [Level.OK, Level.OK] == [each.level for each in await encrypting.found_by(of_payload_key)]
    for action in ("GenerateDataKey", "Decrypt"):
        proxy.arm(action, DENIED)
        ((check, says),) = wrong(await encrypting.found_by(of_payload_key))
        assert action in f"{check} {says}"
        assert arn in says
    await kms.disable_key(KeyId=arn)
    ((check, says),) = wrong(await encrypting.found_by(of_payload_key))
    assert ("payload key", True) == (check, "DisabledException" in says)
