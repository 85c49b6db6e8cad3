"""The device against the repository that ships: bundles, deltas, cohorts, rotated keys, going back."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from fedinfer.artifact.delta import add_deltas
from fedinfer.artifact.repository import Repository
from fedinfer.artifact.signing import Role, generate_keys
from fedinfer.errors import BadSignature, TransportError
from fedinfer.inference.installed import open_installed
from fedinfer.inference.session import SessionCache
from fedinfer.inference.slots import Slots
from fedinfer.inference.updater import Updater
from fedinfer.system import FrozenClock, SimulatedEntropy
from tests.unit.inference.device_world import NOW, SETTINGS, make_manifest, make_model, make_rows, softmax_of


class World:
    """A server and one device, with a clock for both."""

    def __init__(self, folder, cohort=""):
        self.clock, self.entropy = FrozenClock(NOW), SimulatedEntropy("device with repository")
        keys = generate_keys(self.entropy)
        self.repository = Repository(folder / "server", keys, self.clock, lambda keys: None)
        self.slots = Slots(folder / "slots", flush=lambda descriptor: None)
        settings = SETTINGS if not cohort else type(SETTINGS)(1e6, 3600, cohort)
        root = self.repository.trusted_root()
        self.device = Updater(self.slots, root, folder / "metadata", settings, self.clock, SessionCache(4))

    def publish(self, version):
        model = make_model(seed=version)
        manifest = make_manifest(version, {"float": model})
        files = {manifest.chosen.path: model}
        before = self.repository.model_files(version - 1)
        self.repository.publish(*add_deltas(manifest, files, manifest.variants, [before]))

    def bundle(self, version, **more):
        active = self.slots.active()
        digest = active.sha256["model.onnx"] if active else ""
        return self.repository.bundle(version, active_sha256=digest, **more)

    def install(self, files):
        return self.device.install(files.get, self.clock.now())

    def serves(self, seed):
        rows = make_rows(count=3)
        found = open_installed(self.slots, SessionCache(1)).predictor.predict(rows).probabilities
        return np.allclose(found, softmax_of(make_model(seed=seed), rows), atol=1e-5)


def test_bundle_after_bundle_with_patches(tmp_path):
    world = World(tmp_path)
    for version in (1, 2, 3):
        world.publish(version)
        report = world.install(world.bundle(version))
        assert (report.version, report.installed) == (version, True)
        assert world.serves(version)
    assert report.delta
    assert report.received_bytes < 40_000


def test_fetching_file_by_file_gives_the_same(tmp_path):
    world = World(tmp_path)
    world.publish(1)
    assert world.device.install(world.repository.fetch, NOW).version == 1
    assert world.serves(1)


def test_cohort_bundle_and_a_device_of_another_cohort(tmp_path):
    world = World(tmp_path, cohort="north")
    world.publish(1)
    world.repository.add_cohort("north", world.entropy)
    world.repository.add_cohort("south", world.entropy)
    world.publish(2)
    world.repository.offer("north", 1)
    world.repository.offer("south", 2)
    assert world.install(world.bundle(1, cohort="north")).version == 1
    with pytest.raises(TransportError):
        world.install(world.bundle(2, cohort="south"))
    assert world.serves(1)


def test_rotated_keys_are_followed(tmp_path):
    world = World(tmp_path)
    world.publish(1)
    world.install(world.bundle(1))
    for role in (Role.ROOT, Role.TARGETS, Role.SNAPSHOT, Role.TIMESTAMP):
        world.repository.rotate(role, world.entropy)
    world.publish(2)
    assert world.install(world.bundle(2)).version == 2


def test_old_bytes_under_a_new_version_take_the_fleet_back(tmp_path):
    world = World(tmp_path)
    for version in (1, 2):
        world.publish(version)
        world.install(world.bundle(version))
    world.repository.reissue(1, datetime(2030, 5, 1, tzinfo=UTC))
    report = world.install(world.bundle(3))
    assert (report.version, report.previous_version) == (3, 2)
    assert world.serves(1)


def test_bundle_that_waited_too_long_is_refused(tmp_path):
    world = World(tmp_path)
    world.publish(1)
    files = world.bundle(1)
    world.clock.advance(400 * 86_400)
    with pytest.raises(BadSignature, match="expired"):
        world.install(files)
    assert world.slots.active() is None
