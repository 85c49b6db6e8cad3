"""Run what is measured and rewrite its tables between the markers in the documentation.

Usage: python scripts/bench.py [NAME or PAGE ...]. A benchmark is benchmarks/NAME.py; it runs the product beside its
peer and prints one JSON object as its last line. A study of TABLES prints its tables, and then one JSON object. What
fails or prints none is an error, and what cannot run on this machine says {"skipped": WHY}: the page keeps the section
that it had. Pages: benchmarks, comparisons, reproductions, fleets, watch; without arguments all of them, which takes
hours.
"""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

PAGE = Path("docs/benchmarks.md")
FOLDER = Path("benchmarks")
SECTION = "<!-- begin {name} -->\n{body}\n<!-- end {name} -->"


class Study(NamedTuple):
    """Tables that a program of simulations/ prints.

    Args:
        page: where they stand.
        command: program and arguments.
    """

    page: Path
    command: str


COMPARISONS, REPRODUCTIONS = Path("docs/comparisons.md"), Path("docs/reproductions.md")
FLEETS, WATCH = Path("docs/how-to/fleet.md"), Path("docs/how-to/drift.md")
TABLES = {
    "epsilons": Study(REPRODUCTIONS, "reproduce_epsilons.py"),
    "heart": Study(REPRODUCTIONS, "reproduce_heart.py 5"),
    "means": Study(REPRODUCTIONS, "reproduce_means.py 20"),
    "flute": Study(REPRODUCTIONS, "reproduce_flute.py 1"),
    "asynchronous": Study(REPRODUCTIONS, "reproduce_asynchronous.py 1"),
    "fashion": Study(REPRODUCTIONS, "reproduce_fashion.py 1 40"),
    "six_combinations": Study(COMPARISONS, "six_combinations.py 5 0 ideal"),
    "adaptive_clipping": Study(COMPARISONS, "adaptive_clipping.py 3 20"),
    "correlated_noise": Study(COMPARISONS, "correlated_noise.py 3"),
    "sync_against_async": Study(FLEETS, "sync_against_async.py 1"),
    "million_devices": Study(FLEETS, "million_devices.py"),
    "drift_recovery": Study(WATCH, "drift_recovery.py"),
}
GROUPS = {
    "benchmarks": PAGE,
    "comparisons": COMPARISONS,
    "reproductions": REPRODUCTIONS,
    "fleets": FLEETS,
    "watch": WATCH,
}


def main() -> int:
    """Run what is named, or all; return 1 if one failed."""
    failed = []
    for name in chosen(sys.argv[1:]):
        print(f"== {name}", flush=True)
        made = _study(name) if name in TABLES else _benchmark(name)
        if made is None:
            failed.append(name)
        elif made:
            page = TABLES[name].page if name in TABLES else PAGE
            page.write_text(replace_section(page.read_text(), name, made))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def chosen(wanted: list[str]) -> list[str]:
    """Names of benchmarks and studies; a page stands for all that it shows."""
    benchmarks = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))
    names: list[str] = []
    for word in wanted or list(GROUPS):
        if word == "benchmarks":
            names += benchmarks
        elif word in GROUPS:
            names += [name for name, study in TABLES.items() if study.page == GROUPS[word]]
        elif word in TABLES or word in benchmarks:
            names.append(word)
        else:
            known = ", ".join([*GROUPS, *TABLES, *benchmarks])
            raise SystemExit(f"{word}: nothing of that name is measured; there are {known}")
    return names


def _benchmark(name: str) -> str | None:
    """The section of a benchmark; empty where it cannot run here, None where it failed."""
    figures = run(name)
    if figures is None:
        return None
    return "" if skipped(figures) else body(name, figures)


def _study(name: str) -> str | None:
    """The section of a study, as `_benchmark`."""
    program, *arguments = TABLES[name].command.split()
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    lines = last_lines([sys.executable, f"simulations/{program}", *arguments])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    figures = _figures(lines)
    if figures is None or skipped(figures):
        return None if figures is None else ""
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    took = f"{time.perf_counter() - begin:,.0f} s, of which {cpu:,.0f} s of CPU"
    day = datetime.now(UTC).date().isoformat()
    head = f"Command: `python simulations/{TABLES[name].command}`. Run on {day}, {machine()}: {took}."
    return f"{head}\n\n{printed_tables(lines)}"


def printed_tables(lines: list[str]) -> str:
    """The tables among the lines that a program printed, an empty line between two of them."""
    text = "\n".join(line if line.startswith("|") else "" for line in lines)
    return re.sub(r"\n{2,}", "\n\n", text).strip()


def skipped(figures: dict[str, Any]) -> bool:
    """Whether a program says that it cannot run on this machine; why is told."""
    why = figures.get("skipped")
    if why:
        print(f"kept as it was: {why}", flush=True)
    return bool(why)


def run(name: str) -> dict[str, Any] | None:
    """The JSON object of the benchmark's last line, or None when it failed."""
    return _figures(last_lines([sys.executable, str(FOLDER / f"{name}.py")]))


def last_lines(command: list[str]) -> list[str]:
    """What a program printed, shown as it comes; nothing when it failed."""
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line.rstrip("\n"))
    return lines if process.returncode == 0 else []


def _figures(lines: list[str]) -> dict[str, Any] | None:
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
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
    figures_table = [f"| figure | value |\n|---|---:|\n{rows}"] if rows else []
    return "\n\n".join([head, *figures_table, *tables])


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
