"""Gaussian noise for DP-SGD.

Rule: a numpy generator (simulation) seeds torch's fast generator; entropy (deployment) is used as it comes, no seed,
and its noise is double precision: a real device adds it to a sum in double precision and rounds once, afterwards, which
is post-processing. Noise on the grid of float32 would show where the sum lies between its points (Mironov 2012).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from fedinfer.ports import Entropy
from fedinfer.training.engines.sampling import RandomSource, uniform

CPU = torch.device("cpu")
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
    generator = torch.Generator(device).manual_seed(int(source.integers(2**63)))
    return lambda into, deviation: _fill(generator, into, deviation)


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


def _fill(generator: torch.Generator, into: Tensor, deviation: float) -> None:
    if not deviation > 0:
        into.zero_()
    elif into.dtype == torch.float32:
        into.normal_(0.0, deviation, generator=generator)
    else:  # drawn in float32, whatever it is written to, so that all engines draw the same
        into.copy_(torch.empty(into.numel()).normal_(0.0, deviation, generator=generator))


def _fill_securely(entropy: Entropy, into: Tensor, deviation: float) -> None:
    if deviation > 0:
        into.copy_(secure_gaussian(entropy, into.numel()) * deviation)
    else:
        into.zero_()
