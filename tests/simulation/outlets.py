"""EventBridge and Step Functions, as the product sees them: what they were told, and what they say went wrong.

To change it: faults and times of these services alone. They are drawn from a chance of their own, so that a run without
them is the same as if they did not exist.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import aiohttp

from tests.simulation.dynamodb import refused

BUS: Final = "bus"
TASKS: Final = "tasks"
WAY_SECONDS: Final = (0.001, 0.004, 0.02)
SLOW_SECONDS: Final = (2.0, 9.0)
FAULTS: Final = ("throttle", "error", "reset", "lost_answer", "some_entries", "slow")
TASK_PREFIX: Final = "task-"
"""What the token of a session's task begins with."""


@dataclass(frozen=True, slots=True)
class Told:
    """One event that the bus took."""

    detail_type: str
    detail: dict[str, Any]


@dataclass(slots=True)
class SimOutlets:
    """The services that notices go to. `likely` is how likely a fault of a call is; 0 when all is well again.

    `on_told` is called with each event that the bus takes. Sessions have tasks that wait for them where there is a bus.
    """

    chance: Random
    has_bus: bool = False
    likely: float = 0.0
    on_told: Callable[[Told], None] = lambda _: None
    events: int = 0
    answered: dict[str, str] = field(default_factory=dict)
    """By task token: how its task ended."""
    faults: Counter[str] = field(default_factory=Counter)

    def fault(self) -> str:
        """Return what goes wrong with the next call; empty for nothing."""
        if self.chance.random() >= self.likely:
            return ""
        kind = self.chance.choice(FAULTS)
        self.faults[kind] += 1
        return kind

    def way(self, fault: str) -> float:
        """Return the seconds of a way."""
        return self.chance.choice(SLOW_SECONDS if fault == "slow" else WAY_SECONDS)

    def perform(self, operation: str, request: Mapping[str, Any], fault: str) -> dict[str, Any]:
        """Return what the service answers, or raise what the caller sees; a lost answer is of what was done."""
        match fault:
            case "throttle":
                raise refused("ThrottlingException", operation)
            case "error":
                raise refused("InternalFailure", operation)
            case "reset":
                raise aiohttp.ServerDisconnectedError
            case _:
                answer = self._answer(operation, request, fault)
        if fault == "lost_answer":
            raise aiohttp.ServerDisconnectedError
        return answer

    def _answer(self, operation: str, request: Mapping[str, Any], fault: str) -> dict[str, Any]:
        match operation:
            case "DescribeEventBus":
                return {"Name": request["Name"]}
            case "PutEvents":
                return self._put_events(request, fault)
            case "SendTaskSuccess":
                return self._end(request["taskToken"], "COMPLETED", operation)
            case "SendTaskFailure":
                return self._end(request["taskToken"], request["error"], operation)
            case _:
                raise AssertionError(f"no operation {operation} of these services is simulated")

    def _put_events(self, request: Mapping[str, Any], fault: str) -> dict[str, Any]:
        entries: list[dict[str, Any]] = []
        for entry in request["Entries"]:
            if fault == "some_entries" and self.chance.random() < 0.5:
                entries.append({"ErrorCode": "InternalFailure", "ErrorMessage": "simulated"})
                continue
            self.on_told(Told(entry["DetailType"], json.loads(entry["Detail"])))
            self.events += 1
            entries.append({"EventId": f"event-{self.events}"})
        return {"Entries": entries, "FailedEntryCount": sum("ErrorCode" in entry for entry in entries)}

    def _end(self, token: str, end: str, operation: str) -> dict[str, Any]:
        if token in self.answered:
            raise refused("TaskTimedOut", operation)
        self.answered[token] = end
        return {}
