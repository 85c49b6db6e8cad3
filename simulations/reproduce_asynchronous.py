"""Synchronous against buffered asynchronous rounds under the virtual clock, in the shapes of NVFlare and of Papaya.

Published: NVFlare `examples/advanced/edge/README.md`: 16 devices at work, each of one of three kinds that take about
100, 200 and 400 s; 10 synchronous rounds take 72 minutes longer than without delays, 160 versions of one answer each 35
minutes (calculated there: 68 and 39). Huba et al. 2022, *Papaya*: at high concurrency buffered rounds are 5 times as
fast and move nearly 8 times less. Rows are synthetic here, devices are drawn from 40,000; there is no noise.

    python simulations/reproduce_asynchronous.py [SEEDS]
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path

from fedinfer.config import Scenario, from_flat
from fedinfer.config.flat import FlatValue
from fedinfer.fleet import prepare_fleet, run_fleet
from fedinfer.types import Json

COMMON: dict[str, FlatValue] = {
    "data.source": "synthetic", "data.partition.devices": 40_000, "data.synthetic.rows_spread": 0.0,
    "data.test_fraction": 0.2, "training.batch_size": 10, "training.learning_rate": 0.1, "privacy.unit": "none",
    "privacy.clipping_norm": 10.0, "fleet.dropout": 0.0, "fleet.device.available": 1.0,
    "fleet.device.available_swing": 0.0, "fleet.device.crash_per_hour": 0.0, "fleet.device.train_watts": 0.0,
    "fleet.device.radio_watts": 0.0, "fleet.clock.least_battery": 0.0,
}  # fmt: skip
KINDS = "rows_per_second,download_mbit,upload_mbit,memory_mb,battery_wh\n" + "".join(
    f"{rate},1000,1000,3000,14\n"
    for rate in (4, 2, 1)  # 400 rows in 100, 200 and 400 s
)
DELAYS: dict[str, FlatValue] = {
    "data.synthetic.rows": 125, "training.local_epochs": 4, "fleet.device.capacity_trace": "kinds.csv",
    "fleet.device.startup_seconds": 5.0,
}  # fmt: skip
SPREAD: dict[str, FlatValue] = {
    "data.synthetic.rows": 40, "training.local_epochs": 2, "training.learning_rate": 0.2, "fleet.dropout": 0.05,
    "fleet.device.rows_per_second": 2.0, "fleet.device.speed_spread": 1.15, "fleet.clock.target": 0.85,
    "privacy.clipping_norm": 1.0,
}  # fmt: skip


def synchronous(cohort: int, rounds: int, over_selection: float) -> dict[str, FlatValue]:
    """Rounds that wait for `cohort` answers."""
    return {"training.cohort": cohort, "training.rounds": rounds, "fleet.clock.over_selection": over_selection}


def buffered(working: int, buffer: int, versions: int) -> dict[str, FlatValue]:
    """A new version for every `buffer` answers of devices of which so many work at all times."""
    return {
        "fleet.clock.rounds": "buffered", "fleet.clock.concurrency": working, "fleet.clock.buffer": buffer,
        "fleet.clock.max_staleness": 100, "training.rounds": versions,
    }  # fmt: skip


SHAPES = {  # name: (settings, synchronous, buffered)
    "NVFlare, 16 at work, 160 answers": (DELAYS, synchronous(16, 10, 1.0), buffered(16, 1, 160)),
    "NVFlare, 200 at work, 4,000 answers": (DELAYS, synchronous(200, 20, 1.0), buffered(200, 20, 200)),
    "Papaya, 1,300 at work, to accuracy 0.85": (SPREAD, synchronous(1000, 60, 1.3), buffered(1300, 100, 120)),
}
PUBLISHED = {
    "NVFlare, 16 at work, 160 answers": "72 : 35 minutes measured, 68 : 39 calculated",
    "NVFlare, 200 at work, 4,000 answers": "no figure",
    "Papaya, 1,300 at work, to accuracy 0.85": "5 times as fast, nearly 8 times less traffic",
}


def once(settings: dict[str, FlatValue], mode: dict[str, FlatValue], seed: int) -> Json:
    """The record of one run."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "kinds.csv").write_text(KINDS, encoding="ascii")
        scenario: Scenario = from_flat({**COMMON, **settings, **mode, "scenario.seed": seed, "base": folder})
        return run_fleet(prepare_fleet(scenario), None, lambda *_: None)


def cost(record: Json) -> tuple[float, float, float]:
    """Virtual minutes, megabytes and accuracy, at the target where there is one, else at the end."""
    at = record["target"] or {**record["totals"], "seconds": record["seconds"]}
    if at["seconds"] is None:
        raise SystemExit("the target was not reached: more rounds are needed")
    reached = record["target"]["metric"] if record["target"] else record["metric"]["end"]
    return at["seconds"] / 60, (at["down_bytes"] + at["up_bytes"]) / 1e6, reached


def main(seeds: int) -> None:
    """A table, and as the last line one JSON object."""
    print("| shape | rounds | virtual minutes | MB | accuracy | synchronous : buffered | published |")
    print("|---|---|---|---|---|---|---|")
    found = []
    for name, (settings, *modes) in SHAPES.items():
        costs = [[cost(once(settings, mode, seed)) for seed in range(1, seeds + 1)] for mode in modes]
        means = [[statistics.mean(each[part] for each in row) for part in range(3)] for row in costs]
        ratios = [means[0][part] / means[1][part] for part in (0, 1)]
        found.append({"shape": name, "time_ratio": ratios[0], "traffic_ratio": ratios[1], "rows": means})
        last = f"time {ratios[0]:.1f}, traffic {ratios[1]:.1f} | {PUBLISHED[name]}"
        for kind, row, end in zip(("synchronous", "buffered"), means, (" | ", last), strict=True):
            print(f"| {name} | {kind} | {row[0]:.1f} | {row[1]:.1f} | {row[2]:.3f} | {end} |", flush=True)
    print(json.dumps({"seeds": seeds, "shapes": found}))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
