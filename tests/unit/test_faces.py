"""Packages whose names other packages take from one place: what `__all__` of their `__init__` lists."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path("fedinfer")
PACKAGES = tuple(sorted(path.parent.name for path in ROOT.glob("*/__init__.py") if path.parent.name != "cli"))
TREES = (ROOT, Path("clients"), Path("server"))


@cache
def all_imports() -> tuple[tuple[str, str, str], ...]:
    """File, module and name of every import out of `fedinfer` in the product."""
    return tuple(
        (str(path), str(node.module), alias.name)
        for path in sorted(path for tree in TREES for path in tree.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and f"{node.module}".startswith("fedinfer.")
        for alias in node.names
    )


def imports(package: str) -> Iterator[tuple[str, str, str]]:
    """File, module and name of every import of `package` from outside of it."""
    for file, module, name in all_imports():
        if Path(file).parts[:2] != ("fedinfer", package) and f"{module}.".startswith(f"fedinfer.{package}."):
            yield file, module, name


@pytest.mark.parametrize("package", PACKAGES)
def test_other_packages_come_through_the_face(package: str) -> None:
    face = importlib.import_module(f"fedinfer.{package}")
    modules = {path.stem for path in (ROOT / package).glob("*.py")}
    past = [(path, module, name) for path, module, name in imports(package) if module != f"fedinfer.{package}"]
    assert not past, "imports past the face"
    unlisted = [(path, name) for path, _, name in imports(package) if name not in {*face.__all__, *modules}]
    assert not unlisted


def test_every_package_but_the_commands_has_a_face() -> None:
    assert {"artifact", "coordinator", "device", "inference", "privacy", "training"} < set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_face_lists_what_it_has(package: str) -> None:
    face = importlib.import_module(f"fedinfer.{package}")
    assert len(set(face.__all__)) == len(face.__all__)
    assert all(hasattr(face, name) for name in face.__all__)
