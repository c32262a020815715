"""Who owns which session, and which nodes live. HEAD is a session's one mutable item; every write to it is conditional.

`Heads` and `Nodes` are the protocols; `dynamodb` and `memory` keep them, and one contract suite holds both to it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Protocol

from orchestrator.errors import OrchestratorError
from orchestrator.session.frozen import quick, replace
from orchestrator.session.transitions import ENDED, SessionStatus
from orchestrator.session.values import Json

DUE_SHARDS: Final = 4
STATE_SHARDS: Final = 4
"""Partitions of the sparse indexes: one hot index partition would throttle the whole table (1,000 write units/s,
DynamoDB Developer Guide, "Designing partition keys")."""
DUE_EVERY_SECONDS: Final = 1.0
"""How often every node looks for what is due, what it was left a note of, and which tenants are limited."""
ENDS_NOW: Final = datetime(2000, 1, 1, tzinfo=UTC)
"""`wake_at` of a session that is to be ended before all that is due: nobody's or a dead node's, a full one takes it."""
BLOCKED_ERROR: Final = "blocked_error"
"""Attribute of a BLOCKED session's HEAD: what it waits for."""
SIGNALS_AWAITED: Final = "signals_awaited"
"""Attribute of a SUSPENDED session's HEAD: its waits for signals without a time limit, which no event tells of."""


class NotOwner(OrchestratorError):
    """HEAD is not as it was read: another node or epoch owns the session, or it does not exist."""

    code = "NOT_OWNER"


class UnreadableHead(OrchestratorError):
    """A HEAD holds what this version cannot read: newer code wrote it, or it was changed by hand."""

    code = "UNREADABLE_HEAD"


class NodeFenced(OrchestratorError):
    """This node's registration is gone or marked dead: others may have taken its sessions; it must exit."""

    code = "NODE_FENCED"


