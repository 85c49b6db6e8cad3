"""Synchronous rounds beside buffered ones on one fleet: virtual time, traffic and energy to one accuracy.

The shape is NVFlare's edge example: 40,000 devices, 200 at work, 20 answers in a buffer. The quartiles of speed differ
by a factor of 4.7. Without noise, and with noise for a device in at most three sums. Step sizes are the same.

    python simulations/sync_against_async.py [SEEDS]
"""

import json
import statistics
import sys

from fedinfer.config import from_flat
from fedinfer.config.flat import FlatValue
from fedinfer.fleet import prepare_fleet, run_fleet
from fedinfer.types import Json

COMMON: dict[str, FlatValue] = {
    "data.source": "synthetic",
    "data.partition.devices": 40_000,
    "data.synthetic.rows": 40,
    "training.local_epochs": 2,
    "training.batch_size": 10,
    "training.learning_rate": 0.2,
    "privacy.trust": "central",
    "privacy.delta": 1e-6,
    "privacy.epsilon": 8.0,
    "privacy.clipping_norm": 1.0,
    "fleet.dropout": 0.05,
    "fleet.device.rows_per_second": 2.0,
    "fleet.device.speed_spread": 1.15,  # nine of ten devices within a factor of 44, quartiles within 4.7
    "fleet.clock.participations": 3,
    "fleet.clock.target": 0.85,
}
MODES: dict[str, dict[str, FlatValue]] = {
    "synchronous, 220 asked for 200": {
        "training.cohort": 200, "fleet.clock.over_selection": 1.1, "training.rounds": 60,
    },
    "synchronous, 260 asked for 200": {"training.cohort": 200, "training.rounds": 60},
    "buffered, 20 of 200 at work": {
        "fleet.clock.rounds": "buffered", "fleet.clock.concurrency": 200, "fleet.clock.buffer": 20,
        "training.rounds": 400,
    },
    "buffered, 100 of 200 at work": {
        "fleet.clock.rounds": "buffered", "fleet.clock.concurrency": 200, "fleet.clock.buffer": 100,
        "training.rounds": 120,
    },
}  # fmt: skip
UNITS = ("none", "device")


def once(unit: str, mode: str, seed: int) -> Json:
    """The record of one run."""
    scenario = from_flat({**COMMON, **MODES[mode], "privacy.unit": unit, "scenario.seed": seed})
    return run_fleet(prepare_fleet(scenario), None, lambda *_: None)


def row(unit: str, mode: str, runs: list[Json]) -> Json:
    """Medians over seeds; None where a run did not reach the target."""
    targets = [run["target"] for run in runs]

    def median(name: str) -> float | None:
        values = [target[name] for target in targets]
        return None if None in values else statistics.median(values)

    speeds = [run["participation"]["mean_by_speed"] for run in runs]
    traffic = [median("down_bytes"), median("up_bytes")]
    return {
        "unit": unit,
        "mode": mode,
        "sums": median("release"),
        "hours": None if median("seconds") is None else (median("seconds") or 0.0) / 3600,
        "megabytes": None if None in traffic else sum(value or 0.0 for value in traffic) / 1e6,
        "watt_hours": median("watt_hours"),
        "slowest_to_fastest": statistics.median(s["slowest quarter"] / s["fastest quarter"] for s in speeds),
        "end": statistics.median(run["metric"]["end"] for run in runs),
        "epsilon": runs[0]["privacy"]["planned_epsilon"],
    }


def text(value: float | None, form: str) -> str:
    """A figure, or a dash where the target was not reached."""
    return "-" if value is None else format(value, form)


def main(seeds: int) -> None:
    """A table, and as the last line one JSON object."""
    found = []
    print("| unit | rounds | sums | virtual hours | MB | Wh | slowest : fastest quarter | accuracy at the end |")
    print("|---|---|---|---|---|---|---|---|")
    for unit in UNITS:
        for mode in MODES:
            each = row(unit, mode, [once(unit, mode, seed) for seed in range(1, seeds + 1)])
            found.append(each | {"epsilon": str(each["epsilon"])})
            print(
                f"| {unit} | {mode} | {text(each['sums'], '.0f')} | {text(each['hours'], '.2f')} | "
                f"{text(each['megabytes'], '.1f')} | {text(each['watt_hours'], '.1f')} | "
                f"{each['slowest_to_fastest']:.2f} | {each['end']:.3f} |",
                flush=True,
            )
    print(json.dumps({"target": COMMON["fleet.clock.target"], "seeds": seeds, "rows": found}))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
