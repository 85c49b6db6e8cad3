"""What a badly chosen clipping norm costs, and what a norm that adapts in private gets back (docs/comparisons.md).

digits, a whole device protected, trained from scratch; same data, same budget, several seeds. Drift reports are off, so
the whole budget goes into the rounds; nobody drops.

    python simulations/adaptive_clipping.py [SEEDS] [ROUNDS]
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path

from fedinfer.config import load_scenario
from fedinfer.simulation.engine import prepare_local, run_local
from fedinfer.system import SystemClock

COMMON = (
    *("drift.enabled=false", "rollout.canary_epsilon=0", "fleet.dropout=0", "secure_aggregation.mode=ideal"),
    *("training.pretrain=false", "training.server_learning_rate=3", "privacy.epsilon=8"),
)
WAYS = {  # name: overrides
    "fixed": (),
    "adaptive, rate 0.2": ("privacy.clipping=adaptive",),
    "adaptive, rate 0.5": ("privacy.clipping=adaptive", "privacy.clipping_rate=0.5"),
}
STARTS = (0.2, 2.0, 20.0)


def once(overrides: tuple[str, ...]) -> dict[str, float]:
    """One run: the figures of its last round."""
    prepared = prepare_local(load_scenario("digits", [*COMMON, *overrides]))
    with tempfile.TemporaryDirectory() as folder:
        record = run_local(prepared, Path(folder), SystemClock(), lambda *_: None)
    last = record["rounds"][-1]
    return {
        "accuracy": last["metric"],
        "norm": last["clipping_norm"],
        "epsilon": record["privacy"]["epsilon"],
        "noise_multiplier": record["privacy"]["noise_multiplier"],
    }


def row(way: str, start: float, seeds: int, rounds: int) -> dict[str, object]:
    """Means over seeds of one way, and the spread of the accuracy."""
    extra = (*WAYS[way], f"privacy.clipping_norm={start}", f"training.rounds={rounds}")
    runs = [once((*extra, f"scenario.seed={seed}")) for seed in range(1, seeds + 1)]
    means = {name: statistics.mean(run[name] for run in runs) for name in runs[0]}
    return {"start": start, "clipping": way, **means, "accuracy_sd": statistics.stdev(run["accuracy"] for run in runs)}


if __name__ == "__main__":
    seeds, rounds = (int(text) for text in (*sys.argv[1:], *("3", "20")[len(sys.argv) - 1 :]))
    print("| first norm | clipping | accuracy | norm of the last round | epsilon | noise z |")
    print("|---|---|---|---|---|---|")
    rows = []
    for start in STARTS:
        for way in WAYS:
            rows.append(r := row(way, start, seeds, rounds))
            accuracy = f"{r['accuracy']:.3f} ± {r['accuracy_sd']:.3f}"
            figures = [f"{r['norm']:.2f}", f"{r['epsilon']:.2f}", f"{r['noise_multiplier']:.2f}"]
            print("|", " | ".join([f"{start:g}", way, accuracy, *figures]), "|", flush=True)
    print(json.dumps({"seeds": seeds, "rounds": rounds, "rows": rows}))
