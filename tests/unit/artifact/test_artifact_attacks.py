"""Attacks on the files of a repository: each is refused by the server that reads them and by a device, which keeps its
model. One test per attack; `install` is the device of fedinfer.inference.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from datetime import timedelta

import pytest
from tuf.api.metadata import Metadata, TargetFile

from fedinfer.artifact.evaluate.self_check_rows import expected_answers
from fedinfer.artifact.export.graph import OutputHead, finish
from fedinfer.artifact.release.files import read_file
from fedinfer.artifact.release.metadata import load_state, sign
from fedinfer.artifact.release.signing import new_signer
from fedinfer.errors import ArtifactRejected, BadSignature, GateFailed, Rollback, TransportError
from fedinfer.inference.install.slots import Slots
from fedinfer.inference.install.updater import Updater, UpdateSettings
from fedinfer.inference.predict.session import SessionCache
from fedinfer.manifest import MAX_ARTIFACT_BYTES, MAX_METADATA_BYTES, Delta, DeltaMethod, Manifest, delta_path
from tests.unit.artifact.workshop import Site, dense_core, release, vector_schema

SCHEMA = vector_schema(4, 3)
ROWS = ((0.5, -0.5, 0.25, 0.0), (-1.0, 1.0, 0.0, float("nan")))


def real_release(version: int, seed: int = 1) -> tuple[Manifest, dict[str, bytes]]:
    """A release whose file is a model that onnxruntime runs."""
    import hashlib

    import numpy as np

    data = finish(dense_core((4, 16, 3), seed), OutputHead(SCHEMA, 1.0, "demo", version))
    rows = np.nan_to_num(np.array(ROWS, np.float32))
    answers = expected_answers(data, rows, SCHEMA)
    manifest, _ = release(version, schema=SCHEMA)
    chosen = replace(
        manifest.chosen,
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        labels=tuple(int(label) for label in answers.argmax(axis=1)),
        probabilities=tuple(tuple(float(p) for p in row) for row in answers),
    )
    check_rows = tuple(tuple(float(v) for v in row) for row in rows)
    return replace(manifest, variants=(chosen,), check_rows=check_rows), {chosen.path: data}


class Pair:
    """A server with two published versions and a device that runs the first."""

    def __init__(self, folder) -> None:
        self.site = Site(folder)
        self.site.repository.publish(*real_release(1))
        (folder / "device").mkdir()
        self.updater = Updater(
            Slots(folder / "device" / "slots"), self.site.trusted_root, folder / "device" / "metadata",
            UpdateSettings(most_latency_us=1e9, stale_after_seconds=1e9), self.site.clock, SessionCache(2),
        )  # fmt: skip
        self.slots = Slots(folder / "device" / "slots")
        self.install()
        self.site.repository.publish(*real_release(2, seed=2))
        self.bundle = self.site.repository.bundle(2)

    def install(self, bundle: dict[str, bytes] | None = None) -> int:
        offered = bundle or self.site.repository.bundle(self.site.repository.newest_version)
        return self.updater.install(offered.get, self.site.clock.now()).version

    def name(self, suffix: str) -> str:
        return next(name for name in self.bundle if name.endswith(suffix))

    def server_state(self):
        metadata = {name.removeprefix("metadata/"): data for name, data in self.bundle.items()}
        return load_state(metadata.get, self.site.trusted_root)

    def refuses(self, error: type[ArtifactRejected], match: str | None = None) -> None:
        """The device refuses the bundle and still runs version 1; afterwards the honest one installs."""
        with pytest.raises(error, match=match):
            self.install(self.bundle)
        active = self.slots.active()
        assert active is not None
        assert active.version == 1


@pytest.fixture
def pair(tmp_path):
    pair = Pair(tmp_path)
    yield pair
    assert pair.install() == pair.site.repository.newest_version  # whatever was tried, the honest server still works


def test_honest_update_installs(pair):
    assert pair.install(pair.bundle) == 2


@pytest.mark.parametrize("suffix", ["timestamp.json", "snapshot.json", "targets.json"])
def test_tampered_metadata(pair, suffix):
    name = pair.name(suffix)
    pair.bundle[name] = pair.bundle[name].replace(b'"spec_version":"1.0', b'"spec_version":"1.1', 1)
    assert pair.bundle[name] != pair.site.repository.bundle(2)[name]
    with pytest.raises(BadSignature):
        pair.server_state()
    pair.refuses(ArtifactRejected)


def test_tampered_model(pair):
    name = pair.name("2.onnx")
    data = pair.bundle[name]
    pair.bundle[name] = data[:-1] + bytes([data[-1] ^ 1])
    pair.refuses(BadSignature)


def test_tampered_manifest(pair):
    name = pair.name("current.json")
    pair.bundle[name] = pair.bundle[name].replace(b'"epsilon":"0.93"', b'"epsilon":"0.03"')
    pair.refuses(BadSignature)


@pytest.mark.parametrize("suffix", ["timestamp.json", "snapshot.json", "targets.json", "current.json", "2.onnx"])
def test_truncated_file(pair, suffix):
    name = pair.name(suffix)
    pair.bundle[name] = pair.bundle[name][: len(pair.bundle[name]) // 2]
    pair.refuses(BadSignature)
    if name.startswith("metadata/"):
        with pytest.raises(BadSignature):
            pair.server_state()


def test_oversized_metadata(pair):
    name = pair.name("targets.json")
    pair.bundle[name] += b" " * MAX_METADATA_BYTES
    with pytest.raises(BadSignature, match="at most"):
        pair.server_state()
    pair.refuses(BadSignature)


def test_oversized_model(pair):
    name = pair.name("2.onnx")
    pair.bundle[name] += b"x" * 1_000_000
    pair.refuses(BadSignature)


def test_model_signed_to_be_larger_than_allowed_is_not_published(pair):
    manifest, files = real_release(3)
    chosen = replace(manifest.chosen, bytes=MAX_ARTIFACT_BYTES + 1)
    with pytest.raises(ArtifactRejected):
        pair.site.repository.publish(replace(manifest, variants=(chosen,)), files)


def test_expired_timestamp_is_a_freeze_attack(pair):
    pair.site.clock.advance(timedelta(days=2).total_seconds())
    pair.refuses(BadSignature, "expired")
    pair.site.repository.renew()


def test_downgraded_metadata(pair):
    old = pair.bundle
    pair.site.repository.publish(*real_release(3))
    assert pair.install() == 3
    with pytest.raises(Rollback):
        pair.install(old)
    assert pair.slots.active().version == 3


def test_downgraded_version_under_fresh_signatures(pair):
    """The server's own keys sign an older version as the current one: a device still refuses it."""
    assert pair.install(pair.bundle) == 2
    _resign_targets(pair, lambda targets: _point_current_to(pair, targets, 1))
    with pytest.raises(Rollback, match="version 1 is offered"):
        pair.install(pair.bundle)
    assert pair.slots.active().version == 2


