"""What people hand to a command or to a test: a value, or an error that says what is wrong (I11)."""

import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import pytest
from any_messages import NOON
from any_values import anything, examples, json_like, odd, odd_texts, spoiled, spoiled_text
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from orchestrator import Orchestrator, SessionContext
from orchestrator.cli.arguments import cap_argument, id_argument, json_argument, secret_argument, text_argument
from orchestrator.cli.output import Exit
from orchestrator.payloads import InvalidPayload, PayloadType, parse_json
from orchestrator.session.events import Event, Recorded, SessionCompleted, SessionStarted, StepCompleted
from orchestrator.testing import ReplayFailed, UnreadableRecording, replay
from orchestrator.views import event_view

# --- recorded journals ---------------------------------------------------------------------------------------------

app = Orchestrator()


@app.session("main")
async def main_session(ctx: SessionContext, payload: object) -> object:
    """Take one step."""
    return await ctx.step("a", lambda: 1)


STORY: Final[tuple[Event, ...]] = (
    SessionStarted("main", "acme", None, "0", None),
    StepCompleted("a", 1, 1),
    SessionCompleted(1),
)
VIEWS: Final[list[Any]] = [
    event_view("s-1", Recorded(seq, event, NOON, 1, "node-1", f"e{seq}")) for seq, event in enumerate(STORY, 1)
]


def text_of(views: object) -> str:
    """Return the lines of a recording."""
    return "\n".join(json.dumps(view) for view in views) if isinstance(views, list) else json.dumps(views)


def test_the_recording_below_is_one() -> None:
    """Else spoiling it would prove nothing."""
    replay(VIEWS, app)


@given(text=spoiled(st.just(VIEWS)).map(text_of) | spoiled_text(st.just(text_of(VIEWS))) | anything)
@example("[" * 100_000)
@example(text_of([{**VIEWS[0], "at": "2026-01-01T00:00:00"}]))
@example(text_of([{**VIEWS[0], "seq": 10**400}]))
@example("{}\n" * 3)
@examples(150)
def test_any_file_is_a_journal_that_matches_or_not_or_is_unreadable(text: str) -> None:
    """And says which of them, by an error of ours."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s-1.jsonl"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        with suppress(UnreadableRecording, ReplayFailed):
            replay(path, app)


# --- arguments -----------------------------------------------------------------------------------------------------

ARGUMENTS: Final[list[Callable[[str], object]]] = [
    lambda text: json_argument(text, "--input"),
    lambda text: id_argument(text, "--key"),
    lambda text: text_argument(text, "--reason", length_max=5),
    lambda text: secret_argument(text, "--token"),
    lambda text: cap_argument("tokens", text),
    lambda text: cap_argument("cost", text),
]


@pytest.mark.parametrize("read", ARGUMENTS)
@given(text=anything | odd_texts | odd.map(json.dumps) | anything.map("@{}".format))
@example("@" + "x" * 10_000)
@example("@\x00")
@example("@/")
@example("[" * 100_000)
@examples(100)
def test_any_argument_is_a_value_or_ends_the_command_as_a_wrong_usage(read: Callable[[str], object], text: str) -> None:
    """With one line on standard error; nothing is sent anywhere."""
    if text == "-":
        return
    try:
        read(text)
    except SystemExit as ended:
        code = ended.code
    else:
        return
    assert Exit.USAGE == code


@pytest.mark.parametrize(
    ("name", "text", "cap"),
    [
        ("tokens", "5", 5),
        ("tokens", "0", 0),
        ("cost", "0.0", 0),
        ("cost", "2.5", 2.5),
        ("agent_calls", "default", None),
    ],
)
def test_a_cap_is_a_number_none_or_the_settings(name: str, text: str, cap: float | None) -> None:
    """0 is no cap at all, whatever the setting says."""
    assert cap == cap_argument(name, text)


@pytest.mark.parametrize(("name", "text"), [("tokens", "1.5"), ("tokens", "-1"), ("cost", "nan"), ("cost", "1e10")])
def test_what_is_no_cap_is_a_wrong_usage(name: str, text: str) -> None:
    """Exit 2."""
    with pytest.raises(SystemExit) as ended:
        cap_argument(name, text)
    assert Exit.USAGE == ended.value.code


# --- inputs of sessions --------------------------------------------------------------------------------------------


class Size(IntEnum):
    """A choice."""

    SMALL = 1
    LARGE = 2


class Wide(BaseModel):
    """An input with a field of nearly every kind."""

    whole: int = 0
    real: float = 0.0
    exact: Decimal = Decimal(0)
    at: datetime | None = None
    day: date | None = None
    hour: time | None = None
    pause: timedelta | None = None
    key: UUID | None = None
    raw: bytes = b""
    size: Size = Size.SMALL
    word: Literal["a", "b"] = "a"
    named: Annotated[str, Field(pattern=r"^(a+)+$")] = "a"
    few: set[int] = set()
    counts: dict[int, float] = {}
    inner: "list[Wide]" = []


@given(fields=st.dictionaries(st.sampled_from(sorted(Wide.model_fields)), json_like | odd))
@example({"named": "a" * 50_000 + "!"})
@example({"real": 10**4_000})
@example({"pause": 1e300})
@example({"at": 10**400})
@example({"exact": "9" * 100_000})
@examples(400)
def test_any_input_fits_its_model_or_is_invalid(fields: dict[str, object]) -> None:
    """Of whatever fields the model is made."""
    try:
        value = parse_json(json.dumps(fields))
    except (ValueError, RecursionError):
        return
    with suppress(InvalidPayload):
        PayloadType(Wide).load(value)
