"""Shamir secret sharing over GF(65537), all 16-bit limbs of a secret at once.

Rules:
* A secret of 2m bytes is m limbs; each limb has its own random polynomial of degree threshold - 1, free term = limb.
* The share of point x (1..65535) is the polynomials' values at x: m numbers in [0, 65536], 17 bits each.
* Products are float64 matrix products, exact because threshold * 2^32 < 2^53.

Source: Shamir 1979; error correction by Berlekamp and Welch 1986 (US patent 4,633,470; Gemmell and Sudan 1992).
"""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

PRIME = 65537
LIMBS = 16
"""Limbs of one 32-byte secret."""
SHARE_BYTES = 2 * LIMBS + LIMBS // 8
"""Bytes of one share of a 32-byte secret: low 16 bits of each limb, then one flag bit per limb for the value 65536."""
_GENERATOR = 3

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


def share(secret: bytes, points: IntArray, threshold: int, seed: bytes) -> IntArray:
    """Split a secret (Shamir 1979), each limb with a polynomial of its own.

    Args:
        secret: an even number of bytes.
        points: distinct field points, shape (holders,), in [1, 65535].
        threshold: shares that rebuild the secret, in [1, 2^21].
        seed: 32 uniform bytes, expanded with AES-256-CTR to the polynomials' coefficients.

    Returns:
        Shares, shape (holders, len(secret) / 2), values in [0, 65536].
    """
    limbs = np.frombuffer(secret, "<u2").astype(np.float64)
    # Every limb has coefficients of its own: reusing them would give the difference of two limbs away.
    random = _field_elements(seed, (threshold - 1) * limbs.size).reshape(threshold - 1, limbs.size)
    coefficients = np.concatenate([limbs[None], random])
    powers = np.ones((points.size, threshold), np.int64)
    for exponent in range(1, threshold):
        powers[:, exponent] = powers[:, exponent - 1] * points % PRIME
    values: FloatArray = np.fmod(powers.astype(np.float64) @ coefficients, PRIME)
    return values.astype(np.int64)


def combine(shares: IntArray, points: IntArray) -> bytes | None:
    """Rebuild a secret from exactly `threshold` shares (Lagrange interpolation at zero).

    Args:
        shares: shape (threshold, limbs), values in [0, 65536].
        points: shape (threshold,), distinct, in [1, 65535].

    Returns:
        The secret, 2 bytes per limb, or None when the shares cannot belong to one (a limb would be 65536).
    """
    weights = _weights(tuple(points.tolist()))
    limbs = np.fmod(weights @ shares.astype(np.float64), PRIME)
    if (limbs == PRIME - 1).any():
        return None
    return limbs.astype("<u2").tobytes()


def correct(shares: IntArray, points: IntArray, threshold: int) -> npt.NDArray[np.bool_] | None:
    """Find shares that lie on common polynomials although up to (m - threshold) // 2 of m are wrong (Berlekamp-Welch).

    Args:
        shares: shape (m, limbs), values in [0, 65536].
        points: shape (m,), distinct, in [1, 65535].
        threshold: degree of the polynomials + 1.

    Returns:
        Mask of the good shares, bool, shape (m,), or None when too many are wrong.
    """
    good = np.ones(points.size, bool)
    for limb in range(shares.shape[1]):
        wrong = _locate(shares[:, limb], points, threshold)
        if wrong is None:
            return None
        good &= ~wrong
    return good if int(good.sum()) >= threshold else None


def pack(shares: IntArray) -> npt.NDArray[np.uint8]:
    """Encode shares of 32-byte secrets.

    Args:
        shares: shape (m, 16), values in [0, 65536].

    Returns:
        uint8, shape (m, 34): the low 16 bits of each limb, then one bit per limb for the value 65536.
    """
    low = (shares & 0xFFFF).astype("<u2").view(np.uint8).reshape(len(shares), 2 * LIMBS)
    flags = np.packbits(shares >> 16, axis=1, bitorder="little")
    return np.concatenate([low, flags], axis=1)


