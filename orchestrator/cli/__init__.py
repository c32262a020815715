"""The command `orchestrator`. Each command is a thin shell over what the service itself uses."""

from orchestrator.cli.main import main

__all__ = ["main"]
