"""A simulation in a process of its own that is killed, by SIGKILL, at one of the moments that are counted.

A moment is a call that another process can notice: a file is replaced, linked or flushed, an event is written, devices
are asked. The children of one process share what it has imported already.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from fedinfer.config import Scenario
from fedinfer.config.flat import FlatValue
from fedinfer.data.table import Federation
from fedinfer.fleet import prepare_fleet
from fedinfer.flower.transport import GridTransport
from fedinfer.privacy.accounting.ledger import Ledger
from fedinfer.report import write_fleet
from fedinfer.simulation.coordinate import RUN_ID
from fedinfer.simulation.engine import Prepared, resume_local, run_local
from fedinfer.simulation.fleet_state import FleetPlace, begin_fleet, begun_fleet, resume_fleet
from fedinfer.simulation.folder import EventLog
from fedinfer.simulation.world import was_begun
from fedinfer.store import read_store
from fedinfer.system import SystemClock
from tests.protocol.fleet import federation, settings
from tests.scenarios.runs import without_times
from tests.unit.fleet.fleets import scenario as fleet_scenario

STORIES = {
    "loop": "training.rounds = 2\ndrift.windows = 2",
    # Rounds whose noise is correlated, a clipping norm that moves, and an alarm that trains again.
    "correlated": """
training.rounds = 2
privacy.trust = "central"
privacy.unit = "device"
privacy.correlation = "banded"
privacy.clipping = "adaptive"
privacy.epsilon = 200.0
secure_aggregation.mode = "ideal"
drift.windows = 5
drift.window = 10
drift.reference_windows = 1
drift.false_alarm_rate = 0.4
drift.rounds = 2
drift.epsilon = 100.0
drift."inject.kind" = "shift"
drift."inject.at_window" = 3
drift."inject.amount" = 1.0
""",
}
FLEETS: dict[str, dict[str, FlatValue]] = {
    "synchronous fleet": {"fleet__dropout": 0.1, "training__server_optimizer": "fedadam", "fleet__clock__target": 0.3},
    "buffered fleet": {
        "fleet__clock__rounds": "buffered", "fleet__clock__concurrency": 60, "training__rounds": 12,
        "privacy__trust": "distributed", "fleet__dropout": 0.1, "fleet__device__speed_spread": 1.5,
    },
}  # fmt: skip
TWICE = 0.8
"""A run that was killed later than this is killed once more, in the middle of what was left."""
MOMENTS = ((os, "replace"), (os, "link"), (os, "fsync"), (GridTransport, "ask"), (EventLog, "__call__"))


class Moments:
    """Counts moments, and ends the process at one of them."""

    def __init__(self, fatal: int) -> None:
        self.count, self._fatal = 0, fatal

    def watch(self) -> None:
        for owner, name in MOMENTS:
            setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **named: Any) -> Any:
            self.count += 1
            if self.count == self._fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **named)

        return counted


def simulate(scenario: Scenario, rows: Federation, folder: Path) -> None:
    """Begin a run, or go on with the one in the folder."""
    folder.mkdir(exist_ok=True)
    go = resume_local if was_begun(folder) else run_local
    clock = SystemClock()
    go(Prepared(scenario, rows), folder, clock, EventLog(folder, clock, RUN_ID))


def simulate_fleet(scenario: Scenario, folder: Path) -> None:
    """As `simulate`, for a virtual fleet; its state is kept after every sum."""
    folder.mkdir(exist_ok=True)
    clock = SystemClock()
    place = FleetPlace(folder, clock, None, EventLog(folder, clock, RUN_ID), partial(write_fleet, folder), every=0.0)
    if was_begun(folder):
        resume_fleet(begun_fleet(folder), place)
    else:
        begin_fleet(prepare_fleet(scenario), place)


def fleet_facts(folder: Path) -> Any:
    """Record and page, byte for byte."""
    return (folder / "fleet.json").read_bytes(), (folder / "fleet.html").read_bytes()


def forked(go: Callable[[], None], fatal: int) -> int:
    """Run in a child until the end (fatal 0) or the fatal moment.

    Returns:
        The number of moments, 0 for a child that was killed.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            moments = Moments(fatal)
            moments.watch()
            go()
            os.write(writing, str(moments.count).encode())
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return 0
    assert os.waitstatus_to_exitcode(status) == 0, f"the child failed with {status}"
    return int(said)


def main(folder: str, story: str, parts: str) -> None:
    """Print, as one line of JSON, for each part of a run: how often it was killed, and whether the end is the same."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    base = Path(folder)
    go: Callable[[Path], None]
    if story in FLEETS:
        go, facts, twice = partial(simulate_fleet, fleet_scenario(**FLEETS[story])), fleet_facts, 2
    else:
        go, facts, twice = partial(simulate, settings(STORIES[story]), federation()), run_facts, 40
    go(base / "whole")
    whole, moments = facts(base / "whole"), forked(partial(go, base / "counted"), 0)
    assert facts(base / "counted") == whole
    found = []
    for number, part in enumerate(map(float, parts.split(","))):
        place = base / f"{number}"
        killed = int(forked(partial(go, place), max(1, int(part * moments))) == 0)
        if part > TWICE:
            killed += int(forked(partial(go, place), twice) == 0)
        forked(partial(go, place), 0)
        found.append({"part": part, "killed": killed, "same": facts(place) == whole and not (place / "state").exists()})
        shutil.rmtree(place)
    print(json.dumps(found))


def run_facts(folder: Path) -> Any:
    """The record without times, the model files by content, and what every account spent."""
    record = without_times(json.loads((folder / "run.json").read_text()))
    models = sorted(path.name for path in (folder / "artifacts" / "targets").rglob("*.onnx"))
    weights = {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()}
    entries = []
    for database in ("ledger.sqlite", "devices/devices.sqlite"):
        rows = Ledger(read_store(folder / database)).entries(None)
        entries += [(row.owner, row.task, row.reference, str(row.event), bool(row.committed_at)) for row in rows]
    return record, models, weights, sorted(entries)
