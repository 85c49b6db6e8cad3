"""Deltas: smaller ways to the same bytes, bounded and checked when they are expanded."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import zstandard

from fedinfer.artifact.release.delta import add_deltas, compress
from fedinfer.artifact.release.releases import bundle_paths
from fedinfer.errors import BadSignature
from fedinfer.inference.install.expand import expand as device_expand
from fedinfer.manifest import MAX_ARTIFACT_BYTES, Delta, DeltaMethod, Manifest
from fedinfer.system import simulation_rng
from tests.unit.artifact.workshop import Site, release

RNG = simulation_rng("delta")
OLD = RNG.integers(0, 256, 60_000, dtype=np.uint8).tobytes()
NEW = OLD[:20_000] + RNG.integers(0, 256, 300, dtype=np.uint8).tobytes() + OLD[20_100:]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def expand(packed, old, size):
    """What a device does with a frame that the manifest announces with this size."""
    method = DeltaMethod.ZSTD_PATCH if old else DeltaMethod.ZSTD
    delta = Delta("delta/2.zst", len(packed), method, digest(old) if old else "", digest(NEW))
    return device_expand(delta, packed, old, size)


@pytest.mark.parametrize("old", [b"", OLD])
def test_round_trip(old):
    packed = compress(NEW, old)
    assert expand(packed, old, len(NEW)) == NEW


def test_patch_is_small_when_little_changed_and_no_smaller_when_all_did():
    assert len(compress(NEW, OLD)) < len(NEW) / 50
    other = RNG.integers(0, 256, len(NEW), dtype=np.uint8).tobytes()
    assert len(compress(other, OLD)) > 0.99 * len(other)


def test_same_input_gives_the_same_bytes():
    assert compress(NEW, OLD) == compress(NEW, OLD)


def test_patch_against_another_file_is_refused():
    wrong = bytes(reversed(OLD))
    with pytest.raises(BadSignature):
        expand(compress(NEW, OLD), wrong, len(NEW))


@pytest.mark.parametrize("size", [0, -1, len(NEW) - 1, len(NEW) + 1, MAX_ARTIFACT_BYTES + 1])
def test_wrong_size_is_refused(size):
    with pytest.raises(BadSignature, match=str(abs(size))):
        expand(compress(NEW), b"", size)


@pytest.mark.parametrize("cut", [0, 1, 4, 10, 1000, -1])
def test_truncated_frame_is_refused(cut):
    with pytest.raises(BadSignature):
        expand(compress(NEW)[:cut], b"", len(NEW))


def test_trailing_bytes_are_refused():
    with pytest.raises(BadSignature):
        expand(compress(NEW) + b"x", b"", len(NEW))


def test_zip_bomb_is_refused_before_it_expands():
    bomb = zstandard.ZstdCompressor(level=19).compress(b"\0" * 100_000_000)
    assert len(bomb) < 10_000
    with pytest.raises(BadSignature, match=r"expands to 100000000 bytes, the manifest says 1000"):
        expand(bomb, b"", 1000)


def test_zip_bomb_that_hides_its_size_is_refused():
    parameters = zstandard.ZstdCompressionParameters(write_content_size=False)
    writer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    bomb = writer.compress(b"\0" * 100_000_000) + writer.flush()
    with pytest.raises(BadSignature):
        expand(bomb, b"", 1000)


def test_release_gets_only_deltas_that_save_bytes_and_the_device_expands_them(tmp_path):
    manifest, files = release(2, OLD)
    small, packed = add_deltas(manifest, files, manifest.variants, [{"int8": OLD}])
    assert [delta.method for delta in small.deltas] == [DeltaMethod.ZSTD_PATCH]  # random bytes do not compress
    delta = small.deltas[0]
    assert delta.from_sha256 == digest(OLD)
    assert delta.bytes == len(packed[delta.path]) < 1000
    assert device_expand(delta, packed[delta.path], OLD, manifest.chosen.bytes) == files[manifest.chosen.path]
    site = Site(tmp_path)
    site.repository.publish(small, packed)
    assert packed[delta.path] in site.repository.bundle(2, active_sha256=digest(OLD)).values()
    assert packed[delta.path] not in site.repository.bundle(2).values()
    assert Manifest.from_bytes(small.to_bytes()).deltas == small.deltas


def test_both_ways_are_offered_when_both_save_and_the_smaller_is_sent():
    text = b"the same sentence again and again " * 500
    manifest, files = release(2, text + OLD[:5000])
    both, packed = add_deltas(manifest, files, manifest.variants, [{"int8": OLD}])
    assert [delta.method for delta in both.deltas] == [DeltaMethod.ZSTD, DeltaMethod.ZSTD_PATCH]
    plain, patch = both.deltas
    assert patch.bytes < plain.bytes < manifest.chosen.bytes
    assert bundle_paths(both, (), digest(OLD)) == (patch.path,)
    assert bundle_paths(both, ("int8",), "f" * 64) == (plain.path,)
    assert device_expand(plain, packed[plain.path], b"", manifest.chosen.bytes) == files[manifest.chosen.path]


def test_no_delta_without_gain():
    manifest, files = release(1, RNG.integers(0, 256, 2000, dtype=np.uint8).tobytes())
    assert add_deltas(manifest, files, manifest.variants, [])[0].deltas == ()
    assert bundle_paths(manifest, (), "") == ("model/1.onnx",)
