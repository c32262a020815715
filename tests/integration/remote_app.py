"""An application whose agent runs elsewhere, at the address in `ANALYST_URL`: followed, or waited for to push."""

import os

from orchestrator import A2AAgent, Orchestrator, RetryPolicy, SessionContext

app = Orchestrator()
app.agent("followed")(A2AAgent(os.environ["ANALYST_URL"]))
app.agent("pushing")(A2AAgent(os.environ["ANALYST_URL"], push=True))


@app.session("ask")
async def ask(ctx: SessionContext, request: dict[str, str]) -> object:
    """Return what the agent answers."""
    return await ctx.invoke_agent(request["agent"], request["prompt"], retry=RetryPolicy(max_attempts=2))
