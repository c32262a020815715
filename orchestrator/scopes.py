"""Operation ids: `name`, `name#2` … in call order, each scope counting for itself, whichever branch is first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from inspect import Parameter, signature
from typing import Final

from orchestrator.session.values import ID_PATTERN

NAME_LENGTH_MAX: Final = 100
OPERATION_ID_LENGTH_MAX: Final = 500
"""Scopes within scopes: a sort key of the table holds 1,024 bytes, an event's item much more."""
_CLOSURES_DEEP_MAX: Final = 4


class Scope:
    """One scope of names. `prefix` is empty for the handler's own, else the scope's id and a slash."""

    __slots__ = ("_uses", "prefix")

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self._uses: dict[str, int] = {}

    def next_id(self, name: str) -> str:
        """Return the operation id of the next use of that name.

        Raises:
            ValueError: it is no name; the text says what one is.
        """
        if len(name) > NAME_LENGTH_MAX or ID_PATTERN.fullmatch(name) is None:
            raise ValueError(f"operation name {name!r}: use 1 to {NAME_LENGTH_MAX} of A-Z a-z 0-9 _ . : -")
        uses = self._uses[name] = self._uses.get(name, 0) + 1
        operation_id = f"{self.prefix}{name}" if uses == 1 else f"{self.prefix}{name}#{uses}"
        if len(operation_id) > OPERATION_ID_LENGTH_MAX:
            raise ValueError(f"operation id {operation_id!r:.100}…: scopes are nested too deep")
        return operation_id


_scope: ContextVar[Scope | None] = ContextVar("orchestrator_scope", default=None)


def current_scope() -> Scope | None:
    """Return the scope that the running branch is in; `None` for the handler's own."""
    return _scope.get()


@contextmanager
def inside(scope: Scope) -> Iterator[None]:
    """Count the names that the block uses, and the tasks that it starts, in that scope."""
    token = _scope.set(scope)
    try:
        yield
    finally:
        _scope.reset(token)


def parameters_wanted(fn: Callable[..., object]) -> int:
    """Return how many positional arguments a function must be given."""
    try:
        parameters = signature(fn).parameters.values()
    except (TypeError, ValueError):
        return 1
    positional = {Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD}
    return sum(1 for p in parameters if p.kind in positional and p.default is Parameter.empty)


def reaches(fn: object, wanted: object, *, depth: int = _CLOSURES_DEEP_MAX) -> bool:
    """Return whether a function holds on to that object: in its closure, arguments so far, defaults or instance.

    So a function that composes operations of a context is told from a plain one, which runs as a step.
    """
    if fn is wanted:
        return True
    if depth == 0:
        return False
    if isinstance(fn, partial):
        held: tuple[object, ...] = (fn.func, *fn.args, *fn.keywords.values())
    else:
        instance = getattr(fn, "__self__", None)
        cells = getattr(fn, "__closure__", None) or ()
        held = (
            *(getattr(instance, "__dict__", {}) or {}).values(),
            *(cell.cell_contents for cell in cells if _is_filled(cell)),
            *(() if instance is None or isinstance(instance, type) else (instance,)),
            *(getattr(fn, "__defaults__", None) or ()),
            *(getattr(fn, "__kwdefaults__", None) or {}).values(),
        )
    return any(reaches(each, wanted, depth=depth - 1) for each in held if each is wanted or callable(each))


def _is_filled(cell: object) -> bool:
    try:
        cell.cell_contents  # type: ignore[attr-defined]  # noqa: B018
    except ValueError:
        return False
    return True
