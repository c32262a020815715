"""What a session type declares as nobody's business is in no line of its logs; what it does not declare stays."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

import pytest
import structlog
from pydantic import BaseModel, Field, SecretStr
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from orchestrator import Orchestrator, RegistrationError, SessionContext, testing
from orchestrator.redaction import REDACTED, redacted, redaction_of
from orchestrator.session.values import Json
from orchestrator.telemetry.redacting import redacting

IBAN = "CH93-0076-2011"


class Kind(Enum):
    """A plain choice."""

    DEBIT = "debit"


class Card(BaseModel):
    """A model with an alias and a secret of pydantic's."""

    number: str = Field(alias="cardNumber")
    kind: Kind = Kind.DEBIT
    pin: SecretStr = SecretStr("1234")


@dataclass
class Payment:
    """A dataclass around it."""

    iban: str
    card: Card


class Opaque:
    """Shows its insides in its text."""

    def __repr__(self) -> str:
        return IBAN


@pytest.mark.parametrize(
    ("declared", "value", "expected"),
    [
        (("iban",), {"iban": IBAN, "amount": 3}, {"iban": REDACTED, "amount": 3}),
        (("iban",), {"a": [{"iban": [IBAN]}, {"b": 1}]}, {"a": [{"iban": REDACTED}, {"b": 1}]}),
        (("card.number",), {"number": 1, "card": {"number": 2}}, {"number": 1, "card": {"number": REDACTED}}),
        (("card.number",), {"x": {"card": [{"number": 2}]}}, {"x": {"card": [{"number": REDACTED}]}}),
        (("a.b", "c"), {"a": {"b": 1, "c": 2, "d": 3}}, {"a": {"b": REDACTED, "c": REDACTED, "d": 3}}),
        ((), {"iban": IBAN}, {"iban": IBAN}),
        (("iban",), [1, None, True, 1.5, "text"], [1, None, True, 1.5, "text"]),
    ],
)
def test_declared_fields_are_taken_out_wherever_they_stand(
    declared: tuple[str, ...], value: Json, expected: Json
) -> None:
    """A name at any depth, a path by its last names; lists in between count for nothing."""
    assert expected == redacted(value, declared)


def test_models_and_dataclasses_are_looked_into() -> None:
    """By a field's name and by its alias; what hides itself stays hidden, an unknown object shows only its type."""
    payment = Payment(IBAN, Card(cardNumber="4242"))
    for declared in ("card.number", "card.cardNumber"):
        expected = {"iban": IBAN, "card": {"number": REDACTED, "kind": "debit", "pin": "**********"}}
        assert expected == redacted(payment, (declared,))
    assert {"it": "<Opaque>", "at": NOON} == redacted({"it": Opaque(), "at": NOON}, ("iban",))


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_values_of_the_input_are_taken_out_of_texts() -> None:
    """A line that quotes a declared field of the input under another name, or in a sentence, shows it no more."""
    redaction = redaction_of(("iban", "pin"), {"pay": [{"iban": IBAN, "pin": 12}], "card": 987_654, "to": "ann"})
    assert redaction is not None
    assert f"sent {REDACTED} to ann, 12" == redaction.of(f"sent {IBAN} to ann, 12")
    numbers = redaction_of(("card",), {"card": 987_654})
    assert numbers is not None
    assert {"a": REDACTED, "b": 9} == numbers.of({"a": 987_654, "b": 9})
    assert redaction_of((), {"iban": IBAN}) is None


def capturing(lines: list[EventDict]) -> FilteringBoundLogger:
    """Return a logger that keeps its lines."""

    def keep(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        lines.append(dict(event))
        raise structlog.DropEvent

    log: FilteringBoundLogger = structlog.wrap_logger(
        None, processors=[keep], wrapper_class=structlog.make_filtering_bound_logger(0)
    )
    return log


def test_a_redacting_logger_lets_nothing_declared_through() -> None:
    """As an argument, bound before, in the text, in a placeholder, or in an exception's text."""
    lines: list[EventDict] = []
    redaction = redaction_of(("iban",), {"iban": IBAN})
    assert redaction is not None
    log = redacting(capturing(lines), redaction)
    log.info("paid", iban="another", amount=3)
    log.bind(iban=IBAN, step="a").warning(f"about {IBAN}", note=[IBAN])
    log.info("about %s", IBAN)
    try:
        raise ValueError(IBAN)
    except ValueError:
        log.exception("failed")
    assert IBAN not in json.dumps(lines, default=repr)
    assert {"iban": REDACTED, "amount": 3, "event": "paid"} == lines[0]
    assert {"iban": REDACTED, "step": "a", "event": f"about {REDACTED}", "note": [REDACTED]} == lines[1]
    assert ("failed", "ValueError", True) == (lines[3]["event"], lines[3]["error"], bool(lines[3]["frames"]))


@pytest.mark.parametrize("declared", ["iban", ("",), ("a..b",), (1,), None, [], {}])
def test_what_is_no_list_of_fields_is_refused(declared: object) -> None:
    """A single text would be taken apart into letters."""
    with pytest.raises(RegistrationError, match="redact"):
        Orchestrator().session("pay", redact=declared)  # type: ignore[arg-type]


async def test_a_handlers_lines_are_redacted(capsys: pytest.CaptureFixture[str]) -> None:
    """`ctx.logger` of a session type that declares fields, and of one that does not."""
    app = Orchestrator()

    async def pay(ctx: SessionContext, order: dict[str, str]) -> str:
        ctx.logger.info("paying", order=order, note=f"from {order['iban']}")
        return order["iban"]

    app.session("quiet", redact=("iban",))(pay)
    app.session("loud")(pay)
    async with testing.environment(app) as env:
        said: dict[str, str] = {}
        for kind in ("quiet", "loud"):
            session = await env.start(kind, {"iban": IBAN, "to": "ann"})
            assert IBAN == await session.result()
            said[kind] = capsys.readouterr().out
    assert "paying" in said["quiet"]
    assert "ann" in said["quiet"]
    assert IBAN not in said["quiet"]
    assert IBAN in said["loud"]
