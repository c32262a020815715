"""Reads a Dockerfile: as much of its language as ours uses, and an error for anything else."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

KNOWN = {
    *("ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "RUN", "STOPSIGNAL", "USER"),
    "WORKDIR",
}
FLAG = re.compile(r"--([a-z-]+)=(\S+)\s+")


@dataclass(frozen=True)
class Instruction:
    """One instruction: its flags (`--from=build`), and the rest as it stands there."""

    word: str
    text: str
    flags: dict[str, str] = field(default_factory=dict)

    @property
    def exec_form(self) -> list[str]:
        """The command without a shell. Raises `ValueError` where it would be run by one."""
        command = json.loads(self.text.removeprefix("CMD "))
        if not isinstance(command, list):
            raise ValueError(f"{self.text} is not the exec form")
        return [str(each) for each in command]

    @property
    def pairs(self) -> dict[str, str]:
        """What ENV or LABEL sets."""
        return {name: quoted or bare for name, quoted, bare in re.findall(r'([\w.]+)=(?:"([^"]*)"|(\S+))', self.text)}


@dataclass(frozen=True)
class Stage:
    """One stage: its name, what it begins with, and its instructions."""

    name: str
    base: str
    instructions: tuple[Instruction, ...]

    def all(self, word: str) -> list[Instruction]:
        """Return the instructions of that kind, in order."""
        return [each for each in self.instructions if each.word == word]

    def last(self, word: str) -> Instruction:
        """Return the one that counts."""
        return self.all(word)[-1]


def read(path: Path) -> list[Stage]:
    """Return the stages of a Dockerfile."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    stages: list[Stage] = []
    for logical in re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines():
        if not logical.strip():
            continue
        word, _, text = logical.strip().partition(" ")
        if word not in KNOWN:
            raise ValueError(f"not known here: {logical}")
        flags = {}
        while (flag := FLAG.match(text)) is not None:
            flags[flag[1]] = flag[2]
            text = text[flag.end() :]
        if word == "FROM":
            base, _, name = text.partition(" AS ")
            stages.append(Stage(name, base, ()))
        elif stages:
            before = stages.pop()
            after = (*before.instructions, Instruction(word, text, flags))
            stages.append(Stage(before.name, before.base, after))
    return stages


def context(root: Path) -> list[Path]:
    """Return the files and folders at which `.dockerignore` lets the build look: those that it names with `!`."""
    lines = [line.strip() for line in (root / ".dockerignore").read_text().splitlines()]
    rules = [line for line in lines if line and not line.startswith("#")]
    assert "*" == rules[0], "all is left out, but for what is named"
    return [root / rule.removeprefix("!") for rule in rules if rule.startswith("!")]
