"""What holds for every engine: private steps that make sense, and updates that are finite."""

from __future__ import annotations

from typing import assert_never

import numpy as np

from fedinfer.errors import ConfigError
from fedinfer.training.engines.gradient_engine import GradientEngine
from fedinfer.types import FloatVector


def finite_rows(updates: FloatVector) -> FloatVector:
    """The updates with zeros for devices that diverged; changed in place.

    A zero is what a device sends that did nothing, so the sum stays useful and the clipping norm still holds.

    Args:
        updates: one row per device, (n, d).
    """
    # A sum holds NaN or infinity where a number does, and rarely elsewhere: only such rows are looked at twice.
    with np.errstate(over="ignore", invalid="ignore"):
        odd = np.flatnonzero(~np.isfinite(updates.sum(axis=1)))
    updates[odd[~np.isfinite(updates[odd]).all(axis=1)]] = 0.0
    return updates


def check_private(rate: float, clipping_norm: float) -> None:
    """Refuse settings of private training that mean nothing.

    Args:
        rate: Poisson sampling rate.
        clipping_norm: of one unit.

    Raises:
        ConfigError: the rate is outside (0, 1], or the norm is not positive and finite.
    """
    if not 0.0 < rate <= 1.0:
        raise ConfigError(f"sampling rate {rate} is not in (0, 1]")
    if not 0.0 < clipping_norm < float("inf"):
        raise ConfigError(f"clipping norm {clipping_norm} is not positive and finite")


def check_weights(weights: FloatVector, size: int) -> None:
    """Refuse weights that no step can start from.

    Args:
        weights: of a whole model.
        size: of the model.

    Raises:
        ConfigError: some are NaN or infinite, or they are of another model.
    """
    if weights.shape != (size,):
        raise ConfigError(f"weights of shape {weights.shape}, the model has {size} parameters")
    if broken := int(np.count_nonzero(~np.isfinite(weights))):
        raise ConfigError(
            f"{broken} of {weights.size} weights are not finite", hint="training diverged: lower the learning rates"
        )


def rows_together(engine: GradientEngine) -> int:
    """How many rows of a device go through the layers that stay as they are at once; 0: all.

    Args:
        engine: that computes the gradients.
    """
    match engine:
        case GradientEngine.PER_EXAMPLE:
            return 1
        case GradientEngine.BATCHED | GradientEngine.OPACUS:
            return 0
        case _:
            assert_never(engine)
