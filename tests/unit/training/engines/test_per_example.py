"""A server may choose weights with which rounding decides a row's gradient; a real device's bound must not notice."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.grad_sample import GradSampleModule
from torch import nn

from fedinfer.config import ModelSection, TrainingSection, Tune
from fedinfer.errors import ConfigError
from fedinfer.privacy.mechanism.encoding import to_integers
from fedinfer.privacy.mechanism.mechanism import IntegerMechanism, NoiseKind, Rounding
from fedinfer.schema import Numeric, Schema
from fedinfer.system import SimulatedEntropy, SystemEntropy
from fedinfer.training import PrivateSteps, load_trainer
from fedinfer.training.engines import batched, device_by_device
from fedinfer.training.engines.per_example import RowsAlone, work_alone
from fedinfer.training.models.build import build_model
from fedinfer.training.objective import Objective
from fedinfer.types import Unit
from tests.unit.training.factories import BATCHED, BY_KIND, PER_EXAMPLE, TABLE, generators, rows, torch_loss

CLASSES = Objective(None)
WIDTH, NORM = 13, 0.5
SCHEMA = Schema(tuple(Numeric(f"c{i}", -4, 4) for i in range(WIDTH)), "y", ("a", "b"))
TRAINING = TrainingSection(batch_size=8, local_epochs=1)
USERS = ("residual", "with_dropout")


def trainer_of(name):
    """A trainer of a model kind or of a user's module on the tables' schema."""
    if name in BY_KIND:
        return load_trainer(ModelSection(kind=name, hidden=(6,)), BY_KIND[name], TRAINING, 1)
    return load_trainer(ModelSection(factory=f"tests.unit.training.factories:{name}"), TABLE, TRAINING, 1)


def real_sum(trainer, weights, x, y, norm=NORM):
    """What a real device adds up, all rows taking part."""
    return trainer.gradient_sums(weights, [(x, y)], 1.0, norm, [SystemEntropy()], PER_EXAMPLE)[0]


@pytest.fixture
def entropy_repeats(monkeypatch):
    """The operating system gives the same bytes whenever it is asked; another seed gives others."""

    def use(seed):
        monkeypatch.setattr(SystemEntropy, "take", lambda self, count: np.random.default_rng(seed).bytes(count))

    use(1)
    return use


@pytest.fixture
def take_rows(monkeypatch):
    """Decides which rows the Poisson sample holds."""
    return lambda chosen: monkeypatch.setattr(
        device_by_device, "poisson_rows", lambda *_: np.asarray(chosen, dtype=np.int64)
    )


def hostile(hidden, count, seed):
    """A trainer, weights orthogonal to the rows (the exact activation is about zero, its terms are huge), and rows."""
    section = ModelSection(kind="mlp", hidden=(hidden,))
    trainer = load_trainer(section, SCHEMA, TRAINING, 1)
    x = np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)
    with torch.no_grad():
        features = build_model(section, SCHEMA, 1).prepare(torch.from_numpy(x)).double().numpy()
    used = np.flatnonzero(features.any(axis=0))
    first = np.zeros((hidden, features.shape[1]))
    first[:, used] = np.linalg.svd(features[: min(count, WIDTH - 1), used])[2][-1] * 1e6
    last = np.outer([1e3, -1e3], np.ones(hidden))
    weights = np.concatenate([first.ravel(), np.zeros(hidden), last.ravel(), np.zeros(2)]).astype(np.float32)
    assert weights.size == trainer.size
    return trainer, weights, x, np.zeros(count, np.int64)


@pytest.mark.parametrize("hidden", [1, 4])
@pytest.mark.parametrize("count", [4, 8, 31])
def test_a_row_cannot_turn_the_gradients_of_other_rows_round(hidden, count):
    trainer, weights, x, y = hostile(hidden, count, 3)

    whole = real_sum(trainer, weights, x, y)
    assert np.linalg.norm(whole) > NORM
    for left_out in range(count):
        keep = np.arange(count) != left_out
        alone = real_sum(trainer, weights, x[[left_out]], y[[left_out]])
        assert np.linalg.norm(alone) <= NORM
        np.testing.assert_array_equal(real_sum(trainer, weights, x[keep], y[keep]) + alone, whole)


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e6])
@pytest.mark.parametrize("name", [*BY_KIND, *USERS])
def test_others_add_up_to_the_same_bits_with_a_row_or_without(name, scale, entropy_repeats, take_rows):
    """For every kind of model, for mild weights and such that blow rounding up; dropout masks are those of the row."""
    trainer, count = trainer_of(name), 7
    weights = (np.random.default_rng(5).normal(size=trainer.size) * scale).astype(np.float32)
    x, y = rows(BY_KIND.get(name, TABLE), count, 2)

    def total(chosen):
        take_rows(chosen)
        return real_sum(trainer, weights, x, y)

    whole, parts = total(range(count)), [total([row]) for row in range(count)]
    assert whole.any()
    assert max(np.linalg.norm(part) for part in parts) <= NORM
    for left_out in range(count):
        others = [row for row in range(count) if row != left_out]
        np.testing.assert_array_equal(total(others) + parts[left_out], whole)
    np.testing.assert_array_equal(total(range(count)[::-1]), whole)
    np.testing.assert_array_equal(sum(parts), whole)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["logistic", "mlp", "cnn", "gru", "transformer"]),
    seed=st.integers(0, 2**32 - 1),
    power=st.integers(-10, 37),
    norm=st.floats(1e-30, 1e30),
)
def test_no_weights_and_no_norm_let_a_row_touch_the_others(kind, seed, power, norm):
    trainer, rng = trainer_of(kind), np.random.default_rng(seed)
    weights = (rng.normal(size=trainer.size) * 10.0 ** rng.uniform(-10, power, trainer.size)).astype(np.float32)
    x, y = rows(BY_KIND[kind], 4, seed)
    whole, others = real_sum(trainer, weights, x, y, norm), real_sum(trainer, weights, x[1:], y[1:], norm)
    one = real_sum(trainer, weights, x[:1], y[:1], norm)
    np.testing.assert_array_equal(others + one, whole)
    assert np.linalg.norm(one) <= norm


def test_dropout_masks_follow_the_entropy_and_differ_between_rows(entropy_repeats):
    trainer, (x, y) = trainer_of("with_dropout"), rows(TABLE, 1, 2)
    x, y, weights = np.repeat(x, 2, axis=0), np.repeat(y, 2), trainer.initial()
    first = real_sum(trainer, weights, x, y, 1e3)
    np.testing.assert_array_equal(first, real_sum(trainer, weights, x, y, 1e3))
    assert (first != 2 * real_sum(trainer, weights, x[:1], y[:1], 1e3)).any()
    entropy_repeats(3)
    assert (first != real_sum(trainer, weights, x, y, 1e3)).any()


def test_what_is_random_leaves_torchs_generator_as_it_was():
    work = work_alone(nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2)), NORM, CLASSES)
    before = torch.get_rng_state()
    work.clipped_sum(torch.ones(2, 3), torch.zeros(2, dtype=torch.int64), np.arange(2), SystemEntropy())
    assert torch.equal(before, torch.get_rng_state())


def test_dp_sgd_on_a_real_device_takes_one_row_at_a_time_too(monkeypatch):
    """Each in memory of its own that is aligned like that of all others."""
    seen, original = [], RowsAlone._gradient

    def watched(self, x, y):
        assert x.data_ptr() % 64 == 0
        assert x.untyped_storage().nbytes() == x.numel() * x.element_size()
        seen.append(len(x))
        return original(self, x, y)

    monkeypatch.setattr(RowsAlone, "_gradient", watched)
    trainer, weights, x, y = hostile(4, 6, 1)
    trainer.private_updates(weights, [(x, y)], PrivateSteps(2, 1.0, NORM, 1.0), [SystemEntropy()], PER_EXAMPLE)
    assert seen == [1] * 12


@pytest.mark.parametrize("kind", BY_KIND)
def test_a_real_device_computes_what_a_simulated_one_does(kind):
    trainer = trainer_of(kind)
    data, weights = [rows(BY_KIND[kind], 9, 0)], trainer.initial()
    ours = trainer.gradient_sums(weights, data, 1.0, NORM, [SystemEntropy()], PER_EXAMPLE)
    np.testing.assert_allclose(ours, trainer.gradient_sums(weights, data, 1.0, NORM, generators(1), BATCHED), atol=1e-5)
    silent = PrivateSteps(2, 1.0, NORM, 0.0)
    ours = trainer.private_updates(weights, data, silent, [SystemEntropy()], PER_EXAMPLE)
    np.testing.assert_allclose(ours, trainer.private_updates(weights, data, silent, generators(1), BATCHED), atol=1e-5)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("norm", [0.05, 1e3])
@pytest.mark.parametrize("name", [*BY_KIND, "residual"])
def test_rows_alone_equal_opacus_per_example_gradients(name, norm):
    """With a norm that clips every row, and with one that clips none."""
    trainer, (x, y) = trainer_of(name), rows(BY_KIND.get(name, TABLE), 9, 4)
    weights = trainer.initial() + np.random.default_rng(1).normal(0, 0.1, trainer.size).astype(np.float32)
    model = trainer.module(weights, native=False)
    net = GradSampleModule(model.core.train(), loss_reduction="sum")
    torch_loss(BY_KIND.get(name, TABLE), net(model.prepare(torch.from_numpy(x))), y, "sum").backward()
    each = torch.cat([parameter.grad_sample.reshape(len(y), -1) for parameter in net.parameters()], dim=1)
    theirs = (each * (norm / each.norm(dim=1, keepdim=True)).clamp(max=1.0)).sum(dim=0).numpy()
    ours = real_sum(trainer, weights, x, y, norm)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * max(1.0, np.abs(theirs).max()))


@pytest.mark.parametrize("tune", Tune)
def test_the_head_alone_is_worked_row_by_row_too(tune):
    training = TRAINING.model_copy(update={"tune": tune})
    trainer = load_trainer(ModelSection(kind="cnn", hidden=(6,)), BY_KIND["cnn"], training, 1)
    weights = (np.random.default_rng(5).normal(size=trainer.size) * 1e4).astype(np.float32)
    x, y = rows(BY_KIND["cnn"], 6, 2)
    parts = [real_sum(trainer, weights, x[[row]], y[[row]]) for row in range(6)]
    np.testing.assert_array_equal(sum(parts), real_sum(trainer, weights, x, y))


class Together(nn.Module):
    """A frozen layer whose rounding depends on how many rows it gets, by much, and on nothing else."""

    def forward(self, x):
        return x + 1e-3 * (len(x) - 1)


@pytest.mark.parametrize("private_steps", [False, True])
def test_frozen_features_of_a_real_device_do_not_depend_on_its_other_rows(private_steps, take_rows, entropy_repeats):
    """Fine-tuning the head: a row goes through the frozen part by itself, so it adds the same with others and without.

    The frozen part here exaggerates what blocked matrix products do, whose rounding depends on the size of the batch.
    """
    training = TRAINING.model_copy(update={"tune": Tune.HEAD})
    trainer = load_trainer(ModelSection(kind="mlp", hidden=(6,)), SCHEMA, training, 1)
    trainer._frozen = nn.Sequential(Together(), trainer._frozen)
    weights = np.random.default_rng(5).normal(size=trainer.size).astype(np.float32)
    x, y = rows(SCHEMA, 6, 2)

    def answer(count, chosen):
        take_rows(chosen)
        if private_steps:
            private = PrivateSteps(1, 1.0, NORM, 0.0)
            data = [(x[:count], y[:count])]
            return trainer.private_updates(weights, data, private, [SystemEntropy()], PER_EXAMPLE)[0] * count
        return real_sum(trainer, weights, x[:count], y[:count])

    with_others, without = answer(6, [0, 1]), answer(2, [0, 1])
    assert np.abs(without).max() > 0
    np.testing.assert_allclose(with_others, without, rtol=0, atol=1e-6 if private_steps else 0)


def test_one_overflowing_row_does_not_change_the_others(monkeypatch):
    """Such a row counts as zero; the batched engine, which would be left for it, is not used at all."""
    monkeypatch.setattr(batched, "gradient_sums", None)
    trainer, weights, x, y = hostile(4, 6, 1)
    weights[:4] = 3e38
    parts = [real_sum(trainer, weights, x[[at]], y[[at]]) for at in range(6)]
    np.testing.assert_array_equal(real_sum(trainer, weights, x, y), sum(parts))


@pytest.mark.parametrize("value", [3e38, np.inf, np.nan])
def test_a_row_without_a_finite_gradient_counts_as_zero(value):
    work = work_alone(nn.Linear(3, 2), NORM, CLASSES)
    work.module.weight.data[0] = 1e3
    x, y = torch.randn(5, 3, generator=torch.Generator().manual_seed(1)), torch.ones(5, dtype=torch.int64)
    x[2] = torch.tensor([value, -value, 1.0])
    whole, others, broken = (
        work.clipped_sum(x, y, np.array(chosen), SystemEntropy()) for chosen in (range(5), [0, 1, 3, 4], [2])
    )
    assert others.any()
    assert not broken.any()
    assert torch.equal(whole, others)


@pytest.mark.parametrize("norm", [0.3, 1.0, 1.9999])
def test_sums_are_exact_up_to_the_stated_number_of_rows(norm, monkeypatch):
    """The most that a row can count for, 2^20 times: whole units below 2^53, where double precision has no gaps."""
    work = work_alone(nn.Linear(1, 2), norm, CLASSES)
    largest = torch.tensor([1e9, 0.0, 0.0, 0.0], dtype=torch.float64)
    monkeypatch.setattr(RowsAlone, "_gradient", lambda self, x, y: largest.clone())
    x, y = torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64)
    one = float(work.clipped_sum(x, y, np.zeros(1, np.int64), SystemEntropy())[0])
    unit = 2.0 ** (np.floor(np.log2(norm)) - 32)
    assert one <= norm
    assert (one / unit).is_integer()
    assert 2**20 * int(one / unit) < 2**53


@pytest.mark.parametrize("norm", [1e-320, 1e-30, 0.3, 1e30, 1e300])
def test_any_norm_gives_a_finite_sum_within_it(norm):
    trainer, (x, y) = trainer_of("mlp"), rows(TABLE, 1, 2)
    total = real_sum(trainer, trainer.initial(), x, y, norm)
    assert np.isfinite(total).all()
    assert np.linalg.norm(total) <= norm


def test_nobody_taking_part_gives_zeros(take_rows):
    trainer, (x, y) = trainer_of("mlp"), rows(TABLE, 3, 2)
    take_rows([])
    assert not real_sum(trainer, trainer.initial(), x, y).any()


def test_a_real_device_needs_no_opacus(monkeypatch):
    monkeypatch.setitem(sys.modules, "opacus", None)
    trainer, (x, y) = trainer_of("residual"), rows(TABLE, 3, 2)
    assert real_sum(trainer, trainer.initial(), x, y).any()


def test_a_weight_that_no_row_reaches_is_not_trained():
    trainer, (x, y) = trainer_of("with_unused"), rows(TABLE, 3, 2)
    assert trainer.dimension == trainer.size - 6
    total = real_sum(trainer, trainer.initial(), x, y)
    assert total.shape == (trainer.dimension,)
    assert total.any()


def test_a_layer_with_weights_and_buffers_is_refused_before_any_row_is_read():
    trainer, (x, y) = trainer_of("with_buffer"), rows(TABLE, 3, 2)
    with pytest.raises(ConfigError, match="layer Shifted owns buffers"):
        real_sum(trainer, trainer.initial(), x, y)


@pytest.mark.parametrize("source", [SystemEntropy(), SimulatedEntropy(1), np.random.default_rng(1)], ids=type)
def test_the_engine_is_what_the_caller_names_whatever_the_source(source, monkeypatch):
    """A wrapper of the system's entropy, or a seeded stream, gets no batches where the host wants none."""
    trainer, weights, x, y = hostile(4, 6, 3)
    for name in ("gradient_sums", "private_updates"):
        monkeypatch.setattr(batched, name, None)
    monkeypatch.setitem(sys.modules, "opacus", None)
    parts = [trainer.gradient_sums(weights, [(x[[at]], y[[at]])], 1.0, NORM, [source], PER_EXAMPLE) for at in range(6)]
    whole = trainer.gradient_sums(weights, [(x, y)], 1.0, NORM, [source], PER_EXAMPLE)
    np.testing.assert_array_equal(sum(parts), whole)
    assert trainer.private_updates(weights, [(x, y)], PrivateSteps(1, 1.0, NORM, 1.0), [source], PER_EXAMPLE).any()


