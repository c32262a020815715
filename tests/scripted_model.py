"""A model for real Strands agents that answers from a script: no network, every call counted."""

import json
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from dataclasses import dataclass, field
from typing import Any

from strands.models.model import Model
from strands.types.content import Messages
from strands.types.streaming import StreamEvent

TOKENS_IN, TOKENS_OUT = 10, 5


@dataclass(frozen=True)
class Use:
    """A use of a tool that an answer asks for."""

    tool: str
    tool_use_id: str
    given: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Turn:
    """One answer of a model: what it says, the tools it asks for, how it stops, and what a guardrail takes out."""

    text: str = ""
    uses: tuple[Use, ...] = ()
    stop_reason: str = ""
    redaction: str = ""


class ScriptedModel(Model):
    """Answers with the turn that the conversation has come to, so that any process goes on as another would.

    `asked` holds the conversation of every call, `fails` how often the stream of each turn is cut; `on_call` is
    told the number of each turn before it is given.
    """

    def __init__(self, *turns: Turn, fails: dict[int, int] | None = None) -> None:
        self._turns = turns
        self.fails = Counter(fails or {})
        self.asked: list[Messages] = []
        self.on_call: Callable[[str], object] = str

    @property
    def calls(self) -> int:
        """How often it was called."""
        return len(self.asked)

    def update_config(self, **_: Any) -> None:
        """Has nothing to set."""

    def get_config(self) -> dict[str, str]:
        """Return what traces tell of it."""
        return {"model_id": "scripted"}

    def structured_output(self, *_: Any, **__: Any) -> AsyncGenerator[dict[str, Any], None]:
        """Refuse what agents no longer do."""
        raise NotImplementedError

    async def stream(self, messages: Messages, *_: Any, **__: Any) -> AsyncIterable[StreamEvent]:
        """Stream the turn."""
        self.asked.append(messages)
        number = sum(message["role"] == "assistant" for message in messages)
        self.on_call(f"model#{number + 1}")
        for place, event in enumerate(_events(self._turns[number])):
            if place == 1 and self.fails[number]:
                self.fails[number] -= 1
                raise ConnectionError("the model is away")
            yield event


def _events(turn: Turn) -> list[StreamEvent]:
    events: list[Any] = [{"messageStart": {"role": "assistant"}}]
    if turn.redaction:
        events.append({"redactContent": {"redactUserContentMessage": turn.redaction}})
    if turn.text:
        events += [{"contentBlockDelta": {"delta": {"text": turn.text}}}, {"contentBlockStop": {}}]
    for use in turn.uses:
        start = {"toolUse": {"name": use.tool, "toolUseId": use.tool_use_id}}
        events += [
            {"contentBlockStart": {"start": start}},
            {"contentBlockDelta": {"delta": {"toolUse": {"input": json.dumps(use.given)}}}},
            {"contentBlockStop": {}},
        ]
    usage = {"inputTokens": TOKENS_IN, "outputTokens": TOKENS_OUT, "totalTokens": TOKENS_IN + TOKENS_OUT}
    events += [
        {"messageStop": {"stopReason": turn.stop_reason or ("tool_use" if turn.uses else "end_turn")}},
        {"metadata": {"usage": usage, "metrics": {"latencyMs": 1}}},
    ]
    return events
