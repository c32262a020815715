"""What `docs/migrating/` shows runs: what comes after always, what was before where it can, and both come out equal."""

import asyncio
import json
import re
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiobotocore.session import get_session
from aws_durable_execution_sdk_python_testing import DurableFunctionTestRunner
from aws_durable_execution_sdk_python_testing.scheduler import Scheduler

from docs.migrating.celery import after as celery_after
from docs.migrating.lambda_durable import after as durable_after
from docs.migrating.lambda_durable import before as durable_before
from docs.migrating.lambda_durable import shop
from docs.migrating.step_functions import after as claim_after
from docs.migrating.temporal import after as temporal_after
from orchestrator import testing
from orchestrator.session.values import Json
from tests.emulators import REGION, Emulator, access_key, fresh_account

FOLDER = Path(__file__).parents[2] / "docs" / "migrating"
PAGES = [page for page in sorted(FOLDER.glob("*.md")) if page.name != "README.md"]
MODULES = sorted(path for path in FOLDER.rglob("*.*") if path.suffix in {".py", ".json"})
POLL_SECONDS = 0.02
ROLE = "arn:aws:iam::123456789012:role/claims"
ORDER = {"items": ["tea", "cup"]}
ANSWERS = {"approval create callback id": "yes", "label": "L-1"}
"""AWS's runner names the callback of a `wait_for_callback` like that."""


