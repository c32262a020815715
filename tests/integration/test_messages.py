"""What running sessions are told: signals, cancels, callbacks and approvals, by queue, by HTTP and by command."""

import asyncio
import json
import signal
import time
from pathlib import Path
from typing import Any

from orchestrator.session.values import Json, JsonObject
from tests.integration.deployment import Deployment, Worker, start_message

LINES_WAITS_MAX = 2_000


async def test_signals_reach_a_session_whichever_way_they_come(deployment: Deployment) -> None:
    """By queue, in an SNS envelope, over HTTP and by command; each once, however often it is sent."""
    worker = await deployment.start()
    await deployment.send(start_message("takes-signals", 4, session_id="s"))
    await worker.logged("session_accepted", session_id="s")
    by_queue = nudge("s", 1, message_id="m-1")
    await deployment.send(by_queue)
    await deployment.send(by_queue)
    await deployment.send({"Type": "Notification", "Message": json.dumps(nudge("s", 2))})
    for _ in range(2):
        answer = await deployment.ask(worker, "POST", "/sessions/s/signals/nudge", 3, Idempotency_Key="m-3")
        assert (202, {"session_id": "s", "message_id": "m-3", "status": "ACCEPTED"}) == answer
    code, out, err = await deployment.cli("signal", "s", "nudge", "--data", "-", "--json", stdin="4")
    assert (0, "s", "nudge") == (code, json.loads(out)["session_id"], json.loads(out)["name"]), err
    await worker.logged("session_ended", session_id="s", status="COMPLETED")
    taken = await deployment.result("s")
    assert isinstance(taken, list)
    assert [1, 2, 3, 4] == sorted(taken, key=str)
    assert 4 == (await deployment.statuses("s")).count("SIGNAL_RECEIVED")


async def test_a_cancelled_session_cleans_up_and_ends(deployment: Deployment, tmp_path: Path) -> None:
    """Whichever way the wish comes, the handler hears of it, its undo steps run, and the journal says why."""
    worker, trail = await deployment.start(), tmp_path / "trail"
    for session_id in ("queue", "http", "cli"):
        await deployment.send(start_message("cleans-up", str(trail), session_id=session_id))
        await worker.logged("session_accepted", session_id=session_id)
    await deployment.send({"kind": "cancel", "session_id": "queue", "reason": None})
    assert 202 == (await deployment.ask(worker, "POST", "/sessions/http/cancel", {"reason": "too late"}))[0]
    code, out, err = await deployment.cli("cancel", "cli", "--reason", "too [late]")
    assert (0, "", "cancel sent to cli\n") == (code, out, err)
    for session_id, reason in (("queue", "cancelled"), ("http", "too late"), ("cli", "too [late]")):
        await worker.logged("session_ended", session_id=session_id, status="CANCELLED")
        journal = [item for item in await deployment.items(session_id) if item["SK"].startswith("EVENT#")]
        assert ["CANCEL_REQUESTED", "STEP_COMPLETED", "STEP_COMPLETED", "AGENT_BACKGROUND_TASK_CANCELLED"] == [
            item["status"] for item in journal[-4:]
        ]
        assert reason == json.loads(journal[-1]["data"])["reason"]
    assert ["cli", "cli", "http", "http", "queue", "queue"] == sorted(trail.read_text().split())


async def test_callbacks_are_answered_whichever_way_the_answer_comes(deployment: Deployment, tmp_path: Path) -> None:
    """The token opens it; a failure is one; a repetition is none; and no log and no item holds a token."""
    worker, handed = await deployment.start(), {}
    for session_id in ("queue", "http", "cli", "fails"):
        handed[session_id] = await promised(deployment, tmp_path, session_id)
    await deployment.send(answer_to(handed["queue"], 1))
    path = f"/callbacks/{handed['http']['id']}"
    assert handed["http"]["url"] == f"{worker.base_url}{path}"
    body: JsonObject = {"token": handed["http"]["token"], "status": "SUCCESS", "result": 2}
    for _ in range(2):
        assert 200 == (await deployment.ask(worker, "POST", path, body))[0]
    callback, token = handed["cli"]["id"], handed["cli"]["token"]
    code, _, err = await deployment.cli("callback", callback, "--token", "-", "--success", "3", stdin=f"{token}\n")
    assert (0, f"SUCCESS sent to {callback}\n") == (code, err)
    callback, token = handed["fails"]["id"], handed["fails"]["token"]
    code, out, err = await deployment.cli(
        "callback", callback, "--failure", "no tea", "--json", ORCHESTRATOR_CALLBACK_TOKEN=token
    )
    assert (0, "FAILURE") == (code, json.loads(out)["status"]), err
    for number, session_id in enumerate(("queue", "http", "cli"), start=1):
        await worker.logged("session_ended", session_id=session_id, status="COMPLETED")
        assert number == await deployment.result(session_id)
    await worker.logged("session_ended", session_id="fails", status="FAILED", code="CALLBACK_FAILED")
    table = await deployment.everything()
    for each in handed.values():
        assert each["id"] in table
        assert each["token"] not in table + out + err
        assert [] == [line for line in worker.raw if each["token"] in line]


