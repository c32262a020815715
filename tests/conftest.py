"""What tests of every folder share: the emulators, and an account of one's own on them."""

from collections.abc import Iterator

import pytest

from tests.emulators import (
    Emulator,
    docker_engine_available,
    fresh_account,
    running_dynamodb_local,
    running_ministack,
    running_moto,
)


@pytest.fixture(scope="session")
def ministack() -> Iterator[Emulator]:
    """The emulator that `orchestrator dev` runs too."""
    with running_ministack() as emulator:
        yield emulator


@pytest.fixture(scope="session")
def moto() -> Iterator[Emulator]:
    """The second opinion."""
    with running_moto() as emulator:
        yield emulator


@pytest.fixture(scope="session")
def dynamodb_local() -> Iterator[Emulator]:
    """AWS's own emulator of DynamoDB; mark the tests that use it with `docker`."""
    if not docker_engine_available():
        pytest.skip("no Docker engine answers")
    with running_dynamodb_local() as emulator:
        yield emulator


@pytest.fixture
def account() -> str:
    """An account id of this test alone; `access_key(emulator, account)` is the key that goes with it."""
    return fresh_account()
