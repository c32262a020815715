"""What an agent says that it used, under the names that are counted: whichever names its own library has for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from orchestrator.errors import NotSerializable
from orchestrator.payloads import PayloadTooLarge, to_json
from orchestrator.session.spending import INPUT_TOKENS, OUTPUT_TOKENS, TOKENS
from orchestrator.session.values import JsonObject

USAGE_BYTES_MAX: Final = 8_192
"""Counts are few; the item has to hold the result beside them (I12)."""

NAMES: Final = {
    "inputTokens": INPUT_TOKENS,
    "outputTokens": OUTPUT_TOKENS,
    "totalTokens": TOKENS,
    "cacheReadInputTokens": "cache_read_input_tokens",
    "cacheWriteInputTokens": "cache_write_input_tokens",
    "prompt_tokens": INPUT_TOKENS,
    "completion_tokens": OUTPUT_TOKENS,
}
"""Names of Bedrock's Converse API (and of Strands), and of OpenAI's chat completions → those that are counted."""


def usage_of(answer: object) -> JsonObject | None:
    """Return the answer's `usage`, as an attribute or a key; `None` where it names none."""
    return counts_in(answer.get("usage") if isinstance(answer, dict) else getattr(answer, "usage", None))


def counts_in(usage: object) -> JsonObject | None:
    """Return the counts of a mapping under the names that are counted; `None` where it is none."""
    if not isinstance(usage, Mapping):
        return None
    try:
        counts = to_json(dict(usage), "usage", bytes_max=USAGE_BYTES_MAX)
    except (NotSerializable, PayloadTooLarge):
        # Something else by that name: the answer is whole without it.
        return None
    if not isinstance(counts, dict):
        return None
    # What the agent says under the counted name itself comes first.
    renamed = {NAMES[name]: count for name, count in counts.items() if name in NAMES}
    return {**renamed, **{name: count for name, count in counts.items() if name not in NAMES}}
