"""What is asked, found and written: plain text made from text, where your prompts and models would be.

Pure functions, so that a test can tell what must come out.
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic import BaseModel

ASPECTS = ("What is {topic}?", "Where does {topic} come from?", "What speaks against {topic}?")
QUOTATION = "It is so, and in the same words elsewhere. " * 2_000


class Text(BaseModel):
    """What an agent is given, and what it answers."""

    text: str


def questions_on(topic: str) -> str:
    """Return what the report is to answer, a question a line."""
    return "\n".join(aspect.format(topic=topic) for aspect in ASPECTS)


def research(questions: str) -> str:
    """Return a note on each question, a line each."""
    return "\n".join(f"{question} {len(question)} sources agree." for question in questions.splitlines())


def quoting(questions: str) -> str:
    """Return the same notes with all that their sources say: far more than an item of a table holds."""
    return "\n".join(f"{note} They say: {QUOTATION}" for note in research(questions).splitlines())


def analyse(notes: str) -> str:
    """Return the notes as findings, the best supported one first."""
    ranked = sorted(notes.splitlines(), key=len, reverse=True)
    return "\n".join(f"{place}. {note}" for place, note in enumerate(ranked, start=1))


def draft_of(topic: str, analysis: str) -> str:
    """Return the draft that a person is asked about."""
    return f"# A report on {topic}: draft\n\n{analysis}\n"


def write(draft: str) -> str:
    """Return the report that an approved draft becomes."""
    return draft.replace(": draft\n", "\n", 1) + "\nWritten by agents, approved by a person.\n"


AGENTS: dict[str, Callable[[str], str]] = {"researcher": research, "analyst": analyse, "writer": write}
"""Agent → what it does."""
