"""Who shares with whom: every device draws the holders of its shares itself, with its own entropy.

Rules:
* A device's holders are a uniform subset of the other devices of the cohort, drawn before it has seen anything of the
  session but the proposal, and signed by its identity with its keys. So no list that a server shows and no key that
  a corrupt device publishes can change who holds an honest device's secrets.
* In a complete graph everybody is everybody's holder and there is nothing to draw.
* Two devices share a mask when one of them holds for the other.

Source: Bell, Bonawitz, Gascón, Lepoint, Raykova 2020 (CCS), section 4: the malicious variant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedinfer.errors import BadMessage

IntArray = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Relations:
    """Who holds shares of whom, among the devices of one key list.

    Args:
        members: their cohort positions, ascending, shape (m,).
        holds: whether the column's device holds shares of the row's, by cohort position, shape (n, n), bool.
    """

    members: IntArray
    holds: Flags

    def holders(self, position: int) -> IntArray:
        """Other devices that hold shares of this one.

        Args:
            position: in the cohort, from 0.

        Returns:
            Cohort positions, ascending, shape (holders,).
        """
        return np.flatnonzero(self.holds[position])

    def dealers(self, position: int) -> IntArray:
        """Other devices whose shares this one holds.

        Args:
            position: in the cohort, from 0.

        Returns:
            Cohort positions, ascending, shape (dealers,).
        """
        return np.flatnonzero(self.holds[:, position])

    def partners(self, position: int) -> IntArray:
        """Devices that share a mask with this one: its holders and its dealers.

        Args:
            position: in the cohort, from 0.

        Returns:
            Cohort positions, ascending, shape (partners,).
        """
        return np.flatnonzero(self.holds[position] | self.holds[:, position])


def draw_holders(position: int, size: int, degree: int, seed: bytes) -> bytes:
    """Uniform subset of the other devices, as a bitmap; empty for a complete graph.

    Args:
        position: of the device that draws.
        size: devices of the cohort.
        degree: how many are drawn, 1..size - 1.
        seed: 32 uniform bytes, expanded with AES-256-CTR.

    Returns:
        Bitmap over the cohort. Ranking distinct random words orders the others uniformly; equal words are drawn again.
    """
    if degree == size - 1:
        return b""
    others = np.delete(np.arange(size), position)
    stream = Cipher(algorithms.AES(seed), modes.CTR(b"\0" * 16)).encryptor()
    # Equal words have no uniform order; even among 10,000 devices less than one draw in 10^11 has any.
    while True:
        words = np.frombuffer(stream.update(b"\0" * (8 * others.size)), "<u8")
        if np.unique(words).size == words.size:
            return to_bitmap(others[np.argsort(words)[:degree]], size)


def relations(choices: Mapping[int, bytes], size: int, degree: int) -> Relations:
    """Read and check the choices of all members.

    Args:
        choices: bitmap by member; empty in a complete graph.
        size: devices of the cohort.
        degree: how many holders each must have chosen.

    Raises:
        BadMessage: somebody chose another number of devices, itself, or nobody of the cohort.
    """
    members = np.asarray(sorted(choices), np.int64)
    holds = np.zeros((size, size), bool)
    if degree == size - 1:
        if any(choices.values()):
            raise BadMessage("holders chosen in a complete graph, where nobody chooses")
        holds[members] = ~np.eye(size, dtype=bool)[members]
    else:
        holds[members] = _chosen([choices[j] for j in members.tolist()], size)
        wrong = members[(holds[members].sum(axis=1) != degree) | holds[members, members]]
        if wrong.size:
            chosen = int(holds[wrong[0]].sum())
            raise BadMessage(f"device {wrong[0]} of the cohort chose {chosen} holders, expected {degree} others")
    present = np.zeros(size, bool)
    present[members] = True
    return Relations(members, holds & present)


def _chosen(bitmaps: list[bytes], size: int) -> Flags:
    width = -(-size // 8)
    if any(len(bitmap) != width for bitmap in bitmaps):
        raise BadMessage(f"a choice of holders that is not a bitmap of {width} bytes for {size} devices")
    rows = np.frombuffer(b"".join(bitmaps), np.uint8).reshape(len(bitmaps), width)
    flags = np.unpackbits(rows, axis=1, bitorder="little").astype(bool)
    if flags[:, size:].any():
        raise BadMessage(f"a choice of holders beyond the {size} devices of the cohort")
    return flags[:, :size]


def to_bitmap(positions: IntArray, size: int) -> bytes:
    """Write a set of devices.

    Args:
        positions: cohort positions in any order, shape (devices in the set,).
        size: devices of the cohort.

    Returns:
        ceil(size / 8) bytes, least significant bit first.
    """
    flags = np.zeros(size, bool)
    flags[positions] = True
    return np.packbits(flags, bitorder="little").tobytes()


def from_bitmap(data: bytes, size: int) -> IntArray:
    """Read a set of devices.

    Args:
        data: bitmap, least significant bit first.
        size: devices of the cohort.

    Returns:
        Cohort positions, ascending, shape (devices in the set,).

    Raises:
        BadMessage: wrong length, or bits beyond `size`.
    """
    if len(data) != -(-size // 8):
        raise BadMessage(f"bitmap of {len(data)} bytes for {size} devices")
    flags = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    if flags[size:].any():
        raise BadMessage(f"bitmap names devices beyond the {size} of the cohort")
    return np.flatnonzero(flags[:size])
