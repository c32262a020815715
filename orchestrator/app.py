"""`Orchestrator`: what a user's application declares, and nothing that runs it: session types, agents, triggers.

Declarations are checked when the module is imported, so that a mistake stops the deployment and not a session.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol, TypeVar, assert_never, runtime_checkable

from orchestrator.budgets import Budget, Price
from orchestrator.calls import Duration, optional_seconds_of
from orchestrator.cron import SOME_DAY, Missed, Schedule, schedule
from orchestrator.errors import NotSerializable, RegistrationError
from orchestrator.patches import patches_in
from orchestrator.payloads import InvalidPayload, PayloadTooLarge, PayloadType, annotations_of, to_json
from orchestrator.redaction import declared_paths
from orchestrator.session.values import SESSION_TYPE_PATTERN, Json, is_valid_agent_name
from orchestrator.triggers import (
    Event,
    EventTrigger,
    Match,
    S3Object,
    S3Trigger,
    check_match,
    check_texts,
    derivation,
)

if TYPE_CHECKING:
    from orchestrator.agents import Agent, Connections
    from orchestrator.context import SessionContext
    from orchestrator.remote import AgentService

Handler = Callable[..., Awaitable[object]]
"""`async def handler(ctx: SessionContext, input: T) -> R`; the second parameter may be left out."""
HandlerT = TypeVar("HandlerT", bound=Callable[..., Awaitable[object]])
AgentT = TypeVar("AgentT")

_HANDLER_PARAMETERS_MAX: Final = 2
_NONE_GIVEN: Final = object()
_RATE_PATTERN: Final = re.compile(r"(?P<times>[1-9]\d{0,5})/(?P<unit>sec|min|hour)")
_RATE_SECONDS: Final = {"sec": 1.0, "min": 60.0, "hour": 3_600.0}


@runtime_checkable
class InvokableAgent(Protocol):
    """Anything with `invoke_async(prompt, **kwargs)`: a `strands.Agent` is one as it stands."""

    async def invoke_async(self, prompt: object, **kwargs: object) -> object:
        """Run the agent and return its answer."""
        ...


@runtime_checkable
class RemoteAgent(Protocol):
    """An agent that runs elsewhere. Declaring one opens nothing: the node that calls it lends it its connections."""

    @property
    def service(self) -> AgentService | None:
        """The service of AWS that it is called through; `None` where it is called otherwise."""
        ...

    def connected(self, connections: Connections) -> Agent:
        """Return the agent as a node runs it."""
        ...


AgentTarget = InvokableAgent | RemoteAgent | Callable[..., object]


@dataclass(frozen=True, slots=True)
class Rate:
    """So many times in so many seconds."""

    times: int
    seconds: float


@dataclass(frozen=True, slots=True)
class AgentLimits:
    """How many runs of an agent one node has at once, and how often it starts one; `None`: no limit."""

    max_concurrency: int | None
    rate: Rate | None


@dataclass(frozen=True, slots=True)
class SessionType:
    """A declared session type: its name, its handler, the types of its input and result, its time limit in seconds.

    `takes_invocations`: it is what `POST /invocations` starts where a body names no session type.
    `budget` is what each of its sessions may spend; `None` leaves that to the node's settings. `redact` are the names
    and paths of what its logs and traces never show.
    """

    name: str
    handler: Handler
    input_type: PayloadType
    result_type: PayloadType
    takes_input: bool
    time_limit: float | None = None
    takes_invocations: bool = False
    budget: Budget | None = None
    redact: tuple[str, ...] = ()

    @property
    def patches(self) -> frozenset[str]:
        """The changes that the handler's module asks about by name (`ctx.patched("…")`)."""
        return patches_in(self.handler)

    def lacks(self, recorded: Json) -> tuple[str, ...]:
        """Return the changes that a session began with (`SessionStarted.patches`) and that this code does not name.

        It is older code, as in the middle of a deployment, or has dropped them too early: run by it, the session would
        take the old side, and no later code could follow.
        """
        began_with = recorded if isinstance(recorded, list) else ()
        return tuple(str(change) for change in began_with if change not in self.patches)

    def start(self, ctx: SessionContext, value: object) -> Awaitable[object]:
        """Return the handler's coroutine for one session."""
        return self.handler(ctx, value) if self.takes_input else self.handler(ctx)


@dataclass(frozen=True, slots=True)
class Triggers:
    """All that starts sessions by itself, in order of declaration."""

    s3: tuple[S3Trigger, ...] = ()
    events: tuple[EventTrigger, ...] = ()
    schedules: tuple[Schedule, ...] = ()


