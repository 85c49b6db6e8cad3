"""Gaussian noise for DP-SGD.

Rule: a numpy generator (simulation) seeds a fast stream in single precision, see `standard_normal`; entropy
(deployment) is used as it comes, no seed, and its noise lies on the grid of the sums of clipped gradients
(`fedinfer.lattice_noise`): a real device adds it without an error and rounds once, afterwards, as post-processing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedinfer.lattice_noise import lattice_gaussian
from fedinfer.ports import Entropy
from fedinfer.system import SimulatedEntropy
from fedinfer.training.engines.sampling import RandomSource
from fedinfer.types import FloatVector

CPU = torch.device("cpu")
_CELLS = 1 << 16
Noise = Callable[[Tensor, float], None]
"""Called with a flat tensor and a deviation, overwrites it with independent N(0, deviation^2) values."""


_FRACTION_BITS = 32
_SMALLEST_EXPONENT = -126  # of float32: a finer grid has nothing to hold, and 1 / unit must not overflow


def grid_unit(clipping_norm: float) -> float:
    """Unit of the grid of clipped gradients, a power of two in (2^-33 C, 2^-32 C]: scaling by it rounds nothing.

    Args:
        clipping_norm: C, > 0.
    """
    exponent = max(math.frexp(clipping_norm)[1], _SMALLEST_EXPONENT)
    return math.ldexp(1.0, exponent - 1 - _FRACTION_BITS)


def gaussian_noise(source: RandomSource, unit: float, device: torch.device = CPU) -> Noise:
    """The noise of one device for one call of private training.

    Args:
        source: a seeded generator gives one number, the seed of all this noise; entropy is asked again for every
            vector.
        unit: of the grid of the sum that it is added to, see `grid_unit`; noise of entropy lies on it.
        device: of torch, where a seeded generator draws; its draws are those of this kind of device.
    """
    if not isinstance(source, np.random.Generator):
        return lambda into, deviation: _fill_securely(source, unit, into, deviation)
    seed = int(source.integers(2**63))
    if device.type == "cpu":
        entropy = SimulatedEntropy("gaussian", seed)
        return lambda into, deviation: _fill(entropy, into, deviation)
    generator = torch.Generator(device).manual_seed(seed)
    return lambda into, deviation: _fill_there(generator, into, deviation)


def standard_normal(entropy: Entropy, count: int, deviation: float = 1.0) -> FloatVector:
    """Normal numbers for simulations: 2 bytes of entropy each, no logarithm and no sine.

    Each is half the sum of four independent numbers with signs, rows of a Hadamard matrix: an orthogonal map of
    independent normal numbers gives independent normal numbers (Wallace 1996, section 3). The four are means of N(0, 1)
    within one of 2^16 cells of equal probability. The distribution function is within 2e-6 of the normal one, the
    variance is exact, and no number is beyond 8.8 deviations.

    Args:
        entropy: of a simulation.
        count: >= 0.
        deviation: of every number, > 0.

    Returns:
        (count,) float32.
    """
    quarter = -(-count // 4)
    words = np.frombuffer(entropy.take(8 * quarter), "<u2")
    # No word is out of range; `wrap` spares numpy a second look and gives the same numbers in two thirds of the time.
    cells = _cells(deviation).take(words, mode="wrap").reshape(2, 2, quarter)
    paired = np.empty_like(cells)
    np.add(cells[0], cells[1], out=paired[0])
    np.subtract(cells[0], cells[1], out=paired[1])
    np.add(paired[:, 0], paired[:, 1], out=cells[:, 0])
    np.subtract(paired[:, 0], paired[:, 1], out=cells[:, 1])
    return cells.reshape(-1)[:count]


@lru_cache(maxsize=4)
def _cells(deviation: float) -> FloatVector:
    """Half the means of N(0, deviation^2) within cells of equal probability, stretched to half the deviation."""
    edges = torch.special.ndtri(torch.arange(1, _CELLS, dtype=torch.float64) / _CELLS).numpy()
    density = np.concatenate([[0.0], np.exp(-edges * edges / 2) / math.sqrt(2 * math.pi), [0.0]])
    means = (density[:-1] - density[1:]) * _CELLS  # the integral of x times the density over a cell
    halves: FloatVector = (means * (deviation / 2 / math.sqrt(np.mean(means * means)))).astype(np.float32)
    return halves


def _fill(entropy: Entropy, into: Tensor, deviation: float) -> None:
    if deviation > 0:  # drawn in float32, whatever it is written to, so that all engines draw the same
        into.copy_(torch.from_numpy(standard_normal(entropy, into.numel(), deviation)))
    else:
        into.zero_()


def _fill_there(generator: torch.Generator, into: Tensor, deviation: float) -> None:
    if deviation > 0:
        into.normal_(0.0, deviation, generator=generator)
    else:
        into.zero_()


def _fill_securely(entropy: Entropy, unit: float, into: Tensor, deviation: float) -> None:
    def words(count: int) -> npt.NDArray[np.uint64]:
        return np.frombuffer(entropy.take(8 * count), dtype="<u8").astype(np.uint64)

    if deviation > 0:
        into.copy_(torch.from_numpy(lattice_gaussian(deviation, unit, into.numel(), words)))
    else:
        into.zero_()
