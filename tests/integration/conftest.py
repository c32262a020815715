"""The deployment that integration tests work on."""

from collections.abc import AsyncIterator

import pytest

from tests.emulators import Emulator
from tests.integration.deployment import Deployment, deployed


@pytest.fixture
async def deployment(ministack: Emulator, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Deployment]:
    """A provisioned account on the emulator; its workers are ended with the test."""
    async with deployed(ministack, monkeypatch.setenv) as running:
        yield running
