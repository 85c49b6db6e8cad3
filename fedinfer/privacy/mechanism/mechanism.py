"""The distributed mechanism: float vectors in, noised integers mod 2^b out, and what one unit can change.

    clip -> pad to a power of two -> randomized Hadamard -> scale -> round -> add a noise share -> mod 2^b

A sum without noise shares is neither padded nor rotated: its ring holds whatever its devices may send (see `rotated`).

Kairouz, Liu and Steinke 2021 (arXiv 2102.06387) with Skellam noise (Agarwal, Kairouz and Liu 2021, arXiv 2110.04995) or
discrete Gaussian shares. Shares are sized so that `contributors` of them reach the promised variance; every further one
is a bonus that is not accounted for. Reduction mod 2^b is post-processing and costs no privacy; wrapping costs utility,
and `design` keeps its probability per release below 2^-30.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

import numpy as np

from fedinfer import wire
from fedinfer.errors import ConfigError
from fedinfer.privacy.accounting.events import (
    DiscreteGaussianEvent,
    Event,
    GaussianEvent,
    Noise,
    NonPrivate,
    PoissonSampled,
    SkellamEvent,
)
from fedinfer.privacy.accounting.rdp import noise_curve
from fedinfer.privacy.mechanism.noise import pieces, whole_variance
from fedinfer.types import Unit

MIN_BITS, MAX_BITS = 8, 32
WRAP_EXPONENT = 30
"""A coordinate of a release wraps around with probability at most 2^-30, over the random rotation and the noise."""
FLOAT_SLACK = 1e-3
"""Relative allowance on the clipping norm of example sums: per-example gradients are clipped and added in float32."""
_JUDGED_ORDERS = np.array([2, 4, 8, 16, 32, 64, 128, 256])


class NoiseKind(StrEnum):
    """Law of a noise share. `none`: noise is added before encoding or after decoding, or the run is unsafe."""

    SKELLAM = "skellam"
    DISCRETE_GAUSSIAN = "discrete_gaussian"
    NONE = "none"


class Rounding(StrEnum):
    """How scaled coordinates become integers, and with it the norm of one unit's integer vector."""

    CONDITIONAL = "conditional"
    """The whole vector belongs to one unit: round at random until its norm is within the bound (unit `device`)."""
    DITHERED = "dithered"
    """The vector is a sum over units: floor(x + u) with one dither u per coordinate (unit `example`)."""

    @property
    def unit(self) -> Unit:
        """Whose influence it bounds."""
        match self:
            case Rounding.CONDITIONAL:
                return Unit.DEVICE
            case Rounding.DITHERED:
                return Unit.EXAMPLE
            case _:
                assert_never(self)


def rounding_of(unit: Unit) -> Rounding:
    """Sums of clipped examples are dithered, whole vectors rounded under a condition on their norm.

    Args:
        unit: what is protected.
    """
    match unit:
        case Unit.EXAMPLE:
            return Rounding.DITHERED
        case Unit.DEVICE | Unit.NONE:
            return Rounding.CONDITIONAL
        case _:
            assert_never(unit)


