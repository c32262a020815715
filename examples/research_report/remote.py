"""The same report by agents that speak A2A: `orchestrator dev examples.research_report.remote:app`.

Nothing of the handler differs but how an agent is asked. One task is submitted for each run, and the agent's push tells
of its end; meanwhile the run is parked, and the session may leave memory.
"""

from __future__ import annotations

from datetime import timedelta

from pydantic import BaseModel

from examples.research_report.app import AGENTS_URL, UNTIL_THEY_TAKE_IT, Outcome, Request, report
from examples.research_report.texts import AGENTS
from orchestrator import A2AAgent, Orchestrator, SessionContext

app = Orchestrator()
for agent in AGENTS:
    app.agent(agent)(A2AAgent(f"{AGENTS_URL}/{agent}", push=True))


class Answer(BaseModel):
    """What of a remote agent's result is used here: its text parts."""

    text: str


@app.session("research-report")
async def research_report(ctx: SessionContext, request: Request) -> Outcome:
    return await report(ctx, request, ask)


async def ask(ctx: SessionContext, name: str, agent: str, text: str, *, timeout: timedelta) -> str:
    """Give a remote agent work, and return its answer. However long that is, it is kept where it belongs."""
    answer = await ctx.invoke_agent(agent, text, name=name, timeout=timeout, retry=UNTIL_THEY_TAKE_IT)
    return Answer.model_validate(answer).text
