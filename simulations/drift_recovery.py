"""Does the loop heal: the metric before a change of the data, during it and after it, over seeds.

Whole runs, privacy per device, whose world changes in different ways; the fleet is told nothing and notices by its
private reports. What was lost is the metric before less the least of the windows between the change and the last new
version, `back` the part of it that the last two windows have again; of worlds that come and go, the last two windows
before every further change count, and the least part of all. Where the best model of the new world is another one also
in principle, it is counted from the `ceiling` instead: the same model, trained on all devices' rows of the new world
in one place without privacy. A series changes by itself and all the time: over the windows after the first new version
`during` is what the first version would have been worth, `after` what the loop was, and the `ceiling` is a logistic
regression that is trained anew before every window, on the newest rows of all devices in one place without privacy.
The seed changes the rows or who holds them, the noise and the draw of everything. Results are appended to --out line by
line, so a run that was stopped goes on. The last line is one JSON object.

    python simulations/drift_recovery.py [--cases "abrupt;gradual"] [--seeds 20] [--out drift-recovery.jsonl]
    python simulations/drift_recovery.py --table --out drift-recovery.jsonl
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from _drifting_worlds import DRAWN, TABLE, World, region_devices, scenario_of
from sklearn.linear_model import LogisticRegression

import fedinfer
from fedinfer.data import load
from fedinfer.schema import Categorical, Schema
from fedinfer.simulation.population import simulated_rows
from fedinfer.training import load_checkpoint, load_trainer

Rows = tuple[npt.NDArray[Any], npt.NDArray[Any]]
RECOVERED = 0.9
"""Part of what was lost that must be back."""
LOST = 0.1
"""A series has changed in the first window in which the first version is worth so much less than at first."""

COMMON: dict[str, Any] = {"secure_aggregation.mode": "ideal"}
"""The integers of secure sums are the same as with `protocol`, in a tenth of the time."""
DIGITS: dict[str, Any] = {"drift.inject.at_window": 4}
RECURRING: dict[str, Any] = {
    "drift.inject.kind": "shift", "drift.inject.amount": 0.1, "drift.inject.shape": "recurring",
    "drift.inject.at_window": 4, "drift.inject.over": 6, "drift.windows": 21, "drift.max_triggers": 2,
    "drift.after_windows": 3,
}  # fmt: skip
REGION: dict[str, Any] = {
    "drift.inject.kind": "shift", "drift.inject.amount": 0.15, "drift.inject.devices": region_devices("north"),
    "training.server_learning_rate": 2.0, "drift.rounds": 25,
    "drift.inject.at_window": 9, "drift.windows": 13, "drift.channels": ["predicted_class", "confidence", "flags"],
}  # fmt: skip
SERIES: dict[str, Any] = TABLE | {
    "drift.channels": ["predicted_class", "confidence", "errors"], "drift.reference_windows": 2,
    "drift.max_triggers": 2, "drift.after_windows": 3, "drift.epsilon": 5.0, "training.metric": "accuracy",
}  # fmt: skip
CASES: dict[str, World] = {
    "abrupt": World("digits", DIGITS),
    "gradual": World(
        "digits",
        DIGITS
        | {
            "drift.inject.shape": "gradual", "drift.inject.over": 3, "drift.windows": 9,
            "drift.after_windows": 4, "privacy.epsilon": 12.0, "drift.settle_windows": 2,
        },
    ),
    "concept": World(
        "digits",
        DIGITS
        | {
            "drift.inject.kind": "label", "drift.inject.amount": 1.0, "drift.rounds": 25, "privacy.epsilon": 16.0,
            "drift.channels": ["predicted_class", "confidence", "errors"],
        },
    ),
    "recurring": World("", DRAWN | RECURRING | {"drift.reuse": True}, returns=(10, 16)),
    "recurring, only trained": World("", DRAWN | RECURRING, returns=(10, 16)),
    "one region": World("", TABLE | REGION, regions=True),
    "one region, unknown to the model": World("", TABLE | REGION, regions=False),
    "label shift": World(
        "",
        DRAWN
        | {
            "data.synthetic.noise": 0.5, "drift.inject.kind": "prior", "drift.inject.amount": 0.95,
            "drift.inject.at_window": 4, "drift.windows": 12, "training.rounds": 20, "drift.rounds": 25,
        },
        by_ceiling=True,
    ),
    "demand for electricity, a year": World(
        "",
        SERIES
        | {
            "data.partition.devices": 240, "data.test_fraction": 0.863, "drift.window": 4, "drift.windows": 15,
        },
        series="electricity",
    ),
    "riders of a station, 13 years": World(
        "",
        SERIES
        | {
            "data.partition.devices": 100, "data.test_fraction": 0.86, "drift.window": 4, "drift.windows": 12,
            "drift.settle_windows": 1,
        },
        series="riders",
    ),
}  # fmt: skip
"""What happens: `digits` turns by 30 degrees, the label of `concept` means the next digit, drawn tables shift."""


def one(case: str, seed: int) -> dict[str, Any]:
    """One run."""
    world = CASES[case]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        changes = COMMON | dict(world.changes) | {"scenario.seed": seed}
        path = scenario_of(world, seed, folder)
        record = fedinfer.run(path, out=folder / "run", progress=False, **changes).record
        found = figures(record, world)
        if world.series:
            found |= of_series(record, *without_the_loop(path, changes, folder / "run", record))
    return {"case": case, "seed": seed} | found


def without_the_loop(
    path: str, changes: Mapping[str, Any], run: Path, record: Mapping[str, Any]
) -> tuple[list[float], list[float]]:
    """What the first version, and a model that is trained anew all the time, would have been worth in every window."""
    scenario = fedinfer.load_scenario(path, [f"{key}={json.dumps(value)}" for key, value in changes.items()])
    federation = load(scenario)
    rows = simulated_rows(scenario, federation)
    trainer = load_trainer(scenario.model, federation.schema, scenario.training, scenario.scenario.seed)
    weights = load_checkpoint(run / "checkpoints" / "v1.npz").arrays["weights"]
    windows = range(1, len(record["drift"]["timeline"]) + 1)
    stale = [float(trainer.evaluate(weights, *rows.all_streams(window))["accuracy"]) for window in windows]
    fresh = [best_model(federation.schema, rows.pooled(w - 1)).score(*shown(federation.schema, rows.all_streams(w)))
             for w in windows]  # fmt: skip
    return stale, fresh


def best_model(schema: Schema, rows: Rows) -> LogisticRegression:
    """Trained on rows in one place, without privacy."""
    return LogisticRegression(C=10.0, max_iter=1000).fit(*shown(schema, rows))


def shown(schema: Schema, rows: Rows) -> Rows:
    """Rows as a linear model takes them: numbers in units of their range, one column per category."""
    x, y = rows
    parts = [
        np.eye(len(column.categories))[x[:, place].astype(int)]
        if isinstance(column, Categorical)
        else (x[:, place : place + 1] - column.low) / (column.high - column.low)
        for place, column in enumerate(schema.columns)
    ]
    return np.concatenate(parts, axis=1), y


def of_series(record: Mapping[str, Any], stale: Sequence[float], fresh: Sequence[float]) -> dict[str, Any]:
    """What of a series differs from other worlds."""
    metrics = [row["metric"] for row in record["drift"]["timeline"]]
    first = next((model["window"] for model in record["models"] if model["reason"] != "initial"), len(metrics) - 1)
    during, after, ceiling = (statistics.fmean(each[first:]) for each in (stale, metrics, fresh))
    return {
        "before": statistics.fmean(metrics[:2]),
        "during": during,
        "after": after,
        "ceiling": ceiling,
        "back": (after - during) / (ceiling - during) if ceiling > during else math.nan,
        "delay": first - 1 - next((place for place, value in enumerate(stale) if value < metrics[0] - LOST), first - 1),
        "stale": stale,
        "fresh": fresh,
    }


def figures(record: Mapping[str, Any], world: World) -> dict[str, Any]:
    """What a run record says about its change."""
    timeline, privacy = record["drift"]["timeline"], record["privacy"]
    metrics = [row["metric"] for row in timeline]
    healed = [model["window"] for model in record["models"] if model["reason"] != "initial"]
    alarms = [alarm["window"] for alarm in record["drift"]["alarms"]]
    late = [window for window in alarms if window >= world.at]
    ceiling = record.get("pooled", {}).get("value")
    before = ceiling if world.by_ceiling else statistics.fmean(metrics[: world.at - 1])
    during = min(metrics[world.at - 1 : (healed[-1] if healed else len(metrics))])
    ends = (*(window - 1 for window in world.returns), len(metrics))
    afters = [statistics.fmean(metrics[end - 2 : end]) for end in ends]
    return {
        "before": before,
        "during": during,
        "after": min(afters),
        "ceiling": ceiling,
        "back": (min(afters) - during) / (before - during) if before > during else math.nan,
        "delay": late[0] - world.at + 1 if late else None,
        "false_alarm": any(window < world.at for window in alarms),
        "channels": sorted({alarm["channel"] for alarm in record["drift"]["alarms"] if alarm["window"] >= world.at}),
        "retrained": sum(model["reason"] == "drift" for model in record["models"]),
        "reused": sum(model["reason"] == "reuse" for model in record["models"]),
        "metrics": metrics,
        "epsilon": privacy["epsilon"],
        "epsilon_watching": privacy["drift_epsilon"],
    }


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """One line per case."""
    lines = [
        "| change | runs | before | during | after | ceiling | back (median) | 90 % back | seen | median delay "
        "| trained, reused | epsilon of it all, of watching |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    known = list(rows)
    for case in CASES:
        mine = [row for row in known if row["case"] == case]
        if mine:
            lines.append(_line(case, mine))
    return "\n".join(lines)


def _line(case: str, mine: Sequence[Mapping[str, Any]]) -> str:
    mean = {
        name: statistics.fmean(row[name] for row in mine)
        for name in ("before", "during", "after", "retrained", "reused")
    }
    ceilings = [row["ceiling"] for row in mine if row["ceiling"] is not None]
    back = [row["back"] for row in mine]
    delays = [row["delay"] for row in mine if row["delay"] is not None]
    delay = f"{statistics.median(delays):g}" if delays else "-"
    spent = statistics.fmean(row["epsilon"] for row in mine)
    return (
        f"| {case} | {len(mine)} | {mean['before']:.3f} | {mean['during']:.3f} | {mean['after']:.3f} "
        f"| {f'{statistics.fmean(ceilings):.3f}' if ceilings else '-'} "
        f"| {statistics.median(back):.2f} | {sum(part >= RECOVERED for part in back)} of {len(mine)} "
        f"| {len(delays)} of {len(mine)} | {delay} | {mean['retrained']:.1f}, {mean['reused']:.1f} "
        f"| {spent:.2f}, {mine[0]['epsilon_watching']:.2f} |"
    )


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
    backs = {case: [row["back"] >= RECOVERED for row in rows if row["case"] == case] for case in CASES}
    print(json.dumps({case: {"runs": len(each), "recovered": sum(each)} for case, each in backs.items() if each}))


if __name__ == "__main__":
    main()