@pytest.mark.parametrize("module", MODULES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_page_shows_the_very_code_that_runs(module: Path) -> None:
    """Each module and definition stands in one page, letter for letter, under a link to it."""
    link = f"]({module.relative_to(FOLDER)})"
    language = {"py": "python", "json": "json"}[module.suffix[1:]]
    shown = [page.read_text() for page in PAGES if link in page.read_text()]
    assert 1 == len(shown), module
    assert f"```{language}\n{module.read_text()}```" in shown[0]


def test_code_that_no_test_runs_is_marked_so() -> None:
    """A block of Python that is no module of this folder says above itself that it is not run here."""
    modules = {path.read_text() for path in MODULES}
    for page in PAGES:
        for above, block in re.findall(r"([^\n]*)\n+```python\n(.*?)```", page.read_text(), re.DOTALL):
            assert block in modules or "not run here" in above, (page.name, above)


async def test_an_order_comes_out_the_same_as_a_lambda_durable_function_and_as_a_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same result, and the same done to the world, on AWS's own runner and on ours."""
    monkeypatch.setenv("DURABLE_EXECUTION_TIME_SCALE", "0.00001")
    # That scales waits alone; retries and polls pause for a second at least.
    monkeypatch.setattr(Scheduler, "call_later", _sooner(Scheduler.call_later))
    shop.effects.clear()
    before, effects = _durable_order(), sorted(shop.effects)
    shop.effects.clear()
    async with testing.environment(durable_after.app) as env:
        session = await env.start("order", ORDER)
        await env.skip(timedelta(hours=2))
        await (await session.callback("approval")).succeed("yes")
        await (await session.callback("label")).succeed("L-1")
        assert before == await session.result()
    assert effects == sorted(shop.effects)
    assert 12 == len(effects)


async def test_a_claim_comes_out_the_same_as_a_state_machine_and_as_a_session(ministack: Emulator) -> None:
    """Approved, it is paid with the same output; refused, it fails in both."""
    claim_after.payments.clear()
    outputs, amounts = await _claims(ministack, (True, False))
    async with testing.environment(claim_after.app) as env:
        approved = await env.start("claim", CLAIM)
        await approved.approve("ask", by="ann")
        refused = await env.start("claim", CLAIM)
        await refused.reject("ask", by="ann")
        assert outputs["SUCCEEDED"] == await approved.result()
        with pytest.raises(testing.SessionDidNotComplete, match=outputs["FAILED"]):
            await refused.result()
    assert amounts == claim_after.payments == [CLAIM["amount"]]


async def test_a_subscription_runs_for_years_and_ends_when_it_is_told() -> None:
    """Timers, retries, a signal, a child, a patch and generations: each month charged once, over several journals."""
    temporal_after.books.clear()
    async with testing.environment(temporal_after.app) as env:
        session = await env.start("subscription", {"customer": "ann", "currency": "CHF"}, session_id="ann")
        for _ in range(25):
            await env.skip(temporal_after.MONTH)
        await session.signal("cancel")
        assert "25 months paid; ann was paid back" == await session.result()
    assert 26 == len(set(temporal_after.books)) == len(temporal_after.books)
    assert "charged ann in CHF, once by ann:g3/charge" in temporal_after.books


async def test_an_upload_is_worked_on_once_however_often_its_message_comes() -> None:
    """Retries, a group with its chord, a countdown; the same key is the same session."""
    celery_after.done.clear()
    async with testing.environment(celery_after.app) as env:
        upload: Json = {"video": "cat", "sizes": [64, 128]}
        session = await env.start("upload", upload, key="upload-17")
        again = await env.start("upload", upload, key="upload-17")
        assert session.session_id == again.session_id
        assert "page with cat-64.jpg, cat-128.jpg" == await session.result()
    assert ["published 2", "reminded of the page with cat-64.jpg, cat-128.jpg"] == celery_after.done


def _sooner(call_later: Callable[..., Any]) -> Callable[..., Any]:
    def sooner(scheduler: Scheduler, func: object, delay: float = 0, **rest: object) -> object:
        return call_later(scheduler, func, delay / 50, **rest)

    return sooner


def _durable_order() -> object:
    with DurableFunctionTestRunner(handler=durable_before.handler, poll_interval=POLL_SECONDS) as runner:
        execution = runner.run_async(json.dumps(ORDER))
        for name, answer in ANSWERS.items():
            callback_id = runner.wait_for_callback(execution, name=name)
            _until(lambda: _is_suspended(runner, execution))
            runner.send_callback_success(callback_id, answer.encode())
        done = runner.wait_for_result(execution)
    # It stops its loop and leaves it open.
    runner._scheduler._loop.close()
    assert isinstance(done.result, str), done.error
    return json.loads(done.result)


CLAIM: dict[str, Json] = {"amount": 2_000, "items": [{"name": "roof", "worth": 900}, {"name": "door", "worth": 300}]}


async def _claims(emulator: Emulator, answers: Sequence[bool]) -> tuple[dict[str, Any], list[int]]:
    """Run one claim for each answer of the adjuster; return output or error by status, and the amounts paid."""
    client = partial(
        get_session().create_client,
        region_name=REGION,
        endpoint_url=emulator.endpoint_url,
        aws_access_key_id=access_key(emulator, fresh_account()),
        aws_secret_access_key="test",
    )
    async with client("stepfunctions") as machines, client("sqs") as sqs:
        queues = {name: (await sqs.create_queue(QueueName=name))["QueueUrl"] for name in ("adjusters", "payments")}
        definition = (FOLDER / "step_functions" / "before.json").read_text()
        made = await machines.create_state_machine(name="claim", definition=definition, roleArn=ROLE)
        started = [
            await machines.start_execution(
                stateMachineArn=made["stateMachineArn"], input=json.dumps({**CLAIM, **queues})
            )
            for _ in answers
        ]
        for answer in answers:
            token = (await _body(sqs, queues["adjusters"]))["token"]
            await machines.send_task_success(taskToken=token, output=json.dumps({"approved": answer}))
        found: dict[str, Any] = {}
        for execution in started:
            ended = await _ended(machines, execution["executionArn"])
            output = json.loads(ended.get("output", "{}"))
            # AWS tells a failure's cause beside the output, the emulator in its place.
            found[ended["status"]] = output if ended["status"] == "SUCCEEDED" else ended.get("cause") or output["Cause"]
        return found, [(await _body(sqs, queues["payments"]))["amount"] for answer in answers if answer]


async def _body(sqs: Any, queue: str) -> dict[str, Any]:
    answer = await sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=20)
    body: dict[str, Any] = json.loads(answer["Messages"][0]["Body"])
    return body


async def _ended(machines: Any, execution: str) -> dict[str, Any]:
    """Return how an execution ended. Step Functions tells only who asks."""
    async with asyncio.timeout(20):
        while True:
            found: dict[str, Any] = await machines.describe_execution(executionArn=execution)
            if found["status"] != "RUNNING":
                return found
            await asyncio.sleep(POLL_SECONDS)


def _is_suspended(runner: DurableFunctionTestRunner, execution: str) -> bool:
    """Return whether no invocation runs: one in flight is lost when an answer comes (its runner, 1.2)."""
    events = runner._executor.get_execution_history(execution).events
    return events[-1].event_type == "InvocationCompleted"


def _until(holds: Callable[[], bool]) -> None:
    """Return once it holds. AWS's runner tells nothing by itself; it polls, too."""
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(POLL_SECONDS)
