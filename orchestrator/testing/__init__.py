"""For the tests of applications: sessions in memory on skippable time, recorded journals against today's handlers.

`docs/testing.md` shows both at work. To change it: public, shipped; nothing here is a second engine: sessions run on
the real router, actors and handlers, and replays on the real turnstile.
"""

from orchestrator.replaying import PayloadOutOfReach, ReplayFailed
from orchestrator.testing.errors import NotAsked, NothingHappens, SessionDidNotComplete, TimeStandsStill
from orchestrator.testing.recorded import NoRecordings, UnreadableRecording, recorded_journals, replay
from orchestrator.testing.session import PromisedCallback, Session
from orchestrator.testing.virtual import Environment, environment

__all__ = [
    "Environment",
    "NoRecordings",
    "NotAsked",
    "NothingHappens",
    "PayloadOutOfReach",
    "PromisedCallback",
    "ReplayFailed",
    "Session",
    "SessionDidNotComplete",
    "TimeStandsStill",
    "UnreadableRecording",
    "environment",
    "recorded_journals",
    "replay",
]
