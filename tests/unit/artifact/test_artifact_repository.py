"""The repository publishes, goes back, rotates keys, serves cohorts, prunes, and survives being killed half-way."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import timedelta

import onnx
import pytest

from fedinfer.artifact.release import repository as repository_module
from fedinfer.artifact.release.files import list_files, read_file, write_file
from fedinfer.artifact.release.metadata import expired_roles, load_state
from fedinfer.artifact.release.repository import Repository
from fedinfer.artifact.release.signing import Keys, load_keys
from fedinfer.errors import ArtifactRejected, BadSignature, ConfigError, GateFailed, Refusal, Rollback, StoreError
from fedinfer.manifest import Manifest
from tests.unit.artifact.workshop import Site, release


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def reopened(site: Site) -> Repository:
    return Repository(site.folder, load_keys(site.keys_folder), site.clock, site.keep)


def state_of(site: Site):
    return load_state(lambda name: read_file(site.folder / "metadata", name), site.trusted_root)


def test_a_new_repository_is_empty_and_signed(site):
    assert site.repository.newest_version == 0
    assert site.repository.versions() == ()
    assert state_of(site).root.roles["root"].threshold == 2
    assert len(state_of(site).root.roles["root"].keyids) == 3
    with pytest.raises(ArtifactRejected, match="nothing was published"):
        site.repository.bundle(1)


def test_published_files_can_be_read_back(site):
    site.publish(1, 2)
    manifest, files = release(2)
    assert site.repository.newest_version == 2
    assert site.repository.manifest(2).to_bytes() == manifest.to_bytes()
    bundle = site.repository.bundle(2)
    names = [name for name in bundle if name.startswith("targets/")]
    assert {name.split(".", 1)[1] for name in names} == {"current.json", "2.onnx"}
    for name in names:
        assert hashlib.sha256(bundle[name]).hexdigest() in name
        assert site.repository.fetch(name) == bundle[name]
    assert files["model/2.onnx"] in bundle.values()


def test_a_model_that_devices_would_refuse_is_not_signed(site):
    """Its data lies in a file: nothing is written, and the version before stays the newest."""
    site.publish(1)
    manifest, files = release(2)
    model = onnx.load_model_from_string(files["model/2.onnx"])
    weight = model.graph.initializer[0]
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="secret")
    data = model.SerializeToString()
    variant = replace(manifest.chosen, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    with pytest.raises(GateFailed) as caught:
        site.repository.publish(replace(manifest, variants=(variant,)), {"model/2.onnx": data})
    assert caught.value.refusal is Refusal.EXTERNAL_DATA
    assert site.repository.newest_version == 1


def test_a_bundle_holds_no_other_version(site):
    site.publish(1, 2)
    with pytest.raises(ArtifactRejected, match="is version 2, not 1"):
        site.repository.bundle(1)


def test_metadata_holds_no_float(site):
    site.publish(1)

    def floats(value):
        if isinstance(value, dict):
            return [found for item in value.values() for found in floats(item)]
        if isinstance(value, list):
            return [found for item in value for found in floats(item)]
        return [value] if isinstance(value, float) else []

    for name in list_files(site.folder / "metadata"):
        assert floats(json.loads((site.folder / "metadata" / name).read_bytes())) == []


def test_same_seed_and_time_give_the_same_bytes(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = Site(tmp_path / "a"), Site(tmp_path / "b")
    for site in (first, second):
        site.publish(1)
    assert first.repository.bundle(1) == second.repository.bundle(1)


@pytest.mark.parametrize("version", [1, 2])
def test_versions_only_grow(site, version):
    site.publish(2)
    with pytest.raises(Rollback, match="is not newer than 2"):
        site.publish(version)


def test_files_must_be_those_of_the_manifest(site):
    manifest, files = release(1)
    path = manifest.chosen.path
    for wrong, rule in (
        ({}, "is missing"),
        ({**files, "model/other.onnx": b"x"}, "not named by the manifest"),
        ({path: files[path][:-1]}, "differ from the manifest"),
        ({path: files[path][:-1] + b"!"}, "differ from the manifest"),
    ):
        with pytest.raises(ArtifactRejected, match=rule):
            site.repository.publish(manifest, wrong)
    assert site.repository.newest_version == 0


def test_going_back_is_a_new_version_with_the_old_bytes(site):
    site.publish(1, 2)
    again = site.repository.reissue(1, site.clock.now())
    assert again.version == 3
    assert again.chosen.sha256 == release(1)[0].chosen.sha256
    assert again.parent_sha256 == release(2)[0].chosen.sha256
    assert release(1)[1]["model/1.onnx"] in site.repository.bundle(3).values()
    with pytest.raises(ArtifactRejected, match="never published"):
        site.repository.reissue(9, site.clock.now())


def test_everything_survives_a_restart(site):
    site.publish(1, 2)
    site.repository.add_cohort("east", site.entropy)
    site.repository.offer("east", 1)
    again = reopened(site)
    assert (again.versions(), again.cohorts(), again.root_version) == ((1, 2), ("east",), 1)
    assert again.bundle(1, "east") == site.repository.bundle(1, "east")
    again.publish(*release(3))
    assert again.newest_version == 3


def test_a_cohort_follows_its_own_pointer(site):
    site.publish(1, 2)
    site.repository.add_cohort("east", site.entropy)
    site.repository.offer("east", 1)
    bundle = site.repository.bundle(1, "east")
    assert any(name.endswith("cohort-east.json") for name in bundle)
    assert release(1)[1]["model/1.onnx"] in bundle.values()
    site.repository.offer("east", 2)
    assert release(2)[1]["model/2.onnx"] in site.repository.bundle(2, "east").values()
    with pytest.raises(Rollback, match="was offered version 2, not 1"):
        site.repository.offer("east", 1)


def test_cohort_names_are_checked(site):
    site.repository.add_cohort("east", site.entropy)
    for name in ("east", "", "Ost", "a/b", "../x", "a" * 65):
        with pytest.raises(ConfigError, match="exists already, or its name"):
            site.repository.add_cohort(name, site.entropy)
    with pytest.raises(ConfigError, match="no cohort 'west'"):
        site.repository.offer("west", 1)
    with pytest.raises(ArtifactRejected, match="nothing was published as cohort/west"):
        site.repository.bundle(1, "west")


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp"])
def test_rotation_of_every_role_keeps_the_chain(site, role):
    site.publish(1)
    before = state_of(site).root.roles[role].keyids
    site.repository.rotate(role, site.entropy)
    site.publish(2)
    after = state_of(site).root.roles[role].keyids
    assert len(set(before) - set(after)) == 1
    assert len(after) == len(before)
    assert reopened(site).newest_version == 2
    names = [name for name in site.repository.bundle(2) if name.endswith(".root.json")]
    assert names == ["metadata/2.root.json"]
    assert site.repository.bundle(2, from_root_version=2).keys().isdisjoint(names)


def test_rotating_all_root_keys_one_after_another_keeps_the_chain(site):
    first = set(state_of(site).root.roles["root"].keyids)
    for _ in range(3):
        site.repository.rotate("root", site.entropy)
    assert first.isdisjoint(state_of(site).root.roles["root"].keyids)


def test_one_root_key_cannot_rotate_and_changes_nothing(site):
    keys = load_keys(site.keys_folder)
    alone = Repository(site.folder, keys.with_role("root", keys.of("root")[:1]), site.clock, site.keep)
    before = {name: read_file(site.folder, name) for name in list_files(site.folder)}
    with pytest.raises(BadSignature, match="root"):
        alone.rotate("targets", site.entropy)
    assert {name: read_file(site.folder, name) for name in list_files(site.folder)} == before


def test_a_server_without_root_keys_can_publish_but_not_rotate(site):
    keys = load_keys(site.keys_folder)
    online = Keys({role: signers for role, signers in keys.signers.items() if role != "root"})
    repository = Repository(site.folder, online, site.clock, lambda keys: None)
    repository.publish(*release(1))
    with pytest.raises(ConfigError, match="no key for role 'root'"):
        repository.rotate("timestamp", site.entropy)


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


@pytest.mark.parametrize("survived", range(5))
def test_a_killed_publish_never_happened_or_happened(site, monkeypatch, survived):
    site.publish(1)
    _kill_after(monkeypatch, survived)
    with pytest.raises(Killed):
        site.publish(2)
    monkeypatch.undo()
    again = reopened(site)
    assert again.versions() == (1,)
    again.publish(*release(2))
    assert reopened(site).versions() == (1, 2)


@pytest.mark.parametrize("role", ["root", "targets", "timestamp"])
@pytest.mark.parametrize("survived", range(4))
def test_a_killed_rotation_leaves_a_working_repository(site, monkeypatch, role, survived):
    site.publish(1)
    _kill_after(monkeypatch, survived)
    try:
        site.repository.rotate(role, site.entropy)
    except Killed:
        pass
    monkeypatch.undo()
    again = reopened(site)
    again.publish(*release(2))
    assert reopened(site).versions() == (1, 2)
    assert state_of(site).root.version == again.root_version


def _kill_after(monkeypatch, writes: int) -> None:
    left = [writes]

    def dying(folder, name, data):
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        write_file(folder, name, data)

    monkeypatch.setattr(repository_module, "write_file", dying)


def test_a_full_disk_leaves_the_version_before(site, monkeypatch):
    site.publish(1)
    written = []

    def full(folder, name, data):
        written.append(name)
        if len(written) == 3:
            raise StoreError("No space left on device")
        write_file(folder, name, data)

    monkeypatch.setattr(repository_module, "write_file", full)
    with pytest.raises(StoreError):
        site.publish(2)
    monkeypatch.undo()
    assert site.repository.versions() == (1,)
    site.publish(2)
    assert site.repository.versions() == (1, 2)


def test_pruning_deletes_old_files_and_keeps_what_a_cohort_runs(site):
    site.publish(1, 2, 3, 4)
    site.repository.add_cohort("east", site.entropy)
    site.repository.offer("east", 2)
    assert site.repository.prune(1) == (1, 3)
    assert site.repository.versions() == (2, 4)
    names = list_files(site.folder / "targets")
    assert {name.split(".", 1)[1] for name in names if name.startswith("model/")} == {
        "2.json", "2.onnx", "4.json", "4.onnx", "current.json",
    }  # fmt: skip
    assert site.repository.bundle(4)
    assert site.repository.bundle(2, "east")
    assert reopened(site).versions() == (2, 4)
    assert site.repository.prune(1) == ()


def test_pruned_metadata_does_not_grow(site):
    for version in range(1, 13):
        site.publish(version)
        site.repository.prune(2)
    assert len(list_files(site.folder / "metadata")) == 4
    assert sum(map(len, site.repository.bundle(12).values())) < 10_000


def test_expired_metadata_is_renewed(site):
    site.publish(1)
    assert expired_roles(state_of(site), site.clock.now()) == ()
    site.clock.advance(timedelta(days=8).total_seconds())
    assert expired_roles(state_of(site), site.clock.now()) == ("timestamp", "snapshot")
    site.repository.renew()
    assert expired_roles(state_of(site), site.clock.now()) == ()


def test_fetch_stays_inside_the_repository(site):
    (site.folder / "secret").write_text("x")
    assert site.repository.fetch("secret") is None
    assert site.repository.fetch("metadata/nothing.json") is None
    assert site.repository.fetch("metadata") is None
    for path in ("metadata/../secret", "targets/../../keys/root.0.key", "metadata/\0x", "metadata/..\\x"):
        with pytest.raises(ArtifactRejected, match="no file name"):
            site.repository.fetch(path)


def test_manifest_on_disk_is_what_was_signed(site):
    site.publish(1)
    path = next(path for path in (site.folder / "targets").rglob("*.1.json"))
    document = Manifest.from_bytes(path.read_bytes())
    path.write_bytes(path.read_bytes().replace(b'"top":0', b'"top":1'))
    assert document.top == 0
    with pytest.raises(BadSignature, match="was changed on disk"):
        site.repository.manifest(1)
    path.unlink()
    with pytest.raises(ArtifactRejected, match="its file is missing"):
        site.repository.manifest(1)


# --- withdrawn versions ---


def test_a_withdrawn_version_is_signed_no_more_and_its_number_is_gone(site):
    site.publish(1)
    files = set(list_files(site.folder / "targets"))
    site.repository.withdraw(1)
    assert files
    assert not list_files(site.folder / "targets")
    again = reopened(site)
    assert (again.versions(), again.withdrawn(), again.newest_version) == ((), (1,), 1)
    with pytest.raises(ArtifactRejected, match="nothing was published"):
        again.bundle(1)
    with pytest.raises(ArtifactRejected):
        again.reissue(1, site.clock.now())
    with pytest.raises(Rollback, match="version 1 is not newer than 1"):
        again.publish(*release(1))
    again.publish(*release(2))
    assert reopened(site).withdrawn() == (1,)
    assert state_of(site).targets.unrecognized_fields == {"withdrawn": [1]}


def test_what_another_process_withdrew_stays_withdrawn_whatever_this_one_signs(site):
    """A coordinator that was open signed it away: its list of targets came from before the operator's command."""
    site.publish(1, 2)
    reopened(site).withdraw(1)
    assert site.repository.versions() == (2,)
    with pytest.raises(ArtifactRejected):
        site.repository.reissue(1, site.clock.now())
    site.publish(3)
    assert site.repository.withdrawn() == reopened(site).withdrawn() == (1,)
    reopened(site).renew()
    site.publish(4)
    assert reopened(site).versions() == (2, 3, 4)


