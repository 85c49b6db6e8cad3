"""A server may choose weights with which rounding decides a row's gradient; a real device's bound must not notice."""

import numpy as np
import pytest
import torch

from fedinfer.config import ModelSection, TrainingSection
from fedinfer.privacy.encoding import to_integers
from fedinfer.privacy.mechanism import IntegerMechanism, NoiseKind, Rounding
from fedinfer.schema import Numeric, Schema
from fedinfer.system import SimulatedEntropy, SystemEntropy
from fedinfer.training import PrivateSteps, cohort, load_trainer, local
from fedinfer.training.models import build_model
from fedinfer.training.sampling import worked_alone
from fedinfer.types import Unit
from tests.unit.training.factories import BY_KIND, generators, rows

WIDTH, NORM = 13, 0.5
SCHEMA = Schema(tuple(Numeric(f"c{i}", -4, 4) for i in range(WIDTH)), "y", ("a", "b"))
TRAINING = TrainingSection(batch_size=8, local_epochs=1)


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

    def total(keep):
        return trainer.gradient_sums(weights, [(x[keep], y[keep])], 1.0, NORM, [SystemEntropy()])[0]

    whole = total(np.arange(count))
    assert np.linalg.norm(whole) > NORM
    for left_out in range(count):
        others = total(np.arange(count) != left_out)
        assert np.linalg.norm(whole - others) <= NORM * (1 + 1e-6)
        # The other rows count for exactly as much as before.
        alone = total(np.array([left_out]))
        np.testing.assert_allclose(whole - others, alone, rtol=0, atol=1e-12)


def test_dp_sgd_on_a_real_device_takes_one_row_at_a_time_too(monkeypatch):
    seen, original = [], local._Private._clipped_piece

    def watched(self, x, y):
        seen.append(len(x))
        return original(self, x, y)

    monkeypatch.setattr(local._Private, "_clipped_piece", watched)
    trainer, weights, x, y = hostile(4, 6, 1)
    trainer.private_updates(weights, [(x, y)], PrivateSteps(2, 1.0, NORM, 1.0), [SystemEntropy()])
    assert seen == [1] * 12


@pytest.mark.parametrize("kind", BY_KIND)
def test_a_real_device_computes_what_a_simulated_one_does(kind):
    trainer = load_trainer(ModelSection(kind=kind, hidden=(6,)), BY_KIND[kind], TRAINING, 1)
    data, weights = [rows(BY_KIND[kind], 9, 0)], trainer.initial()
    ours = trainer.gradient_sums(weights, data, 1.0, NORM, [SystemEntropy()])
    np.testing.assert_allclose(ours, trainer.gradient_sums(weights, data, 1.0, NORM, generators(1)), atol=1e-5)
    silent = PrivateSteps(2, 1.0, NORM, 0.0)
    ours = trainer.private_updates(weights, data, silent, [SystemEntropy()])
    np.testing.assert_allclose(ours, trainer.private_updates(weights, data, silent, generators(1)), atol=1e-5)


def test_one_overflowing_row_does_not_change_the_others(monkeypatch):
    """Such a row counts as zero; the batched engine, which would be left for it, is not used at all."""
    monkeypatch.setattr(cohort, "gradient_sums", None)
    trainer, weights, x, y = hostile(4, 6, 1)
    weights[:4] = 3e38
    whole = trainer.gradient_sums(weights, [(x, y)], 1.0, NORM, [SystemEntropy()])[0]
    parts = [trainer.gradient_sums(weights, [(x[[at]], y[[at]])], 1.0, NORM, [SystemEntropy()])[0] for at in range(6)]
    np.testing.assert_allclose(whole, sum(parts), rtol=0, atol=1e-12)


def test_only_the_operating_systems_entropy_works_alone():
    assert worked_alone(SystemEntropy())
    assert not worked_alone(SimulatedEntropy(1))
    assert not worked_alone(np.random.default_rng(1))


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
