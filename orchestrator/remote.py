"""Agents that run elsewhere: what goes wrong with one, by what the retry policy is to make of it. Codes are stable.

A text that comes from the other side is quoted up to a bound; what we sent, and by which credentials, never.
"""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple

from orchestrator.errors import NonRetryable, OrchestratorError

ANSWER_BYTES_MAX: Final = 16 * 1024 * 1024
"""What a node reads of one answer: parsing holds up everything else on the node, and memory is a container's."""
QUOTED_LENGTH_MAX: Final = 500
"""Characters that an error quotes of what the other side said."""
RETRY_AFTER_SECONDS_MAX: Final = 86_400.0
"""A longer `Retry-After` is one nobody meant."""


class AgentService(NamedTuple):
    """A service of AWS through which agents are called: the SDK's name of it (`lambda`), and the region."""

    name: str
    region: str


# --- another attempt may go better -----------------------------------------------------------------------------


class RemoteFault(OrchestratorError):
    """The agent gave no result. `retry_after` is for how many seconds it asked to be left alone, if it did."""

    code = "AGENT_FAULT"

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class AgentUnreachable(RemoteFault):
    """Nothing answered: refused, no such host, no answer in time. Whether the agent heard us is unknown."""

    code = "AGENT_UNREACHABLE"


class AgentCutOff(RemoteFault):
    """Its answer ended in the middle."""

    code = "AGENT_CUT_OFF"


class AgentThrottled(RemoteFault):
    """It has too much to do now (429, or 503 with `Retry-After`)."""

    code = "AGENT_THROTTLED"


class AgentUnwell(RemoteFault):
    """It, or what stands before it, answered by a fault of its own (5xx)."""

    code = "AGENT_UNWELL"


class AgentUnreadable(RemoteFault):
    """Its answer is not what the protocol says: no JSON, or another shape."""

    code = "AGENT_UNREADABLE"


class AgentReportedFailure(RemoteFault):
    """The agent ran, and says itself that it failed."""

    code = "AGENT_REPORTED_FAILURE"


class AgentTaskLost(RemoteFault):
    """It does not know the task any more that it accepted: it was restarted, say."""

    code = "AGENT_TASK_LOST"


# --- none will, as things stand --------------------------------------------------------------------------------


class AgentRefused(NonRetryable):
    """It refuses the request and would refuse it again: a permission, a wrong address, a malformed prompt (4xx)."""

    code = "AGENT_REFUSED"


class AgentAnswerTooLarge(NonRetryable):
    """Its answer is longer than what a node reads of one."""

    code = "AGENT_ANSWER_TOO_LARGE"


class AgentRejected(NonRetryable):
    """It decided not to take the task."""

    code = "AGENT_REJECTED"


class AgentCanceled(NonRetryable):
    """Somebody else cancelled the task on the agent's side."""

    code = "AGENT_CANCELLED"


class AgentNeedsInput(NonRetryable):
    """It stopped to ask for more than the prompt said; what it asks is in the text."""

    code = "AGENT_INPUT_REQUIRED"


class AgentNeedsAuth(NonRetryable):
    """It stopped because it wants credentials that it was not given."""

    code = "AGENT_AUTH_REQUIRED"


class AgentNotConnected(NonRetryable):
    """Nobody connected it: it works on a node, and in a test only through a stand-in."""

    code = "AGENT_NOT_CONNECTED"


def quoted(text: object) -> str:
    """Return what an error quotes of something that the other side said."""
    said = str(text)
    return said if len(said) <= QUOTED_LENGTH_MAX else f"{said[:QUOTED_LENGTH_MAX]}…"


def seconds_until(retry_after: str | None, now: datetime) -> float | None:
    """Return what a `Retry-After` header says, in seconds; `None` for none or for one that says nothing (RFC 9110)."""
    if not retry_after:
        return None
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        # A number of a thousand digits is a number, too.
        return float(min(int(text[:9]), RETRY_AFTER_SECONDS_MAX))
    try:
        until = parsedate_to_datetime(text)
    except ValueError:
        return None
    aware = until if until.tzinfo is not None else until.replace(tzinfo=UTC)
    return min(max(0.0, (aware - now).total_seconds()), RETRY_AFTER_SECONDS_MAX)
