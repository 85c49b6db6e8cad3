"""The device against the repository that ships: bundles, deltas, cohorts, rotated keys, going back."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from fedinfer.artifact.release.delta import add_deltas
from fedinfer.artifact.release.repository import Repository
from fedinfer.artifact.release.signing import Role, generate_keys
from fedinfer.errors import ArtifactRejected, BadSignature, Rollback, TransportError
from fedinfer.inference.install.installed import open_installed
from fedinfer.inference.install.slots import Slots
from fedinfer.inference.install.updater import Updater
from fedinfer.inference.predict.session import SessionCache
from fedinfer.system import FrozenClock, SimulatedEntropy
from tests.unit.inference.device_world import NOW, SETTINGS, make_manifest, make_model, make_rows, softmax_of
from tests.unit.inference.device_world import Repository as Signer

SETTINGS_NORTH = replace(SETTINGS, cohort="north")


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


# --- withdrawn versions ---


def test_a_withdrawn_version_makes_way_for_the_one_before_it(tmp_path):
    world = World(tmp_path)
    for version in (1, 2):
        world.publish(version)
        world.install(world.bundle(version))
    world.repository.withdraw(2)
    report = world.device.install(world.repository.fetch, NOW)
    assert (report.version, report.installed, report.withdrawn) == (1, False, (2,))
    assert world.serves(1)
    with pytest.raises(ArtifactRejected, match="nothing was published"):
        world.bundle(2)
    assert world.repository.reissue(1, NOW).version == 3
    assert world.device.install(world.repository.fetch, NOW).version == 3
    assert world.serves(1)


def test_versions_still_grow_on_a_device_without_a_model(tmp_path):
    """A cohort may lag behind the fleet, so version 1 is in order there, but not where version 2 was."""
    world = World(tmp_path, cohort="north")
    world.repository.add_cohort("north", world.entropy)
    world.publish(1)
    world.publish(2)
    world.repository.offer("north", 2)
    world.install(world.bundle(2, cohort="north"))
    world.repository.withdraw(2)
    assert world.device.install(world.repository.fetch, NOW).version == 0
    with pytest.raises(Rollback, match="was offered version 2, not 1"):
        world.repository.offer("north", 1)
    older = World(tmp_path / "older", cohort="north")
    older.repository.add_cohort("north", older.entropy)
    older.publish(1)
    older.repository.offer("north", 1)
    older.device = Updater(
        world.slots, older.repository.trusted_root(), tmp_path / "fresh", SETTINGS_NORTH, world.clock, SessionCache(1)
    )
    with pytest.raises(Rollback, match="version 1 is offered, version 2 was here and is withdrawn"):
        older.device.install(older.repository.fetch, NOW)


def test_a_signer_that_offers_what_it_withdrew_is_refused(tmp_path):
    server = Signer()
    slots = Slots(tmp_path / "slots", flush=lambda descriptor: None)
    device = Updater(slots, server.trusted_root, tmp_path / "metadata", SETTINGS, FrozenClock(NOW), SessionCache(1))
    server.targets.unrecognized_fields["withdrawn"] = [1]
    server.publish(1)
    with pytest.raises(Rollback, match="offered and withdrawn at once"):
        device.install(server.fetch, NOW)
    assert slots.active() is None


@pytest.mark.parametrize("found", ["1", [0], [True], [2, 1], [1, 1], {"1": 1}, [2**31], None])
def test_a_list_that_is_none_is_refused_even_when_signed(tmp_path, found):
    server = Signer()
    slots = Slots(tmp_path / "slots", flush=lambda descriptor: None)
    device = Updater(slots, server.trusted_root, tmp_path / "metadata", SETTINGS, FrozenClock(NOW), SessionCache(1))
    server.publish(1)
    device.install(server.fetch, NOW)
    server.targets.unrecognized_fields["withdrawn"] = found
    server.sign_all()
    with pytest.raises(BadSignature, match="list of withdrawn versions"):
        device.withdraw(server.fetch, NOW)
    assert slots.active().version == 1


CHILD = """
import os, signal, sys
from datetime import datetime
from pathlib import Path
from fedinfer.inference.install import slots as module
from fedinfer.inference.predict.session import SessionCache
from fedinfer.inference.install.tuf_channel import folder_fetch
from fedinfer.inference.install.updater import UpdateSettings, Updater
from fedinfer.system import SystemClock

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

folder, point, now = Path(sys.argv[1]), sys.argv[2], datetime.fromisoformat(sys.argv[3])
slots, root = module.Slots(folder / "slots"), (folder / "server/metadata/1.root.json").read_bytes()
if point == "before the pointer":
    module.Slots.withdraw = die
elif point == "half of the pointer":
    write = module.Slots._write
    module.Slots._write = lambda self, path, data: die(write(self, path, data[: len(data) // 2]))
elif point == "before it moves":  # python-tuf replaces its own files the same way, and those are done by then
    move = os.replace
    os.replace = lambda new, old: die() if Path(old).name == module.POINTER else move(new, old)
updater = Updater(slots, root, folder / "metadata", UpdateSettings(1e6, 3600.0), SystemClock(), SessionCache(1))
updater.withdraw(folder_fetch(folder / "server"), now)
die()
"""


@pytest.mark.parametrize("point", ["before the pointer", "half of the pointer", "before it moves", "before the answer"])
def test_kill_9_while_a_version_is_withdrawn(tmp_path, point):
    """The old state or the new one; the next look at the repository, which brings nothing new, finishes it."""
    world = World(tmp_path)
    world.publish(1)
    world.install(world.bundle(1))
    world.repository.withdraw(1)
    killed = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path), point, NOW.isoformat()], capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    pointer = world.slots.pointer()
    if point == "before the answer":
        assert (pointer.active, pointer.withdrawn) == (None, (1,))
    else:
        assert (pointer.active.version, pointer.withdrawn) == (1, ())
        assert world.serves(1)
        trusted = json.loads((tmp_path / "metadata" / "targets.json").read_text())
        assert trusted["signed"]["withdrawn"] == [1], "the list is kept already, and nothing new comes"
    assert world.device.withdraw(world.repository.metadata().get, NOW) == (1,)
    assert (world.slots.active(), world.slots.pointer().withdrawn) == (None, (1,))
    assert world.slots.load() is None
    world.publish(2)
    assert world.install(world.bundle(2)).version == 2
