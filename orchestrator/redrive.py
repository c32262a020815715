"""Puts dead letters back on the queue, or throws them away: each is sent before it is deleted, so none is ever lost.

Who dies in between has put back a letter that is still there; it goes back once more, and is recognised by then.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from orchestrator.artifacts import ArtifactRef, Artifacts, ArtifactUnreadable
from orchestrator.aws.queue import BATCH_MAX, Queue
from orchestrator.errors import Unavailable
from orchestrator.intake.dead_letters import DEAD_LETTERS_PREFIX, DeadLetter, letter_of, renewed, started_by
from orchestrator.payloads import parse_json
from orchestrator.session.values import JsonObject, format_instant

HOLD_SECONDS: Final = 120
"""For so long a letter that was looked at is seen by nobody else; one that is not taken is given back at the end."""
LOOK_SECONDS: Final = 1
"""A poll that waits asks all of SQS's servers; one that does not may miss letters ("Short and long polling")."""
LETTERS_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class Choice:
    """Which letters are meant. Those that are hopeless are only if they are named, or `every` letter is."""

    codes: frozenset[str] = frozenset()
    message_ids: frozenset[str] = frozenset()
    every: bool = False
    limit: int = LETTERS_MAX

    def takes(self, letter: DeadLetter) -> bool:
        """Return whether the letter is among those that were asked for."""
        is_of_code = not self.codes or letter.code in self.codes
        return is_of_code and (not self.message_ids or letter.message_id in self.message_ids)

    def refuses(self, letter: DeadLetter) -> bool:
        """Return whether it would only come back, and nobody insisted."""
        return letter.is_hopeless and not (self.every or self.codes or self.message_ids)


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a letter, or would: `redriven`, `discarded`, `left` (it would only come back) or `unreadable`."""

    letter: DeadLetter
    outcome: str
    new_id: str | None = None

    def view(self, now: datetime) -> JsonObject:
        """As JSON; the body is not shown, for it may hold a payload or a token."""
        sent_at = self.letter.sent_at
        return {
            "message_id": self.letter.message_id,
            "code": self.letter.code,
            "reason": self.letter.reason,
            "tenant": self.letter.tenant,
            "sent_at": None if sent_at is None else format_instant(sent_at),
            "age_seconds": None if sent_at is None else max(0, round((now - sent_at).total_seconds())),
            "outcome": self.outcome,
            "new_message_id": self.new_id,
        }


async def letters(dead_letters: Queue, *, most: int = LETTERS_MAX) -> AsyncIterator[tuple[DeadLetter, ...]]:
    """Yield the letters that are there, as polls bring them; each is hidden from others meanwhile.

    Give back what you do not delete: of the last poll all, also when you have found what you look for.
    """
    seen: set[str] = set()
    while len(seen) < most:
        room = min(BATCH_MAX, most - len(seen))
        messages = await dead_letters.receive(
            messages_max=room, wait_seconds=LOOK_SECONDS, visibility_seconds=HOLD_SECONDS
        )
        fresh = [message for message in messages if message.message_id not in seen]
        seen |= {message.message_id for message in messages}
        if not fresh:
            return
        yield tuple(letter_of(message) for message in fresh)


async def letter_about(dead_letters: Queue, session_id: str, *, most: int) -> DeadLetter | None:
    """Return the letter that starts the session, or has that id; `None` where none of the first `most` does."""
    held: list[str] = []
    try:
        async for batch in letters(dead_letters, most=most):
            held += [letter.receipt for letter in batch]
            for letter in batch:
                if session_id in {started_by(letter), letter.message_id}:
                    return letter
    finally:
        await give_back(dead_letters, held)
    return None


async def give_back(dead_letters: Queue, receipts: list[str]) -> None:
    """Let others see those letters again at once."""
    for start in range(0, len(receipts), BATCH_MAX):
        await dead_letters.prolong(receipts[start : start + BATCH_MAX], seconds=0)


@dataclass(frozen=True, slots=True)
class Redrive:
    """One pass over the dead letters. `artifacts` holds the bodies that were too long to be kept there."""

    queue: Queue
    dead_letters: Queue
    artifacts: Artifacts

    async def run(
        self, choice: Choice, tell: Callable[[Done], None], *, discards: bool = False, is_dry: bool = False
    ) -> int:
        """Do what was chosen, and tell of each letter; return how many were taken. A dry run changes nothing.

        Raises:
            Refused: a queue does not let us. What was told of is done, the rest is as it was.
        """
        taken, held, sent = 0, set[str](), set[str]()
        try:
            async for batch in letters(self.dead_letters):
                held |= {letter.receipt for letter in batch}
                for letter in batch:
                    # What was just put back, and refused anew, is for the next run.
                    if taken >= choice.limit or not choice.takes(letter) or letter.message_id in sent:
                        continue
                    done = await self._dealt_with(letter, choice, discards=discards, is_dry=is_dry)
                    if done.outcome in {"redriven", "discarded"}:
                        taken += 1
                        held -= set() if is_dry else {letter.receipt}
                    sent |= {done.new_id} if done.new_id is not None else set()
                    tell(done)
        finally:
            await give_back(self.dead_letters, [*held])
        return taken

    async def _dealt_with(self, letter: DeadLetter, choice: Choice, *, discards: bool, is_dry: bool) -> Done:
        if discards:
            if not is_dry:
                await self.dead_letters.delete([letter.receipt])
            return Done(letter, "discarded")
        if choice.refuses(letter):
            return Done(letter, "left")
        whole = await self._fetched(letter)
        if whole is None:
            return Done(letter, "unreadable")
        if is_dry:
            return Done(letter, "redriven")
        new_id = await self.queue.send(
            renewed(whole),
            attributes=letter.attributes,
            tenant=letter.tenant,
            trace_header=letter.trace_header,
        )
        await self.dead_letters.delete([letter.receipt])
        return Done(letter, "redriven", new_id)

    async def _fetched(self, letter: DeadLetter) -> DeadLetter | None:
        """Return the letter with its whole body; `None` where the bucket does not hold that as it was."""
        reference = _reference_in(letter.body)
        if reference is None:
            return letter
        try:
            return replace(letter, body=(await self.artifacts.get(reference)).decode())
        except (ArtifactUnreadable, Unavailable):
            return None


def _reference_in(body: str) -> ArtifactRef | None:
    """Return what refers to the body; `None` for a letter that is whole."""
    try:
        reference = ArtifactRef.from_json(parse_json(body))
    except (ValueError, RecursionError):
        return None
    # A letter is what anybody sent: no other object of the bucket is its body.
    return reference if reference.key.startswith(DEAD_LETTERS_PREFIX) else None
