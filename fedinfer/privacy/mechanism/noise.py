"""Random words and the noise made from them.

Rules (each has a test):
* `SecureStream` takes `SystemEntropy` and nothing else: a seeded generator cannot reach a real deployment's noise.
* Integer noise is exact: see `tables` for its statistical distance, which accounting adds to delta.
* A forked process never repeats its parent's noise: a secure stream takes a fresh key when its process id changes.
"""

from __future__ import annotations

import math
import os
from typing import Any, final

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedinfer.errors import ConfigError
from fedinfer.ports import Entropy
from fedinfer.privacy.mechanism.tables import MAX_VARIANCE, SamplingTable, Words, discrete_gaussian_table, skellam_table
from fedinfer.system import SimulatedEntropy, SystemEntropy

_CHUNK = 1 << 15
"""Samples per step: words, results and zeros stay in the second-level cache."""
_ZEROS = memoryview(bytes(8 * _CHUNK))
_FROM_ZERO = modes.CTR(bytes(16))


NoiseStream = Words
"""What samplers take: uniform 64-bit words."""


class _Keystream:
    """AES-256-CTR under a key from `entropy`."""

    def __init__(self, entropy: Entropy) -> None:
        key = entropy.take(32)
        self._cipher = Cipher(algorithms.AES(key), _FROM_ZERO).encryptor()

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        out = np.empty(count, np.uint64)
        view = out.view(np.uint8)
        for start in range(0, view.size, len(_ZEROS)):
            piece = view[start : start + len(_ZEROS)]
            self._cipher.update_into(_ZEROS[: piece.size], piece.data)
        return out


@final
class SecureStream:
    """Words for real noise: AES-256-CTR under a key from the operating system.

    Args:
        entropy: must be a `SystemEntropy`; anything that can be seeded is refused.

    Raises:
        ConfigError: for any other type.
    """

    def __init__(self, entropy: SystemEntropy) -> None:
        # Not isinstance: a subclass could take its bytes from a seed.
        if type(entropy) is not SystemEntropy:
            raise ConfigError(
                f"real noise needs SystemEntropy, got {type(entropy).__name__}",
                hint="a seeded source makes noise that anyone with the seed can subtract",
            )
        self._entropy = entropy
        self._process = os.getpid()
        self._stream = _Keystream(entropy)

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """Fresh words, never repeated, not even after a fork.

        Args:
            count: >= 0.

        Returns:
            (count,) uint64.
        """
        if os.getpid() != self._process:  # a fork copied the cipher: the same words must not be used twice
            self._process, self._stream = os.getpid(), _Keystream(self._entropy)
        return self._stream.words(count)


@final
class SimulatedStream:
    """Words that repeat for equal seeds: simulation and tests only.

    Args:
        source: a `SimulatedEntropy` (AES-CTR) or a numpy generator.
    """

    def __init__(self, source: SimulatedEntropy | np.random.Generator) -> None:
        key = _GeneratorEntropy(source) if isinstance(source, np.random.Generator) else source
        self._stream = _Keystream(key)

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """The next words of the sequence that the seed fixes.

        Args:
            count: >= 0.

        Returns:
            (count,) uint64.
        """
        return self._stream.words(count)


class _GeneratorEntropy:
    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def take(self, count: int) -> bytes:
        return self._rng.bytes(count)


