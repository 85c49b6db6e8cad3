"""A look at a new model through real devices: what they refuse, what they answer, what it costs them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedinfer.coordinator.aggregate.secure_sum import AbortedSum, Total
from fedinfer.coordinator.plan.sum_settings import SumSettings
from fedinfer.device import canary as device_looks
from fedinfer.device.canary import canary_answers
from fedinfer.errors import GateFailed
from fedinfer.inference.install.slots import SlotInfo
from fedinfer.inference.predict.answers import Naming, Prediction
from fedinfer.messages import GateWork, Kind, Purpose, SumPlan
from fedinfer.ports import Ask
from fedinfer.privacy.charges import mechanism_of
from fedinfer.privacy.mechanism.encoding import decode as decode_sum
from fedinfer.rollout import evaluations
from fedinfer.types import Unit
from fedinfer.wire import encode
from tests.protocol.fleet import DEVICES, SCHEMA, Fleet, settings, simulated

LOOKS = '[rollout]\nwaves = [1.0]\ncanary_epsilon = 1.0\nmin_metric = 0.5\nmax_latency_us = 1e6\nunjudgeable = "hold"\n'
WORK = encode(GateWork(2, 1))


def promise(fleet: Fleet, name: str, **changes: Any) -> SumPlan:
    planned: SumSettings = fleet.plan.gates[0]
    mechanism = planned.mechanism
    fields = {
        "degree": planned.degree,
        "threshold": planned.threshold,
        "min_survivors": planned.min_survivors,
        "bits": mechanism.bits,
        "dimension": mechanism.padded,
        "mechanism": encode(mechanism),
        "noise_multiplier": planned.noise_multiplier,
    }
    return fleet.promise(name, WORK, Purpose.GATE, **(fields | changes))


class Model:
    """Stands for an installed model: answers "yes" with a given confidence, or fails."""

    def __init__(self, confidence: float, fails: bool = False) -> None:
        self.confidence, self.fails = confidence, fails
        self.naming = Naming(SCHEMA.labels)

    def predict_one(self, _: Any) -> Prediction:
        if self.fails:
            raise GateFailed("the model answers NaN for 1 row")
        probabilities = np.array([1 - self.confidence, self.confidence], np.float32)
        best = int(probabilities.argmax())
        return Prediction(SCHEMA.labels[best], float(probabilities[best]), probabilities)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return simulated(tmp_path, settings(LOOKS))


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let every device have these models."""

    def with_models(version: int, new: Model, before: Model | None) -> None:
        class Installed:
            info = SlotInfo("a", version, "int8", {})
            predictor = new

        monkeypatch.setattr(device_looks, "installed_of", lambda host, device: Installed)
        monkeypatch.setattr(device_looks, "open_previous", lambda slots, cache: before)

    return with_models


def answer(fleet: Fleet, unit: Unit) -> np.ndarray:
    device = min(fleet.hosts)
    plan = replace(promise(fleet, "gate-1"), unit=unit)
    return canary_answers(fleet.hosts[device], plan, GateWork(2, 1), [device])[0]


def test_a_mechanism_for_another_norm_is_refused(fleet: Fleet) -> None:
    lying = replace(fleet.plan.gates[0].mechanism, clipping_norm=0.1)
    device = min(fleet.hosts)
    plan = promise(fleet, "gate-1", mechanism=encode(lying))
    found = fleet.post.ask([Ask(device, Kind.KEYS, encode(plan))], 1.0)[0]
    assert found.error == "Misbehaviour"
    assert "clipping norm 0.1, this device clips to 1.0" in found.detail
    assert not fleet.ledger(device)


def test_a_look_is_charged_once_and_never_repeated(fleet: Fleet) -> None:
    result = fleet.sum(promise(fleet, "gate-1"), WORK)
    assert isinstance(result, Total)
    assert [fleet.ledger(device) for device in sorted(fleet.hosts)] == [["gate-1"]] * DEVICES
    assert isinstance(fleet.sum(promise(fleet, "gate-1"), WORK), AbortedSum)
    assert fleet.ledger(min(fleet.hosts)) == ["gate-1"]