def test_another_engine_than_the_three_is_refused():
    trainer, weights, x, y = hostile(4, 6, 3)
    with pytest.raises(AssertionError, match="fourth"):
        trainer.gradient_sums(weights, [(x, y)], 1.0, NORM, generators(1), "fourth")
    with pytest.raises(AssertionError, match="fourth"):
        trainer.private_updates(weights, [(x, y)], PrivateSteps(1, 1.0, NORM, 1.0), generators(1), "fourth")
    with pytest.raises(AssertionError, match="fourth"):
        trainer.engine("fourth")


def test_one_row_among_a_million_moves_the_integers_within_the_bound():
    """In float32 the rounding of such a sum is larger than the allowance: it stays in double precision to the end."""
    mechanism = IntegerMechanism(NoiseKind.SKELLAM, 64, 1.0, 1.0, 32, 1e6, 1, 2, 10**6, Rounding.DITHERED, Unit.EXAMPLE)
    rng = np.random.default_rng(0)

    class Dither:
        def words(self, count):
            return np.full(count, 2**63 + 12345, np.uint64)

    for _ in range(20):
        others = rng.normal(size=(1, 64)) * 1e6 / 8
        one = rng.normal(size=(1, 64))
        both = others + one / np.linalg.norm(one)
        shift = [to_integers(rows, mechanism, b"seed", Dither()) for rows in (others, both)]
        assert np.linalg.norm((shift[1] - shift[0]).astype(np.float64)) <= mechanism.l2
