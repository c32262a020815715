"""What `docs/triggers.md` shows runs as it stands."""

import importlib
import inspect
import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from orchestrator import Occurrence, Orchestrator, SessionContext
from orchestrator.intake import Envelope, Start
from orchestrator.intake.formats import Reader

PAGE = (Path(__file__).parents[2] / "docs" / "triggers.md").read_text()


async def test_the_examples_run_as_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blocks, saved under the names in their first lines: the tests among them hold for the application."""
    blocks: dict[str, str] = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE, re.DOTALL))
    assert {"shop.py", "test_shop.py"} == blocks.keys()
    for name, block in blocks.items():
        (tmp_path / name).write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    tests = [test for name, test in vars(importlib.import_module("test_shop")).items() if name.startswith("test_")]
    assert 3 == len(tests)
    for test in tests:
        assert inspect.iscoroutinefunction(test)
        await test()


def test_what_eventbridge_scheduler_sends_by_the_template_starts_one_session_an_occurrence() -> None:
    """After it has put its values in their places; a second delivery of the same one is the same session."""
    app = Orchestrator()

    @app.session("report")
    async def report(ctx: SessionContext, due: Occurrence) -> None: ...

    (template,) = [block for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL) if "aws.scheduler" in block]

    def delivered(at: str) -> Start:
        body = template.replace("<aws.scheduler.scheduled-time>", at)
        body = body.replace("<aws.scheduler.schedule-arn>", "arn:aws:scheduler:eu-central-1:111122223333:schedule/a/b")
        assert "<aws" not in body
        (start,) = Reader(app, lambda: "0").read(Envelope("m", body))
        assert isinstance(start, Start)
        return start

    first, again, next_one = (delivered(f"2026-01-0{day}T08:00:00Z") for day in (5, 5, 6))
    assert [first.session_id == again.session_id, first.session_id == next_one.session_id] == [True, False]
    assert datetime(2026, 1, 5, 8, tzinfo=UTC) == Occurrence.model_validate(first.input).scheduled_at


def test_the_policy_of_the_queue_is_json() -> None:
    """It is there to be copied."""
    (policy,) = [block for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL) if "Principal" in block]
    assert "sqs:SendMessage" == json.loads(policy)["Action"]
