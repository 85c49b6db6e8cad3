"""Installing models: the good path, every bad artifact by name, and what stays after a refusal."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import replace
from datetime import timedelta

import numpy as np
import onnx
import pytest
import zstandard
from securesystemslib.signer import CryptoSigner

from fedinfer.errors import (
    ArtifactRejected,
    BadSignature,
    ConfigError,
    FedInferError,
    GateFailed,
    Rollback,
    StoreError,
    TransportError,
)
from fedinfer.inference.install import updater as updater_module
from fedinfer.inference.install.installed import open_installed
from fedinfer.inference.install.slots import Slots
from fedinfer.inference.install.updater import UpdateSettings
from fedinfer.inference.predict.session import SessionCache
from fedinfer.manifest import MAX_ARTIFACT_BYTES, Delta, DeltaMethod, current_path, delta_path, model_path
from fedinfer.schema import Numeric, Schema
from tests.unit.inference.device_world import (
    NOW,
    SCHEMA,
    SETTINGS,
    Repository,
    make_manifest,
    make_model,
    make_rows,
    make_updater,
    softmax_of,
    with_variant,
)


@pytest.fixture
def repository():
    world = Repository()
    world.publish(1)
    return world


def installed(folder):
    return open_installed(Slots(folder / "slots"), SessionCache(2))


def refuse(folder, repository, error, match, updater=None):
    """An install must fail with this error and leave what was active."""
    before = Slots(folder / "slots").active()
    with pytest.raises(error, match=match) as caught:
        (updater or make_updater(folder, repository)).install(repository.fetch, NOW)
    assert isinstance(caught.value, FedInferError)
    assert Slots(folder / "slots").active() == before
    if before is not None:
        rows = make_rows(count=3, seed=9)
        expected = softmax_of(make_model(seed=before.version), rows)
        np.testing.assert_allclose(installed(folder).predictor.predict(rows).probabilities, expected, atol=1e-5)


def test_first_install_serves_the_published_model(tmp_path, repository):
    report = make_updater(tmp_path, repository).install(repository.fetch, NOW)
    assert (report.version, report.previous_version, report.installed, report.variant) == (1, 0, True, "float")
    assert report.check is not None
    assert report.check.largest_difference < 1e-5
    rows = make_rows(count=20, seed=3)
    found = installed(tmp_path)
    assert found.manifest.version == 1
    np.testing.assert_allclose(
        found.predictor.predict(rows).probabilities, softmax_of(make_model(seed=1), rows), atol=1e-5
    )


def test_second_install_is_a_cheap_no(tmp_path, repository):
    updater = make_updater(tmp_path, repository)
    updater.install(repository.fetch, NOW)
    repository.requests.clear()
    report = updater.install(repository.fetch, NOW)
    assert not report.installed
    assert report.version == 1
    assert not [path for path in repository.requests if path.endswith(".onnx")]


def test_newer_version_replaces_and_older_stays_for_rollback(tmp_path, repository):
    updater = make_updater(tmp_path, repository)
    updater.install(repository.fetch, NOW)
    repository.publish(2)
    assert updater.install(repository.fetch, NOW).previous_version == 1
    slots = Slots(tmp_path / "slots")
    assert slots.active().version == 2
    assert slots.rollback().version == 1
    assert installed(tmp_path).manifest.version == 1


def test_version_rolled_back_here_is_refused_until_a_new_one(tmp_path, repository):
    updater = make_updater(tmp_path, repository)
    updater.install(repository.fetch, NOW)
    repository.publish(2)
    updater.install(repository.fetch, NOW)
    Slots(tmp_path / "slots").rollback()
    refuse(tmp_path, repository, Rollback, "version 2 was rolled back")
    repository.publish(3)
    assert updater.install(repository.fetch, NOW).version == 3


def test_cohort_model(tmp_path, repository):
    repository.publish(5, cohort="north")
    settings = replace(SETTINGS, cohort="north")
    assert make_updater(tmp_path, repository, settings).install(repository.fetch, NOW).version == 5


# Bad artifacts, one test each.


def active_then_new(tmp_path, repository):
    make_updater(tmp_path, repository).install(repository.fetch, NOW)
    return repository.publish(2)


def test_tampered_model_is_refused(tmp_path, repository):
    active_then_new(tmp_path, repository)
    place = repository.place(model_path(2))
    data = bytearray(repository.files[place])
    data[len(data) // 2] ^= 1
    repository.files[place] = bytes(data)
    refuse(tmp_path, repository, BadSignature, "tampered or truncated")


def test_tampered_manifest_is_refused(tmp_path, repository):
    active_then_new(tmp_path, repository)
    place = repository.place(current_path())
    repository.files[place] = repository.files[place].replace(b'"version":2', b'"version":9')
    refuse(tmp_path, repository, BadSignature, "tampered or truncated")


def test_tampered_metadata_is_refused(tmp_path, repository):
    active_then_new(tmp_path, repository)
    path = f"metadata/{repository.targets.version}.targets.json"
    repository.files[path] = repository.files[path].replace(b"model/2.onnx", b"model/3.onnx")
    refuse(tmp_path, repository, BadSignature, "not enough valid signatures")


def test_truncated_model_is_refused(tmp_path, repository):
    active_then_new(tmp_path, repository)
    place = repository.place(model_path(2))
    repository.files[place] = repository.files[place][:-7]
    refuse(tmp_path, repository, BadSignature, "tampered or truncated")


def test_truncated_metadata_is_refused(tmp_path, repository):
    active_then_new(tmp_path, repository)
    repository.files["metadata/timestamp.json"] = repository.files["metadata/timestamp.json"][:-20]
    refuse(tmp_path, repository, BadSignature, "metadata")


def test_oversized_model_stream_is_refused(tmp_path, repository):
    active_then_new(tmp_path, repository)
    place = repository.place(model_path(2))
    repository.files[place] += b"x" * 1_000_000
    refuse(tmp_path, repository, BadSignature, "oversized")


def test_oversized_signed_target_is_refused_before_it_is_fetched(tmp_path, repository):
    active_then_new(tmp_path, repository)
    place = repository.place(current_path())
    repository.targets.targets[current_path()].length = 10 * MAX_ARTIFACT_BYTES
    repository.sign_all()
    repository.requests.clear()
    refuse(tmp_path, repository, BadSignature, "at most")
    assert place not in repository.requests


def test_oversized_metadata_is_refused(tmp_path, repository):
    active_then_new(tmp_path, repository)
    repository.files["metadata/timestamp.json"] += b" " * 20_000
    refuse(tmp_path, repository, BadSignature, "oversized")


def test_expired_timestamp_is_refused_by_the_given_clock(tmp_path, repository):
    updater = make_updater(tmp_path, repository)
    updater.install(repository.fetch, NOW)
    repository.publish(2)
    with pytest.raises(BadSignature, match="expired"):
        updater.install(repository.fetch, NOW + timedelta(days=2))
    assert Slots(tmp_path / "slots").active().version == 1
    assert updater.install(repository.fetch, NOW + timedelta(hours=23)).version == 2


def test_clock_that_went_back_does_not_bring_expired_metadata_to_life(tmp_path, repository):
    """A device without a clock that survives a power cut wakes up years ago; what it saw last is a later time."""
    updater = make_updater(tmp_path, repository)
    updater.install(repository.fetch, NOW)
    expiry = repository.timestamp.expires
    repository.timestamp.expires = NOW - timedelta(hours=1)  # it expired before the last contact
    repository.timestamp.version += 1
    repository.files["metadata/timestamp.json"] = repository.sign(repository.timestamp, repository.keys["timestamp"])
    with pytest.raises(BadSignature, match="expired"):
        updater.install(repository.fetch, NOW - timedelta(days=3650))
    assert "the clock is" in updater.staleness_warning(NOW - timedelta(days=3650))
    assert updater.staleness_warning(NOW - timedelta(seconds=5)) == ""
    repository.timestamp.expires = expiry
    repository.publish(2)
    assert updater.install(repository.fetch, NOW - timedelta(days=3650)).version == 2
    assert updater.staleness_warning(NOW) == ""


def test_expired_root_is_refused(tmp_path, repository):
    updater = make_updater(tmp_path, repository)
    with pytest.raises(BadSignature, match=r"root\.json is expired"):
        updater.install(repository.fetch, NOW + timedelta(days=400))
    assert Slots(tmp_path / "slots").active() is None


def test_downgraded_timestamp_is_refused(tmp_path, repository):
    old = repository.files["metadata/timestamp.json"]
    active_then_new(tmp_path, repository)
    make_updater(tmp_path, repository).install(repository.fetch, NOW)
    repository.files["metadata/timestamp.json"] = old
    refuse(tmp_path, repository, Rollback, "timestamp version")


def test_downgraded_model_version_is_refused(tmp_path, repository):
    repository.publish(7)
    make_updater(tmp_path, repository).install(repository.fetch, NOW)
    repository.publish(6)
    refuse(tmp_path, repository, Rollback, "version 6 is offered, version 7 is active")


def test_same_version_with_other_bytes_is_refused(tmp_path, repository):
    make_updater(tmp_path, repository).install(repository.fetch, NOW)
    repository.publish(1, {"float": make_model(seed=77)})
    refuse(tmp_path, repository, Rollback, "version 1 is offered, version 1 is active")


def test_timestamp_signed_by_a_stranger_is_refused(tmp_path, repository):
    active_then_new(tmp_path, repository)
    stranger = CryptoSigner.generate_ed25519()
    repository.timestamp.version += 1
    repository.files["metadata/timestamp.json"] = repository.sign(repository.timestamp, [stranger])
    refuse(tmp_path, repository, BadSignature, "not enough valid signatures")


def test_targets_signed_by_a_stranger_are_refused(tmp_path, repository):
    make_updater(tmp_path, repository).install(repository.fetch, NOW)
    repository.keys["targets"] = [CryptoSigner.generate_ed25519()]
    repository.publish(2)
    refuse(tmp_path, repository, BadSignature, "not enough valid signatures")


def test_root_under_the_threshold_is_refused(tmp_path, repository):
    active_then_new(tmp_path, repository)
    root = copy.deepcopy(repository.root)
    root.version = 2
    repository.files["metadata/2.root.json"] = repository.sign(root, repository.keys["root"][:1])
    refuse(tmp_path, repository, BadSignature, "signed by 1/2")


def test_rotated_root_with_enough_signatures_is_followed(tmp_path, repository):
    active_then_new(tmp_path, repository)
    old, new = repository.keys["targets"][0], CryptoSigner.generate_ed25519()
    repository.root.version = 2
    repository.root.revoke_key(old.public_key.keyid, "targets")
    repository.root.add_key(new.public_key, "targets")
    repository.keys["targets"] = [new]
    repository.files["metadata/2.root.json"] = repository.sign(repository.root, repository.keys["root"][1:])
    repository.publish(3)
    assert make_updater(tmp_path, repository).install(repository.fetch, NOW).version == 3


def test_unlisted_model_is_refused(tmp_path, repository):
    active_then_new(tmp_path, repository)
    del repository.targets.targets[model_path(2)]
    repository.sign_all()
    refuse(tmp_path, repository, BadSignature, "not signed by the repository")


def test_model_other_than_the_manifest_says_is_refused(tmp_path, repository):
    active_then_new(tmp_path, repository)
    repository.add(model_path(2), make_model(seed=55))
    repository.sign_all()
    refuse(tmp_path, repository, BadSignature, "the manifest says")


def test_malformed_manifest_is_refused(tmp_path, repository):
    active_then_new(tmp_path, repository)
    repository.add(current_path(), b'{"format": 1}')
    repository.sign_all()
    refuse(tmp_path, repository, ArtifactRejected, "missing")


def with_delta(repository, version, packed, method, old=""):
    model = make_model(seed=version)
    plain = make_manifest(version, {"float": model})
    path = delta_path(version, "float", old)
    delta = Delta(path, len(packed), method, old, plain.chosen.sha256)
    manifest = replace(plain, deltas=(delta,))
    repository.add(path, packed)
    repository.publish(version, {"float": model}, manifest)
    return path


def test_zip_bomb_is_refused(tmp_path, repository):
    make_updater(tmp_path, repository).install(repository.fetch, NOW)
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(64 * 2**20))
    assert len(bomb) < 10_000
    model_size = len(make_model(seed=2))
    packed = bomb[: model_size - 1]
    with_delta(repository, 2, packed, DeltaMethod.ZSTD)
    refuse(tmp_path, repository, BadSignature, "expands to 67108864 bytes")


def test_zip_bomb_with_a_lying_size_is_refused(tmp_path, repository):
    """The frame announces the right size, but more comes out of it."""
    make_updater(tmp_path, repository).install(repository.fetch, NOW)
    size = len(make_model(seed=2))
    frame = bytearray(zstandard.ZstdCompressor(write_content_size=True).compress(bytes(300 + 256)))
    assert zstandard.get_frame_parameters(bytes(frame)).content_size == 556
    at = bytes(frame).index((556 - 256).to_bytes(2, "little"))
    frame[at : at + 2] = (size - 256).to_bytes(2, "little")
    assert zstandard.get_frame_parameters(bytes(frame)).content_size == size
    with_delta(repository, 2, bytes(frame), DeltaMethod.ZSTD)
    refuse(tmp_path, repository, BadSignature, "cannot be expanded|the manifest says")


def test_frame_without_a_size_is_refused(tmp_path, repository):
    make_updater(tmp_path, repository).install(repository.fetch, NOW)
    packed = zstandard.ZstdCompressor(write_content_size=False).compress(make_model(seed=2))
    with_delta(repository, 2, packed, DeltaMethod.ZSTD)
    refuse(tmp_path, repository, BadSignature, "the manifest says")


def test_compressed_model_is_installed(tmp_path, repository):
    make_updater(tmp_path, repository).install(repository.fetch, NOW)
    packed = zstandard.ZstdCompressor(level=19).compress(make_model(seed=2))
    with_delta(repository, 2, packed, DeltaMethod.ZSTD)
    report = make_updater(tmp_path, repository).install(repository.fetch, NOW)
    assert report.delta
    assert report.version == 2


def patch(old, new):
    dictionary = zstandard.ZstdCompressionDict(old, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    return zstandard.ZstdCompressor(level=19, dict_data=dictionary).compress(new)


def test_patch_against_the_active_model_is_smaller_and_installed(tmp_path, repository):
    first = make_updater(tmp_path, repository).install(repository.fetch, NOW)
    old = make_model(seed=1)
    packed = patch(old, make_model(seed=2))
    digest = Slots(tmp_path / "slots").active().sha256["model.onnx"]
    with_delta(repository, 2, packed, DeltaMethod.ZSTD_PATCH, digest)
    repository.requests.clear()
    report = make_updater(tmp_path, repository).install(repository.fetch, NOW)
    assert report.delta
    assert report.received_bytes < first.received_bytes + len(packed)
    assert not [path for path in repository.requests if path.endswith(".onnx")]


def test_patch_for_another_model_is_not_used(tmp_path, repository):
    make_updater(tmp_path, repository).install(repository.fetch, NOW)
    packed = patch(make_model(seed=44), make_model(seed=2))
    with_delta(repository, 2, packed, DeltaMethod.ZSTD_PATCH, "ab" * 32)
    report = make_updater(tmp_path, repository).install(repository.fetch, NOW)
    assert not report.delta
    assert report.version == 2


def test_corrupt_patch_is_refused(tmp_path, repository):
    make_updater(tmp_path, repository).install(repository.fetch, NOW)
    digest = Slots(tmp_path / "slots").active().sha256["model.onnx"]
    packed = patch(make_model(seed=1) + b"shifted", make_model(seed=2))
    with_delta(repository, 2, packed, DeltaMethod.ZSTD_PATCH, digest)
    refuse(tmp_path, repository, BadSignature, "cannot be expanded|the manifest says")


def test_pruned_delta_falls_back_to_the_whole_file(tmp_path, repository):
    make_updater(tmp_path, repository).install(repository.fetch, NOW)
    packed = zstandard.ZstdCompressor(level=19).compress(make_model(seed=2))
    path = with_delta(repository, 2, packed, DeltaMethod.ZSTD)
    del repository.files[repository.place(path)]
    report = make_updater(tmp_path, repository).install(repository.fetch, NOW)
    assert (report.delta, report.version) == (False, 2)


# Self-check.


def test_model_that_answers_nan_is_refused(tmp_path, repository):
    make_updater(tmp_path, repository).install(repository.fetch, NOW)
    bad = make_model(seed=2, body="nan")
    manifest = make_manifest(2, {"float": make_model(seed=2)})
    manifest = with_variant(manifest, sha256=make_manifest(2, {"float": bad}).chosen.sha256, bytes=len(bad))
    repository.publish(2, {"float": bad}, manifest)
    refuse(tmp_path, repository, GateFailed, "NaN")


def test_model_with_other_probabilities_is_refused(tmp_path, repository):
    make_updater(tmp_path, repository).install(repository.fetch, NOW)
    good = make_manifest(2, {"float": make_model(seed=2)})
    moved = tuple(tuple(p + 0.01 * (i == 0) for i, p in enumerate(row)) for row in good.chosen.probabilities)
    repository.publish(2, {"float": make_model(seed=2)}, with_variant(good, probabilities=moved))
    refuse(tmp_path, repository, GateFailed, "a probability differs by 0.01, tolerance 0.0001")


def test_model_with_other_classes_is_refused(tmp_path, repository):
    make_updater(tmp_path, repository).install(repository.fetch, NOW)
    good = make_manifest(2, {"float": make_model(seed=2)})
    wrong = tuple((k + 1) % 3 for k in good.chosen.labels)
    repository.publish(2, {"float": make_model(seed=2)}, with_variant(good, labels=wrong))
    refuse(tmp_path, repository, GateFailed, "8 of 8 check rows get another class")


def test_model_with_other_label_texts_is_refused(tmp_path, repository):
    make_updater(tmp_path, repository).install(repository.fetch, NOW)
    models = {"float": make_model(seed=2, labels=("ill", "well", "unclear"))}
    repository.publish(2, models, make_manifest(2, models))
    refuse(tmp_path, repository, GateFailed, "labels differ")


def test_a_model_without_label_texts_of_its_own_is_named_by_the_manifest(tmp_path, repository):
    model = onnx.load_from_string(make_model(seed=2))
    del model.graph.node[-1], model.graph.output[0]
    assert [output.name for output in model.graph.output] == ["probabilities"]
    models = {"float": model.SerializeToString()}
    repository.publish(2, models, make_manifest(2, models))
    assert make_updater(tmp_path, repository).install(repository.fetch, NOW).version == 2
    assert set(installed(tmp_path).predictor.predict(make_rows()).labels) <= set(SCHEMA.labels)


class TickingClock:
    """Every look at the clock costs a millisecond."""

    def __init__(self):
        self.ticks = 0

    def now(self):
        return NOW

    def seconds(self):
        self.ticks += 1
        return self.ticks / 1000


def test_slow_model_is_refused(tmp_path, repository):
    make_updater(tmp_path, repository).install(repository.fetch, NOW)
    repository.publish(2)
    updater = make_updater(tmp_path, repository, replace(SETTINGS, most_latency_us=900))
    updater._clock = TickingClock()
    refuse(tmp_path, repository, GateFailed, "1000 us per prediction, bound 900 us", updater)


def test_bytes_that_are_no_model_are_refused(tmp_path, repository):
    make_updater(tmp_path, repository).install(repository.fetch, NOW)
    models = {"float": b"not a model at all" * 9}
    manifest = make_manifest(2, {"float": make_model(seed=2)})
    manifest = with_variant(manifest, sha256=hashlib.sha256(models["float"]).hexdigest(), bytes=len(models["float"]))
    repository.publish(2, models, manifest)
    refuse(tmp_path, repository, GateFailed, "has no field")


def test_model_for_other_rows_is_refused(tmp_path, repository):
    make_updater(tmp_path, repository).install(repository.fetch, NOW)
    other = replace(SCHEMA, columns=(Numeric("weight", 0, 300), *SCHEMA.columns[1:]))
    models = {"float": make_model(other, seed=2)}
    repository.publish(2, models, make_manifest(2, models, other))
    refuse(tmp_path, repository, GateFailed, "other rows or labels")


def test_model_for_another_task_is_refused(tmp_path, repository):
    make_updater(tmp_path, repository).install(repository.fetch, NOW)
    models = {"float": make_model(seed=2)}
    repository.publish(2, models, replace(make_manifest(2, models), task="billing"))
    refuse(tmp_path, repository, GateFailed, "task 'billing'")


def test_first_model_must_fit_the_rows_the_program_feeds(tmp_path, repository):
    wanted = Schema((Numeric("age", 0, 1),), "y", ("a", "b"))
    updater = make_updater(tmp_path, repository, replace(SETTINGS, schema=wanted))
    refuse(tmp_path, repository, GateFailed, "other rows or labels", updater)


# Variants.


def test_fastest_passing_variant_is_kept_and_remembered(tmp_path, repository, monkeypatch):
    models = {"int8": make_model(seed=2), "float": make_model(seed=3), "fp16": make_model(seed=4, body="nan")}
    manifest = make_manifest(2, {**models, "fp16": make_model(seed=4)})
    bad = make_manifest(2, models).variants[2]
    manifest = replace(
        manifest, variants=(*manifest.variants[:2], replace(manifest.variants[2], sha256=bad.sha256, bytes=bad.bytes))
    )
    repository.publish(2, models, manifest)
    real, speed = updater_module.self_check, {"int8": 40.0, "float": 30.0}
    monkeypatch.setattr(
        updater_module,
        "self_check",
        lambda p, m, v, *rest: replace(real(p, m, v, *rest), latency_us=speed[v.name]),
    )
    settings = replace(SETTINGS, measure=("float", "int8", "fp16"))
    updater = make_updater(tmp_path, repository, settings)
    report = updater.install(repository.fetch, NOW)
    assert report.variant == "float"
    assert len(report.rejected) == 1
    assert "NaN" in report.rejected[0]
    models = {"int8": make_model(seed=5), "float": make_model(seed=6)}
    repository.publish(3, models)
    repository.requests.clear()
    assert updater.install(repository.fetch, NOW).variant == "float"
    assert repository.place(model_path(3)) not in repository.requests


def test_no_variant_passes(tmp_path, repository):
    good = make_model(seed=2)
    manifest = make_manifest(2, {"int8": good, "float": make_model(seed=3)})
    wrong = tuple(replace(v, labels=tuple((k + 1) % 3 for k in v.labels)) for v in manifest.variants)
    repository.publish(2, {"int8": good, "float": make_model(seed=3)}, replace(manifest, variants=wrong))
    updater = make_updater(tmp_path, repository, replace(SETTINGS, measure=("int8", "float")))
    refuse(tmp_path, repository, GateFailed, "none of", updater)


# Transport, clock, disk.


def test_unreachable_repository_keeps_serving_and_warns_when_stale(tmp_path, repository):
    updater = make_updater(tmp_path, repository)
    assert "never" in updater.staleness_warning(NOW)
    updater.install(repository.fetch, NOW)
    with pytest.raises(TransportError, match="timestamp"):
        updater.install(lambda path: None, NOW + timedelta(minutes=10))
    assert installed(tmp_path).manifest.version == 1
    assert updater.staleness_warning(NOW + timedelta(minutes=10)) == ""
    assert "4000 s ago, limit 3600 s" in updater.staleness_warning(NOW + timedelta(seconds=4000))


def test_error_of_the_transport_is_the_callers_error(tmp_path, repository):
    def broken(path):
        raise TransportError("line is cut")

    with pytest.raises(TransportError, match="line is cut"):
        make_updater(tmp_path, repository).install(broken, NOW)


def test_foreign_error_of_the_transport_is_typed(tmp_path, repository):
    def broken(path):
        raise RuntimeError("socket")

    with pytest.raises(TransportError, match="Failed to download"):
        make_updater(tmp_path, repository).install(broken, NOW)


@pytest.mark.parametrize("allowed", range(6))
def test_connection_lost_in_the_middle_then_complete(tmp_path, repository, allowed):
    """Whatever request is the last one that is answered, the old model stays, and the next attempt installs."""
    make_updater(tmp_path, repository).install(repository.fetch, NOW)
    repository.publish(2)
    left = [True] * allowed
    with pytest.raises(TransportError):
        make_updater(tmp_path, repository).install(
            lambda path: repository.fetch(path) if left and left.pop() else None, NOW
        )
    assert installed(tmp_path).manifest.version == 1
    assert make_updater(tmp_path, repository).install(repository.fetch, NOW).version == 2


def test_time_without_zone_is_refused(tmp_path, repository):
    with pytest.raises(ConfigError, match="time zone"):
        make_updater(tmp_path, repository).install(repository.fetch, NOW.replace(tzinfo=None))


def test_other_python_tuf_is_refused_not_trusted(tmp_path, repository, monkeypatch):
    from fedinfer.inference.install import tuf_channel as trust

    class Moved(trust.Updater):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self._trusted_set.reference_time = None

    monkeypatch.setattr(trust, "Updater", Moved)
    with pytest.raises(ConfigError, match="keeps the time"):
        make_updater(tmp_path, repository).install(repository.fetch, NOW)


def test_full_disk_keeps_the_old_model(tmp_path, repository, monkeypatch):
    updater = make_updater(tmp_path, repository)
    updater.install(repository.fetch, NOW)
    repository.publish(2)
    real = Slots._write

    def full(self, path, data):
        if path.name == "model.onnx":
            path.write_bytes(data[: len(data) // 2])
            raise OSError(28, "No space left on device")
        real(self, path, data)

    monkeypatch.setattr(Slots, "_write", full)
    refuse(tmp_path, repository, StoreError, "No space left", updater)
    monkeypatch.undo()
    assert updater.install(repository.fetch, NOW).version == 2


def test_full_disk_during_the_download(tmp_path, repository):
    """The folder of the metadata cannot be written."""
    updater = make_updater(tmp_path, repository)
    updater.install(repository.fetch, NOW)
    repository.publish(2)
    folder = tmp_path / "metadata"
    updater._metadata = folder / "timestamp.json" / "below-a-file"
    with pytest.raises(StoreError):
        updater.install(repository.fetch, NOW)
    assert installed(tmp_path).manifest.version == 1


def test_write_that_did_not_reach_the_disk_is_noticed(tmp_path, repository, monkeypatch):
    updater = make_updater(tmp_path, repository)
    updater.install(repository.fetch, NOW)
    repository.publish(2)
    real = Slots._write
    monkeypatch.setattr(
        Slots, "_write", lambda self, path, data: real(self, path, data[:100] if path.suffix == ".onnx" else data)
    )
    refuse(tmp_path, repository, ArtifactRejected, "has digest", updater)


def test_two_installers_at_once(tmp_path, repository):
    updater = make_updater(tmp_path, repository)
    with Slots(tmp_path / "slots").exclusive(), pytest.raises(StoreError, match="another process"):
        updater.install(repository.fetch, NOW)
    assert updater.install(repository.fetch, NOW).version == 1


def test_damaged_active_slot_falls_back_and_is_repaired_by_the_same_version(tmp_path, repository):
    updater = make_updater(tmp_path, repository)
    updater.install(repository.fetch, NOW)
    repository.publish(2)
    updater.install(repository.fetch, NOW)
    slots = Slots(tmp_path / "slots")
    path = tmp_path / "slots" / slots.active().slot / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    found = installed(tmp_path)
    assert found.manifest.version == 1
    assert "expected" in found.damaged
    report = updater.install(repository.fetch, NOW)
    assert (report.version, report.installed, report.previous_version) == (2, True, 1)
    assert installed(tmp_path).manifest.version == 2


def test_both_slots_damaged_are_repaired_by_the_same_version(tmp_path, repository):
    updater = make_updater(tmp_path, repository)
    updater.install(repository.fetch, NOW)
    (tmp_path / "slots" / "a" / "manifest.json").unlink()
    with pytest.raises(ArtifactRejected, match="cannot be read"):
        installed(tmp_path)
    assert updater.install(repository.fetch, NOW).installed
    assert installed(tmp_path).manifest.version == 1


def test_leftovers_of_a_killed_process_are_swept(tmp_path, repository):
    updater = make_updater(tmp_path, repository)
    updater.install(repository.fetch, NOW)
    (tmp_path / "metadata" / "tmpabc123").write_bytes(b"half")
    (tmp_path / "metadata" / "download").write_bytes(b"half")
    updater.install(repository.fetch, NOW)
    names = {path.name for path in (tmp_path / "metadata").iterdir()}
    assert not {"tmpabc123", "download"} & names


def test_many_devices_share_sessions(tmp_path, repository):
    cache = SessionCache(2)
    for number in range(20):
        make_updater(tmp_path / str(number), repository, cache=cache).install(repository.fetch, NOW)
    assert len(cache) == 1


def test_manifest_is_kept_as_signed(tmp_path, repository):
    make_updater(tmp_path, repository).install(repository.fetch, NOW)
    kept = (tmp_path / "slots" / "a" / "manifest.json").read_bytes()
    assert kept == repository.files[repository.place(current_path())]
    assert json.loads(kept)["version"] == 1


def test_settings_have_no_hidden_bounds():
    with pytest.raises(TypeError):
        UpdateSettings()
