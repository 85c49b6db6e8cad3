"""Changed code in a copy of the tree meets tests in forks of one warm process that has loaded the libraries already.

Shared by `scripts/mutate.py` and `scripts/sabotage.py`.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WARM: tuple[str, ...] = (
    "numpy",
    "scipy.special",
    "scipy.optimize",
    "torch",
    "onnx",
    "onnxruntime",
    "cryptography",
    "sympy",
    "tuf.ngclient",
)
WARM += ("hypothesis", "hypothesis.strategies", "dp_accounting", "pydantic", "mpmath", "opacus", "fastapi", "sklearn")
MOST_MEMORY_BYTES = 24 << 30
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
_STAMPS = count(2, 2)


@dataclass(frozen=True, slots=True)
class Failure:
    """How one test failed: in which phase (setup, call, teardown), by an error of which class, and its words."""

    test: str
    phase: str
    error: str
    words: str


@dataclass(frozen=True, slots=True)
class Seen:
    """What a fork did.

    Args:
        code: exit code; None when it was stopped after the limit.
        seconds: duration of each test that ended, in the order of their ends.
        failures: of each phase of a test that failed.
        skipped: tests that were skipped.
        running: the test that was begun last.
        problem: what makes the whole run worthless; "" for nothing.
        output: everything that was printed.
        elapsed: seconds of the whole fork.
    """

    code: int | None
    seconds: dict[str, float]
    failures: tuple[Failure, ...]
    skipped: frozenset[str]
    running: str
    problem: str
    output: str
    elapsed: float

    @property
    def failed(self) -> str:
        """The first test that failed, or what was wrong with the run."""
        return self.problem or (self.failures[0].test if self.failures else "")

    @property
    def timed_out(self) -> bool:
        """Whether a test or the fork was stopped by a limit."""
        return self.code is None or self.code == -signal.SIGALRM


@dataclass(slots=True, eq=False)  # pytest keeps its plugins in sets
class _Chosen:
    """Pytest plugin: run these tests in this order (None: all), write down what each took and how it failed."""

    limits: Mapping[str, float] | None
    told: Path
    errors: dict[tuple[str, str], str] = field(default_factory=dict)

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        if self.limits is not None:
            place = {name: number for number, name in enumerate(self.limits)}
            key = {item.nodeid: _chosen(item.nodeid, place) for item in items}
            items[:] = sorted((item for item in items if key[item.nodeid]), key=lambda item: place[key[item.nodeid]])

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        limits = self.limits or {}
        signal.setitimer(signal.ITIMER_REAL, limits.get(_chosen(nodeid, limits), 0.0))  # the alarm ends the process
        self.tell(["begun", nodeid])

    def pytest_runtest_makereport(self, item: Any, call: Any) -> None:
        """Comes before the report is logged; another plugin makes it."""
        if call.excinfo is not None:
            self.errors[item.nodeid, call.when] = type(call.excinfo.value).__name__

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.tell(["took", report.nodeid, report.duration])
        if report.skipped:
            self.tell(["skipped", report.nodeid])
        if report.failed:
            error = self.errors.get((report.nodeid, report.when), "")
            self.tell(["failed", report.nodeid, report.when, error, report.longreprtext[-2000:]])

    def tell(self, line: list[Any]) -> None:
        with self.told.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _chosen(nodeid: str, names: Mapping[str, object]) -> str:
    """The name by which a test was asked for: its own, or that of all its parameters; "" for none."""
    return next((name for name in (nodeid, nodeid.split("[")[0]) if name in names), "")


def warm_up(tree: Path) -> None:
    """Load the libraries; from here on the product is found in `tree`."""
    os.environ.update(ENVIRONMENT | {"PYTHONPATH": str(tree)})
    for name in WARM:
        importlib.import_module(name)


def copy_tree(target: Path) -> Path:
    """A copy of every file that git knows or would add, as it is now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


@contextmanager
def replaced(path: Path, text: str) -> Iterator[None]:
    """A file with another text for as long as the block runs."""
    original, times = path.read_bytes(), path.stat()
    path.write_text(text, encoding="utf-8")
    # A time of its own for every change: bytecode is kept by whole seconds and size.
    stamp = int(times.st_mtime) + next(_STAMPS)
    os.utime(path, (stamp, stamp))
    try:
        yield
    finally:
        path.write_bytes(original)
        os.utime(path, (times.st_atime, times.st_mtime))


def run_forked(
    tree: Path, asked: Sequence[str], limits: Mapping[str, float] | None, extra: Sequence[str], limit: float
) -> Seen:
    """Run tests in a fork.

    Args:
        tree: the copy of the tree.
        asked: files, folders or tests, as pytest takes them.
        limits: seconds that each test may take, in the order in which they run; None: all tests, without limits.
        extra: options for pytest.
        limit: seconds for the fork.
    """
    told, output = tree.parent / "told.jsonl", tree.parent / "output.txt"
    told.unlink(missing_ok=True)
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        _child(tree, [*extra, *asked], _Chosen(limits, told), output)
    code = _waited(child, limit)
    lines = told.read_text(encoding="utf-8").splitlines() if told.exists() else []
    return _seen(code, [json.loads(line) for line in lines], output, time.monotonic() - start)


def _seen(code: int | None, lines: list[list[Any]], output: Path, elapsed: float) -> Seen:
    seconds: dict[str, float] = {}
    for kind, name, *rest in lines:
        if kind == "took":
            seconds[name] = seconds.get(name, 0.0) + rest[0]
    return Seen(
        code=code,
        seconds=seconds,
        failures=tuple(Failure(*line[1:]) for line in lines if line[0] == "failed"),
        skipped=frozenset(line[1] for line in lines if line[0] == "skipped"),
        running=next((line[1] for line in reversed(lines) if line[0] == "begun"), ""),
        problem=next((line[1] for line in lines if line[0] == "problem"), ""),
        output=output.read_text(errors="replace") if output.exists() else "",
        elapsed=elapsed,
    )


def _child(tree: Path, arguments: list[str], chosen: _Chosen, output: Path) -> None:
    """Never returns: everything below ends with the process."""
    code = 99
    try:
        os.setsid()
        os.chdir(tree)
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY_BYTES, MOST_MEMORY_BYTES))
        with output.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.path[:] = [str(tree), *(p for p in sys.path if Path(p or ".").resolve() != ROOT)]
        import pytest
        from hypothesis import Phase, settings

        # The first failing example will do: to make it smaller takes minutes, and nobody reads it here.
        settings.register_profile("first", settings.get_profile("ci"), phases=(Phase.explicit, Phase.generate))
        options = ["-q", "--hypothesis-profile=first", "-p", "no:cacheprovider", "-n", "0"]
        options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
        options += ["-o", "timeout=0"]  # the alarm is needed for the limits here
        options += [f"--basetemp={tree.parent / 'tmp'}", f"--rootdir={tree}"]
        code = int(pytest.main([*options, *arguments], plugins=[chosen]))
        home = str(sys.modules["fedinfer"].__file__) if "fedinfer" in sys.modules else str(tree)
        if not home.startswith(str(tree)):
            chosen.tell(["problem", f"fedinfer was imported from {home}"])
            code = 98
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _waited(child: int, limit: float) -> int | None:
    """Exit code of a child, None when it was stopped after the limit; nothing that it started is left."""
    end = time.monotonic() + limit
    done, status = 0, 0
    while not done and time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0 if done else 0.02)
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        pass
    if not done:
        os.waitpid(child, 0)
        return None
    return os.waitstatus_to_exitcode(status)
