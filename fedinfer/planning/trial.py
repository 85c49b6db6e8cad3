"""Private training as a run does it, many settings at once, on a synthetic world: signal against noise.

Unit `example`: in every round the sum of all rows' clipped gradients, with noise, moves the server's optimizer
(`fedinfer.training.server_optimizers`, the same formulas). The model is logistic regression with one output per class,
started at zero, which is also the stand-in for other models of a table.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedinfer.planning.worlds import Floats, World

MOMENTUM, BETA_2, TAU = 0.9, 0.99, 1e-3
"""As in [training] server_momentum and fedinfer.training.server_optimizers."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a trial may choose.

    Args:
        optimizer: `fedavgm` or `fedadam`.
        learning_rate: of the server, > 0.
        clipping_norm: L2, > 0.
    """

    optimizer: str
    learning_rate: float
    clipping_norm: float


def scores(world: World, settings: tuple[Setting, ...], rounds: int, noise: float, rng: np.random.Generator) -> Floats:
    """How well each setting answers rows that it was not trained on.

    Args:
        world: rows; the first half trains, the second judges.
        settings: tried, B of them.
        rounds: of training.
        noise: standard deviation of the noise in one coordinate of a mean gradient, in clipping norms.
        rng: the noise.

    Returns:
        (B,), the mean of AUC and accuracy, each in [0, 1].
    """
    half = len(world.y) // 2
    train = World(world.x[:half], world.y[:half])
    weights = _train(train, settings, rounds, noise, rng)
    logits = world.x[half:] @ (weights[1] - weights[0])
    truth = world.y[half:]
    accurate = ((logits > 0) == (truth[:, None] > 0)).mean(axis=0)
    found: Floats = (_auc(logits, truth) + accurate) / 2
    return found


def _train(world: World, settings: tuple[Setting, ...], rounds: int, noise: float, rng: np.random.Generator) -> Floats:
    """Weights after training, shape (2 classes, inputs, B)."""
    norm = np.array([setting.clipping_norm for setting in settings], np.float32)
    rate = np.array([setting.learning_rate for setting in settings], np.float32)
    adam = np.array([setting.optimizer == "fedadam" for setting in settings])
    length = np.float32(np.sqrt(2.0)) * np.linalg.norm(world.x, axis=1)[:, None]
    weights = np.zeros((2, world.x.shape[1], len(settings)), np.float32)
    first, second = np.zeros_like(weights), np.full_like(weights, TAU**2)
    for _ in range(rounds):
        logits = np.clip(world.x @ (weights[1] - weights[0]), -30, 30)
        error = 1 / (1 + np.exp(-logits)) - world.y[:, None]
        error *= np.minimum(1.0, norm / np.maximum(np.abs(error) * length, 1e-12))
        uphill = world.x.T @ error / len(world.y)
        step = -np.stack([-uphill, uphill]) + np.float32(noise) * norm * rng.standard_normal(weights.shape, np.float32)
        first = np.where(adam, MOMENTUM * first + (1 - MOMENTUM) * step, MOMENTUM * first + step)
        second = BETA_2 * second + (1 - BETA_2) * step**2
        weights = weights + rate * np.where(adam, first / (np.sqrt(second) + TAU), first)
    return weights


def _auc(logits: Floats, truth: Floats) -> Floats:
    """Area under the ROC curve of each column of scores (Mann-Whitney)."""
    ranks = np.argsort(np.argsort(logits, axis=0), axis=0) + 1.0
    positive = truth > 0
    hits, others = positive.sum(), (~positive).sum()
    found: Floats = (ranks[positive].sum(axis=0) - hits * (hits + 1) / 2) / (hits * others)
    return found
