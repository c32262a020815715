"""What `deploy/ecs/README.md` says is so: its commands name what there is, and its bill is what the counts come to."""

import re
from pathlib import Path
from typing import Final

import pytest

from bench.bill import BEATS, CONSISTENT_QUERIES, FLEETS, INDEX_QUERIES, POLLS, PRICES, WRITE_UNITS, bill, table
from orchestrator.cli.main import PLACES
from tests.deploy.templates import FOLDER, TEMPLATES, parsed

README: Final = (FOLDER / "README.md").read_text()
DOCS: Final = FOLDER.parents[1] / "docs"
DEPLOYS: Final = re.compile(r"cloudformation deploy .*?--template-file (\S+)(.*?)(?:\n(?=\S)|```)", re.DOTALL)


def counted(row: str) -> float:
    """Return the figure of a row of `docs/performance.md`."""
    found = re.search(rf"^\| {re.escape(row)}.*?\| ([\d,.]+)", (DOCS / "performance.md").read_text(), re.MULTILINE)
    assert found is not None, row
    return float(found[1].replace(",", "").rstrip("."))


def test_the_bill_is_the_one_that_the_counts_come_to() -> None:
    """Run `python -m bench.bill` after a change of either, and put what it prints into the README."""
    assert table() in README


def test_the_counts_of_the_bill_are_those_of_the_benchmark() -> None:
    """A session that costs more write units, or a node that looks more often, changes the bill."""
    table_units = counted("table write units, event items within 1 KB")
    assert WRITE_UNITS == table_units + counted("index write units, besides")
    assert POLLS == counted("SQS `ReceiveMessage`")
    assert BEATS == counted("DynamoDB `UpdateItem`")
    assert counted("DynamoDB `Query`") == pytest.approx(CONSISTENT_QUERIES + INDEX_QUERIES, rel=0.02)


def test_twice_the_sessions_cost_twice_what_is_counted_by_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no more of what is counted by the hour; a price that changes shows."""
    few, many = bill(FLEETS[0]), bill(FLEETS[1])
    by_session = {"writes", "queue", "kept in the table", "log"}
    assert by_session == {name for name in few if many[name] == pytest.approx(100 * few[name])}
    assert few.keys() - by_session == {name for name in few if many[name] == few[name]}
    assert 7.5 == many["writes"]
    monkeypatch.setitem(PRICES, "table and index writes (a million units)", 1.25)
    assert 15.0 == bill(FLEETS[1])["writes"]


def test_every_deployment_names_a_template_and_parameters_that_it_has() -> None:
    """And all that it cannot do without, where it deploys anew."""
    commands = DEPLOYS.findall(README)
    assert {path.name for path in TEMPLATES} == {Path(path).name for path, _ in commands}
    for path, rest in commands:
        parameters = parsed(FOLDER.parents[1] / path)["Parameters"]
        given = set(re.findall(r"\b([A-Z]\w+)=", rest))
        assert given <= parameters.keys()
        needed = {name for name, each in parameters.items() if "Default" not in each}
        # An upgrade says what is new alone.
        assert needed <= given or given == {"Image"}


def test_every_name_in_the_page_is_one_of_the_product() -> None:
    """Commands, parameters, alarms, pages: what is spelt wrong here would be looked for in vain."""
    commands = set(re.findall(r"^\s*orchestrator (\w+)", README, re.MULTILINE)) | set(
        re.findall(r"`orchestrator (\w+)", README)
    )
    assert {"doctor", "submit", "replay", "list", "tenants"} <= commands <= PLACES.keys()
    for link in re.findall(r"\]\(([^)#]+)", README):
        assert (FOLDER / link).exists()
    alarms = {
        each["Properties"]["AlarmName"]["Fn::Sub"].removeprefix("${AWS::StackName}-")
        for path in TEMPLATES
        for each in parsed(path)["Resources"].values()
        if each["Type"] == "AWS::CloudWatch::Alarm"
    }
    for named in ("sessions-blocked", "tasks-missing", "telemetry-missing", "look-fails"):
        assert f"`{named}`" in README
        assert named in alarms


def test_the_terraform_module_deploys_these_very_templates() -> None:
    """By their path; there is no second description of anything."""
    module = (FOLDER / "terraform" / "main.tf").read_text()
    assert 'file("${path.module}/../${var.template}")' in module
    assert re.findall(r'default\s+= "(.*)"', module) == ["template.yaml"]
    assert 1 == module.count('\nresource "')
