"""Bounded decompression of model files: full frames and patches against the model the device has.

A frame says how long its content is; it must say exactly what the signed manifest says, before anything is allocated.
"""

from __future__ import annotations

from typing import assert_never

import zstandard

from fedinfer.errors import BadSignature
from fedinfer.manifest import MAX_ARTIFACT_BYTES, Delta, DeltaMethod

_MOST_WINDOW_BYTES = 2 * MAX_ARTIFACT_BYTES


def expand(delta: Delta, packed: bytes, old: bytes, size_bytes: int) -> bytes:
    """Decompress a delta into a model file.

    Args:
        delta: says how it was made.
        packed: one zstandard frame with its content size.
        old: the model file the patch starts from; unused for a plain frame.
        size_bytes: size of the result, at most MAX_ARTIFACT_BYTES.

    Raises:
        BadSignature: malformed, truncated, of another size than signed, or with bytes left over.
    """
    if not 0 < size_bytes <= MAX_ARTIFACT_BYTES:
        raise BadSignature(f"{delta.path}: {size_bytes} bytes announced, at most {MAX_ARTIFACT_BYTES}")
    try:
        frame = zstandard.get_frame_parameters(packed)
        if frame.content_size != size_bytes or frame.window_size > _MOST_WINDOW_BYTES:
            raise BadSignature(
                f"{delta.path}: expands to {frame.content_size} bytes with a window of {frame.window_size}, "
                f"the manifest says {size_bytes}"
            )
        return _decompressor(delta.method, old).decompress(packed, max_output_size=size_bytes, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise BadSignature(f"{delta.path}: {len(packed)} bytes cannot be expanded: {error}") from error


def _decompressor(method: DeltaMethod, old: bytes) -> zstandard.ZstdDecompressor:
    match method:
        case DeltaMethod.ZSTD:
            return zstandard.ZstdDecompressor(max_window_size=_MOST_WINDOW_BYTES)
        case DeltaMethod.ZSTD_PATCH:
            dictionary = zstandard.ZstdCompressionDict(old, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
            return zstandard.ZstdDecompressor(dict_data=dictionary, max_window_size=_MOST_WINDOW_BYTES)
        case _:
            assert_never(method)
