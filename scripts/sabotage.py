"""Take every guard away, one at a time, and see the tests that are named for it fail.

    .venv/bin/python -m scripts.sabotage [--only TEXT] [--changed] [--jobs N] | --write

The entries are in tests/sabotage/*.toml (`scripts/sabotage_entries.py` says what they hold). Each is applied to a copy
of the tree and meets the tests that it names. It is found when every one of them fails as a test fails: by an
assertion or an error that the product raises, not because the code cannot be imported or calls what is not there.
Before that the same tests have to pass on the unchanged copy.

The exit code is 1 when an entry lives or the unchanged copy fails. Results are kept in build/sabotage/results.json, by
the content of the files that an entry changes and of its tests, for --changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from scripts.sabotage_entries import Sabotage, load
from scripts.warm_fork import ROOT, Seen, copy_tree, replaced, run_forked, warm_up

RESULTS = ROOT / "build/sabotage/results.json"
TABLE_PAGE = ROOT / "docs/testing.md"
BEGIN, END = "<!-- begin sabotage -->", "<!-- end sabotage -->"
NO_TEST = {
    "AttributeError", "FailedHealthCheck", "ImportError", "IndentationError", "ModuleNotFoundError", "NameError",
    "SyntaxError", "TypeError", "UnboundLocalError",
}  # fmt: skip
"""Errors of code that was broken rather than sabotaged."""
WIDTH = 80
LATE, PATIENCE = "runs into its time limit", 8.0


@dataclass(frozen=True, slots=True)
class Base:
    """The named tests without a change: seconds of each, and those that this machine skips."""

    seconds: dict[str, float]
    skipped: frozenset[str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Choose, run, print."""
    asked = _arguments(arguments)
    entries, _ = load(ROOT)
    if asked.write:
        write_table(entries)
        return 0
    found = set(json.loads(RESULTS.read_text(encoding="utf-8"))) if RESULTS.exists() else set()
    chosen = [entry for entry in entries if asked.only.lower() in entry.title.lower()]
    chosen = [entry for entry in chosen if not (asked.changed and digest(entry, ROOT) in found)]
    if not chosen:
        return 0
    with tempfile.TemporaryDirectory(prefix="sabotage-") as folder:
        tree = copy_tree(Path(folder) / "base" / "tree")
        warm_up(tree)
        return _run_all(chosen, tree, found, asked.jobs)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="entries with this text in file, claim or name")
    parser.add_argument("--changed", action="store_true", help="leave out what was found with the same files")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="entries at a time")
    parser.add_argument("--write", action="store_true", help="write the table in docs/testing.md and end")
    return parser.parse_args(arguments)


def _run_all(chosen: list[Sabotage], tree: Path, found: set[str], jobs: int) -> int:
    base = baseline(chosen, tree)
    outcomes: Counter[str] = Counter()
    for entry, (seconds, wrong) in zip(chosen, _tried(chosen, tree, base, jobs), strict=True):
        outcome = "lives" if any(wrong.values()) else "skipped" if base.skipped & set(entry.tests) else "found"
        outcomes[outcome] += 1
        print(f"{outcome:7} {seconds:5.1f} s {entry.title}"[:WIDTH], flush=True)
        for test, reason in wrong.items():
            if reason:
                print(f"    {test}: {reason}", flush=True)
        (found.add if outcome == "found" else found.discard)(digest(entry, tree))
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(sorted(found), indent=0), encoding="utf-8")
    counts = ", ".join(f"{outcomes[name]} {name}" for name in ("found", "lives", "skipped"))
    print(f"\n{len(chosen)} sabotaged: {counts}")
    return int(outcomes["lives"] > 0)


def _tried(chosen: list[Sabotage], tree: Path, base: Base, jobs: int) -> Iterator[tuple[float, dict[str, str]]]:
    """Outcomes in the order of the entries; every process has a copy of its own."""
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(jobs, context, _copy_again, (tree.parents[1],)) as pool:
        yield from pool.map(partial(_try_in_own_tree, tree.parents[1], base), chosen)


def _own_tree(folder: Path) -> Path:
    return folder / str(os.getpid()) / "tree"


def _copy_again(folder: Path) -> None:
    shutil.copytree(folder / "base" / "tree", _own_tree(folder))
    os.environ["PYTHONPATH"] = str(_own_tree(folder))


def _try_in_own_tree(folder: Path, base: Base, entry: Sabotage) -> tuple[float, dict[str, str]]:
    return try_entry(entry, _own_tree(folder), base)


def digest(entry: Sabotage, root: Path) -> str:
    """Of an entry, the files that it changes and its tests."""
    files = sorted({edit.file for edit in entry.edits} | {test.split("::")[0] for test in entry.tests})
    content = [(root / file).read_bytes() for file in files if (root / file).is_file()]
    return hashlib.sha256(b"\0".join([repr(entry).encode(), *content])).hexdigest()[:24]


