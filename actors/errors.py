"""What can go wrong between actors, as exceptions that name the situation.

To change it: every error derives from `ActorError` and has a `code` that never changes once released.
"""


class ActorError(Exception):
    """Every error that this package raises on purpose. `code` is for machines, the text for people."""

    code: str = "ACTOR_ERROR"


class ActorStopped(ActorError):
    """The actor takes no more messages, or stopped before it answered. Look it up again, or spawn it anew."""

    code = "ACTOR_STOPPED"


class AskTimeout(ActorError):
    """No answer in time. The message may have been handled, or may be yet."""

    code = "ASK_TIMEOUT"


class DuplicateActor(ActorError):
    """An actor of this id is alive (or still stopping): there is one task per actor id."""

    code = "DUPLICATE_ACTOR"


class SystemDraining(ActorError):
    """The system takes no new actors any more."""

    code = "SYSTEM_DRAINING"


class StrayCancellation(ActorError):
    """Actor code raised CancelledError, yet nobody cancelled it: it awaited something that was cancelled elsewhere."""

    code = "STRAY_CANCELLATION"
