"""Runs on tables with a rare class: what the record says of the model, and that nothing of it steers the run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, confusion_matrix

from fedinfer.config import Scenario, load_scenario
from fedinfer.inference.install.installed import open_installed
from fedinfer.inference.install.slots import Slots
from fedinfer.inference.predict.session import SessionCache
from fedinfer.report import found_classes, verdict
from fedinfer.simulation.engine import DEVICES_FOLDER, prepare_local
from fedinfer.types import Json
from tests.scenarios.runs import run, without_times

pytestmark = pytest.mark.slow
SCENARIO = """
[data]
source = "csv"
path = "rows.csv"
label = "fraud"
public_fraction = 0.2
[data.ranges]
a = [-4, 8]
b = [-4, 8]
[data.categories]
sex = ["F", "M"]
[data.partition]
devices = 6
[training]
rounds = 12
server_optimizer = "fedadam"
server_learning_rate = 0.2
[privacy]
unit = "example"
epsilon = 4.0
delta = 1e-5
[artifact]
max_metric_drop = 0.2
min_agreement = 0.8
[drift]
enabled = false
[report]
groups = ["sex"]
"""


def table(folder: Path, signal: float, share: float, rows: int = 2400) -> Path:
    """A class that holds a small share of the rows, and two columns that say more or less of it."""
    rng = np.random.default_rng(11)
    y = (rng.random(rows) < share).astype(int)
    a, b = rng.normal(signal * y, 1.0), rng.normal(0.5 * signal * y, 1.0)
    sex = rng.choice(["F", "M"], rows)
    lines = [f"{p:.3f},{q:.3f},{s},{label}" for p, q, s, label in zip(a, b, sex, y, strict=True)]
    (folder / "rows.csv").write_text("\n".join(["a,b,sex,fraud", *lines]) + "\n")
    (folder / "scenario.toml").write_text(SCENARIO)
    return folder / "scenario.toml"


def wanted(path: Path, *overrides: str) -> Scenario:
    return load_scenario(str(path), list(overrides))


def finding(record: Json) -> int:
    return int(record["judgement"]["confusion"][1][1])


def test_a_model_that_learned_nothing_is_not_praised(tmp_path: Path) -> None:
    record = run(wanted(table(tmp_path, 0.0, 0.01)), tmp_path / "run").record
    assert record["task"]["metric"] == "average_precision"
    assert record["judgement"]["better"] is False
    assert verdict(record).startswith('No better than always answering "0"')
    assert "never answers" in found_classes(record)


def test_a_threshold_from_public_rows_finds_the_rare_class_on_the_devices_too(tmp_path: Path) -> None:
    path = table(tmp_path, 2.0, 0.06)
    plain = run(wanted(path), tmp_path / "plain")
    chosen = run(wanted(path, 'training.threshold="public"'), tmp_path / "chosen")
    assert chosen.record["judgement"]["better"] is True
    assert finding(chosen.record) > finding(plain.record)
    assert finding(chosen.record) >= 20
    _same_as_on_a_device(chosen.folder, chosen.record, wanted(path))


def test_balanced_weights_find_the_rare_class_and_cost_no_privacy(tmp_path: Path) -> None:
    path = table(tmp_path, 2.0, 0.06)
    plain = run(wanted(path), tmp_path / "plain").record
    balanced = run(wanted(path, 'training.class_weights="balanced"'), tmp_path / "balanced").record
    assert balanced["privacy"]["epsilon"] == plain["privacy"]["epsilon"]
    assert balanced["judgement"]["recall"][1] > 0.7 > plain["judgement"]["recall"][1]
    assert balanced["judgement"]["scores"]["balanced_accuracy"] > 0.75


def _same_as_on_a_device(folder: Path, record: Json, scenario: Scenario) -> None:
    """The confusion of the record is that of a device's own answers; the figure is scikit-learn's."""
    federation = prepare_local(scenario).federation
    device = min(federation.devices)
    installed = open_installed(Slots(folder / DEVICES_FOLDER / device / "slots"), SessionCache(2))
    data = [federation.devices[name] for name in sorted(federation.devices)]
    x, y = np.concatenate([part.test_x for part in data]), np.concatenate([part.test_y for part in data])
    answers = installed.predictor.predict(x)
    assert confusion_matrix(y, answers.classes).tolist() == record["judgement"]["confusion"]
    known = average_precision_score(y, answers.probabilities[:, 1])
    assert record["judgement"]["value"] == pytest.approx(known, abs=1e-6)
    assert installed.predictor.naming.threshold == pytest.approx(record["judgement"]["threshold"], abs=1e-6)


def test_the_record_has_devices_groups_and_the_pooled_model(tmp_path: Path) -> None:
    record = run(wanted(table(tmp_path, 2.0, 0.3)), tmp_path / "run").record
    judged = record["judgement"]
    assert record["task"]["metric"] == "accuracy"
    assert sum(row["rows"] for row in judged["devices"]) == judged["rows"]
    assert [group["name"] for group in judged["groups"][0]["groups"]] == ["F", "M"]
    assert record["pooled"]["value"] >= judged["value"] - 0.02
    assert record["pooled"]["rows"] + judged["rows"] == pytest.approx(0.8 * 2400, abs=6)
    json.dumps(record, allow_nan=False)


def test_what_is_only_looked_at_changes_nothing(tmp_path: Path) -> None:
    path = table(tmp_path, 2.0, 0.3)
    looked = run(wanted(path), tmp_path / "looked").record
    not_looked = run(wanted(path, "report.pooled=false", "report.groups=[]"), tmp_path / "not").record
    assert not_looked["pooled"] == {}
    for key in ("rounds", "models", "metrics", "privacy", "inference"):
        left, right = without_times(looked[key]), without_times(not_looked[key])
        for side in (left, right):
            for model in side if key == "models" else ():
                model.pop("pushed", None), model.pop("sha256", None)
        assert left == right, key
