"""The one place that touches torch's global generator, and only inside a fork that is undone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within the block torch's global CPU generator starts from a seed; afterwards it is where it was before.

    Args:
        seed: in [0, 2^63).
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also note a stack trace for every GPU
        yield


def reseed(seed: int) -> None:
    """Start torch's global CPU generator again from `seed`; only within a block of `seeded`.

    Args:
        seed: in [0, 2^63).
    """
    torch.default_generator.manual_seed(seed)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Within the block torch uses `count` threads per operation.

    Args:
        count: of the whole process, >= 1.
    """
    before = torch.get_num_threads()
    if before != count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if before != count:
            torch.set_num_threads(before)
