"""Real Strands agents for the engine tests: on a model that answers from a script, with tools that count."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from strands import Agent, tool
from strands.models.model import Model

from orchestrator import SessionContext, current_invocation
from orchestrator.session.events import Event, SessionCompleted


class Bench:
    """Two tools that count how often they ran, for what, and under which keys; `on_call` is told before each."""

    def __init__(self) -> None:
        self.ran: Counter[str] = Counter()
        self.keys: list[str] = []
        self.on_call: Callable[[str], object] = str

        @tool
        async def search(q: str) -> str:
            """Search for something."""
            return f"found {self._note(q)}"

        @tool
        async def order(item: str) -> str:
            """Order something."""
            return f"ordered {self._note(item)}"

        self.tools = [search, order]

    def _note(self, what: str) -> str:
        key = current_invocation().idempotency_key
        self.on_call(key.rpartition("/")[2])
        self.ran[what] += 1
        self.keys.append(key)
        return what


def silent(model: Model, *tools: object, **options: Any) -> Agent:
    """Return an agent that tries each model call once: the library's own pauses are on the real clock."""
    return Agent(model=model, tools=list(tools), retry_strategy=None, callback_handler=None, **options)


async def delegate(ctx: SessionContext, prompt: object) -> object:
    """Let the agent do it all."""
    return await ctx.invoke_agent("agent", prompt)


def reply_of(end: Event) -> dict[str, Any]:
    """Return what the agent replied, of a session that ended with that."""
    assert isinstance(end, SessionCompleted), end
    assert isinstance(end.result, dict), end
    return end.result


def text_of(end: Event) -> object:
    """Return what the agent said, of a session that ended with its reply."""
    return reply_of(end)["text"]