def test_wrongly_signed_targets(pair):
    stranger = new_signer(pair.site.entropy)
    name = pair.name("targets.json")
    document = Metadata.from_bytes(pair.bundle[name])
    pair.bundle[name] = sign(document.signed, [stranger])
    with pytest.raises(BadSignature, match="0/1"):
        pair.server_state()
    pair.refuses(BadSignature)


def test_root_under_threshold(pair):
    root = copy.deepcopy(pair.site.repository._state.root)
    root.version += 1
    pair.bundle["metadata/2.root.json"] = sign(root, pair.site.repository._keys.of("root")[:1])
    with pytest.raises(BadSignature, match="1/2"):
        pair.server_state()
    pair.refuses(BadSignature)


def test_root_that_lowers_its_own_threshold_needs_the_old_one(pair):
    root = copy.deepcopy(pair.site.repository._state.root)
    root.version += 1
    root.roles["root"].threshold = 1
    pair.bundle["metadata/2.root.json"] = sign(root, pair.site.repository._keys.of("root")[:1])
    with pytest.raises(BadSignature):
        pair.server_state()
    pair.refuses(BadSignature)


def test_root_of_another_repository(pair, tmp_path):
    (tmp_path / "other").mkdir()
    other = Site(tmp_path / "other", seed=9)
    other.publish(1)
    stranger = other.repository.bundle(1)
    with pytest.raises(BadSignature):
        load_state({k.removeprefix("metadata/"): v for k, v in stranger.items()}.get, pair.site.trusted_root)
    pair.bundle = stranger
    pair.refuses(BadSignature)


