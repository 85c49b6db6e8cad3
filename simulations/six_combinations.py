"""Six ways to train privately on real tables: unit example | device, trust local | distributed | central.

Same data, same budget, several seeds. Drift reports are off, so the whole budget goes into the rounds; nobody drops.
Settings are in SETTINGS; docs/comparisons.md says how they were found, with seeds that are not reported. Rows without
privacy are the same model on pooled rows after 1,500 steps of Adam (`fedinfer.training.pooled`).

    python simulations/six_combinations.py [SEEDS] [ROUNDS] [protocol|ideal] [TABLE-UNIT-TRUST ...]
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

FIRST_SEED = 11
"""Reported; the settings were found with others."""
COMMON = ("drift.enabled=false", "rollout.canary_epsilon=0", "fleet.dropout=0")
HEART = ("privacy.unit=example", "privacy.epsilon=1", "training.sampling_rate=0.5")
ROWS = ("privacy.unit=example", "privacy.epsilon=2", "privacy.clipping_norm=1", "training.pretrain=false")
SAMPLED = (*ROWS, "training.sampling_rate=0.2", "training.server_learning_rate=5", "training.rounds=20")
WHOLE = ("privacy.unit=device", "privacy.epsilon=8", "training.pretrain=false", "data.public_fraction=0")
LONG = (
    *WHOLE, "privacy.clipping_norm=0.5", "training.local_steps=10", "training.server_learning_rate=4",
    "training.rounds=100", "model.pixels=standardized",
)  # fmt: skip
ALONE = (*WHOLE, "privacy.clipping_norm=2", "training.server_learning_rate=1", "training.rounds=10")
SETTINGS = {  # (table, unit, trust): overrides of the built-in scenario
    ("heart", "example", "local"): (*HEART, "privacy.local_steps=1", "training.learning_rate=1", "training.rounds=20"),
    ("heart", "example", "distributed"): (*HEART, "training.server_learning_rate=1", "training.rounds=20"),
    ("heart", "example", "central"): (*HEART, "training.server_learning_rate=1", "training.rounds=20"),
    ("digits", "example", "local"): (*ROWS, "privacy.local_steps=1", "training.learning_rate=1", "training.rounds=5"),
    ("digits", "example", "distributed"): SAMPLED,
    ("digits", "example", "central"): SAMPLED,
    ("digits", "device", "local"): ALONE,
    ("digits", "device", "distributed"): LONG,
    ("digits", "device", "central"): LONG,
}


def once(table: str, trust: str, settings: tuple[str, ...], seed: int, extra: tuple[str, ...]) -> dict[str, float]:
    """One run: the figures of its last round."""
    pooled = trust == "central"  # the same for every trust
    asked = (f"privacy.trust={trust}", f"scenario.seed={seed}", f"report.pooled={str(pooled).lower()}")
    overrides = [*COMMON, *settings, *asked, *extra]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        record = run_local(prepare_local(load_scenario(table, overrides)), Path(folder), SystemClock(), lambda *_: None)
    sent = [row["bytes_up_per_device"] for row in record["rounds"]]
    free = {f"pooled_{name}": record["pooled"]["scores"][name] for name in ("accuracy", "auc")} if pooled else {}
    return free | {
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
    runs = [once(table, trust, SETTINGS[key], seed, extra) for seed in range(FIRST_SEED, FIRST_SEED + seeds)]
    means = {name: statistics.mean(run[name] for run in runs) for name in runs[0]}
    judged = [name for name in runs[0] if name.endswith(("accuracy", "auc"))]
    spread = {f"{name}_sd": statistics.stdev(run[name] for run in runs) for name in judged}
    return {"table": table, "unit": unit, "trust": trust, "seeds": seeds, **means, **spread}


if __name__ == "__main__":
    seeds, rounds, mode = (*sys.argv[1:4], *("5", "0", "protocol")[len(sys.argv) - 1 :])
    wanted = [tuple(name.split("-")) for name in sys.argv[4:]] or list(SETTINGS)
    extra = (f"secure_aggregation.mode={mode}", *((f"training.rounds={rounds}",) if int(rounds) else ()))
    print("| table | unit | trust | accuracy | AUC | epsilon | noise z | bytes up per round | seconds |")
    print("|---|---|---|---|---|---|---|---|---|")
    rows: list[dict[str, object]] = []
    for key in wanted:
        rows.append(r := row(key, int(seeds), extra))
        figures = [f"{r[name]:.3f} ± {r[name + '_sd']:.3f}" for name in ("accuracy", "auc")]
        figures += [
            f"{r['epsilon']:.2f}",
            f"{r['noise_multiplier']:.2f}",
            f"{r['bytes_up']:,.0f}",
            f"{r['seconds']:.1f}",
        ]
        print("|", " | ".join([*map(str, (r["table"], r["unit"], r["trust"])), *figures]), "|", flush=True)
        if key[2] == "central":
            free = [f"{r[name]:.3f} ± {r[name + '_sd']:.3f}" for name in ("pooled_accuracy", "pooled_auc")]
            print("|", " | ".join([key[0], "", "no privacy", *free, "inf", "0", "", ""]), "|", flush=True)
    print(json.dumps({"mode": mode, "rows": rows}))
