"""Keeps the ECS scheduler from ending this task while it is busy: scale-in protection follows HEALTHY_BUSY.

Protection costs nothing when it fails: a task that is taken all the same drains, and others go on with its sessions. So
whatever the agent's endpoint answers, or does not, the node goes on. (ECS Developer Guide, "Task scale-in protection
endpoint": a PUT sets it and starts its time anew; it holds off service auto scaling and deployments, nothing else.)
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import aiohttp
from pydantic import BaseModel, Field, ValidationError

from actors import BusySignal, Clock
from actors.signals import Signal

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

PATH: Final = "/task-protection/v1/state"
EXPIRES_MINUTES: Final = 10
"""Short, so that what was set without our hearing of it, or by a task that hangs, ends before long."""
RENEW_SECONDS: Final = 200.0
"""A third of that: two renewals may fail in a row."""
LINGER_SECONDS: Final = 15.0
"""How long after the last work the protection stays, so that short tasks one after another share it: the calls of all
tasks of an account come out of one bucket (ECS, "Request throttling")."""
REQUEST_SECONDS_MAX: Final = 5.0
BACKOFF_FIRST_SECONDS: Final = 1.0
BACKOFF_MAX_SECONDS: Final = 60.0
NO_SERVICE: Final = "TASK_NOT_VALID"
"""The reason that ECS gives for a task that no service started: there is nothing that could scale it in."""


class NotSet(Exception):
    """The agent did not set the protection; the text says why."""


class NoServiceTask(Exception):
    """This task can have no protection, now or later."""


class TaskProtection:
    """Protects this task from scale-in while anything counts as busy, and for a while after."""

    def __init__(
        self, agent_uri: str, *, busy: BusySignal, clock: Clock, draw: Callable[[], float], log: FilteringBoundLogger
    ) -> None:
        """Follow `busy` from `run` on. `agent_uri` is what ECS put into `ECS_AGENT_URI`."""
        self._url = agent_uri.rstrip("/") + PATH
        self._busy = busy
        self._clock = clock
        self._draw = draw
        self._log = log
        self._changed = Signal()
        self._has_changed = False
        self._is_draining = False
        self._idle_since = float("-inf")
        self._renew_at: float | None = None
        """When the protection is to be set anew; `None` while there is none."""
        self._failures = 0

    def drain(self) -> None:
        """Give the protection up: `run` returns when that is done, or was tried."""
        self._is_draining = True
        self._look_again()

    async def run(self) -> None:
        """Follow the busy signal until `drain`; return early where this task can have no protection."""
        unsubscribe = self._busy.subscribe(self._flipped)
        try:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS_MAX)) as http:
                await self._follow(http)
        except NoServiceTask as error:
            self._log.info("task_protection_off", reason=str(error))
        finally:
            unsubscribe()

    async def _follow(self, http: aiohttp.ClientSession) -> None:
        while True:
            self._has_changed = False
            owed = self._owed()
            if owed is not None:
                await self._tell(http, is_protected=owed)
            elif self._is_draining:
                return
            else:
                # On every flip, for it changes how long there is to wait.
                await self._changed.until(lambda: self._has_changed, self._clock, self._looks_again_in())

    def _flipped(self, is_busy: bool) -> None:
        if not is_busy:
            self._idle_since = self._clock.monotonic()
        self._look_again()

    def _look_again(self) -> None:
        self._has_changed = True
        self._changed.fire()

    def _is_wanted(self) -> bool:
        if self._is_draining:
            return False
        return self._busy.is_busy or self._clock.monotonic() < self._idle_since + LINGER_SECONDS

    def _owed(self) -> bool | None:
        """Return what the agent has to be told now; `None` while it knows."""
        is_held, is_wanted = self._renew_at is not None, self._is_wanted()
        if is_held and not is_wanted:
            return False
        # What ended while there was no protection needs none for its lingering.
        is_due = self._clock.monotonic() >= self._renew_at if self._renew_at is not None else self._busy.is_busy
        return True if is_wanted and is_due else None

    def _looks_again_in(self) -> float | None:
        """Return the seconds until time alone makes a difference; `None` when only a change does."""
        if self._renew_at is None:
            return None
        at = self._renew_at if self._busy.is_busy else min(self._renew_at, self._idle_since + LINGER_SECONDS)
        return at - self._clock.monotonic()

    async def _tell(self, http: aiohttp.ClientSession, *, is_protected: bool) -> None:
        try:
            await self._put(http, is_protected=is_protected)
        except NotSet as error:
            if not self._failures:
                self._log.warning("task_protection_failed", wanted=is_protected, error=str(error)[:300])
            self._failures += 1
            if self._is_draining:
                # The task ends in a moment, and its protection with it.
                self._renew_at = None
                return
            await self._changed.until(lambda: self._is_draining, self._clock, self._backoff())
            return
        if self._failures:
            self._log.info("task_protection_works_again", failures=self._failures)
        self._failures = 0
        if is_protected == (self._renew_at is None):
            self._log.info("task_protected" if is_protected else "task_protection_released")
        self._renew_at = self._clock.monotonic() + RENEW_SECONDS if is_protected else None

    def _backoff(self) -> float:
        return min(BACKOFF_MAX_SECONDS, BACKOFF_FIRST_SECONDS * 2.0 ** min(self._failures, 16)) * self._draw()

    async def _put(self, http: aiohttp.ClientSession, *, is_protected: bool) -> None:
        """Set or lift the protection. Raises `NotSet` and `NoServiceTask`."""
        body = {"ProtectionEnabled": is_protected, **({"ExpiresInMinutes": EXPIRES_MINUTES} if is_protected else {})}
        try:
            async with http.put(self._url, json=body) as response:
                status, text = response.status, await response.read()
        except (aiohttp.ClientError, OSError) as error:
            raise NotSet(f"{type(error).__name__}: {error}") from None
        try:
            answer = _Answer.model_validate_json(text)
        except ValidationError:
            raise NotSet(f"status {status}, and no JSON that says why") from None
        if answer.failure is not None and answer.failure.reason == NO_SERVICE:
            raise NoServiceTask(f"{NO_SERVICE}: no service started this task")
        told = answer.protection
        if status != HTTPStatus.OK or told is None or told.is_enabled is not is_protected:
            raise NotSet(f"status {status}: {answer.text()}")


class _Protection(BaseModel):
    is_enabled: bool = Field(alias="ProtectionEnabled")


class _Failure(BaseModel):
    reason: str | None = Field(default=None, alias="Reason")
    detail: str | None = Field(default=None, alias="Detail")


class _Error(BaseModel):
    code: str | None = Field(default=None, alias="Code")
    message: str | None = Field(default=None, alias="Message")


class _Answer(BaseModel):
    """What the agent answers: one of the three; a failure of ECS comes with status 200."""

    protection: _Protection | None = None
    failure: _Failure | None = None
    error: _Error | None = None

    def text(self) -> str:
        if self.failure is not None:
            return f"{self.failure.reason} {self.failure.detail or ''}".rstrip()
        return "not what was asked for" if self.error is None else f"{self.error.code}: {self.error.message}"
