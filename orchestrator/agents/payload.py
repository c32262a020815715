"""What an agent elsewhere is sent and what it answers, as JSON: for technologies that leave that to the agent."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Final

from orchestrator.agents import AgentReply
from orchestrator.agents.usage import usage_of
from orchestrator.payloads import parse_json
from orchestrator.remote import AgentAnswerTooLarge, AgentRefused, AgentUnreadable
from orchestrator.session.values import Json, compact_json

VALUES_MAX: Final = 100_000
"""Protobuf takes about twenty microseconds for one, so that this many hold up a node for two seconds."""
# One without an end matches, too: else each of its quotes would be tried as a beginning.
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)


def payload_of(prompt: Json, kwargs: Mapping[str, Json]) -> bytes:
    """Return the request's body: a prompt that is an object as it stands, any other as `{"prompt": …}`.

    What the handler passed besides stands beside it.

    Raises:
        AgentRefused: something passed besides has the name of a field of the prompt.
    """
    fields = prompt if isinstance(prompt, dict) else {"prompt": prompt}
    if twice := fields.keys() & kwargs.keys():
        raise AgentRefused(f"in the prompt and beside it, both: {', '.join(sorted(twice))}")
    return compact_json({**fields, **kwargs}).encode()


def reply_of(body: bytes) -> AgentReply:
    """Return the answer; an empty body is `None`.

    Raises:
        AgentUnreadable: it is no JSON, or none that a journal can hold.
    """
    answer = json_of(body)
    return AgentReply(result=answer, usage=usage_of(answer))


def json_of(body: bytes) -> Json:
    """Return the JSON value of those bytes; `None` for no bytes.

    Raises:
        AgentUnreadable: as `reply_of` does. AgentAnswerTooLarge: it holds too many values.
    """
    check_values(body)
    try:
        return parse_json(body.decode()) if body.strip() else None
    except ValueError as error:
        # A decoder's own text may quote the bytes.
        raise AgentUnreadable(f"its answer ({len(body)} bytes) is no JSON: {type(error).__name__}") from None


def check_values(body: bytes) -> None:
    """Return if the JSON holds no more values than can be read in between: a parser holds up the whole node.

    Raises:
        AgentAnswerTooLarge: it holds more.
    """
    if _marks(body) > VALUES_MAX and _marks(_STRING.sub(b"", body)) > VALUES_MAX:
        raise AgentAnswerTooLarge(f"its answer holds more than {VALUES_MAX} values: have it answer by links")


def _marks(body: bytes) -> int:
    """Return how many values the JSON holds at most: those in its texts are counted with them."""
    return body.count(b",") + body.count(b"{") + body.count(b"[")


def name_of_run(idempotency_key: str) -> str:
    """Return the name of an operation where only letters and digits may stand, and as many: 40 characters."""
    return f"session-{hashlib.sha256(idempotency_key.encode()).hexdigest()[:32]}"
