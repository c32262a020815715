"""The input that `orchestrator dev` proposes to start with fits the session type, whatever its annotation."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, BeforeValidator

from orchestrator.payloads import PayloadType
from orchestrator.session.values import Json


class Size(StrEnum):
    """How large."""

    SMALL = "small"


class Line(BaseModel):
    """A line of an order."""

    price: float
    size: Size
    kind: Literal["tea"]


class Order(BaseModel):
    """An order, which may follow another one."""

    line: Line
    lines: list[Line]
    names: dict[str, str]
    before: "Order | None"
    count: int = 3


@dataclass
class Pair:
    """A dataclass."""

    left: int
    right: str | int


class Odd:
    """A type that nothing describes."""


LINE: Json = {"price": 1.5, "size": "small", "kind": "tea"}
CASES: list[tuple[object, Json]] = [
    (str, "text"),
    (int, 1),
    (bool, True),
    (list[int], []),
    (dict[str, int], {}),
    (Size, "small"),
    (Order, {"line": LINE, "lines": [], "names": {}, "before": None}),
    (Pair, {"left": 1, "right": "text"}),
    (str | None, None),
    (object, {}),
]


@pytest.mark.parametrize(("annotation", "example"), CASES, ids=str)
def test_an_example_fits_its_type(annotation: object, example: Json) -> None:
    """Everything required is there, and nothing else."""
    payload = PayloadType(annotation)
    assert example == payload.example()
    payload.load(example)


def test_a_type_that_no_schema_describes_has_an_example_too() -> None:
    """It may not fit, but it stops nothing."""
    assert {} == PayloadType(Annotated[Odd, BeforeValidator(lambda _: Odd())]).example()
