"""Print constraints.txt: the releases of everything that pyproject.toml asks for, as installed in this environment."""

from __future__ import annotations

import importlib.metadata as metadata
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HEADER = """\
# The tested set of releases (Python 3.11, Linux x86-64): pip install -c constraints.txt '.[all]'
# Regenerate in an environment that passes the tests: python scripts/freeze.py > constraints.txt
"""


def main() -> None:
    """Walk the requirements of all extras and print one pin per package, without local version labels."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    extras = {name: lines for name, lines in project["optional-dependencies"].items() if name != "all"}
    wanted = [Requirement(line) for lines in (project["dependencies"], *extras.values()) for line in lines]
    pins, seen = {}, set()
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        key = (name, frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        distribution = metadata.distribution(name)
        pins[name] = distribution.version.split("+")[0]
        wanted += _needs(distribution, requirement.extras)
    print(HEADER + "\n".join(f"{name}=={version}" for name, version in sorted(pins.items())))


def _needs(distribution: metadata.Distribution, extras: set[str]) -> list[Requirement]:
    needs = [Requirement(line) for line in distribution.requires or []]
    return [
        need
        for need in needs
        if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *extras))
    ]


if __name__ == "__main__":
    main()
