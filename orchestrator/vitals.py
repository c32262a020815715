"""Measures now and then what no event tells: how full the mailboxes are, whether the node is well, who is BLOCKED.

Nothing is measured for nobody: without an exporter this does not run. BLOCKED sessions are counted by one node for all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from actors import ActorSystem, Clock
from orchestrator.cluster import Heads
from orchestrator.errors import OrchestratorError
from orchestrator.health import Health, HealthStatus
from orchestrator.session.transitions import SessionStatus
from orchestrator.telemetry.port import BLOCKED, MAILBOX, STUCK, UNHEALTHY, Telemetry

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

MEASURED_EVERY_SECONDS: Final = 10.0
BLOCKED_EVERY: Final = 6
"""Measurements between two counts of BLOCKED sessions, which take four queries."""
BLOCKED_MAX: Final = 1_000
"""No more are counted: what is to be done about them is the same."""
_CHORE: Final = "count of blocked sessions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """The measurements of one node. `is_mine` tells whether a chore that one node does for all falls to this one."""

    telemetry: Telemetry
    system: ActorSystem
    health: Health
    heads: Heads
    is_mine: Callable[[str], bool]
    clock: Clock
    log: FilteringBoundLogger

    async def run(self) -> None:
        """Measure until cancelled."""
        rounds = 0
        while self.telemetry.is_exporting:
            self.telemetry.measured(MAILBOX, self.system.fullest_mailbox())
            report = self.health.report()
            self.telemetry.measured(UNHEALTHY, report.status is HealthStatus.UNHEALTHY)
            self.telemetry.measured(STUCK, report.stuck)
            if rounds % BLOCKED_EVERY == 0:
                await self._count_blocked()
            rounds += 1
            await self.clock.sleep(MEASURED_EVERY_SECONDS)

    async def _count_blocked(self) -> None:
        if not self.is_mine(_CHORE):
            # Another one tells of them; the sum over all nodes is theirs.
            self.telemetry.measured(BLOCKED, 0)
            return
        try:
            page = await self.heads.listing(
                status=SessionStatus.BLOCKED, session_type=None, tenant=None, cursor=None, limit=BLOCKED_MAX
            )
        except OrchestratorError as error:
            self.log.warning("blocked_not_counted", code=error.code, error=str(error)[:300])
        else:
            self.telemetry.measured(BLOCKED, len(page.heads))
