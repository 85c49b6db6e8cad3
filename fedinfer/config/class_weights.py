"""Weights of classes in the loss, from public facts alone: stated shares, or public rows. Never from devices' rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.config.sections import Scenario, TrainingSection
from fedinfer.errors import ConfigError

UNWEIGHTED = "none"


def resolve_weights(training: TrainingSection, labels: Sequence[str], public_y: npt.NDArray[Any]) -> TrainingSection:
    """The section with a weight for each class in place of `balanced`: what every device gets.

    A class with the share p of K classes gets 1 / (K p) (King and Zeng 2001, section 4.2), so that the mean weight of a
    row is 1 and every class counts alike.

    Args:
        training: says which weights are wanted.
        labels: class names; empty: the label is a number.
        public_y: class numbers of the rows that the server may hold; may be empty.

    Raises:
        ConfigError: nothing public says how frequent a class is, weights do not name the classes, or no classes.
    """
    wanted = training.class_weights
    if wanted == UNWEIGHTED:
        return training
    if not labels:
        raise ConfigError("[training] class_weights: the label is a number", hint="leave class_weights out")
    if isinstance(wanted, dict):
        if set(wanted) != set(labels):
            raise ConfigError(
                f"[training] class_weights names {sorted(wanted)}, the label has {list(labels)}",
                hint="give a weight to each class by its name",
            )
        return training
    shares = _shares(training, labels, public_y)
    weights = {name: 1.0 / (len(labels) * share) for name, share in zip(labels, shares, strict=True)}
    return training.model_copy(update={"class_weights": weights})


def weighted(scenario: Scenario, labels: Sequence[str], public_y: npt.NDArray[Any]) -> Scenario:
    """The scenario as devices get it: with a number for the weight of each class.

    Args:
        scenario: says which weights are wanted.
        labels: class names; empty: the label is a number.
        public_y: class numbers of the rows that the server may hold; may be empty.

    Raises:
        ConfigError: as `resolve_weights`.
    """
    return scenario.model_copy(update={"training": resolve_weights(scenario.training, labels, public_y)})


def _shares(training: TrainingSection, labels: Sequence[str], public_y: npt.NDArray[Any]) -> list[float]:
    if training.prior:
        return [training.prior[name] for name in labels]
    counts = np.bincount(public_y.astype(np.int64), minlength=len(labels))
    if not counts.all():
        raise ConfigError(
            f"[training] class_weights = 'balanced': {len(public_y)} public rows hold {int((counts > 0).sum())} of "
            f"{len(labels)} classes, and rows of devices are never counted for it",
            hint="state public shares in [training.prior], raise data.public_fraction, or write the weights yourself",
        )
    return [float(share) for share in counts / counts.sum()]


def class_factors(training: TrainingSection, labels: Sequence[str]) -> tuple[float, ...]:
    """Factor of each class in the loss, the largest 1: a clipped gradient stays as short as without weights.

    Args:
        training: resolved.
        labels: class names, in the order of their numbers.

    Returns:
        In (0, 1]; empty: all rows count alike.
    """
    weights = training.class_weights
    if not isinstance(weights, dict):
        return ()
    return tuple(weights[name] / class_gain(training) for name in labels)


def class_gain(training: TrainingSection) -> float:
    """What a step is multiplied by so that factors mean weights: the largest weight; 1 without weights.

    Args:
        training: resolved.
    """
    return max(training.class_weights.values()) if isinstance(training.class_weights, dict) else 1.0
