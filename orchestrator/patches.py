"""Which changes a handler's code asks about: the names in `ctx.patched("…")`, found in its module without running it.

A session records at its start which changes the code knew; so `ctx.patched` can tell, however late it is first asked,
a session that started after a change shipped from one that was under way.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable, Iterator
from functools import cache
from types import CodeType
from typing import Final

from orchestrator.session.values import Json

_ASKS: Final = "patched"
_DECORATORS_MAX: Final = 20


def patches_in(handler: Callable[..., object]) -> frozenset[str]:
    """Return the change ids that the module of this function names; those made at run time cannot be found."""
    return _patches_of(getattr(handler, "__module__", ""), frozenset(_codes_of(handler)))


def is_new_side(change_id: str, known_at_start: Json, in_code: frozenset[str], *, is_replaying: bool) -> bool:
    """Return whether a session that has not recorded the change takes its new side, asked at this point of it.

    `known_at_start` are the changes that its code knew at its start, `in_code` those that today's code names.
    """
    if isinstance(known_at_start, list) and change_id in known_at_start:
        return True
    # A change that stands in the code was looked for when the session started, and was not there yet. One that is named
    # at run time can only be judged by whether the journal has come past it.
    return change_id not in in_code and not is_replaying


@cache
def _patches_of(module: str, codes: frozenset[CodeType]) -> frozenset[str]:
    members = tuple(vars(sys.modules[module]).values()) if module in sys.modules else ()
    methods = [
        method
        for member in members
        if isinstance(member, type) and member.__module__ == module
        for method in vars(member).values()
    ]
    found = (code for each in (*members, *methods) for code in _codes_of(each))
    return frozenset(name for code in codes.union(found) for name in _named_in(code))


def _codes_of(member: object) -> Iterator[CodeType]:
    """Yield the code of a function, and of those that its decorators wrap."""
    for _ in range(_DECORATORS_MAX):
        # A `staticmethod` or `classmethod` of a class holds its function.
        code = getattr(getattr(member, "__func__", member), "__code__", None)
        if isinstance(code, CodeType):
            yield code
        # Looked up without asking the member itself: what answers to every name would never end.
        member = getattr(member, "__dict__", {}).get("__wrapped__")
        if member is None:
            return


def _named_in(code: CodeType) -> Iterator[str]:
    was_asked = False
    for step in dis.get_instructions(code):
        if was_asked and step.opname == "LOAD_CONST":
            if isinstance(step.argval, str):
                yield step.argval
            was_asked = False
        elif step.opname in {"LOAD_ATTR", "LOAD_METHOD"}:
            was_asked = step.argval == _ASKS
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _named_in(constant)