async def test_approvals_are_answered_over_http_and_by_command(deployment: Deployment) -> None:
    """The answer records who and why; only an approver may give it; what is not asked for is named."""
    worker = await deployment.start()
    for session_id in ("http", "yes", "no"):
        await deployment.send(start_message("asks", ["ann", "bob"], session_id=session_id))
        await worker.logged("approval_requested", session_id=session_id)
    approval: JsonObject = {"approved": True, "by": "ann", "comment": "good"}
    path = "/sessions/http/approvals/publish"
    status, problem = await deployment.ask(worker, "POST", path, {"approved": True, "by": "eve"})
    assert (403, "NOT_AN_APPROVER") == (status, problem["code"])
    assert 200 == (await deployment.ask(worker, "POST", path, approval))[0]
    results = await asyncio.gather(
        deployment.cli("approve", "yes", "publish", "--by", "bob", "--json"),
        deployment.cli("reject", "no", "publish", "--by", "ann", "--comment", "too long"),
        deployment.cli("approve", "yes", "publish", "--by", "eve"),
        deployment.cli("approve", "yes", "pay", "--by", "ann"),
        deployment.cli("approve", "nobody", "publish", "--by", "ann"),
    )
    assert [0, 0, 1, 3, 3] == [code for code, _, _ in results], results
    assert {"session_id": "yes", "name": "publish", "approved": True, "by": "bob", "comment": None} == json.loads(
        results[0][1]
    )
    assert ["rejection of publish by ann sent to no", "NOT_AN_APPROVER", "publish", "nobody"] == [
        text if text in err else err
        for text, (_, _, err) in zip(
            ["rejection of publish by ann sent to no", "NOT_AN_APPROVER", "publish", "nobody"], results[1:], strict=True
        )
    ]
    for session_id, answer in {
        "http": approval,
        "yes": {"approved": True, "by": "bob", "comment": None},
        "no": {"approved": False, "by": "ann", "comment": "too long"},
    }.items():
        await worker.logged("session_ended", session_id=session_id, status="COMPLETED")
        assert answer == await deployment.result(session_id)