def baseline(chosen: list[Sabotage], tree: Path) -> Base:
    """Run the named tests on the unchanged copy.

    Raises:
        SystemExit: when one fails or does not run.
    """
    tests = sorted({test for entry in chosen for test in entry.tests})
    if not tests:
        return Base({}, frozenset())
    seen = _run(tests, tree, dict.fromkeys(tests, 0.0), 3600.0)
    seconds = {test: sum(s for name, s in seen.seconds.items() if _of(name) == test) for test in tests}
    passing = {_of(name) for name in seen.seconds}
    if seen.code != 0 or passing != set(tests):
        lacking = seen.failed or ", ".join(sorted(set(tests) - passing)[:3])
        raise SystemExit(f"without any change {lacking} fails ({seen.code})\n{seen.output[-4000:]}")
    print(f"{len(tests)} tests pass without a change in {seen.elapsed:.0f} s", flush=True)
    return Base(seconds, frozenset(_of(name) for name in seen.skipped))


def _of(name: str) -> str:
    """A test without its parameters."""
    return name.split("[")[0]


def _run(tests: Sequence[str], tree: Path, limits: dict[str, float], limit: float) -> Seen:
    return run_forked(tree, [str(tree / test) for test in tests], limits, ["--tb=short"], limit)


def try_entry(entry: Sabotage, tree: Path, base: Base) -> tuple[float, dict[str, str]]:
    """Apply an entry and run its tests; the seconds, and what is wrong with each test ("" when it fails as wanted).

    A test that runs into its limit is tried once more with a longer one: the machine may be busy with something else.
    """
    seconds, wrong = _try_within(entry, tree, base, 1.0)
    if LATE not in wrong.values():
        return seconds, wrong
    more, wrong = _try_within(entry, tree, base, PATIENCE)
    return seconds + more, wrong


def _try_within(entry: Sabotage, tree: Path, base: Base, patience: float) -> tuple[float, dict[str, str]]:
    left = [test for test in entry.tests if test not in base.skipped]
    limits = {test: patience * (10.0 + 6 * base.seconds[test]) for test in left}
    elapsed, wrong = 0.0, dict[str, str]()
    with ExitStack() as stack:
        for file, text in entry.sources(tree).items():
            stack.enter_context(replaced(tree / file, text))
        while left:
            seen = _run(left, tree, {test: limits[test] for test in left}, 60.0 * patience + sum(limits.values()))
            elapsed += seen.elapsed
            ended = {_of(seen.running)} if seen.timed_out else set(left)
            over = [test for test in left if test in ended or _failing(test, seen)] or left
            wrong |= {test: _wrong(test, seen, entry.hangs) for test in over}
            left = [test for test in left if test not in over]
    return elapsed, wrong


def _failing(test: str, seen: Seen) -> bool:
    return any(_of(failure.test) == test for failure in seen.failures)


def _wrong(test: str, seen: Seen, hangs: bool) -> str:
    """Why a test does not count as failing; "" when it does."""
    if seen.problem:
        return seen.problem
    mine = [failure for failure in seen.failures if _of(failure.test) == test]
    if any(failure.phase == "call" and failure.error not in NO_TEST for failure in mine):
        return ""
    if mine:
        return f"{mine[0].error} in {mine[0].phase}: {mine[0].words.strip().splitlines()[-1:]}"
    if seen.timed_out and _of(seen.running) == test:
        return "" if hangs else LATE
    if any(_of(name) == test for name in seen.seconds):
        return "passes"
    return LATE if seen.timed_out else f"does not run\n{seen.output[-1500:]}"


def write_table(entries: Sequence[Sabotage]) -> None:
    """Put the table of all entries into its page."""
    page = TABLE_PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    TABLE_PAGE.write_text(before + table(entries) + rest.split(END)[1], encoding="utf-8")


def table(entries: Sequence[Sabotage]) -> str:
    """The table of all entries with its marks."""
    lines = [BEGIN]
    for topic in dict.fromkeys(entry.topic for entry in entries):
        mine = [entry for entry in entries if entry.topic == topic]
        lines += [
            "",
            f"### {mine[0].section or topic.capitalize()}",
            "",
            "| claim | taken away | fails |",
            "|---|---|---|",
        ]
        for entry in mine:
            names = ", ".join(f"`{test.split('/')[-1]}`" for test in entry.tests)
            lines.append(f"| {entry.claim} | {entry.what} | {names} |")
    return "\n".join([*lines, "", END])


if __name__ == "__main__":
    sys.exit(main())
