"""The server side of the update channel: a TUF repository in two folders, `metadata/` and `targets/`.

Rules:
* versions only grow; to go back, old bytes are published under a new version (`reissue`);
* root needs its threshold of keys; a rotated root is signed by the old and by the new keys;
* root may be signed elsewhere: a server takes the first one (`root`) and each later one (`adopt`) as bytes;
* new keys are kept before they are used, and until the new root is written everything is signed by old and new;
* files are written first, `timestamp.json` last and atomically: a publish that is killed half-way never happened;
* targets carry their digest in the file name (consistent snapshots), so a device sees one state or the other;
* old versions are pruned, because every device downloads the list of all targets;
* a withdrawn version is signed no more, and the list of targets itself names it, so nobody can keep that from a device;
* metadata holds no floats (canonical JSON), so figures are in the manifest, which is a target itself.

Source: The Update Framework Specification 1.0.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from tuf.api.metadata import Targets

from fedinfer.artifact.release.bundle import Wanted, bundle_files, metadata_files
from fedinfer.artifact.release.delta import add_deltas
from fedinfer.artifact.release.files import read_file, write_file
from fedinfer.artifact.release.metadata import State, Validity, advance, first_state, load_root, sign_files
from fedinfer.artifact.release.releases import check_release, reissued
from fedinfer.artifact.release.root import RootChange, delegate, named_by, next_root, signed_root, starting_root
from fedinfer.artifact.release.shared import TIMESTAMP, SharedState
from fedinfer.artifact.release.signing import ONLINE, Keys, Role, new_signer
from fedinfer.artifact.release.targets import (
    COHORT,
    FOLDER,
    METADATA_FOLDER,
    drop_version,
    keep_versions,
    list_target,
    read_target,
    sweep,
    versions_of,
    withdrawn_in,
)
from fedinfer.errors import ArtifactRejected, BadSignature, ConfigError, Rollback
from fedinfer.manifest import Manifest, current_path, is_name, manifest_path
from fedinfer.ports import Clock, Entropy

USUAL_VALIDITY = Validity()


class Repository:
    """Publishes versions; everything it knows is on disk and survives a restart.

    Another process may sign in the same folder: what it signed counts from then on (`SharedState`).

    Args:
        folder: holds `metadata/` and `targets/`; made when it does not exist.
        keys: signing keys; root keys may be absent once the repository exists.
        clock: for expiry.
        keep_keys: called with all old and new keys before new ones are used, and again with those still in use.
        validity: how long signatures last.
        root: first root metadata, signed where the root keys are; needed to make a repository when `keys` has none.

    Raises:
        BadSignature: when the metadata on disk was tampered with, or `root` is not signed by its own keys.
        ConfigError: when a key that the root names is not at hand.
        StoreError: when the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        keys: Keys,
        clock: Clock,
        keep_keys: Callable[[Keys], None],
        validity: Validity = USUAL_VALIDITY,
        root: bytes = b"",
    ) -> None:
        self._folder = folder
        self._keys, self._clock, self._keep_keys, self._validity = keys, clock, keep_keys, validity
        made = self._create(root) if self._read(TIMESTAMP) is None else None
        self._shared = SharedState(folder / METADATA_FOLDER, self.trusted_root, made)

    @property
    def _state(self) -> State:
        return self._shared.now()

    @property
    def newest_version(self) -> int:
        """The newest version that was ever published, withdrawn ones included; 0 before the first."""
        return max((*self.versions(), *self.withdrawn()), default=0)

    @property
    def root_version(self) -> int:
        """Version of the newest root metadata."""
        return self._state.root.version

    @property
    def holds_root_keys(self) -> bool:
        """Tell whether this process has root keys, as only a simulation and an operator at a command line do."""
        return bool(self._keys.signers.get(Role.ROOT))

    def versions(self) -> tuple[int, ...]:
        """Published versions that are neither pruned nor withdrawn, oldest first."""
        return tuple(sorted(versions_of(self._state.targets)))

    def withdrawn(self) -> tuple[int, ...]:
        """Withdrawn versions, oldest first; their numbers are not used again."""
        return withdrawn_in(self._state.targets)

    def cohorts(self) -> tuple[str, ...]:
        """Names of the cohorts with a role of their own."""
        return tuple(role.removeprefix(COHORT) for role in self._state.cohorts)

    def trusted_root(self) -> bytes:
        """Root metadata a new device is shipped with: the first one, from which all later ones follow.

        Raises:
            BadSignature: when its file is gone.
        """
        data = self._read("1.root.json")
        if data is None:
            raise BadSignature("1.root.json is missing")
        return data

    def manifest(self, version: int) -> Manifest:
        """The manifest of a published version.

        Args:
            version: its number.

        Raises:
            ArtifactRejected: when it was pruned or never published.
            BadSignature: when its file was changed.
        """
        return Manifest.from_bytes(read_target(self._folder, self._state.targets, manifest_path(version)))

    def model_files(self, version: int) -> dict[str, bytes]:
        """Model file of every variant of a version, by name; empty when it was never published or was pruned.

        Args:
            version: its number.

        Raises:
            ArtifactRejected: when a file is missing.
            BadSignature: when a file was changed.
        """
        if version not in self.versions():
            return {}
        variants = self.manifest(version).variants
        return {variant.name: read_target(self._folder, self._state.targets, variant.path) for variant in variants}

    def publish(self, manifest: Manifest, files: Mapping[str, bytes]) -> None:
        """Sign a version and make it the current one.

        Args:
            manifest: names all files of the version.
            files: target path to bytes of every variant and delta.

        Raises:
            Rollback: when the version is not newer than the newest.
            ArtifactRejected: when a file is missing, not named by the manifest, or differs from it.
            StoreError: when the disk refuses; devices then still see the version before.
        """
        if manifest.version <= self.newest_version:
            raise Rollback(f"version {manifest.version} is not newer than {self.newest_version}")
        check_release(manifest, files)
        document = manifest.to_bytes()
        release = {**files, manifest_path(manifest.version): document, current_path(): document}
        state = copy.deepcopy(self._state)
        for path, data in release.items():
            self._add(state.targets, path, data, manifest.version)
        self._sign_again(state, Role.TARGETS)

    def reissue(self, version: int, created: datetime) -> Manifest:
        """Go back: publish the files of an older version under the next number, with patches from the newest one.

        Args:
            version: to repeat.
            created: time for the new manifest.

        Raises:
            ArtifactRejected: when the version was pruned or never published.
        """
        repeated, newest = self.manifest(version), self.manifest(self.versions()[-1])
        again, renamed = reissued(repeated, self.newest_version + 1, newest.chosen.sha256, created)
        files = {new: read_target(self._folder, self._state.targets, old) for old, new in renamed.items()}
        again, files = add_deltas(again, files, [again.chosen], [self.model_files(newest.version)])
        self.publish(again, files)
        return again

    def add_cohort(self, name: str, entropy: Entropy) -> None:
        """Give a rollout cohort a role and a key of its own; its devices follow `cohort/<name>/current.json`.

        Args:
            name: of the cohort, 1 to 64 of a-z, 0-9, _ and -.
            entropy: for the new key.

        Raises:
            ConfigError: when the cohort exists or its name is not allowed.
            StoreError: when the disk refuses.
        """
        role = COHORT + name
        if role in self._state.cohorts or not is_name(name):
            raise ConfigError(f"cohort {name!r} exists already, or its name is not made of a-z, 0-9, _ and -")
        signer = new_signer(entropy)
        self._use_keys(self._keys.with_role(role, (signer,)))
        state = copy.deepcopy(self._state)
        delegate(state.targets, role, f"cohort/{name}/*", signer.public_key)
        state.cohorts[role] = Targets(version=1, expires=self._validity.until(Role.TARGETS, self._clock.now()))
        self._sign_again(state, Role.TARGETS, role)

    def offer(self, cohort: str, version: int) -> None:
        """Let the devices of a cohort run a published version.

        Args:
            cohort: its name, without "cohort-".
            version: published and not pruned.

        Raises:
            ConfigError: when there is no such cohort.
            Rollback: when the cohort was offered a newer version; use `reissue` to go back.
            ArtifactRejected: when the version was pruned or never published.
        """
        role = COHORT + cohort
        if role not in self._state.cohorts:
            raise ConfigError(f"no cohort {cohort!r}", hint=f"there are: {', '.join(self.cohorts()) or 'none'}")
        state = copy.deepcopy(self._state)
        offered = max(versions_of(state.cohorts[role]).union(withdrawn_in(state.cohorts[role])), default=0)
        if version < offered:
            raise Rollback(f"cohort {cohort} was offered version {offered}, not {version}")
        self._add(state.cohorts[role], current_path(cohort), self.manifest(version).to_bytes(), version)
        self._sign_again(state, role)

    def rotate(self, role: str, entropy: Entropy) -> None:
        """Replace the oldest key of a top-level role with the root keys at hand. Devices follow the chain of roots.

        Args:
            role: "root", "targets", "snapshot" or "timestamp".
            entropy: for the new key.

        Raises:
            BadSignature: when fewer root keys than the threshold are at hand.
            ConfigError: when there is no root key here; sign the next root elsewhere, then `adopt` it.
        """
        new, current = new_signer(entropy), self.newest_root()
        change = RootChange(self._validity.until(Role.ROOT, self._clock.now()), role, new.public_key)
        both = self._keys.with_role(role, (*self._keys.of(role), new))
        self.adopt(signed_root(next_root(current, change), both, current), both)

    def adopt(self, data: bytes, keys: Keys) -> None:
        """Take the next root, and from then on sign with the keys that it names.

        Args:
            data: signed root metadata.
            keys: further keys, for the roles whose keys it replaces.

        Raises:
            BadSignature: it does not follow from the newest root: number, or signatures of both.
            ConfigError: a key that it names is not at hand.
        """
        name = f"{self.root_version + 1}.root.json"
        root, both = load_root({name: data}.get, self.newest_root()), self._keys.joined(keys)
        wanted = named_by(root, both)
        changed = [role for role in ONLINE if root.roles[role].keyids != self._state.root.roles[role].keyids]
        self._use_keys(both)
        self._sign_again(copy.deepcopy(self._state), *changed)  # by old and new keys
        write_file(self._folder, f"{METADATA_FOLDER}/{name}", data)
        self._state.root = root
        self._use_keys(wanted)

    def newest_root(self) -> bytes:
        """The newest root metadata, from which the next one follows."""
        return self._read(f"{self.root_version}.root.json") or b""

    def renew(self) -> None:
        """Sign everything below root again with fresh expiry; needed at least daily (see `Validity`)."""
        state = copy.deepcopy(self._state)
        self._sign_again(state, Role.TARGETS, *state.cohorts)

    def withdraw(self, version: int) -> None:
        """Withdraw a bad version for good: devices that learn of it stop serving it, and none installs it any more.

        Where it was the current one, nothing is offered until the next `publish` or `reissue`. Doing it twice does no
        harm.

        Args:
            version: in [1, newest_version]; pruned ones too.

        Raises:
            ArtifactRejected: when it was never published.
        """
        if version in self.withdrawn():
            return
        if not 0 < version <= self.newest_version:
            raise ArtifactRejected(f"version {version} was never published, the newest is {self.newest_version}")
        state = copy.deepcopy(self._state)
        offered = [role for role, targets in state.cohorts.items() if version in versions_of(targets)]
        for targets in (state.targets, *(state.cohorts[role] for role in offered)):
            drop_version(targets, version)
        self._sign_again(state, Role.TARGETS, *offered)
        sweep(self._folder, self._state)

    def prune(self, keep: int, needed: Collection[int] = ()) -> tuple[int, ...]:
        """Drop old versions and delete files nobody needs. The newest version and those a cohort was offered stay.

        Args:
            keep: how many of the newest versions stay.
            needed: further versions that stay: what devices run or may go back to.

        Returns:
            The versions that were dropped.
        """
        offered = {version for cohort in self._state.cohorts.values() for version in versions_of(cohort)}
        kept = offered.union(self.versions()[-max(keep, 1) :], needed)
        state = copy.deepcopy(self._state)
        dropped = keep_versions(state.targets, kept)
        if dropped:
            self._sign_again(state, Role.TARGETS)
        sweep(self._folder, self._state)
        return dropped

    def metadata(self, from_root_version: int = 1) -> dict[str, bytes]:
        """What a device needs to know what is signed now, without any target: enough to obey a withdrawal.

        Args:
            from_root_version: newest root the device trusts, >= 1; later ones are added.

        Returns:
            Path below the repository ("metadata/...") to bytes.
        """
        return metadata_files(self._folder, self._state, from_root_version)

    def bundle(
        self,
        version: int,
        cohort: str = "",
        variants: Sequence[str] = (),
        active_sha256: str = "",
        from_root_version: int = 1,
    ) -> dict[str, bytes]:
        """Everything a device needs to install the current version, in one message.

        Args:
            version: that is meant; it must be the one the device's metadata will say.
            cohort: of the device; empty = it follows `model/current.json`.
            variants: names of those it wants; empty = the chosen one.
            active_sha256: digest of the model file it has; the smallest download from there is sent. Empty = none.
            from_root_version: newest root the device trusts, >= 1; later ones are added.

        Returns:
            Path below the repository ("metadata/...", "targets/...") to bytes.

        Raises:
            ArtifactRejected: when nothing or another version is current for the cohort, or a file is missing.
            BadSignature: when a file was changed on disk.
        """
        wanted = Wanted(version, cohort, tuple(variants), active_sha256, from_root_version)
        return bundle_files(self._folder, self._state, wanted)

    def fetch(self, path: str) -> bytes | None:
        """What a device that pulls gets for a path; None when there is no such metadata or target file.

        Args:
            path: below the repository, "metadata/..." or "targets/..."; untrusted.

        Raises:
            ArtifactRejected: when the path leaves the repository.
            StoreError: when the disk refuses.
        """
        return read_file(self._folder, path) if path.split("/")[0] in (METADATA_FOLDER, FOLDER) else None

    def _create(self, given: bytes) -> State:
        expiry = {role: self._validity.until(role, self._clock.now()) for role in Role}
        root, data = starting_root(given, self._keys, expiry[Role.ROOT])
        if not given:  # else they are where they came from
            self._keep_keys(self._keys)
        write_file(self._folder, f"{METADATA_FOLDER}/1.root.json", data)
        state = first_state(root, expiry)
        self._write(state, [Role.TARGETS])
        return state

    def _sign_again(self, state: State, *roles: str) -> None:
        """Make `state` what devices see: next versions of the roles, then of snapshot, and last of timestamp."""
        advance(state, roles, self._validity, self._clock.now())
        self._shared.replace(state, lambda: self._write(state, roles))

    def _write(self, state: State, roles: Sequence[str]) -> None:
        for name, data in sign_files(state, roles, self._keys):
            write_file(self._folder, f"{METADATA_FOLDER}/{name}", data)

    def _use_keys(self, keys: Keys) -> None:
        self._keep_keys(keys)
        self._keys = keys

    def _add(self, targets: Targets, path: str, data: bytes, version: int) -> None:
        write_file(self._folder, f"{FOLDER}/{list_target(targets, path, data, version)}", data)

    def _read(self, name: str) -> bytes | None:
        return read_file(self._folder, f"{METADATA_FOLDER}/{name}")
