"""AWS, or what stands in for it, as child processes on loopback: ministack, moto and DynamoDB Local.

An emulator lives as long as the `with` block that started it. What tests share of one is its address alone: each test
works in an account of its own. To add an emulator, write one more context manager that yields an `Emulator`.
"""

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final
from urllib.parse import urlencode, urlsplit

from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import HttpWaitStrategy

REGION: Final = "us-east-1"
MINISTACK_SERVICES: Final = (
    "dynamodb,sqs,s3,sns,events,states,lambda,sts,iam,"
    "cloudformation,ec2,ecs,elasticloadbalancing,kms,logs,monitoring,scheduler,secretsmanager"
)
DYNAMODB_LOCAL_IMAGE: Final = "amazon/dynamodb-local:2.6.1"
DYNAMODB_LOCAL_PORT: Final = 8000
DOCKER_HOST_DEFAULT: Final = "unix:///var/run/docker.sock"
DOCKER_PORT_DEFAULT: Final = 2375

START_ATTEMPTS_MAX: Final = 3
"""Starts of one emulator: another process may take the free port between our look and the child's bind."""
READY_TRIES_MAX: Final = 300
"""Looks at a starting emulator, `READY_INTERVAL_SECONDS` apart, before it counts as broken."""
READY_INTERVAL_SECONDS: Final = 0.1
ANSWER_SECONDS_MAX: Final = 5.0
STOP_SECONDS_MAX: Final = 10.0

# A proxy of the machine has no business between a test and loopback.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Emulator:
    """An emulator that answers: its name, for test ids and messages, and where it is."""

    name: str
    endpoint_url: str


class EmulatorDied(Exception):
    """An emulator ended, or never answered. The text holds what it printed."""


def fresh_account() -> str:
    """Return an account id that no other test uses: 12 digits."""
    return str(10**11 + secrets.randbelow(9 * 10**11))


def access_key(emulator: Emulator, account: str) -> str:
    """Return the access key id whose requests belong to `account`, and so see nothing of other tests.

    To ministack and DynamoDB Local 12 digits are an access key. moto knows accounts by the roles assumed in them.
    """
    if emulator.name != "moto":
        return account
    # moto tells a service by the credential's scope and checks no signature.
    request = urllib.request.Request(
        emulator.endpoint_url,
        data=urlencode(
            {
                "Action": "AssumeRole",
                "Version": "2011-06-15",
                "RoleArn": f"arn:aws:iam::{account}:role/test",
                "RoleSessionName": "test",
            }
        ).encode(),
        headers={
            "Authorization": f"AWS4-HMAC-SHA256 Credential=test/20200101/{REGION}/sts/aws4_request, Signature=none",
            "Content-Type": "application/x-www-form-urlencoded",
        },
    )
    with _opener.open(request, timeout=ANSWER_SECONDS_MAX) as answer:
        text: str = answer.read().decode()
    return text.partition("<AccessKeyId>")[2].partition("</AccessKeyId>")[0]


@contextmanager
def running_ministack(state: Path | None = None, *, enforces_policies: bool = False) -> Iterator[Emulator]:
    """Run ministack with the services that we use; with `state`, a folder, it goes on from what it kept there.

    One that `enforces_policies` asks IAM about every call, of all but the account itself.
    """
    environment = {
        "BIND_HOST": "127.0.0.1",  # unless told, it listens on every interface
        "DOCKER_HOST": "unix:///nonexistent",  # or it tidies up containers of the machine's engine
        "IOT_MTLS_ENABLED": "0",
        "LOG_LEVEL": "WARNING",
        "MINISTACK_HOST": "127.0.0.1",  # the host of queue URLs; "localhost" might mean ::1
        "MINISTACK_REGION": REGION,
        "SERVICES": MINISTACK_SERVICES,
        "SFTP_ENABLED": "0",
    }
    if enforces_policies:
        environment["AUTH"] = "true"
    if state is not None:
        environment |= {
            "PERSIST_STATE": "1",
            "STATE_DIR": str(state / "state"),
            "S3_PERSIST": "1",
            "S3_DATA_DIR": str(state / "s3"),
        }
    with _running("ministack", ["-m", "ministack"], environment, ready="/_ministack/ready") as emulator:
        yield emulator


