"""Losses against torch's own and autograd; labels scaled by their public range."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, huber_loss, mse_loss

from fedinfer.config import ModelSection, NumberLoss, TrainingSection
from fedinfer.errors import ConfigError, DataError
from fedinfer.schema import Numeric, Schema
from fedinfer.training import GradientEngine, load_trainer
from fedinfer.training.objective import HUBER_DELTA, Objective, labels_of, values_of
from tests.unit.training.factories import NUMBER, TABLE, generators, rows

ALL = [Objective(None), Objective(NumberLoss.HUBER), Objective(NumberLoss.SQUARED)]
FLOATS = st.floats(-3, 3, allow_nan=False, width=32)


def outputs_and_labels(objective, seed=0, count=7):
    rng = np.random.default_rng(seed)
    width = 3 if objective.loss is None else 1
    y = rng.integers(0, 3, count) if objective.loss is None else rng.uniform(-1, 1, count).astype(np.float32)
    return torch.from_numpy(rng.normal(size=(count, width)).astype(np.float32)), torch.from_numpy(y)


@pytest.mark.parametrize("objective", ALL)
def test_the_derivative_is_that_of_autograd(objective):
    z, y = outputs_and_labels(objective)
    z.requires_grad_(True)
    (slope,) = torch.autograd.grad(objective.total(z, y), z)
    found = objective.error(z.detach().clone().unsqueeze(0), y.unsqueeze(0))[0]
    torch.testing.assert_close(found, slope, atol=1e-6, rtol=1e-5)


@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=1, max_size=8))
def test_losses_of_numbers_are_torchs_own(pairs):
    z, t = (torch.tensor(side, dtype=torch.float32) for side in zip(*pairs, strict=True))
    huber, squared = Objective(NumberLoss.HUBER), Objective(NumberLoss.SQUARED)
    expected = huber_loss(z, t, reduction="sum", delta=HUBER_DELTA) / HUBER_DELTA
    torch.testing.assert_close(huber.total(z[:, None], t), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(squared.mean(z[:, None], t), mse_loss(z, t) / 2, atol=1e-5, rtol=1e-5)


def test_the_loss_of_classes_is_the_cross_entropy_to_the_bit():
    z, y = outputs_and_labels(ALL[0])
    assert torch.equal(ALL[0].mean(z, y), cross_entropy(z, y))
    assert torch.equal(ALL[0].total(z, y), cross_entropy(z, y, reduction="sum"))


def test_a_wild_label_moves_a_huber_gradient_no_further_than_a_near_one():
    """The slope is bounded by 1, so one absurd meter reading has the weight of any other error."""
    z = torch.zeros(1, 2, 1)
    found = Objective(NumberLoss.HUBER).error(z, torch.tensor([[-1e6, -HUBER_DELTA]]))
    assert found.flatten().tolist() == [1.0, 1.0]


@given(st.floats(-1e5, 1e5), st.floats(100.0, 1e6), st.lists(st.floats(-1e7, 1e7), min_size=1, max_size=9))
def test_labels_go_to_the_unit_range_and_come_back(low, width, values):
    schema = Schema((Numeric("a", 0, 1),), "y", (), label_range=(low, low + width))
    scaled = labels_of(np.array(values), schema)
    assert scaled.dtype == torch.float32
    assert float(scaled.abs().max()) <= 1.0
    back = values_of(scaled.numpy()[:, None], schema)[:, 0]
    spacing = np.spacing(np.float32(max(abs(low), abs(low + width))))
    np.testing.assert_allclose(back, np.clip(values, low, low + width), atol=2 * spacing + 1e-6 * width)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_label_that_is_no_number_is_refused(bad):
    with pytest.raises(DataError, match="1 of 2 labels are not finite"):
        labels_of(np.array([150.0, bad]), NUMBER)


@pytest.mark.parametrize("loss", list(NumberLoss))
@pytest.mark.parametrize("kind", ["linear", "additive", "mlp"])
def test_every_engine_gives_the_same_clipped_sums_and_no_row_counts_for_more(kind, loss):
    training = TrainingSection(loss=loss)
    trainer = load_trainer(ModelSection(kind=kind, hidden=(5,)), NUMBER, training, 1)
    weights = trainer.initial() + np.random.default_rng(2).normal(0, 0.3, trainer.size).astype(np.float32)
    x, y = rows(NUMBER, 12, 3)
    sums = [trainer.gradient_sums(weights, [(x, y)], 1.0, 0.4, generators(1), engine)[0] for engine in GradientEngine]
    for other in sums[1:]:
        np.testing.assert_allclose(other, sums[0], atol=2e-5)
    for row in range(12):
        alone = trainer.gradient_sums(
            weights, [(x[row : row + 1], y[row : row + 1])], 1.0, 0.4, generators(1), GradientEngine.PER_EXAMPLE
        )[0]
        assert np.linalg.norm(alone) <= 0.4


@pytest.mark.parametrize("loss", list(NumberLoss))
def test_plain_training_finds_a_known_line(loss):
    schema = Schema((Numeric("a", 0, 10), Numeric("b", -1, 1)), "y", (), label_range=(-50.0, 50.0))
    rng = np.random.default_rng(4)
    x = np.column_stack([rng.uniform(0, 10, 400), rng.uniform(-1, 1, 400)]).astype(np.float32)
    y = 3 * x[:, 0] - 20 * x[:, 1] - 10.0
    trainer = load_trainer(
        ModelSection(kind="linear"), schema, TrainingSection(loss=loss, local_epochs=40, learning_rate=0.2), 1
    )
    weights = trainer.initial() + trainer.updates(trainer.initial(), [(x, y)], generators(1))[0]
    found = trainer.evaluate(weights, x, y)
    assert found["r2"] > 0.99
    assert found["rmse"] < 1.5
    assert set(found) == {"rows", "rmse", "mae", "r2"}
    pretrained = trainer.pretrain(trainer.initial(), x, y, np.random.default_rng(1))
    assert trainer.evaluate(pretrained, x, y)["r2"] > 0.5


@pytest.mark.parametrize(
    ("kind", "schema", "hint"), [("logistic", NUMBER, "'linear'"), ("linear", TABLE, "label_range = [low, high]")]
)
def test_the_two_names_of_a_linear_map_are_not_synonyms(kind, schema, hint):
    with pytest.raises(ConfigError, match=f"kind = '{kind}' predicts a") as refused:
        load_trainer(ModelSection(kind=kind), schema, TrainingSection(), 1)
    assert hint in str(refused.value.hint)


@settings(max_examples=30)
@given(st.floats(-1e9, 1e9), st.floats(1e-9, 1e9))
def test_a_label_range_that_float32_cannot_tell_apart_is_refused_before_anything_is_spent(low, width):
    high = low + width
    apart = high > low and np.spacing(np.float32(max(abs(low), abs(high)))) * 1_000 <= high - low
    if apart:
        assert Schema((), "y", (), (1, 1, 1), label_range=(low, high)).outputs == 1
    else:
        with pytest.raises(ConfigError, match="label y"):
            Schema((), "y", (), (1, 1, 1), label_range=(low, high))
