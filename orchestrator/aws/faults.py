"""AWS error codes → what we do about them, in one table; and the patience with which a call is tried again.

A code that is not in the table is a refusal: it is raised, never retried blindly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final, TypeVar

import aiohttp
from botocore.exceptions import (
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
)
from botocore.exceptions import (
    ConnectionError as BotoConnectionError,
)
from botocore.parsers import ResponseParserError

from actors import Clock
from orchestrator.errors import Unavailable
from orchestrator.telemetry.port import SILENT, Telemetry

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

T = TypeVar("T")

BACKOFF_BASE_SECONDS: Final = 0.05
BACKOFF_MAX_SECONDS: Final = 5.0
TELL_AFTER_SECONDS: Final = 3.0
"""What lasts for less is gone before anybody could look."""


class Verdict(Enum):
    """What an error code means for the caller."""

    RETRY = "retry"
    # It is there, and has no room for this now: to be repeated like RETRY, but no sign that it is out of reach.
    LATER = "later"
    CONDITION = "condition"
    CANCELLED = "cancelled"
    MISSING = "missing"
    # What the call was about has ended, and no such call is wanted any more.
    OVER = "over"
    REFUSED = "refused"


REPEATED: Final = frozenset({Verdict.RETRY, Verdict.LATER})
CONTENTION: Final = frozenset(
    {
        "TransactionConflictException",
        "TransactionConflict",
        "TransactionInProgressException",
        "ConditionalRequestConflict",
    }
)
"""Codes of `LATER` that come of two writers of one item, and not of too many requests."""

FAULTS: Final[dict[str, Verdict]] = {
    # DynamoDB, "Error handling", and the codes of `BatchStatementError`, which lack the suffix `Exception`.
    "ConditionalCheckFailedException": Verdict.CONDITION,
    "ConditionalCheckFailed": Verdict.CONDITION,
    "DuplicateItemException": Verdict.CONDITION,
    "DuplicateItem": Verdict.CONDITION,
    "PreconditionFailed": Verdict.CONDITION,
    "TransactionCanceledException": Verdict.CANCELLED,
    "TransactionConflictException": Verdict.LATER,
    "TransactionConflict": Verdict.LATER,
    "TransactionInProgressException": Verdict.LATER,
    "ProvisionedThroughputExceededException": Verdict.LATER,
    "ProvisionedThroughputExceeded": Verdict.LATER,
    "RequestLimitExceeded": Verdict.LATER,
    "ThrottlingException": Verdict.LATER,
    "ThrottlingError": Verdict.LATER,
    "Throttling": Verdict.LATER,
    "ThrottledException": Verdict.LATER,
    "RequestThrottled": Verdict.LATER,
    "RequestThrottledException": Verdict.LATER,
    "TooManyRequestsException": Verdict.LATER,
    "SlowDown": Verdict.LATER,
    "LimitExceededException": Verdict.LATER,
    "OverLimit": Verdict.LATER,
    "InternalServerError": Verdict.RETRY,
    "InternalServerErrorException": Verdict.RETRY,
    "InternalError": Verdict.RETRY,
    "InternalFailure": Verdict.RETRY,
    "ServiceUnavailable": Verdict.RETRY,
    "ServiceUnavailableException": Verdict.RETRY,
    "RequestTimeout": Verdict.RETRY,
    "RequestTimeoutException": Verdict.RETRY,
    # S3: another conditional write to the key was in flight.
    "ConditionalRequestConflict": Verdict.LATER,
    # Credentials rotate under a running container: the next attempt signs with fresh ones.
    "ExpiredToken": Verdict.RETRY,
    "ExpiredTokenException": Verdict.RETRY,
    "ResourceNotFoundException": Verdict.MISSING,
    "ResourceNotFound": Verdict.MISSING,
    "AWS.SimpleQueueService.NonExistentQueue": Verdict.MISSING,
    "QueueDoesNotExist": Verdict.MISSING,
    "NoSuchKey": Verdict.MISSING,
    "NoSuchBucket": Verdict.MISSING,
    "404": Verdict.MISSING,
    # SNS, "Publish".
    "NotFound": Verdict.MISSING,
    "NotFoundException": Verdict.MISSING,
    "Throttled": Verdict.LATER,
    "KMSThrottling": Verdict.LATER,
    "KMSThrottlingException": Verdict.LATER,
    # Step Functions, "SendTaskSuccess": whoever waited for it waits no more.
    "TaskTimedOut": Verdict.OVER,
    "TaskDoesNotExist": Verdict.OVER,
    "InvalidToken": Verdict.OVER,
}

CONNECTION_FAULTS: Final = (
    BotoConnectionError,
    HTTPClientError,
    IncompleteReadError,
    ResponseParserError,
    aiohttp.ClientError,
    ConnectionError,
    TimeoutError,
    # Credentials come from an endpoint of the container's, which hiccups like any other.
    CredentialRetrievalError,
    NoCredentialsError,
)
"""No answer, or half of one, or a call that did not leave: whether it took effect is unknown."""


RequestFailed = ClientError
"""An answer that is an error, for those who only report it; what it means is in the table."""


class Refused(Unavailable):
    """AWS refuses the call and would refuse it again: a permission, a missing resource, a malformed request."""

    code = "AWS_REFUSED"


def error_code(error: ClientError) -> str:
    """Return the error code that the service sent."""
    return str(error.response.get("Error", {}).get("Code", ""))


def verdict_of(error: BaseException) -> Verdict:
    """Return what to do about an error raised by an AWS call."""
    if isinstance(error, ClientError):
        known = FAULTS.get(error_code(error))
        if known is not None:
            return known
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return Verdict.RETRY if status >= 500 else Verdict.REFUSED
    return Verdict.RETRY if isinstance(error, CONNECTION_FAULTS) else Verdict.REFUSED


@dataclass(slots=True)
class Reachability:
    """Since when a dependency has not answered; the health checks read it. Instants: monotonic seconds.

    With a `log`, it is told when that lasts: a node waits for its table, and must not do so in silence.
    """

    name: str
    clock: Clock
    failing_since: float | None = None
    last_error: str = ""
    log: FilteringBoundLogger | None = None
    _is_told: bool = False

    def succeeded(self) -> None:
        """Note an answer, of whatever kind: the dependency is there."""
        if self._is_told and self.log is not None:
            self.log.info("dependency_reachable", dependency=self.name, after=round(self.unreachable_for(), 1))
        self.failing_since, self._is_told = None, False

    def failed(self, error: BaseException) -> None:
        """Note a call without a useful answer."""
        self.last_error = f"{type(error).__name__}: {error}"[:300]
        if self.failing_since is None:
            self.failing_since = self.clock.monotonic()
        if self.log is not None and not self._is_told and self.unreachable_for() >= TELL_AFTER_SECONDS:
            self._is_told = True
            self.log.warning("dependency_unreachable", dependency=self.name, error=self.last_error)

    def unreachable_for(self) -> float:
        """Return for how many seconds every call has failed; 0 while the last one succeeded."""
        return 0.0 if self.failing_since is None else self.clock.monotonic() - self.failing_since


@dataclass(slots=True)
class Patience:
    """Tries a call until AWS decides it, with full-jitter backoff.

    Gives up when its task is cancelled, or after `seconds_max` where somebody sits before a screen and waits.
    """

    clock: Clock
    reachability: Reachability
    draw: Callable[[], float] = field(repr=False)
    seconds_max: float = float("inf")
    telemetry: Telemetry = SILENT

    def backoff(self, attempt: int) -> float:
        """Return the pause in seconds after failed attempt `attempt` (from 1)."""
        return min(BACKOFF_MAX_SECONDS, BACKOFF_BASE_SECONDS * 2.0 ** min(attempt, 16)) * self.draw()

    async def insist(self, call: Callable[[], Awaitable[T]]) -> T:
        """Return the call's answer; raises what is neither throttling nor a fault of the service or the network."""
        attempt = 0
        deadline = self.clock.monotonic() + self.seconds_max
        while True:
            attempt += 1
            try:
                answer = await call()
            except (ClientError, *CONNECTION_FAULTS) as error:
                if not self.note(error) or self.clock.monotonic() > deadline:
                    raise
                await self.clock.sleep(self.backoff(attempt))
            else:
                self.reachability.succeeded()
                return answer

    def note(self, error: BaseException) -> bool:
        """Record what the error says about the dependency; return whether to try again.

        What throttles us answers: a node that is throttled for minutes is well, and a restart would mend nothing.
        """
        verdict = verdict_of(error)
        if verdict is Verdict.LATER and isinstance(error, ClientError) and error_code(error) not in CONTENTION:
            self.telemetry.throttled(self.reachability.name)
        if verdict in {Verdict.CONDITION, Verdict.CANCELLED, Verdict.LATER}:
            self.reachability.succeeded()
        else:
            self.reachability.failed(error)
        return verdict in REPEATED


async def give_way() -> None:
    """Let every callback that is ready run once, so that what they ask for joins the same request."""
    await asyncio.sleep(0)
