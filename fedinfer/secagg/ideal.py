"""The ideal sum: what a trusted adder would compute. Bit-identical to a session's total for the same vectors."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from fedinfer.errors import BadMessage
from fedinfer.types import RingVector


def ideal_sum(vectors: Iterable[RingVector], bits: int) -> RingVector:
    """Add ring vectors without masks.

    Args:
        vectors: uint32 arrays of one shape (d,), at least one.
        bits: width of the ring, 1..32.

    Returns:
        The sum mod 2^bits, uint32, shape (d,).

    Raises:
        BadMessage: no vectors, or of different shapes or types.
    """
    total: RingVector | None = None
    for vector in vectors:
        if vector.dtype != np.uint32 or vector.ndim != 1 or (total is not None and vector.shape != total.shape):
            raise BadMessage(f"ideal sum of unequal vectors: {vector.dtype} {vector.shape}")
        total = vector.copy() if total is None else np.add(total, vector, out=total)
    if total is None:
        raise BadMessage("ideal sum of no vectors")
    return total & np.uint32((1 << bits) - 1)
