"""Two slots on disk: swap, roll back, damage, full disk, and kill -9 at any point."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import stat
import time
from pathlib import Path

import numpy as np
import pytest

from fedinfer.errors import ArtifactRejected, NoModel, Rollback, StoreError
from fedinfer.inference.install.installed import open_installed
from fedinfer.inference.install.slots import MAX_POINTER_BYTES, POINTER, Pointer, Slots, read_pointer
from fedinfer.inference.install.updater import Updater
from fedinfer.inference.predict.session import SessionCache
from fedinfer.manifest import model_path
from fedinfer.system import FrozenClock
from tests.unit.inference.device_world import NOW, SETTINGS, Repository, make_model, make_rows, softmax_of


def put(slots, version, data=b"model"):
    staged = slots.stage(version, "float", {"model.onnx": data + b"%d" % version})
    slots.swap(staged)
    return staged


def test_empty_folder_has_no_model(tmp_path):
    slots = Slots(tmp_path / "new" / "slots")
    assert slots.active() is None
    assert slots.load() is None
    assert slots.pointer() == Pointer()


def test_stage_changes_nothing_until_swap(tmp_path):
    slots = Slots(tmp_path)
    put(slots, 1)
    staged = slots.stage(2, "int8", {"model.onnx": b"two"})
    assert slots.active().version == 1
    assert slots.load().files == {"model.onnx": b"model1"}
    slots.swap(staged)
    assert slots.active() == staged
    assert slots.pointer().previous.version == 1
    assert slots.load().files == {"model.onnx": b"two"}


def test_versions_alternate_between_two_slots(tmp_path):
    slots = Slots(tmp_path)
    assert [put(slots, version).slot for version in (1, 2, 3, 4)] == ["a", "b", "a", "b"]


def test_old_files_do_not_leak_into_a_new_version(tmp_path):
    slots = Slots(tmp_path)
    slots.swap(slots.stage(1, "float", {"model.onnx": b"1", "extra": b"x"}))
    put(slots, 2)
    put(slots, 3)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["model.onnx"]


def test_another_process_sees_the_swap(tmp_path):
    reader, writer = Slots(tmp_path), Slots(tmp_path)
    put(writer, 1)
    assert reader.active().version == 1


def test_rollback_returns_and_withdraws(tmp_path):
    slots = Slots(tmp_path)
    put(slots, 1)
    put(slots, 2)
    assert slots.rollback().version == 1
    assert slots.pointer().withdrawn == (2,)
    assert slots.load().files == {"model.onnx": b"model1"}
    with pytest.raises(Rollback, match="version 2"):
        slots.stage(2, "float", {"model.onnx": b"again"})
    with pytest.raises(ArtifactRejected, match="no previous"):
        slots.rollback()


def test_rollback_to_a_damaged_version_changes_nothing(tmp_path):
    slots = Slots(tmp_path)
    put(slots, 1)
    put(slots, 2)
    (tmp_path / "a" / "model.onnx").write_bytes(b"rotten")
    with pytest.raises(ArtifactRejected, match="digest"):
        slots.rollback()
    assert slots.active().version == 2


def test_staging_gives_up_the_previous_version_honestly(tmp_path):
    slots = Slots(tmp_path)
    put(slots, 1)
    put(slots, 2)
    slots.stage(3, "float", {"model.onnx": b"3"})
    assert slots.pointer().previous is None
    assert slots.active().version == 2


def test_damaged_active_slot_serves_the_previous_one(tmp_path):
    slots = Slots(tmp_path)
    put(slots, 1)
    put(slots, 2)
    (tmp_path / "b" / "model.onnx").unlink()
    loaded = slots.load()
    assert loaded.info.version == 1
    assert "cannot be read" in loaded.damaged
    slots.settle(loaded)
    assert slots.active().version == 1
    assert put(slots, 3).slot == "b"


def test_nothing_usable_is_said(tmp_path):
    slots = Slots(tmp_path)
    put(slots, 1)
    (tmp_path / "a" / "model.onnx").write_bytes(b"")
    with pytest.raises(ArtifactRejected, match="0 bytes"):
        slots.load()


def test_full_disk_while_staging_empties_the_idle_slot(tmp_path):
    def flush(descriptor):
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and status.st_size > 4096:
            raise OSError(28, "No space left on device")

    slots = Slots(tmp_path, flush)
    put(slots, 1)
    with pytest.raises(StoreError, match="No space left"):
        slots.stage(2, "float", {"model.onnx": bytes(4097)})
    assert not (tmp_path / "b").exists()
    assert slots.active().version == 1
    put(slots, 3)
    assert slots.active().version == 3


def test_full_disk_while_swapping_keeps_the_old_model(tmp_path, monkeypatch):
    slots = Slots(tmp_path)
    put(slots, 1)
    staged = slots.stage(2, "float", {"model.onnx": b"2"})

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StoreError, match="No space left"):
        slots.swap(staged)
    assert Slots(tmp_path).active().version == 1


def test_what_is_flushed_is_whole(tmp_path):
    """A file that is flushed while Python still holds its bytes is empty after a power cut."""
    sizes = []

    def flush(descriptor):
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode):
            sizes.append(found.st_size)
        os.fsync(descriptor)

    slots = Slots(tmp_path, flush)
    put(slots, 1, b"m" * 99)
    assert sizes == [100, (tmp_path / POINTER).stat().st_size]


def test_everything_is_flushed_before_the_pointer_moves(tmp_path, monkeypatch):
    events = []
    slots = Slots(tmp_path, lambda descriptor: events.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append("replace"), real(a, b)))
    put(slots, 1)
    names = [Path(event).name for event in events]
    assert names == ["model.onnx", "a", tmp_path.name, POINTER + ".new", "replace", tmp_path.name]


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        Slots(tmp_path / "file" / "slots")


def test_a_pointer_that_cannot_be_read_is_a_typed_error(tmp_path):
    """A damaged disk, or somebody else's file: not the same as no model."""
    put(Slots(tmp_path), 1)
    (tmp_path / POINTER).unlink()
    (tmp_path / POINTER).mkdir()
    with pytest.raises(StoreError, match=POINTER):
        Slots(tmp_path).active()


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(format=2),
        lambda d: d.pop("active"),
        lambda d: d.update(withdrawn=[True]),
        lambda d: d.update(withdrawn="x"),
        lambda d: d["active"].update(slot="../c"),
        lambda d: d["active"].update(version="1"),
        lambda d: d["active"].update(sha256={"../../etc/passwd": "00"}),
        lambda d: d["active"].update(sha256={"a\0b": "00"}),
        lambda d: d["active"].update(sha256={"..": "00"}),
        lambda d: d["active"].update(sha256={"": "00"}),
        lambda d: d["active"].update(sha256=["model.onnx"]),
        lambda d: d.update(active=7),
    ],
)
def test_bad_pointer_is_a_typed_error(tmp_path, change):
    put(Slots(tmp_path), 1)
    document = json.loads((tmp_path / POINTER).read_text())
    change(document)
    with pytest.raises(StoreError, match=r"pointer\.json"):
        read_pointer(json.dumps(document).encode())


