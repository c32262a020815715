"""The metrics of a node, by OpenTelemetry. Names, units and attributes are those of `docs/telemetry.md`.

All are summed here and read when they are exported: adding to one costs a tenth of what a synchronous instrument takes,
and a session counts a dozen times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Final

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from orchestrator.session import events as e
from orchestrator.session.spending import COST, INPUT_TOKENS, OUTPUT_TOKENS, number_of
from orchestrator.session.state import Operation, SessionState
from orchestrator.session.tracing import AgentOutcome
from orchestrator.session.transitions import OperationKind, Phase, SessionStatus
from orchestrator.telemetry.histograms import Labels, Spread
from orchestrator.telemetry.port import GAUGES

TOKENS: Final = (1, 4, 16, 64, 256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216, 67_108_864)
"""Those of tokens, as the semantic conventions want them ("Generative AI", metrics, `gen_ai.client.token.usage`)."""
BATCHES: Final = (1, 2, 4, 8, 12, 16, 20, 25)
_NONE: Final[Labels] = ()


class _Counter:
    """A sum for each set of labels, read when it is exported."""

    def __init__(self, meter: Meter, name: str, unit: str, description: str) -> None:
        self._sums: dict[Labels, float] = {}
        meter.create_observable_counter(name, callbacks=[self._read], unit=unit, description=description)

    def add(self, count: float = 1, labels: Labels = _NONE) -> None:
        self._sums[labels] = self._sums.get(labels, 0) + count

    def _read(self, _: CallbackOptions) -> Iterable[Observation]:
        # Copied in one step: the exporter reads it from a thread of its own.
        return [Observation(total, dict(labels)) for labels, total in self._sums.copy().items()]


class _Gauge:
    """What was measured last; nothing until then."""

    def __init__(self, meter: Meter, name: str, unit: str, description: str) -> None:
        self._value: float | None = None
        meter.create_observable_gauge(name, callbacks=[self._read], unit=unit, description=description)

    def set(self, value: float) -> None:
        self._value = value

    def _read(self, _: CallbackOptions) -> Iterable[Observation]:
        return () if self._value is None else (Observation(self._value),)


class Metrics:
    """All instruments of a node."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self.started = _Counter(meter, "orchestrator.sessions.started", "{session}", "Sessions accepted")
        self.ended = _Counter(meter, "orchestrator.sessions.ended", "{session}", "Sessions that came to their end")
        self.retries = _Counter(meter, "orchestrator.operations.retries", "{retry}", "Attempts that are made again")
        self.conflicts = _Counter(
            meter, "orchestrator.journal.conflicts", "{conflict}", "Appends that met another epoch's event"
        )
        self.taken_over = _Counter(
            meter, "orchestrator.sessions.taken_over", "{session}", "Sessions taken from an owner that had not let go"
        )
        self.passivated = _Counter(
            meter, "orchestrator.sessions.passivated", "{session}", "Sessions that left memory while they wait"
        )
        self.fruitless = _Counter(
            meter, "orchestrator.sessions.fruitless_resumes", "{resume}", "Takeovers after which nothing was recorded"
        )
        self.queue = {
            what: _Counter(meter, f"orchestrator.queue.messages.{what}", "{message}", f"Messages {what}")
            for what in ("received", "deleted", "dead_lettered")
        }
        self.throttles = _Counter(meter, "orchestrator.aws.throttles", "{request}", "Requests that AWS turned away")
        self.cost = _Counter(meter, "orchestrator.agent.cost", "1", "Cost that agents reported")
        self.nodes = _Counter(meter, "orchestrator.nodes.started", "{node}", "Nodes that came up")
        self.session_seconds = Spread("orchestrator.sessions.duration", "s", "From a session's acceptance to its end")
        self.accept_seconds = Spread(
            "orchestrator.accept.duration", "s", "From a message's receipt until it is durable"
        )
        self.queue_seconds = Spread("orchestrator.queue.time", "s", "Time of a message in the queue")
        self.operation_seconds = Spread(
            "orchestrator.operation.duration", "s", "From an operation's beginning to its outcome"
        )
        self.agent_seconds = Spread("orchestrator.agent.duration", "s", "One attempt at an agent run")
        self.tokens = Spread("gen_ai.client.token.usage", "{token}", "Tokens of an agent run", TOKENS)
        self.append_seconds = Spread(
            "orchestrator.journal.append.duration", "s", "One request that writes to the table"
        )
        self.append_items = Spread(
            "orchestrator.journal.append.batch_size", "{item}", "Writes that one request carries", BATCHES
        )
        self.loop_seconds = Spread("orchestrator.event_loop.lag", "s", "How late the event loop ran")
        self.spreads = (
            *(self.session_seconds, self.accept_seconds, self.queue_seconds, self.operation_seconds),
            *(self.agent_seconds, self.tokens, self.append_seconds, self.append_items, self.loop_seconds),
        )
        self.gauges = {name: _Gauge(meter, name, unit, says) for name, (unit, says) in GAUGES.items()}

    def observe(self, name: str, unit: str, description: str, read: Callable[[], Mapping[Labels, float]]) -> None:
        """Have values read at each export, in the exporter's thread."""

        def observed(_: CallbackOptions) -> Iterable[Observation]:
            return [Observation(value, dict(labels)) for labels, value in read().items()]

        self._meter.create_observable_gauge(name, callbacks=[observed], unit=unit, description=description)

    def session(self, before: SessionState | None, state: SessionState, recorded: e.Recorded) -> None:
        """Count an event of the session itself that was made durable."""
        event = recorded.event
        if state.has_ended:
            labels = _of_ended(state.started.session_type, state.status)
            self.ended.add(1, labels)
            self.session_seconds.record(_between(state.started_at, recorded.at), labels)
        elif isinstance(event, e.SessionStarted):
            self.started.add(1, (("session_type", event.session_type),))
        elif isinstance(event, e.SessionResumed) and before is not None and before.fruitless_resumes:
            self.fruitless.add()

    def settled(self, operation: Operation, began_at: datetime | None, at: datetime) -> None:
        """Count an operation that has its outcome; `began_at` is when it began, where the journal does not say."""
        began = operation.started_at if began_at is None else began_at
        self.operation_seconds.record(_between(began, at), _OUTCOMES[operation.kind, operation.phase])

    def step_retried(self) -> None:
        """Count a step that is to be tried again."""
        self.retries.add(1, _OF_STEPS)

    def attempt(self, was: Operation | None, event: AgentOutcome, at: datetime) -> None:
        """Count an attempt at an agent run that has ended; `was` is the run before that."""
        if was is None or not isinstance(was.order, e.AgentStarted):
            return
        agent = was.order.agent
        outcome = "completed" if isinstance(event, e.AgentCompleted) else "failed"
        self.agent_seconds.record(
            _between(was.next_attempt_at or was.changed_at, at), (("agent", agent), ("outcome", outcome))
        )
        if isinstance(event, e.AgentRetrying):
            self.retries.add(1, _OF_AGENTS)
        if not isinstance(event, e.AgentCompleted) or not event.usage:
            return
        for kind, name in (("input", INPUT_TOKENS), ("output", OUTPUT_TOKENS)):
            if name in event.usage:
                labels = (("gen_ai.agent.name", agent), ("gen_ai.token.type", kind))
                self.tokens.record(number_of(event.usage, name), labels)
        if COST in event.usage:
            self.cost.add(number_of(event.usage, COST), (("agent", agent),))


@lru_cache(maxsize=256)
def _of_ended(session_type: str, status: SessionStatus) -> Labels:
    return (("session_type", session_type), ("status", status.value))


_OF_STEPS: Final[Labels] = (("kind", OperationKind.STEP.value),)
_OF_AGENTS: Final[Labels] = (("kind", OperationKind.AGENT.value),)
_OUTCOMES: Final[dict[tuple[OperationKind, Phase], Labels]] = {
    (kind, phase): (("kind", kind.value), ("outcome", phase.value.lower())) for kind in OperationKind for phase in Phase
}


def _between(began: datetime, ended: datetime) -> float:
    # A clock that was set back makes no time negative.
    return (ended - began).total_seconds() if began < ended else 0.0
