"""What a private sum adds up: what devices compute for it, and how many and how large the vectors are."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


class Work(Enum):
    """What a device computes for a training round."""

    UPDATES = auto()
    """It trains, and sends the difference as one unit, or unprotected."""
    GRADIENT_SUMS = auto()
    """It sums its clipped per-example gradients; the server makes one step of all sums."""
    PRIVATE_STEPS = auto()
    """It trains in steps that are private one by one (DP-SGD on the device), and sends the difference."""


@dataclass(frozen=True, slots=True)
class Summands:
    """The vectors of one kind of sum.

    Args:
        dimension: length, >= 1.
        clipping_norm: C of one unit, > 0.
        noised_norm: L2 norm that a vector with local noise practically never exceeds; used by `Local` alone.
        devices: most devices in one sum, >= 1.
        units: most clipped units in one sum, >= 1.
        contributors: honest devices whose shares of noise are sure to be in it, 1..devices.
    """

    dimension: int
    clipping_norm: float
    noised_norm: float
    devices: int
    units: int
    contributors: int