@dataclass(frozen=True, slots=True)
class IntegerMechanism:
    """Everything a device needs to encode and the server to decode; part of what a session promises.

    Args:
        kind: law of the shares.
        dimension: d, length of the float vector.
        clipping_norm: C, largest L2 norm of one unit's float vector.
        noise_multiplier: z; the guaranteed noise on the decoded sum has standard deviation >= z C. 0 only for `none`.
        bits: b, ring width, 8..32.
        scale: s, integers per unit of the float vector.
        contributors: honest devices whose shares are guaranteed: ceil((1 - dishonest fraction) * threshold).
        summands: most devices whose encodings are added.
        units: most clipped units in the sum: equal to `summands` for unit `device`, the most sampled examples of all
            devices together for unit `example`. Only the probability of wrapping depends on it.
        rounding: see `Rounding`.
        unit: what is protected; `none` when the encoding bounds nobody's influence (trust `local`: vectors are
            already private; unsafe runs).
    """

    kind: NoiseKind
    dimension: int
    clipping_norm: float
    noise_multiplier: float
    bits: int
    scale: float
    contributors: int
    summands: int
    units: int
    rounding: Rounding
    unit: Unit

    def __post_init__(self) -> None:
        _check_counts(self.dimension, self.contributors, self.summands, self.units)
        _check_sizes(self.kind, self.clipping_norm, self.noise_multiplier)
        if not MIN_BITS <= self.bits <= MAX_BITS or not (math.isfinite(self.scale) and self.scale > 0):
            raise ConfigError(
                f"ring of {self.bits} bits with scale {self.scale}: bits must be in 8..32, scale positive"
            )
        if self.unit is not Unit.NONE and self.unit is not self.rounding.unit:
            raise ConfigError(f"{self.rounding} rounding does not bound the influence of one {self.unit}")
        if self.unit is Unit.NONE and self.kind is not NoiseKind.NONE:
            raise ConfigError("a noise share protects a unit: unit `none` goes with noise kind `none`")

    @property
    def rotated(self) -> bool:
        """Whether vectors are rotated before they are rounded.

        A rotation makes all coordinates alike, so that a sum fits a narrow ring (Kairouz et al. 2021, section 3). The
        ring that `design_without_noise` gives has room for the largest possible coordinate, so there it would gain
        nothing. No bound on what one unit changes needs it: those hold for every vector.
        """
        return self.kind is not NoiseKind.NONE or largest_sum(self) >= 1 << (self.bits - 1)

    @property
    def padded(self) -> int:
        """Length of the encoded vector: `dimension`, or where it is rotated the least power of two from there on."""
        return 1 << (self.dimension - 1).bit_length() if self.rotated else self.dimension

    @property
    def share_variance(self) -> int:
        """Variance of one device's noise share in integer units; 0 for `none`. Rounded up."""
        if self.kind is NoiseKind.NONE:
            return 0
        return whole_variance((self.scale * self.clipping_norm * self.noise_multiplier) ** 2 / self.contributors)

    @property
    def l2(self) -> float:
        """Largest L2 norm of what one unit changes in the integer vector.

        CONDITIONAL (Kairouz et al. 2021, Theorem 1, beta = exp(-1/2)): the norm of the rounded vector itself, which the
        encoder checks. DITHERED: with the dithers and the other units fixed, one unit moves coordinate j of
        floor(x + u) by an integer within 1 of what it moves x by, so the norm is below s C + sqrt(padded).
        """
        scaled, p = self.scale * self.clipping_norm, self.padded
        match self.rounding:
            case Rounding.DITHERED:
                return scaled * (1 + FLOAT_SLACK) + math.sqrt(p)
            case Rounding.CONDITIONAL:
                return math.sqrt(conditional_bound(scaled, p))
            case _:
                assert_never(self.rounding)

    @property
    def l1(self) -> float:
        """Largest L1 norm of the same: at most sqrt(padded) times the L2 norm, and for integers at most its square."""
        return min(math.sqrt(self.padded) * self.l2, self.l2**2)

    def event(self, sampling_rate: float) -> Event:
        """What one release with this mechanism does.

        Args:
            sampling_rate: 1, or the rate in (0, 1] at which each unit takes part independently and in secret.

        Raises:
            ConfigError: the rate is outside (0, 1].
        """
        if self.kind is NoiseKind.NONE:
            return NonPrivate()
        # A large share is drawn as a sum of parts: for the discrete Gaussian that is a sum of more, smaller shares.
        shares = self.contributors * pieces(self.share_variance)
        noise = _noise_event(self, float(self.contributors * self.share_variance), shares)
        return noise if sampling_rate == 1 else PoissonSampled(sampling_rate, noise)

    def digest(self) -> bytes:
        """SHA-256 over all fields: what devices are promised, bound into the session id."""
        return hashlib.sha256(wire.encode(self)).digest()


def conditional_bound(scaled_norm: float, padded: int) -> float:
    """Bound on the SQUARED norm after conditional rounding of a vector with norm `scaled_norm` (Kairouz et al. 2021).

    min((x + sqrt d)^2, x^2 + d/4 + sqrt(2 ln(1/beta)) (x + sqrt(d)/2)) with beta = exp(-1/2): a rounding is within it
    with probability at least 1 - beta = 0.39.

    Args:
        scaled_norm: x = s C, integer units, >= 0.
        padded: d, length of the rotated vector.

    Returns:
        Integer units squared.
    """
    root = math.sqrt(padded)
    return min((scaled_norm + root) ** 2, scaled_norm**2 + padded / 4 + scaled_norm + root / 2)


def decoded_sensitivity(mechanism: IntegerMechanism) -> float:
    """Largest L2 change that one unit makes to the decoded sum, in units of the float vector; rounding included.

    Noise of standard deviation z * decoded_sensitivity on the decoded sum (trust `central`) is GaussianEvent(z). The
    sum must not wrap around for it to hold: use a mechanism from `design_without_noise`, where it cannot.
    Each of two neighbouring sums is rounded to float32 by at most 2^-24 of its norm, which is added.

    Args:
        mechanism: one that bounds the influence of a unit.

    Raises:
        ConfigError: when the mechanism bounds no unit's influence.
    """
    if mechanism.unit is Unit.NONE:
        raise ConfigError("this mechanism bounds no unit's influence: its decoded sum has no sensitivity")
    return mechanism.l2 / mechanism.scale + 2.0**-23 * mechanism.units * mechanism.clipping_norm


