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
    """The section of one benchmark: command, machine, a table of figures, and one table for each list of rows."""
    lists = {key: value for key, value in figures.items() if _is_rows(value)}
    single = flat({key: value for key, value in figures.items() if key not in lists})
    rows = "\n".join(f"| `{key}` | {_number(value)} |" for key, value in single.items())
    day = datetime.now(UTC).date().isoformat()
    head = f"Command: `python benchmarks/{name}.py`. Run on {day}, {machine()}."
    tables = [f"| figure | value |\n|---|---:|\n{rows}", *(table(value) for value in lists.values())]
    return "\n\n".join([head, *tables])


def flat(figures: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested objects as one level of dotted names."""
    found: dict[str, Any] = {}
    for key, value in figures.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """A list of objects with the same keys as a table."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(_number(row.get(name)) for name in names) + " |" for row in rows]
    return "\n".join(lines)


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


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
