"""Runs of whole scenarios in this process, as `fedinfer run` makes them, and what tests ask about them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedinfer.config import Scenario, load_scenario
from fedinfer.errors import FedInferError
from fedinfer.simulation.coordinate import RUN_ID
from fedinfer.simulation.engine import prepare_local, run_local
from fedinfer.simulation.folder import EventLog
from fedinfer.system import SystemClock
from fedinfer.types import Json

TIMES = ("seconds", "latency_us", "bytes")
"""What may differ between two runs of the same scenario and seed; `bytes` of a push hold a latency in the manifest."""
OF_THE_FILE = ("sha256", "model_bytes")
"""Two model files that answer alike need not be the same bytes."""


@dataclass(frozen=True)
class Run:
    """A finished run: its record, its folder, and why it ended early, if it did."""

    record: Json
    folder: Path
    failure: FedInferError | None

    def events(self, name: str) -> list[Json]:
        lines = (self.folder / "events.jsonl").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == name]


def scenario(name: str, *overrides: str) -> Scenario:
    return load_scenario(name, list(overrides))


def run(wanted: Scenario, folder: Path) -> Run:
    """Run a scenario into a new folder; a run that ends early is a result too."""
    prepared, clock = prepare_local(wanted), SystemClock()
    folder.mkdir(parents=True)
    failure: FedInferError | None = None
    try:
        run_local(prepared, folder, clock, EventLog(folder, clock, RUN_ID))
    except FedInferError as error:
        failure = error
    return Run(json.loads((folder / "run.json").read_text()), folder, failure)


def without_times(value: Any) -> Any:
    """A record without what a clock measured."""
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in TIMES}
    if isinstance(value, list):
        return [without_times(item) for item in value]
    return value


def without_traffic(record: dict[str, Any]) -> dict[str, Any]:
    """A record without bytes per device: above 20 devices they draw the holders of their shares anew in every run."""
    rounds = [{key: row[key] for key in row if not key.startswith("bytes_")} for row in record["rounds"]]
    return {**record, "rounds": rounds}


def differences(left: Any, right: Any, at: str = "") -> list[str]:
    """Where two records differ by more than 1e-5; hash and compressed size of a file say nothing then."""
    if isinstance(left, dict) and isinstance(right, dict) and left.keys() == right.keys():
        return [
            line for key in left if key not in OF_THE_FILE for line in differences(left[key], right[key], f"{at}.{key}")
        ]
    if isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        return [line for i in range(len(left)) for line in differences(left[i], right[i], f"{at}[{i}]")]
    numbers = isinstance(left, float) and isinstance(right, float)
    same = math.isclose(left, right, rel_tol=1e-5, abs_tol=1e-5) if numbers else left == right
    return [] if same else [f"{at}: {left!r} != {right!r}"]
