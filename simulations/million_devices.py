"""A million registered devices: memory, and what a sum costs in populations of a thousand to a million.

Each row is a process of its own, so that its peak memory is its own. Times are of the processor, one thread.

    python simulations/million_devices.py
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from fedinfer.config import load_scenario
from fedinfer.fleet import prepare_fleet, run_fleet
from fedinfer.types import Json

SCENARIO = Path(__file__).with_suffix(".toml")
ROWS = ((1_000, 100), (10_000, 100), (100_000, 100), (1_000_000, 100), (1_000_000, 1000))


def once(devices: int, cohort: int) -> Json:
    """One run: processor seconds to prepare and per sum, peak memory, accuracy."""
    overrides = [f"data.partition.devices={devices}", f"training.cohort={cohort}", "fleet.clock.participations=30"]
    started = time.process_time()
    prepared = prepare_fleet(load_scenario(str(SCENARIO), overrides))
    ready = time.process_time()
    record = run_fleet(prepared, None, lambda *_: None)
    end = time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "devices": devices,
        "answers": cohort,
        "prepare_seconds": ready - started,
        "seconds_per_sum": (end - ready) / len(record["releases"]),
        "peak_gib": peak,
        "accuracy": record["metric"]["end"],
    }


def main() -> None:
    """One process per row, then a table and, as the last line, one JSON object."""
    found = []
    for row in ROWS:
        command = [sys.executable, __file__, *map(str, row)]
        answer = subprocess.run(command, check=True, capture_output=True, text=True)
        found.append(json.loads(answer.stdout))
    print("| registered devices | answers in a sum | to prepare, CPU s | one sum, CPU ms | peak, GiB | accuracy |")
    print("|---|---|---|---|---|---|")
    for each in found:
        print(
            f"| {each['devices']:,} | {each['answers']} | {each['prepare_seconds']:.1f} | "
            f"{1000 * each['seconds_per_sum']:.0f} | {each['peak_gib']:.2f} | {each['accuracy']:.3f} |"
        )
    print(json.dumps({"rows": found}))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(once(int(sys.argv[1]), int(sys.argv[2]))))
    else:
        main()
