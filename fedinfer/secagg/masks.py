"""Masks: AES-256-CTR keystreams added to a vector in a wrapping ring.

Rules:
* A seed (`derivations`) is used for one stream only, so the counter starts at zero.
* The ring is 2^16 for at most 16 bits, else 2^32; both are multiples of 2^bits, so reducing once at the end is exact.
* Keystream is made in pieces of 256 KiB that stay in the second-level cache, all streams side by side.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

Ring = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]

_CHUNK_BYTES = 256 * 1024
_ZEROS = memoryview(bytes(_CHUNK_BYTES))
_FROM_ZERO = modes.CTR(bytes(16))
_OPEN_STREAMS = 256
"""Ciphers held open at once; more are walked in further passes."""


def ring_dtype(bits: int) -> npt.DTypeLike:
    """Word of the ring in which a vector is masked: uint16 for at most 16 bits, else uint32.

    Args:
        bits: width of the values, 1..32.
    """
    return np.uint16 if bits <= 16 else np.uint32


def add_masks(vector: Ring, plus: Sequence[bytes], minus: Sequence[bytes]) -> None:
    """Add the streams of some seeds and subtract those of others, in place, modulo 2^16 or 2^32.

    Args:
        vector: uint16 or uint32, shape (d,), contiguous; is changed.
        plus: seeds of 32 bytes, each of which is used for no other stream.
        minus: as `plus`.
    """
    # In passes over few ciphers at a time: a device of a complete graph has one stream per other device.
    signed = [(seed, np.add) for seed in plus] + [(seed, np.subtract) for seed in minus]
    for start in range(0, len(signed), _OPEN_STREAMS):
        _add_some(vector, [(_keystream(seed), operation) for seed, operation in signed[start : start + _OPEN_STREAMS]])


def _add_some(vector: Ring, streams: list[tuple[CipherContext, np.ufunc]]) -> None:
    raw = bytearray(min(_CHUNK_BYTES, vector.nbytes))
    words = np.frombuffer(raw, vector.dtype.newbyteorder("<"))
    for start in range(0, vector.size, words.size):
        part = vector[start : start + words.size]
        zeros, target, addend = _ZEROS[: part.nbytes], memoryview(raw)[: part.nbytes], words[: part.size]
        for cipher, operation in streams:
            cipher.update_into(zeros, target)
            operation(part, addend, out=part)


def _keystream(seed: bytes) -> CipherContext:
    # The fixed counter is safe because a seed has one stream only; see the module's first rule.
    return Cipher(algorithms.AES(seed), _FROM_ZERO).encryptor()
