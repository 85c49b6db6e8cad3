"""Bounding one unit's influence, with a fixed norm or one that follows a quantile of the norms in private."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedinfer.errors import ConfigError, DataError
from fedinfer.types import FloatVector

FloatRows = npt.NDArray[np.float32]
"""One float32 vector per row, shape (n, d)."""


def clip_rows(vectors: FloatRows, norm: float) -> FloatRows:
    """Scale rows down to an L2 norm of at most `norm`; shorter rows are unchanged.

    Args:
        vectors: (n, d) float32.
        norm: clipping norm, > 0.

    Returns:
        (n, d) float32. Each row's norm, computed in double precision, is <= `norm`.

    Raises:
        DataError: when a value is NaN or infinite: such a row has no norm to clip to.
    """
    _check_norm(norm)
    norms = row_norms(vectors)
    if not np.isfinite(norms).all():
        raise DataError(f"row {int(np.flatnonzero(~np.isfinite(norms))[0])} of the update holds NaN or infinity")
    # Rounding the products to float32 can lengthen a row by 2^-24 of its norm: aim a little lower.
    factors = np.where(norms > norm, norm * (1 - 2.0**-22) / np.maximum(norms, 1e-300), 1.0)
    return (vectors * factors[:, None]).astype(np.float32)


def row_norms(vectors: FloatRows | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """L2 norm of each row in double precision, shape (n,)."""
    rows = vectors.astype(np.float64)
    norms: npt.NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    return norms


@dataclass(frozen=True, slots=True)
class AdaptiveClipping:
    """Follow a quantile of the update norms (Andrew, Thakkar, McMahan and Ramaswamy 2021).

    Each device adds one coordinate to its clipped update: +w C when its norm was at most C, -w C otherwise. The
    longer vector has norm at most C sqrt(1 + w^2), and goes through clipping, noise and secure aggregation as one:
    one event, no second message. For unit `device` only.

    Args:
        quantile: share of devices that shall not be clipped, in (0, 1).
        rate: step of the geometric update, > 0 (the paper uses 0.2).
        weight: w, the size of the extra coordinate relative to C, > 0. More weight, sharper fraction, less privacy
            for the same noise multiplier.
    """

    quantile: float
    rate: float
    weight: float

    def __post_init__(self) -> None:
        if not (0 < self.quantile < 1 and self.rate > 0 and self.weight > 0):
            raise ConfigError(f"adaptive clipping: quantile {self.quantile}, rate {self.rate}, weight {self.weight}")

    def joint_norm(self, norm: float) -> float:
        """Clipping norm of the longer vector: noise and accounting are relative to this one."""
        return norm * math.sqrt(1 + self.weight**2)

    def append_bits(self, vectors: FloatRows, norm: float) -> FloatRows:
        """Clip (n, d) rows to `norm` and append the bit: (n, d + 1), each row within `joint_norm(norm)`."""
        under = row_norms(vectors) <= norm
        bits = np.where(under, self.weight * norm, -self.weight * norm).astype(np.float32)
        return np.concatenate([clip_rows(vectors, norm), bits[:, None]], axis=1)

    def split_sum(self, total: FloatVector, norm: float, survivors: int) -> tuple[FloatVector, float]:
        """Take a released sum apart: (sum of updates (d,), noisy fraction of devices that were not clipped)."""
        fraction = 0.5 + float(total[-1]) / (2 * self.weight * norm * survivors)
        return total[:-1], fraction

    def next_norm(self, norm: float, fraction: float) -> float:
        """C exp(-rate (fraction - quantile)), section 2.1 of the paper: post-processing, no cost of its own."""
        return norm * math.exp(-self.rate * (min(1.0, max(0.0, fraction)) - self.quantile))


def _check_norm(norm: float) -> None:
    if not (math.isfinite(norm) and norm > 0):
        raise ConfigError(f"clipping norm must be positive and finite, got {norm}")
