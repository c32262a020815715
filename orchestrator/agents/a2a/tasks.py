"""A remote agent's task as this node sees it, read from the JSON of any generation of the protocol.

Pure. The generations word states and parts differently; what a session gets to see does not depend on which it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from orchestrator.agents.usage import usage_of
from orchestrator.remote import (
    AgentCanceled,
    AgentNeedsAuth,
    AgentNeedsInput,
    AgentRejected,
    AgentReportedFailure,
    AgentUnreadable,
    quoted,
)
from orchestrator.session.values import Json, JsonObject

WHOLE_MAX: Final = 2.0**53
"""The largest whole number up to which none is skipped (RFC 8259, section 6)."""


class State(Enum):
    """How far a task is."""

    OPEN = "open"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"
    REJECTED = "rejected"
    INPUT_REQUIRED = "input_required"
    AUTH_REQUIRED = "auth_required"


_STATES: Final = {state.value: state for state in State} | {"cancelled": State.CANCELED}


@dataclass(frozen=True, slots=True)
class PushAddress:
    """Where a remote agent tells of a task's progress, and the token that it shows there."""

    url: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What a remote agent is told. `message_id` is the same whenever the same thing is told again.

    With a `task_id` it is the answer to what that task asked; without one it begins a task.
    """

    message_id: str
    prompt: Json
    context_id: str | None = None
    metadata: JsonObject = field(default_factory=dict)
    push: PushAddress | None = None
    task_id: str | None = None


@dataclass(frozen=True, slots=True)
class RemoteTask:
    """A task. `task_id` is `None` for an agent that answered at once, by a message, and made no task of it.

    `said` is the text of its status, for people. `result` is what the session gets once it is completed. `mark` tells
    one status of the task from another, even if both say the same; it is empty where nothing does.
    """

    task_id: str | None
    state: State
    said: str
    result: Json = None
    usage: JsonObject | None = None
    mark: str = ""


def outgoing(message_id: str, prompt: Json, kwargs: Mapping[str, Json]) -> Outgoing:
    """Return what is asked: `context_id` among the arguments goes on with a conversation, the others are metadata."""
    metadata = dict(kwargs)
    context_id = metadata.pop("context_id", None)
    return Outgoing(message_id, prompt, None if context_id is None else str(context_id), metadata)


def task_of(answer: Json) -> RemoteTask:
    """Return the task that this JSON describes.

    Raises:
        AgentUnreadable: it describes none.
    """
    task = _mapping(answer)
    match task:
        case {"id": str(task_id), "status": dict(status)}:
            state = _STATES.get(_plain_state(status.get("state")), State.OPEN)
            message = _mapping(status.get("message"))
            artifacts = _list(task.get("artifacts"))
            parts = [part for artifact in artifacts for part in _list(_mapping(artifact).get("parts"))]
            return RemoteTask(
                task_id=task_id,
                state=state,
                said=quoted(_text_of(_list(message.get("parts")))),
                result=_result(task, parts or _list(message.get("parts"))) if state is State.COMPLETED else None,
                usage=_usage_in(task) or _usage_in(message),
                mark=" ".join(str(each) for each in (status.get("timestamp"), message.get("messageId")) if each),
            )
        case _:
            raise AgentUnreadable("its answer is no task")


def reply_in(message: Json) -> RemoteTask:
    """Return what an agent answered at once as a completed task.

    Raises:
        AgentUnreadable: it is no message.
    """
    said = _mapping(message)
    match said:
        case {"parts": list(parts)}:
            result = _result({**said, "id": None}, parts)
            return RemoteTask(None, State.COMPLETED, "", result, _usage_in(said))
        case _:
            raise AgentUnreadable("its answer is no message")


def pushed_state(update: Json) -> State:
    """Return how far the task is that a push notification tells of; `OPEN` for one that tells nothing of that.

    It is a `StreamResponse`, or, by protocol 0.3, a task.
    """
    told = _mapping(update)
    if "message" in told:
        # An agent that answers by a message has no more to say.
        return State.COMPLETED
    subject = _mapping(told.get("task", told.get("statusUpdate", told)))
    return _STATES.get(_plain_state(_mapping(subject.get("status")).get("state")), State.OPEN)


def failure_of(task: RemoteTask) -> Exception | None:
    """Return the error that a task ended in, or stopped for; `None` for one that goes on, or is completed."""
    said = task.said or "it does not say why"
    match task.state:
        case State.FAILED:
            return AgentReportedFailure(said)
        case State.REJECTED:
            return AgentRejected(said)
        case State.CANCELED:
            return AgentCanceled(said)
        case State.INPUT_REQUIRED:
            return AgentNeedsInput(said)
        case State.AUTH_REQUIRED:
            return AgentNeedsAuth(said)
        case State.OPEN | State.COMPLETED:
            return None


def parts_of(prompt: Json) -> list[JsonObject]:
    """Return the parts of a message that asks that: a text is a text, any other JSON is data."""
    return [{"text": prompt} if isinstance(prompt, str) else {"data": prompt}]


def _result(source: JsonObject, parts: Iterable[Json]) -> JsonObject:
    """Return what a session gets: every part once, by its kind."""
    texts: list[str] = []
    data: list[Json] = []
    files: list[Json] = []
    for part in map(_mapping, parts):
        match part:
            case {"text": str(text)}:
                texts.append(text)
            case {"data": value}:
                data.append(_with_whole_numbers(value))
            case {"file": dict(file)}:
                files.append(_file(file))
            case {"raw": _} | {"url": _}:
                files.append(_file(part))
            case _:
                # A kind of part that is newer than this code.
                files.append(part)
    result: JsonObject = {
        "text": "\n".join(texts),
        "data": data,
        "files": files,
        "task_id": source.get("id"),
        "context_id": source.get("contextId", source.get("sessionId")),
    }
    if metadata := _mapping(source.get("metadata")):
        result["metadata"] = _with_whole_numbers(metadata)
    return result


def _usage_in(source: JsonObject) -> JsonObject | None:
    """Return the counts that the agent reports: A2A has no field for them, its metadata is where agents put them."""
    return usage_of(_with_whole_numbers(_mapping(source.get("metadata"))))


def _file(part: JsonObject) -> JsonObject:
    """Return a file by the names of the latest generation: `raw` (base64) or `url`, and what is said of it."""
    names = {"bytes": "raw", "uri": "url", "mimeType": "mediaType", "name": "filename", "kind": None, "type": None}
    renamed = ((names.get(name, name), value) for name, value in part.items())
    return {name: value for name, value in renamed if name is not None}


def _plain_state(state: Json) -> str:
    return str(state).removeprefix("TASK_STATE_").lower().replace("-", "_")


def _text_of(parts: Iterable[Json]) -> str:
    texts = (_mapping(part).get("text") for part in parts)
    return "\n".join(text for text in texts if isinstance(text, str))


def _mapping(value: Json) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def _with_whole_numbers(value: Json) -> Json:
    """Return the value with numbers as JSON means them: on the way through protobuf, each of them becomes a float."""
    match value:
        case float() if value.is_integer() and abs(value) <= WHOLE_MAX:
            return int(value)
        case dict():
            return {key: _with_whole_numbers(each) for key, each in value.items()}
        case list():
            return [_with_whole_numbers(each) for each in value]
        case _:
            return value
