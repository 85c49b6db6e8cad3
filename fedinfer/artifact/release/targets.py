"""Target files of a repository on disk: where they lie, which version they belong to, and whether they are intact."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import TargetFile, Targets

from fedinfer.artifact.release.files import list_files, read_file, remove_file
from fedinfer.artifact.release.metadata import State
from fedinfer.errors import ArtifactRejected, BadSignature
from fedinfer.manifest import WITHDRAWN, read_withdrawn

FOLDER, METADATA_FOLDER = "targets", "metadata"
COHORT = "cohort-"
"""Beginning of the name of a cohort's role."""


def stored_name(targets: Targets, path: str) -> str:
    """File name of a target below `targets/`: its SHA-256 stands before the last part (consistent snapshots).

    Args:
        targets: metadata that lists it.
        path: target path.
    """
    folder, _, name = path.rpartition("/")
    return f"{folder}/{targets.targets[path].hashes['sha256']}.{name}"


def version_of(target: TargetFile) -> int:
    """The version that a target was published with.

    Args:
        target: of this repository, which writes the version into its "custom" field.
    """
    return int(target.custom["version"])


def versions_of(targets: Targets) -> set[int]:
    """All versions among the targets of a role.

    Args:
        targets: verified metadata.
    """
    return {version_of(target) for target in targets.targets.values()}


def withdrawn_in(targets: Targets) -> tuple[int, ...]:
    """Versions that a role has withdrawn, oldest first.

    Args:
        targets: verified metadata.

    Raises:
        BadSignature: when the list is malformed.
    """
    return read_withdrawn(targets.unrecognized_fields)


def drop_version(targets: Targets, version: int) -> None:
    """Sign nothing of a version any more, and list it as withdrawn for ever.

    Args:
        targets: metadata; changed in place, not signed.
        version: to withdraw.
    """
    targets.targets = {path: target for path, target in targets.targets.items() if version_of(target) != version}
    targets.unrecognized_fields[WITHDRAWN] = sorted({*withdrawn_in(targets), version})


def keep_versions(targets: Targets, kept: Collection[int]) -> tuple[int, ...]:
    """Sign nothing any more but some versions.

    Args:
        targets: metadata; changed in place, not signed.
        kept: versions that stay; numbers that are not listed do no harm.

    Returns:
        The versions that were dropped, oldest first.
    """
    dropped = tuple(sorted(versions_of(targets) - set(kept)))
    targets.targets = {path: target for path, target in targets.targets.items() if version_of(target) in kept}
    return dropped


def read_target(folder: Path, targets: Targets, path: str) -> bytes:
    """The bytes of a signed target.

    Args:
        folder: of the repository.
        targets: verified metadata that lists it.
        path: target path.

    Raises:
        ArtifactRejected: when it is not listed or its file is missing.
        BadSignature: when its file was changed.
    """
    if path not in targets.targets:
        raise ArtifactRejected(f"{path} was never published, or was pruned")
    data = read_file(folder, f"{FOLDER}/{stored_name(targets, path)}")
    if data is None:
        raise ArtifactRejected(f"{path} is signed but its file is missing")
    try:
        targets.targets[path].verify_length_and_hashes(data)
    except LengthOrHashMismatchError as error:
        raise BadSignature(f"{path} was changed on disk: {error}") from error
    return data


def list_target(targets: Targets, path: str, data: bytes, version: int) -> str:
    """List a target in metadata, which is not signed yet.

    Args:
        targets: metadata of the role that will sign it; changed in place.
        path: target path.
        data: content.
        version: that it belongs to, >= 1.

    Returns:
        The name under which its file must be written, see `stored_name`.
    """
    target = TargetFile.from_data(path, data)
    target.unrecognized_fields["custom"] = {"version": version}
    targets.targets[path] = target
    return stored_name(targets, path)


def sweep(folder: Path, state: State) -> None:
    """Delete target files that nothing names, and metadata that is older than what the newest snapshot names.

    Root metadata stays: a device that was away for long follows the whole chain.

    Args:
        folder: of the repository.
        state: its newest metadata, already written.

    Raises:
        StoreError: when the disk refuses.
    """
    named = {stored_name(t, path) for t in (state.targets, *state.cohorts.values()) for path in t.targets}
    for name in list_files(folder / FOLDER):
        if name not in named:
            remove_file(folder, f"{FOLDER}/{name}")
    current = {f"{meta.version}.{name}" for name, meta in state.snapshot.meta.items()}
    current |= {"timestamp.json", f"{state.snapshot.version}.snapshot.json"}
    for name in list_files(folder / METADATA_FOLDER):
        if name not in current and not name.endswith(".root.json"):
            remove_file(folder, f"{METADATA_FOLDER}/{name}")
