"""What a session type declares as nobody's business in logs and traces, taken out of values and of texts.

`@app.session("pay", redact=("iban", "card.number"))`: a name is taken out wherever it stands, a path wherever its last
names follow each other; lists count for nothing in between. The journal keeps all of it: see `docs/security.md`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import date, timedelta
from decimal import Decimal
from enum import Enum
from typing import Final
from uuid import UUID

from pydantic import BaseModel, SecretBytes, SecretStr

from orchestrator.errors import RegistrationError
from orchestrator.session.values import Json

REDACTED: Final = "[redacted]"
VALUE_LENGTH_MIN: Final = 4
"""A shorter value stands in many a text by chance: it is taken out under its name alone."""
VALUES_MAX: Final = 100
"""Values of one input that are looked for in texts; each is looked for in every line."""
DEPTH_MAX: Final = 20

_AS_THEY_ARE: Final = (bool, int, float, Decimal, date, timedelta, UUID, type(None))


@dataclass(frozen=True, slots=True)
class Redaction:
    """What is taken out for one session: the declared paths, and the texts that its input holds under them."""

    paths: tuple[tuple[str, ...], ...]
    values: tuple[str, ...] = ()

    def of(self, value: object) -> object:
        """Return the value without what was declared; models and the like become mappings."""
        return _redacted(value, (), self, DEPTH_MAX)

    def of_text(self, text: str) -> str:
        """Return the text without the values that the input holds under declared paths."""
        for value in self.values:
            text = text.replace(value, REDACTED)
        return text


def redacted(value: object, declared: Iterable[str]) -> object:
    """Return the value without what stands under the declared names and paths; models and the like become mappings."""
    return Redaction(_paths(declared)).of(value)


def redaction_of(declared: Sequence[str], payload: Json) -> Redaction | None:
    """Return what is to be taken out for a session with that input; `None` where nothing is declared."""
    if not declared:
        return None
    paths = _paths(declared)
    found = sorted({text for text in _texts_under(payload, paths) if len(text) >= VALUE_LENGTH_MIN}, key=len)
    # The longest first: one may be part of another.
    return Redaction(paths, tuple(reversed(found))[:VALUES_MAX])


def declared_paths(label: str, declared: object) -> tuple[str, ...]:
    """Return the names and paths as declared. Raises `RegistrationError` for what can be none."""
    names = () if isinstance(declared, str) or not isinstance(declared, Iterable) else tuple(declared)
    are_paths = all(isinstance(name, str) and all(part.strip() for part in name.split(".")) for name in names)
    if not are_paths or (not names and declared != ()):
        raise RegistrationError(
            f'{label}: redact: names or paths of fields are needed, such as ("iban", "card.number")'
        )
    return names


def _paths(declared: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(path.split(".")) for path in declared)


def _is_declared(names: tuple[str, ...], paths: tuple[tuple[str, ...], ...]) -> bool:
    return any(names[-len(path) :] == path for path in paths)


def _redacted(value: object, names: tuple[str, ...], redaction: Redaction, levels: int) -> object:
    if isinstance(value, str) and not isinstance(value, Enum):
        return redaction.of_text(value)
    if isinstance(value, int | float) and redaction.values and str(value) in redaction.values:
        return REDACTED
    if isinstance(value, _AS_THEY_ARE):
        return value
    if isinstance(value, SecretStr | SecretBytes):
        return str(value)
    if isinstance(value, Enum):
        return _redacted(value.value, names, redaction, levels)
    members = _members(value) if levels else None
    if members is not None:
        return {
            name: REDACTED
            if any(_is_declared((*names, each), redaction.paths) for each in called)
            else _redacted(part, (*names, name), redaction, levels - 1)
            for name, called, part in members
        }
    if levels and isinstance(value, list | tuple | set | frozenset):
        return [_redacted(part, names, redaction, levels - 1) for part in value]
    # Whatever its text would be, nobody knows what it shows.
    return f"<{type(value).__name__}>"


def _members(value: object) -> list[tuple[str, tuple[str, ...], object]] | None:
    """Return the parts of a mapping or a model: name, all that it is called, value; `None` for anything else."""
    if isinstance(value, Mapping):
        return [(str(name), (str(name),), part) for name, part in value.items()]
    if isinstance(value, BaseModel):
        known = type(value).model_fields
        aliases = {name: info.serialization_alias or info.alias or name for name, info in known.items()}
        return [(name, (name, aliases.get(name, name)), part) for name, part in value]
    if is_dataclass(value) and not isinstance(value, type):
        return [(field.name, (field.name,), getattr(value, field.name)) for field in fields(value)]
    return None


def _texts_under(
    value: Json, paths: tuple[tuple[str, ...], ...], names: tuple[str, ...] = (), *, is_declared: bool = False
) -> Iterator[str]:
    """Yield the texts and numbers, as text, that stand under declared paths."""
    match value:
        case dict():
            for name, part in value.items():
                here = (*names, name)
                yield from _texts_under(part, paths, here, is_declared=is_declared or _is_declared(here, paths))
        case list():
            for part in value:
                yield from _texts_under(part, paths, names, is_declared=is_declared)
        case str() if is_declared:
            yield value
        case int() | float() if is_declared and not isinstance(value, bool):
            yield str(value)
        case _:
            return
