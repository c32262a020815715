"""When a node is short of memory, when it is no longer, and where it reads that."""

from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from actors import ActorSystem, ManualClock, settle
from orchestrator.capacity import NodeCapacity
from orchestrator.memory_pressure import (
    HIGH_SHARE,
    LOOK_EVERY_SECONDS,
    LOW_SHARE,
    RELIEVE_EVERY_SECONDS,
    MemoryPressure,
    hand_back,
    used_share,
)
from tests.contract.waiting import START

GB = 1 << 30
PAGE = 4_096


class Gauge:
    """Memory that a test sets, and what was done about it."""

    def __init__(self) -> None:
        self.clock = ManualClock(START)
        self.share: float | None = 0.5
        self.changes: list[bool] = []
        self.relieved = 0
        self.pressure = MemoryPressure(
            lambda: self.share,
            on_change=self.changes.append,
            relieve=self.relieve,
            clock=self.clock,
            log=structlog.get_logger(),
        )

    def relieve(self) -> None:
        """Count."""
        self.relieved += 1

    async def look(self, share: float) -> list[bool]:
        """Let the share be that at the next look; return all changes so far."""
        self.share = share
        self.clock.advance(LOOK_EVERY_SECONDS)
        await settle()
        return self.changes


async def test_memory_is_short_from_one_mark_on_and_sufficient_below_another() -> None:
    """Between the two it stays as it was, so that it does not go to and fro; each change is one line in the log."""
    gauge = Gauge()
    between = (HIGH_SHARE + LOW_SHARE) / 2
    with capture_logs() as lines:
        async with ActorSystem() as system:
            running = system.task_group.create_task(gauge.pressure.run())
            assert [] == await gauge.look(between)
            assert [True] == await gauge.look(HIGH_SHARE)
            assert [True] == await gauge.look(between)
            assert [True] == await gauge.look(0.99)
            assert [True, False] == await gauge.look(LOW_SHARE)
            assert [True, False] == await gauge.look(between)
            running.cancel()
    assert ["memory_short", "memory_sufficient"] == [line["event"] for line in lines]


async def test_a_node_that_is_short_frees_what_it_can_but_not_all_the_time() -> None:
    """At once, and then as seldom as stopping the loop for it allows."""
    gauge = Gauge()
    async with ActorSystem() as system:
        running = system.task_group.create_task(gauge.pressure.run())
        for _ in range(int(RELIEVE_EVERY_SECONDS / LOOK_EVERY_SECONDS)):
            await gauge.look(0.9)
        assert 1 == gauge.relieved
        await gauge.look(0.9)
        assert 2 == gauge.relieved
        running.cancel()


async def test_where_memory_cannot_be_told_nothing_is_looked_after() -> None:
    """As on a system that is not Linux."""
    gauge = Gauge()
    gauge.share = None
    await gauge.pressure.run()
    assert [] == gauge.changes


def test_a_node_short_of_memory_takes_nothing_but_a_lone_session() -> None:
    """However many places are free; one that holds nothing has nothing to let go of, and must not stand still."""
    capacity = NodeCapacity(100)
    told: list[int] = []
    capacity.subscribe(lambda: told.append(capacity.free()))
    with capacity.place() as first:
        capacity.short_of_memory(True)
        with capacity.place() as second:
            assert (True, False) == (first, second)
        assert (1, 0) == (capacity.held(), capacity.free())
    assert 1 == capacity.free()
    capacity.short_of_memory(False)
    assert [0, 1, 100] == told


# --- where it stands -------------------------------------------------------------------------------------------------


def system(root: Path, cgroup: str, files: dict[str, str], *, resident: int = GB) -> Path:
    """Make a system with a memory of 16 GB, a process in these control groups, and these files of theirs."""
    pages = resident // PAGE
    every = {
        "proc/meminfo": f"MemTotal:       {16 * GB // 1_024} kB\nMemFree: 1 kB\n",
        "proc/self/cgroup": cgroup,
        "proc/self/statm": f"999999 {pages} 1 1 0 1 0\n",
        **files,
    }
    for name, text in every.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def test_the_limit_of_a_container_is_its_control_groups(tmp_path: Path) -> None:
    """Of the second version; the page cache that can go does not count."""
    group = {
        "memory.max": f"{2 * GB}\n",
        "memory.current": f"{GB}\n",
        "memory.stat": f"anon 1\ninactive_file {GB // 2}\n",
    }
    root = system(tmp_path, "0::/\n", {f"sys/fs/cgroup/{name}": text for name, text in group.items()})
    assert 0.25 == used_share(root)


def test_the_limit_of_the_first_version_counts_as_well(tmp_path: Path) -> None:
    """Mounted as the container sees it, though its path is the host's."""
    group = {
        "memory.limit_in_bytes": f"{GB}\n",
        "memory.usage_in_bytes": f"{GB}\n",
        "memory.stat": f"inactive_file 1\ntotal_inactive_file {GB // 4}\n",
    }
    cgroup = "5:cpu,cpuacct:/ecs/1/2\n4:memory:/ecs/1/2\n0::/\n"
    root = system(tmp_path, cgroup, {f"sys/fs/cgroup/memory/{name}": text for name, text in group.items()})
    assert 0.75 == used_share(root)


def test_the_tightest_of_nested_limits_counts(tmp_path: Path) -> None:
    """A service in a slice: whichever is fuller kills it."""
    files = {
        "sys/fs/cgroup/a.slice/memory.max": f"{2 * GB}\n",
        "sys/fs/cgroup/a.slice/memory.current": f"{int(1.5 * GB)}\n",
        "sys/fs/cgroup/a.slice/memory.stat": "inactive_file 0\n",
        "sys/fs/cgroup/a.slice/b.service/memory.max": f"{GB}\n",
        "sys/fs/cgroup/a.slice/b.service/memory.current": f"{GB // 2}\n",
        "sys/fs/cgroup/a.slice/b.service/memory.stat": "inactive_file 0\n",
    }
    assert 0.75 == used_share(system(tmp_path, "0::/a.slice/b.service\n", files))


@pytest.mark.parametrize("limit", ["max\n", f"{1 << 63}\n"])
def test_without_a_limit_it_is_the_process_against_the_machine(tmp_path: Path, limit: str) -> None:
    """What others on the machine take is not ours to relieve."""
    files = {"sys/fs/cgroup/memory.max": limit, "sys/fs/cgroup/memory.current": f"{15 * GB}\n"}
    assert 1 / 16 == used_share(system(tmp_path, "0::/\n", files))


def test_a_system_that_does_not_tell_is_no_failure(tmp_path: Path) -> None:
    """Nothing of it there, or nothing that can be read."""
    assert None is used_share(tmp_path)
    assert None is used_share(system(tmp_path, "nonsense", {}))


def test_this_machine_tells() -> None:
    """Whatever limits it: some of its memory is used, not all of it. And giving back what is free harms nothing."""
    hand_back()
    share = used_share()
    assert share is not None
    assert 0 < share < 1
