"""Say which public functions of the package have an incomplete docstring; the exit code is 0 only when none has.

python scripts/docstrings.py [PATH ...]     default: fedinfer

A public function or method needs a docstring that names every parameter in an `Args:` section (with shape, dtype, unit
and range where they matter) and every error that its own body raises in a `Raises:` section. Commands of the command
line explain their parameters in their options. A method that a protocol of fedinfer/ports.py or a base class defines
may say `as X.y` in its first line instead.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef


def main() -> int:
    """Print what is missing, a line per function."""
    lines = [line for path in _files(sys.argv[1:] or ["fedinfer"]) for line in _missing(path)]
    print("\n".join(lines) if lines else "every public docstring is complete")
    return int(bool(lines))


def _files(names: list[str]) -> Iterator[Path]:
    for name in names:
        yield from sorted(Path(name).rglob("*.py")) if Path(name).is_dir() else [Path(name)]


def _missing(path: Path) -> Iterator[str]:
    for owner, function in _public(ast.parse(path.read_text(encoding="utf-8"))):
        doc = ast.get_docstring(function) or ""
        absent = _undocumented(function, doc) if not _is_command(function) else []
        # A command ends in an exit code, and its docstring is its help: nobody calls it from Python.
        raised = _raised(function) if not _is_command(function) else []
        errors = [error for error in raised if not re.search(rf"Raises:[\s\S]*\b{error}\b", doc)]
        wanted = [f"Args: {', '.join(absent)}"] * bool(absent) + [f"Raises: {', '.join(errors)}"] * bool(errors)
        if wanted and not re.search(r"\b[Aa]s (in )?`[\w.]+`", doc.split("\n")[0]):
            yield f"{path}:{function.lineno} {owner}{function.name}: {'; '.join(wanted)}"


def _public(tree: ast.Module) -> Iterator[tuple[str, Function]]:
    for node in tree.body:
        if isinstance(node, Function) and not node.name.startswith("_"):
            yield "", node
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for inner in node.body:
                if isinstance(inner, Function) and not inner.name.startswith("_"):
                    yield f"{node.name}.", inner


def _undocumented(function: Function, doc: str) -> list[str]:
    arguments = function.args
    names = [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    extra = [each.arg for each in (arguments.vararg, arguments.kwarg) if each is not None]
    wanted = [name for name in (*names, *extra) if name not in ("self", "cls") and not name.startswith("_")]
    section = doc.partition("Args:")[2].partition("Returns:")[0].partition("Raises:")[0]
    listed = {name.strip("* ") for line in re.findall(r"^\s*([\w*, ]+):", section, re.M) for name in line.split(",")}
    return [name for name in wanted if name not in listed]


def _is_command(function: Function) -> bool:
    texts = [ast.unparse(each) for each in function.decorator_list]
    arguments = ast.unparse(function.args)
    typed = "typer." in arguments or "JsonOption" in arguments  # options with an alias say it with the alias
    return any("command" in text or "callback" in text for text in texts) or typed


def _raised(function: Function) -> list[str]:
    found = []
    for node in ast.walk(function):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
            name = node.exc.func.id
            if name[0].isupper() and name not in found and name not in ("RuntimeError", "AssertionError"):
                found.append(name)
    return found


if __name__ == "__main__":
    sys.exit(main())