async def test_what_no_session_can_take_is_refused_with_a_reason(deployment: Deployment, tmp_path: Path) -> None:
    """On the queue it goes to the dead letters, over HTTP it is a 4xx, a command says so; with the same codes."""
    for number in range(5):
        # As if it had come five times already.
        sent = nudge("nobody", 1)
        if number == 0:
            await deployment.send(sent)
        await deployment.clients.sqs.receive_message(
            QueueUrl=deployment.queue_url, VisibilityTimeout=0, WaitTimeSeconds=1
        )
    worker = await deployment.start()
    answered, late, left, open_ = [
        await promised(deployment, tmp_path, name, timeout=timeout)
        for name, timeout in (("answered", 3_600.0), ("late", 0.1), ("left", 3_600.0), ("open", 3_600.0))
    ]
    await deployment.send(answer_to(answered, 1))
    await worker.logged("session_ended", session_id="answered")
    await worker.logged("session_ended", session_id="late", code="OPERATION_TIMED_OUT")
    await deployment.send({"kind": "cancel", "session_id": "left"})
    await worker.logged("session_ended", session_id="left", status="CANCELLED")
    assert [] == (await deployment.ask(worker, "GET", "/sessions/left"))[1]["current_operations"]
    await deployment.send(start_message("takes-signals", 2, session_id="s"))
    await worker.logged("session_accepted", session_id="s")
    await deployment.send(nudge("s", 1, message_id="m"))
    await worker.logged("message_delivered", session_id="s")

    refused: list[tuple[str, JsonObject]] = [
        ("SESSION_ENDED", nudge("answered", 1)),
        ("SESSION_ENDED", {"kind": "cancel", "session_id": "late"}),
        ("MESSAGE_CONFLICT", nudge("s", 2, message_id="m")),
        ("WRONG_TOKEN", answer_to({**open_, "token": answered["token"]}, 1)),
        ("CALLBACK_ANSWERED", answer_to(answered, 2)),
        ("CALLBACK_EXPIRED", answer_to(late, 1)),
        ("UNKNOWN_CALLBACK", answer_to({**open_, "id": "callback-none"}, 1)),
        ("INVALID_MESSAGE", {**nudge("s", 1), "name": "a b"}),
        ("INVALID_MESSAGE", {"kind": "callback", "callback_id": "c", "token": "t", "status": "DONE"}),
    ]
    for _, message in refused:
        await deployment.send(message)
    letters = await deployment.dead_letters(len(refused) + 1)
    codes = sorted(attributes["ErrorCode"] for _, attributes in letters)
    assert sorted(["UNKNOWN_SESSION", *(code for code, _ in refused)]) == codes

    asked: list[tuple[int, str, str, Json]] = [
        (404, "UNKNOWN_SESSION", "/sessions/nobody/signals/nudge", 1),
        (409, "SESSION_ENDED", "/sessions/answered/signals/nudge", 1),
        (409, "SESSION_ENDED", "/sessions/late/cancel", {}),
        (404, "UNKNOWN_CALLBACK", "/sessions/s/approvals/publish", {"approved": True, "by": "ann"}),
        (403, "WRONG_TOKEN", f"/callbacks/{open_['id']}", {"token": "t", "status": "SUCCESS"}),
        (409, "CALLBACK_ANSWERED", f"/callbacks/{answered['id']}", http_answer(answered, 2)),
        (410, "CALLBACK_EXPIRED", f"/callbacks/{late['id']}", http_answer(late, 1)),
    ]
    for status, code, path, body in asked:
        actual, problem = await deployment.ask(worker, "POST", path, body)
        assert (status, code) == (actual, problem["code"]), path
    assert 200 == (await deployment.ask(worker, "POST", f"/callbacks/{answered['id']}", http_answer(answered, 1)))[0]
    # Nobody waits for this one any more, though its token is good; the answer that was heard may be repeated.
    good = ("callback", answered["id"], "--token", answered["token"], "--success", "1")
    assert 0 == (await deployment.cli(*good))[0]
    commands: list[tuple[int, str, tuple[str, ...]]] = [
        (1, "SESSION_ENDED", ("callback", left["id"], "--token", left["token"], "--success", "1")),
        (3, "nobody", ("signal", "nobody", "nudge")),
        (3, "nobody", ("cancel", "nobody")),
        (3, "callback-none", ("callback", "callback-none", "--token", "t", "--success", "1")),
        (1, "SESSION_ENDED", ("signal", "answered", "nudge")),
        (1, "WRONG_TOKEN", ("callback", open_["id"], "--token", "t", "--success", "1")),
        (1, "CALLBACK_EXPIRED", ("callback", late["id"], "--token", late["token"], "--success", "1")),
        (2, "NAME", ("signal", "s", "a b")),
        (2, "--data", ("signal", "s", "nudge", "--data", "{")),
        (2, "--success", ("callback", "c", "--token", "t")),
    ]
    results = await asyncio.gather(*(deployment.cli(*arguments) for _, _, arguments in commands))
    for (code_, text, arguments), (actual, out, err) in zip(commands, results, strict=True):
        assert (code_, "", True) == (actual, out, text in err), (arguments, err)


async def test_a_signal_that_overtakes_its_start_is_delivered_soon_after_it(deployment: Deployment) -> None:
    """A standard queue keeps no order: the signal is deferred, for a second at first."""
    worker = await deployment.start()
    await deployment.send(nudge("later", "tea"))
    await worker.logged("message_deferred", code="TRY_AGAIN_SOON")
    await deployment.send(start_message("takes-signals", 1, session_id="later"))
    await worker.logged("session_ended", session_id="later", status="COMPLETED")
    assert ["tea"] == await deployment.result("later")


async def test_a_signal_told_to_another_node_reaches_the_owner(deployment: Deployment) -> None:
    """Any node takes it; the owner hears of it within about two seconds."""
    owner = await deployment.start()
    await deployment.send(start_message("takes-signals", 1, session_id="s"))
    await owner.logged("session_accepted", session_id="s")
    other = await deployment.start()
    assert 202 == (await deployment.ask(other, "POST", "/sessions/s/signals/nudge", {"n": 1}))[0]
    since = time.monotonic()
    await owner.logged("session_ended", session_id="s", status="COMPLETED")
    assert 5 > time.monotonic() - since
    assert [{"n": 1}] == await deployment.result("s")
    assert [] == [item["SK"] for item in await deployment.items("s") if item["SK"].startswith("INBOX#")]


