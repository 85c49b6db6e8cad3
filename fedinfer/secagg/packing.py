"""Planar bit packing: d integers of b bits in b * ceil(d / 8) bytes, at memory speed in numpy.

Layout: with m = ceil(d / 8), value number c * m + r is in column c of row r. The 8 values of a row make 8b bits, least
significant first, cut into b bytes; byte k of all rows lies together (b planes of m bytes). Missing values are zero.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fedinfer.errors import BadMessage
from fedinfer.types import RingVector

_COLUMNS = 8


def packed_size(bits: int, dimension: int) -> int:
    """Bytes of a packed vector.

    Args:
        bits: of one value, 1..32.
        dimension: number of values, >= 0.
    """
    return bits * -(-dimension // _COLUMNS)


def pack(vector: npt.NDArray[np.uint16] | npt.NDArray[np.uint32], bits: int) -> bytes:
    """Pack a vector of small integers.

    Args:
        vector: shape (d,), values below 2^bits (the caller has checked).
        bits: 1..32, at most the width of the vector's words.

    Returns:
        `packed_size(bits, d)` bytes.
    """
    rows = -(-vector.size // _COLUMNS)
    columns = np.zeros((_COLUMNS, rows), vector.dtype)
    columns.reshape(-1)[: vector.size] = vector
    planes = np.zeros((bits, rows), np.uint8)
    for column in range(_COLUMNS):
        first, shift = divmod(column * bits, 8)
        for plane in range(first, (column * bits + bits - 1) // 8 + 1):
            move = 8 * (plane - first) - shift
            moved = columns[column] >> move if move >= 0 else columns[column] << -move
            planes[plane] |= moved.astype(np.uint8)
    return planes.tobytes()


def unpack(data: bytes | memoryview, bits: int, dimension: int) -> RingVector:
    """Unpack a vector of small integers.

    Args:
        data: from `pack`.
        bits: of one value, 1..32.
        dimension: number of values.

    Returns:
        uint32, shape (dimension,), values below 2^bits.

    Raises:
        BadMessage: wrong length, or values beyond `dimension` that are not zero.
    """
    expected = packed_size(bits, dimension)
    if len(data) != expected:
        raise BadMessage(f"packed vector has {len(data)} bytes, expected {expected} ({dimension} x {bits} bits)")
    rows = expected // bits
    planes = np.frombuffer(data, np.uint8).reshape(bits, rows)
    columns = np.zeros((_COLUMNS, rows), np.uint32)
    for column in range(_COLUMNS):
        first, shift = divmod(column * bits, 8)
        for plane in range(first, (column * bits + bits - 1) // 8 + 1):
            move, part = 8 * (plane - first) - shift, planes[plane].astype(np.uint32)
            columns[column] |= part << np.uint32(move) if move >= 0 else part >> np.uint32(-move)
    columns &= np.uint32((1 << bits) - 1)
    flat = columns.reshape(-1)
    if flat[dimension:].any():
        raise BadMessage("packed vector has values beyond its dimension")
    return flat[:dimension]
