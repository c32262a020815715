"""What came of the demo's sessions: how each is shown, and where one is not as it must be. Journals in, words out.

A document more in `documents/` needs its trade's outcome in `EXPECTED`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from rich.markup import escape
from rich.table import Table

from examples.trade_matching.app import Outcome
from orchestrator.session.values import JsonObject

EXPECTED: Final[Mapping[str, tuple[str, ...]]] = {
    "0301": ("MATCHED", "WAITING"),
    "0302": ("MATCHED", "WAITING"),
    "0303": ("MATCHED", "WAITING"),
    "0304": ("MISMATCHED amount", "WAITING"),
    "0305": ("MISMATCHED value_date", "WAITING"),
    "0306": ("MISMATCHED currency", "WAITING"),
    "0307": ("MATCHED", "WAITING"),
    "0308": ("WAITING",),
    "0309": ("FAILED broken PDF", "WAITING"),
    "0310": ("FAILED no text in the PDF", "WAITING"),
}
"""Trade → how its sessions end, in alphabetical order. Which of its two documents is the second is anybody's guess."""

COMPLETED: Final = "AGENT_BACKGROUND_TASK_COMPLETED"
FAILED: Final = "AGENT_BACKGROUND_TASK_FAILED"
OPERATION_COMPLETED: Final = frozenset({"STEP_COMPLETED", "AGENT_COMPLETED"})
REFUSED: Final = "extractor: NonRetryable: "


@dataclass(frozen=True, slots=True)
class Session:
    """One session as its journal tells it. `duplicates` counts the deliveries that it absorbed."""

    session_id: str
    events: list[JsonObject]
    duplicates: int

    @property
    def document(self) -> str:
        return str(_at(self.events[0], "data", "input", "key"))

    @property
    def trade(self) -> str:
        return self.document.removesuffix(".pdf")[-4:]

    @property
    def outcome(self) -> Outcome | None:
        """Return the session's result; `None` where it has none."""
        last = self.events[-1]
        return Outcome.model_validate(_at(last, "data", "result")) if last["status"] == COMPLETED else None

    @property
    def reason(self) -> str:
        return str(_at(self.events[-1], "data", "error", "message")).removeprefix(REFUSED)

    @property
    def verdict(self) -> str:
        outcome = self.outcome
        if outcome is None:
            return f"FAILED {self.reason}"
        return " ".join([outcome.status, *(each.field for each in outcome.differences)])

    @property
    def completed(self) -> list[str]:
        return [str(each["operation"]) for each in self.events if each["status"] in OPERATION_COMPLETED]

    def count(self, *statuses: str) -> int:
        return sum(each["status"] in statuses for each in self.events)


def table(sessions: list[Session]) -> Table:
    """Return the sessions, one a line."""
    shown = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("document", "session", "state"):
        shown.add_column(name, no_wrap=True)
    shown.add_column("outcome")
    for name in ("steps", "duplicates", "resumed"):
        shown.add_column(name, justify="right", no_wrap=True)
    for session in sessions:
        shown.add_row(
            f"{session.trade} {session.document.partition('/')[0]}",
            f"…{session.session_id[-6:]}",
            "[red]FAILED[/]" if session.outcome is None else "COMPLETED",
            escape(in_words(session)),
            str(len(session.completed)),
            str(session.duplicates),
            str(session.count("SESSION_RESUMED")),
        )
    return shown


def in_words(session: Session) -> str:
    outcome = session.outcome
    if outcome is None:
        return session.reason
    other = "counterparty" if outcome.side == "bank" else "bank"
    match outcome.status:
        case "MATCHED":
            return f"matches the {other}'s"
        case "MISMATCHED":
            return ", ".join(f"{each.field} {each.bank} ≠ {each.counterparty}" for each in outcome.differences)
        case "WAITING":
            return f"awaits the {other}'s"


def summary(sessions: list[Session], deliveries: int, interrupted: set[str], seconds: float) -> str:
    documents = len({session.document for session in sessions})
    duplicates = sum(session.duplicates for session in sessions)
    resumed = sum(session.count("SESSION_RESUMED") > 0 for session in sessions)
    ends = sum(session.count(COMPLETED, FAILED) for session in sessions)
    return (
        f"\n{documents} documents, {deliveries} deliveries, {duplicates} duplicates absorbed; "
        f"a worker killed with {len(interrupted)} sessions in flight, {resumed} resumed by the next: "
        f"[bold]{len(sessions)} sessions, {ends} ends[/], in {seconds:.0f} s"
    )


def unexpected(sessions: list[Session], documents: set[str], interrupted: set[str]) -> Iterator[str]:
    """Return what is not as the orchestrator promises, or as the documents say."""
    for document, count in Counter([*documents, *(session.document for session in sessions)]).items():
        if count != 1 + 1:
            yield f"{document}: {count - 1} sessions instead of one"
    for session in sessions:
        if session.count(COMPLETED, FAILED) != 1:
            yield f"{session.document}: {session.count(COMPLETED, FAILED)} terminal events instead of one"
        if len(set(session.completed)) != len(session.completed):
            yield f"{session.document}: an operation completed twice: {session.completed}"
        if session.duplicates < 1:
            yield f"{session.document}: its second delivery left no trace in the logs"
        if session.count("SESSION_RESUMED") and session.session_id not in interrupted:
            yield f"{session.document}: resumed, though its end was recorded before the kill"
    if not any(session.count("SESSION_RESUMED") for session in sessions):
        yield "no session was resumed"
    for trade, expected in EXPECTED.items():
        verdicts = sorted(session.verdict for session in sessions if session.trade == trade)
        if len(verdicts) != len(expected) or not all(map(str.startswith, verdicts, expected)):
            yield f"trade {trade}: expected {expected}, got {verdicts}"


def unrecorded(sessions: list[Session], recorded: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """Return where the results in the example's table are not those that the sessions report, each recorded once."""
    found = {
        session.trade: {
            "result": outcome.model_dump_json(),
            "recorded_by": f"{session.session_id}/record",
        }
        for session in sessions
        if (outcome := session.outcome) is not None and outcome.status != "WAITING"
    }
    for trade in EXPECTED:
        item = recorded.get(trade, {})
        stands = {name: item[name] for name in ("result", "recorded_by") if name in item}
        if stands != found.get(trade, {}):
            yield f"trade {trade}: the table holds {stands}, the sessions report {found.get(trade)}"


def _at(value: object, *path: str) -> object:
    for name in path:
        assert isinstance(value, dict), f"no {name} in {value!r}"
        value = value[name]
    return value