def test_huge_pointer_is_refused():
    with pytest.raises(StoreError, match="at most"):
        read_pointer(b" " * (MAX_POINTER_BYTES + 1))


def test_two_writers(tmp_path):
    slots = Slots(tmp_path)
    with slots.exclusive(), pytest.raises(StoreError, match="another process"), Slots(tmp_path).exclusive():
        pass
    with slots.exclusive():
        pass


def device(folder, repository, cache):
    return Updater(
        Slots(folder / "slots"), repository.trusted_root, folder / "metadata", SETTINGS, FrozenClock(NOW), cache
    )


def install_until_killed(folder, repository, cache):
    """The life of a child process: install whatever is new, tell the parent by a file, and wait for the signal."""
    try:
        device(folder, repository, cache).install(repository.fetch, NOW)
        (folder / "done").touch()
        signal.pause()
    finally:
        os._exit(1)


@pytest.mark.parametrize(
    "points", [pytest.param(60, marks=pytest.mark.slow), pytest.param(200, marks=pytest.mark.soak)]
)
def test_kill_9_at_random_points_leaves_a_working_model(tmp_path, points):
    """Real processes, real fsync. The longest delay follows the speed of the machine, so about half of them finish."""
    repository, cache = Repository(), SessionCache(4)
    repository.publish(1)
    device(tmp_path, repository, cache).install(repository.fetch, NOW)
    rng, longest_seconds, killed_at_work, finished = random.Random(7), 0.05, 0, 0
    rows, active = make_rows(count=4), 1
    for version in range(2, 2 + points):
        repository.publish_patch(version, active) if version % 2 else repository.publish(version)
        (tmp_path / "done").unlink(missing_ok=True)
        child = os.fork()
        if child == 0:
            install_until_killed(tmp_path, repository, cache)
        time.sleep(rng.uniform(0, longest_seconds))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        done = (tmp_path / "done").exists()
        longest_seconds *= 0.9 if done else 1.1
        finished, killed_at_work = finished + done, killed_at_work + (not done)
        found = open_installed(Slots(tmp_path / "slots"), cache)
        assert found.damaged == ""
        assert found.manifest.version == found.info.version
        active = found.info.version
        assert not done or found.manifest.version == version
        expected = softmax_of(make_model(seed=found.manifest.version), rows)
        np.testing.assert_allclose(found.predictor.predict(rows).probabilities, expected, atol=1e-5)
    assert killed_at_work > points / 4  # the signals hit the work, not only its end
    assert finished > points / 4  # and many installs got through
    repository.publish(300)
    assert device(tmp_path, repository, cache).install(repository.fetch, NOW).version == 300