def test_mixed_snapshot_and_targets(pair):
    """Files of two honest states put together are no honest state."""
    old = read_file(pair.site.folder, "metadata/2.targets.json")
    pair.bundle[pair.name("targets.json")] = old
    with pytest.raises(BadSignature, match="says version 2, its parent says 3"):
        pair.server_state()
    pair.refuses(ArtifactRejected)


def test_metadata_of_another_kind(pair):
    pair.bundle["metadata/timestamp.json"] = pair.bundle[pair.name("snapshot.json")]
    with pytest.raises(BadSignature):
        pair.server_state()
    pair.refuses(BadSignature)


def test_missing_metadata(pair):
    del pair.bundle[pair.name("snapshot.json")]
    with pytest.raises(BadSignature, match=r"snapshot.json is missing"):
        pair.server_state()
    with pytest.raises(TransportError):
        pair.install(pair.bundle)


def test_deeply_nested_metadata(pair):
    pair.bundle["metadata/timestamp.json"] = b"[" * 16_000
    with pytest.raises(BadSignature):
        pair.server_state()
    pair.refuses(BadSignature)


def test_zip_bomb_in_place_of_a_delta(pair):
    """A signed delta that announces, or expands to, more than the manifest says."""
    import zstandard

    manifest, files = real_release(3)
    bomb = zstandard.ZstdCompressor(level=19).compress(b"\0" * 50_000_000)
    delta = Delta(delta_path(3, "int8", ""), len(bomb), DeltaMethod.ZSTD, "", manifest.chosen.sha256)
    files[delta.path] = bomb
    pair.site.repository.publish(replace(manifest, deltas=(delta,)), files)
    pair.bundle = pair.site.repository.bundle(3)
    assert bomb in pair.bundle.values()
    pair.refuses(BadSignature, "50000000 bytes")
    pair.site.repository.publish(*real_release(4))


def test_wrong_answers_in_the_manifest_fail_the_self_check(pair):
    manifest, files = real_release(3)
    wrong = replace(manifest.chosen, probabilities=((0.0, 0.0, 1.0),) * 2)
    pair.site.repository.publish(replace(manifest, variants=(wrong,)), files)
    pair.bundle = pair.site.repository.bundle(3)
    pair.refuses(GateFailed)
    pair.site.repository.publish(*real_release(4))


def test_root_rotation_reaches_a_device_that_slept(pair):
    for role in ("root", "targets", "timestamp", "snapshot", "root"):
        pair.site.repository.rotate(role, pair.site.entropy)
    assert pair.install() == 2


@pytest.mark.parametrize("stolen", [("timestamp",), ("snapshot", "timestamp"), ("targets", "snapshot", "timestamp")])
def test_a_device_recovers_from_fast_forwarded_versions_when_keys_are_rotated(pair, stolen):
    """Whoever had the online keys numbered metadata so high that nothing honest would ever be newer; the root keys,
    which were not there to be stolen, name other keys, and what the old ones signed counts no more.

    Source: TUF specification 1.0, section 5.3.11, and python-tuf's tests of fast-forward recovery.
    """
    forged = _fast_forward(pair, stolen)
    if stolen == ("timestamp",):  # no snapshot can be made to fit it, so nothing is installed
        with pytest.raises(TransportError):
            pair.install(forged)
    else:
        assert pair.install(forged) == 2
    pair.site.repository.publish(*real_release(3))
    with pytest.raises(Rollback):
        pair.install()
    for role in stolen:
        pair.site.repository.rotate(role, pair.site.entropy)
    assert pair.install() == 3
    with pytest.raises(ArtifactRejected):
        pair.install(forged)
    assert pair.slots.active().version == 3


