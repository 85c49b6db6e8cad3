"""What one device is sent in one message: the metadata that it lacks and the targets that it needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedinfer.artifact.release.files import read_file
from fedinfer.artifact.release.metadata import State
from fedinfer.artifact.release.releases import bundle_paths
from fedinfer.artifact.release.targets import COHORT, FOLDER, METADATA_FOLDER, read_target, stored_name, version_of
from fedinfer.errors import ArtifactRejected
from fedinfer.manifest import Manifest, current_path


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a device asks for; see `Repository.bundle`.

    Args:
        version: that is meant, >= 1.
        cohort: of the device; empty = it follows `model/current.json`.
        variants: names; empty = the chosen one.
        active_sha256: digest of the model file the device has; empty = none.
        from_root_version: newest root the device trusts, >= 1.
    """

    version: int
    cohort: str
    variants: tuple[str, ...]
    active_sha256: str
    from_root_version: int


def metadata_files(folder: Path, state: State, from_root_version: int) -> dict[str, bytes]:
    """The metadata without that of cohorts.

    Args:
        folder: of the repository.
        state: its newest metadata.
        from_root_version: newest root the device trusts, >= 1; later ones are added.

    Returns:
        Path below the repository ("metadata/...") to bytes; empty bytes for a file that is missing.
    """
    names = [f"{number}.root.json" for number in range(from_root_version + 1, state.root.version + 1)]
    names += ["timestamp.json", f"{state.snapshot.version}.snapshot.json", f"{state.targets.version}.targets.json"]
    return {f"{METADATA_FOLDER}/{name}": _metadata(folder, name) for name in names}


def bundle_files(folder: Path, state: State, wanted: Wanted) -> dict[str, bytes]:
    """Metadata, manifest and the smallest downloads of the variants that a device wants.

    Args:
        folder: of the repository.
        state: its newest metadata.
        wanted: what the device asks for.

    Returns:
        Path below the repository ("metadata/...", "targets/...") to bytes.

    Raises:
        ArtifactRejected: when nothing or another version is current for the cohort, or a file is missing.
        BadSignature: when a file was changed on disk.
    """
    pointer = current_path(wanted.cohort)
    own = state.cohorts.get(COHORT + wanted.cohort) if wanted.cohort else state.targets
    if own is None or pointer not in own.targets:
        raise ArtifactRejected(f"nothing was published as {pointer}")
    if version_of(own.targets[pointer]) != wanted.version:
        raise ArtifactRejected(f"{pointer} is version {version_of(own.targets[pointer])}, not {wanted.version}")
    document = read_target(folder, own, pointer)
    found = {f"{FOLDER}/{stored_name(own, pointer)}": document}
    for path in bundle_paths(Manifest.from_bytes(document), wanted.variants, wanted.active_sha256):
        found[f"{FOLDER}/{stored_name(state.targets, path)}"] = read_target(folder, state.targets, path)
    if wanted.cohort:
        name = f"{own.version}.{COHORT}{wanted.cohort}.json"
        found[f"{METADATA_FOLDER}/{name}"] = _metadata(folder, name)
    return metadata_files(folder, state, wanted.from_root_version) | found


def _metadata(folder: Path, name: str) -> bytes:
    return read_file(folder, f"{METADATA_FOLDER}/{name}") or b""
