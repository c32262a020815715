"""The nodes as this one last saw them: where they are, since when their beat stands still, and who of them claims.

The rescuer hands in what it lists at each heartbeat; nothing here reads on its own account but `find`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from orchestrator.cluster import NodeRecord, Nodes


@dataclass(frozen=True, slots=True)
class _Sighting:
    """A registration; since when its beat stands still, and where our own beat stood then."""

    record: NodeRecord
    since: float
    own_beat: int


class Directory:
    """What one node knows of all nodes. `takers` are those that claim: itself, and whoever was seen to beat."""

    def __init__(self, nodes: Nodes, *, own_id: str) -> None:
        self._nodes = nodes
        self._own_id = own_id
        self._seen: dict[str, _Sighting] = {}
        self._asked: dict[str, NodeRecord | None] = {}
        self._own_beat = 0
        self.takers: tuple[str, ...] = (own_id,)

    def saw(self, records: Iterable[NodeRecord], *, at: float, quiet_seconds_max: float) -> None:
        """Take over what is registered now, by our own monotonic clock; what is registered no longer is forgotten.

        A beat that stands still for longer than `quiet_seconds_max` makes nobody dead, but no taker either.
        """
        listed = {record.node_id: record for record in records}
        own = listed.get(self._own_id)
        self._own_beat = self._own_beat if own is None else own.beat
        seen = {node_id: self._sighting(record, at) for node_id, record in listed.items()}
        self._seen, self._asked = seen, {}
        beating = {
            node_id
            for node_id, sighting in seen.items()
            if sighting.record.declared_dead_at is None and at - sighting.since <= quiet_seconds_max
        }
        self.takers = tuple(sorted(beating | {self._own_id}))

    def has_stopped(self, node_id: str, *, at: float, timeout: float, heartbeat: float) -> bool:
        """Return whether the node's beat was seen to stand still past the timeout, while our own went on as long.

        In an outage of the table nobody's beat gets through, and as it ends one comes through before the other.
        """
        sighting = self._seen[node_id]
        own_beats = self._own_beat - sighting.own_beat
        return at - sighting.since > timeout and own_beats >= timeout // heartbeat

    def _sighting(self, record: NodeRecord, at: float) -> _Sighting:
        before = self._seen.get(record.node_id)
        if before is None or before.record.beat != record.beat:
            return _Sighting(record, at, self._own_beat)
        return replace(before, record=record)

    async def find(self, node_id: str) -> NodeRecord | None:
        """Return the registration of a living node; `None` where there is none.

        One that was not listed is read, at most once until the next listing: it may have come since the last one.
        """
        if node_id in self._asked:
            return self._asked[node_id]
        sighting = self._seen.get(node_id)
        if sighting is not None:
            return _living(sighting.record)
        # Whoever asks before the answer is there goes without.
        self._asked[node_id] = None
        self._asked[node_id] = found = _living(await self._nodes.get(node_id))
        return found

    def forget(self, node_id: str) -> None:
        """Know nothing of that node until the next listing: another one answers where it was."""
        self._asked[node_id] = None


def _living(record: NodeRecord | None) -> NodeRecord | None:
    return None if record is None or record.declared_dead_at is not None else record
