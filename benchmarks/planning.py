"""What the planner of `fedinfer init` leaves unused: its choice beside the best setting of a sweep, on real tables.

Real rows of two classes, or with a number for a label, are trained on as a run does it, with the noise of the run's
plan added to the sums (`fedinfer.planning.trial`): no keys, no export. Every number of rounds, kind of model and
setting that the planner knows is tried, `SEEDS` times.

    python benchmarks/planning.py [TABLE ...]
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tables import TABLES

from fedinfer.cli.init import proposed
from fedinfer.config import ModelKind, ModelSection, parse_scenario
from fedinfer.data import Federation, load
from fedinfer.errors import ConfigError
from fedinfer.planning.facts import facts_of
from fedinfer.planning.search import DEVICE_SETTINGS, SETTINGS, _terms, _tried, _whole_devices, kinds_of
from fedinfer.planning.trial import Setting, TrialRows, TrialTerms, scores
from fedinfer.training.models.build import build_model

USUAL = (
    "credit_data", "mlc_churn", "breast_cancer", "attrition", "Default", "HMDA", "spam7", "curved", "Caravan", "OJ",
    "lending_club", "HealthInsurance", "TitanicSurvival", "straight", "rare", "Mroz", "email", "SmokeBan", "medpar",
    "wa_churn", "cells", "nassCDS", "concrete", "CPS1988", "many",
)  # fmt: skip
"""The planner was made with the first sixteen."""
SEEDS = 3


def main() -> int:
    results = {}
    for name in sys.argv[1:] or USUAL:
        read, label, device = TABLES[name]
        with tempfile.TemporaryDirectory() as folder:
            results[name] = compared(Path(folder), read(), label, device)
        print(name, json.dumps(results[name]), flush=True)
    lost = [row["lost"] for row in results.values()]
    print(json.dumps({"mean_lost": round(float(np.mean(lost)), 4), "most_lost": max(lost), "tables": results}))
    return 0


def compared(folder: Path, frame: Any, label: str, device: str) -> dict[str, Any]:
    frame.to_csv(folder / "table.csv", index=False)
    _, defaults, text = proposed(folder / "table.csv", folder / "m", label, device, header=True, label_above=None)
    scenario = parse_scenario(text, folder / "m", "m")
    federation = load(scenario)
    facts = facts_of(federation)
    settings = DEVICE_SETTINGS if _whole_devices(scenario.privacy.unit) else SETTINGS
    swept: dict[tuple[int, ModelKind], npt.NDArray[Any]] = {}
    for kind, dimension in kinds_of(facts).items():
        train, judged = rows_of(federation, kind, held_out=False), rows_of(federation, kind, held_out=True)
        for rounds in _tried(scenario, facts):
            try:
                terms = _terms(scenario, facts, dimension, rounds)
            except ConfigError:  # refused for its time, or beyond the budget: no run could have it
                continue
            swept[rounds, kind] = mean_scores(train, judged, settings, terms)
    ours = float(swept[defaults.rounds, defaults.kind][settings.index(defaults.setting)])
    best = max(swept, key=lambda tried: float(swept[tried].max()))
    return {
        "rows": facts.rows,
        "epsilon": scenario.privacy.epsilon,
        "kind": str(defaults.kind),
        "rounds": defaults.rounds,
        "defaults": round(ours, 3),
        "best": round(float(swept[best].max()), 3),
        "best_kind": str(best[1]),
        "best_rounds": best[0],
        "lost": round(float(swept[best].max()) - ours, 3),
    }


def rows_of(federation: Federation, kind: ModelKind, *, held_out: bool) -> TrialRows:
    devices = federation.devices.values()
    x = federation.test[0] if held_out else np.concatenate([device.train_x for device in devices])
    y = federation.test[1] if held_out else np.concatenate([device.train_y for device in devices])
    model = build_model(ModelSection(kind=kind), federation.schema, 1)
    prepared = model.prepare(torch.from_numpy(np.array(x, np.float32))).numpy()
    features = np.concatenate([prepared, np.ones((len(x), 1), np.float32)], axis=1)
    if federation.schema.label_range is None:
        return TrialRows(features, y.astype(np.float32), number=False)
    low, high = federation.schema.label_range
    return TrialRows(features, (2 * (np.clip(y, low, high) - low) / (high - low) - 1).astype(np.float32), number=True)


def mean_scores(
    train: TrialRows, judged: TrialRows, settings: tuple[Setting, ...], terms: TrialTerms
) -> npt.NDArray[Any]:
    found = [scores(train, judged, settings, terms, np.random.default_rng(seed)) for seed in range(SEEDS)]
    return np.mean(found, axis=0)


if __name__ == "__main__":
    sys.exit(main())
