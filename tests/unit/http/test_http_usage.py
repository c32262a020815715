"""`GET /usage`, and what a session shows of its budget."""

from http_stage import stage

from orchestrator.session.events import AgentCompleted, AgentStarted
from orchestrator.session.values import Json


async def test_a_month_nobody_spent_in_is_empty_and_a_tenant_that_is_named_is_shown() -> None:
    """With its caps: none."""
    async with stage() as node:
        assert (200, {"usage": []}) == await node.ask("GET", "/usage")
        status, body = await node.ask("GET", "/usage?tenant=acme&month=2026-02")
        nothing: Json = {
            "tenant": "acme",
            "month": "2026-02",
            "input_tokens": 0,
            "output_tokens": 0,
            "total_tokens": 0,
            "cost": 0.0,
            "agent_calls": 0,
            "agent_seconds": 0.0,
            "caps": {"tokens": None, "cost": None, "agent_calls": None, "agent_seconds": None},
        }
        assert (200, {"usage": [nothing]}) == (status, body)


async def test_a_month_that_is_none_is_refused_and_named() -> None:
    """As every bad value in a query."""
    async with stage() as node:
        for month in ("2026", "2026-13", "2026-1", "x"):
            status, problem = await node.ask("GET", f"/usage?month={month}")
            assert (422, "INVALID_QUERY") == (status, problem["code"])
            assert str(problem["detail"]).startswith("month: ")


async def test_a_session_shows_what_it_has_spent_and_what_is_left() -> None:
    """`usage` over all its generations; `budget` is null where nothing limits it."""
    async with stage() as node:
        await node.has("free")
        _, free = await node.ask("GET", "/sessions/free")
        assert (None, None) == (free["usage"], free["budget"])
        usage: dict[str, Json] = {"input_tokens": 30, "output_tokens": 10, "cost": 0.5}
        ran = (AgentStarted("a", "researcher", None), AgentCompleted("a", None, 1, usage))
        await node.has("limited", *ran, budget={"tokens": 100, "cost": 0.25, "wall_time": 3_600.0})
        _, limited = await node.ask("GET", "/sessions/limited")
        shown = limited["usage"]
        assert isinstance(shown, dict)
        assert {**usage, "total_tokens": 40, "agent_calls": 1} == {k: v for k, v in shown.items() if k in EXACT}
        budget = limited["budget"]
        assert isinstance(budget, dict)
        assert {
            "tokens": {"limit": 100, "used": 40, "left": 60},
            "cost": {"limit": 0.25, "used": 0.5, "left": 0},
        } == budget["caps"]
        assert ("fail", 0) == (budget["on_reached"], budget["grants"])
        assert "2026" == str(budget["wall_time_until"])[:4]


EXACT = {"input_tokens", "output_tokens", "total_tokens", "cost", "agent_calls"}
