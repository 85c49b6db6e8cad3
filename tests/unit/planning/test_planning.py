"""Defaults that learn: the trial trains as a run does, and more budget, rows or devices change what is chosen."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from fedinfer.config import load_scenario
from fedinfer.planning import Facts, plan_defaults
from fedinfer.planning.search import search
from fedinfer.planning.trial import Setting, _auc, scores
from fedinfer.planning.watching import WORTHWHILE, plan_watching
from fedinfer.planning.worlds import draw_world, inputs_of
from fedinfer.schema import Categorical, Numeric, Schema
from fedinfer.types import Unit

SCHEMA = Schema(
    (*(Numeric(f"x{number}", 0, 1) for number in range(5)), Categorical("c", ("a", "b", "d"))), "y", ("no", "yes")
)
DIMENSION = 2 * (inputs_of(SCHEMA) + 1)
BASE = load_scenario("heart", ["drift.enabled=false", "training.sampling_rate=1.0"])


def facts(rows: int = 3500, devices: int = 10) -> Facts:
    return Facts(SCHEMA, devices, rows, rows // devices, rows // devices // 2, in_order=False)


def test_without_noise_the_trial_reaches_what_logistic_regression_reaches() -> None:
    world = draw_world(SCHEMA, 4000, 0.3, 1.5, np.random.default_rng(3))
    ours = scores(world, (Setting("fedadam", 0.1, 2.0),), 200, 0.0, np.random.default_rng(0))[0]
    peer = LogisticRegression(C=1e6, max_iter=5000).fit(world.x[:2000, :-1], world.y[:2000])
    chance = peer.predict_proba(world.x[2000:, :-1])[:, 1]
    theirs = (roc_auc_score(world.y[2000:], chance) + ((chance > 0.5) == world.y[2000:]).mean()) / 2
    assert abs(ours - theirs) < 0.01


def test_the_area_under_the_curve_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    truth, logits = rng.integers(0, 2, 300).astype(float), rng.normal(size=(300, 3))
    assert np.allclose(_auc(logits, truth), [roc_auc_score(truth, column) for column in logits.T])


def test_noise_costs_and_more_of_it_costs_more() -> None:
    world = draw_world(SCHEMA, 4000, 0.3, 1.5, np.random.default_rng(3))
    found = [
        scores(world, (Setting("fedavgm", 1.0, 1.0),) * 16, 40, noise, np.random.default_rng(0)).mean()
        for noise in (0.0, 0.05, 0.3)
    ]
    assert found[0] > found[1] > found[2]


def test_a_larger_budget_is_expected_to_learn_more_and_to_lose_less_to_noise() -> None:
    found = [
        search(load_scenario("heart", ["drift.enabled=false", f"privacy.epsilon={epsilon}"]), facts(700), DIMENSION)
        for epsilon in (0.5, 1.0, 8.0)
    ]
    assert found[0].score < found[1].score < found[2].score
    assert [one.without_noise - one.score for one in found] == sorted(
        (one.without_noise - one.score for one in found), reverse=True
    )


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