def unpack(data: npt.NDArray[np.uint8]) -> IntArray:
    """Decode shares; what no honest dealer writes is reduced modulo the prime, hence a wrong share.

    Args:
        data: uint8, shape (m, 34).

    Returns:
        Field elements, shape (m, 16), values in [0, 65536].
    """
    low = np.ascontiguousarray(data[:, : 2 * LIMBS]).view("<u2").astype(np.int64)
    high = np.unpackbits(data[:, 2 * LIMBS :], axis=1, bitorder="little").astype(np.int64)
    return (low + (high << 16)) % PRIME


def _field_elements(seed: bytes, count: int) -> FloatArray:
    """Exactly uniform elements: 32-bit words below 2^32 - 1 = 65535 * 65537, modulo 65537; one in 2^32 is refused."""
    stream = Cipher(algorithms.AES(seed), modes.CTR(b"\0" * 16)).encryptor()
    words = np.empty(0, np.uint32)
    while words.size < count:
        fresh = np.frombuffer(stream.update(b"\0" * (4 * (count - words.size))), "<u4")
        words = np.concatenate([words, fresh[fresh != 0xFFFFFFFF]])
    return (words % np.uint32(PRIME)).astype(np.float64)


@cache
def _tables() -> tuple[IntArray, IntArray]:
    """Powers of 3, a generator of the field, and their logarithms (entry 0 is unused)."""
    powers = np.ones(PRIME - 1, np.int64)
    filled = 1
    while filled < PRIME - 1:
        powers[filled : 2 * filled] = powers[:filled] * pow(_GENERATOR, filled, PRIME) % PRIME
        filled *= 2
    logs = np.zeros(PRIME, np.int64)
    logs[powers] = np.arange(PRIME - 1)
    return powers, logs


@lru_cache(maxsize=2048)
def _weights(points: tuple[int, ...]) -> FloatArray:
    """Lagrange coefficients at zero, shape (threshold,); cached per pattern of surviving holders.

    w_i = prod_{j != i} x_j / (x_j - x_i), computed with logarithms: one table look-up per pair, no inverses.
    """
    powers, logs = _tables()
    x = np.asarray(points, np.int64)
    differences = logs[(x[None, :] - x[:, None]) % PRIME]  # the diagonal looks up entry 0, whose log is 0
    exponent = logs[x].sum() - logs[x] - differences.sum(axis=1)
    weights: IntArray = powers[exponent % (PRIME - 1)]
    return weights.astype(np.float64)


def _locate(values: IntArray, points: IntArray, threshold: int) -> npt.NDArray[np.bool_] | None:
    """Mask of wrong values: the roots of the least error locator E with Q(x) = y E(x) (Berlekamp-Welch)."""
    for errors in range((points.size - threshold) // 2 + 1):
        columns = [_power(points, j) for j in range(errors + threshold)]
        columns += [-values * _power(points, j) % PRIME for j in range(errors)]
        solution = _solve(np.stack(columns, axis=1), values * _power(points, errors) % PRIME)
        if solution is not None:
            locator = np.append(solution[errors + threshold :], 1)
            return np.asarray(_evaluate(locator, points) == 0)
    return None


def _power(points: IntArray, exponent: int) -> IntArray:
    powers, logs = _tables()
    return powers[logs[points] * exponent % (PRIME - 1)]


def _evaluate(coefficients: IntArray, points: IntArray) -> IntArray:
    result = np.zeros_like(points)
    for coefficient in coefficients[::-1]:
        result = (result * points + coefficient) % PRIME
    return result


def _solve(matrix: IntArray, right: IntArray) -> IntArray | None:
    """Gauss-Jordan over the field; free unknowns are zero; None when there is no solution."""
    rows = np.concatenate([matrix % PRIME, right[:, None]], axis=1)
    pivots: list[int] = []
    for column in range(matrix.shape[1]):
        at = len(pivots)
        candidates = np.flatnonzero(rows[at:, column])
        if not candidates.size:
            continue
        rows[[at, at + candidates[0]]] = rows[[at + candidates[0], at]]
        rows[at] = rows[at] * pow(int(rows[at, column]), -1, PRIME) % PRIME
        others = rows[:, column].copy()
        others[at] = 0
        rows = (rows - others[:, None] * rows[at]) % PRIME
        pivots.append(column)
    if rows[len(pivots) :, -1].any():
        return None
    solution = np.zeros(matrix.shape[1], np.int64)
    solution[pivots] = rows[: len(pivots), -1]
    return solution
