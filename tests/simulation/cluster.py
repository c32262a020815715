"""The cluster of a simulation: nodes that are started anew when they end, and everything that goes wrong with them.

To change it: a new kind of trouble gets a line in `TROUBLES` and an arm in `Mayhem._strike`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

from orchestrator.settings import Settings
from tests.simulation.network import MOMENTS, Cloud, Phase, Trap, Weather
from tests.simulation.node import SimNode
from tests.simulation.outlets import BUS
from tests.simulation.story import CODES, Story

NODES_MAX: Final = 4
RESTART_SECONDS: Final = (0.2, 1.0, 5.0)
NODE_TIMEOUT_SECONDS: Final = 4.0
TROUBLES: Final = (
    *("crash", "crash", "crash at", "crash at", "crash at", "crash at", "freeze", "freeze at", "freeze at"),
    *(
        "cut off",
        "cut off at",
        "cut off at",
        "drain",
        "drain",
        "roll",
        "grow",
        "clock",
        "storm",
        "storm",
        "storm",
        "outage",
    ),
)
OPERATIONS: Final = (
    *("PutItem", "BatchExecuteStatement", "UpdateItem", "UpdateItem", "TransactWriteItems", "GetItem", "Query"),
    *("DeleteItem", "DeleteMessageBatch", "ReceiveMessage", "PutObject", ""),
    *MOMENTS,
    *MOMENTS,
)
PHASES: Final[tuple[Phase, ...]] = ("unsent", "sent", "done", "answered", "answered", "answered")
FREEZE_SECONDS: Final = (0.3, 2.0, NODE_TIMEOUT_SECONDS + 0.5, NODE_TIMEOUT_SECONDS * 3)

CUT_OFF_SECONDS: Final = (1.0, NODE_TIMEOUT_SECONDS + 1.0, NODE_TIMEOUT_SECONDS + 2.0, NODE_TIMEOUT_SECONDS * 3)


@dataclass(frozen=True, slots=True)
class Theme:
    """What a simulation is about: where all kinds of things happen at once, few of them meet where it hurts."""

    name: str
    sizes: tuple[int, ...] = (1, 2, 3)
    passivate_after: tuple[float, ...] = (0.05, 0.3, 2.0, 30.0)
    troubles: tuple[str, ...] = TROUBLES
    signal_pauses: tuple[float, ...] = (0.0, 0.0, 0.1, 1.0, 8.0)


THEMES: Final = (
    Theme("anything"),
    Theme("anything"),
    Theme("mail", (2, 3, 4), (0.05, 0.3), ("crash at", "crash at", "cut off at", "storm"), (0.0, 0.02, 0.1, 0.4, 1.0)),
    Theme("takeover", (2, 3), troubles=("crash at", "freeze at", "cut off", "cut off at", "cut off at", "storm")),
)


class Cluster:
    """Nodes over one cloud. `code` is the deployment that new ones run."""

    def __init__(self, cloud: Cloud, story: Story, draws: Random, theme: Theme) -> None:
        self._cloud = cloud
        self._world = cloud.world
        self._draws = draws
        self._apps = [story.app(code) for code in range(len(CODES))]
        self._started = 0
        self.code = 0
        self.size = draws.choice(theme.sizes)
        self.nodes: list[SimNode] = []
        self.settings = Settings(
            queue="queue",
            table="table",
            bucket="bucket",
            event_bus=BUS if cloud.outlets.has_bus else "",
            public_url="https://simulated",
            heartbeat_seconds=1.0,
            node_timeout_seconds=NODE_TIMEOUT_SECONDS,
            drain_seconds=draws.choice([0.5, 3.0]),
            passivate_after_seconds=draws.choice(theme.passivate_after),
            max_sessions=draws.choice([3, 1_000, 1_000]),
            inline_limit_bytes=draws.choice([1_024, 204_800]),
            tenant_limit=draws.choice([0, 0, 1, 2, 3]),
        )

    @property
    def living(self) -> list[SimNode]:
        """The nodes whose process runs, frozen or not."""
        return [node for node in self.nodes if node.is_alive]

    def fill(self) -> None:
        """Start nodes until there are as many as wanted."""
        while len([node for node in self.living if not node.is_draining]) < self.size:
            self._start()

    def _start(self) -> None:
        self._started += 1
        name = f"node-{self._started}"
        node = SimNode(self._cloud, name, self._apps[self.code], self.settings, self._ended, self._at)
        self.nodes.append(node)
        node.start()

    def _at(self, address: str) -> SimNode | None:
        return next((node for node in self.living if node.address == address), None)

    def _ended(self) -> None:
        self._world.after(self._draws.choice(RESTART_SECONDS), self.fill)

    def roll(self) -> None:
        """Deploy the next code."""
        self.code = min(self.code + 1, len(CODES) - 1)
        self._world.note("world", f"deployment {self.code} begins")
        self.replaced()

    def grow(self) -> None:
        """Want one node more."""
        self.size = min(NODES_MAX, self.size + 1)
        self.fill()

    def replaced(self) -> None:
        """Let all nodes of today go, one after another, and new ones come in their place, as a deployment does."""
        for number, node in enumerate(self.living):
            self._world.after(number * 1.5, node.drain)
            self._world.after(number * 1.5, self.fill)

    def unwind(self) -> None:
        """Let go of what is left of all processes."""
        for node in self.nodes:
            node.line.is_cut = True
            node.loop.unwind()


class Mayhem:
    """What goes wrong, drawn beforehand: so taking one thing away leaves the rest as it was."""

    def __init__(self, cluster: Cluster, cloud: Cloud, draws: Random, theme: Theme) -> None:
        self._cluster = cluster
        self._theme = theme
        self._cloud = cloud
        self._world = cloud.world
        self._draws = draws
        self.until = 0.0
        self.counts: Counter[str] = Counter()

    def plan(self) -> None:
        """Put all that goes wrong into the agenda."""
        self._cloud.weather.take(self._climate())
        at = 0.0
        for _ in range(self._draws.randint(1, 10)):
            at += self._draws.choice([0.05, 0.4, 1.0, 3.0, 7.0])
            kind, seed = self._draws.choice(self._theme.troubles), self._draws.random()
            self._world.at(at, lambda k=kind, s=seed: self._strike(k, Random(s)))  # type: ignore[misc]
        self.until = at + 1.0
        self._world.at(self.until, self._over)

    def _climate(self) -> Weather:
        """Return the weather between the storms: a fault in some hundred calls, or none."""
        if self._draws.random() < 0.3:
            return Weather()
        p = self._draws.choice([0.001, 0.005, 0.02])
        return Weather(
            throttle=p, error=p, error_after=p, reset=p, lost_answer=p, partial=10 * p, conflict=5 * p, slow=p,
            late=p / 10, repeats=self._draws.choice([0, 0.02, 0.2]), lag=self._draws.choice([0.01, 0.3, 2.0]),
        )  # fmt: skip

    def _over(self) -> None:
        """From here on nothing goes wrong any more, and the code that matches every journal is deployed."""
        self._world.note("world", "everything is well from here on")
        self._cloud.weather.calm()
        self._cloud.outlets.likely = 0.0
        for node in self._cluster.living:
            node.line.cut_off_until = 0.0
        if self._cluster.code != len(CODES) - 1:
            self._cluster.code = len(CODES) - 1
            self._cluster.replaced()

    def _strike(self, kind: str, draws: Random) -> None:
        self.counts[kind] += 1
        cluster = self._cluster
        able = [node for node in cluster.living if not node.is_frozen]
        victim = draws.choice(able) if able else None
        match kind:
            case "storm":
                self._storm(draws)
            case "outage":
                self._outage(draws)
            case "roll":
                cluster.roll()
            case "grow":
                cluster.grow()
            case _ if victim is not None:
                self._hit(victim, kind, draws)

    def _hit(self, victim: SimNode, kind: str, draws: Random) -> None:
        match kind:
            case "crash":
                victim.kill()
            case "crash at":
                self._trap(victim, victim.kill, draws)
            case "freeze":
                victim.freeze(draws.choice(FREEZE_SECONDS))
            case "freeze at":
                seconds = draws.choice(FREEZE_SECONDS)
                self._trap(victim, lambda: victim.freeze(seconds), draws)
            case "cut off":
                self._cut_off(victim, draws.choice(CUT_OFF_SECONDS))
            case "cut off at":
                seconds = draws.choice(CUT_OFF_SECONDS)
                self._trap(victim, lambda: self._cut_off(victim, seconds), draws)
            case "drain":
                victim.drain()
            case "clock":
                victim.clock.wrong_by = draws.choice([-300.0, -3.0, -0.2, 0.2, 3.0, 300.0])
                self._world.note(victim.name, f"has a clock that is wrong by {victim.clock.wrong_by} s")
            case _:
                raise AssertionError(f"no trouble {kind!r}")

    def _cut_off(self, victim: SimNode, seconds: float) -> None:
        """Let the node live on without a way to anything: others take it for dead, and it does not know."""
        self._world.note(victim.name, f"is cut off for {seconds:g} s")
        victim.line.cut_off_until = self._world.time + seconds

    def _trap(self, victim: SimNode, spring: Callable[[], None], draws: Random) -> None:
        operation, phase = draws.choice(OPERATIONS), draws.choice(PHASES)
        handles = draws.choice([1, 1, 2, 3, 5, 8, 20, 60])
        self._world.note("world", f"waits for {operation or 'a call'} of {victim.name} ({phase}, {handles})")
        victim.line.set(Trap(operation, draws.choice([1, 1, 2, 4]), phase, spring, handles))

    def _storm(self, draws: Random) -> None:
        kind = draws.choice(
            ["throttle", "error", "error_after", "reset", "lost_answer", "partial", "conflict", "slow", "late", "lag"]
        )
        storm = Weather(service=draws.choice(["", "table", "table", "queue", "bucket"]))
        setattr(storm, kind, draws.choice([0.5, 3.0, 8.0]) if kind == "lag" else draws.choice([0.1, 0.3, 0.7]))
        self._blow(storm, kind, draws.choice([0.5, 2.0, 6.0]))

    def _outage(self, draws: Random) -> None:
        kind = draws.choice(["throttle", "error", "reset", "lost_answer"])
        storm = Weather(service=draws.choice(["", "table", "queue"]))
        setattr(storm, kind, 1.0)
        self._blow(storm, f"nothing but {kind}", draws.choice([1.0, 5.0, 12.0]))

    def _blow(self, storm: Weather, kind: str, seconds: float) -> None:
        self._world.note("world", f"storm over {storm.service or 'everything'}: {kind}, for {seconds:g} s")
        before = Weather()
        before.take(self._cloud.weather)
        self._cloud.weather.take(storm)
        end = self._world.time + seconds

        def over() -> None:
            if self._world.time < self.until:
                self._cloud.weather.take(before)

        self._world.at(end, over)
