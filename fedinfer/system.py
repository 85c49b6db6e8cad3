"""The real clock, the real entropy, and the only place that makes generators from seeds.

Rule: noise and keys of a real deployment take `SystemEntropy`, which has no seed. `SimulatedEntropy` is another type;
the deployment entry points check it.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    import numpy as np
    from cryptography.hazmat.primitives.ciphers import CipherContext


@final
class SystemClock:
    """Time of this machine."""

    def now(self) -> datetime:
        """Wall-clock time, UTC."""
        return datetime.now(UTC)

    def seconds(self) -> float:
        """Monotonic seconds."""
        return time.perf_counter()


@final
class FrozenClock:
    """A clock that moves only by `advance`; for simulation with equal results and for tests."""

    def __init__(self, start: datetime) -> None:
        self._now = start

    def now(self) -> datetime:
        """The set time."""
        return self._now

    def seconds(self) -> float:
        """Seconds since the epoch of the set time."""
        return self._now.timestamp()

    def advance(self, seconds: float) -> None:
        """Move the clock forward.

        Args:
            seconds: >= 0.
        """
        self._now += timedelta(seconds=seconds)


@final
class SystemEntropy:
    """The operating system's generator. It cannot be seeded."""

    def take(self, count: int) -> bytes:
        """As `Entropy.take`, from os.urandom.

        Args:
            count: bytes, >= 0.
        """
        return os.urandom(count)


@cache
def _keystream() -> Callable[[bytes], CipherContext]:
    """Makes AES-256-CTR from zero under a key; simulations make one for each device of a round."""
    # Imported here: a device that only predicts needs the clock above and not the 7 MiB of this package.
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    start = modes.CTR(bytes(16))
    return lambda key: Cipher(algorithms.AES(key), start).encryptor()


@final
class SimulatedEntropy:
    """A reproducible stream, AES-256-CTR keyed by a hash of the seed. Simulation only: the seed undoes it."""

    def __init__(self, *seed: int | str) -> None:
        self._stream = _keystream()(hashlib.sha256(repr(seed).encode()).digest())
        self.taken = 0
        """Bytes so far; who takes as many from a new stream of the same seed is where this one is."""

    def take(self, count: int) -> bytes:
        """As `Entropy.take`, the next bytes of the stream.

        Args:
            count: bytes, >= 0.
        """
        self.taken += count
        return self._stream.update(b"\0" * count)


def child_seed(*parts: int | str) -> int:
    """Derive a seed from named parts, for instance (run seed, device, round); equal parts give an equal seed.

    Args:
        *parts: numbers and texts; 1 and "1" are different parts.

    Returns:
        0..2^63 - 1: the first 64 bits of a SHA-256, without the last of them.
    """
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little") >> 1


def simulation_rng(*parts: int | str) -> np.random.Generator:
    """A numpy generator from named parts; for data, models and simulation, never for keys or real noise.

    Args:
        *parts: as for `child_seed`.
    """
    import numpy as np  # here: an agent that waits needs the clock above and not the 13 MiB of this package

    return np.random.default_rng(child_seed(*parts))
