"""Defaults that learn: the trial trains as a run does, and more budget, rows or devices change what is chosen."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import HuberRegressor, LogisticRegression
from sklearn.metrics import roc_auc_score

from fedinfer.config import ModelKind, ModelSection, TrainingSection, load_scenario, override
from fedinfer.planning import Facts, plan_defaults
from fedinfer.planning.search import _worlds, search
from fedinfer.planning.trial import LOCAL_RATE, LOCAL_STEPS, Setting, TrialRows, TrialTerms, _auc, scores, trained
from fedinfer.planning.watching import WORTHWHILE, plan_watching
from fedinfer.planning.worlds import draw_world, inputs_of
from fedinfer.schema import Categorical, Numeric, Schema
from fedinfer.training import GradientEngine, load_trainer
from fedinfer.types import Unit

SCHEMA = Schema(
    (*(Numeric(f"x{number}", 0, 1) for number in range(5)), Categorical("c", ("a", "b", "d"))), "y", ("no", "yes")
)
DIMENSION = 2 * (inputs_of(SCHEMA) + 1)
NUMBER = replace(SCHEMA, labels=(), label_range=(0.0, 10.0))
BASE = load_scenario("heart", ["drift.enabled=false", "training.sampling_rate=1.0"])


def facts(rows: int = 3500, devices: int = 10) -> Facts:
    return Facts(SCHEMA, devices, rows, rows // devices, (rows // devices // 2,) * devices, in_order=False)


def halves(
    seed: int, schema: Schema = SCHEMA, share: float = 0.3, *, additive: bool = False
) -> tuple[TrialRows, TrialRows]:
    world = draw_world(schema, 4000, share, 1.5, np.random.default_rng(seed))
    x = world.additive if additive else world.linear
    number = schema.label_range is not None
    return TrialRows(x[:2000], world.y[:2000], number), TrialRows(x[2000:], world.y[2000:], number)


@pytest.mark.parametrize("additive", [False, True])
def test_without_noise_the_trial_reaches_what_logistic_regression_reaches(additive: bool) -> None:
    train, judged = halves(3, additive=additive)
    ours = scores(train, judged, (Setting("fedadam", 0.1, 2.0),), TrialTerms(200, 0.0), np.random.default_rng(0))[0]
    peer = LogisticRegression(C=1e6, max_iter=5000).fit(train.x[:, :-1], train.y)
    chance = peer.predict_proba(judged.x[:, :-1])[:, 1]
    theirs = (roc_auc_score(judged.y, chance) + ((chance > 0.5) == judged.y).mean()) / 2
    assert abs(ours - theirs) < 0.01


def test_without_noise_the_trial_of_a_number_reaches_what_hubers_regression_reaches() -> None:
    train, judged = halves(4, NUMBER, additive=True)
    ours = scores(train, judged, (Setting("fedadam", 0.1, 2.0),), TrialTerms(300, 0.0), np.random.default_rng(0))[0]
    peer = HuberRegressor(epsilon=1.35, alpha=1e-6, max_iter=2000).fit(train.x[:, :-1], train.y)
    assert abs(ours - peer.score(judged.x[:, :-1], judged.y)) < 0.02


@pytest.mark.parametrize("additive", [False, True])
@pytest.mark.parametrize("schema", [SCHEMA, replace(SCHEMA, labels=(), label_range=(0.0, 10.0))])
def test_a_round_of_the_trial_is_a_round_of_the_trainer(schema: Schema, additive: bool) -> None:
    """Real rows through the real model: its clipped gradients, its local descent, its features."""
    rng = np.random.default_rng(8)
    raw = np.column_stack([rng.random((60, 5)), rng.integers(0, 3, 60)]).astype(np.float32)
    number = schema.label_range is not None
    y = rng.uniform(0, 10, 60) if number else rng.integers(0, 2, 60)
    kind = "additive" if additive else "linear" if number else "logistic"
    training = TrainingSection(local_steps=LOCAL_STEPS, batch_size=60, learning_rate=LOCAL_RATE)
    trainer = load_trainer(ModelSection(kind=kind), schema, training, 1)
    module = trainer.module(trainer.initial())
    features = module.prepare(torch.from_numpy(raw)).numpy()
    rows = TrialRows(np.column_stack([features, np.ones(60)]).astype(np.float32), _scaled(y, number), number)
    setting, start = (Setting("fedavgm", 1.0, 0.7),), trainer.initial()
    ours = trained(rows, setting, TrialTerms(1, 0.0), rng)[..., 0]
    theirs = -trainer.gradient_sums(start, [(raw, y)], 1.0, 0.7, [rng], GradientEngine.PER_EXAMPLE)[0] / 60
    np.testing.assert_allclose(_flat(ours), theirs, atol=1e-6)
    alone = trained(rows, (Setting("fedavgm", 1.0, 1e6),), TrialTerms(1, 0.0, devices=1), rng)[..., 0]
    np.testing.assert_allclose(_flat(alone), trainer.updates(start, [(raw, y)], [rng])[0], atol=1e-6)


def _scaled(y: np.ndarray, number: bool) -> np.ndarray:
    return (y / 5 - 1 if number else y).astype(np.float32)


def _flat(weights: np.ndarray) -> np.ndarray:
    """As the trainer orders weights: of all features, then the intercepts."""
    return np.concatenate([weights[:, :-1].ravel(), weights[:, -1]])


def test_the_area_under_the_curve_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    truth, logits = rng.integers(0, 2, 300).astype(float), rng.normal(size=(300, 3))
    assert np.allclose(_auc(logits, truth), [roc_auc_score(truth, column) for column in logits.T])


@pytest.mark.parametrize("devices", [0, 100])
def test_noise_costs_and_more_of_it_costs_more(devices: int) -> None:
    train, judged = halves(3)
    settings, rng = (Setting("fedavgm", 1.0, 1.0),) * 16, np.random.default_rng(0)
    found = [scores(train, judged, settings, TrialTerms(40, noise, devices), rng).mean() for noise in (0.0, 0.05, 0.3)]
    assert found[0] > found[1] > found[2]


def test_an_adaptive_norm_makes_up_for_a_start_ten_times_too_large() -> None:
    train, _ = halves(3)
    far, near = (
        trained(train, (Setting("fedavgm", 1.0, norm),), TrialTerms(80, 0.0, 100), np.random.default_rng(0))
        for norm in (50.0, 0.5)
    )
    assert np.linalg.norm(far - near) < 0.3 * np.linalg.norm(near)


def test_a_larger_budget_is_expected_to_learn_more_and_to_lose_less_to_noise() -> None:
    found = [
        search(
            load_scenario("heart", ["drift.enabled=false", "training.sampling_rate=1.0", f"privacy.epsilon={epsilon}"]),
            facts(700),
        )
        for epsilon in (0.5, 1.0, 8.0)
    ]
    assert found[0].score < found[1].score < found[2].score
    assert found[0].without_noise - found[0].score > found[2].without_noise - found[2].score


def test_curves_are_chosen_where_rows_can_say_them_and_lines_where_they_cannot() -> None:
    few, many = (search(BASE, facts(rows)) for rows in (120, 20_000))
    assert few.kind is ModelKind.LOGISTIC
    assert many.kind is ModelKind.ADDITIVE


def test_a_world_has_the_share_of_the_prior() -> None:
    said = override(BASE, {"training.prior": {"no": 0.9, "yes": 0.1}})
    assert {round(float(train.y.mean()), 1) for train, _ in _worlds(said, facts())} == {0.1}
    assert len({round(float(train.y.mean()), 1) for train, _ in _worlds(BASE, facts())}) == 3


def test_a_number_gets_a_plan_of_its_own() -> None:
    text = plan_defaults(BASE, replace(facts(20_000), schema=NUMBER)).text()
    assert 'kind = "additive" # one curve per column, added up; or "linear", "mlp"' in text
    assert "the explained variance there" in text


def test_many_devices_are_protected_as_a_whole_with_adaptive_clipping() -> None:
    defaults = plan_defaults(BASE, facts(rows=8000, devices=800))
    assert defaults.budget.unit is Unit.DEVICE
    assert 'clipping = "adaptive"' in defaults.text()
    assert "cohort = 200" in defaults.text()


def test_a_watch_that_sees_nothing_is_off_with_its_reason() -> None:
    few, many = (plan_watching(BASE, facts(rows), DIMENSION) for rows in (400, 20_000))
    assert few.rows == 0
    assert "could be seen through the noise" in few.why
    assert "enabled = false # " in plan_defaults(BASE, facts(400)).text()
    assert many.rows > 0
    assert many.least_seen <= WORTHWHILE
    assert f"a change of {many.least_seen:.0%}" in many.why


@pytest.mark.parametrize(
    ("held_out", "rows", "silent"),
    [
        ((0, *(1000,) * 6), 1000, 1),  # one of seven, as a device of one row
        ((5, *(1000,) * 6), 1000, 1),
        ((900, *(1000,) * 6), 900, 0),
        ((0, 0, *(1000,) * 18), 1000, 2),
        ((0, 0, *(1000,) * 6), 0, 0),  # a quarter of the devices is no exception
        ((0, 1000, 1000), 0, 0),  # two are too few to be watched
    ],
)
def test_few_devices_without_rows_leave_the_others_watched(held_out: tuple[int, ...], rows: int, silent: int) -> None:
    fleet = replace(facts(7000), devices=len(held_out), held_out=held_out)
    watching = plan_watching(BASE, fleet, DIMENSION)
    assert watching.rows == rows
    assert (f"{silent} device" in watching.why) == bool(silent)
    if rows:
        everybody = plan_watching(BASE, replace(fleet, held_out=(rows,) * len(held_out)), DIMENSION)
        assert watching.least_seen >= everybody.least_seen
    else:
        assert "too few held-out rows" in watching.why


@pytest.mark.parametrize(("rows", "epsilon"), [(150, 4.0), (400, 2.0), (2000, 1.0)])
def test_what_is_written_is_read_back_as_it_was_chosen(tmp_path: Path, rows: int, epsilon: float) -> None:
    defaults = plan_defaults(BASE, facts(rows))
    (tmp_path / "scenario.toml").write_text('[data]\nsource = "csv"\npath = "t.csv"\nlabel = "y"\n' + defaults.text())
    scenario = load_scenario(str(tmp_path))
    assert scenario.privacy.epsilon == epsilon
    assert scenario.training.rounds == defaults.rounds
    assert scenario.training.server_optimizer == defaults.setting.optimizer
    assert scenario.training.server_learning_rate == pytest.approx(defaults.setting.learning_rate, rel=0.01)
    assert scenario.drift.enabled == bool(defaults.watching.rows)
