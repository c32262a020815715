"""The short run: a minute of mayhem over four nodes, then all that was accepted has come to one end."""

from pathlib import Path
from typing import Final

import pytest

from tests.chaos.run import run
from tests.emulators import Emulator

SEED: Final = 1
SECONDS: Final = 18.0
SESSIONS_A_SECOND: Final = 2.0


@pytest.mark.slow
@pytest.mark.timeout(480)
async def test_nothing_is_lost_or_done_twice_while_nodes_are_killed_frozen_cut_off_and_redeployed(
    ministack: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Under load, and with faults on every line to AWS: I1 to I12 hold, as the table and the records show."""
    outcome = await run(ministack, monkeypatch.setenv, tmp_path, seed=SEED, seconds=SECONDS, a_second=SESSIONS_A_SECOND)
    assert () == outcome.wrong, outcome.text()
