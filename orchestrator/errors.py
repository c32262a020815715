"""The errors that every room shares, by what their reader does about them. Each has a stable `code`.

A room's own errors stand in the room and derive from `OrchestratorError` too. Texts may change, codes not.

```
OrchestratorError
├── what a user's handler can catch
│   ├── OperationFailed ── StepFailed (── StepInterrupted) · AgentFailed · CallbackFailed · ChildSessionFailed
│   │                      · OperationTimedOut (── ApprovalTimedOut)
│   └── SessionCancelled
├── what a user's handler can raise: NonRetryable
├── bugs of the user's code: NonDeterminismError · UnknownChange · NotSerializable · NoInvocation · RegistrationError
└── faults, named by what the caller does
    ├── Stale       drop the actor: another epoch owns the session
    ├── Poison      dead-letter the message: it can never succeed
    └── Unavailable stop: a setting or a dependency is wrong
```
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import ClassVar, Final

from orchestrator.session.values import ErrorRecord

MESSAGE_LENGTH_MAX: Final = 2_000
"""Characters of an error's text that a journal keeps: an error page of a megabyte would burst the item (I12)."""
CODE_LENGTH_MAX: Final = 100
CONCEALED: Final = "[concealed]"
"""What stands for a callback's token in the text of an error."""


class OrchestratorError(Exception):
    """Base of all errors; `code` is stable and safe to branch on."""

    code: ClassVar[str] = "ORCHESTRATOR_ERROR"


# --- what a user's handler can catch ---------------------------------------------------------------------------


class OperationFailed(OrchestratorError):
    """An operation ended without a result. `error` is what the journal holds; `operation` its id."""

    code: ClassVar[str] = "OPERATION_FAILED"

    def __init__(self, operation: str, error: ErrorRecord) -> None:
        super().__init__(f"{operation}: {error.type}: {error.message}")
        self.operation = operation
        self.error = error


class StepFailed(OperationFailed):
    """A step's last attempt raised."""

    code = "STEP_FAILED"


class StepInterrupted(StepFailed):
    """An `at_most_once` step's node died before the outcome was recorded: whether it ran is in doubt."""

    code = "STEP_INTERRUPTED"


class AgentFailed(OperationFailed):
    """An agent's last attempt raised, or nobody registered that agent."""

    code = "AGENT_FAILED"


class OperationTimedOut(OperationFailed):
    """The last attempt of a step or agent, or a wait, took longer than its timeout."""

    code = "OPERATION_TIMED_OUT"


class ApprovalTimedOut(OperationTimedOut):
    """Nobody answered the approval in time."""

    code = "APPROVAL_TIMED_OUT"


class CallbackFailed(OperationFailed):
    """Whoever was to answer reported a failure."""

    code = "CALLBACK_FAILED"


class ChildSessionFailed(OperationFailed):
    """A child session ended without a result."""

    code = "CHILD_SESSION_FAILED"


class SessionCancelled(OrchestratorError):
    """The session is to end: whatever the handler awaited raises this, once. It may clean up, then return or raise."""

    code = "SESSION_CANCELLED"


# --- what a user's handler can raise ---------------------------------------------------------------------------


class NonRetryable(OrchestratorError):
    """Raise this (or a subclass) in a step or an agent: no attempt follows, whatever the retry policy says."""

    code = "NON_RETRYABLE"


# --- bugs of the user's code -----------------------------------------------------------------------------------


class UnknownChange(OrchestratorError):
    """The session began with changes (`ctx.patched`) that this code does not name. It is kept, marked BLOCKED."""

    code = "UNKNOWN_CHANGE"

    def __init__(self, session_type: str, changes: Collection[str]) -> None:
        super().__init__(
            f"the session began with {', '.join(map(repr, changes))}, which the code of {session_type!r} here does not "
            "ask for: it is older, or dropped ctx.patched(…) before the sessions that began with it had ended"
        )