@contextmanager
def running_moto() -> Iterator[Emulator]:
    """Run moto's server: another reading of the same services."""
    with _running("moto", ["-m", "moto.server", "-H", "127.0.0.1"], {}, ready="/moto-api/") as emulator:
        yield emulator


@contextmanager
def running_dynamodb_local() -> Iterator[Emulator]:
    """Run AWS's own DynamoDB Local in a container; ask `docker_engine_available` first."""
    # It answers 400 to whoever does not sign.
    ready = HttpWaitStrategy(DYNAMODB_LOCAL_PORT).for_status_code(400)
    container = DockerContainer(DYNAMODB_LOCAL_IMAGE).with_exposed_ports(DYNAMODB_LOCAL_PORT).waiting_for(ready)
    with container:
        port = container.get_exposed_port(DYNAMODB_LOCAL_PORT)
        yield Emulator("dynamodb-local", f"http://{container.get_container_host_ip()}:{port}")


def docker_engine_available() -> bool:
    """Say whether a Docker engine answers. The SDK would leave a socket behind where none does."""
    engine_url = urlsplit(os.environ.get("DOCKER_HOST", DOCKER_HOST_DEFAULT))
    family: socket.AddressFamily = socket.AF_UNIX
    address: str | tuple[str, int] = engine_url.path
    if engine_url.scheme == "tcp":
        family, address = socket.AF_INET, (engine_url.hostname or "127.0.0.1", engine_url.port or DOCKER_PORT_DEFAULT)
    try:
        with socket.socket(family) as engine:
            engine.settimeout(ANSWER_SECONDS_MAX)
            engine.connect(address)
            engine.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return engine.recv(len(b"HTTP/")) == b"HTTP/"
    except OSError:
        return False


@contextmanager
def _running(name: str, arguments: list[str], environment: Mapping[str, str], *, ready: str) -> Iterator[Emulator]:
    with tempfile.TemporaryFile() as log:
        process, emulator = _start(name, arguments, environment, ready, log)
        try:
            yield emulator
        finally:
            _stop(process)


def _start(
    name: str, arguments: list[str], environment: Mapping[str, str], ready: str, log: IO[bytes]
) -> tuple[subprocess.Popen[bytes], Emulator]:
    """Start the child on a free port, and return once it answers."""
    for _ in range(START_ATTEMPTS_MAX):
        port = str(_free_port())
        ports = {"GATEWAY_PORT": port, "EDGE_PORT": port, "MOTO_PORT": port}
        process = subprocess.Popen(
            [sys.executable, *arguments],
            env=_neutral_environment() | ports | dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        emulator = Emulator(name, f"http://127.0.0.1:{port}")
        if _becomes_ready(process, emulator.endpoint_url + ready):
            return process, emulator
        _stop(process)
    log.seek(0)
    raise EmulatorDied(f"{name} did not start:\n{log.read().decode(errors='replace')}")


def _becomes_ready(process: subprocess.Popen[bytes], url: str) -> bool:
    for _ in range(READY_TRIES_MAX):
        if _answers(url):
            return True
        try:
            process.wait(READY_INTERVAL_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        return False
    return False


def _answers(url: str) -> bool:
    """Say whether a server that is ready listens there; 4xx is an answer, 503 means not yet."""
    try:
        with _opener.open(url, timeout=ANSWER_SECONDS_MAX):
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500
    except OSError:
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _neutral_environment() -> dict[str, str]:
    """Return our environment without anybody's AWS account or emulator settings."""
    foreign = ("AWS_", "LOCALSTACK_", "MINISTACK_", "MOTO_")
    return {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
