"""Values ↔ JSON, at the doors where user code begins: inputs, results and prompts are checked against annotations here.

What goes through `dump` is exactly what a journal gives back later, so a handler sees the same value live and later.
"""

from __future__ import annotations

import inspect
import json
import math
import typing
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import lru_cache, partial
from typing import Final, cast

import pydantic_core
from pydantic import BaseModel, PydanticUserError, TypeAdapter, ValidationError

from orchestrator.errors import NotSerializable, OrchestratorError
from orchestrator.session.values import Json, JsonObject, json_bytes

DEPTH_MAX: Final = 200
"""Levels of nesting: deeper JSON parses here and there, depending on how deep the parser's caller already is."""

INT_MAX: Final = 2**63 - 1
"""Python has limits of its own for the text of a larger whole number."""

BYTES_MAX: Final = 204_800
"""What a journal holds of one payload unless the settings say otherwise (`ORCHESTRATOR_INLINE_LIMIT_BYTES`)."""


EXAMPLE_DEPTH_MAX: Final = 10
_EXAMPLES: Final[dict[str, Json]] = {"string": "text", "integer": 1, "number": 1.5, "boolean": True, "array": []}


class InvalidPayload(OrchestratorError):
    """A value does not fit the annotation; `field` is the path of the first misfit (`order.lines.0.price`)."""

    code = "INVALID_PAYLOAD"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class PayloadTooLarge(OrchestratorError):
    """A value takes more bytes of JSON than the journal holds inline (I12)."""

    code = "PAYLOAD_TOO_LARGE"


class PayloadType:
    """What an annotation says about a payload. Without an annotation, or with a plain one, any JSON value fits."""

    __slots__ = ("_adapter",)

    def __init__(self, annotation: object) -> None:
        self._adapter = _adapter_for(annotation)

    def load(self, value: Json, name: str = "input") -> object:
        """Return the value as the annotation wants it.

        Raises:
            InvalidPayload: it does not fit; names the field, from `name` on.
        """
        if self._adapter is None:
            return value
        try:
            return self._adapter.validate_python(value)
        except ValidationError as invalid:
            first = invalid.errors(include_url=False, include_input=False, include_context=False)[0]
            raise InvalidPayload(".".join([name, *(str(part) for part in first["loc"])]), first["msg"]) from None

    def schema(self, ref_template: str) -> JsonObject:
        """Return the JSON schema of what fits, `{}` for any JSON; `{model}` in the template is a model's name."""
        try:
            return {} if self._adapter is None else self._adapter.json_schema(ref_template=ref_template)
        except PydanticUserError:
            # A type of the user's with validators alone: no schema says what they take.
            return {}

    def example(self) -> Json:
        """Return a value of about the right shape, to start from: what is required, each of its type."""
        schema = self.schema("{model}")
        return _example(schema, schema.get("$defs"), EXAMPLE_DEPTH_MAX) if schema else {}

    def dump(self, value: object, name: str = "result", *, bytes_max: int = BYTES_MAX) -> Json:
        """Return the value as JSON, checked against the annotation.

        Raises:
            NotSerializable: it is not JSON and cannot be made JSON.
            InvalidPayload: it does not fit the annotation.
            PayloadTooLarge: its JSON takes more than `bytes_max` bytes.
        """
        dumped = to_json(value, name, bytes_max=bytes_max)
        if self._adapter is not None:
            self.load(dumped, name)
        return dumped


def _example(schema: Json, models: Json, levels: int) -> Json:
    match schema:
        case {"const": given} | {"enum": [given, *_]}:
            return given
        case {"$ref": str(name)} if isinstance(models, dict) and levels:
            return _example(models[name], models, levels - 1)
        case {"anyOf": [*options]}:
            return None if {"type": "null"} in options else _example(options[0], models, levels)
        case {"type": "object", "properties": dict(fields), "required": [*required]}:
            return {str(name): _example(fields[str(name)], models, levels) for name in required}
        case {"type": "object"}:
            return {}
        case {"type": str(name)}:
            return _EXAMPLES.get(name)
    return None


def to_json(value: object, name: str, *, bytes_max: int = BYTES_MAX) -> Json:
    """Return a JSON copy of the value: plain JSON, or what pydantic makes of models, dataclasses, dates and the like.

    Raises:
        NotSerializable: there is no JSON for it (NaN, a lone surrogate, a cycle, an object of no known kind).
        PayloadTooLarge: its JSON takes more than `bytes_max` bytes.
    """
    try:
        plain = _plain_copy(value, DEPTH_MAX)
        # This encoder is fast, but writes some floats at another length than the journal's, up to twice or half.
        if 2 * len(json_bytes(plain)) <= bytes_max:
            return plain
    except (_NotPlain, ValueError, RecursionError):
        # The way below takes what can be made JSON, and says what is wrong with the rest.
        pass
    try:
        text = _ENCODER.encode(value)
        size = len(text.encode())
        if size > bytes_max:
            raise PayloadTooLarge(f"{name}: {size} bytes of JSON; at most {bytes_max} fit into the journal")
        return parse_json(text)
    except (TypeError, ValueError, RecursionError, pydantic_core.PydanticSerializationError) as error:
        raise NotSerializable(f"{name}: {type(value).__name__} is not JSON: {str(error)[:300]}") from None


def size_of(value: Json) -> int:
    """Return about how many bytes the value's JSON takes: some floats are written longer or shorter elsewhere."""
    return len(json_bytes(value))


