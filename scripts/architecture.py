"""Write the table of packages into docs/architecture.md from the code: what each is for, and what it imports.

python scripts/architecture.py          rewrite the table
python scripts/architecture.py --check  say whether it is up to date (exit code 1: it is not)
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import grimp

PAGE, START, END = Path("docs/architecture.md"), "<!-- packages: start -->", "<!-- packages: end -->"
ROOT = "fedinfer"


def main() -> int:
    """Rewrite or check."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    wanted = f"{before}{START}\n{table()}\n{END}{after}"
    if wanted == text:
        return 0
    if "--check" in sys.argv[1:]:
        print(f"{PAGE} does not show the code as it is: run python scripts/architecture.py")
        return 1
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


def table() -> str:
    """Packages and their chapters: first line of the docstring, and the packages that they import."""
    graph = grimp.build_graph(ROOT)
    lines = ["| package | what it is for | imports |", "|---|---|---|"]
    for name in sorted(graph.find_children(ROOT)):
        lines.append(_row(graph, name, ""))
        chapters = [child for child in sorted(graph.find_children(name)) if graph.find_children(child)]
        lines += [_row(graph, child, f"{name.removeprefix(ROOT + '.')}.") for child in chapters]
    return "\n".join(lines)


def _row(graph: grimp.ImportGraph, name: str, prefix: str) -> str:
    modules = {name} | graph.find_descendants(name)
    imported = {found for module in modules for found in graph.find_modules_directly_imported_by(module)}
    others = sorted({_package(found) for found in imported - modules} - {_package(name) if not prefix else ""})
    within = sorted({_chapter(found) for found in imported - modules if prefix and _package(found) == _package(name)})
    shown = ", ".join(
        [*(f".{each}" for each in within if each), *(each for each in others if each and each != _package(name))]
    )
    return f"| `{prefix}{name.rpartition('.')[2]}` | {_purpose(name)} | {shown} |"


def _package(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def _chapter(module: str) -> str:
    return module.split(".")[2] if module.count(".") >= 2 else ""


def _purpose(name: str) -> str:
    path = Path(*name.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    doc = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return doc.split("\n\n")[0].replace("\n", " ").rstrip(".").replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
