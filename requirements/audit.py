"""Asks whether a package of the locks has a known flaw: `python -m requirements.audit`, a part of `make check`.

An advisory that nobody has looked at fails the check. That nobody could be asked does not, for that is no fault of the
change that is checked; it is said, and fails with `--required`, as a nightly run should have it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final

from requirements.locks import FOLDER, pins

IGNORED: Final = FOLDER / "ignored-advisories.toml"
IGNORED_FOR_MAX: Final = timedelta(days=184)
SECONDS_MAX: Final = 60
SERVICE: Final = ("--vulnerability-service", "pypi")
"""The package registry's own advisories: who can install can ask."""
OUT_OF_REACH: Final = re.compile(
    # The last line of what pip-audit says when nobody answers, or not as that service would.
    r"requests\.exceptions\.|urllib3\.exceptions\.|pip_audit\._service\.interface\.\w+Error|.*Tip: your network may be"
)


class AuditBroken(Exception):
    """The audit itself does not work; the text is what it said."""


@dataclass(frozen=True)
class Advisory:
    """A known flaw of a version that is locked."""

    package: str
    names: frozenset[str]
    fixed_in: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Ignored:
    """An advisory that is let through for a while."""

    id: str
    reason: str
    until: date


@dataclass(frozen=True)
class Report:
    """What is known: the advisories, and why so many packages could not be asked about."""

    advisories: tuple[Advisory, ...] = ()
    audited: int = 0
    not_audited: tuple[str, ...] = field(default=())


def audit(lock: Path, service: Sequence[str] = SERVICE) -> Report:
    """Return what a service knows of the packages of a lock. Raises `AuditBroken`."""
    command = [
        *(sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--require-hashes", "--disable-pip"),
        *("--progress-spinner", "off", "--format", "json", "--desc", "on", *service),
    ]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS_MAX)
    except subprocess.TimeoutExpired:
        return Report(not_audited=(f"no answer within {SECONDS_MAX} s",))
    try:
        found = json.loads(ran.stdout)["dependencies"]
    except (ValueError, KeyError):
        last = (ran.stderr.strip().splitlines() or [f"exit code {ran.returncode}, and not a word"])[-1]
        if OUT_OF_REACH.match(last):
            return Report(not_audited=(last[:300],))
        raise AuditBroken(ran.stderr.strip()[-2_000:] or last) from None
    return Report(
        advisories=tuple(_advisory(each["name"], vuln) for each in found for vuln in each.get("vulns", ())),
        audited=sum("vulns" in each for each in found),
        not_audited=tuple(each["skip_reason"] for each in found if "skip_reason" in each),
    )


def _advisory(package: str, vuln: dict[str, Any]) -> Advisory:
    text = str(vuln.get("description") or "").partition("\n")[0][:200]
    return Advisory(package, frozenset({vuln["id"], *vuln["aliases"]}), tuple(vuln["fix_versions"]), text)


def ignored(file: Path = IGNORED) -> tuple[Ignored, ...]:
    """Return what is let through, and why. Raises `AuditBroken` for an entry without a reason or a near end."""
    entries = []
    for entry in tomllib.loads(file.read_text()).get("ignored", ()):
        if not (entry.keys() == {"id", "reason", "until"} and entry["reason"] and type(entry["until"]) is date):
            raise AuditBroken(f"{file.name}: an entry has an id, a reason and a day until which it counts: {entry}")
        entries.append(Ignored(**entry))
    return tuple(entries)


def judge(report: Report, known: Sequence[Ignored], *, today: date, is_required: bool = False) -> tuple[int, list[str]]:
    """Return the exit code and the lines that say why."""
    lines, is_bad = [], False
    for each in report.advisories:
        what = f"{each.package}: {' '.join(sorted(each.names))}"
        match = next((one for one in known if one.id in each.names), None)
        if match is not None and today <= match.until <= today + IGNORED_FOR_MAX:
            lines.append(f"{what}: ignored until {match.until}: {match.reason}")
            continue
        is_bad = True
        fix = f"fixed in {', '.join(each.fixed_in)}" if each.fixed_in else "no version is free of it"
        over = "" if match is None else f" (ignored until {match.until}: not today, or for too long)"
        lines.append(f"{what}: {each.text}; {fix}{over}")
    if report.not_audited:
        lines.append(f"NOT AUDITED: {len(report.not_audited)} times: {report.not_audited[0]}")
    lines.append(f"{report.audited} packages audited, {len(report.advisories)} advisories")
    return int(is_bad or (is_required and bool(report.not_audited))), lines


def main(arguments: Sequence[str]) -> int:
    """Audit everything that is locked; return the exit code."""
    try:
        report, known = audit(FOLDER / "dev.txt"), ignored()
    except AuditBroken as broken:
        print(broken, file=sys.stderr)
        return 1
    code, lines = judge(report, known, today=date.today(), is_required="--required" in arguments)
    shipped = pins("runtime").keys() & {each.package for each in report.advisories}
    if shipped:
        lines.append(f"in the container: {', '.join(sorted(shipped))}")
    print("\n".join(lines))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
