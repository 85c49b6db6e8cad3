"""A float vector on its way into the ring and back, without a line of the product.

    rotate -> scale -> round -> add a share of noise -> mod 2^b          (Kairouz, Liu and Steinke 2021, Algorithm 1)

Randomness is an argument: numbers in [0, 1) as fractions, one per coordinate. numpy does not take part, and the
Hadamard matrix is written out, so lengths are small.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction

import mpmath
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes


def signs(seed: bytes, size: int) -> list[int]:
    """+1 for a bit 0 and -1 for a bit 1 of an AES-256-CTR stream; of each byte the highest bit comes first."""
    key = hashlib.sha256(b"fedinfer/rotation/1" + seed).digest()
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(size))
    return [1 - 2 * (stream[at // 8] >> (7 - at % 8) & 1) for at in range(size)]


def rotation(seed: bytes, size: int) -> mpmath.matrix:
    """H D / sqrt(p): entry (i, j) is (-1)^(number of common ones of i and j) sign_j / sqrt(p) (Sylvester 1867)."""
    flips, root = signs(seed, size), mpmath.sqrt(size)
    return mpmath.matrix([[(-1) ** (i & j).bit_count() * flips[j] / root for j in range(size)] for i in range(size)])


def padded(dimension: int) -> int:
    size = 1
    while size < dimension:
        size *= 2
    return size


def scaled(vector: Sequence[float], seed: bytes, scale: float) -> list[mpmath.mpf]:
    size = padded(len(vector))
    column = mpmath.matrix([*vector, *[0] * (size - len(vector))])
    return list(mpmath.mpf(scale) * (rotation(seed, size) * column))


def rounded(values: Sequence[mpmath.mpf], uniform: Sequence[Fraction]) -> list[int]:
    """floor(x + u): up with a probability that is the fraction of x."""
    return [
        int(mpmath.floor(x + mpmath.mpf(u.numerator) / u.denominator)) for x, u in zip(values, uniform, strict=True)
    ]


def conditional_bound(norm: float, size: int) -> mpmath.mpf:
    """Largest squared norm after rounding a vector of `norm`, Kairouz et al. 2021, equation 6, beta = exp(-1/2).

    min( (x + sqrt d)^2, x^2 + d/4 + sqrt(2 log(1/beta)) (x + sqrt(d)/2) ).
    """
    x, d, beta = mpmath.mpf(norm), mpmath.mpf(size), mpmath.exp(mpmath.mpf(-1) / 2)
    chance = mpmath.sqrt(2 * mpmath.log(1 / beta))
    return min((x + mpmath.sqrt(d)) ** 2, x**2 + d / 4 + chance * (x + mpmath.sqrt(d) / 2))


def chance_within(values: Sequence[Fraction], bound: Fraction) -> Fraction:
    """Exact probability that randomized rounding of `values` has a squared norm within `bound`: every outcome."""
    total = Fraction(0)
    for outcome, probability in _outcomes(values):
        if sum(k * k for k in outcome) <= bound:
            total += probability
    return total


def _outcomes(values: Sequence[Fraction]) -> Iterator[tuple[tuple[int, ...], Fraction]]:
    if not values:
        yield (), Fraction(1)
        return
    low = math.floor(values[0])
    up = values[0] - low
    for rest, probability in _outcomes(values[1:]):
        yield (low, *rest), probability * (1 - up)
        yield (low + 1, *rest), probability * up


def sample(cumulative: Sequence[mpmath.mpf], smallest: int, uniform: Fraction) -> int:
    """Inversion: the value at which the cumulative probability first exceeds a uniform number."""
    u = mpmath.mpf(uniform.numerator) / uniform.denominator
    return smallest + sum(1 for boundary in cumulative if boundary <= u)


def decode(total: Sequence[int], bits: int, scale: float, seed: bytes, dimension: int) -> list[mpmath.mpf]:
    """Back from the ring: the representative in [-2^(b-1), 2^(b-1)), the transposed rotation, without the scale."""
    half = 2 ** (bits - 1)
    centred = mpmath.matrix([(value + half) % (2 * half) - half for value in total])
    back = rotation(seed, len(total)).T * centred
    return [back[at] / mpmath.mpf(scale) for at in range(dimension)]