@pytest.mark.parametrize("steps", range(14))
@pytest.mark.parametrize("way", ["whole", "patch"])
def test_kill_9_before_each_step_to_the_disk(tmp_path, steps, way):
    """Every flush and every replacement of an install, one after another, is the last thing a process wanted to do."""
    repository, cache = Repository(), SessionCache(4)
    for version in (1, 2):
        repository.publish(version)
        device(tmp_path, repository, cache).install(repository.fetch, NOW)
    if way == "patch":
        repository.publish_patch(3, old=2)
        del repository.files[repository.place(model_path(3))]  # there is no other way
    else:
        repository.publish(3)
    child = os.fork()
    if child == 0:
        die_after(steps)
        install_until_killed(tmp_path, repository, cache)
    while not (tmp_path / "done").exists() and os.waitpid(child, os.WNOHANG) == (0, 0):
        time.sleep(0.001)
    if (tmp_path / "done").exists():
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    found = open_installed(Slots(tmp_path / "slots"), cache)
    assert found.damaged == ""
    assert found.manifest.version in ((3,) if (tmp_path / "done").exists() else (2, 3))
    report = device(tmp_path, repository, cache).install(repository.fetch, NOW)
    assert report.version == 3


def die_after(steps):
    """In a child: kill this process at the step after so many calls of fsync, replace and rmtree."""
    left = [steps]

    def counted(real):
        def call(*args, **kwargs):
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return real(*args, **kwargs)

        return call

    Slots.__init__.__defaults__ = (counted(os.fsync),)
    os.replace, shutil.rmtree = counted(os.replace), counted(shutil.rmtree)


def test_the_only_version_is_withdrawn_to_nothing_and_stays_refused(tmp_path):
    slots = Slots(tmp_path)
    put(slots, 1)
    assert slots.withdraw(1) is None
    assert slots.withdraw(1) is None  # doing it twice does no harm
    assert slots.pointer() == Pointer(None, None, (1,))
    assert slots.load() is None
    with pytest.raises(Rollback, match="version 1 was rolled back"):
        slots.stage(1, "float", {"model.onnx": b"1"})
    put(slots, 2)
    assert slots.active().version == 2


def test_a_withdrawn_version_makes_way_for_the_one_before(tmp_path):
    slots = Slots(tmp_path)
    put(slots, 1)
    put(slots, 2)
    assert slots.withdraw(2).version == 1
    assert slots.pointer().previous is None


def test_withdrawing_the_version_before_keeps_the_active_one(tmp_path):
    slots = Slots(tmp_path)
    put(slots, 1)
    put(slots, 2)
    assert slots.withdraw(1).version == 2
    assert slots.pointer().previous is None
    assert slots.pointer().withdrawn == (1,)


def test_an_unknown_version_is_refused_from_then_on(tmp_path):
    slots = Slots(tmp_path)
    put(slots, 1)
    assert slots.withdraw(5).version == 1
    with pytest.raises(Rollback):
        slots.stage(5, "float", {"model.onnx": b"5"})


def test_without_a_model_the_error_has_a_type(tmp_path):
    slots = Slots(tmp_path)
    with pytest.raises(NoModel, match="no model is installed"):
        open_installed(slots, SessionCache(1))
    put(slots, 1)
    slots.withdraw(1)
    with pytest.raises(NoModel, match="version 1 was withdrawn"):
        open_installed(slots, SessionCache(1))


def test_files_that_nobody_keeps_are_checked_all_the_same(tmp_path):
    slots = Slots(tmp_path)
    with slots.exclusive():
        for version in (1, 2):
            slots.swap(slots.stage(version, "int8", {"model.onnx": b"model", "manifest.json": b"%d" % version}))
    assert slots.load(("manifest.json",)).files == {"manifest.json": b"2"}
    (tmp_path / slots.active().slot / "model.onnx").write_bytes(b"other")
    found = slots.load(("manifest.json",))
    assert (found.info.version, found.files) == (1, {"manifest.json": b"1"})
    assert "of 5 bytes has digest" in found.damaged
