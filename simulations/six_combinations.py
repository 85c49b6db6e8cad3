"""Six ways to train privately on real tables: unit example | device, trust local | distributed | central.

Same data, same budget, several seeds. Drift reports are off, so the whole budget goes into the rounds; nobody drops.
Settings are in SETTINGS; docs/comparisons.md says how they were found.

    python simulations/six_combinations.py [SEEDS] [ROUNDS] [protocol|ideal]
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from fedinfer.config import load_scenario
from fedinfer.simulation.engine import prepare_local, run_local
from fedinfer.system import SystemClock

COMMON = ("drift.enabled=false", "rollout.canary_epsilon=0", "fleet.dropout=0", "report.pooled=false")
HEART = ("privacy.unit=example", "privacy.epsilon=1", "training.sampling_rate=0.5")
ROWS = ("privacy.unit=example", "privacy.epsilon=2", "privacy.clipping_norm=1", "training.pretrain=false")
SAMPLED = (*ROWS, "training.sampling_rate=0.2", "training.server_learning_rate=5", "training.rounds=20")
WHOLE = ("privacy.unit=device", "privacy.epsilon=8", "privacy.clipping_norm=2", "training.pretrain=false")
SETTINGS = {  # (table, unit, trust): overrides of the built-in scenario
    ("heart", "example", "local"): (*HEART, "privacy.local_steps=1", "training.learning_rate=1", "training.rounds=20"),
    ("heart", "example", "distributed"): (*HEART, "training.server_learning_rate=1", "training.rounds=20"),
    ("heart", "example", "central"): (*HEART, "training.server_learning_rate=1", "training.rounds=20"),
    ("digits", "example", "local"): (*ROWS, "privacy.local_steps=1", "training.learning_rate=1", "training.rounds=5"),
    ("digits", "example", "distributed"): SAMPLED,
    ("digits", "example", "central"): SAMPLED,
    ("digits", "device", "local"): (*WHOLE, "training.server_learning_rate=1", "training.rounds=10"),
    ("digits", "device", "distributed"): (*WHOLE, "training.server_learning_rate=3", "training.rounds=10"),
    ("digits", "device", "central"): (*WHOLE, "training.server_learning_rate=3", "training.rounds=10"),
}


def once(table: str, trust: str, settings: tuple[str, ...], seed: int, extra: tuple[str, ...]) -> dict[str, float]:
    """One run: the figures of its last round."""
    overrides = [*COMMON, *settings, f"privacy.trust={trust}", f"scenario.seed={seed}", *extra]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        record = run_local(prepare_local(load_scenario(table, overrides)), Path(folder), SystemClock(), lambda *_: None)
    sent = [row["bytes_up_per_device"] for row in record["rounds"]]
    return {
        "accuracy": record["metrics"]["accuracy"],
        "auc": record["metrics"]["auc"],
        "epsilon": record["privacy"]["epsilon"],
        "noise_multiplier": record["privacy"]["noise_multiplier"],
        "bytes_up": statistics.mean(sent),
        "seconds": time.perf_counter() - started,
    }


def row(key: tuple[str, str, str], seeds: int, extra: tuple[str, ...]) -> dict[str, object]:
    """Mean and standard deviation over seeds of one combination."""
    table, unit, trust = key
    runs = [once(table, trust, SETTINGS[key], seed, extra) for seed in range(1, seeds + 1)]
    means = {name: statistics.mean(run[name] for run in runs) for name in runs[0]}
    spread = {f"{name}_sd": statistics.stdev(run[name] for run in runs) for name in ("accuracy", "auc")}
    return {"table": table, "unit": unit, "trust": trust, "seeds": seeds, **means, **spread}


if __name__ == "__main__":
    seeds, rounds, mode = (*sys.argv[1:], *("5", "0", "protocol")[len(sys.argv) - 1 :])
    extra = (f"secure_aggregation.mode={mode}", *((f"training.rounds={rounds}",) if int(rounds) else ()))
    print("| table | unit | trust | accuracy | AUC | epsilon | noise z | bytes up per round | seconds |")
    print("|---|---|---|---|---|---|---|---|---|")
    rows = []
    for key in SETTINGS:
        rows.append(r := row(key, int(seeds), extra))
        figures = [f"{r[name]:.3f} ± {r[name + '_sd']:.3f}" for name in ("accuracy", "auc")]
        figures += [
            f"{r['epsilon']:.2f}",
            f"{r['noise_multiplier']:.2f}",
            f"{r['bytes_up']:,.0f}",
            f"{r['seconds']:.1f}",
        ]
        print("|", " | ".join([*map(str, (r["table"], r["unit"], r["trust"])), *figures]), "|", flush=True)
    print(json.dumps({"mode": mode, "rows": rows}))
