"""A built version as a folder: `manifest.json`, `figures.json` and the model files under their target paths."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from fedinfer.artifact.build import Built
from fedinfer.artifact.release.files import read_file, write_file
from fedinfer.artifact.release.releases import check_release
from fedinfer.errors import ArtifactRejected
from fedinfer.manifest import Manifest, Privacy
from fedinfer.types import Json

MANIFEST = "manifest.json"
FIGURES = "figures.json"


def save_build(folder: Path, built: Built, privacy: Privacy, created: str) -> Manifest:
    """Write a built version; the manifest comes last, so a folder with one is complete.

    Args:
        folder: made when it does not exist.
        built: what to write.
        privacy: the guarantee that covers the training data.
        created: ISO time in UTC.

    Raises:
        StoreError: when the disk refuses.
    """
    manifest = built.manifest(privacy, created)
    save_version(folder, manifest, built.targets(), built.to_json())
    return manifest


def save_version(folder: Path, manifest: Manifest, files: Mapping[str, bytes], figures: Json) -> None:
    """As `save_build`, for a version whose manifest is made.

    Args:
        folder: made when it does not exist.
        manifest: of the version.
        files: target path to bytes of all its files.
        figures: as `Built.to_json`.

    Raises:
        StoreError: when the disk refuses.
    """
    for path, data in files.items():
        write_file(folder, path, data)
    write_file(folder, FIGURES, json.dumps(figures, indent=2).encode())
    write_file(folder, MANIFEST, manifest.to_bytes())


def load_build(folder: Path) -> tuple[Manifest, dict[str, bytes]]:
    """Read a built version and check that its files are those of its manifest.

    Args:
        folder: of `save_build`.

    Returns:
        The manifest, and target path to bytes of all its files.

    Raises:
        ArtifactRejected: when a file is missing or differs, or the manifest is malformed.
        GateFailed: when a model breaks a rule of `fedinfer.model_file`.
        StoreError: when the disk refuses.
    """
    document = read_file(folder, MANIFEST)
    if document is None:
        raise ArtifactRejected(f"{folder} holds no {MANIFEST}", hint="make it with `fedinfer artifact quantize`")
    manifest = Manifest.from_bytes(document)
    paths = [*(variant.path for variant in manifest.variants), *(delta.path for delta in manifest.deltas)]
    files = {path: data for path in paths if (data := read_file(folder, path)) is not None}
    check_release(manifest, files)
    return manifest, files
