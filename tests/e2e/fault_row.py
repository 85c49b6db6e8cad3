"""What a row of the table of faults is made of. Not a test itself.

"Lost" is what was finished or kept: models, rollouts, windows, registrations, files, a device that does not come back.
The round or window that a kill interrupts is paid once and counts as aborted; its devices answer once, so nobody could
do it again without paying again. The table says it as what was observed.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedinfer.flower.processes import environment
from fedinfer.privacy.accounting.ledger import Ledger
from fedinfer.store import read_store
from fedinfer.types import Json
from tests.e2e.field import Field, Spent, lost, spent_twice
from tests.e2e.pilot import REPOSITORY

ROUNDS, WINDOWS = 3, 1
UNLIMITED = resource.RLIM_INFINITY


@dataclass(frozen=True)
class Row:
    """One fault.

    Args:
        number: in the table of what an operator met before.
        fault: what was done.
        observed: what came of it.
        lost, twice: in words; nothing is what they should be.
        seconds: from the fault, or its end, until everything was as it should be.
    """

    number: str
    fault: str
    observed: str
    lost: tuple[str, ...]
    twice: tuple[str, ...]
    seconds: float


Story = Callable[[Field, Spent], list[Row]]


class Watch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._begin = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begin


def judged(made: Field, record: Json, whole: Spent) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a run with a fault in it lost, and spent twice."""
    run = record["run_id"]
    return tuple(lost(made, run, ROUNDS, WINDOWS)), tuple(spent_twice(made, run, whole))


def rounds_of(record: Json) -> str:
    return ", ".join(f"round {row['round']} {row['status']}" for row in record["rounds"])


def sums_of(record: Json) -> str:
    """How many devices were in the sums."""
    return ", ".join(str(row["survivors"]) for row in record["rounds"])


def entries(made: Field) -> dict[str, int]:
    """How often each device has paid."""
    stores = {device.name: device.store / "device.sqlite" for device in made.devices}
    return {name: len(Ledger(read_store(store)).entries(None)) for name, store in stores.items()}


def one_version(made: Field) -> tuple[str, ...]:
    """Nothing, when all devices run one version."""
    versions = made.versions()
    return () if len(set(versions.values())) == 1 else (f"versions {versions}",)


def limited(processes: list[int], most: int) -> None:
    """No file of a process, and of those that it starts, may grow beyond so many bytes: a full disk."""
    assert processes
    for process in processes:
        _, hard = resource.prlimit(process, resource.RLIMIT_FSIZE)
        resource.prlimit(process, resource.RLIMIT_FSIZE, (most, hard))


def fetch(made: Field, name: str) -> None:
    """As `fedinfer device follow` does when its time has come."""
    fedinfer(made, "device", "update", "--store", made.device(name).store, "--from", source(made))


def source(made: Field) -> Path:
    """What devices fetch from; a web server would serve it as it is."""
    return made.server.run / "released"


def fedinfer(
    made: Field, *words: object, days: float = 0, limit: int = UNLIMITED, seconds: float = 120.0
) -> subprocess.CompletedProcess[str]:
    """One command; at another date, with a full disk, or killed after some seconds (TimeoutExpired)."""
    program = (
        "import resource; from datetime import timedelta; from fedinfer.system import SystemClock; "
        f"now = SystemClock.now; SystemClock.now = lambda self: now(self) + timedelta(days={days}); "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY)); "
        "from fedinfer.cli.main import main; main()"
    )
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, words)], cwd=made.folder, capture_output=True, text=True, check=False,
        env={**environment(made.folder / "h"), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, timeout=seconds,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
