"""Envelopes from memory: hand over bodies, see what became of each. Shipped for tests."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import replace

from orchestrator.errors import Poison
from orchestrator.intake import Envelope, Handle


class MemoryIntake:
    """An `Intake` of one process: `put` hands over an envelope, `dead_letters` holds what could never succeed."""

    def __init__(self) -> None:
        self._waiting: deque[Envelope] = deque()
        self._arrived = asyncio.Event()
        self._is_stopping = False
        self.acknowledged: list[str] = []
        self.dead_letters: list[tuple[Envelope, str]] = []

    def put(self, envelope: Envelope) -> None:
        """Deliver the envelope, after those before it."""
        self._waiting.append(envelope)
        self._arrived.set()

    def stop(self) -> None:
        """See `Intake.stop`."""
        self._is_stopping = True
        self._arrived.set()

    def unreachable_for(self) -> float:
        """See `Intake.unreachable_for`."""
        return 0.0

    async def run(self, handle: Handle) -> None:
        """See `Intake.run`; an envelope that failed goes to the end of the line."""
        while True:
            await self._arrived.wait()
            if self._is_stopping:
                return
            if not self._waiting:
                self._arrived.clear()
                continue
            envelope = self._waiting.popleft()
            try:
                await handle(envelope)
            except Poison as poison:
                self.dead_letters.append((envelope, poison.reason))
            except Exception:
                # Supervision of one envelope: a fault or a bug brings it again, as a queue does.
                self.put(replace(envelope, receive_count=envelope.receive_count + 1))
                await asyncio.sleep(0)
                continue
            self.acknowledged.append(envelope.message_id)
