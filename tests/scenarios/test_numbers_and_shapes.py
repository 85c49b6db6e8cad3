"""The two scenarios of numbers and of glass-box models, whole: rounds, gates, push, drift windows, answers, page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fedinfer.config import load_scenario
from fedinfer.inference import SessionCache, Slots, explain, open_installed, reference_row
from fedinfer.report import write_report
from fedinfer.simulation.engine import DEVICES_FOLDER, Prepared, prepare_local, run_local
from fedinfer.system import SystemClock
from fedinfer.types import Json

pytestmark = pytest.mark.slow
QUICK = ("secure_aggregation.mode=ideal", "drift.windows=4", "privacy.epsilon=1")


def whole(name: str, folder: Path, *changes: str) -> tuple[Prepared, Json]:
    prepared = prepare_local(load_scenario(name, [*QUICK, *changes]))
    return prepared, run_local(prepared, folder, SystemClock(), lambda name, fields: None)


@pytest.fixture(scope="module", params=["additive", "linear"])
def deliveries(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp(request.param)
    alone = () if request.param == "additive" else ("model.pairs=[]",)
    return request.param, folder, *whole("deliveries", folder, f"model.kind={request.param}", *alone)


def test_minutes_are_predicted_and_watched(deliveries) -> None:
    kind, _, prepared, record = deliveries
    assert record["status"] == "completed"
    assert record["task"]["kind"] == "regression"
    assert record["privacy"]["epsilon"] <= 1.0
    assert record["metrics"]["r2"] > {"additive": 0.7, "linear": 0.45}[kind]
    assert record["drift"]["windows"] == 4
    assert not record["drift"]["alarms"]
    y = prepared.federation.test[1]
    assert record["metrics"]["rmse"] < 0.8 * y.std()


def test_the_device_gives_minutes_with_an_interval_that_holds(deliveries) -> None:
    _, folder, prepared, record = deliveries
    device = min(prepared.federation.devices)
    installed = open_installed(Slots(folder / DEVICES_FOLDER / device / "slots"), SessionCache(1))
    x, y = prepared.federation.test
    answers = installed.predictor.predict(x)
    assert np.sqrt(np.mean((answers.values - y) ** 2)) == pytest.approx(
        record["models"][-1]["quantized_metric"], rel=1e-3
    )
    low, high = answers.intervals.T
    assert 0.86 < ((low <= y) & (y <= high)).mean() < 0.95
    assert installed.predictor.predict_one(x[0]).interval is not None


def test_shifted_inputs_are_seen_in_the_predicted_values(tmp_path: Path) -> None:
    """Distances jump from window 4 on; the histogram of predicted minutes moves with them."""
    change = ("drift.inject.kind=shift", "drift.inject.amount=0.5", "drift.inject.column=distance")
    when = ("drift.inject.at_window=4", "drift.windows=6", "drift.max_triggers=0")
    strong = ("drift.epsilon=3", "privacy.epsilon=6", "training.rounds=30", "drift.window=40")
    _, record = whole("deliveries", tmp_path, *change, *when, *strong)
    assert record["drift"]["alarms"]
    assert {alarm["channel"] for alarm in record["drift"]["alarms"]} == {"value"}


def test_the_glass_box_beats_the_pooled_line_at_epsilon_one(tmp_path: Path) -> None:
    """Pooled logistic regression without privacy has AUC .836 on this table, boosted trees .93."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.preprocessing import StandardScaler

    prepared, record = whole("churn", tmp_path, "drift.enabled=false")
    held = prepared.federation
    train = [np.concatenate([getattr(d, part) for d in held.devices.values()]) for part in ("train_x", "train_y")]
    scaler = StandardScaler().fit(train[0])
    line = LogisticRegression(max_iter=500).fit(scaler.transform(train[0]), train[1])
    pooled = roc_auc_score(held.test[1], line.predict_proba(scaler.transform(held.test[0]))[:, 1])
    assert record["privacy"]["epsilon"] <= 1.0
    assert record["metrics"]["auc"] > pooled
    installed = open_installed(Slots(tmp_path / DEVICES_FOLDER / min(held.devices) / "slots"), SessionCache(1))
    x = held.test[0][:50]
    reasons, answers = (
        explain(installed.predictor, x, reference_row(installed.manifest)),
        installed.predictor.predict(x),
    )
    odds = np.log(answers.raw.max(axis=1) / answers.raw.min(axis=1))
    np.testing.assert_allclose(reasons.attributions.sum(axis=1) + reasons.intercepts, odds, atol=1e-3)
    run = json.loads((tmp_path / "run.json").read_text())
    assert len(run["shapes"]) == 13 + 4
    assert all(np.all(np.array(shape["band"]) > 0) for shape in run["shapes"])
    page = write_report(tmp_path).read_text()
    assert "What the model has learned" in page
    assert "total_day_minutes" in page
