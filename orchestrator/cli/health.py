"""The container's probe. It runs every few seconds for as long as the node does, so it imports next to nothing."""

from __future__ import annotations

import json
import os
import sys
from contextlib import closing
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Final
from urllib.parse import urlsplit

import click

from orchestrator.cli.output import Exit, as_json, fail, print_fields, print_json

HEALTH_SECONDS_MAX: Final = 4.0
PORT_VARIABLE: Final = "ORCHESTRATOR_PORT"
PORT_DEFAULT: Final = 8080
"""As in the settings, whose checks of all the others would take five times as long as the question."""


@click.command("health")
@click.option("--url", default=None, help="Base address of the node (default: this host, ORCHESTRATOR_PORT).")
@as_json
def health_command(url: str | None, json_output: bool) -> None:
    """Ask a node whether it is well; a container's probe."""
    address = (url or f"http://127.0.0.1:{_own_port()}").rstrip("/")
    if not address.startswith(("http://", "https://")):
        fail(f"--url: {address!r} is not an http address", Exit.USAGE)
    try:
        status, text = _asked(address)
        told: object = json.loads(text)
    except (OSError, HTTPException, ValueError) as error:
        fail(f"{address} does not answer as a node: {type(error).__name__}: {error}", Exit.UNREACHABLE)
    if not isinstance(told, dict):
        fail(f"{address} does not answer as a node: {text[:100]!r}", Exit.UNREACHABLE)
    print_json(told) if json_output else print_fields(told)
    sys.exit(Exit.DONE if status == HTTPStatus.OK else Exit.FAILED)


def _asked(address: str) -> tuple[int, bytes]:
    parts = urlsplit(address)
    connect = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    # Straight to the node: a proxy of the machine has no business in between.
    with closing(connect(parts.netloc, timeout=HEALTH_SECONDS_MAX)) as connection:
        connection.request("GET", f"{parts.path}/health")
        answer = connection.getresponse()
        return answer.status, answer.read()


def _own_port() -> int:
    text = os.environ.get(PORT_VARIABLE, str(PORT_DEFAULT))
    try:
        return int(text)
    except ValueError:
        fail(f"{PORT_VARIABLE}: {text!r:.50} is not a port", Exit.USAGE)
