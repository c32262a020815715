"""Tasks behind a guardrail, for users with a limit each: `orchestrator dev examples.guarded_task:app`."""

from examples.guarded_task.app import app

__all__ = ["app"]
