"""The clients, in a process of their own: they start, nudge, answer and cancel, many a thing more than once, and note
what they were told: `python -m tests.chaos.load FOLDER QUEUE_URL SEED SECONDS A_SECOND`.

They speak to the queue directly and to whichever node the folder's `nodes.json` names at the moment; what a node does
not answer is asked of another one with the same key. The process ends when all that it owes its sessions is done.
"""

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from random import Random
from typing import Any, Final

import aiohttp

from orchestrator.aws.clients import UNREACHABLE, Clients, connect
from orchestrator.session.values import Json, JsonObject
from tests.chaos.app import GENERATIONS, LISTENS_FOR, NUDGE
from tests.chaos.parent import die_with_parent
from tests.chaos.records import Tail

TOLD: Final = "told.jsonl"
RAN: Final = "ran.jsonl"
NODES: Final = "nodes.json"
ANSWER_SECONDS_MAX: Final = 6.0
TRY_AGAIN_SECONDS: Final = 0.3
LOOK_SECONDS: Final = 0.2
SMALL_TENANT: Final = "small"
"""The tenant with a limit; those of its sessions that wait for nothing outside."""
SMALL_TENANTS_LIMIT: Final = 3
SMALL_TENANTS_KINDS: Final = ("chain", "clerks", "sleepy", "failing")
KINDS: Final = (
    "chain",
    "careful",
    "stumbling",
    "clerks",
    "sleepy",
    "listening",
    "promising",
    "family",
    "dynasty",
    "failing",
    "cancelled",
    "bulky",
)
BULK_CHARS: Final = 40_000
BAD_SHARE: Final = 0.06
AGAIN_SHARE: Final = 0.5

Body = dict[str, Any]