def test_of_two_that_sign_at_once_one_is_refused(site, monkeypatch):
    """It read what is signed, and another process signed before it wrote."""
    site.publish(1, 2)
    operator, add = reopened(site), Repository._add

    def slow(repository, *arguments):
        operator.withdraw(1)
        add(repository, *arguments)

    monkeypatch.setattr(Repository, "_add", slow)
    with pytest.raises(StoreError, match="another process signed meanwhile"):
        site.publish(3)
    monkeypatch.undo()
    assert site.repository.withdrawn() == (1,)
    site.publish(3)
    assert reopened(site).versions() == (2, 3)


def test_withdrawing_twice_signs_nothing_new(site):
    site.publish(1, 2)
    site.repository.withdraw(2)
    before = site.repository.metadata()
    site.repository.withdraw(2)
    assert site.repository.metadata() == before
    assert set(before) <= set(site.repository.metadata(from_root_version=0))


@pytest.mark.parametrize("version", [-1, 0, 3])
def test_what_was_never_published_cannot_be_withdrawn(site, version):
    site.publish(1, 2)
    with pytest.raises(ArtifactRejected, match="never published, the newest is 2"):
        site.repository.withdraw(version)
    assert site.repository.withdrawn() == ()


def test_a_pruned_version_can_be_withdrawn_because_devices_may_run_it(site):
    site.publish(1, 2, 3)
    assert site.repository.prune(1) == (1, 2)
    site.repository.withdraw(1)
    assert reopened(site).withdrawn() == (1,)
    assert reopened(site).versions() == (3,)


