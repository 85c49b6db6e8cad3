"""Simulated devices in equal states are worked on once; each ends with exactly what work on its own store gives."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fedinfer.errors import FedInferError, StoreError
from fedinfer.inference import EqualStores
from fedinfer.inference.install.equal_stores import _state
from fedinfer.inference.install.lock import writing
from tests.unit.inference.device_world import NOW, Repository, make_updater

DEVICES = ("d0", "d1", "d2", "d3")


def replaced(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


def older(store: Path, repository: Repository) -> None:
    """As if the disk had been restored from before the first install."""
    shutil.rmtree(store)


def damaged_model(store: Path, repository: Repository) -> None:
    replaced(store / "slots/a/model.onnx", b"rotten")


def tampered_timestamp(store: Path, repository: Repository) -> None:
    path = store / "metadata/timestamp.json"
    replaced(path, path.read_bytes().replace(b'"version":', b'"version":9'))


def unreadable_pointer(store: Path, repository: Repository) -> None:
    replaced(store / "slots/pointer.json", b"{")


def left_over(store: Path, repository: Repository) -> None:
    (store / "metadata/tmp1234").write_bytes(b"half")


CHANGES = {
    "nothing": lambda store, repository: None,
    "older": older,
    "damaged model": damaged_model,
    "tampered timestamp": tampered_timestamp,
    "unreadable pointer": unreadable_pointer,
    "left over": left_over,
}


class Fleet:
    """Stores in one folder, and what was worked on."""

    def __init__(self, folder: Path, repository: Repository) -> None:
        self.folder, self.repository = folder, repository
        self.worked: list[str] = []

    def push(self, *devices: str) -> list[str]:
        """One message to some devices: what each of them answers."""
        known = EqualStores[str]()
        return [known.carry_out(self.folder / device, self._work(device)) for device in devices]

    def _work(self, device: str) -> Callable[[], str]:
        return lambda: self.alone(self.folder / device)

    def alone(self, store: Path) -> str:
        self.worked.append(store.name)
        try:
            return str(make_updater(store, self.repository).install(self.repository.fetch, NOW))
        except FedInferError as error:
            return f"{type(error).__name__}: {str(error).replace(str(store), 'STORE')}"


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    repository = Repository()
    repository.publish(1)
    made = Fleet(tmp_path / "fleet", repository)
    made.push(*DEVICES)
    assert made.worked == ["d0"]
    return made


def states(fleet: Fleet) -> list[object]:
    return [_state(str(fleet.folder / device)) for device in DEVICES]


def test_a_first_push_gives_every_device_the_same_files(fleet: Fleet) -> None:
    first, *others = states(fleet)
    assert len(first) > 8  # type: ignore[arg-type]
    assert all(other == first for other in others)
    links = {os.stat(fleet.folder / device / "slots/a/model.onnx").st_ino for device in DEVICES}
    assert len(links) == 1
    for device in DEVICES:
        assert (fleet.folder / device / "metadata/root.json").resolve().is_relative_to(fleet.folder / device)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("published", ["a patch", "a file", "a tampered file", "nothing new", "a withdrawal"])
def test_each_device_ends_as_if_it_had_been_alone(fleet: Fleet, tmp_path: Path, change: str, published: str) -> None:
    """Two of four stores were changed, alike; what came is in order, tampered with, or takes the model away."""
    repository = fleet.repository
    for device in ("d1", "d3"):
        CHANGES[change](fleet.folder / device, repository)
    if published == "a patch":
        repository.publish_patch(2, 1)
    elif published in ("a file", "a tampered file"):
        repository.publish(2)
    elif published == "a withdrawal":
        repository.targets.unrecognized_fields["withdrawn"] = [1]
        repository.sign_all()
    if published == "a tampered file":
        place = repository.place("model/2.onnx")
        repository.files[place] = repository.files[place][:-1] + b"?"
    copies = tmp_path / "alone"
    shutil.copytree(fleet.folder, copies, symlinks=True)
    fleet.worked = []
    answers = fleet.push(*DEVICES)
    worked = list(fleet.worked)
    expected = [fleet.alone(copies / device) for device in DEVICES]
    assert answers == expected
    assert states(fleet) == [_state(str(copies / device)) for device in DEVICES]
    assert worked == (["d0"] if change == "nothing" else ["d0", "d1"])


def test_a_later_change_of_one_device_leaves_the_others_alone(fleet: Fleet) -> None:
    before = states(fleet)
    fleet.repository.publish(2)
    fleet.push("d2")
    after = states(fleet)
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, True, False, True]


def test_nothing_is_known_of_the_message_before(fleet: Fleet) -> None:
    fleet.repository.publish(2)
    fleet.worked = []
    fleet.push("d0", "d1")
    fleet.push("d2", "d3")
    assert fleet.worked == ["d0", "d2"]


def test_work_that_raises_is_done_again_for_the_next(tmp_path: Path) -> None:
    known, calls = EqualStores[None](), []

    def work() -> None:
        calls.append(1)
        raise KeyError("x")

    for device in DEVICES:
        with pytest.raises(KeyError):
            known.carry_out(tmp_path / device, work)
    assert len(calls) == len(DEVICES)


def test_a_store_that_another_process_writes_to_is_worked_on_and_says_so(fleet: Fleet) -> None:
    fleet.repository.publish(2)
    before = states(fleet)[2]
    with writing(fleet.folder / "d2/slots"):
        answers = fleet.push(*DEVICES)
    assert "another process is installing" in answers[2]
    assert answers[1] == answers[3] == answers[0]
    assert states(fleet)[2] == before


def test_where_no_link_can_be_made_files_are_copied(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """ext4 has room for 65,000 links to a file, other file systems for none."""

    def refuse(source: str, place: str) -> None:
        raise OSError(errno.EMLINK, "too many links")

    monkeypatch.setattr(os, "link", refuse)
    fleet.repository.publish(2)
    answers = fleet.push(*DEVICES)
    assert len(set(answers)) == 1
    assert len(set(states(fleet))) == 1
    assert len({os.stat(fleet.folder / device / "slots/b/model.onnx").st_ino for device in DEVICES}) == len(DEVICES)


def test_a_disk_that_refuses_is_found_by_the_work_itself(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, place: str) -> None:
        raise OSError(errno.ENOSPC, "no space")

    fleet.repository.publish(2)
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(shutil, "copyfile", refuse)
    fleet.worked = []
    fleet.push("d0", "d1")
    assert fleet.worked == ["d0", "d1"]


def test_the_lock_is_no_part_of_a_state(fleet: Fleet) -> None:
    (fleet.folder / "d1/slots/lock").unlink()
    fleet.worked = []
    fleet.repository.publish(2)
    fleet.push("d0", "d1")
    assert fleet.worked == ["d0"]
    with writing(fleet.folder / "d0/slots"), writing(fleet.folder / "d1/slots"):
        pass  # the locks of two devices are two files
    with pytest.raises(StoreError), writing(fleet.folder / "d0/slots"), writing(fleet.folder / "d0/slots"):
        pass
