"""The command that checks a deployment and says what to mend."""

from __future__ import annotations

from typing import Final

import click

from orchestrator.aws.inspection import Inspection
from orchestrator.cli.client import open_table
from orchestrator.cli.loading import load_app
from orchestrator.cli.output import Exit, as_json, print_json, tell
from orchestrator.cli.process import run, settings_of_process
from orchestrator.cluster.dynamodb import DynamoDBNodes
from orchestrator.doctor import Finding, Level, error, well
from orchestrator.doctor.examination import examine
from orchestrator.session.values import Json

COLOURS: Final = {Level.OK: "green", Level.WARNING: "yellow", Level.ERROR: "red"}


@click.command("doctor")
@click.argument("target", metavar="[MODULE:APP]", required=False)
@as_json
def doctor_command(target: str | None, json_output: bool) -> None:
    """Check a deployment, and say what to mend.

    The table, its indexes, the queues, the bucket, permissions, the clock, trace export, the nodes; and that the
    application can be imported, where one is named. Exit code 1: something is wrong; warnings are none.
    """
    settings = settings_of_process()
    findings: list[Finding] = []

    def note(finding: Finding) -> None:
        findings.append(finding)
        if not json_output:
            _show(finding)

    async def examined() -> None:
        async with open_table(settings) as (clients, table, patience):
            async for finding in examine(Inspection(clients, settings), DynamoDBNodes(table), patience.clock):
                note(finding)

    run(examined())
    if target is not None:
        note(_of_application(target))
    counts = {level: sum(each.level is level for each in findings) for level in Level}
    if json_output:
        views: list[Json] = [each.view for each in findings]
        print_json({"is_well": not counts[Level.ERROR], "findings": views})
    else:
        wrong = f"errors: {counts[Level.ERROR]}, warnings: {counts[Level.WARNING]}"
        tell(f"{wrong}, as it should be: {counts[Level.OK]}")
    if counts[Level.ERROR]:
        raise SystemExit(int(Exit.FAILED))


def _of_application(target: str) -> Finding:
    try:
        types = ", ".join(each.name for each in load_app(target).session_types) or "none"
    except SystemExit:
        return error("application", f"{target} cannot be loaded", "standard error says why; nodes do not start")
    except Exception as failed:
        # User code: whatever its import raises keeps nodes from starting.
        return error("application", f"{target}: {type(failed).__name__}: {failed}"[:300], "nodes do not start")
    return well("application", f"{target} can be imported; session types: {types}")


def _show(finding: Finding) -> None:
    level = click.style(f"{finding.level.value:<7}", fg=COLOURS[finding.level], bold=finding.level is not Level.OK)
    click.echo(f"{level}  {finding.check}: {finding.says}")
    if finding.mend is not None:
        click.echo(f"         mend: {finding.mend}")
