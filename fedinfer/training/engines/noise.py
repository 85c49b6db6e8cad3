"""Gaussian noise for DP-SGD.

Rule: a numpy generator (simulation) seeds a fast stream in single precision, see `standard_normal`; entropy
(deployment) is used as it comes, no seed, and its noise is double precision: a real device adds it to a sum in double
precision and rounds once, afterwards, which is post-processing. Noise on the grid of float32 would show where the sum
lies between its points (Mironov 2012).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fedinfer.ports import Entropy
from fedinfer.system import SimulatedEntropy
from fedinfer.training.engines.sampling import RandomSource, uniform
from fedinfer.types import FloatVector

CPU = torch.device("cpu")
_CELLS = 1 << 16
Noise = Callable[[Tensor, float], None]
"""Called with a flat tensor and a deviation, overwrites it with independent N(0, deviation^2) values."""


def gaussian_noise(source: RandomSource, device: torch.device = CPU) -> Noise:
    """The noise of one device for one call of private training.

    Args:
        source: a seeded generator gives one number, the seed of all this noise; entropy is asked again for every
            vector.
        device: of torch, where a seeded generator draws; its draws are those of this kind of device.
    """
    if not isinstance(source, np.random.Generator):
        return lambda into, deviation: _fill_securely(source, into, deviation)
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
    cells = _cells(deviation).take(words).reshape(2, 2, quarter)
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


def secure_gaussian(entropy: Entropy, count: int) -> Tensor:
    """Standard normal numbers without a seed.

    Each value is the sum of four Box-Muller draws over two, which closes the floating-point channel of Mironov 2012 in
    the way of Holohan and Braghin 2021, section 4 (the same as Opacus' secure mode).

    Args:
        entropy: of the operating system; 64 bytes are taken per number.
        count: >= 0.

    Returns:
        (count,) float64, independent N(0, 1).
    """
    # log(1 - u) with u in [0, 1): the argument is never 0, so no value is infinite.
    radius = np.sqrt(-2.0 * np.log1p(-uniform(entropy, 4 * count)))
    draws = radius * np.cos(2.0 * np.pi * uniform(entropy, 4 * count))
    return torch.from_numpy(draws.reshape(4, count).sum(axis=0) / 2.0)


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


def _fill_securely(entropy: Entropy, into: Tensor, deviation: float) -> None:
    if deviation > 0:
        into.copy_(secure_gaussian(entropy, into.numel()) * deviation)
    else:
        into.zero_()
