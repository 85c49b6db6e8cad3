"""Smaller downloads for a model file: the file compressed, or a patch against the file a device has.

Both are one frame of Zstandard that states its content size. A patch uses the old file as raw-content dictionary: files
of two rounds differ in length and in scales, so subtracting bytes is useless. Signing and hashes are the repository's;
the manifest names the digest of the result. What it saves depends on the noise: weights that all got noise above one
int8 step leave hardly anything in common (measured: 67 % of the file remain, against 2-9 % without noise).
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

from fedinfer.manifest import MAX_DELTAS, Delta, DeltaMethod, Manifest, Variant, delta_path

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_LEVEL = 19
ENTRY_BYTES = 512
"""What a delta costs every device in signed metadata: 200 bytes in the list of targets, 290 in the manifest."""


def compress(new: bytes, old: bytes = b"") -> bytes:
    """One frame of Zstandard; with `old`, a patch that only expands beside the same old file.

    Args:
        new: model file.
        old: model file that the device has; empty for a frame that needs none.
    """
    parameter = zstd.CompressionParameter
    options: dict[int, int] = {parameter.compression_level: _LEVEL, parameter.checksum_flag: 1}
    return zstd.compress(new, options=options, zstd_dict=zstd.ZstdDict(old, is_raw=True) if old else None)


def add_deltas(
    manifest: Manifest, files: Mapping[str, bytes], variants: Sequence[Variant], bases: Sequence[Mapping[str, bytes]]
) -> tuple[Manifest, dict[str, bytes]]:
    """Add compressed files, and patches from the models that devices have, where they save more than they cost.

    Args:
        manifest: of the new version, without deltas.
        files: target path to bytes of its variants.
        variants: of the manifest, that get deltas.
        bases: for each version that devices have, variant name to model file; the most important first, because
            MAX_DELTAS may leave the last ones out.

    Returns:
        The manifest with its deltas, at most MAX_DELTAS, and the files with theirs.
    """
    deltas: list[Delta] = []
    packed_files = dict(files)
    for variant in variants:
        whole, olds = variant.bytes, dict.fromkeys(base[variant.name] for base in bases if variant.name in base)
        for old in (b"", *olds):
            if len(deltas) == MAX_DELTAS:
                break
            packed = compress(files[variant.path], old)
            if len(packed) + ENTRY_BYTES >= whole:
                continue
            deltas.append(_delta(manifest.version, variant, packed, old))
            packed_files[deltas[-1].path] = packed
            whole = whole if old else len(packed)  # from here on a patch competes with the compressed file
    return replace(manifest, deltas=tuple(deltas)), packed_files


def _delta(version: int, variant: Variant, packed: bytes, old: bytes) -> Delta:
    digest = hashlib.sha256(old).hexdigest() if old else ""
    method = DeltaMethod.ZSTD_PATCH if old else DeltaMethod.ZSTD
    return Delta(delta_path(version, variant.name, digest), len(packed), method, digest, variant.sha256)
