"""A rare class, the threshold chosen by a private histogram: charged, stated, better than the likeliest class."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from fedinfer.config import Scenario, load_scenario
from fedinfer.privacy import Ledger
from fedinfer.report.limits import besides
from fedinfer.store import read_store
from tests.scenarios.runs import run

pytestmark = pytest.mark.slow
SCENARIO = """
[data]
source = "csv"
path = "t.csv"
label = "y"
labels = ["no", "yes"]
device = "site"
ranges_confirmed = true
[data.ranges]
a = [-4, 4]
b = [-4, 4]
[model]
kind = "logistic"
[training]
rounds = 12
sampling_rate = 1.0
server_optimizer = "fedadam"
server_learning_rate = 0.2
threshold = "private"
threshold_epsilon = 1.0
metric = "average_precision"
[privacy]
epsilon = 2.0
delta = 1e-5
clipping_norm = 1.0
[drift]
enabled = false
[secure_aggregation]
mode = "ideal"
[artifact]
max_metric_drop = 0.3
"""


def scenario(folder: Path, *overrides: str) -> Scenario:
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(2, 6000))
    rare = 1.5 * a + b - 3.6 + rng.logistic(size=6000) > 0
    labels = np.where(rare, "yes", "no")
    lines = [f"{x:.3f},{z:.3f},s{row % 6},{y}" for row, (x, z, y) in enumerate(zip(a, b, labels, strict=True))]
    (folder / "t.csv").write_text("a,b,site,y\n" + "\n".join(lines) + "\n")
    (folder / "scenario.toml").write_text(SCENARIO)
    return load_scenario(str(folder), list(overrides))


def test_a_rare_class_is_answered(tmp_path: Path) -> None:
    chosen = run(scenario(tmp_path), tmp_path / "chosen")
    assert chosen.failure is None
    even = run(scenario(tmp_path, "training.threshold=0.5"), tmp_path / "even")
    model = chosen.record["models"][0]
    assert 0.05 < model["threshold"] < 0.45
    found, usual = (done.record["judgement"]["scores"]["f1"] for done in (chosen, even))
    assert found > usual + 0.05
    assert chosen.record["statement"]["thresholds"] == 1
    assert float(chosen.record["statement"]["thresholds_epsilon"]) == pytest.approx(1.0, abs=0.02)
    # Held-out rows are not trained on: the whole costs no more than the training alone.
    noises = [done.record["privacy"]["noise_multiplier"] for done in (chosen, even)]
    assert noises[0] == pytest.approx(noises[1], rel=1e-5)
    assert "thresholds" not in even.record["statement"]
    with closing(read_store(chosen.folder / "ledger.sqlite")) as connection:
        entries = [entry.reference for entry in Ledger(connection).entries("server")]
    assert [name for name in entries if name.startswith("threshold")] == ["threshold-0001"]
    assert "1 private choice of a decision threshold (epsilon" in besides(chosen.record["statement"])
    assert json.loads((chosen.folder / "run.json").read_text())["privacy"]["threshold_noise_multiplier"] > 0


def test_without_rows_enough_the_likeliest_class_is_answered_and_the_run_says_why(tmp_path: Path) -> None:
    done = run(scenario(tmp_path, "training.threshold_epsilon=0.02"), tmp_path / "run")
    assert done.failure is None
    assert done.record["models"][0]["threshold"] == 0.5
    assert any("no private threshold, its noise hides" in warning for warning in done.record["warnings"])


def test_whole_devices_pay_for_it(tmp_path: Path) -> None:
    more = ("privacy.unit=device", "privacy.epsilon=60.0", "training.threshold_epsilon=20.0", "training.rounds=2")
    done = run(scenario(tmp_path, *more), tmp_path / "run")
    assert done.failure is None
    bare = run(scenario(tmp_path, *more, "training.threshold=0.5"), tmp_path / "bare")
    assert done.record["privacy"]["noise_multiplier"] > bare.record["privacy"]["noise_multiplier"]
    assert done.record["privacy"]["epsilon"] <= 60.0