class Orchestrator:
    """The registry of an application; `orchestrator serve MODULE:APP` runs it.

    Use its methods as decorators. Names are unique; a second declaration of one raises `RegistrationError`.
    """

    def __init__(self) -> None:
        self._sessions: dict[str, SessionType] = {}
        self._agents: dict[str, AgentTarget] = {}
        self._agent_limits: dict[str, AgentLimits] = {}
        self._agent_prices: dict[str, Price] = {}
        self._triggers: list[tuple[Handler, S3Trigger | EventTrigger | Schedule]] = []

    def session(
        self,
        name: str,
        *,
        timeout: Duration | None = None,
        invocations: bool = False,
        budget: Budget | None = None,
        redact: Sequence[str] = (),
    ) -> Callable[[HandlerT], HandlerT]:
        """Declare an async function as the handler of a session type.

        Args:
            name: 1 to 64 of `A-Z a-z 0-9 _ . -`; it stands in session ids and in the table, so keep it.
            timeout: how long a session may live (`timedelta` or seconds); then it fails as `SESSION_TIMED_OUT`.
            invocations: `POST /invocations` (Bedrock AgentCore Runtime) starts this type where a body names none: its
                whole body is the input. An application's only session type needs no such mark.
            budget: what a session may spend; then it fails as `BUDGET_EXCEEDED`, or asks. It holds for the sessions
                that start with it; in place of it, that of the setting `ORCHESTRATOR_SESSION_BUDGET`, if any.
            redact: names (`"iban"`) and paths (`"card.number"`) of what the lines of `ctx.logger` never show.
        """
        if SESSION_TYPE_PATTERN.fullmatch(name) is None:
            raise RegistrationError(f"session type {name!r}: use 1 to 64 letters, digits, '_', '.' or '-'")
        try:
            time_limit = optional_seconds_of(timeout, "timeout")
        except ValueError as error:
            raise RegistrationError(f"session type {name!r}: {error}") from None
        if budget is not None and not isinstance(budget, Budget):
            raise RegistrationError(f"session type {name!r}: budget: {budget!r:.100} is no Budget")

        paths = declared_paths(f"session type {name!r}", redact)

        def declare(handler: HandlerT) -> HandlerT:
            if name in self._sessions:
                raise RegistrationError(f"session type {name!r} is declared twice")
            declared = replace(
                _session_type(name, handler),
                time_limit=time_limit,
                takes_invocations=invocations,
                budget=budget,
                redact=paths,
            )
            marked = [other.name for other in self.session_types if invocations and other.takes_invocations]
            if marked:
                raise RegistrationError(f"session types {marked[0]!r} and {name!r}: only one can take invocations")
            self._sessions[name] = declared
            return handler

        return declare

    def agent(
        self, name: str, *, max_concurrency: int | None = None, rate: str | None = None, price: Price | None = None
    ) -> Callable[[AgentT], AgentT]:
        """Declare an agent: a class (made without arguments, once), an instance, or a function.

        It needs `async invoke_async(prompt, **kwargs)`, or is called itself with `(prompt, **kwargs)`. A function
        without parameters makes the agent instead, one for each run. A `strands.Agent` is durable inside as it is.

        Args:
            name: what handlers call it by, 1 to 128 printable characters.
            max_concurrency: how many of its runs a node has at once; others wait in order.
            rate: how often a node starts one: `"60/min"` (or `/sec`, `/hour`). Time that a run waits counts against
                its timeout, which runs from when the handler asked.
            price: what its tokens cost, where it does not report a cost itself; budgets count by it.
        """
        if not is_valid_agent_name(name):
            raise RegistrationError(f"agent {name!r:.100}: its name must be a text of 1 to 128 printable characters")
        limits = _agent_limits(name, max_concurrency, rate)
        if price is not None and not isinstance(price, Price):
            raise RegistrationError(f"agent {name!r}: price: {price!r:.100} is no Price")

        def declare(agent: AgentT) -> AgentT:
            if name in self._agents:
                raise RegistrationError(f"agent {name!r} is declared twice")
            self._agents[name] = _agent_target(name, agent)
            if limits is not None:
                self._agent_limits[name] = limits
            if price is not None:
                self._agent_prices[name] = price
            return agent

        return declare

    def on_s3_object(  # noqa: PLR0913 - which objects, and what is derived from them
        self,
        *,
        bucket: str = "*",
        prefix: str = "",
        suffix: str = "",
        ordered: bool = True,
        transform: Callable[[S3Object], object] | None = None,
        tenant: str | Callable[[S3Object], str] | None = None,
        key: Callable[[S3Object], str] | None = None,
    ) -> Callable[[HandlerT], HandlerT]:
        """Start a session of the decorated handler's type for every object created that matches (case-sensitive).

        The bucket's notifications must reach the queue, directly, by SNS or by EventBridge. The handler's input is an
        `S3Object`; the same version of an object starts one session however often and on whichever way S3 tells of it.

        Args:
            bucket: the bucket's name; `*` stands for any text in it.
            prefix: what the key begins with; keys are as people write them, never URL-encoded.
            suffix: what the key ends with.
            ordered: whether an event older than one that was seen of the same key is dropped (`sequencer`).
            transform: makes the handler's input of the `S3Object`; a plain function, called while a message is read.
            tenant: the session's tenant, or a function that tells it from the object.
            key: tells the idempotency key from the object; objects of the same key start one session.
        """
        label = _label("on_s3_object", bucket=bucket, prefix=prefix, suffix=suffix)
        check_texts(label, bucket=bucket, prefix=prefix, suffix=suffix)
        derives = derivation(label, transform, tenant, key)
        return self._triggering(S3Trigger(label, bucket, prefix, suffix, ordered, derives))

    def on_event(
        self,
        *,
        source: str = "*",
        detail_type: str = "*",
        match: Match | None = None,
        transform: Callable[[Event], object] | None = None,
        tenant: str | Callable[[Event], str] | None = None,
        key: Callable[[Event], str] | None = None,
    ) -> Callable[[HandlerT], HandlerT]:
        """Start a session of the decorated handler's type for every event of EventBridge that matches.

        A rule of the bus must send them to the queue, as they are. The handler's input is an `Event`; an event starts
        one session, however often it comes (its `id` is the idempotency key).

        Args:
            source: the event's source, such as `acme.orders`; `*` stands for any text in it.
            detail_type: its detail type, with `*` likewise.
            match: a function of the `Event`, or a pattern as in a rule: lists of values, `prefix`, `suffix`,
                `anything-but`, `exists`.
            transform: makes the handler's input of the `Event`; a plain function, called while a message is read.
            tenant: the session's tenant, or a function that tells it from the event.
            key: tells the idempotency key from the event; events of the same key start one session.
        """
        label = _label("on_event", source=source, detail_type=detail_type)
        check_texts(label, source=source, detail_type=detail_type)
        check_match(label, match)
        derives = derivation(label, transform, tenant, key)
        return self._triggering(EventTrigger(label, source, detail_type, match, derives))

    def on_schedule(
        self,
        cron: str,
        *,
        timezone: str = "UTC",
        missed: Missed = "skip",
        input: object = _NONE_GIVEN,  # noqa: A002 - as a start message names it
        tenant: str | None = None,
    ) -> Callable[[HandlerT], HandlerT]:
        """Start a session of the decorated handler's type whenever the expression comes true: once, by whichever node.

        Without `input` the handler receives an `Occurrence`. A new schedule starts from now; so does one whose
        expression, time zone or tenant was changed.

        Args:
            cron: minute, hour, day of the month, month, day of the week: `"0 8 * * mon-fri"`.
            timezone: a name of the IANA database, such as `"Europe/Zurich"`.
            missed: what becomes of the times that came while no node ran for over five minutes: `"skip"`, `"latest"`
                (the last of them is made up for) or `"all"` (the last hundred are).
            input: what the handler receives instead.
            tenant: the session's tenant.
        """
        given = () if input is _NONE_GIVEN else (_json_of(cron, input),)
        return self._triggering(schedule(cron, timezone, missed, tenant, given))

    def _triggering(self, trigger: S3Trigger | EventTrigger | Schedule) -> Callable[[HandlerT], HandlerT]:
        def declare(handler: HandlerT) -> HandlerT:
            self._triggers.append((handler, trigger))
            return handler

        return declare

    @property
    def session_types(self) -> tuple[SessionType, ...]:
        """The declared session types, in order of declaration."""
        return tuple(self._sessions.values())

    def session_type(self, name: str) -> SessionType | None:
        """Return the session type of that name; `None` where none is declared."""
        return self._sessions.get(name)

    @property
    def invoked_type(self) -> SessionType | None:
        """What an invocation starts that names no session type: the one declared so, else the only one there is."""
        marked = [declared for declared in self.session_types if declared.takes_invocations]
        candidates = marked or self.session_types
        return candidates[0] if len(candidates) == 1 else None

    def agent_named(self, name: str) -> AgentTarget | None:
        """Return the agent of that name; `None` where none is declared."""
        return self._agents.get(name)

    def remote_agents(self) -> dict[str, RemoteAgent]:
        """Return the agents that run elsewhere, by name."""
        return {name: agent for name, agent in self._agents.items() if isinstance(agent, RemoteAgent)}

    def agent_services(self) -> frozenset[AgentService]:
        """Return the services of AWS that a node calls agents through."""
        services = [agent.service for agent in self.remote_agents().values()]
        return frozenset(service for service in services if service is not None)

    def agent_limits(self, name: str) -> AgentLimits | None:
        """Return the limits of the agent of that name; `None` where it has none."""
        return self._agent_limits.get(name)

    def agent_price(self, name: str) -> Price | None:
        """Return what the tokens of the agent of that name cost; `None` where nobody said."""
        return self._agent_prices.get(name)

    def triggers(self) -> Triggers:
        """Return the triggers of every session type.

        Raises:
            RegistrationError: one decorates a function that is no session handler, or gives it an input that it does
                not take; or a schedule is declared twice.
        """
        types = {declared.handler: declared for declared in self._sessions.values()}
        s3, events, schedules = list[S3Trigger](), list[EventTrigger](), list[Schedule]()
        for handler, trigger in self._triggers:
            if handler not in types:
                raise RegistrationError(f"{trigger.label} on {handler.__qualname__}, which is no @session handler")
            match trigger:
                case S3Trigger():
                    s3.append(replace(trigger, session_type=types[handler].name))
                case EventTrigger():
                    events.append(replace(trigger, session_type=types[handler].name))
                case Schedule():
                    schedules.append(_schedule_of(types[handler], trigger, schedules))
                case _:
                    assert_never(trigger)
        return Triggers(tuple(s3), tuple(events), tuple(schedules))


