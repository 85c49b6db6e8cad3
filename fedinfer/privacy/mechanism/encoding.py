"""Encoding float vectors for a secure sum, with their noise share, and decoding the sum."""

from __future__ import annotations

import math
from typing import assert_never

import numpy as np
import numpy.typing as npt

from fedinfer.errors import ConfigError, DataError
from fedinfer.privacy.mechanism.clipping import clip_rows, row_norms
from fedinfer.privacy.mechanism.mechanism import IntegerMechanism, NoiseKind, Rounding, conditional_bound
from fedinfer.privacy.mechanism.noise import NoiseStream, discrete_gaussian, skellam
from fedinfer.privacy.mechanism.rotation import rotate, rotate_back
from fedinfer.types import FloatVector, RingVector, WideVector

Integers = npt.NDArray[np.int64]

MOST_DRAWS = 1000
"""Times that a row is rounded again: a clipped row fails so often with probability below 0.61^1000 < 2^-700."""


def encode(
    vectors: FloatVector | WideVector,
    mechanism: IntegerMechanism,
    rotation_seed: bytes,
    noise: NoiseStream,
    rounding: NoiseStream,
) -> RingVector:
    """Encode float vectors as noised integers mod 2^bits, one share of noise each.

    Args:
        vectors: (n, d) or (d,). CONDITIONAL rounding: float32, clipped here to the clipping norm. DITHERED: sums of
            already clipped examples, taken as they are; float64, because in float32 the rounding of a sum of thousands
            of examples is no longer small beside one of them.
        mechanism: see `fedinfer.privacy.mechanism.design`.
        rotation_seed: public, equal for all devices of the round, not under the control of a device.
        noise: source of the noise share; a `SecureStream` in a real deployment.
        rounding: source of the rounding; it need not be secret.

    Returns:
        uint32, shape (n, padded) or (padded,).

    Raises:
        ConfigError: when the vectors have another length.
        DataError: when a value is NaN or infinite.
    """
    rows = vectors[None, :] if vectors.ndim == 1 else vectors
    integers = to_integers(rows, mechanism, rotation_seed, rounding)
    integers += draw_shares(integers.shape[0], mechanism, noise)
    # In two's complement the mask is the residue mod 2^bits for negative numbers too.
    ring = (integers & ((1 << mechanism.bits) - 1)).astype(np.uint32)
    return ring[0] if vectors.ndim == 1 else ring


def to_integers(
    rows: FloatVector | WideVector, mechanism: IntegerMechanism, rotation_seed: bytes, rounding: NoiseStream
) -> Integers:
    """Clip, rotate, scale and round: the encoding without noise.

    Args:
        rows: (n, d), as in `encode`.
        mechanism: what the devices of the round were promised.
        rotation_seed: public, equal for all devices of the round.
        rounding: source of the rounding; it need not be secret.

    Returns:
        (n, padded) int64.

    Raises:
        ConfigError: when the rows have another length than the mechanism's.
        DataError: when a value is NaN or infinite, or so large that its scaled integer would not be exact.
    """
    if rows.ndim != 2 or rows.shape[1] != mechanism.dimension:
        raise ConfigError(f"vectors of shape {rows.shape}, the mechanism encodes {mechanism.dimension} coordinates")
    match mechanism.rounding:
        case Rounding.CONDITIONAL:
            rows = clip_rows(rows.astype(np.float32, copy=False), mechanism.clipping_norm)
        case Rounding.DITHERED:
            if not np.isfinite(row_norms(rows)).all():
                raise DataError("a sum of examples holds NaN or infinity")
        case _:
            assert_never(mechanism.rounding)
    # The rotation spreads a vector over all coordinates, so that none is much larger than the others and the ring can
    # be narrow (Kairouz et al. 2021, Algorithm 1); this Hadamard matrix exists for powers of two, hence the padding.
    scaled = np.zeros((rows.shape[0], mechanism.padded))
    scaled[:, : mechanism.dimension] = rows
    scaled = rotate(scaled, rotation_seed)
    scaled *= mechanism.scale
    _check_range(scaled)
    match mechanism.rounding:
        case Rounding.CONDITIONAL:
            bound = conditional_bound(mechanism.scale * mechanism.clipping_norm, mechanism.padded)
            return _round_within(scaled, bound, rounding)
        case Rounding.DITHERED:
            return _floor_dithered(scaled, rounding)
        case _:
            assert_never(mechanism.rounding)


