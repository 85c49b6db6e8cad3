"""Steps of DP-SGD on one device: a sample and noise of its own for each, whatever computes them."""

from __future__ import annotations

import numpy as np
import pytest

from fedinfer.config import ModelSection, TrainingSection
from fedinfer.schema import Numeric, Schema
from fedinfer.system import SystemEntropy
from fedinfer.training import GradientEngine, PrivateSteps, load_trainer
from tests.unit.training.factories import generators

COLUMNS, COPIES, STEPS, RATE, RATE_OF_LEARNING = 10, 60, 6, 0.2, 0.5
SCHEMA = Schema(tuple(Numeric(f"c{i}", -1, 1) for i in range(COLUMNS)), "y", ("a", "b"))
TRAINING = TrainingSection(batch_size=8, local_epochs=1, learning_rate=RATE_OF_LEARNING)
X, Y = np.eye(COLUMNS, dtype=np.float32), np.zeros(COLUMNS, np.int64)
"""Row i has a value in column i alone: the weights of column i move when row i takes part."""


@pytest.fixture
def trainer():
    return load_trainer(ModelSection(kind="logistic"), SCHEMA, TRAINING, 1)


def sources(engine, count):
    real = engine is GradientEngine.PER_EXAMPLE
    return [SystemEntropy() for _ in range(count)] if real else generators(count)


def moved(trainer, engine, steps, x, y, copies=COPIES):
    return trainer.private_updates(trainer.initial() * 0, [(x, y)] * copies, steps, sources(engine, copies), engine)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("engine", GradientEngine)
def test_every_local_step_samples_anew(trainer, engine):
    """A row is missed by all steps with the chance (1 - q)^T; with one sample for all of them it would be 1 - q."""
    own = []
    for row in range(COLUMNS):
        alone = moved(trainer, engine, PrivateSteps(1, 1.0, 1.0, 0.0), X[[row]], Y[[row]], 1)[0]
        own.append(set(np.flatnonzero(alone)))
    shared = set.intersection(*own)
    places = [min(places - shared) for places in own]
    assert len(set(places)) == COLUMNS
    seen = moved(trainer, engine, PrivateSteps(STEPS, RATE, 1.0, 0.0), X, Y)[:, places] != 0
    expected = 1 - (1 - RATE) ** STEPS
    assert seen.mean() == pytest.approx(expected, abs=5 * np.sqrt(expected * (1 - expected) / seen.size))


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("engine", GradientEngine)
def test_every_local_step_draws_its_noise_anew(trainer, engine):
    """Without a row in any sample the update is the noise: T independent terms, each with the deviation z C."""
    noise, norm = 3.0, 0.5
    found = moved(trainer, engine, PrivateSteps(STEPS, 1e-12, norm, noise), X, Y)
    deviation = RATE_OF_LEARNING * noise * norm * np.sqrt(STEPS)
    assert found.std() == pytest.approx(deviation, rel=5 / np.sqrt(2 * found.size))
    assert abs(np.corrcoef(found[0], found[1])[0, 1]) < 0.7, "and of its own on every device"


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("engine", GradientEngine)
def test_a_row_moves_a_step_by_the_clipping_norm_and_no_further(trainer, engine):
    """At weights of zero a row's gradient has a norm of 1/sqrt(2) or more, so a hundredth clips it."""
    for count in (1, COLUMNS):
        found = moved(trainer, engine, PrivateSteps(1, 1.0, 0.01, 0.0), X[:count], Y[:count], 2)
        assert np.linalg.norm(found, axis=1).max() <= RATE_OF_LEARNING * 0.01 * (1 + 1e-4)
    alone = moved(trainer, engine, PrivateSteps(1, 1.0, 0.01, 0.0), X[:1], Y[:1], 1)[0]
    assert np.linalg.norm(alone) == pytest.approx(RATE_OF_LEARNING * 0.01, rel=1e-3)
