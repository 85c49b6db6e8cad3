"""Which rows a step uses, and where its randomness comes from. Both engines follow the same plan.

Rule: in simulation the source is a numpy generator with a seed; a real device passes its operating system's entropy.
The two types differ, so a seeded generator cannot slip into a deployment unseen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from fedinfer.config import TrainingSection
from fedinfer.ports import Entropy

Rows: TypeAlias = npt.NDArray[np.int64]
RandomSource: TypeAlias = np.random.Generator | Entropy
"""A seeded generator (simulation) or entropy of the operating system (deployment)."""

_BITS = 53


@dataclass(frozen=True, slots=True)
class PrivateSteps:
    """Example-level DP-SGD on one device.

    Args:
        steps: number of steps.
        rate: Poisson sampling rate of one step, in (0, 1].
        clipping_norm: L2 bound C on one example's gradient.
        noise_multiplier: z; the noise added to the sum has standard deviation z * C in each coordinate.
    """

    steps: int
    rate: float
    clipping_norm: float
    noise_multiplier: float


def uniform(source: RandomSource, count: int) -> npt.NDArray[np.float64]:
    """Numbers uniform on [0, 1), multiples of 2^-53.

    Args:
        source: of the device; entropy gives 8 bytes per number.
        count: >= 0.

    Returns:
        (count,) float64.
    """
    if isinstance(source, np.random.Generator):
        return source.random(count)
    words = np.frombuffer(source.take(8 * count), dtype="<u8")
    values: npt.NDArray[np.float64] = (words >> np.uint64(64 - _BITS)).astype(np.float64) * 2.0**-_BITS
    return values


def poisson_rows(source: RandomSource, count: int, rate: float) -> Rows:
    """Rows of a Poisson sample: each is in it independently of the others.

    Args:
        source: of the device; nothing is drawn at rate 1.
        count: rows of the device, >= 0.
        rate: q, probability of each row, in (0, 1].

    Returns:
        Ascending row numbers, int64; often none.
    """
    if rate >= 1.0:
        return np.arange(count)
    return np.flatnonzero(uniform(source, count) < rate)


def minibatches(source: RandomSource, count: int, training: TrainingSection) -> list[Rows]:
    """The batches of one device's local work, in order.

    Args:
        source: randomness of this device and round.
        count: rows of the device.
        training: local_epochs passes over all rows, or exactly local_steps batches when that is > 0.

    Returns:
        Arrays of row numbers, each of batch_size rows except the last of a pass; no batches for no rows.
    """
    if count == 0:
        return []
    per_pass = -(-count // training.batch_size)
    steps = training.local_steps or training.local_epochs * per_pass
    batches: list[Rows] = []
    while len(batches) < steps:
        # Ranks of uniform numbers are a uniform permutation, and entropy can give them as well as a generator.
        order = np.argsort(uniform(source, count), kind="stable")
        batches += [order[i : i + training.batch_size] for i in range(0, count, training.batch_size)]
    return batches[:steps]