def draw_shares(count: int, mechanism: IntegerMechanism, noise: NoiseStream) -> Integers | int:
    """`count` noise shares, (count, padded) int64; 0 for kind `none`.

    Args:
        count: devices that this process encodes for, >= 0.
        mechanism: its `share_variance` is that of one share, integer units.
        noise: source of the noise; a `SecureStream` in a real deployment.

    Returns:
        (count, padded) int64, independent; the number 0 for kind `none`.
    """
    shape = (count, mechanism.padded)
    match mechanism.kind:
        case NoiseKind.NONE:
            return 0
        case NoiseKind.SKELLAM:
            return skellam(mechanism.share_variance, shape, noise)
        case NoiseKind.DISCRETE_GAUSSIAN:
            return discrete_gaussian(mechanism.share_variance, shape, noise)
        case _:
            assert_never(mechanism.kind)


def decode(total: RingVector, mechanism: IntegerMechanism, rotation_seed: bytes) -> FloatVector:
    """The sum of the float vectors plus noise, from the sum of encodings mod 2^bits.

    Args:
        total: (padded,) uint32, values in [0, 2^bits).
        mechanism: the one the devices encoded with.
        rotation_seed: the one the devices used.

    Returns:
        (d,) float32: the SUM, not the mean.

    Raises:
        ConfigError: when the vector has another length or a value is outside the ring.
    """
    if total.shape != (mechanism.padded,) or (total.size and int(total.max()) >> mechanism.bits):
        raise ConfigError(
            f"sum of shape {total.shape} is not in the ring: ({mechanism.padded},) values below 2^{mechanism.bits}"
        )
    # Residues stand for integers in [-2^(bits-1), 2^(bits-1)): the sum is signed, and `design` keeps it in that range.
    half = 1 << (mechanism.bits - 1)
    centred = ((total.astype(np.int64) + half) & (2 * half - 1)) - half
    rows = rotate_back(centred.astype(np.float64)[None, :], rotation_seed)
    result: FloatVector = (rows[0, : mechanism.dimension] / mechanism.scale).astype(np.float32)
    return result


def _floor_dithered(scaled: npt.NDArray[np.float64], rounding: NoiseStream) -> Integers:
    """floor(x + u), u uniform on multiples of 2^-32 in [0, 1): unbiased to 2^-32."""
    words = rounding.words(-(-scaled.size // 2)).view(np.uint32)[: scaled.size].reshape(scaled.shape)
    return np.floor(scaled + words * 2.0**-32).astype(np.int64)


def _round_within(scaled: npt.NDArray[np.float64], bound: float, rounding: NoiseStream) -> Integers:
    """Randomized rounding, drawn again for rows whose squared norm exceeds the bound (Kairouz et al. 2021, section 4).

    Whatever the rounding stream gives, the integer rows that come out are within the bound: privacy rests on this
    check alone. A clipped row passes with probability at least 0.39.
    """
    limit = math.floor(bound)
    out = _floor_dithered(scaled, rounding)
    again = np.flatnonzero(np.einsum("ij,ij->i", out, out) > limit)
    for _ in range(MOST_DRAWS):
        if not again.size:
            return out
        fresh = _floor_dithered(scaled[again], rounding)
        out[again] = fresh
        again = again[np.einsum("ij,ij->i", fresh, fresh) > limit]
    raise DataError("a row does not round to a vector within the bound: it was not clipped")


def _check_range(scaled: npt.NDArray[np.float64]) -> None:
    largest = float(np.abs(scaled).max(initial=0.0))
    if largest >= 2.0**52 or not math.isfinite(largest):
        raise DataError(f"a scaled coordinate reaches {largest:g}: it has no exact integer neighbourhood")