def test_cohort_device_gets_its_own_version(pair, tmp_path):
    pair.site.repository.add_cohort("east", pair.site.entropy)
    pair.site.repository.offer("east", 1)
    settings = UpdateSettings(most_latency_us=1e9, stale_after_seconds=1e9, cohort="east")
    (tmp_path / "east").mkdir()
    east = Updater(
        Slots(tmp_path / "east" / "slots"), pair.site.trusted_root, tmp_path / "east" / "metadata", settings,
        pair.site.clock, SessionCache(2),
    )  # fmt: skip
    assert east.install(pair.site.repository.bundle(1, "east").get, pair.site.clock.now()).version == 1
    pair.site.repository.offer("east", 2)
    assert east.install(pair.site.repository.fetch, pair.site.clock.now()).version == 2


def test_cohort_key_cannot_sign_for_everybody(pair):
    """A delegated role is trusted for its own paths alone."""
    repository = pair.site.repository
    repository.add_cohort("east", pair.site.entropy)
    targets = copy.deepcopy(repository._state.targets)
    targets.version += 1
    metadata = {**repository.bundle(2)}
    name = f"metadata/{targets.version}.targets.json"
    metadata[name] = sign(targets, repository._keys.of("cohort-east"))
    snapshot = copy.deepcopy(repository._state.snapshot)
    snapshot.version, snapshot.meta["targets.json"].version = snapshot.version + 1, targets.version
    metadata[f"metadata/{snapshot.version}.snapshot.json"] = sign(snapshot, repository._keys.of("snapshot"))
    timestamp = copy.deepcopy(repository._state.timestamp)
    timestamp.version, timestamp.snapshot_meta.version = timestamp.version + 1, snapshot.version
    metadata["metadata/timestamp.json"] = sign(timestamp, repository._keys.of("timestamp"))
    pair.bundle = metadata
    with pytest.raises(BadSignature, match="0/1"):
        pair.server_state()
    pair.refuses(BadSignature)
    for _ in range(3):
        repository.renew()  # past the version numbers that the forger used up


FAST_FORWARD = 2**31 - 1


def _fast_forward(pair: Pair, stolen: tuple[str, ...]) -> dict[str, bytes]:
    """The honest bundle of version 2 with the highest numbers that the stolen keys can sign."""
    state, keys, bundle = copy.deepcopy(pair.site.repository._state), pair.site.repository._keys, dict(pair.bundle)
    if "targets" in stolen:
        state.targets.version = state.snapshot.meta["targets.json"].version = FAST_FORWARD
        bundle[f"metadata/{FAST_FORWARD}.targets.json"] = sign(state.targets, keys.of("targets"))
    if "snapshot" in stolen:
        state.snapshot.version = FAST_FORWARD
        bundle[f"metadata/{FAST_FORWARD}.snapshot.json"] = sign(state.snapshot, keys.of("snapshot"))
    state.timestamp.snapshot_meta.version = state.snapshot.version if "snapshot" in stolen else FAST_FORWARD
    state.timestamp.version = FAST_FORWARD
    bundle["metadata/timestamp.json"] = sign(state.timestamp, keys.of("timestamp"))
    return bundle


def _resign_targets(pair: Pair, change) -> None:
    """New targets, snapshot and timestamp with the server's own keys; `pair.bundle` becomes what a device sees."""
    repository = pair.site.repository
    state = copy.deepcopy(repository._state)
    change(state.targets)
    repository._sign_again(state, "targets")
    pair.bundle = {
        **{f"metadata/{p.name}": p.read_bytes() for p in (pair.site.folder / "metadata").iterdir()},
        **{
            f"targets/{p.relative_to(pair.site.folder / 'targets').as_posix()}": p.read_bytes()
            for p in (pair.site.folder / "targets").rglob("*")
            if p.is_file()
        },
    }
    repository.publish(*real_release(3))


def _point_current_to(pair: Pair, targets, version: int) -> None:
    old = pair.site.repository.manifest(version).to_bytes()
    target = TargetFile.from_data("model/current.json", old)
    target.unrecognized_fields["custom"] = {"version": version}
    targets.targets["model/current.json"] = target
    name = f"model/{target.hashes['sha256']}.current.json"
    (pair.site.folder / "targets" / name).write_bytes(old)
    assert json.loads(old)["version"] == version
