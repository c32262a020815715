"""Analyses that a state machine starts and nobody's connection waits for; see `README.md`."""

from examples.fire_and_forget.app import app

__all__ = ["app"]
