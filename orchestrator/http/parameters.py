"""What a request may carry outside its body: each parameter says what it is once, for the reader and the document.

A handler reads `LIMIT.read(request)`; the route names `LIMIT`; the OpenAPI document shows `LIMIT.schema()`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import Final, Generic, Literal, Protocol, TypeAlias, TypeVar

from aiohttp import web

from orchestrator.errors import Poison
from orchestrator.http.problems import Problem
from orchestrator.intake.parsing import KEY_LENGTH_MAX, NEVER_SUCCEEDS
from orchestrator.scopes import OPERATION_ID_LENGTH_MAX
from orchestrator.session.spending import MONTH_PATTERN
from orchestrator.session.transitions import SessionStatus
from orchestrator.session.values import ID_SAYS, JsonObject

Place: TypeAlias = Literal["path", "query", "header"]
Choices = TypeVar("Choices", bound=StrEnum)

INVALID_QUERY: Final = "INVALID_QUERY"
LISTING_DEFAULT: Final = 50
LISTING_MAX: Final = 200
EVENTS_PAGE_MAX: Final = 1_000
SEQ_MAX: Final = 9_999_999_999
"""The table writes a seq with ten digits."""


class Parameter(Protocol):
    """What the document says of a parameter."""

    @property
    def name(self) -> str:
        """Return the name on the wire."""
        ...

    @property
    def place(self) -> Place:
        """Return where it stands."""
        ...

    @property
    def description(self) -> str:
        """Return what it is for."""
        ...

    def schema(self) -> JsonObject:
        """Return the JSON schema of its values."""
        ...


@dataclass(frozen=True, slots=True)
class Text:
    """A text of a fixed form. `form` is a regular expression for the whole of it, `says` the same in words."""

    name: str
    place: Place
    description: str
    form: str
    says: str

    def read(self, request: web.Request) -> str | None:
        """Return the text, `None` where it is not given. Raises a 422 that names the parameter."""
        text = _found(request, self.place).get(self.name)
        if text is not None and re.fullmatch(self.form, text, re.DOTALL) is None:
            raise refused(self, text, self.says)
        return text

    def required(self, request: web.Request) -> str:
        """Return the text of a parameter that cannot be missing: one of the path."""
        text = self.read(request)
        assert text is not None, f"{self.name} stands in the path"
        return text

    def schema(self) -> JsonObject:
        """Return the JSON schema."""
        return {"type": "string", "pattern": f"^{self.form}$"}


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number between two bounds, and what it is where it is not given (`None`: nothing)."""

    name: str
    place: Place
    description: str
    minimum: int
    maximum: int
    default: int | None = None

    def read(self, request: web.Request) -> int | None:
        """Return the number. Raises a 422 that names the parameter."""
        text = _found(request, self.place).get(self.name)
        if text is None:
            return self.default
        # Ten digits are the most that any bound has; more would take long to read.
        if re.fullmatch("[0-9]{1,10}", text) is None or not self.minimum <= int(text) <= self.maximum:
            raise refused(self, text, f"a whole number from {self.minimum} to {self.maximum}")
        return int(text)

    def or_default(self, request: web.Request) -> int:
        """Return the number, the default where it is not given. Raises a 422 that names the parameter."""
        number = self.read(request)
        assert number is not None, f"{self.name} has a default"
        return number

    def schema(self) -> JsonObject:
        """Return the JSON schema."""
        default: JsonObject = {} if self.default is None else {"default": self.default}
        return {"type": "integer", "minimum": self.minimum, "maximum": self.maximum, **default}


@dataclass(frozen=True, slots=True)
class Choice(Generic[Choices]):
    """One of a few words."""

    name: str
    place: Place
    description: str
    choices: type[Choices]

    def read(self, request: web.Request) -> Choices | None:
        """Return the choice, `None` where it is not given. Raises a 422 that names the parameter."""
        text = _found(request, self.place).get(self.name)
        if text is None:
            return None
        try:
            return self.choices(text)
        except ValueError:
            raise refused(self, text, f"one of {', '.join(self.choices)}") from None

    def schema(self) -> JsonObject:
        """Return the JSON schema."""
        return {"type": "string", "enum": [choice.value for choice in self.choices]}


def refused(parameter: Parameter, text: str, wanted: str) -> Problem | Poison:
    """Return the error that names the parameter, what it is and what it should be."""
    detail = f"{parameter.name}: {text!r:.150} is not {wanted}"
    if parameter.place == "query":
        return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, INVALID_QUERY, detail)
    # In the path and the headers stand parts of messages: they are wrong in the same way as on the queue.
    return Poison(NEVER_SUCCEEDS, detail)


