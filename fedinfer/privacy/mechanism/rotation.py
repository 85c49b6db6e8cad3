"""The randomized Hadamard transform: an orthonormal map that spreads a vector evenly over its coordinates."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

Rows = npt.NDArray[np.float64]


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


def rotate(rows: Rows, seed: bytes) -> Rows:
    """H D x / sqrt(p) for each row: D random signs, H the Hadamard matrix.

    Args:
        rows: (n, p) float64, p a power of two. Changed in place.
        seed: public, equal for all devices of a round.

    Returns:
        (n, p) float64, L2 norms unchanged; use it and no longer `rows`, whose memory may be reused.
    """
    rows *= signs(seed, rows.shape[1]) / math.sqrt(rows.shape[1])
    return _hadamard(rows)


def rotate_back(rows: Rows, seed: bytes) -> Rows:
    """Inverse of `rotate`.

    Args:
        rows: (n, p) float64, p a power of two. Changed in place.
        seed: the one given to `rotate`.

    Returns:
        (n, p) float64.
    """
    rows = _hadamard(rows)
    rows *= signs(seed, rows.shape[1]) / math.sqrt(rows.shape[1])
    return rows


def _hadamard(rows: Rows) -> Rows:
    """Unnormalised transform by additions only: equal bits for any batch size, which a matrix product does not give."""
    count, size = rows.shape
    other = np.empty_like(rows)
    half = 1
    while half < size:
        source, target = rows.reshape(count, -1, 2, half), other.reshape(count, -1, 2, half)
        np.add(source[:, :, 0], source[:, :, 1], out=target[:, :, 0])
        np.subtract(source[:, :, 0], source[:, :, 1], out=target[:, :, 1])
        rows, other = other, rows
        half *= 2
    return rows
