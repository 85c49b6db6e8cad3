"""Bounding one unit's influence, with a fixed norm or one that follows a quantile of the norms in private."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from fedinfer.errors import ConfigError, DataError

if TYPE_CHECKING:
    from fedinfer.config import PrivacySection

FloatRows = npt.NDArray[np.float32]
"""One float32 vector per row, shape (n, d)."""

_NORMAL = 2.0**-100
"""Factors and norms above it are far from where float32 has fewer digits: there what is lost is less than 2^-24 too."""


def clip_rows(vectors: FloatRows, norm: float) -> FloatRows:
    """Scale rows down to an L2 norm of at most `norm`; shorter rows are unchanged.

    Args:
        vectors: (n, d) float32.
        norm: clipping norm, > 0.

    Returns:
        (n, d) float32, `vectors` itself where no row is longer. Each row's norm, computed in double precision, is
        <= `norm`.

    Raises:
        ConfigError: when the norm is not positive and finite.
        DataError: when a value is NaN or infinite: such a row has no norm to clip to.
    """
    _check_norm(norm)
    norms = _finite_norms(vectors)
    long = np.flatnonzero(norms > norm)
    if not long.size:
        return vectors
    # Rounding a factor and its products to float32 can lengthen a row by 2^-23 of its norm: aim a little lower.
    factors = np.ones(len(vectors))
    factors[long] = norm * (1 - 2.0**-22) / norms[long]
    if min(norm, factors.min()) > _NORMAL:
        return vectors * factors.astype(np.float32)[:, None]
    clipped = np.array(vectors, np.float32)
    for row in long.tolist():
        exact = vectors[row].astype(np.float64) * factors[row]
        nearest = exact.astype(np.float32)
        clipped[row] = np.where(np.abs(nearest) > np.abs(exact), np.nextafter(nearest, np.float32(0)), nearest)
    return clipped


def row_norms(vectors: FloatRows | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """L2 norm of each row in double precision, shape (n,).

    Args:
        vectors: (n, d).

    Returns:
        (n,) float64; NaN or infinity where a row holds one.
    """
    norms = np.empty(len(vectors))
    for at, row in enumerate(vectors):  # one after the other: a row in double precision stays in the cache
        wide = row.astype(np.float64, copy=False)
        norms[at] = math.sqrt(np.vecdot(wide, wide))
    return norms


@dataclass(frozen=True, slots=True)
class FixedClipping:
    """One clipping norm for the whole run.

    Args:
        norm: C > 0.
    """

    norm: float

    @property
    def bound(self) -> float:
        """Largest L2 norm of what a device sends; noise and accounting are relative to it."""
        return self.norm

    @property
    def extra(self) -> int:
        """Coordinates that a device sends beside its update."""
        return 0

    def prepare(self, updates: FloatRows, _announced: float) -> FloatRows:
        """What devices send for updates: the clipped updates, whatever norm a server announces.

        Args:
            updates: (n, d) float32.

        Returns:
            (n, d) float32, each row's norm in double precision <= `bound`.

        Raises:
            DataError: when an update holds NaN or infinity.
            ConfigError: when the norm is not positive and finite.
        """
        return clip_rows(updates, self.norm)

    def updates(self, released: FloatRows, _norm: float) -> FloatRows:
        """Sums or means of updates in what was released: all of it.

        Args:
            released: sums or means of what devices sent, (..., d).

        Returns:
            The same array.
        """
        return released


@dataclass(frozen=True, slots=True)
class AdaptiveClipping:
    """Follow a quantile of the update norms (Andrew, Thakkar, McMahan and Ramaswamy 2021).

    A device clips its update to the current norm C, divides it by C, and appends one coordinate: +w when nothing was
    clipped, -w otherwise. So what it sends has norm at most sqrt(1 + w^2) whatever C is: one mechanism serves every
    round, one event of it pays for update and bit together, and nobody's privacy depends on how C was chosen. For unit
    `device` only.

    Args:
        quantile: share of devices that shall not be clipped, in (0, 1).
        rate: step of the geometric update, > 0 (the paper uses 0.2).
        weight: w > 0, size of the bit beside an update of norm 1. The fraction of n devices is released with standard
            deviation z sqrt(1 + w^2) / (2 w n), and the update carries sqrt(1 + w^2) times the noise it would without.
    """

    quantile: float
    rate: float
    weight: float

    def __post_init__(self) -> None:
        if not (0 < self.quantile < 1 and 0 < self.rate < math.inf and 0 < self.weight < math.inf):
            raise ConfigError(f"adaptive clipping: quantile {self.quantile}, rate {self.rate}, weight {self.weight}")

    @property
    def bound(self) -> float:
        """Largest L2 norm of what a device sends; noise and accounting are relative to it."""
        return math.sqrt(1 + self.weight**2)

    @property
    def extra(self) -> int:
        """Coordinates that a device sends beside its update."""
        return 1

    def prepare(self, updates: FloatRows, announced: float) -> FloatRows:
        """What devices send for updates (n, d): (n, d + 1) float32, each row's norm in double precision <= `bound`.

        Args:
            updates: (n, d) float32.
            announced: C, as the server says.

        Raises:
            ConfigError: when C is not positive and finite.
            DataError: when an update holds NaN or infinity.
        """
        _check_norm(announced)
        norms = _finite_norms(updates)
        # Neither a tiny nor a huge C overflows: no quotient exceeds 1. Rounding them to float32 can lengthen a row by
        # 2^-24 of its norm, hence a little less.
        scaled = updates / np.maximum(norms, announced)[:, None] * (1 - 2.0**-22)
        bits = np.where(norms <= announced, self._bit, -self._bit)
        return np.concatenate([scaled, bits[:, None]], axis=1).astype(np.float32)

    def updates(self, released: FloatRows, norm: float) -> FloatRows:
        """Sums or means of updates, (..., d) in the model's units, in those of what devices sent, (..., d + 1).

        Args:
            released: sums or means of what devices sent, (..., d + 1).
            norm: C of the round, as announced.

        Returns:
            (..., d) float32, in the unit of the model's weights.
        """
        return (released[..., :-1].astype(np.float64) * norm).astype(np.float32)

    def bits(self, released: FloatRows) -> FloatRows:
        """Sums or means of the extra coordinate, (..., 1), in those of what devices sent.

        Args:
            released: sums or means of what devices sent, (..., d + 1).

        Returns:
            (..., 1) float32.
        """
        return np.ascontiguousarray(released[..., -1:])

    def fraction(self, mean_bit: float) -> float:
        """Noisy share of devices that were not clipped: unbiased, and so not always in [0, 1].

        Args:
            mean_bit: mean of the extra coordinate over the devices, with noise.
        """
        return 0.5 + mean_bit / (2 * self._bit)

    def next_norm(self, norm: float, fraction: float) -> float:
        """C exp(-rate (fraction - quantile)) (Andrew et al. 2021, section 2.1): post-processing, no cost of its own.

        The fraction is moved into [0, 1] first: noise pushes the norm no further than devices could.

        Args:
            norm: C of the round that is over, > 0.
            fraction: noisy share of devices that were not clipped, from `fraction`.

        Returns:
            C of the next round, > 0.
        """
        return norm * math.exp(-self.rate * (min(1.0, max(0.0, fraction)) - self.quantile))

    @property
    def _bit(self) -> float:
        """The largest float32 that is not above `weight`."""
        nearest = np.float32(self.weight)
        return float(nearest if float(nearest) <= self.weight else np.nextafter(nearest, np.float32(0)))


Clipping: TypeAlias = FixedClipping | AdaptiveClipping


def clipping_of(privacy: PrivacySection) -> Clipping:
    """How a run bounds the update of a device; with other units the norm is that of an example's gradient.

    Args:
        privacy: section of the scenario.

    Raises:
        ConfigError: a quantile, rate or weight of adaptive clipping is out of range.
    """
    if privacy.clipping == "adaptive":
        return AdaptiveClipping(privacy.clipping_quantile, privacy.clipping_rate, privacy.clipping_weight)
    return FixedClipping(privacy.clipping_norm)


def _finite_norms(vectors: FloatRows) -> npt.NDArray[np.float64]:
    norms = row_norms(vectors)
    if not np.isfinite(norms).all():
        raise DataError(f"row {int(np.flatnonzero(~np.isfinite(norms))[0])} of the update holds NaN or infinity")
    return norms


def _check_norm(norm: float) -> None:
    if not (math.isfinite(norm) and norm > 0):
        raise ConfigError(f"clipping norm must be positive and finite, got {norm}")
