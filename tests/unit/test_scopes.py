"""Operation ids are counted by name and scope, and a function that uses a context is told from one that does not."""

import asyncio
from collections.abc import Callable
from functools import partial

import pytest

from orchestrator.scopes import NAME_LENGTH_MAX, Scope, current_scope, inside, parameters_wanted, reaches


def test_the_uses_of_a_name_are_numbered_from_the_second_on() -> None:
    """`a`, `a#2`, `a#3`; each name for itself."""
    scope = Scope()
    assert ["a", "a#2", "b", "a#3", "b#2"] == [scope.next_id(name) for name in ("a", "a", "b", "a", "b")]


def test_each_scope_counts_for_itself() -> None:
    """Below its prefix."""
    assert ["x/a", "x/a#2"] == [(scope := Scope("x/")).next_id("a"), scope.next_id("a")]
    assert "y#2/a" == Scope("y#2/").next_id("a")


@pytest.mark.parametrize("name", ["", "a/b", "a#2", "a b", "é", "x" * (NAME_LENGTH_MAX + 1)])
def test_what_would_look_like_another_id_is_no_name(name: str) -> None:
    """No slash, no number sign: an id says by itself what it is of."""
    with pytest.raises(ValueError, match="operation name"):
        Scope().next_id(name)


def test_scopes_that_are_nested_too_deep_are_refused() -> None:
    """An item of the table holds the id more than once."""
    with pytest.raises(ValueError, match="nested too deep"):
        Scope("x" * 450 + "/").next_id("y" * 100)


async def test_tasks_keep_the_scope_that_they_were_started_in() -> None:
    """Whoever enters another one meanwhile."""
    seen = dict[str, str]()

    async def look(name: str) -> None:
        await asyncio.sleep(0)
        scope = current_scope()
        seen[name] = "" if scope is None else scope.prefix

    with inside(Scope("a/")):
        first = asyncio.create_task(look("first"))
        with inside(Scope("a/b/")):
            second = asyncio.create_task(look("second"))
    third = asyncio.create_task(look("third"))
    await asyncio.wait({first, second, third})
    assert {"first": "a/", "second": "a/b/", "third": ""} == seen


class Wanted:
    """Stand for a context."""

    async def method(self, item: object) -> None:
        """Be bound to it."""


WANTED = Wanted()


class Holder:
    """Hold something."""

    def __init__(self, held: object) -> None:
        self.held = held

    def method(self, item: object) -> None:
        """Be bound to who holds it."""

    def __call__(self, item: object) -> None:
        """Be callable."""


def closing_over(held: object) -> Callable[[object], object]:
    """Return a function over it."""
    return lambda item: (held, item)


def defaulting_to(held: object) -> Callable[..., object]:
    """Return a function with it as a default."""

    def fn(item: object, *, context: object = held) -> object:
        return context, item

    return fn


def taking(item: object, other: object) -> None:
    """Take two things."""


MAKERS: list[Callable[[object], Callable[..., object]]] = [
    closing_over,
    defaulting_to,
    lambda held: partial(taking, held),
    lambda held: partial(taking, other=held),
    lambda held: Holder(held).method,
    lambda held: closing_over(closing_over(held)),
    lambda held: partial(closing_over(held)),
    lambda held: closing_over(Holder(held).method),
]


@pytest.mark.parametrize("make", MAKERS)
def test_a_function_that_holds_on_to_it_reaches_it(make: Callable[[object], Callable[..., object]]) -> None:
    """And the same function over something else does not."""
    assert reaches(make(WANTED), WANTED)
    assert not reaches(make(object()), WANTED)
    assert not reaches(make(Wanted()), WANTED)


def test_its_own_method_reaches_it_and_a_builtin_does_not() -> None:
    """Nor does an empty closure, a class, or a circle of functions."""
    assert reaches(WANTED.method, WANTED)
    assert not reaches(len, WANTED)
    assert not reaches(Holder, WANTED)

    def circle(item: object) -> object:
        return later if item else circle

    assert not reaches(circle, WANTED)
    later = WANTED
    assert reaches(circle, WANTED)


def test_what_must_be_given_is_counted() -> None:
    """Positional and without a default."""
    assert 2 == parameters_wanted(taking)
    assert 1 == parameters_wanted(partial(taking, 1))
    assert 1 == parameters_wanted(Holder(1).method)
    assert 1 == parameters_wanted(defaulting_to(1))
    assert 0 == parameters_wanted(lambda *args: args)
