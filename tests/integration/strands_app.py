"""An application whose agent is a real Strands agent on a scripted model; all that is really called leaves a line.

Apart from `sample_app`, for the library takes a second to load.
"""

import os
import time
from pathlib import Path

from strands import Agent, tool

from orchestrator import Orchestrator, SessionContext, current_invocation
from tests.integration.sample_app import append
from tests.scripted_model import ScriptedModel, Turn, Use

TRAIL, GATE = "STRANDS_TRAIL", "STRANDS_GATE"

app = Orchestrator()


def note(call: str) -> None:
    """Leave a line."""
    append(os.environ[TRAIL], call)


@tool
def search(q: str) -> str:
    """Search for something."""
    note(current_invocation().idempotency_key)
    return f"found {q}"


@tool
def order(item: str) -> str:
    """Order something, once the gate is there."""
    note(current_invocation().idempotency_key)
    while not Path(os.environ[GATE]).exists():
        time.sleep(0.02)
    return f"ordered {item}"


model = ScriptedModel(
    Turn("", (Use("search", "t1", {"q": "tea"}),)), Turn("", (Use("order", "t2", {"item": "tea"}),)), Turn("done")
)
model.on_call = note
app.agent("buyer")(Agent(model=model, tools=[search, order]))


@app.session("buy")
async def buy(ctx: SessionContext, wish: str) -> object:
    """Let the agent do it."""
    return await ctx.invoke_agent("buyer", wish)