def _label(decorator: str, **arguments: str) -> str:
    given = ", ".join(f"{name}={value!r:.100}" for name, value in arguments.items() if value not in {"", "*"})
    return f"{decorator}({given})"


def _json_of(cron: str, value: object) -> Json:
    try:
        return to_json(value, "input")
    except (NotSerializable, PayloadTooLarge) as error:
        raise RegistrationError(f"on_schedule({cron!r:.100}): {error}") from None


def _schedule_of(declared: SessionType, given: Schedule, known: Collection[Schedule]) -> Schedule:
    made = replace(given, session_type=declared.name)
    if any((made.session_type, made.name) == (each.session_type, each.name) for each in known):
        raise RegistrationError(f"{made.label} is declared twice for session type {declared.name!r}")
    try:
        declared.input_type.load(made.payload(SOME_DAY))
    except InvalidPayload as error:
        hint = "" if made.has_input else "; the handler receives an Occurrence unless input= gives it something else"
        raise RegistrationError(f"{made.label} of session type {declared.name!r}: {error}{hint}") from None
    return made


def _session_type(name: str, handler: Handler) -> SessionType:
    parameters, result = annotations_of(handler)
    positional = [p for p in parameters if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}]
    required = [p for p in positional if p.default is p.empty]
    if not positional or len(required) > _HANDLER_PARAMETERS_MAX:
        raise RegistrationError(f"session type {name!r}: its handler must take (ctx) or (ctx, input)")
    takes_input = len(positional) >= _HANDLER_PARAMETERS_MAX
    return SessionType(
        name=name,
        handler=handler,
        input_type=PayloadType(positional[1].annotation if takes_input else object),
        result_type=PayloadType(result),
        takes_input=takes_input,
    )


def _agent_target(name: str, agent: object) -> AgentTarget:
    if isinstance(agent, type):
        try:
            agent = agent()
        except TypeError as error:
            raise RegistrationError(f"agent {name!r}: {error}; declare an instance instead of the class") from error
    if isinstance(agent, InvokableAgent | RemoteAgent) or callable(agent):
        return agent
    raise RegistrationError(f"agent {name!r} has no invoke_async and cannot be called")


def _agent_limits(name: str, max_concurrency: int | None, rate: str | None) -> AgentLimits | None:
    if max_concurrency is None and rate is None:
        return None
    # A bool is an int, and annotations bind nobody.
    if max_concurrency is not None and (type(max_concurrency) is not int or max_concurrency < 1):
        raise RegistrationError(f"agent {name!r}: max_concurrency {max_concurrency!r:.100} is no whole number from 1")
    found = None if rate is None else _RATE_PATTERN.fullmatch(str(rate))
    if rate is not None and found is None:
        raise RegistrationError(f"agent {name!r}: rate {rate!r:.100} is not like '60/min' (or '/sec', '/hour')")
    return AgentLimits(
        max_concurrency, None if found is None else Rate(int(found["times"]), _RATE_SECONDS[found["unit"]])
    )