def parse_json(text: str) -> Json:
    """Return the JSON value of a text from outside.

    Raises:
        ValueError: not JSON, or JSON that no journal can hold (NaN, lone surrogates, more than 200 levels).
    """
    # Arguments of a command may hold lone surrogates that came in raw.
    text.encode()
    if text.count("[") + text.count("{") > DEPTH_MAX and _depth(text) > DEPTH_MAX:
        raise ValueError(f"more than {DEPTH_MAX} levels of nesting")
    value: Json = _DECODER.decode(text)
    # One character is found much faster than two.
    if "\\" in text and ("\\ud" in text or "\\uD" in text):
        # An escaped lone surrogate parses, and then no UTF-8 can hold it (RFC 8259, section 8.2).
        json.dumps(value, ensure_ascii=False).encode()
    return value


def stored_json(text: str) -> Json:
    """Return the JSON value of a text that a table or a file of ours holds.

    Raises:
        ValueError: not JSON, or JSON that could not be written again (NaN, lone surrogates, nested too deep).
    """
    try:
        value: Json = _DECODER.decode(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
    # What holds a payload is a few levels deeper than one, so these are not counted: the encoder has its own limit.
    if "\\ud" in text or "\\uD" in text or text.count("[") + text.count("{") > DEPTH_MAX:
        json_bytes(value)
    return value


def annotations_of(fn: Callable[..., object]) -> tuple[list[inspect.Parameter], object]:
    """Return a callable's parameters and return annotation, with text annotations resolved where they can be."""
    try:
        hints = typing.get_type_hints(fn)
    except (NameError, TypeError, AttributeError):
        hints = {}
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):
        return [], inspect.Parameter.empty
    parameters = [p.replace(annotation=hints.get(p.name, p.annotation)) for p in signature.parameters.values()]
    return parameters, hints.get("return", signature.return_annotation)


def result_type_of(fn: Callable[..., object]) -> PayloadType:
    """Return the payload type of what a step's function returns: its models and dataclasses come back as such."""
    try:
        return _cached_result_type(fn)
    except TypeError:
        # A callable that cannot be hashed cannot be remembered either.
        return _result_type(fn)


def _result_type(fn: Callable[..., object]) -> PayloadType:
    while isinstance(fn, partial):
        fn = fn.func
    if not inspect.isroutine(fn) and not isinstance(fn, type):
        # The annotations of a callable object are those of its call.
        fn = getattr(fn, "__call__", fn)  # noqa: B004
    annotation = annotations_of(fn)[1]
    return PayloadType(annotation if _names_a_model(annotation) else object)


_cached_result_type = lru_cache(maxsize=1024)(_result_type)


def copied(value: Json) -> Json:
    """Return a copy that shares nothing that can change: user code may change what it is given."""
    if isinstance(value, dict):
        return {key: copied(part) for key, part in value.items()}
    if isinstance(value, list):
        return [copied(part) for part in value]
    return value


def copied_object(value: JsonObject | None) -> JsonObject:
    """Return a copy of the object; `{}` for none."""
    return {key: copied(part) for key, part in (value or {}).items()}


class _NotPlain(Exception):
    """A value is not of the very types that JSON parses to, or needs a closer look."""


def _plain_copy(value: object, levels: int) -> Json:
    """Return a copy of what is plain JSON already, as most results are: to encode and parse takes five times as long.

    Raises:
        _NotPlain: it is of other types (subclasses included), over `levels` deep, or has a number at the brink.
    """
    kind = type(value)
    if kind in _ATOMS:
        return cast("Json", value)
    if isinstance(value, int) and kind is int and -INT_MAX <= value <= INT_MAX:
        return value
    if isinstance(value, float) and kind is float and math.isfinite(value):
        return value
    if levels:
        if isinstance(value, dict) and kind is dict:
            return {_plain_key(key): _plain_copy(part, levels - 1) for key, part in value.items()}
        if isinstance(value, list) and kind is list:
            return [_plain_copy(part, levels - 1) for part in value]
    raise _NotPlain


def _plain_key(key: object) -> str:
    if type(key) is str:
        return key
    raise _NotPlain


def _names_a_model(annotation: object) -> bool:
    if isinstance(annotation, type) and (issubclass(annotation, BaseModel) or is_dataclass(annotation)):
        return True
    return any(_names_a_model(part) for part in typing.get_args(annotation))


_ATOMS: Final = frozenset({str, bool, type(None)})
_PLAIN: Final = (inspect.Parameter.empty, typing.Any, object, Json, "Json")


def _adapter_for(annotation: object) -> TypeAdapter[object] | None:
    if any(annotation is plain or annotation == plain for plain in _PLAIN) or isinstance(annotation, str):
        return None
    try:
        return TypeAdapter[object](annotation)  # type: ignore[arg-type]
    except (PydanticUserError, NameError):
        # An annotation that pydantic cannot check, such as a protocol or a class of the user's: any JSON fits.
        return None


def _to_jsonable(value: object) -> object:
    return pydantic_core.to_jsonable_python(value, inf_nan_mode="constants", by_alias=True)


def _refuse_constant(name: str) -> Json:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:50]} is too large a number")
    return number


def _depth(text: str) -> int:
    """Return the deepest nesting of brackets outside strings."""
    depth = deepest = 0
    in_string = escaped = False
    for char in text:
        if in_string:
            in_string = escaped or char != '"'
            escaped = char == "\\" and not escaped
        elif char == '"':
            in_string = True
        elif char in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif char in "]}":
            depth -= 1
    return deepest


# Made once: `json.dumps` and `json.loads` make one for each call that asks for anything but their defaults.
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_to_jsonable)
_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)
