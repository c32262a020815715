"""The records that the processes of a run leave behind, as lines of JSON that several of them append to one file."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Line = Mapping[str, Any]


class Tail:
    """Reads a growing file of JSON lines; each look returns what is new and whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_to = 0

    def look(self) -> Iterator[Line]:
        """Yield the lines that came since the last look."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._read_to)
            chunk = file.read()
        whole = chunk[: chunk.rfind(b"\n") + 1]
        self._read_to += len(whole)
        for line in whole.splitlines():
            yield json.loads(line)
