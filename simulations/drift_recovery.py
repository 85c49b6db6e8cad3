"""Does the loop heal: the metric before a change of the data, during it and after retraining, over seeds.

Whole runs of `digits` (200 devices, privacy per device, epsilon 8) whose world changes in different ways; the fleet is
told nothing and notices by its private reports. `lost` is the metric before less the least of the windows between the
change and the last retraining, `back` the part of it that the last two windows have again. The seed changes the split,
the noise and the draw of everything. Results are appended to --out line by line, so a run that was stopped goes on.

    python simulations/drift_recovery.py [--cases abrupt,gradual] [--seeds 20] [--out drift-recovery.jsonl]
    python simulations/drift_recovery.py --table --out drift-recovery.jsonl
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import fedinfer

AT = 4
COMMON: dict[str, Any] = {"secure_aggregation.mode": "ideal", "drift.inject.at_window": AT}
"""The integers of secure sums are the same as with `protocol`, in a tenth of the time."""
REGION = [f"d{number:03d}" for number in range(60)]
CASES: dict[str, dict[str, Any]] = {
    "abrupt": {},
    "gradual": {
        "drift.inject.shape": "gradual", "drift.inject.over": 3, "drift.windows": 9,
        "drift.after_windows": 4, "privacy.epsilon": 12.0, "drift.settle_windows": 2,
    },
    "recurring": {
        "drift.inject.shape": "recurring", "drift.inject.over": 7, "drift.windows": 16, "drift.max_triggers": 2,
        "drift.after_windows": 5, "privacy.epsilon": 12.0, "drift.epsilon": 2.5,
    },
    "one region": {"drift.inject.devices": REGION, "drift.inject.amount": 45.0},
    "label shift": {"drift.inject.kind": "prior"},
    "concept": {
        "drift.inject.kind": "label", "drift.inject.amount": 1.0,
        "drift.channels": ["predicted_class", "confidence", "errors"], "drift.rounds": 25, "privacy.epsilon": 16.0,
    },
    "broken sensor, 3 % of the devices": {
        "drift.inject.kind": "noise", "drift.inject.amount": 1.0, "drift.inject.fraction": 0.03, "drift.windows": 12,
        "drift.inject.at_window": 9, "drift.channels": ["predicted_class", "confidence", "flags"],
    },
}  # fmt: skip
"""What differs from `digits`, whose images turn by 30 degrees at once on all devices."""


def one(case: str, seed: int) -> dict[str, Any]:
    """One run."""
    with tempfile.TemporaryDirectory() as folder:
        changes = COMMON | CASES[case] | {"scenario.seed": seed}
        record = fedinfer.run("digits", out=Path(folder) / "run", progress=False, **changes).record
    return {"case": case, "seed": seed} | figures(record, int(changes["drift.inject.at_window"]))


def figures(record: Mapping[str, Any], at: int) -> dict[str, Any]:
    """What a run record says about its change."""
    timeline, privacy = record["drift"]["timeline"], record["privacy"]
    metrics = [row["metric"] for row in timeline]
    healed = [model["window"] for model in record["models"] if model["reason"] == "drift"]
    alarms = [alarm["window"] for alarm in record["drift"]["alarms"]]
    late = [window for window in alarms if window >= at]
    before = statistics.fmean(metrics[: at - 1])
    during = min(metrics[at - 1 : (healed[-1] if healed else len(metrics))])
    after = statistics.fmean(metrics[-2:])
    return {
        "before": before,
        "during": during,
        "after": after,
        "back": (after - during) / (before - during) if before > during else math.nan,
        "delay": late[0] - at + 1 if late else None,
        "false_alarm": any(window < at for window in alarms),
        "channels": sorted({alarm["channel"] for alarm in record["drift"]["alarms"] if alarm["window"] >= at}),
        "retrained": len(healed),
        "epsilon": privacy["epsilon"],
        "epsilon_watching": privacy["drift_epsilon"],
    }


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """One line per case."""
    lines = [
        "| change | runs | before | during | after | back (median) | 90 % back | seen | median delay | retrained "
        "| epsilon of it all, of watching |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    known = list(rows)
    for case in CASES:
        mine = [row for row in known if row["case"] == case]
        if not mine:
            continue
        mean = {name: statistics.fmean(row[name] for row in mine) for name in ("before", "during", "after")}
        back = [row["back"] for row in mine]
        delays = [row["delay"] for row in mine if row["delay"] is not None]
        delay = f"{statistics.median(delays):g}" if delays else "-"
        lines.append(
            f"| {case} | {len(mine)} | {mean['before']:.3f} | {mean['during']:.3f} | {mean['after']:.3f} "
            f"| {statistics.median(back):.2f} | {sum(part >= 0.9 for part in back)} of {len(mine)} "
            f"| {len(delays)} of {len(mine)} | {delay} | {statistics.fmean(row['retrained'] for row in mine):.1f} "
            f"| {mine[0]['epsilon']:.2f}, {mine[0]['epsilon_watching']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run what is missing and show the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=";".join(CASES), help="names, separated by semicolons")
    parser.add_argument("--seeds", type=int, default=20, help="runs of each case")
    parser.add_argument("--out", type=Path, default=Path("drift-recovery.jsonl"), help="results, one line per run")
    parser.add_argument("--table", action="store_true", help="run nothing, show what --out holds")
    chosen = parser.parse_args()
    rows = [json.loads(line) for line in chosen.out.read_text().splitlines()] if chosen.out.exists() else []
    done = {(row["case"], row["seed"]) for row in rows}
    for seed in range(1, chosen.seeds + 1) if not chosen.table else ():
        for case in chosen.cases.split(";"):
            if (case, seed) in done:
                continue
            rows.append(one(case, seed))
            with chosen.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print(json.dumps(rows[-1]), flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
