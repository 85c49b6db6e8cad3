"""Many rounds under trust central on the digits of 200 devices: independent noise beside correlated noise.

Same data, same budget per device, several seeds, no pre-training. Drift reports are off, nobody drops. How the step
sizes of the server were found is said in docs/comparisons.md.

    python simulations/correlated_noise.py [SEEDS] [none|banded|blt ...]
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path

from fedinfer.config import load_scenario
from fedinfer.simulation.engine import prepare_local, run_local
from fedinfer.system import SystemClock
from fedinfer.types import Json

COMMON = (
    "privacy.trust=central", "secure_aggregation.mode=ideal", "training.pretrain=false", "drift.enabled=false",
    "rollout.canary_epsilon=0", "fleet.dropout=0",
)  # fmt: skip
ROWS = (  # epsilon, correlation, devices asked (0: all 200), rounds, step size of the server
    (6, "none", 20, 64, 0.125), (6, "banded", 20, 64, 0.25), (6, "blt", 20, 64, 0.25), (6, "none", 0, 6, 2.0),
    (6, "none", 0, 64, 0.5), (2, "banded", 20, 64, 0.125), (2, "blt", 20, 64, 0.125), (2, "none", 0, 6, 2.0),
    (2, "none", 0, 64, 0.25),
)  # fmt: skip


def once(row: tuple[int, str, int, int, float], seed: int) -> Json:
    """The record of one run."""
    epsilon, correlation, cohort, rounds, step = row
    overrides = [
        *COMMON, f"privacy.epsilon={epsilon}", f"privacy.correlation={correlation}", f"training.cohort={cohort}",
        f"training.rounds={rounds}", f"training.server_learning_rate={step}", f"scenario.seed={seed}",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare_local(load_scenario("digits", overrides))
        return run_local(prepared, Path(folder), SystemClock(), lambda *_: None)


if __name__ == "__main__":
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    print("| epsilon | correlation | devices asked | rounds | step size | noise z | accuracy |")
    print("|---|---|---|---|---|---|---|")
    wanted = sys.argv[2:] or [row[1] for row in ROWS]
    for row in (row for row in ROWS if row[1] in wanted):
        runs = [once(row, seed) for seed in range(1, seeds + 1)]
        found = [run["metrics"]["accuracy"] for run in runs]
        epsilon, correlation, cohort, rounds, step = row
        figures = f"{statistics.mean(found):.3f} ± {statistics.stdev(found):.3f}"
        noise = f"{runs[0]['privacy']['noise_multiplier']:.2f}"
        print(
            f"| {epsilon} | {correlation} | {cohort or 200} | {rounds} | {step:g} | {noise} | {figures} |", flush=True
        )
    print(json.dumps({"seeds": seeds}))
