"""A report that agents research and write, and a person approves: `orchestrator dev examples.research_report:app`."""

from examples.research_report.app import app

__all__ = ["app"]