class NonDeterminismError(OrchestratorError):
    """The handler asks for another operation than the journal records. The session is kept, marked BLOCKED."""

    code = "NON_DETERMINISM"

    def __init__(self, recorded: str, asked: str) -> None:
        super().__init__(
            f"the journal records {recorded} next, the handler asked for {asked}: "
            "deploy code that matches the journal, and the session goes on"
        )
        self.recorded = recorded
        self.asked = asked


class NotSerializable(OrchestratorError):
    """A value is not JSON, and no dataclass or pydantic model either."""

    code = "NOT_SERIALIZABLE"


class NoInvocation(OrchestratorError):
    """`current_invocation()` was called outside a step or an agent."""

    code = "NO_INVOCATION"


class RegistrationError(OrchestratorError):
    """A session type, an agent or a trigger is declared wrongly; raised when the application is imported."""

    code = "REGISTRATION"


# --- faults ----------------------------------------------------------------------------------------------------


class Stale(OrchestratorError):
    """Another epoch owns the session: drop the actor, silently (I7)."""

    code = "STALE"


class Poison(OrchestratorError):
    """A message that can never succeed. `reason` is the stable code that goes out with it (I11)."""

    code = "POISON"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Unavailable(OrchestratorError):
    """A dependency is not there or refuses us: a missing table, a wrong permission, a bad setting."""

    code = "UNAVAILABLE"


class SettingsError(Unavailable):
    """A setting is wrong; the text is one line that names it."""

    code = "BAD_SETTING"


def describe(error: BaseException, secrets: Collection[str] = ()) -> ErrorRecord:
    """Return what a journal keeps of an exception: its type, its code (`UNHANDLED` where it has none), its text.

    Of secrets that the text quotes, it keeps nothing.
    Total: exceptions are user code, and may raise when they are printed or carry a code that is no text.
    """
    code = error.code if isinstance(error, OrchestratorError) else "UNHANDLED"
    try:
        text = str(error)
    except Exception as unprintable:
        text = f"(its text cannot be had: {type(unprintable).__name__})"
    # Before it is cut: what is left of a secret at the end would be a good part of it.
    for secret in secrets:
        text = text.replace(secret, CONCEALED)
    return ErrorRecord(
        type=storable(type(error).__name__, CODE_LENGTH_MAX),
        code=storable(str(code), CODE_LENGTH_MAX),
        message=storable(text, MESSAGE_LENGTH_MAX),
    )


def timed_out(seconds: float) -> ErrorRecord:
    """Return what a journal keeps of an attempt that was cut off after so many seconds."""
    within = timedelta(seconds=seconds)
    return ErrorRecord(OperationTimedOut.__name__, OperationTimedOut.code, f"no result within {within}")


def storable(text: str, length_max: int = MESSAGE_LENGTH_MAX) -> str:
    """Return what a journal keeps of a text: so many characters, and a question mark for what has no UTF-8."""
    return text[:length_max].encode("utf-8", "replace").decode()


def revive(operation: str, kind: str, error: ErrorRecord) -> OperationFailed:
    """Return the exception that a handler sees for a recorded failure of an operation of that kind."""
    if kind == "child":
        # Its code is the child's own: a step that timed out in there is no timeout here.
        return ChildSessionFailed(operation, error)
    return _BY_CODE.get(error.code, _BY_KIND.get(kind, StepFailed))(operation, error)


_BY_CODE: Final[dict[str, type[OperationFailed]]] = {
    OperationTimedOut.code: OperationTimedOut,
    ApprovalTimedOut.code: ApprovalTimedOut,
    StepInterrupted.code: StepInterrupted,
}
OWN_CODES: Final = frozenset(_BY_CODE)
"""What a handler tells timeouts and doubts apart by: nobody outside may claim these."""
_BY_KIND: Final[dict[str, type[OperationFailed]]] = {
    "agent": AgentFailed,
    "callback": CallbackFailed,
    "approval": CallbackFailed,
}
