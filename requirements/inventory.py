"""What is installed besides us, and under which licence: the table of `docs/licences.md`, and the container's SBOM.

`python -m requirements.inventory` writes the table from what the runtime lock names. In the build of the container,
`python requirements/inventory.py FOLDER` prints what that folder holds, as CycloneDX; there it has nothing but Python.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path
from typing import Final

OURSELVES: Final = "session-orchestrator"
ALLOWED: Final = frozenset(
    {"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MIT-0", "MPL-2.0", "PSF-2.0"},
)
"""Those that ask nothing of whoever runs the container, or builds on it, but to keep notices and to name changes to the
file itself (MPL-2.0)."""
READ_FROM_THEIR_FILES: Final = {
    "cronsim": "BSD-3-Clause",
    "python-dateutil": "Apache-2.0 OR BSD-3-Clause",
    "uvloop": "Apache-2.0 OR MIT",
}
"""Packages whose metadata leave it open."""
_SPDX: Final = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: MIT License": "MIT",
    "MIT License": "MIT",
}
_OPERATORS: Final = {"AND", "OR", "WITH"}
_PAGE: Final = Path(__file__).parents[1] / "docs" / "licences.md"
_ABOVE: Final = """\
# Licences

What the container holds besides Python and Debian's packages, each under its own licence: the runtime lock
(`requirements/runtime.txt`), as the packages themselves declare it. Written by `make docs`; `make test` fails where
it is not current, or where a licence appears that `requirements/inventory.py` does not allow. The container carries the
same list, with its own versions, as CycloneDX ([container.md](container.md)).

| package | version | licence (SPDX) |
| --- | --- | --- |
"""


@dataclass(frozen=True, order=True)
class Package:
    """One installed package; `licence` is an SPDX expression, or what the package calls it."""

    name: str
    version: str
    licence: str

    @property
    def is_allowed(self) -> bool:
        """Whether nothing in its expression is a licence that is not allowed."""
        named = set(re.findall(r"[\w.+-]+", self.licence)) - _OPERATORS
        return bool(named) and named <= ALLOWED


def package_of(found: Distribution) -> Package:
    """Return what an installed package says of itself."""
    told = found.metadata
    name = re.sub(r"[-_.]+", "-", told["Name"]).lower()
    words = [told[field] for field in ("License-Expression", "License") if field in told]
    declared = next((each for each in words if each), "")
    classifiers = [each for each in told.get_all("Classifier") or () if each.startswith("License ::")]
    # Some put the licence's whole text where its name belongs.
    if len(classifiers) == 1 and (not declared or "\n" in declared):
        declared = classifiers[0]
    return Package(name, found.version, READ_FROM_THEIR_FILES.get(name) or _SPDX.get(declared, declared))


def installed(names: Iterable[str]) -> list[Package]:
    """Return those packages of this environment. Raises `PackageNotFoundError`."""
    return sorted(package_of(distribution(name)) for name in names)


def page(packages: Iterable[Package]) -> str:
    """Return the page that lists them."""
    return _ABOVE + "".join(f"| {each.name} | {each.version} | {each.licence} |\n" for each in packages)


def sbom(folder: str) -> str:
    """Return what a folder of packages holds, as CycloneDX (1.6, JSON)."""
    packages = sorted(package_of(each) for each in distributions(path=[folder]))
    ours = [each for each in packages if each.name == OURSELVES]
    told = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": _component(ours[0], "application")} if ours else {},
        "components": [_component(each, "library") for each in packages if each not in ours],
    }
    return json.dumps(told, indent=1)


def _component(package: Package, kind: str) -> dict[str, object]:
    purl = f"pkg:pypi/{package.name}@{package.version}"
    # What is no expression stands there as the package's own words.
    licence: object = {"expression": package.licence} if package.is_allowed else {"license": {"name": package.licence}}
    return {
        "type": kind,
        "bom-ref": purl,
        "name": package.name,
        "version": package.version,
        "purl": purl,
        **({"licenses": [licence]} if package.licence else {}),
    }


if __name__ == "__main__":
    if sys.argv[1:]:
        print(sbom(sys.argv[1]))
    else:
        from requirements.locks import pins

        _PAGE.write_text(page(installed(pins("runtime"))))