@dataclass(slots=True)
class Load:
    """All clients. What they owe their sessions runs in `tasks`; `callbacks` are those handed out so far."""

    folder: Path
    queue_url: str
    clients: Clients
    http: aiohttp.ClientSession
    chance: Random
    tasks: asyncio.TaskGroup
    callbacks: dict[str, Body] = field(default_factory=dict)

    def note(self, kind: str, **fields: Json) -> None:
        with (self.folder / TOLD).open("a") as told:
            told.write(json.dumps({"kind": kind, **fields}) + "\n")

    def wrong(self, text: str) -> None:
        """Note an answer that breaks a promise; the text begins with the invariant's number."""
        self.note("wrong", detail=text)

    # --- the two ways in -----------------------------------------------------------------------------------------

    async def send(self, body: str | Body) -> str:
        """Put a message on the queue, and return its id. Where the answer was lost it is there twice."""
        text = body if isinstance(body, str) else json.dumps(body)
        while True:
            try:
                answer = await self.clients.sqs.send_message(QueueUrl=self.queue_url, MessageBody=text)
            except UNREACHABLE:
                await asyncio.sleep(TRY_AGAIN_SECONDS)
            else:
                return answer["MessageId"]

    async def ask(self, method: str, path: str, body: Json = None, **headers: str) -> tuple[int, JsonObject]:
        """Return the first answer of any node that decides; a node that dies or has no time is asked no more."""
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS_MAX)
        while True:
            nodes = json.loads((self.folder / NODES).read_text())
            try:
                url = f"{self.chance.choice(nodes)}{path}"
                async with self.http.request(method, url, json=body, headers=named, timeout=timeout) as answer:
                    if answer.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                        found = await answer.json(content_type=None)
                        return answer.status, found if isinstance(found, dict) else {}
            except (aiohttp.ClientError, TimeoutError, IndexError, ValueError):
                # Dead, frozen, cut off, none there at all, or half an answer.
                pass
            await asyncio.sleep(TRY_AGAIN_SECONDS)

    # --- starting ------------------------------------------------------------------------------------------------

    async def start_one(self, number: int) -> None:
        """Start a session in one of the ways there are, and do by it what its kind needs."""
        kind = self.chance.choice(KINDS)
        session_id = f"s-{number}-{kind}"
        body: Body = {
            "session_type": kind,
            "session_id": session_id,
            "input": {"seen": {}}
            if kind == "dynasty"
            else {
                "count": self.chance.randint(2, 4),
                "seconds": round(self.chance.uniform(0.05, 0.6), 2),
                "size": BULK_CHARS if kind == "bulky" else 0,
            },
        }
        if kind in SMALL_TENANTS_KINDS and self.chance.random() < 0.4:
            body["tenant"] = SMALL_TENANT
        if self.chance.random() < 0.3:
            del body["session_id"]
            body["idempotency_key"] = f"key-{number}"
            session_id = await self.start_by_http(body)
        else:
            await self.chance.choice([self.start_by_queue, self.start_by_http, self.start_by_both])(body)
        if self.chance.random() < AGAIN_SHARE:
            self.tasks.create_task(self.start_again(body, session_id))
        await self.follow_up(kind, session_id)

    async def start_by_queue(self, body: Body) -> str:
        for _ in range(self.chance.choice([1, 1, 2])):
            await self.send({"kind": "start", **body})
        # The queue keeps it: from here on it may not be lost.
        self.note("accepted", session_id=body["session_id"])
        return str(body["session_id"])

    async def start_by_http(self, body: Body) -> str:
        """Start it at one node, or at two at once; all must name the same session."""
        times = self.chance.choice([1, 1, 2])
        answers = await asyncio.gather(*(self.ask("POST", "/sessions", body) for _ in range(times)))
        ids = {str(answer.get("session_id")) for status, answer in answers if status in {200, 202}}
        if len(ids) != 1 or len(answers) != sum(status in {200, 202} for status, _ in answers):
            self.wrong(f"I4: a start was answered {answers}")
        for session_id in ids:
            self.note("accepted", session_id=session_id)
        return ids.pop()

    async def start_by_both(self, body: Body) -> str:
        session_id, _ = await asyncio.gather(self.start_by_http(body), self.start_by_queue(body))
        return session_id

    async def start_again(self, body: Body, session_id: str) -> None:
        """Start it again, much later: with its own payload it is the same session, with another one a conflict."""
        await self.until_known(session_id)
        await asyncio.sleep(self.chance.uniform(0.0, 8.0))
        status, answer = await self.ask("POST", "/sessions", body)
        if (status, answer.get("session_id")) != (200, session_id):
            self.wrong(f"I4: {session_id} started again was answered {status} {answer}")
        other = {**body, "input": {**body["input"], "count": 5}}
        status, answer = await self.ask("POST", "/sessions", other)
        if (status, answer.get("code")) != (409, "IDEMPOTENCY_CONFLICT"):
            self.wrong(f"I4: {session_id} started with another input was answered {status} {answer}")

    async def until_known(self, session_id: str) -> None:
        while True:
            if (await self.ask("GET", f"/sessions/{session_id}"))[0] == HTTPStatus.OK:
                return
            await asyncio.sleep(LOOK_SECONDS)

    # --- what a session is told ----------------------------------------------------------------------------------

    async def follow_up(self, kind: str, session_id: str) -> None:
        match kind:
            case "listening":
                await self.nudge(session_id, LISTENS_FOR)
            case "dynasty":
                await self.nudge(session_id, GENERATIONS)
            case "cancelled":
                await self.until_known(session_id)
                await asyncio.sleep(self.chance.uniform(0.0, 4.0))
                await self.cancel(session_id)
            case "promising":
                await self.answer(session_id)
            case _:
                pass

    async def nudge(self, session_id: str, times: int) -> None:
        await self.until_known(session_id)
        for number in range(times):
            await asyncio.sleep(self.chance.uniform(0.0, 3.0))
            message_id = f"{session_id}-{NUDGE}-{number}"
            await self.tell(session_id, message_id, "signal", f"signals/{NUDGE}", {"name": NUDGE, "data": message_id})

    async def cancel(self, session_id: str) -> None:
        await self.tell(session_id, f"{session_id}-cancel", "cancel", "cancel", {"reason": "chaos"})

    async def tell(self, session_id: str, message_id: str, kind: str, path: str, fields: Body) -> None:
        """Send a message by the queue or by HTTP, sometimes by both or twice."""
        body = {"kind": kind, "session_id": session_id, "message_id": message_id, **fields}
        content = fields.get("data", {"reason": fields.get("reason")})

        async def by_queue() -> None:
            await self.send(body)
            self.note("told", session_id=session_id, message_id=message_id, detail=kind)

        async def by_http() -> None:
            headers = {"Idempotency_Key": message_id}
            status, answer = await self.ask("POST", f"/sessions/{session_id}/{path}", content, **headers)
            if status == HTTPStatus.ACCEPTED:
                self.note("told", session_id=session_id, message_id=message_id, detail=kind)
            elif answer.get("code") != "SESSION_ENDED":
                self.wrong(f"I9: {message_id} was answered {status} {answer}")

        ways: list[Callable[[], Coroutine[None, None, None]]] = [by_queue, by_http]
        await asyncio.gather(*(way() for way in self.chance.choices(ways, k=self.chance.choice([1, 1, 2]))))

    async def handed_out(self, session_id: str) -> Body:
        while True:
            if session_id in self.callbacks:
                return self.callbacks[session_id]
            await asyncio.sleep(LOOK_SECONDS)

    async def answer(self, session_id: str) -> None:
        """Answer a session's callback once it is handed out; and again, with the same answer."""
        callback = await self.handed_out(session_id)
        callback_id, result = callback["callback_id"], f"answer to {session_id}"
        content = {"token": callback["token"], "status": "SUCCESS", "result": result}
        await asyncio.sleep(self.chance.uniform(0.0, 3.0))
        if self.chance.random() < 0.5:
            await self.send({"kind": "callback", "callback_id": callback_id, **content})
        else:
            status, answer = await self.ask("POST", f"/callbacks/{callback_id}", content)
            if status != HTTPStatus.OK:
                self.wrong(f"I9: the answer to {session_id} was answered {status} {answer}")
        self.note("told", session_id=session_id, message_id=callback_id, detail="callback")
        if self.chance.random() < AGAIN_SHARE:
            status, answer = await self.ask("POST", f"/callbacks/{callback_id}", content)
            if status != HTTPStatus.OK:
                self.wrong(f"I9: the same answer to {session_id} again was answered {status} {answer}")

    # --- what nobody should send -----------------------------------------------------------------------------------

    async def send_bad(self, number: int) -> None:
        """Put something on the queue that can never succeed."""
        start = {"kind": "start", "session_type": "chain", "session_id": f"bad-{number}"}
        bodies: list[str | Body] = [
            f"{{not json {number}",
            {"kind": "stop", "session_id": f"bad-{number}"},
            {**start, "session_type": "unheard-of"},
            {**start, "input": {"count": "many"}},
            {"kind": "callback", "callback_id": f"bad-{number}", "token": "t", "status": "MAYBE"},
            {"kind": "signal", "session_id": f"bad-{number}", "name": NUDGE, "data": None},
        ]
        self.note("bad", value=await self.send(self.chance.choice(bodies)))

    # --- all of it -----------------------------------------------------------------------------------------------

    async def follow_callbacks(self) -> None:
        """Learn of the callbacks that sessions hand out, until cancelled."""
        tail = Tail(self.folder / RAN)
        while True:
            for line in tail.look():
                if line["kind"] == "callback":
                    self.callbacks[line["session_id"]] = dict(line)
            await asyncio.sleep(LOOK_SECONDS)

    async def start_for(self, seconds: float, a_second: float) -> None:
        loop = asyncio.get_running_loop()
        ends_at, number = loop.time() + seconds, 0
        while loop.time() < ends_at:
            number += 1
            is_bad = self.chance.random() < BAD_SHARE
            self.tasks.create_task(self.send_bad(number) if is_bad else self.start_one(number))
            await asyncio.sleep(self.chance.expovariate(a_second))


async def main() -> None:
    die_with_parent()
    folder, queue_url, seed, seconds, a_second = sys.argv[1:]
    async with connect() as clients, aiohttp.ClientSession() as http:
        tasks = asyncio.TaskGroup()
        load = Load(Path(folder), queue_url, clients, http, Random(f"{seed}:load"), tasks)
        following = asyncio.ensure_future(load.follow_callbacks())
        try:
            async with tasks:
                await load.start_for(float(seconds), float(a_second))
        finally:
            following.cancel()


if __name__ == "__main__":
    asyncio.run(main())
