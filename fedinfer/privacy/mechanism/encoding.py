"""Encoding float vectors for a secure sum, with their noise share, and decoding the sum."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from fedinfer.errors import ConfigError, DataError
from fedinfer.privacy.mechanism.clipping import clip_rows, row_norms
from fedinfer.privacy.mechanism.mechanism import IntegerMechanism, NoiseKind, Rounding, conditional_bound
from fedinfer.privacy.mechanism.noise import NoiseStream, discrete_gaussian, skellam
from fedinfer.privacy.mechanism.rotation import block_rows, rotate, rotate_back
from fedinfer.types import FloatVector, RingVector, WideVector

Integers = npt.NDArray[np.int64]
Whole = npt.NDArray[Any]
"""Whole numbers as float32 or float64, (n, padded)."""

SINGLE_PRECISION_NORM = 2.0**16
"""Scaled clipping norm up to which whole vectors are rotated in single precision."""
MOST_DRAWS = 1000
"""Times that a row is rounded again: a clipped row fails so often with probability below 0.61^1000 < 2^-700."""
_MOST_ROUGHLY = 1 << 22
"""Coordinates up to which a norm in single precision says something."""


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
        rotation_seed: public, equal for all devices of the round, not under the control of a device; not used where
            nothing is rotated.
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
    ring = _residues(integers, mechanism)
    return ring[0] if vectors.ndim == 1 else ring


def encode_sum(
    vectors: FloatVector | WideVector,
    mechanism: IntegerMechanism,
    rotation_seed: bytes,
    streams: Sequence[Callable[[], NoiseStream]],
) -> RingVector:
    """What the encodings of many devices add up to, without holding them: for simulations that mask nothing.

    Bit for bit the sum of `encode(row, mechanism, rotation_seed, stream, stream)` over the rows.

    Args:
        vectors: (n, d), one row per device, as in `encode`.
        mechanism: what the devices of the round were promised.
        rotation_seed: public, equal for all devices of the round.
        streams: one per row, made when its row is encoded; source of its rounding and of its share of noise.

    Returns:
        uint32, shape (padded,): the sum mod 2^bits.

    Raises:
        ConfigError, DataError: as `encode`.
    """
    _check_shape(vectors, mechanism)
    step = block_rows(mechanism.padded)
    total = np.zeros(mechanism.padded, np.int64)
    for start in range(0, len(vectors), step):
        own = [make() for make in streams[start : start + step]]
        whole = _whole_numbers(vectors[start : start + step], mechanism, rotation_seed, own)
        # In single precision a number is within SINGLE_PRECISION_NORM + sqrt(p), so sums of a block stay below 2^24.
        exact = whole if whole.dtype == np.float32 else whole.astype(np.int64)
        total += exact.sum(axis=0).astype(np.int64)
        for stream in own:
            total[None] += draw_shares(1, mechanism, stream)
    return _residues(total, mechanism)


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
    _check_shape(rows, mechanism)
    step = block_rows(mechanism.padded)
    out = np.empty((len(rows), mechanism.padded), np.int64)
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        out[start : start + step] = _whole_numbers(some, mechanism, rotation_seed, [rounding] * len(some))
    return out


def _check_shape(rows: FloatVector | WideVector, mechanism: IntegerMechanism) -> None:
    if rows.ndim != 2 or rows.shape[1] != mechanism.dimension:
        raise ConfigError(f"vectors of shape {rows.shape}, the mechanism encodes {mechanism.dimension} coordinates")


def _whole_numbers(
    rows: FloatVector | WideVector, mechanism: IntegerMechanism, seed: bytes, rounding: Sequence[NoiseStream]
) -> Whole:
    """The rounded rows, (n, padded), still floating point; each row takes its words from its own stream."""
    scaled_norm = mechanism.scale * mechanism.clipping_norm
    match mechanism.rounding:
        case Rounding.CONDITIONAL:
            rows = clip_rows(rows.astype(np.float32, copy=False), mechanism.clipping_norm)
            # Privacy rests on the norm of the integers, which is checked exactly, so how the numbers before them were
            # rounded is a matter of accuracy alone; with this bound the error is below a tenth of one integer unit.
            exact = rows if scaled_norm <= SINGLE_PRECISION_NORM else rows.astype(np.float64)
            scaled = _scaled(exact, mechanism, seed)
            if scaled.dtype != np.float32:  # there the norm bounds every coordinate
                _check_range(scaled)
            return _round_within(scaled, conditional_bound(scaled_norm, mechanism.padded), rounding)
        case Rounding.DITHERED:
            if not np.isfinite(row_norms(rows)).all():
                raise DataError("a sum of examples holds NaN or infinity")
            # Double precision: what one example moves a coordinate by must not depend on the other examples.
            scaled = _scaled(rows.astype(np.float64, copy=False), mechanism, seed)
            _check_range(scaled)
            return _floor_dithered(scaled, rounding)
        case _:
            assert_never(mechanism.rounding)


def _scaled(rows: Whole, mechanism: IntegerMechanism, seed: bytes) -> Whole:
    """Rows in integer units, (n, padded).

    The rotation spreads a vector over all coordinates, so that none is much larger than the others and the ring can be
    narrow (Kairouz et al. 2021, Algorithm 1); this Hadamard matrix exists for powers of two, hence the padding.
    """
    if mechanism.rotated:
        return rotate(rows, seed, mechanism.padded, mechanism.scale)
    scaled: Whole = rows * rows.dtype.type(mechanism.scale)
    return scaled


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
    whole = centred.astype(np.float64)
    if mechanism.rotated:
        whole = rotate_back(whole[None, :], rotation_seed)[0, : mechanism.dimension]
    result: FloatVector = (whole / mechanism.scale).astype(np.float32)
    return result


def _residues(integers: Integers, mechanism: IntegerMechanism) -> RingVector:
    # In two's complement the mask is the residue mod 2^bits for negative numbers too.
    ring: RingVector = (integers & ((1 << mechanism.bits) - 1)).astype(np.uint32)
    return ring


def _floor_dithered(scaled: Whole, rounding: Sequence[NoiseStream]) -> Whole:
    """floor(x + u), u uniform on [0, 1): unbiased to the last bit of u.

    u is a multiple of 2^-32, in single precision one of 2^-16.
    """
    size = scaled.shape[1]
    word: type[np.unsignedinteger[Any]] = np.uint16 if scaled.dtype == np.float32 else np.uint32
    per_word = 8 // np.dtype(word).itemsize
    unit = scaled.dtype.type(1.0 / (int(np.iinfo(word).max) + 1))
    out = np.empty_like(scaled)
    for row, whole, stream in zip(scaled, out, rounding, strict=True):
        np.copyto(whole, stream.words(-(-size // per_word)).view(word)[:size], casting="unsafe")
        whole *= unit
        whole += row
    return np.floor(out, out=out)


def _round_within(scaled: Whole, bound: float, rounding: Sequence[NoiseStream]) -> Whole:
    """Randomized rounding, drawn again for rows whose squared norm exceeds the bound (Kairouz et al. 2021, section 4).

    Whatever the rounding stream gives, the integer rows that come out are within the bound: privacy rests on this
    check alone. A clipped row passes with probability at least 0.39.
    """
    limit = math.floor(bound)
    out = _floor_dithered(scaled, rounding)
    again = _beyond(out, limit)
    for _ in range(MOST_DRAWS):
        if not again.size:
            return out
        fresh = _floor_dithered(scaled[again], [rounding[row] for row in again.tolist()])
        out[again] = fresh
        again = again[_beyond(fresh, limit)]
    raise DataError("a row does not round to a vector within the bound: it was not clipped")


def _beyond(whole: Whole, limit: int) -> npt.NDArray[np.intp]:
    """Rows of whole numbers whose squared norm exceeds a limit, exactly."""
    size = whole.shape[1]
    if whole.dtype != np.float32 or size > _MOST_ROUGHLY:
        return np.flatnonzero(_squared_norms(whole) > limit)
    # With u = 2^-24 a sum of n products in single precision, added up in any order, is at least (1 - n u / (1 - n u))
    # of the exact one (Higham 2002, section 3.1), so the exact one is at most 1 + 2 n u of it while n u <= 1/4.
    with np.errstate(over="ignore"):
        roughly = np.vecdot(whole, whole).astype(np.float64)
    unsure = np.flatnonzero(~(roughly * (1 + size * 2.0**-23) <= limit))
    return unsure[_squared_norms(whole[unsure]) > limit] if unsure.size else unsure


def _squared_norms(whole: Whole) -> npt.NDArray[np.float64]:
    """Squared norms of rows of whole numbers, exact up to 2^53, which no bound reaches."""
    wide = whole.astype(np.float64, copy=False)
    squared: npt.NDArray[np.float64] = np.vecdot(wide, wide)
    return squared


def _check_range(scaled: npt.NDArray[np.float64]) -> None:
    largest = float(np.abs(scaled).max(initial=0.0))
    if largest >= 2.0**52 or not math.isfinite(largest):
        raise DataError(f"a scaled coordinate reaches {largest:g}: it has no exact integer neighbourhood")
