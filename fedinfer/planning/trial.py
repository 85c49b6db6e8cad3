"""Private training as a run does it, many settings at once, on a synthetic world: signal against noise.

The server's optimizers are those of `fedinfer.training.server_optimizers`, the same formulas. Models are linear in
their features and start at zero: one output per class of two, which also stands in for more of them, or one number.

* Unit `example`: in every round the sum of all rows' clipped gradients, with noise, moves the optimizer.
* Unit `device`: in every round each device descends on its rows; the sum of the clipped updates, with noise, moves it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fedinfer.planning.worlds import Floats

MOMENTUM, BETA_2, TAU = 0.9, 0.99, 1e-3
"""As in [training] server_momentum and fedinfer.training.server_optimizers."""
HUBER_DELTA = 0.2
"""As in fedinfer.training.objective."""
LOCAL_STEPS, LOCAL_RATE = 5, 0.1
"""Steps of a device in a round, and their size, as `fedinfer init` writes them or leaves them."""
QUANTILE, CLIPPING_RATE = 0.5, 0.2
"""As [privacy] clipping_quantile and clipping_rate."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a trial may choose.

    Args:
        optimizer: `fedavgm` or `fedadam`.
        learning_rate: of the server, > 0.
        clipping_norm: L2, > 0; where it starts, if it adapts.
    """

    optimizer: str
    learning_rate: float
    clipping_norm: float


@dataclass(frozen=True, slots=True)
class TrialRows:
    """What is learned from, or judged on.

    Args:
        x: prepared rows, (n, features).
        y: (n,), class 0 or 1, or a scaled number.
        number: whether the label is a number.
    """

    x: Floats
    y: Floats
    number: bool


@dataclass(frozen=True, slots=True)
class TrialTerms:
    """How private training is.

    Args:
        rounds: of training.
        noise: standard deviation of the noise in one coordinate of a mean update, in clipping norms.
        devices: that descend by themselves, each on as many of the rows as any other; 0: every row is a unit.
    """

    rounds: int
    noise: float
    devices: int = 0


def scores(
    train: TrialRows, judged: TrialRows, settings: Sequence[Setting], terms: TrialTerms, rng: np.random.Generator
) -> Floats:
    """How well each setting answers rows that it was not trained on.

    Args:
        train: rows that are learned from.
        judged: other rows.
        settings: tried, B of them.
        terms: of training.
        rng: the noise.

    Returns:
        (B,): of classes the mean of AUC and accuracy, each in [0, 1]; of a number the explained part of its variance.
    """
    weights = trained(train, settings, terms, rng)
    outputs = _outputs(judged, weights)
    truth = judged.y[:, None]
    if judged.number:
        error = np.square(np.clip(outputs, -1, 1) - truth).mean(axis=0)
        return np.asarray(1.0 - error / judged.y.var(), np.float32)
    accurate = ((outputs > 0) == (truth > 0)).mean(axis=0)
    return np.asarray((_auc(outputs, judged.y) + accurate) / 2, np.float32)


def trained(train: TrialRows, settings: Sequence[Setting], terms: TrialTerms, rng: np.random.Generator) -> Floats:
    """Weights after training.

    Args:
        train: rows.
        settings: tried, B of them.
        terms: of training.
        rng: the noise.

    Returns:
        (outputs, features, B): two outputs for classes, one for a number.
    """
    norm = np.array([setting.clipping_norm for setting in settings], np.float32)
    rate = np.array([setting.learning_rate for setting in settings], np.float32)
    adam = np.array([setting.optimizer == "fedadam" for setting in settings])
    update = _row_updates(train) if not terms.devices else _device_updates(train, terms.devices)
    weights = np.zeros((1 if train.number else 2, train.x.shape[1], len(settings)), np.float32)
    first, second = np.zeros_like(weights), np.full_like(weights, TAU**2)
    for _ in range(terms.rounds):
        mean, whole = update(weights, norm)
        step = np.stack([mean] if train.number else [-mean, mean])
        step += np.float32(terms.noise) * norm * rng.standard_normal(weights.shape, np.float32)
        if terms.devices:  # Andrew et al. 2021, section 2.1; the noise of the count is small
            norm = norm * np.exp(np.float32(CLIPPING_RATE) * (QUANTILE - whole))
        first = np.where(adam, MOMENTUM * first + (1 - MOMENTUM) * step, MOMENTUM * first + step)
        second = BETA_2 * second + (1 - BETA_2) * step**2
        weights = weights + rate * np.where(adam, first / (np.sqrt(second) + TAU), first)
    return weights


Update = Callable[[Floats, Floats], tuple[Floats, Floats]]
"""Weights and norms to the mean clipped update of the last output, (features, B), and the part that was not clipped."""


def _row_updates(train: TrialRows) -> Update:
    length = _outputs_length(train) * np.linalg.norm(train.x, axis=1)[:, None]
    turned = np.ascontiguousarray(train.x.T)

    def update(weights: Floats, norm: Floats) -> tuple[Floats, Floats]:
        error = _error(_outputs(train, weights), train.y[:, None], number=train.number)
        error *= np.minimum(1.0, norm / np.maximum(np.abs(error) * length, 1e-12))
        return -(turned @ error) / np.float32(len(train.y)), np.ones_like(norm)

    return update


def _device_updates(train: TrialRows, devices: int) -> Update:
    each = len(train.y) // devices
    x = train.x[: devices * each].reshape(devices, each, -1)
    y = train.y[: devices * each].reshape(devices, each, 1)
    turned = np.ascontiguousarray(x.transpose(0, 2, 1))
    reach = np.float32(LOCAL_RATE / each)
    width = _outputs_length(train)

    def update(weights: Floats, norm: Floats) -> tuple[Floats, Floats]:
        start = weights[-1] - (0.0 if train.number else weights[0])
        moved = np.zeros((devices, *start.shape), np.float32)
        for _ in range(LOCAL_STEPS):
            outputs = x @ (start + moved * np.float32(width**2))
            moved -= reach * (turned @ _error(outputs, y, number=train.number))
        length = width * np.linalg.norm(moved, axis=1, keepdims=True)
        factor = np.minimum(1.0, norm / np.maximum(length, 1e-12))
        return (moved * factor).mean(axis=0), (length[:, 0] <= norm).mean(axis=0)

    return update


def _outputs_length(train: TrialRows) -> np.float32:
    """Two outputs move by the same amount in opposite directions: the whole is sqrt(2) times as long as one."""
    return np.float32(1.0 if train.number else np.sqrt(2.0))


def _outputs(rows: TrialRows, weights: Floats) -> Floats:
    """The number, or the log odds of class 1; (n, B)."""
    found: Floats = rows.x @ (weights[0] if rows.number else weights[1] - weights[0])
    return found


def _error(outputs: Floats, y: Floats, *, number: bool) -> Floats:
    """Derivative of the loss by the last output: cross-entropy, or Huber's loss (`fedinfer.training.objective`)."""
    if number:
        return np.asarray(np.clip((outputs - y) / HUBER_DELTA, -1.0, 1.0))
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(outputs, -30, 30))) - y)


def _auc(logits: Floats, truth: Floats) -> Floats:
    """Area under the ROC curve of each column of scores (Mann-Whitney)."""
    ranks = np.argsort(np.argsort(logits, axis=0), axis=0) + 1.0
    positive = truth > 0
    hits, others = positive.sum(), (~positive).sum()
    found: Floats = (ranks[positive].sum(axis=0) - hits * (hits + 1) / 2) / (hits * others)
    return found