async def test_a_suspended_session_is_woken_by_an_answer_and_by_time_after_a_crash(
    deployment: Deployment, tmp_path: Path
) -> None:
    """It leaves memory after the passivation time; a callback brings it back; its timer fires once in another node."""
    trail = tmp_path / "trail"
    first = await deployment.start(ORCHESTRATOR_PASSIVATE_AFTER_SECONDS="1")
    handed = await promised(deployment, tmp_path, "promise")
    await first.logged("session_suspended", session_id="promise")
    assert "SUSPENDED" == (await deployment.ask(first, "GET", "/sessions/promise"))[1]["state"]
    assert "owner" not in await deployment.head("promise")
    assert 0 == (await deployment.ask(first, "GET", "/health"))[1]["sessions"]
    assert 200 == (await deployment.ask(first, "POST", f"/callbacks/{handed['id']}", http_answer(handed, "tea")))[0]
    await first.logged("session_ended", session_id="promise", status="COMPLETED")
    assert "tea" == await deployment.result("promise")
    assert handed["token"] not in await deployment.everything()

    nap: JsonObject = {"seconds": 6.0, "trail": str(trail)}
    async with deployment.http.post(
        f"{first.base_url}/sessions", json={"session_type": "naps", "input": nap, "session_id": "nap"}
    ) as answer:
        assert 202 == answer.status
    await first.logged("session_suspended", session_id="nap")
    first.signal(signal.SIGKILL)
    await first.ended()
    second = await deployment.start()
    await second.logged("session_ended", session_id="nap", status="COMPLETED")
    assert 1 == (await deployment.statuses("nap")).count("TIMER_FIRED")
    assert ["nap"] == trail.read_text().split()
    assert [] == [line for line in (*first.raw, *second.raw) if handed["token"] in line]


async def test_status_shows_what_a_session_waits_for_and_its_latest_generation(deployment: Deployment) -> None:
    """Over HTTP and by command alike; what is sent while no node runs is taken by the next one."""
    worker = await deployment.start(ORCHESTRATOR_DRAIN_SECONDS="0.2")
    await deployment.send(start_message("generations", 1, session_id="g"))
    await deployment.send(start_message("waits-for-everything", session_id="all"))
    await worker.logged("approval_requested", session_id="all", times=2)
    await worker.logged("session_accepted", session_id="g")
    await worker.logged("session_ended", session_id="g:g2", status="CONTINUED")
    view = await waiting(deployment, worker, "all", 6)
    operations = operations_of(view)
    seen: dict[str, Any] = {name: each["waits_for"] for name, each in operations.items()}
    child = seen["takes-signals"]["session_id"]
    assert ["sleep", "answer", "publish", "pay", "nudge", "takes-signals"] == list(seen)
    assert {
        "sleep": {"time": operations["sleep"]["until"]},
        "answer": {"callback_id": seen["answer"]["callback_id"]},
        "publish": {"callback_id": seen["publish"]["callback_id"], "subject": {"draft": 1}, "approvers": ["ann"]},
        "pay": {"callback_id": seen["pay"]["callback_id"], "subject": None, "approvers": None},
        "nudge": {"signal": "nudge"},
        "takes-signals": {"session_id": child, "session_type": "takes-signals", "link": f"/sessions/{child}"},
    } == seen
    assert {"sleep", "answer", "nudge"} == {name for name, each in operations.items() if each["until"] is not None}
    assert "RUNNING" == (await waiting(deployment, worker, child, 0))["state"]

    assert 0 == await deployment.stop(worker)
    results = await asyncio.gather(
        deployment.cli("status", "all", "--json"),
        deployment.cli("status", "all"),
        deployment.cli("status", "g", "--json"),
        deployment.cli("signal", "g", "nudge", "--data", '"tea"'),
        deployment.cli("approve", "all", "pay", "--by", "ann"),
        deployment.cli("approve", "all", "pax", "--by", "ann"),
        deployment.cli("cancel", "all"),
    )
    assert [0, 0, 0, 0, 0, 3, 0] == [code for code, _, _ in results], results
    assert operations == operations_of(json.loads(results[0][1]))
    assert all(f"\n{name} " in results[1][1] for name in seen)
    latest = json.loads(results[2][1])
    assert ("g", "g:g3", "nudge") == (
        latest["session_id"],
        latest["continued_as"],
        latest["current_operations"][0]["operation"],
    )
    assert "it waits for pay, publish" in results[5][2].replace("\n", " ")
    second = await deployment.start()
    await second.logged("session_ended", session_id="g:g3", status="COMPLETED")
    assert "tea" == (await deployment.ask(second, "GET", "/sessions/g"))[1]["result"]
    _, out, _ = await deployment.cli("events", "g", "--follow", "--json")
    ends = [status for line in out.splitlines() if "TASK" in (status := json.loads(line)["status"])]
    assert ["CONTINUED", "CONTINUED", "COMPLETED"] == [end.rpartition("_")[2] for end in ends]
    await second.logged("session_ended", session_id="all", status="CANCELLED")
    await second.logged("session_ended", session_id=child, status="CANCELLED")


