"""Finds the application that a command names as `MODULE:APP`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from orchestrator.app import Orchestrator
from orchestrator.cli.output import Exit, fail


def load_app(target: str) -> Orchestrator:
    """Return the application; ends the command with a clear line where there is none. Looks here too."""
    module_name, colon, attribute = target.partition(":")
    if not colon or not module_name or not attribute:
        fail(f"{target!r} is not MODULE:APP, such as 'my_agents:app'", Exit.USAGE)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # The user's module is missing, or something that it imports: the name tells which.
        fail(f"{target}: there is no module {error.name!r} (looked in {here} too)", Exit.USAGE)
    app = getattr(module, attribute, None)
    if not isinstance(app, Orchestrator):
        fail(f"{target}: {attribute!r} in {module_name} is not an Orchestrator", Exit.USAGE)
    app.triggers()
    return app
