"""Recorded journals as files, one event a line as `orchestrator events ID --json` prints them, and their replay.

Each line names its session, whose id seeds what `ctx.uuid4()` and `ctx.random()` return; a file may have any name.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from orchestrator.app import Orchestrator
from orchestrator.artifacts import Artifacts
from orchestrator.errors import OrchestratorError
from orchestrator.journal import UnreadableEvent
from orchestrator.journal.codec import decode
from orchestrator.payloads import parse_json
from orchestrator.replaying import replay_journal
from orchestrator.session.events import Recorded
from orchestrator.session.values import Json, JsonObject, compact_json, instant_of, is_valid_id

SUFFIX: Final = ".jsonl"
UNNAMED: Final = "recorded"


class UnreadableRecording(OrchestratorError):
    """The file or list holds no journal that this version can read; the text names the line."""

    code = "UNREADABLE_RECORDING"


class NoRecordings(OrchestratorError):
    """The folder holds no recorded journals: a test over none would pass and prove nothing."""

    code = "NO_RECORDINGS"


def recorded_journals(folder: str | Path) -> list[Path]:
    """Return the recorded journals of a folder (`*.jsonl`), by name, for `pytest.mark.parametrize`.

    Raises:
        NoRecordings: there are none.
    """
    found = sorted(Path(folder).glob(f"*{SUFFIX}"))
    if not found:
        raise NoRecordings(
            f"no *{SUFFIX} in {Path(folder).resolve()}: record one with "
            f"`orchestrator events ID --json > {Path(folder) / f'ID{SUFFIX}'}`"
        )
    return found


def replay(
    journal: str | Path | Iterable[Mapping[str, Json]],
    app: Orchestrator,
    *,
    session_id: str | None = None,
    artifacts: Artifacts | None = None,
) -> None:
    """Return if today's handler still matches a recorded journal: a file, or the events of `session.events()`.

    The handler runs with what the journal holds; no step, no agent and no I/O of the orchestrator's runs. Where an open
    session's journal ends, the replay does. `session_id` is the events' own unless given. Works inside a running loop
    too, which waits meanwhile.

    Raises:
        ReplayFailed: it does not; the text tells the first difference.
        UnreadableRecording: it is no journal.
        PayloadOutOfReach: the journal keeps a payload in the bucket, and `artifacts` was not given.
    """
    recorded, name = _recorded(journal)
    session = session_id or name

    async def run() -> None:
        try:
            await replay_journal(session, recorded, app, artifacts=artifacts)
        except UnreadableEvent as error:
            raise UnreadableRecording(str(error)) from None

    if _is_in_a_loop():
        with ThreadPoolExecutor(1) as thread:
            thread.submit(_run, run()).result()
    else:
        # A loop of its own, which ends with whatever the handler left behind.
        _run(run())


def _is_in_a_loop() -> bool:
    # Asked apart from the replay: raised while this error is handled, a difference would be shown as its consequence.
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _run(work: Coroutine[object, object, None]) -> None:
    # Whatever loop the application prefers: this one can be asked whether it is at rest.
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(work)


def written(events: Iterable[Mapping[str, Json]]) -> str:
    """Return the text of a recording."""
    return "".join(f"{compact_json(event)}\n" for event in events)


def recorded_of(view: Mapping[str, Json]) -> Recorded:
    """Return the event that such a view shows.

    Raises:
        UnreadableEvent: it is none that this version knows. KeyError, TypeError, ValueError: it is no event view.
    """
    seq, epoch, operation = view["seq"], view["epoch"], view["operation"]
    if not isinstance(seq, int) or not isinstance(epoch, int):
        raise TypeError(f"seq and epoch are whole numbers, not {seq!r:.50} and {epoch!r:.50}")
    return Recorded(
        seq=seq,
        event=decode(str(view["status"]), None if operation is None else str(operation), json.dumps(view["data"])),
        at=instant_of(str(view["at"])),
        epoch=epoch,
        node=str(view["node"]),
        event_id=str(view["event_id"]),
    )


def _recorded(journal: str | Path | Iterable[Mapping[str, Json]]) -> tuple[list[Recorded], str]:
    """Return the events and the id of their session: what they say, else the file's name."""
    if isinstance(journal, str | Path):
        path = Path(journal)
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise UnreadableRecording(f"{path}: {error}") from None
        views = [_view(f"{path}:{number}", line) for number, line in enumerate(lines, start=1) if line.strip()]
        name = path.stem if is_valid_id(path.stem) else UNNAMED
    else:
        views = [(f"event {place}", dict(view)) for place, view in enumerate(journal, start=1)]
        name = UNNAMED
    session_id = next((str(view["session_id"]) for _, view in views if "session_id" in view), name)
    return [_event(place, view, session_id) for place, view in views], session_id


def _view(place: str, line: str) -> tuple[str, JsonObject]:
    try:
        view = parse_json(line)
    except (ValueError, RecursionError) as error:
        raise UnreadableRecording(f"{place}: {error}") from None
    if not isinstance(view, dict):
        raise UnreadableRecording(f"{place}: an object was expected, not {view!r:.80}")
    return place, view


def _event(place: str, view: JsonObject, session_id: str) -> Recorded:
    whose = view.get("session_id", session_id)
    if not isinstance(whose, str) or not is_valid_id(whose):
        raise UnreadableRecording(f"{place}: session_id: {whose!r:.80} is not an id")
    if whose != session_id:
        raise UnreadableRecording(f"{place}: an event of {whose} in the journal of {session_id}; keep one in a file")
    try:
        return recorded_of(view)
    except KeyError as missing:
        raise UnreadableRecording(f"{place}: no {missing} in the event; is it a line of `events --json`?") from None
    except (TypeError, ValueError, UnreadableEvent) as error:
        raise UnreadableRecording(f"{place}: {error}") from None