def largest_sum(mechanism: IntegerMechanism) -> float:
    """Certain bound on |coordinate of the integer sum| without noise.

    Args:
        mechanism: without noise in the ring.

    Returns:
        Integer units, at the mechanism's scale.
    """
    scaled = mechanism.scale * mechanism.clipping_norm
    match mechanism.rounding:
        case Rounding.CONDITIONAL:
            return (scaled + 1) * mechanism.summands
        case Rounding.DITHERED:
            return scaled * 1.001 * mechanism.units + mechanism.summands
        case _:
            assert_never(mechanism.rounding)


def magnitude(mechanism: IntegerMechanism) -> float:
    """Bound on |coordinate of the integer sum| that fails with probability at most 2^-WRAP_EXPONENT per release.

    Signal: a coordinate of a randomly rotated vector of norm W is a Rademacher sum of norm W / sqrt(p), so it exceeds
    t W / sqrt(p) with probability at most 2 exp(-t^2 / 2) (Hoeffding), and never exceeds W; W <= s C units. Rounding:
    below 1 per device. Noise: P(|X| > t) <= 2 exp(-t^2 / (2 (v + t/3))) (Bernstein; v is the total variance of all
    shares). Half of the failure probability for each, divided over the p coordinates.

    Args:
        mechanism: with or without noise in the ring.

    Returns:
        Integer units, at the mechanism's scale.
    """
    log_inverse = math.log(4 * mechanism.padded) + WRAP_EXPONENT * math.log(2)
    whole = mechanism.scale * mechanism.clipping_norm * (1 + FLOAT_SLACK) * mechanism.units
    signal = whole * min(1.0, math.sqrt(2 * log_inverse / mechanism.padded))
    variance = mechanism.summands * mechanism.share_variance
    noise = log_inverse / 3 + math.sqrt((log_inverse / 3) ** 2 + 2 * variance * log_inverse) if variance else 0.0
    return signal + mechanism.summands + noise


def loss(mechanism: IntegerMechanism) -> float:
    """How much of epsilon rounding and integer noise cost.

    The largest relative excess, over orders 2 to 256, of the Rényi bound of this mechanism over that of continuous
    Gaussian noise with the same multiplier and no rounding. Without sampling epsilon grows by at most this share
    (epsilon is the Rényi bound plus a term of delta only). For kind `none`: the excess of the squared sensitivity.

    Args:
        mechanism: with or without noise in the ring.

    Returns:
        A share, for instance 0.01; the norms of dithered sums alone cost about 0.002.
    """
    scaled = mechanism.scale * mechanism.clipping_norm
    if mechanism.kind is NoiseKind.NONE:
        return (mechanism.l2 / scaled) ** 2 - 1
    ideal = noise_curve(GaussianEvent(mechanism.noise_multiplier), _JUDGED_ORDERS, 1.0)
    variance = (scaled * mechanism.noise_multiplier) ** 2  # as promised: rounding the variance up is no merit here
    real = noise_curve(_noise_event(mechanism, variance, mechanism.contributors), _JUDGED_ORDERS, 1.0)
    return float((real / ideal).max()) - 1


def _noise_event(mechanism: IntegerMechanism, variance: float, shares: int) -> Noise:
    l2, l1 = mechanism.l2, mechanism.l1
    match mechanism.kind:
        case NoiseKind.SKELLAM:
            return SkellamEvent(variance, l2, l1, mechanism.padded)
        case NoiseKind.DISCRETE_GAUSSIAN:
            return DiscreteGaussianEvent(variance / shares, shares, l2, l1, mechanism.padded)
        case NoiseKind.NONE:
            raise ConfigError("a mechanism without noise has no noise event")
        case _:
            assert_never(mechanism.kind)


def _check_counts(dimension: int, contributors: int, summands: int, units: int) -> None:
    if dimension < 1 or not 1 <= contributors <= summands or units < 1:
        raise ConfigError(
            f"dimension {dimension}, contributors {contributors}, summands {summands}, units {units}: "
            "all at least 1, contributors at most summands"
        )


def _check_sizes(kind: NoiseKind, clipping_norm: float, noise_multiplier: float) -> None:
    if not (math.isfinite(clipping_norm) and clipping_norm > 0):
        raise ConfigError(f"clipping norm must be positive and finite, got {clipping_norm}")
    if (
        not math.isfinite(noise_multiplier)
        or noise_multiplier < 0
        or (noise_multiplier == 0) != (kind is NoiseKind.NONE)
    ):
        raise ConfigError(f"noise multiplier {noise_multiplier} does not fit {kind} noise")
