"""A cohort cut into chunks of devices whose weights and activations are held at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from fedinfer.training.engines.compile import Program
from fedinfer.training.engines.mapped import Mapped


def chunks(order: Sequence[int], widths: Sequence[int], program: Program | Mapped, most: int) -> list[list[int]]:
    """Chunks that fit, in order; of nearly equal size where all devices take equal room.

    Args:
        order: numbers of devices.
        widths: by number, the rows of one step of the device.
        program: the network.
        most: numbers that one chunk may hold; one device may exceed it.
    """
    found = list(_greedy(order, widths, program, most))
    if len({widths[row] for row in order}) != 1:
        return found
    # A small last chunk would take nearly as many operations as a full one.
    bounds = [len(order) * at // len(found) for at in range(len(found) + 1)]
    return [list(order[begin:end]) for begin, end in pairwise(bounds)]


def _greedy(order: Sequence[int], widths: Sequence[int], program: Program | Mapped, most: int) -> Iterator[list[int]]:
    chunk: list[int] = []
    widest = 0
    for row in order:
        widest = max(widest, widths[row])
        per_device = 2 * program.dimension + 2 * widest * program.numbers_per_example
        if chunk and (len(chunk) + 1) * per_device > most:
            yield chunk
            chunk, widest = [], widths[row]
        chunk.append(row)
    if chunk:
        yield chunk