def skellam(variance: int, shape: tuple[int, ...], stream: NoiseStream) -> npt.NDArray[np.int64]:
    """Symmetric Skellam noise.

    Args:
        variance: integer >= 1; above MAX_VARIANCE the sum of equal independent parts is drawn (Skellam is closed under
            sums), so the variance must then be a multiple of the number of parts, see `pieces`.
        shape: shape of the result.
        stream: source of words; a `SecureStream` in a real deployment.

    Returns:
        int64 array.

    Raises:
        ConfigError: the variance cannot be drawn; `whole_variance` gives one that can.
    """
    parts = pieces(variance)
    return _sum_of(skellam_table(variance // parts), parts, shape, stream)


def discrete_gaussian(variance: int, shape: tuple[int, ...], stream: NoiseStream) -> npt.NDArray[np.int64]:
    """Discrete Gaussian noise (Canonne, Kamath and Steinke 2020, definition 1).

    Above MAX_VARIANCE a sum of `pieces(variance)` independent equal shares, which is no discrete Gaussian any more:
    accounting counts it as that many shares.

    Args:
        variance: sigma^2 of the law (of the sum of all pieces), integer, as in `skellam`.
        shape: shape of the result.
        stream: source of words; a `SecureStream` in a real deployment.

    Returns:
        int64 array.

    Raises:
        ConfigError: the variance cannot be drawn; `whole_variance` gives one that can.
    """
    parts = pieces(variance)
    return _sum_of(discrete_gaussian_table(variance // parts), parts, shape, stream)


def pieces(variance: int) -> int:
    """How many table samples make one sample of this variance.

    Args:
        variance: integer units squared, >= 1.

    Raises:
        ConfigError: when the variance is not a positive multiple of that number.
    """
    parts = -(-variance // MAX_VARIANCE)
    if parts < 1 or variance % parts:
        raise ConfigError(f"variance {variance} is not a positive multiple of its {parts} parts")
    return parts


def whole_variance(at_least: float) -> int:
    """The least variance >= `at_least` that `skellam` and `discrete_gaussian` can draw.

    Args:
        at_least: integer units squared, >= 0.

    Returns:
        An integer; at most 1 per piece above `at_least`.
    """
    parts = max(1, math.ceil(at_least / MAX_VARIANCE))
    return parts * max(1, math.ceil(at_least / parts))


def _sum_of(table: SamplingTable, parts: int, shape: tuple[int, ...], stream: NoiseStream) -> npt.NDArray[np.int64]:
    out = np.zeros(math.prod(shape), np.int64)
    for start in range(0, out.size, _CHUNK):
        piece: Any = out[start : start + _CHUNK]
        at_once = _CHUNK // piece.size  # of a short vector: a step per part would cost more than its samples
        for done in range(0, parts, at_once):
            count = min(at_once, parts - done)
            samples = table.look_up(stream.words(count * piece.size), stream)
            piece += samples.reshape(count, piece.size).sum(axis=0, dtype=np.int64)
    return out.reshape(shape)


def gaussian(std: float, shape: tuple[int, ...], stream: NoiseStream) -> npt.NDArray[np.float64]:
    """Continuous Gaussian noise in double precision.

    Half the sum of four Box-Muller draws: one draw leaves patterns in the low bits that can undo it (Mironov 2012);
    with a sum of four the search is out of reach (Holohan and Braghin 2021, section 4). Tails end at 18.8 std of the
    sum, where less than 2^-64 lies.

    Args:
        std: standard deviation, >= 0.
        shape: shape of the result.
        stream: source of words.

    Returns:
        float64 array.
    """
    size = math.prod(shape)
    out = np.zeros(size)
    for start in range(0, size, _CHUNK):
        piece = out[start : start + _CHUNK]
        radii, angles = (stream.words(4 * piece.size).reshape(4, -1) for _ in range(2))
        for draw, turn in zip(radii, angles, strict=True):
            uniform = (draw.astype(np.float64) + 1.0) * 2.0**-64
            piece += np.sqrt(-2.0 * np.log(uniform)) * _cosine_of_turns(turn)
        piece *= std / 2
    return out.reshape(shape)


def _cosine_of_turns(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """cos(2 pi w / 2^64) within 4e-16; numpy's cosine takes any angle, and several times as long."""
    # As signed numbers words are turns v in [-1/2, 1/2), and cos(2 pi v) = sin(2 pi (1/4 - |v|)).
    turns = words.view(np.int64).astype(np.float64)
    np.abs(turns, out=turns)
    turns *= -(2.0**-64)
    turns += 0.25
    squared = turns * turns
    sine = np.full_like(turns, _SINE[-1])
    for coefficient in _SINE[-2::-1]:
        sine *= squared
        sine += coefficient
    sine *= turns
    return sine


_SINE = tuple((-1) ** k * (2 * math.pi) ** (2 * k + 1) / math.factorial(2 * k + 1) for k in range(12))
"""Of sin(2 pi x) in odd powers of x (Taylor); for |x| <= 1/4 the next term is below 4e-21."""
