"""Bounded decompression of model files: full frames and patches against the model the device has.

A frame says how long its content is; it must say exactly what the signed manifest says, before anything is allocated.
"""

from __future__ import annotations

import math
import sys
from typing import assert_never

from fedinfer.errors import BadSignature
from fedinfer.manifest import MAX_ARTIFACT_BYTES, Delta, DeltaMethod

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_OPTIONS: dict[int, int] = {zstd.DecompressionParameter.window_log_max: math.ceil(math.log2(2 * MAX_ARTIFACT_BYTES))}
"""A frame that wants a larger window, which is memory, is refused."""


def expand(delta: Delta, packed: bytes, old: bytes, size_bytes: int) -> bytes:
    """Decompress a delta into a model file.

    Args:
        delta: says how it was made.
        packed: one frame of Zstandard with its content size.
        old: the model file the patch starts from; unused for a plain frame.
        size_bytes: size of the result, at most MAX_ARTIFACT_BYTES.

    Raises:
        BadSignature: malformed, truncated, of another size than signed, or with bytes left over.
    """
    if not 0 < size_bytes <= MAX_ARTIFACT_BYTES:
        raise BadSignature(f"{delta.path}: {size_bytes} bytes announced, at most {MAX_ARTIFACT_BYTES}")
    try:
        announced = zstd.get_frame_info(packed).decompressed_size
        if announced != size_bytes:
            raise BadSignature(f"{delta.path}: expands to {announced} bytes, the manifest says {size_bytes}")
        stream = _decompressor(delta.method, old)
        found = stream.decompress(packed, size_bytes)
    except (zstd.ZstdError, ValueError) as error:  # ValueError: a dictionary of less than 8 bytes
        raise BadSignature(f"{delta.path}: {len(packed)} bytes cannot be expanded: {error}") from error
    if len(found) != size_bytes or not stream.eof or stream.unused_data:
        raise BadSignature(f"{delta.path}: {len(packed)} bytes are not one whole frame of {size_bytes} bytes")
    return found


def _decompressor(method: DeltaMethod, old: bytes) -> zstd.ZstdDecompressor:
    match method:
        case DeltaMethod.ZSTD:
            return zstd.ZstdDecompressor(options=_OPTIONS)
        case DeltaMethod.ZSTD_PATCH:
            return zstd.ZstdDecompressor(zstd.ZstdDict(old, is_raw=True), options=_OPTIONS)
        case _:
            assert_never(method)
