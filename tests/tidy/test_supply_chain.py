"""What we are built from: the locks, what is known of it, and under which licences it comes."""

import json
import re
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from orchestrator.local import free_port
from requirements.audit import Advisory, AuditBroken, Ignored, Report, audit, ignored, judge
from requirements.inventory import Package, installed, page
from requirements.locks import pins

ROOT = Path(__file__).parents[2]
LOCKS = ("runtime", "build", "dev")
TODAY = date(2026, 5, 1)
FLAW = Advisory("leaky", frozenset({"GHSA-1", "CVE-1"}), ("2.0",), "It leaks.")


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_one_version_of_each_package_and_its_files(name: str) -> None:
    """By SHA-256, and from wherever whoever installs gets packages: a lock says what, not where."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    assert [] == [each for each, pin in pins(name).items() if not pin.version or not pin.hashes]
    assert [] == re.findall(r"^\s*-(?!-hash=).*|\S+://\S+", text, re.MULTILINE)


def test_the_locks_hold_what_the_project_asks_for() -> None:
    """In versions that it accepts; a change of a dependency that was not locked shows here, not at an installation."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = {
        "runtime": project["project"]["dependencies"],
        "build": project["build-system"]["requires"],
        "dev": [each for group in project["project"]["optional-dependencies"].values() for each in group],
    }
    for name in LOCKS:
        locked = {canonicalize_name(each): pin.version for each, pin in pins(name).items()}
        unmet = [
            text
            for text in asked[name]
            for wanted in [Requirement(text)]
            if locked.get(canonicalize_name(wanted.name), "none") not in wanted.specifier
        ]
        assert [] == unmet, name


def test_the_lock_of_the_container_is_part_of_the_lock_of_the_tests() -> None:
    """The container runs, and is built by, the very versions and files that the tests ran."""
    tested = pins("dev")
    for name in ("runtime", "build"):
        assert {} == {each: pin for each, pin in pins(name).items() if tested.get(each) != pin}


def test_licences_are_listed_as_they_are_and_all_are_allowed() -> None:
    """Of everything that the container holds."""
    packages = installed(pins("runtime"))
    assert page(packages) == (ROOT / "docs" / "licences.md").read_text()
    assert [] == [each for each in packages if not each.is_allowed]


@pytest.mark.parametrize(
    ("licence", "is_allowed"),
    [("MIT", True), ("Apache-2.0 AND (MIT OR PSF-2.0)", True), ("GPL-3.0-only", False), ("MIT AND SSPL-1.0", False)],
)
def test_a_licence_is_allowed_if_all_that_it_names_are(licence: str, is_allowed: bool) -> None:
    """One that asks for more than a notice is for people to decide about."""
    assert is_allowed is Package("a", "1", licence).is_allowed


def test_a_package_that_declares_no_licence_is_not_allowed() -> None:
    """Nothing said is nothing granted."""
    assert not Package("a", "1", "").is_allowed


# --- what is known of it ---------------------------------------------------------------------------------------------


@contextmanager
def osv(answer: dict[str, Any]) -> Iterator[str]:
    """Yield the address of a service of advisories (OSV, `POST /v1/query`) that says this of every package."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.dumps(answer).encode()
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, name="osv")
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1/query"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    """A lock of one package."""
    file = tmp_path / "lock.txt"
    file.write_text(f"leaky==1.0 --hash=sha256:{'0' * 64}\n")
    return file


def test_a_known_flaw_fails_the_check_and_names_the_version_that_mends_it(lock: Path) -> None:
    """As pip-audit tells it, which asked a service."""
    events = [{"introduced": "0"}, {"fixed": "2.0"}]
    affected = {
        "package": {"name": "leaky", "ecosystem": "PyPI"},
        "ranges": [{"type": "ECOSYSTEM", "events": events}],
        "versions": ["1.0"],
    }
    known = {"id": "GHSA-1", "aliases": ["CVE-1"], "details": "It leaks.", "affected": [affected]}
    with osv({"vulns": [known]}) as url:
        report = audit(lock, ["--vulnerability-service", "osv", "--osv-url", url])
    assert Report((FLAW,), audited=1) == report
    assert (1, "leaky: CVE-1 GHSA-1: It leaks.; fixed in 2.0") == _judged(report)


def test_a_service_that_cannot_be_reached_fails_nothing_but_is_told(lock: Path) -> None:
    """Unless it was demanded: nobody may take silence for a clean bill of health."""
    url = f"http://127.0.0.1:{free_port()}/v1/query"
    report = audit(lock, ["--vulnerability-service", "osv", "--osv-url", url])
    code, line = _judged(report)
    assert (0, 0, 1) == (code, report.audited, len(report.not_audited))
    assert line.startswith("NOT AUDITED: ")
    assert 1 == judge(report, [], today=TODAY, is_required=True)[0]


def test_an_audit_that_does_not_work_is_no_clean_bill(lock: Path) -> None:
    """A lock without hashes, say: that is ours to mend."""
    lock.write_text("leaky==1.0\n")
    with pytest.raises(AuditBroken, match="hash"):
        audit(lock)


@pytest.mark.parametrize(
    ("until", "code", "line"),
    [
        (date(2026, 5, 1), 0, "ignored until 2026-05-01: never called"),
        (date(2026, 4, 30), 1, "(ignored until 2026-04-30: not today, or for too long)"),
        (date(2027, 5, 1), 1, "(ignored until 2027-05-01: not today, or for too long)"),
    ],
)
def test_an_advisory_is_ignored_for_a_reason_and_for_a_while(until: date, code: int, line: str) -> None:
    """By any of its names; then it fails the check again."""
    judged, lines = judge(Report((FLAW,), 1), [Ignored("CVE-1", "never called", until)], today=TODAY)
    assert code == judged
    assert lines[0].endswith(line)


def test_an_entry_of_the_list_has_a_reason_and_an_end(tmp_path: Path) -> None:
    """The list as it stands can be read; one that leaves something out is refused."""
    assert all(each.reason for each in ignored())
    file = tmp_path / "ignored.toml"
    file.write_text('[[ignored]]\nid = "CVE-1"\nreason = "never called"\nuntil = 2026-05-01\n')
    assert (Ignored("CVE-1", "never called", TODAY),) == ignored(file)
    for missing in ("id", "reason", "until"):
        lines = [line for line in file.read_text().splitlines(keepends=True) if not line.startswith(missing)]
        (tmp_path / "bad.toml").write_text("".join(lines))
        with pytest.raises(AuditBroken, match="a day until which it counts"):
            ignored(tmp_path / "bad.toml")


def _judged(report: Report) -> tuple[int, str]:
    code, lines = judge(report, [], today=TODAY)
    return code, lines[0]
