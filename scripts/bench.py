"""Run every benchmark and rewrite the tables between the markers in docs/benchmarks.md.

Usage: python scripts/bench.py [NAME ...]. A benchmark is benchmarks/NAME.py; it runs the product beside its peer and
prints one JSON object as its last line. A benchmark that fails or prints none is an error; the page keeps the section
that it had.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PAGE = Path("docs/benchmarks.md")
FOLDER = Path("benchmarks")
SECTION = "<!-- begin {name} -->\n{body}\n<!-- end {name} -->"


def main() -> int:
    """Run what is named, or all; return 1 if one failed."""
    names = sys.argv[1:] or sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))
    failed = []
    for name in names:
        print(f"== {name}", flush=True)
        figures = run(name)
        if figures is None:
            failed.append(name)
        else:
            PAGE.write_text(replace_section(PAGE.read_text(), name, body(name, figures)))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def run(name: str) -> dict[str, Any] | None:
    """The JSON object of the benchmark's last line, or None when it failed."""
    command = [sys.executable, str(FOLDER / f"{name}.py")]
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            last = line.strip() or last
    if process.returncode != 0:
        return None
    try:
        figures = json.loads(last)
    except json.JSONDecodeError:
        return None
    return figures if isinstance(figures, dict) else None


def body(name: str, figures: dict[str, Any]) -> str:
    """The section of one benchmark: command, machine, a table of figures, and one table for each group of rows."""
    groups = rows_of(figures)
    single = {key: value for key, value in figures.items() if not isinstance(value, dict | list)}
    rows = "\n".join(f"| {key} | {_number(value)} |" for key, value in single.items())
    day = datetime.now(UTC).date().isoformat()
    head = f"Command: `python benchmarks/{name}.py`. Run on {day}, {machine()}."
    tables = [f"{title}:\n\n{table(value)}" for title, value in groups.items()]
    return "\n\n".join([head, f"| figure | value |\n|---|---:|\n{rows}", *tables])


def rows_of(figures: dict[str, Any], prefix: str = "") -> dict[str, list[dict[str, Any]]]:
    """Lists of objects, and objects of objects (the name becomes the first column), by their dotted name."""
    found: dict[str, list[dict[str, Any]]] = {}
    for key, value in figures.items():
        if isinstance(value, list):
            found[f"{prefix}{key}"] = value
        elif isinstance(value, dict):
            leaves = {name: row for name, row in value.items() if isinstance(row, dict) and _is_flat(row)}
            if leaves:
                found[f"{prefix}{key}"] = [{"name": name} | row for name, row in leaves.items()]
            deeper = {name: row for name, row in value.items() if name not in leaves}
            found |= rows_of(deeper, f"{prefix}{key}.")
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """A list of objects as a table, with the columns in order of appearance."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(_number(row.get(name, "")) for name in names) + " |" for row in rows]
    return "\n".join(lines)


def _is_flat(row: dict[str, Any]) -> bool:
    return not any(isinstance(value, dict | list) for value in row.values())


def replace_section(page: str, name: str, text: str) -> str:
    """The page with the section of `name` replaced; a section that is not there yet is added at the end."""
    begin, end = (re.escape(f"<!-- {word} {name} -->") for word in ("begin", "end"))
    section = SECTION.format(name=name, body=text)
    pattern = re.compile(f"{begin}.*?{end}", re.DOTALL)
    if pattern.search(page):
        return pattern.sub(lambda _: section, page)
    return f"{page.rstrip()}\n\n## {name.replace('_', ' ').capitalize()}\n\n{section}\n"


def machine() -> str:
    """Processor, cores and Python, in a few words."""
    model = ""
    if Path("/proc/cpuinfo").exists():
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        model = found.group(1).strip() if found else ""
    return f"{model or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "not run" if value is None else str(value)


if __name__ == "__main__":
    sys.exit(main())
