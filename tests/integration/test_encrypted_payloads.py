"""With a payload key, real nodes leave no payload in clear, in the table, the bucket or a log; people see it all."""

import asyncio
import json
import signal
from pathlib import Path

from orchestrator.artifacts import ArtifactRef
from orchestrator.artifacts.s3 import S3Artifacts
from orchestrator.aws.bucket import Bucket
from orchestrator.aws.keys import MasterKeys
from orchestrator.encryption.kms import payload_cipher
from orchestrator.session.values import Json, JsonObject
from tests.contract.stage import patience_of
from tests.integration.deployment import Deployment, Worker, start_message

APP = "tests.integration.encrypted_app:app"
SECRET = "S3CR3T-4711-0815"
VAULT = "v-1"


async def everywhere(deployment: Deployment, *workers: Worker) -> dict[str, list[str]]:
    """Return where the secret is found: items, objects and lines of logs."""
    table, bucket = deployment.settings.table, deployment.settings.bucket
    items: list[str] = []
    async for page in deployment.clients.dynamodb.get_paginator("scan").paginate(TableName=table):
        items += [f"{item['PK']} {item['SK']}" for item in page["Items"] if SECRET in repr(item)]
        assert page["Items"]
    objects: list[str] = []
    listed = (await deployment.clients.s3.list_objects_v2(Bucket=bucket)).get("Contents", [])
    for found in listed:
        async with (await deployment.clients.s3.get_object(Bucket=bucket, Key=found["Key"]))["Body"] as body:
            raw = await body.read()
        if SECRET.encode() in raw or raw.startswith(b"\x1f\x8b"):
            objects.append(found["Key"])
    lines = [line for worker in workers for line in worker.raw if SECRET in line]
    return {"items": items, "objects": objects, "lines": lines}


NOWHERE: dict[str, list[str]] = {"items": [], "objects": [], "lines": []}


async def node(deployment: Deployment, arn: str) -> Worker:
    """Start a node that encrypts under that key, and has long payloads in the bucket."""
    return await deployment.start(
        APP,
        ORCHESTRATOR_PAYLOAD_KEY_ARN=arn,
        ORCHESTRATOR_HEARTBEAT_SECONDS="0.5",
        ORCHESTRATOR_INLINE_LIMIT_BYTES="2048",
    )


async def done(deployment: Deployment, *arguments: str, **environment: str) -> JsonObject:
    """Return what a command prints as JSON; it has to succeed."""
    code, out, err = await deployment.cli(*arguments, "--json", **environment)
    assert 0 == code, err
    printed: JsonObject = json.loads(out.splitlines()[-1])
    return printed


async def test_no_payload_stands_anywhere_in_clear(deployment: Deployment, tmp_path: Path) -> None:
    """Through a kill, a takeover and a rotated key; status and `--wait` show the result to whoever may decrypt."""
    kms, gate = await deployment.clients.outlets.kms(), tmp_path / "gate"
    old, new = [(await kms.create_key())["KeyMetadata"]["Arn"] for _ in range(2)]
    first = await node(deployment, old)
    await deployment.send(start_message("vault", {"secret": SECRET, "gate": str(gate)}, session_id=VAULT))
    await first.logged("session_accepted", session_id=VAULT)
    await deployment.send({"kind": "signal", "session_id": VAULT, "name": "tell", "data": {"told": SECRET}})
    await first.logged("approval_requested", session_id=VAULT)
    approve = ("approve", VAULT, "release", "--by", f"boss-{SECRET}", "--comment", f"ok {SECRET}")
    await done(deployment, *approve, ORCHESTRATOR_PAYLOAD_KEY_ARN=old)
    waited = await done(
        deployment, "submit", "double", "--input", json.dumps(SECRET), "--wait", ORCHESTRATOR_PAYLOAD_KEY_ARN=old
    )
    assert SECRET * 2 == waited["result"]
    await deployment.send(f"no JSON {SECRET} ".ljust(1_046_000, "."))
    letter, _ = (await deployment.dead_letters(1))[0]
    # All that is sent comes before the kill: a poll that is cut off swallows what the emulator hands it.
    await first.logged("message_delivered", kind="callback")
    # Kept in the inbox until a node comes: written while none lives.
    first.signal(signal.SIGKILL)
    await first.ended()
    for word in ("pause", "resume"):
        await done(deployment, word, VAULT, "--reason", f"for {SECRET}", ORCHESTRATOR_PAYLOAD_KEY_ARN=new)
    assert NOWHERE == await everywhere(deployment, first)

    second = await node(deployment, new)
    await second.logged("session_resumed", session_id=VAULT)
    gate.touch()
    await second.logged("session_ended", session_id=VAULT, status="COMPLETED")
    assert NOWHERE == await everywhere(deployment, first, second)

    # Who asks needs no setting: each ciphertext names its key.
    status = await done(deployment, "status", VAULT)
    result = status["result"]
    assert isinstance(result, dict)
    assert (f"ok {SECRET}", {"told": SECRET}, f"file of {SECRET}") == (
        result["comment"],
        result["told"],
        result["content"],
    )
    assert f"no JSON {SECRET}" == (await dead_letter(deployment, letter))[: 8 + len(SECRET)]
    assert {old, new} == await keys_of(deployment)

    for arn in (old, new):
        await kms.disable_key(KeyId=arn)
    await assert_shown_with_marks(deployment)


async def dead_letter(deployment: Deployment, letter: str) -> str:
    """Return the body that a dead letter refers to."""
    keys = MasterKeys(deployment.clients.outlets, patience_of("keys"))
    bucket = Bucket(deployment.clients.s3, deployment.settings.bucket, patience_of("bucket"))
    artifacts = S3Artifacts(bucket, payload_cipher(deployment.settings, keys, patience_of().clock))
    return (await artifacts.get(ArtifactRef.from_json(json.loads(letter)))).decode()


async def keys_of(deployment: Deployment) -> set[Json]:
    """Return the keys that the session's events stand under."""
    answer = await deployment.clients.dynamodb.scan(TableName=deployment.settings.table, ConsistentRead=True)
    encrypted = [bytes(item["encrypted"]["B"]) for item in answer["Items"] if "encrypted" in item]
    return {json.loads(each.partition(b"\n")[0])["key"] for each in encrypted}


async def assert_shown_with_marks(deployment: Deployment) -> None:
    """Who may read the table but not decrypt sees the structure, and a mark for each payload; no command pretends."""
    status, events, replay = await asyncio.gather(
        done(deployment, "status", VAULT),
        deployment.cli("events", VAULT, "--json"),
        deployment.cli("replay", VAULT, APP),
    )
    assert ("COMPLETED", {"encrypted": True}) == (status["state"], status["result"])
    statuses = [json.loads(line)["status"] for line in events[1].splitlines()]
    assert ("AGENT_INVOCATION_STARTED", "AGENT_BACKGROUND_TASK_COMPLETED") == (statuses[0], statuses[-1])
    assert SECRET not in events[1]
    assert (4, True) == (replay[0], "DisabledException" in replay[2])
