"""What `quick` promises: a dataclass like any other, frozen, and cheap to make."""

import copy
import dataclasses
import inspect
import pickle
from dataclasses import FrozenInstanceError, dataclass

import pytest

from orchestrator.session.frozen import quick, replace


@quick
@dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: int = 2
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Plain:
    x: int
    y: int = 2
    label: str | None = None


def test_a_quick_value_is_frozen() -> None:
    """Neither a field nor another attribute can be set or deleted once it is made."""
    for point in (Point(1), replace(Point(1), y=3)):
        for name in ("x", "z"):
            with pytest.raises((FrozenInstanceError, TypeError)):
                setattr(point, name, 5)
        with pytest.raises((FrozenInstanceError, TypeError)):
            del point.x
        assert Point is type(point)
        assert not hasattr(point, "__dict__")


def test_a_quick_value_behaves_like_a_plain_one() -> None:
    """It is made, compared, hashed, shown, copied and pickled as any frozen dataclass."""
    assert Point(1, 2) == Point(x=1)
    assert Point(1) != Point(2)
    assert hash(Point(1)) == hash(Point(1, 2))
    assert "Point(x=1, y=2, label=None)" == repr(Point(1))
    assert [field.name for field in dataclasses.fields(Plain)] == [field.name for field in dataclasses.fields(Point)]
    assert list(inspect.signature(Plain).parameters) == list(inspect.signature(Point).parameters)
    assert Point(1, label="a") == pickle.loads(pickle.dumps(Point(1, label="a")))
    assert Point(1) == copy.deepcopy(Point(1))
    assert Point(4) == dataclasses.replace(Point(1), x=4)
    with pytest.raises(TypeError):
        Point()  # type: ignore[call-arg]


def test_a_replaced_value_is_another_one() -> None:
    """The original keeps its fields; a field that there is not is refused."""
    point = Point(1, label="a")
    assert Point(1, 7, "a") == replace(point, y=7)
    assert Point(1, 2, "a") == point
    with pytest.raises(AttributeError):
        replace(point, z=1)  # type: ignore[call-arg]


def test_a_default_factory_makes_a_new_default_each_time() -> None:
    """No two values share what the factory made."""

    @quick
    @dataclass(frozen=True, slots=True)
    class Box:
        name: str
        parts: list[int] = dataclasses.field(default_factory=list)

    assert [] == Box("a").parts
    assert Box("a").parts is not Box("a").parts
    assert Box("a", [1]) == replace(Box("a"), parts=[1])


def test_what_quick_cannot_do_it_refuses() -> None:
    """A field by keyword only, a field outside of `__init__` and a `__post_init__` are told when the class is made."""

    @dataclass(frozen=True, slots=True)
    class WithSecret:
        x: int = dataclasses.field(default=1, init=False)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class ByKeyword:
        x: int

    @dataclass(frozen=True, slots=True)
    class WithCheck:
        x: int

        def __post_init__(self) -> None:
            assert self.x

    for refused in (WithSecret, ByKeyword, WithCheck):
        with pytest.raises(AssertionError, match="a quick dataclass has"):
            quick(refused)