def test_devices_without_the_version_answer_nothing_but_noise(fleet: Fleet, serve: Any) -> None:
    assert not answer(fleet, Unit.DEVICE).any()
    serve(1, Model(0.9), None)  # still the version before
    assert not answer(fleet, Unit.DEVICE).any()
    serve(2, Model(0.9), None)
    assert answer(fleet, Unit.DEVICE).any()


def test_the_sum_that_the_server_reads_is_that_of_the_devices(tmp_path: Path, serve: Any) -> None:
    exact = simulated(tmp_path, settings(LOOKS + '[privacy]\nunit = "none"\n[secure_aggregation]\nmode = "ideal"\n'))
    serve(2, Model(0.9, fails=True), Model(0.8))
    plan = promise(exact, "gate-1")
    result = exact.sum(plan, WORK)
    assert isinstance(result, Total)
    total = decode_sum(result.ring, mechanism_of(plan), plan.rotation_seed)
    section = exact.scenario.rollout
    rows = exact.scenario.drift.window
    figures = evaluations.read_sum(total, DEVICES, 0.0, section, Unit.NONE, rows, compared=True)
    means = {figure.name: figure.total / DEVICES for figure in figures.figures}
    limit = section.max_error_rate
    assert means["error"] > 2 * limit  # every row failed; the answer is cut, its side of the limit is not
    assert means["agreement"] < 0.75
    assert means["metric"] < section.min_metric


RARE = '[training]\nprior = { "no" = 0.9, "yes" = 0.1 }\n'


@pytest.mark.parametrize(
    ("training", "by_class"),
    [
        ("", False),
        ('[training]\nmetric = "f1"\n', True),
        ('[training]\nmetric = "log_loss"\n', False),
        (RARE, True),
        (RARE + 'metric = "accuracy"\n', False),
    ],
)
def test_a_model_that_answers_one_class_fails_where_classes_count_alike(
    tmp_path: Path, serve: Any, monkeypatch: pytest.MonkeyPatch, training: str, by_class: bool
) -> None:
    """All rows but one are `yes`, which it always answers."""
    fleet = simulated(tmp_path, settings(LOOKS + training))
    serve(2, Model(0.9), None)
    host = fleet.hosts[min(fleet.hosts)]
    x, _ = host.rows.stream(min(fleet.hosts), 1)
    labels = np.array([0] + [1] * (len(x) - 1))
    assert len(x) > 2
    monkeypatch.setattr(type(host.rows), "stream", lambda self, device, window: (x, labels))
    centre = evaluations.centres(fleet.scenario.rollout)[evaluations.WRONG]
    expected = 0.5 if by_class else 1 - labels.mean()
    assert answer(fleet, Unit.DEVICE)[evaluations.WRONG] + centre == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("unit", [Unit.DEVICE, Unit.EXAMPLE])
def test_figures_of_models_that_differ(fleet: Fleet, serve: Any, unit: Unit) -> None:
    centres = evaluations.centres(fleet.scenario.rollout)
    rows = fleet.scenario.drift.window if unit is Unit.EXAMPLE else 1
    serve(2, Model(0.9), Model(0.8))
    same = answer(fleet, unit) / rows + centres
    assert same[evaluations.ERROR] == pytest.approx(0, abs=1e-6)
    assert same[evaluations.SLOW] == pytest.approx(0, abs=1e-6)
    assert same[evaluations.DISAGREEMENT] == pytest.approx(0, abs=1e-6)
    assert same[evaluations.SHIFT] == pytest.approx(0.1, abs=1e-6)
    serve(2, Model(0.9), Model(0.3))
    other = answer(fleet, unit) / rows
    assert other[evaluations.DISAGREEMENT] > 0  # above its centre: all rows get another class
    serve(2, Model(0.9), Model(0.9, fails=True))
    alone = answer(fleet, unit)
    assert alone[evaluations.DISAGREEMENT] == alone[evaluations.SHIFT] == 0  # a model before that fails is no yardstick
