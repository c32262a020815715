"""The list of sessions, and what a start over HTTP is answered."""

import pytest
from http_stage import Stage, end, stage, step

from orchestrator.session.values import Json


async def test_sessions_are_listed_by_state_type_and_tenant_the_latest_change_first() -> None:
    """Each row is the session's head as `GET /sessions/{id}` shows it too; filters add up."""
    async with stage() as node:
        await node.has("a", tenant="t1", session_type="order")
        await node.has("b", tenant="t1", state="COMPLETED")
        await node.has("c", tenant="t2")
        assert ["c", "b", "a"] == await listed(node, "")
        assert ["b"] == await listed(node, "?state=COMPLETED")
        assert ["a"] == await listed(node, "?type=order")
        assert ["b", "a"] == await listed(node, "?tenant=t1")
        assert [] == await listed(node, "?tenant=t1&state=COMPLETED&type=order")
        _, body = await node.ask("GET", "/sessions?type=order")
        _, one = await node.ask("GET", "/sessions/a")
        # The one view reads the journal, too, and takes the time of the last change from there.
        assert [{**{name: one[name] for name in SUMMARY}, "updated_at": one["created_at"]}] == body["sessions"]
        assert body["cursor"] is None


SUMMARY = ("session_id", "session_type", "tenant", "state", "created_at")


async def test_a_cursor_asks_for_the_next_page_and_the_last_page_has_none() -> None:
    """Following cursors shows every session once."""
    async with stage() as node:
        for number in range(5):
            await node.has(f"s-{number}")
        seen, path = [], "/sessions?limit=2"
        while path:
            _, body = await node.ask("GET", path)
            seen.append(ids_of(body))
            path = f"/sessions?limit=2&cursor={body['cursor']}" if body["cursor"] else ""
        assert [["s-4", "s-3"], ["s-2", "s-1"], ["s-0"]] == seen


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/sessions?state=DONE", "state: 'DONE'"),
        ("/sessions?state=completed", "state: 'completed'"),
        ("/sessions?type=a%20b", "type: 'a b'"),
        ("/sessions?tenant=" + "x" * 129, "tenant: "),
        ("/sessions?tenant=a%0A", "tenant: "),
        ("/sessions?cursor=%00", "cursor: "),
        ("/sessions?cursor=abc", "cursor: 'abc'"),
        ("/sessions?limit=0", "limit: '0' is not a whole number from 1 to 200"),
        ("/sessions?limit=201", "limit: '201'"),
        ("/sessions?limit=two", "limit: 'two'"),
        ("/sessions?limit=%C2%B2", "limit: '²'"),
        ("/sessions/s/events?after=-1", "after: '-1'"),
        ("/sessions/s/events?after=" + "9" * 5_000, "after: '999"),
        ("/sessions/s/events?limit=1001", "limit: '1001' is not a whole number from 1 to 1000"),
    ],
)
async def test_a_bad_value_in_the_query_is_refused_and_named(path: str, named: str) -> None:
    """422 INVALID_QUERY; the text says which parameter, what it is and what it should be."""
    async with stage() as node:
        await node.has("s")
        status, problem = await node.ask("GET", path)
        assert (422, "INVALID_QUERY") == (status, problem["code"])
        assert str(problem["detail"]).startswith(named)


async def test_events_come_in_pages() -> None:
    """`limit` bounds a page, `next_after` asks for the next one."""
    async with stage() as node:
        await node.has("s", end())
        _, first = await node.ask("GET", "/sessions/s/events?limit=1")
        _, rest = await node.ask("GET", f"/sessions/s/events?after={first['next_after']}")
        assert ([1], [2]) == (seqs_of(first), seqs_of(rest))


async def test_a_session_is_started_once_however_often_its_key_comes() -> None:
    """202, then 200, then 409 for another payload; the key in the header goes before the one in the body."""
    async with stage() as node:
        order: Json = {"session_type": "order", "input": {"item": "tea"}, "idempotency_key": "other"}
        first, body = await node.ask("POST", "/sessions", json=order, Idempotency_Key="k")
        again, same = await node.ask("POST", "/sessions", json=order, Idempotency_Key="k")
        assert (202, 200, body) == (first, again, same)
        other: Json = {"session_type": "order", "input": {"item": "coffee"}}
        status, problem = await node.ask("POST", "/sessions", json=other, Idempotency_Key="k")
        assert (409, "IDEMPOTENCY_CONFLICT") == (status, problem["code"])


async def test_a_key_in_the_header_hides_no_bad_one_in_the_body() -> None:
    """Each is checked; the first that is wrong is named."""
    async with stage() as node:
        body: Json = {"session_type": "echo", "idempotency_key": 5}
        status, problem = await node.ask("POST", "/sessions", json=body, Idempotency_Key="k")
        assert (422, "INVALID_MESSAGE") == (status, problem["code"])
        assert str(problem["detail"]).startswith("idempotency_key: ")
        body = {"session_type": "echo"}
        assert 422 == (await node.ask("POST", "/sessions", json=body, Idempotency_Key="k" * 1_025))[0]


async def listed(node: Stage, query: str) -> list[Json]:
    """Return the ids of a page of sessions."""
    status, body = await node.ask("GET", f"/sessions{query}")
    assert 200 == status, body
    return ids_of(body)


def ids_of(body: dict[str, Json]) -> list[Json]:
    """Return the session ids of a page."""
    rows = body["sessions"]
    assert isinstance(rows, list)
    return [row["session_id"] for row in rows if isinstance(row, dict)]


def seqs_of(body: dict[str, Json]) -> list[Json]:
    """Return the seqs of a page of events."""
    rows = body["events"]
    assert isinstance(rows, list)
    return [row["seq"] for row in rows if isinstance(row, dict)]


async def test_why_a_session_does_not_go_on_is_answered_in_words() -> None:
    """With what this node sees of it, which is nothing of a session elsewhere; 404 where nobody knows it."""
    async with stage() as node:
        await node.has("s", step(1))
        status, told = await node.ask("GET", "/sessions/s/why")
        assert (200, "RUNNING", "node-2", None) == (status, *(told[name] for name in ("state", "node", "under_way")))
        waits = told["waits_for"]
        assert isinstance(waits, list)
        # Its node stands in no registry here.
        assert ["takeover"] == [wait["what"] for wait in waits if isinstance(wait, dict)]
        assert (404, "UNKNOWN_SESSION") == await node.code("GET", "/sessions/nobody/why")
