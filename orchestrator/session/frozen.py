"""Frozen values that are cheap to make: a session makes some forty, and making them was a tenth of a worker's CPU.

A frozen dataclass sets each field through `object.__setattr__`, since its own refuses. `quick` lets an instance be of
an open twin class while its fields are set, and of its frozen class for ever after: a third of the price, and still
frozen. Nothing else of the dataclass changes; whatever is made rarely needs no `quick`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import TYPE_CHECKING, TypeVar

__all__ = ["quick", "replace"]

T = TypeVar("T")

_SOURCE = """\
def __init__(self, {parameters}):
    set_class(self, "__class__", twin)
{assignments}
    self.__class__ = frozen

def _opened(self):
    copy = make(twin)
{copies}
    return copy
"""


def quick(frozen: type[T]) -> type[T]:
    """Give a dataclass (frozen, with slots, every field a plain parameter of its `__init__`) a cheap `__init__`."""
    # As `dataclasses` does it, the methods are written out as source: a loop over the fields would cost what is saved.
    assert not hasattr(frozen, "__post_init__"), f"{frozen.__name__}: a quick dataclass has no __post_init__"
    parts = fields(frozen)  # type: ignore[arg-type]
    source = _SOURCE.format(
        parameters=", ".join(_parameter(part) for part in parts),
        assignments="\n".join(f"    self.{part.name} = {_argument(part)}" for part in parts) or "    pass",
        copies="\n".join(f"    copy.{part.name} = self.{part.name}" for part in parts) or "    pass",
    )
    known: dict[str, object] = {f"default_{part.name}": part.default for part in parts}
    known |= {f"make_{part.name}": part.default_factory for part in parts} | {"missing": MISSING}
    known |= {"frozen": frozen, "twin": _twin(frozen), "make": object.__new__, "set_class": object.__setattr__}
    made: dict[str, Callable[..., object]] = {}
    exec(source, known, made)
    for name, method in made.items():
        method.__qualname__ = f"{frozen.__qualname__}.{name}"
        setattr(frozen, name, method)
    return frozen


def _twin(frozen: type[T]) -> type[T]:
    # Without slots of its own it is laid out like the class above it, so that an instance may pass from one to the
    # other; with the plain `__setattr__` of `object`, the interpreter sets a field in one step.
    members = {"__slots__": (), "__setattr__": object.__setattr__, "__delattr__": object.__delattr__}
    return type(f"Open{frozen.__name__}", (frozen,), members)


def _parameter(part: Field[object]) -> str:
    assert part.init, f"{part.name}: a quick dataclass has all its fields in __init__"
    assert not part.kw_only, f"{part.name}: a quick dataclass has no field by keyword only"
    if part.default_factory is not MISSING:
        return f"{part.name}=missing"
    return part.name if part.default is MISSING else f"{part.name}=default_{part.name}"


def _argument(part: Field[object]) -> str:
    if part.default_factory is MISSING:
        return part.name
    return f"make_{part.name}() if {part.name} is missing else {part.name}"


if TYPE_CHECKING:
    # The same signature, so that the type checker knows the fields.
    from dataclasses import replace
else:

    def replace(value, /, **changes):
        """Return a copy with these fields changed; `value` is of a `quick` class."""
        copy = value._opened()
        for name, change in changes.items():
            setattr(copy, name, change)
        copy.__class__ = type(value)
        return copy
