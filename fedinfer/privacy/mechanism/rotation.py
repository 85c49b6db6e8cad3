"""The randomized Hadamard transform: an orthonormal map that spreads a vector evenly over its coordinates.

A vector of p = a b coordinates is a matrix (a, b), and the transform is that of its columns followed by that of its
rows. Each is done along the outermost axis of an array, where all numbers of a step lie side by side in memory, and
between the two the array is turned over. Only additions and subtractions are used, in an order that depends on p alone:
a row gets equal bits in any batch, which a matrix product does not give.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

Rows = npt.NDArray[Any]
"""float32 or float64."""

MOST_ROWS = 127
"""Rows of a block, at most."""
_BLOCK_NUMBERS = 1 << 17
"""Numbers of a block: with its copy it stays in the second-level cache."""


def block_rows(size: int) -> int:
    """How many rows are best rotated together: an odd number, so that turning them over hits no two equal cache lines.

    Args:
        size: p, coordinates of a row.
    """
    return min(MOST_ROWS, max(1, (_BLOCK_NUMBERS // size - 1) | 1))


def signs(seed: bytes, size: int) -> npt.NDArray[np.float64]:
    """Random signs from a public seed: AES-256-CTR under its hash, one bit each. Public, not secret.

    Args:
        seed: of the round, any length.
        size: how many, >= 0.

    Returns:
        (size,) float64 of +1 and -1.
    """
    key = hashlib.sha256(b"fedinfer/rotation/1" + seed).digest()
    stream = Cipher(algorithms.AES(key), modes.CTR(b"\0" * 16)).encryptor()
    bits = np.unpackbits(np.frombuffer(stream.update(bytes(-(-size // 8))), np.uint8), count=size)
    return 1.0 - 2.0 * bits.astype(np.float64)


def rotate(rows: Rows, seed: bytes, size: int, scale: float = 1.0) -> Rows:
    """Scale H D x / sqrt(p) for each row: zeros behind it up to p, D random signs, H the Hadamard matrix.

    Args:
        rows: (n, d) float32 or float64.
        seed: public, equal for all devices of a round.
        size: p >= d, a power of two.
        scale: factor of every number.

    Returns:
        (n, p), a new array of the type of `rows`; L2 norms are those of the rows times `scale`.
    """
    across, down = _sides(size)
    count, length = rows.shape
    factors = _factors(seed, size, scale, rows.dtype.str).reshape(across, down)
    laid = np.zeros((across, count, down), rows.dtype)
    whole, rest = divmod(length, down)
    head = rows[:, : whole * down].reshape(count, whole, down).transpose(1, 0, 2)
    np.multiply(head, factors[:whole, None], out=laid[:whole])
    if rest:
        np.multiply(rows[:, whole * down :], factors[whole, :rest], out=laid[whole, :, :rest])
    return _transform(laid)


def rotate_back(rows: Rows, seed: bytes) -> Rows:
    """Inverse of `rotate` with scale 1.

    Args:
        rows: (n, p) float64 or float32, p a power of two.
        seed: the one given to `rotate`.

    Returns:
        (n, p), a new array.
    """
    count, size = rows.shape
    across, down = _sides(size)
    laid = np.ascontiguousarray(rows.reshape(count, across, down).transpose(1, 0, 2))
    result = _transform(laid)
    result *= _factors(seed, size, 1.0, rows.dtype.str)
    return result


@lru_cache(maxsize=4)
def _factors(seed: bytes, size: int, scale: float, dtype: str) -> Rows:
    """The signs of a round with everything that a coordinate is multiplied by."""
    factors = (signs(seed, size) * (scale / math.sqrt(size))).astype(dtype)
    factors.flags.writeable = False
    return factors


def _sides(size: int) -> tuple[int, int]:
    """P as a product of two powers of two, as equal as they can be."""
    bits = size.bit_length() - 1
    return 1 << (bits - bits // 2), 1 << bits // 2


def _transform(laid: Rows) -> Rows:
    """Unnormalised transform of rows laid out as (a, n, b), which is used up; (n, a b)."""
    across, count, down = laid.shape
    laid, spare = _along_first(laid.reshape(across, -1), np.empty((across, count * down), laid.dtype))
    turned = spare.reshape(down, count, across)
    np.copyto(turned, laid.reshape(across, count, down).transpose(2, 1, 0))
    turned, _ = _along_first(turned.reshape(down, -1), laid.reshape(down, -1))
    result = np.empty((count, across, down), turned.dtype)
    np.copyto(result, turned.reshape(down, count, across).transpose(1, 2, 0))
    return result.reshape(count, -1)


def _along_first(rows: Rows, other: Rows) -> tuple[Rows, Rows]:
    """The transform along the first axis, from one array to the other and back; the one that holds it comes first."""
    size, width = rows.shape
    half = 1
    while half < size:
        source, target = rows.reshape(-1, 2, half * width), other.reshape(-1, 2, half * width)
        np.add(source[:, 0], source[:, 1], out=target[:, 0])
        np.subtract(source[:, 0], source[:, 1], out=target[:, 1])
        rows, other = other, rows
        half *= 2
    return rows, other