def test_a_cohort_loses_a_withdrawn_version_and_never_goes_below_it(site):
    site.publish(1, 2, 3)
    for cohort, version in (("east", 2), ("west", 1)):
        site.repository.add_cohort(cohort, site.entropy)
        site.repository.offer(cohort, version)
    site.repository.withdraw(2)
    again = reopened(site)
    with pytest.raises(ArtifactRejected, match="nothing was published as cohort/east"):
        again.bundle(2, cohort="east")
    assert again.bundle(1, cohort="west")
    with pytest.raises(Rollback, match="was offered version 2, not 1"):
        again.offer("east", 1)
    again.offer("east", 3)


def test_going_back_after_a_withdrawal_takes_the_next_number(site):
    site.publish(1, 2)
    site.repository.withdraw(2)
    assert site.repository.reissue(1, site.clock.now()).version == 3
    assert site.repository.versions() == (1, 3)


@pytest.mark.parametrize("files", [0, 1, 2])
def test_a_withdrawal_that_is_killed_half_way_never_happened(site, monkeypatch, files):
    """`timestamp.json` is written last; before it, devices and a new process see the version as it was."""
    site.publish(1)
    left = iter(range(files))

    def dies(folder, name, data):
        if next(left, None) is None:
            raise StoreError("killed")
        write_file(folder, name, data)

    monkeypatch.setattr(repository_module, "write_file", dies)
    with pytest.raises(StoreError):
        site.repository.withdraw(1)
    monkeypatch.setattr(repository_module, "write_file", write_file)
    again = reopened(site)
    assert (again.versions(), again.withdrawn()) == ((1,), ())
    again.withdraw(1)
    assert reopened(site).withdrawn() == (1,)
