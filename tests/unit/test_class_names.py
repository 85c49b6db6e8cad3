"""One word per thing: a class name stands once in the package."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import fedinfer

ROOT = Path(fedinfer.__file__).parent


def test_no_class_name_stands_twice() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(path.relative_to(ROOT).as_posix())
    assert {name: where for name, where in places.items() if len(where) > 1} == {}