def nudge(session_id: str, data: Json, **fields: Json) -> JsonObject:
    """Return a signal."""
    return {"kind": "signal", "session_id": session_id, "name": "nudge", "data": data, **fields}


def answer_to(handed: dict[str, str], result: Json) -> JsonObject:
    """Return the message that answers a callback."""
    return {"kind": "callback", "callback_id": handed["id"], **http_answer(handed, result)}


def http_answer(handed: dict[str, str], result: Json) -> JsonObject:
    """Return the body that answers a callback."""
    return {"token": handed["token"], "status": "SUCCESS", "result": result}


async def promised(
    deployment: Deployment, folder: Path, session_id: str, *, timeout: float = 3_600.0
) -> dict[str, str]:
    """Start a session that waits for a callback; return the callback's id, token and URL."""
    path = folder / f"{session_id}.json"
    await deployment.send(
        start_message("promises", {"handed_to": str(path), "timeout": timeout}, session_id=session_id)
    )
    handed: dict[str, str] = json.loads(await asyncio.to_thread(first_line, path))
    return handed


async def waiting(deployment: Deployment, worker: Worker, session_id: str, operations: int) -> JsonObject:
    """Return the view of a session once it was accepted and shows so many operations."""
    while True:
        status, view = await deployment.ask(worker, "GET", f"/sessions/{session_id}")
        if status == 200 and len(operations_of(view)) >= operations:
            return view


def operations_of(view: JsonObject) -> dict[str, dict[str, Json]]:
    """Return a view's operations by name, in its order."""
    current = view["current_operations"]
    assert isinstance(current, list)
    return {str(each["operation"]): each for each in current if isinstance(each, dict)}


def first_line(path: Path) -> str:
    """Return the file's first line once it is there; bounded, from a thread."""
    for _ in range(LINES_WAITS_MAX):
        if path.exists() and "\n" in (text := path.read_text()):
            return text.partition("\n")[0]
        time.sleep(0.01)
    raise AssertionError(f"{path} did not get a line")


async def test_an_operator_pauses_resumes_and_kills_past_the_queue(deployment: Deployment) -> None:
    """By command and over HTTP; a handler that swallows its cancellation is killed all the same."""
    worker = await deployment.start()
    for session_type, session_id in (
        ("never-returns", "endless"),
        ("swallows-cancellation", "stubborn"),
        ("takes-signals", "held"),
    ):
        payload: Json = 1 if session_id == "held" else None
        await deployment.send(start_message(session_type, payload, session_id=session_id))
        await worker.logged("session_accepted", session_id=session_id)
    assert (0, "", "pause sent to held\n") == await deployment.cli("pause", "held", "--reason", "look at this")
    await worker.logged("session_paused", session_id="held")
    status, view = await deployment.ask(worker, "GET", "/sessions/held")
    assert (200, "PAUSED", "look at this") == (status, view["state"], reason_of(view["pause_requested"]))
    assert 202 == (await deployment.ask(worker, "POST", "/sessions/held/signals/nudge", 1))[0]
    assert 202 == (await deployment.ask(worker, "POST", "/sessions/held/resume", {}))[0]
    await worker.logged("session_ended", session_id="held", status="COMPLETED")
    code, out, err = await deployment.cli("kill", "endless", "--json")
    assert (0, "kill") == (code, json.loads(out)["kind"]), err
    # Its owner looks each second by itself, but hardly just before each command.
    await worker.logged("wake_ups_taken", poked=True)
    assert 202 == (await deployment.ask(worker, "POST", "/sessions/stubborn/kill", {"reason": "runs away"}))[0]
    for session_id in ("endless", "stubborn"):
        await worker.logged("session_ended", session_id=session_id, status="CANCELLED")
        assert "AGENT_BACKGROUND_TASK_CANCELLED" == (await deployment.statuses(session_id))[-1]
    assert 3 == (await deployment.cli("kill", "nobody"))[0]
    code, _, err = await deployment.cli("pause", "endless")
    assert (1, True) == (code, "SESSION_ENDED" in err), err


def reason_of(request: Json) -> Json:
    """Return why something was requested."""
    assert isinstance(request, dict)
    return request["reason"]