def _found(request: web.Request, place: Place) -> Mapping[str, str]:
    match place:
        case "path":
            return request.match_info
        case "query":
            return request.query
        case "header":
            return request.headers


# Of dots alone it would mean another place in the URL.
_ID: Final = r"(?!\.+$)[A-Za-z0-9_.:\-]{1,128}"

SESSION_ID: Final = Text("id", "path", "The session's id.", _ID, ID_SAYS)
SIGNAL_NAME: Final = Text("name", "path", "The signal's name, as the handler waits for it.", _ID, ID_SAYS)
APPROVAL_NAME: Final = Text(
    "name",
    "path",
    "The approval's operation id: its name; `name%232` for its second use, `scope%2Fname` within a scope; `budget` for "
    "one that a session at its cap asks for.",
    rf"(?!\.+$)@?[A-Za-z0-9_.:\-#/]{{1,{OPERATION_ID_LENGTH_MAX}}}",
    f"an operation id (1 to {OPERATION_ID_LENGTH_MAX} of A-Z a-z 0-9 _ . : - # /)",
)
NODE_ID: Final = Text("node_id", "path", "The node's id.", _ID, ID_SAYS)
CALLBACK_ID: Final = Text("callback_id", "path", "The callback's id.", _ID, ID_SAYS)
PUSH_TOKEN: Final = Text(
    "X-A2A-Notification-Token",
    "header",
    "The token that the agent was handed with the address.",
    rf"[!-~]{{1,{KEY_LENGTH_MAX}}}",
    f"a token (1 to {KEY_LENGTH_MAX} visible characters)",
)
MESSAGE_ID: Final = Text(
    "Idempotency-Key",
    "header",
    "The message's id: the same one again delivers nothing new. Random where it is not given.",
    _ID,
    ID_SAYS,
)
# Narrower than a key on the queue: what clients and proxies carry in a header as it is.
START_KEY: Final = Text(
    "Idempotency-Key",
    "header",
    "The same tenant, session type and key are one session, however often they come.",
    f"[!-~]([ -~]{{0,{KEY_LENGTH_MAX - 2}}}[!-~])?",
    f"a text of 1 to {KEY_LENGTH_MAX} printable ASCII characters",
)
RUNTIME_SESSION_ID: Final = Text(
    "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id",
    "header",
    "AgentCore Runtime's session id: what is invoked under it first has it for its session id, where it can be one.",
    "[!-~]{33,256}",
    "a runtime session id (33 to 256 printable ASCII characters)",
)
"""The length is AgentCore's rule (API reference, `InvokeAgentRuntime`, `runtimeSessionId`)."""
STATE: Final = Choice("state", "query", "Sessions in this state.", SessionStatus)
SESSION_TYPE: Final = Text(
    "type", "query", "Sessions of this type.", r"[A-Za-z0-9_.\-]{1,64}", "a session type (1 to 64 of A-Z a-z 0-9 _ . -)"
)
MONTH: Final = Text(
    "month", "query", "A calendar month in UTC; this one unless given.", MONTH_PATTERN, "a month, such as 2026-01"
)
TENANT_SPENDING: Final = Text("tenant", "query", "This tenant alone.", r"[A-Za-z0-9_.:\-]{1,128}", ID_SAYS)
TENANT: Final = Text("tenant", "query", "Sessions of this tenant.", r"[A-Za-z0-9_.:\-]{1,128}", ID_SAYS)
CURSOR: Final = Text(
    "cursor", "query", "The `cursor` of the page before, as it came.", r"[A-Za-z0-9_=\-]{1,1024}", "a listing's cursor"
)
LISTING_LIMIT: Final = Whole("limit", "query", "Sessions a page.", 1, LISTING_MAX, LISTING_DEFAULT)
AFTER: Final = Whole("after", "query", "Events with a seq over this one.", 0, SEQ_MAX, 0)
EVENTS_LIMIT: Final = Whole(
    "limit", "query", "Events a page; a stream knows none.", 1, EVENTS_PAGE_MAX, EVENTS_PAGE_MAX
)
LAST_EVENT_ID: Final = Whole(
    "Last-Event-ID",
    "header",
    "The last seq that a stream's client saw; goes before `after`.",
    0,
    SEQ_MAX,
)
