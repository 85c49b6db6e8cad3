"""What a private choice of a threshold costs, and when it cannot be planned; what a device counts for it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from fedinfer.config import load_scenario
from fedinfer.coordinator import make_plan
from fedinfer.coordinator.context import Progress, Server
from fedinfer.coordinator.plan.cohort import Population
from fedinfer.coordinator.plan.promised import promise_of
from fedinfer.coordinator.plan.run_plan import RunPlan
from fedinfer.coordinator.push import threshold as choosing
from fedinfer.device.aggregate.contribution import private_vectors, trainer_of
from fedinfer.device.threshold import score_histograms
from fedinfer.errors import BadMessage, ConfigError, Misbehaviour, TooFewSurvivors
from fedinfer.messages import Purpose, SumPlan, ThresholdWork
from fedinfer.metrics import HISTOGRAM_WIDTH, edges_of
from fedinfer.privacy import ANY_TASK, WATCHED, InPart, charge, flatten
from fedinfer.training import Trainer
from fedinfer.types import Unit
from fedinfer.wire import encode
from tests.protocol.fleet import SCHEMA, Fleet, settings, simulated

PRIVATE = ("training.threshold='private'", "training.threshold_epsilon=0.3", "drift.epsilon=0.5")
EDGES = edges_of(np.linspace(-2, 2, 50))


def planned(*overrides: str, classes: int = 2, engine: str = "local") -> RunPlan:
    scenario = load_scenario("heart", [*PRIVATE, *overrides])
    return make_plan(scenario, Population(4, 600, 80, 40, classes), engine, ())


def test_rows_that_are_not_trained_on_pay_for_it() -> None:
    plan, bare = planned(), planned("training.threshold=0.5", "training.threshold_epsilon=0")
    assert plan.thresholds == 1 + load_scenario("heart").drift.max_triggers
    assert plan.threshold_epsilon == pytest.approx(0.3, abs=0.01)
    assert plan.noise_multiplier == pytest.approx(bare.noise_multiplier, rel=1e-4)
    for event, count in flatten(plan.events.thresholds):
        assert isinstance(event, InPart)
        assert event.name == WATCHED
        assert count == plan.thresholds
    promised = json.loads(promise_of(load_scenario("heart", list(PRIVATE)), plan))
    lines = [line for line in promised if line["purpose"] == "threshold"]
    assert [line["most"] for line in lines] == [plan.thresholds]
    assert bare.threshold is None


@pytest.mark.parametrize(
    ("override", "classes", "message"),
    [
        ("training.threshold_epsilon=0", 2, "threshold_epsilon is not set"),
        ("training.threshold_epsilon=1.5", 2, "leaves nothing"),
        ("training.threshold_epsilon=0.95", 2, "together cost"),
        ("training.metric='accuracy'", 3, "does not have two classes"),
    ],
)
def test_what_cannot_be_planned_is_refused(override: str, classes: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        planned(override, classes=classes)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return simulated(tmp_path, settings("[training]\nthreshold = 'private'\nthreshold_epsilon = 0.5"), 4)


def counted(fleet: Fleet, unit: Unit, work: ThresholdWork) -> np.ndarray:
    device = min(fleet.hosts)
    encoded = encode(work)
    plan = replace(fleet.promise("threshold-0001", encoded), purpose=Purpose.THRESHOLD, unit=unit)
    return np.asarray(private_vectors(fleet.hosts[device], plan, encoded, [device])[0])


def test_a_device_counts_its_held_out_rows_and_one_row_moves_one_count(fleet: Fleet) -> None:
    device = min(fleet.hosts)
    host = fleet.hosts[device]
    weights = trainer_of(host).initial()
    work = ThresholdWork(weights, EDGES, 0)
    x, y = host.rows.unseen(device, 0)
    whole = counted(fleet, Unit.EXAMPLE, work)
    assert whole.shape == (HISTOGRAM_WIDTH,)
    assert whole.sum() == len(y)
    assert whole[HISTOGRAM_WIDTH // 2 :].sum() == y.sum()
    data = host.rows.federation.devices[device]  # type: ignore[attr-defined]
    host.rows.federation.devices[device] = replace(data, test_x=x[1:], test_y=y[1:])  # type: ignore[attr-defined]
    difference = whole - counted(fleet, Unit.EXAMPLE, work)
    assert sorted(difference.tolist()) == [0.0] * (HISTOGRAM_WIDTH - 1) + [1.0]
    shares = counted(fleet, Unit.DEVICE, work)
    assert shares.sum() == pytest.approx(1.0)
    assert np.linalg.norm(shares) <= 1.0
    host.rows.federation.devices[device] = replace(data, test_x=x[:0], test_y=y[:0])  # type: ignore[attr-defined]
    assert not counted(fleet, Unit.DEVICE, work).any()


class Crowd:
    """A model in which one row changes the answers of all others of its batch."""

    def predict(self, weights: np.ndarray, x: np.ndarray) -> np.ndarray:
        likely = 0.9 if (x[:, 0] > 0).any() else 0.1
        return np.tile(np.float32([1 - likely, likely]), (len(x), 1))


def test_a_row_moves_its_own_count_only_whatever_a_model_does_with_a_batch(fleet: Fleet) -> None:
    device = min(fleet.hosts)
    host = fleet.hosts[device]
    x, y = host.rows.unseen(device, 0)
    quiet, loud = np.full_like(x, -1.0), np.full_like(x, -1.0)
    loud[0] = 1.0
    found = []
    for rows in (quiet, loud):
        host.rows = SimpleNamespace(unseen=lambda *_, rows=rows: (rows, y))  # type: ignore[assignment]  # all that is asked for
        work = ThresholdWork(np.zeros(1, np.float32), EDGES, 0)
        found.append(score_histograms(host, cast(Trainer, Crowd()), Unit.EXAMPLE, work, [device])[0])
    assert np.abs(found[0] - found[1]).sum() == 2, "one row left its bin for another one"


def chosen(fleet: Fleet, round_id: str, work: bytes) -> SumPlan:
    """What the coordinator would promise for a choice."""
    settings = fleet.plan.threshold
    assert settings is not None
    plan = fleet.promise(round_id, work)
    changes = {name: getattr(settings, name) for name in ("noise_multiplier", "sampling_rate", "local_steps")}
    mechanism = settings.mechanism
    ring = {"bits": mechanism.bits, "dimension": mechanism.padded, "mechanism": encode(mechanism)}
    return replace(plan, purpose=Purpose.THRESHOLD, **changes, **ring)


def test_a_server_that_asks_again_gets_nothing_or_pays_again(fleet: Fleet) -> None:
    device = min(fleet.hosts)
    job = encode(ThresholdWork(trainer_of(fleet.hosts[device]).initial(), EDGES, 0))
    ledger = fleet.hosts[device].ledger
    assert hasattr(fleet.sum(chosen(fleet, "threshold-0001", job), job), "ring")
    once = ledger.spent(device, ANY_TASK).epsilon
    assert once > 0
    assert not hasattr(fleet.sum(chosen(fleet, "threshold-0001", job), job), "ring")
    assert fleet.ledger(device) == ["threshold-0001"]
    assert hasattr(fleet.sum(chosen(fleet, "threshold-0002", job), job), "ring")
    assert ledger.spent(device, ANY_TASK).epsilon > once


def test_a_choice_is_paid_out_of_what_held_out_rows_have(fleet: Fleet) -> None:
    """Marked as trained on, it would be free beside windows and canary evaluations of the same rows."""
    (event,) = charge(chosen(fleet, "threshold-0001", b""), "mine")
    assert isinstance(event, InPart)
    assert (event.split, event.name) == ("mine", WATCHED)


def test_edges_that_are_none_and_labels_of_several_classes_are_refused(fleet: Fleet) -> None:
    host = fleet.hosts[min(fleet.hosts)]
    weights = trainer_of(host).initial()
    with pytest.raises(BadMessage, match="growing numbers"):
        counted(fleet, Unit.EXAMPLE, ThresholdWork(weights, EDGES[::-1].copy(), 0))
    task = host.joined()
    task.schema = replace(task.schema, labels=("a", "b", "c"))
    with pytest.raises(Misbehaviour, match="3 classes"):
        counted(fleet, Unit.EXAMPLE, ThresholdWork(weights, EDGES, 0))


def test_a_choice_is_named_by_its_push_and_not_by_its_version(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that was signed and not recorded uses its number up: the next process builds the next one."""
    asked: list[str] = []

    def nobody(server: object, settings: object, purpose: object, round_id: str, *rest: object) -> None:
        asked.append(round_id)
        raise TooFewSurvivors("nobody is asked here")

    monkeypatch.setattr(choosing, "sum_plans", nobody)
    trainer = trainer_of(fleet.hosts[min(fleet.hosts)])
    parts = {"given": None, "emit": lambda *_: None, "generator": lambda _: np.random.default_rng(0), "devices": {}}
    parts |= {"trainer": trainer, "schema": SCHEMA, "public": (np.zeros((0, 3), np.float32), np.zeros(0, np.int64))}
    server = cast(Server, SimpleNamespace(**parts))
    for version, triggered in ((1, 0), (2, 0), (7, 0), (8, 1)):
        progress = Progress(trainer.initial(), None, 1.0, version=version, triggered=triggered)
        assert choosing.choose_log_odds(server, fleet.plan, progress) == 0.0
    assert asked == ["threshold-0001"] * 3 + ["threshold-0002"]
