"""What the parsers of all formats share: objects out of texts, models out of objects, errors that say where."""

from __future__ import annotations

from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError

from orchestrator.errors import Poison
from orchestrator.payloads import parse_json
from orchestrator.session.values import Json

KEY_LENGTH_MAX: Final = 1_024
NEVER_SUCCEEDS: Final = "INVALID_MESSAGE"

ModelT = TypeVar("ModelT", bound=BaseModel)


def checked(model: type[ModelT], body: Json, path: str = "") -> ModelT:
    """Return the body as that model. Raises `Poison` naming the first field that is wrong, from `path` on."""
    try:
        return model.model_validate(body)
    except ValidationError as invalid:
        first = invalid.errors(include_url=False, include_input=False)[0]
        field = ".".join([*filter(None, [path]), *(str(part) for part in first["loc"])]) or "body"
        raise Poison(NEVER_SUCCEEDS, f"{field}: {first['msg']}") from None


def json_object(text: str) -> dict[str, Json]:
    """Return the JSON object of a text. Raises `Poison` for any other text."""
    try:
        value = parse_json(text)
    except (ValueError, RecursionError) as error:
        raise Poison("INVALID_JSON", f"the body is not JSON: {str(error)[:300]}") from None
    if not isinstance(value, dict):
        raise Poison(NEVER_SUCCEEDS, f"the body is a JSON {type(value).__name__}, not an object")
    return value
