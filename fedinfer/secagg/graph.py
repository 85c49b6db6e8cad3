"""Who shares with whom: a Harary ring over the devices that sent keys, in an order that nobody chose.

Rules:
* The order is a permutation drawn from a hash of the list of all signed key messages: one more, one less or one other
  message gives an unrelated order. Every device computes its own neighbours; the server never tells.
* Neighbours are the degree / 2 devices on either side of the ring; with degree + 1 or fewer devices, all others.

Source: Bell, Bonawitz, Gascón, Lepoint, Raykova 2020 (CCS), section 3 and appendix on Harary graphs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedinfer.errors import BadMessage
from fedinfer.secagg.keys import derive

IntArray = npt.NDArray[np.int64]


def ring_order(members: IntArray, key_list: bytes) -> IntArray:
    """Random order of `members` (cohort positions, ascending, shape (m,)) from the hash of the key list.

    Sorting by 64-bit keystream words is a uniform permutation but for ties, whose chance is below m^2 / 2^65.
    """
    stream = Cipher(algorithms.AES(derive(key_list, "graph", b"")), modes.CTR(b"\0" * 16)).encryptor()
    words = np.frombuffer(stream.update(b"\0" * (8 * members.size)), "<u8")
    return members[np.argsort(words, kind="stable")]


def neighbour_table(members: IntArray, degree: int, key_list: bytes) -> dict[int, IntArray]:
    """Neighbours of every member, ascending cohort positions, keyed by cohort position."""
    if members.size - 1 <= degree:
        return {int(member): members[members != member] for member in members}
    ring = ring_order(members, key_list)
    around = ring[(np.arange(ring.size)[:, None] + _steps(degree)) % ring.size]
    around.sort(axis=1)
    return {int(member): row for member, row in zip(ring, around, strict=True)}


def own_neighbours(member: int, members: IntArray, degree: int, key_list: bytes) -> IntArray:
    """Neighbours of one member: the row of `neighbour_table`, without the table."""
    if members.size - 1 <= degree:
        others: IntArray = members[members != member]
        return others
    ring = ring_order(members, key_list)
    at = int(np.flatnonzero(ring == member)[0])
    around: IntArray = np.sort(ring[(at + _steps(degree)) % ring.size])
    return around


def to_bitmap(positions: IntArray, size: int) -> bytes:
    """Set of cohort positions as ceil(size / 8) bytes, least significant bit first."""
    flags = np.zeros(size, bool)
    flags[positions] = True
    return np.packbits(flags, bitorder="little").tobytes()


def from_bitmap(data: bytes, size: int) -> IntArray:
    """Ascending cohort positions of a bitmap.

    Raises:
        BadMessage: wrong length, or bits beyond `size`.
    """
    if len(data) != -(-size // 8):
        raise BadMessage(f"bitmap of {len(data)} bytes for {size} devices")
    flags = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    if flags[size:].any():
        raise BadMessage(f"bitmap names devices beyond the {size} of the cohort")
    return np.flatnonzero(flags[:size])


def _steps(degree: int) -> IntArray:
    half = degree // 2
    return np.concatenate([np.arange(-half, 0), np.arange(1, half + 1)])
