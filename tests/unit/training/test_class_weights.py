"""Weights of classes: where they come from; they change what is learned, not how far one row moves a sum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_class_weight

from fedinfer.config import TrainingSection, class_factors, class_gain, load_scenario, resolve_weights
from fedinfer.config.sections import ModelSection
from fedinfer.errors import ConfigError
from fedinfer.schema import Numeric, Schema
from fedinfer.system import simulation_rng
from fedinfer.training import GradientEngine, load_trainer
from fedinfer.training.objective import Objective

LABELS = ("no", "yes")
SCHEMA = Schema((Numeric("a", -4.0, 8.0), Numeric("b", -4.0, 8.0)), "fraud", LABELS)
ENGINES = (GradientEngine.BATCHED, GradientEngine.PER_EXAMPLE, GradientEngine.OPACUS)


def section(**keys: object) -> TrainingSection:
    return TrainingSection.model_validate({"local_epochs": 1, "batch_size": 16, **keys})


def rows(count: int = 400, share: float = 0.1, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = (rng.random(count) < share).astype(np.int64)
    return rng.normal(1.5 * y[:, None], 1.0, (count, 2)).astype(np.float32), y


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    _, y = rows()
    weights = resolve_weights(section(class_weights="balanced"), LABELS, y).class_weights
    known = compute_class_weight("balanced", classes=np.array([0, 1]), y=y)
    assert weights == pytest.approx(dict(zip(LABELS, known, strict=True)))


def test_a_stated_prior_goes_before_rows() -> None:
    wanted = section(class_weights="balanced", prior={"no": 0.98, "yes": 0.02})
    found = resolve_weights(wanted, LABELS, np.zeros(0, np.int64))
    assert found.class_weights == pytest.approx({"no": 1 / 1.96, "yes": 25.0})
    assert class_factors(found, LABELS) == pytest.approx((0.02 / 0.98, 1.0))
    assert class_gain(found) == pytest.approx(25.0)


@pytest.mark.parametrize(
    ("weights", "labels", "match"),
    [("balanced", LABELS, "0 of 2 classes"), ({"no": 1.0}, LABELS, "names"), ("balanced", (), "a number")],
)
def test_without_public_facts_there_are_no_weights(weights: object, labels: tuple[str, ...], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        resolve_weights(section(class_weights=weights), labels, np.zeros(0, np.int64))


def test_a_scenario_of_the_command_line_takes_them() -> None:
    assert load_scenario("heart", ["training.class_weights=balanced"]).training.class_weights == "balanced"
    stated = load_scenario("heart", ["training.class_weights={healthy=1.0, disease=3.0}"]).training.class_weights
    assert stated == {"healthy": 1.0, "disease": 3.0}


def test_without_weights_nothing_changes() -> None:
    plain = section()
    assert resolve_weights(plain, LABELS, np.zeros(0, np.int64)) is plain
    assert (class_factors(plain, LABELS), class_gain(plain)) == ((), 1.0)


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_weighs_alike_and_no_row_moves_a_sum_further(engine: GradientEngine) -> None:
    x, y = rows(40)
    weighted = section(class_weights={"no": 0.5, "yes": 5.0})
    trainer = load_trainer(ModelSection(), SCHEMA, weighted, 1)
    plain = load_trainer(ModelSection(), SCHEMA, section(), 1)
    for place in (int(np.flatnonzero(y == 0)[0]), int(np.flatnonzero(y == 1)[0])):
        data = [(x[place : place + 1], y[place : place + 1])]
        own = trainer.gradient_sums(trainer.initial(), data, 1.0, 50.0, [simulation_rng(1, "rate")], engine)[0]
        other = plain.gradient_sums(plain.initial(), data, 1.0, 50.0, [simulation_rng(1, "rate")], engine)[0]
        factor = (0.1, 1.0)[int(y[place])]
        np.testing.assert_allclose(own, factor * other, rtol=1e-5, atol=1e-8)
        clipped = trainer.gradient_sums(trainer.initial(), data, 1.0, 0.01, [simulation_rng(1, "rate")], engine)[0]
        assert np.linalg.norm(clipped) <= 0.01 * (1 + 1e-6)


@given(st.lists(st.floats(0.01, 100.0), min_size=2, max_size=5))
def test_factors_never_exceed_one(weights: list[float]) -> None:
    labels = tuple(f"c{place}" for place in range(len(weights)))
    found = section(class_weights=dict(zip(labels, weights, strict=True)))
    factors = class_factors(found, labels)
    assert max(factors) == 1.0
    np.testing.assert_allclose(np.array(factors) * class_gain(found), weights, rtol=1e-12)


def test_the_weighted_loss_is_torchs() -> None:
    generator = torch.Generator().manual_seed(1)
    outputs = torch.randn(2, 9, 3, generator=generator, requires_grad=True)
    y = torch.randint(0, 3, (2, 9), generator=generator)
    objective = Objective(None, (0.2, 1.0, 0.5))
    total = objective.total(outputs.reshape(18, 3), y.reshape(18))
    known = torch.nn.functional.cross_entropy(
        outputs.reshape(18, 3), y.reshape(18), weight=torch.tensor([0.2, 1.0, 0.5]), reduction="sum"
    )
    assert torch.allclose(total, known)
    (gradient,) = torch.autograd.grad(known, outputs)
    assert torch.allclose(objective.error(outputs.detach().clone(), y), gradient, atol=1e-6)


def test_plain_local_training_reaches_the_balanced_model_of_scikit_learn() -> None:
    x, y = rows(2000)
    balanced = resolve_weights(section(class_weights="balanced", local_steps=3000, learning_rate=0.3), LABELS, y)
    trainer = load_trainer(ModelSection(), SCHEMA, balanced.model_copy(update={"batch_size": 2000}), 1)
    weights = trainer.initial() + trainer.updates(trainer.initial(), [(x, y)], [simulation_rng(1, "fit")])[0]
    found = trainer.predict(weights, x)[:, 1]
    known = LogisticRegression(class_weight="balanced", C=1e6).fit(x, y).predict_proba(x)[:, 1]
    assert np.abs(found - known).max() < 0.03
    assert ((found >= 0.5) & (y == 1)).sum() > 0.8 * (y == 1).sum()
