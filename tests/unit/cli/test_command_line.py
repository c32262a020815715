"""The command line as a whole: what it lists is what there is, and a command imports what it needs and no more."""

import subprocess
import sys

import click
import pytest

import orchestrator
from orchestrator.cli.health import PORT_DEFAULT
from orchestrator.cli.main import PLACES, commands, imported
from orchestrator.settings import Settings

HEAVY = {"aiobotocore", "aiohttp", "botocore", "opentelemetry", "pydantic", "rich", "structlog", "uvloop"}
HELP_LENGTH = 500
COLUMNS = 78
"""What click fills of a terminal that is 80 wide."""


@pytest.mark.parametrize("name", PLACES)
def test_a_command_is_listed_as_it_calls_itself(name: str) -> None:
    """Its name and the first line of its help; `orchestrator --help` does not import it to know them."""
    listed, command = commands.commands[name], imported(name)
    assert name == listed.name == command.name
    assert command.get_short_help_str(HELP_LENGTH) == listed.get_short_help_str(HELP_LENGTH)


@pytest.mark.parametrize("name", PLACES)
def test_a_command_tells_all_it_does_in_a_line_of_a_terminal(name: str) -> None:
    """What `orchestrator --help` lists beside the longest name, is a whole sentence."""
    beside = max(map(len, PLACES))
    assert PLACES[name].help == commands.commands[name].get_short_help_str(COLUMNS - 6 - beside)


@pytest.mark.parametrize(
    "arguments",
    [
        ["health", "--url", "http://127.0.0.1:9"],
        ["health", "--help"],
        ["--help"],
        ["--version"],
        ["completion", "bash"],
        ["nonsense"],
    ],
    ids=" ".join,
)
def test_what_runs_often_or_does_little_imports_little(arguments: list[str]) -> None:
    """The container's probe runs every few seconds beside the node: no SDK, no models, no loop."""
    assert set() == imported_by(arguments) & HEAVY


def test_completing_a_line_imports_little() -> None:
    """A shell asks for the names of the commands while somebody waits for the key to answer."""
    completing = {
        "_ORCHESTRATOR_COMPLETE": "bash_complete",
        "COMP_WORDS": "orchestrator st",
        "COMP_CWORD": "1",
    }
    assert set() == imported_by([], completing) & HEAVY


@pytest.mark.parametrize("name", sorted(PLACES.keys() - {"serve", "dev", "replay"}))
def test_a_command_that_runs_no_handler_imports_no_server(name: str) -> None:
    """Nor the engine that runs sessions, unless it delivers as a node does."""
    found = imported_by([name, "--help"], whole=True)
    engine = {"orchestrator.driver", "orchestrator.router", "orchestrator.session_actor"}
    delivers = name in {"cancel", "pause", "resume", "kill"}
    server = {"aiohttp.web", "orchestrator.http.server", "orchestrator.service"}
    assert set() == found & (server if delivers else engine | server)


def test_the_probe_asks_where_the_node_listens() -> None:
    """Its default port is the setting's, which it does not read: that would take longer than the question."""
    assert Settings.model_fields["port"].default == PORT_DEFAULT


@pytest.mark.parametrize("port", ["many", ""])
def test_a_port_that_is_none_is_named_in_one_line(port: str) -> None:
    """As every command names a setting that is wrong."""
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "health"],
        env={"ORCHESTRATOR_PORT": port, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (2, f"error ORCHESTRATOR_PORT: {port!r} is not a port\n") == (done.returncode, done.stderr)


def test_the_public_names_are_there_for_whoever_asks() -> None:
    """By name, by star, and in what a shell completes; another name is an error that says so."""
    for name in orchestrator.__all__:
        assert name == getattr(orchestrator, name).__name__
    assert set(orchestrator.__all__) <= set(dir(orchestrator))
    with pytest.raises(AttributeError, match="module 'orchestrator' has no attribute 'Workflows'"):
        getattr(orchestrator, "Workflows")  # noqa: B009 - mypy knows that it is not there


def test_a_command_is_a_group_or_takes_arguments_itself() -> None:
    """`tenants` has commands of its own; they are found behind its name."""
    context = click.Context(commands)
    name, command, rest = commands.resolve_command(context, ["tenants", "get", "acme"])
    assert ("tenants", ["get", "acme"]) == (name, rest)
    assert isinstance(command, click.Group)
    assert {"get", "list", "set"} == set(command.commands)


def imported_by(arguments: list[str], environment: dict[str, str] | None = None, *, whole: bool = False) -> set[str]:
    """Return the modules that a command imports: their packages, or their `whole` names."""
    code = (
        "import atexit, sys; from orchestrator.cli import main; sys.argv[1:] = " + repr(arguments) + "\n"
        "atexit.register(lambda: print(*sys.modules, sep='\\n', file=sys.__stderr__))\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": ":".join(sys.path), **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    names = set(done.stderr.split())
    assert "orchestrator.cli.main" in names, done.stderr
    return names if whole else {name.partition(".")[0] for name in names}
