"""Every model kind goes the whole way on real rows: private rounds, export, gates, signed push, prediction on a device.

Fleets and rounds are tiny, so nothing is said about how good the models are; docs/model-kinds.md has those figures.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from fedinfer.config import ModelKind, load_scenario
from fedinfer.data import load
from fedinfer.inference.install.installed import Installed, open_installed
from fedinfer.inference.install.slots import Slots
from fedinfer.inference.predict.session import SessionCache
from fedinfer.simulation.engine import DEVICES_FOLDER, Prepared, run_local
from fedinfer.system import SystemClock
from fedinfer.text import raw_rows
from fedinfer.training import load_trainer
from fedinfer.training.checkpoints import load_checkpoint
from fedinfer.types import Json

pytestmark = pytest.mark.slow
DEVICES = 6
ROWS = 60
KINDS = {
    "logistic": ("heart", "[1]"),
    "linear": ("deliveries", "[1]"),
    "additive": ("churn", "[1]"),
    "mlp": ("credit", "[16]"),
    "cnn": ("digits", "[8,8]"),
    "tcn": ("watch", "[8,8]"),
    "gru": ("watch", "[8]"),
    "bag": ("reviews", "[8]"),
    "transformer": ("reviews", "[8]"),
    "recommender": ("ratings", "[2]"),
}
DEALT = {"credit", "deliveries", "digits", "reviews"}
"""Scenarios whose rows name no devices."""


@dataclass(frozen=True, slots=True)
class Outcome:
    prepared: Prepared
    record: Json
    installed: Installed
    float_probabilities: np.ndarray


def small(kind: str) -> Prepared:
    """A few devices of the scenario, with a few rows each, asked for two rounds."""
    name, hidden = KINDS[kind]
    tiny = (
        "training.rounds=2",
        "training.cohort=0",
        "training.pretrain=false",
        "drift.enabled=false",
        "report.pooled=false",
    )
    private = ("privacy.unit=example", "privacy.epsilon=100", "privacy.delta=1e-5", "secure_aggregation.mode=ideal")
    dealt = (f"data.partition.devices={DEVICES}",) if name in DEALT else ()
    fleet = (*dealt, "fleet.dropout=0", "rollout.canary_epsilon=0")
    changes = [f"model.kind={kind}", f"model.hidden={hidden}", *tiny, *private, *fleet]
    scenario = load_scenario(name, changes)
    whole = load(scenario)
    richest = sorted(whole.devices.items(), key=lambda item: (-len(item[1].train_y), item[0]))
    devices = {
        device: replace(data, train_x=data.train_x[:ROWS], train_y=data.train_y[:ROWS])
        for device, data in sorted(islice(richest, DEVICES))
    }
    test = tuple(np.concatenate([getattr(data, part) for data in devices.values()]) for part in ("test_x", "test_y"))
    return Prepared(scenario, replace(whole, devices=devices, test=(test[0], test[1])))


@pytest.fixture(scope="module", params=list(KINDS))
def outcome(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    prepared, folder = small(request.param), tmp_path_factory.mktemp(request.param)
    record = run_local(prepared, folder, SystemClock(), lambda name, fields: None)
    scenario, federation = prepared.scenario, prepared.federation
    trainer = load_trainer(scenario.model, federation.schema, scenario.training, scenario.scenario.seed)
    weights = load_checkpoint(folder / "checkpoints" / "v1.npz").arrays["weights"]
    return Outcome(
        prepared, record, on_device(folder, max(federation.devices)), trainer.predict(weights, federation.test[0])
    )


def on_device(folder: Path, device: str) -> Installed:
    return open_installed(Slots(folder / DEVICES_FOLDER / device / "slots"), SessionCache(1))


def test_every_kind_is_here() -> None:
    assert set(KINDS) == {str(kind) for kind in ModelKind}


def test_rounds_are_private_and_released(outcome: Outcome) -> None:
    record = outcome.record
    assert record["status"] == "completed"
    assert [row["status"] for row in record["rounds"]] == ["released", "released"]
    assert 0 < record["privacy"]["epsilon"] <= 100
    assert record["privacy"]["private"]


def test_every_device_runs_the_gated_file(outcome: Outcome) -> None:
    (model,) = outcome.record["models"]
    assert model["devices_active"] == len(outcome.prepared.federation.devices)
    assert model["agreement"] >= outcome.prepared.scenario.artifact.min_agreement
    assert lost(outcome, model) <= outcome.prepared.scenario.artifact.max_metric_drop
    assert model["sha256"] == outcome.installed.manifest.variants[0].sha256


def lost(outcome: Outcome, model: Json) -> float:
    """Loss of the metric by quantization; of an error as a part of the label's range."""
    drop = model["float_metric"] - model["quantized_metric"]
    bounds = outcome.prepared.federation.schema.label_range
    return float(drop if bounds is None else -drop / (bounds[1] - bounds[0]))


def test_the_device_answers_as_the_trained_model_does(outcome: Outcome) -> None:
    x, y = outcome.prepared.federation.test
    raw = raw_rows(outcome.prepared.federation.schema, x)
    answers = outcome.installed.predictor.predict(raw)
    bounds = outcome.prepared.federation.schema.label_range
    if bounds is not None:
        close = np.abs(answers.values - outcome.float_probabilities[:, 0]) <= 0.02 * (bounds[1] - bounds[0])
        assert close.mean() >= 0.95
        assert bounds[0] <= answers.values.min() <= answers.values.max() <= bounds[1]
        assert outcome.installed.predictor.predict_one(raw[0]).value == pytest.approx(
            float(answers.values[0]), abs=1e-3
        )
        return
    assert answers.probabilities.shape == (len(y), outcome.prepared.federation.schema.classes)
    np.testing.assert_allclose(answers.probabilities.sum(axis=1), 1.0, atol=1e-5)
    trained = outcome.float_probabilities.argmax(axis=1)
    assert (answers.probabilities.argmax(axis=1) == trained).mean() >= 0.95
    alone = outcome.installed.predictor.predict_one(raw[0])
    assert alone.label in outcome.prepared.federation.schema.labels


def test_every_variant_says_its_recipe_and_the_float_file_stays_in_reach(outcome: Outcome) -> None:
    variants = {variant.name: variant for variant in outcome.installed.manifest.variants}
    assert variants["float"].recipe == "float"
    assert all(variant.recipe and variant.bytes > 0 for variant in variants.values())
    assert min(variant.bytes for variant in variants.values()) <= variants["float"].bytes
