"""Which rows a step uses, and where its randomness comes from. Both engines follow the same plan.

Rule: in simulation the source is a numpy generator with a seed; a real device passes its operating system's entropy.
The two types differ, so a seeded generator cannot slip into a deployment unseen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
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


def batch_lengths(count: int, training: TrainingSection) -> tuple[int, ...]:
    """Rows of each batch of a device's local work, in order.

    Args:
        count: rows of the device.
        training: local_epochs passes over all rows, or exactly local_steps batches when that is > 0.

    Returns:
        batch_size for each batch but the last one of a pass; nothing for no rows.
    """
    if count == 0:
        return ()
    whole, rest = divmod(count, training.batch_size)
    one_pass = (training.batch_size,) * whole + ((rest,) if rest else ())
    steps = training.local_steps or training.local_epochs * len(one_pass)
    return (one_pass * -(-steps // len(one_pass)))[:steps]


def row_orders(sources: Sequence[RandomSource], count: int, training: TrainingSection) -> Rows:
    """The rows of devices with equally many, in the order in which their local work uses them.

    Args:
        sources: one source of randomness per device, of this round.
        count: rows of each of them.
        training: as in `batch_lengths`, which says how many rows each batch takes off the front.

    Returns:
        (devices, rows used) int64.
    """
    used = sum(batch_lengths(count, training))
    ranks = np.empty((len(sources), -(-used // count) if count else 0, count))
    for passes, source in zip(ranks, sources, strict=True):
        for own in passes:
            own[:] = uniform(source, count)
    # Ranks of uniform numbers are a uniform permutation, and entropy can give them as well as a generator.
    return np.argsort(ranks, axis=2, kind="stable").reshape(len(sources), -1)[:, :used]


def minibatches(source: RandomSource, count: int, training: TrainingSection) -> list[Rows]:
    """The batches of one device's local work, in order.

    Args:
        source: randomness of this device and round.
        count: rows of the device.
        training: as in `batch_lengths`.

    Returns:
        Arrays of row numbers; no batches for no rows.
    """
    return pieces(row_orders([source], count, training)[0], batch_lengths(count, training))


def pieces(order: Rows, lengths: Sequence[int]) -> list[Rows]:
    """An order of rows cut into batches, which share its memory.

    Args:
        order: (rows used,), from `row_orders`.
        lengths: of the batches; they add up to all of it.
    """
    ends = list(accumulate(lengths))
    return [order[end - length : end] for end, length in zip(ends, lengths, strict=True)]
