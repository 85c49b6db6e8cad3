"""Many rounds under trust central on the digits of 200 devices: independent noise beside correlated noise.

Same data, same budget per device, several seeds, no pre-training. Drift reports are off, nobody drops. The server's
step size is the best of STEPS for each row, found on other seeds; docs/comparisons.md tells what came out.

    python simulations/correlated_noise.py [SEEDS]
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
    "rollout.gate_epsilon=0", "fleet.dropout=0",
)  # fmt: skip
ROWS = (  # epsilon, correlation, devices asked (0: all 200), rounds
    (6, "none", 20, 64), (6, "banded", 20, 64), (6, "none", 0, 6), (6, "none", 0, 64),
    (2, "banded", 20, 64), (2, "none", 0, 6), (2, "none", 0, 64),
)  # fmt: skip
STEPS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)


def once(row: tuple[int, str, int, int], step: float, seed: int) -> Json:
    """The record of one run."""
    epsilon, correlation, cohort, rounds = row
    overrides = [
        *COMMON, f"privacy.epsilon={epsilon}", f"privacy.correlation={correlation}", f"training.cohort={cohort}",
        f"training.rounds={rounds}", f"training.server_learning_rate={step}", f"scenario.seed={seed}",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare_local(load_scenario("digits", overrides))
        return run_local(prepared, Path(folder), SystemClock(), lambda *_: None)


def best(row: tuple[int, str, int, int], seeds: int) -> tuple[float, list[Json]]:
    """The step size with the best mean accuracy over seeds 101, 102, ..., and its runs on seeds 1, 2, ..."""

    def accuracy(step: float) -> float:
        return statistics.mean(once(row, step, 100 + seed)["metrics"]["accuracy"] for seed in range(1, seeds + 1))

    step = max(STEPS, key=accuracy)
    return step, [once(row, step, seed) for seed in range(1, seeds + 1)]


if __name__ == "__main__":
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    print("| epsilon | correlation | devices asked | rounds | step size | noise z | accuracy |")
    print("|---|---|---|---|---|---|---|")
    for row in ROWS:
        step, runs = best(row, seeds)
        found = [run["metrics"]["accuracy"] for run in runs]
        noise = runs[0]["privacy"]["noise_multiplier"]
        spread = f"{statistics.mean(found):.3f} ± {statistics.stdev(found):.3f}"
        epsilon, correlation, cohort, rounds = row
        print(
            f"| {epsilon} | {correlation} | {cohort or 200} | {rounds} | {step} | {noise:.2f} | {spread} |", flush=True
        )
        correlated = runs[0]["privacy"]["correlation"]
        print(json.dumps({"row": row, "step": step, "accuracy": found, "correlation": correlated}), file=sys.stderr)
