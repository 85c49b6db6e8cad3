"""Uniform numbers for a device and an occasion, without a generator per device.

A hash of (seed, use, device, occasion): who asks for one device pays for one, and nobody keeps a million states.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from fedinfer.system import child_seed

Devices: TypeAlias = npt.NDArray[np.int64]
"""Numbers of devices, 0-based, (k,)."""
Floats: TypeAlias = npt.NDArray[np.float64]


def uniform_of(seed: int, use: str, devices: Devices, occasion: npt.ArrayLike) -> Floats:
    """One number per device, independent over seeds, uses, devices and occasions.

    Args:
        seed: of the run.
        use: what the number is for.
        devices: (k,).
        occasion: whole number >= 0, or one per device, (k,): an hour, a round, a job.

    Returns:
        (k,) float64 in [0, 1), multiples of 2^-53.
    """
    start = np.uint64(child_seed(seed, use))
    with np.errstate(over="ignore"):
        mixed = _mix(_mix(start + devices.astype(np.uint64)) + np.asarray(occasion).astype(np.uint64))
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64: one step of the sequence and its finaliser (Steele, Lea and Flood 2014, figure 13)."""
    state = state * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