@quick
@dataclass(frozen=True, slots=True)
class Head:
    """A session's HEAD as last read or written. `outbox` holds the ids of the notifications that an end still owes."""

    session_id: str
    session_type: str
    tenant: str
    status: SessionStatus
    owner: str | None
    epoch: int
    last_seq: int
    inbox_version: int
    claim_nonce: str
    takeovers: int
    created_at: datetime
    updated_at: datetime
    wake_at: datetime | None = None
    continued_as: str | None = None
    attributes: Mapping[str, Json] = field(default_factory=dict)
    outbox: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing, newest first; `cursor` asks for the next one, `None` where there is none."""

    heads: tuple[Head, ...]
    cursor: str | None


def claimed(head: Head, *, node_id: str, nonce: str, at: datetime, from_dead_owner: bool) -> Head:
    """Return what `Heads.claim` makes of a HEAD."""
    has_ended = head.status in ENDED
    return replace(
        head,
        owner=node_id,
        epoch=head.epoch + 1,
        claim_nonce=nonce,
        status=head.status if has_ended else SessionStatus.RUNNING,
        takeovers=head.takeovers + (1 if from_dead_owner else 0),
        wake_at=ENDS_NOW if head.wake_at == ENDS_NOW else None,
        updated_at=head.updated_at if has_ended else at,
    )


def settled(
    head: Head, outbox: tuple[str, ...], *, wake_at: datetime | None, attributes: Mapping[str, Json] | None
) -> Head:
    """Return what `Heads.settle_outbox` makes of a HEAD."""
    kept = head.attributes if attributes is None else attributes
    return replace(head, outbox=outbox, owner=None, wake_at=wake_at, attributes=kept)


class Heads(Protocol):
    """The HEAD items. Rule 1: every write but the insert requires that HEAD exists."""

    async def create(self, head: Head) -> Head:
        """Insert a HEAD; return it, or the one that already stands there. Compare the nonces to tell which."""
        ...

    async def get(self, session_id: str) -> Head | None:
        """Return HEAD as of now (a consistent read); `None` for an unknown session."""
        ...

    async def claim(self, head: Head, *, node_id: str, nonce: str, at: datetime, from_dead_owner: bool) -> Head:
        """Take the session over with the next epoch, if owner and epoch are still what `head` says.

        Removes `wake_at`, but for `ENDS_NOW`; adds 1 to `takeovers` where the owner is dead. An ended session keeps its
        status, the instant of its end and its outbox: it is claimed in order to send that.

        Raises:
            NotOwner: somebody else changed HEAD first.
        """
        ...

    async def settle_takeovers(self, head: Head) -> Head:
        """Set `takeovers` to 1: the journal shows progress since the last takeover. Raises `NotOwner`."""
        ...

    async def end(  # noqa: PLR0913 - what an end records, each named
        self,
        head: Head,
        status: SessionStatus,
        *,
        last_seq: int,
        at: datetime,
        outbox: tuple[str, ...] = (),
        wake_at: datetime | None = None,
        continued_as: str | None = None,
    ) -> Head:
        """Record the end: no owner, nothing due. Raises `NotOwner` when epoch or inbox version moved on.

        With an outbox, and only then, it is due at `wake_at`: after a grace, others may send it (rule 13).
        """
        ...

    async def annotate(self, head: Head, attributes: Mapping[str, Json]) -> Head:
        """Replace the attributes, and nothing else. Raises `NotOwner` when the epoch moved on."""
        ...

    async def settle_outbox(
        self,
        head: Head,
        outbox: tuple[str, ...],
        *,
        wake_at: datetime | None = None,
        attributes: Mapping[str, Json] | None = None,
    ) -> Head:
        """Record what is left of an ended session's outbox, and give the session up: it has no owner.

        What is left is due at `wake_at`: with an outbox, and only then.

        Raises:
            NotOwner: a later epoch has the outbox, or HEAD does not exist.
        """
        ...

    async def release(
        self,
        head: Head,
        status: SessionStatus,
        *,
        last_seq: int,
        at: datetime,
        wake_at: datetime | None,
        attributes: Mapping[str, Json] | None = None,
    ) -> Head:
        """Give the session up without ending it: no owner, due at `wake_at`. Raises `NotOwner` like `end`."""
        ...

    async def bump_inbox(self, session_id: str) -> Head | None:
        """Add 1 to the inbox version, whoever owns the session; return HEAD after it, `None` for an unknown session.

        A lost answer makes it more than 1: the version tells that something came, not how much.
        """
        ...

    async def make_due(self, head: Head, *, at: datetime) -> Head:
        """Let whoever has room claim the session from `at` on, as soon as nobody owns it or its owner is dead.

        Of one with an owner the inbox version moves on, so that giving it up takes that back. Of two who do it at once
        the first counts, but `ENDS_NOW` goes before any other instant.

        Raises:
            NotOwner: somebody else owns it now than when HEAD was read, or owned it since; or it was made due since.
        """
        ...

    def owned_by(self, node_id: str) -> AsyncIterator[str]:
        """Yield the ids of sessions that the node owns; the index lags, so the list may be late both ways."""
        ...

    def due(self, before: datetime) -> AsyncIterator[str]:
        """Yield the ids of sessions due before that instant, the longest due first within a shard; may be late."""
        ...

    async def listing(
        self,
        *,
        status: SessionStatus | None,
        session_type: str | None,
        tenant: str | None,
        cursor: str | None,
        limit: int,
    ) -> Page:
        """Return a page of sessions, newest change first. Raises `ValueError` for a cursor that is none of ours."""
        ...


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A node's registration. `process` names the operating system process, where that can be told (see ADR 0002).

    `address` is where other nodes reach it; with `poke_key` they sign their pokes, and it is shown to nobody else.
    """

    node_id: str
    beat: int
    address: str
    started_at: datetime
    version: str
    process: str | None = None
    sessions: int = 0
    declared_dead_at: datetime | None = None
    poke_key: str | None = field(default=None, repr=False)


class Nodes(Protocol):
    """The registry of nodes. Node ids are never used again."""

    async def register(self, node: NodeRecord) -> None:
        """Insert the registration."""
        ...

    async def beat(self, node_id: str, *, sessions: int) -> None:
        """Add 1 to the node's beat. Raises `NodeFenced` when the registration is gone or marked."""
        ...

    async def declare_dead(self, node_id: str, *, at: datetime, beat: int | None) -> bool:
        """Mark the registration, if it still shows that beat (`None`: whatever it shows); return whether it is marked.

        The mark is a tombstone: the node's sessions are audited for as long as it stands (a day).
        """
        ...

    async def get(self, node_id: str) -> NodeRecord | None:
        """Return the registration as of now, marked or not; `None` where there is none."""
        ...

    def all(self) -> AsyncIterator[NodeRecord]:
        """Yield every registration, the marked ones too."""
        ...
