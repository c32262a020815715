"""What a session was told from outside and remembers: signals that nobody awaited yet, and which messages it knows.

A message id is known for as long as the session lives, and is carried over to its next generation: a redelivery,
however late, decides nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Final, TypeAlias

from rpds import HashTrieMap

from orchestrator.session import messages as m
from orchestrator.session.events import KILL, CancelRequested, PauseRequested, ResumeRequested, SignalReceived
from orchestrator.session.values import Json, JsonObject, canonical_json

CARRIED_IDS_MAX: Final = 1_000
"""Message ids that go along into the next generation: the latest ones; a redelivery later than that is unheard of."""
CARRIED_IDS_BYTES_MAX: Final = 80_000
CARRIED_SIGNALS_BYTES_MAX: Final = 60_000
"""What goes along stands in one item with the next generation's input, of up to 250,000 bytes (I12)."""


Waiting: TypeAlias = "HashTrieMap[str, tuple[SignalReceived, ...]]"


@dataclass(frozen=True, slots=True)
class Mail:
    """`waiting` holds the signals of each name, oldest first; `known` each message id's number and digest."""

    waiting: Waiting
    known: HashTrieMap[str, tuple[int, str]]

    def next_signal(self, name: str) -> SignalReceived | None:
        """Return the oldest signal of that name; `None` where none waits."""
        return next(iter(self.waiting.get(name) or ()), None)

    def is_known(self, message: m.SignalSent | m.Control) -> bool:
        """Return whether a message of that id was taken before."""
        return message.message_id in self.known

    def contradicts(self, message: m.Delivered) -> bool:
        """Return whether another message was taken under that id before."""
        if not isinstance(message, m.WITH_MESSAGE_ID):
            return False
        known = self.known.get(message.message_id)
        return known is not None and known[1] != digest_of(message)

    def with_signal(self, signal: SignalReceived) -> Mail:
        """Return the mail with one signal more."""
        queue = self.waiting.get(signal.name) or ()
        waiting = self.waiting.insert(signal.name, (*queue, signal))
        return self._knowing(signal.message_id, _digest("signal", signal.name, signal.data), waiting)

    def with_request(self, request: CancelRequested | PauseRequested | ResumeRequested) -> Mail:
        """Return the mail with that request known."""
        if request.message_id is None:
            return self
        return self.with_known(request.message_id, _digest(_word_of(request), request.reason))

    def without_signal(self, taken: Json) -> tuple[Mail, Json]:
        """Return the mail without the signal that a wait took, and that signal's data."""
        assert isinstance(taken, dict), "a wait takes one signal"
        name = str(taken["signal"])
        signal, *rest = self.waiting[name]
        assert signal.message_id == taken["message_id"], f"signals of {name!r} are taken in order"
        waiting = self.waiting.insert(name, tuple(rest)) if rest else self.waiting.discard(name)
        return replace(self, waiting=waiting), signal.data

    def with_known(self, message_id: str, digest: str) -> Mail:
        """Return the mail with that message known."""
        return self._knowing(message_id, digest, self.waiting)

    def _knowing(self, message_id: str, digest: str, waiting: Waiting) -> Mail:
        return Mail(waiting, self.known.insert(message_id, (len(self.known), digest)))


NO_MAIL: Final = Mail(HashTrieMap(), HashTrieMap())


def digest_of(message: m.SignalSent | m.Control) -> str:
    """Return what tells two messages of one id apart."""
    if isinstance(message, m.SignalSent):
        return _digest("signal", message.name, message.data)
    return _digest(WORDS[type(message)], message.reason)


WORDS: Final[dict[type[m.Control], str]] = {
    m.CancelAsked: "cancel",
    m.PauseAsked: "pause",
    m.ResumeAsked: "resume",
    m.KillAsked: "kill",
}
"""What an operator's message is called, in digests and in an inbox: never to be renamed."""


def _word_of(request: CancelRequested | PauseRequested | ResumeRequested) -> str:
    match request:
        case PauseRequested():
            return WORDS[m.PauseAsked]
        case ResumeRequested():
            return WORDS[m.ResumeAsked]
        case CancelRequested():
            return WORDS[m.KillAsked if request.cause == KILL else m.CancelAsked]


def mail_to_carry(mail: Mail) -> tuple[JsonObject | None, tuple[SignalReceived, ...]]:
    """Return what the next generation takes over (`None` for nothing), and the signals that did not fit beside it.

    Those are told to it once more, in their order; so it must not know them yet.
    """
    # A hash map's order differs between processes, and who takes over from a node that died here must leave the very
    # same ones.
    waiting = [signal for name in sorted(mail.waiting) for signal in mail.waiting[name]]
    fields: list[JsonObject] = [{"name": s.name, "message_id": s.message_id, "data": s.data} for s in waiting]
    fitting = _fitting(fields, CARRIED_SIGNALS_BYTES_MAX)
    left = tuple(waiting[fitting:])
    unknown = {signal.message_id for signal in left}
    numbered = ((number, message_id) for message_id, (number, _) in mail.known.items() if message_id not in unknown)
    latest: list[JsonObject] = [
        {message_id: mail.known[message_id][1]} for _, message_id in sorted(numbered, reverse=True)[:CARRIED_IDS_MAX]
    ]
    known: JsonObject = {}
    for each in reversed(latest[: _fitting(latest, CARRIED_IDS_BYTES_MAX)]):
        known |= each
    carried: JsonObject = {"signals": list(fields[:fitting]), "known": known}
    return carried if fitting or known else None, left


def _fitting(values: Sequence[JsonObject], bytes_max: int) -> int:
    """Return how many of the first ones fit into so many bytes together."""
    sizes = accumulate(len(canonical_json(value).encode()) + 1 for value in values)
    return sum(1 for size in sizes if size <= bytes_max)


def mail_left_by(carried: Mapping[str, Json]) -> Mail:
    """Return the mail that the generation before left."""
    mail = NO_MAIL
    signals, known = carried.get("signals"), carried.get("known")
    for message_id, digest in known.items() if isinstance(known, dict) else ():
        mail = mail.with_known(message_id, str(digest))
    for each in signals if isinstance(signals, list) else ():
        assert isinstance(each, dict), "a carried signal is an object"
        mail = mail.with_signal(SignalReceived(str(each["name"]), str(each["message_id"]), each["data"]))
    return mail


def _digest(*parts: Json) -> str:
    return hashlib.sha256(canonical_json(list(parts)).encode()).hexdigest()[:32]
