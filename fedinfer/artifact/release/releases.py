"""Pure rules about what a version consists of and what a device has to be sent."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from fedinfer.errors import ArtifactRejected
from fedinfer.manifest import MAX_ARTIFACT_BYTES, Delta, Manifest, Variant, model_path
from fedinfer.model_file import check_model


def check_release(manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """Refuse files that are not exactly those the manifest describes, and models that devices would refuse.

    Args:
        manifest: of the version.
        files: target path to bytes of every variant and delta.

    Raises:
        GateFailed: a model breaks a rule of `fedinfer.model_file`: it is not signed.
        ArtifactRejected: naming the file and the difference.
    """
    wanted = {variant.path for variant in manifest.variants} | {delta.path for delta in manifest.deltas}
    if wanted != set(files):
        odd = sorted(wanted ^ set(files))[0]
        raise ArtifactRejected(f"{odd} is {'missing' if odd in wanted else 'not named by the manifest'}")
    for variant in manifest.variants:
        data = files[variant.path]
        if len(data) != variant.bytes or hashlib.sha256(data).hexdigest() != variant.sha256:
            raise ArtifactRejected(f"{variant.path}: {len(data)} bytes differ from the manifest's {variant.bytes}")
        check_model(data)
    for delta in manifest.deltas:
        if len(files[delta.path]) != delta.bytes:
            raise ArtifactRejected(f"{delta.path}: {len(files[delta.path])} bytes, the manifest says {delta.bytes}")
    largest = max(map(len, files.values()))
    if largest > MAX_ARTIFACT_BYTES:
        raise ArtifactRejected(f"a file has {largest} bytes, at most {MAX_ARTIFACT_BYTES}")


def reissued(
    manifest: Manifest, version: int, parent_sha256: str, created: datetime
) -> tuple[Manifest, dict[str, str]]:
    """An old manifest under a new version number.

    Args:
        manifest: of the version to repeat.
        version: new number.
        parent_sha256: digest of the chosen variant of the version before the new one.
        created: time for the new manifest, UTC.

    Returns:
        The new manifest, without deltas, and the new target path of every old one.
    """
    paths = {
        variant.path: model_path(version, variant.name if place else "")
        for place, variant in enumerate(manifest.variants)
    }
    variants = tuple(replace(variant, path=paths[variant.path]) for variant in manifest.variants)
    again = replace(
        manifest,
        version=version,
        variants=variants,
        deltas=(),
        parent_sha256=parent_sha256,
        created=created.isoformat(timespec="seconds"),
    )
    return again, paths


def bundle_paths(manifest: Manifest, variants: Sequence[str], active_sha256: str) -> tuple[str, ...]:
    """Target paths of the smallest download that leads to each of the variants.

    Args:
        manifest: of the version.
        variants: names; empty = the chosen one.
        active_sha256: digest of the model file the device has; empty = none.

    Raises:
        ArtifactRejected: when the version has no variant of that name.
    """
    wanted = [manifest.variant(name) for name in variants] or [manifest.chosen]
    return tuple(smallest_transfer(manifest, variant, active_sha256).path for variant in wanted)


def smallest_transfer(manifest: Manifest, variant: Variant, active_sha256: str) -> Variant | Delta:
    """The fewest bytes that become a variant on a device.

    Args:
        manifest: of the version.
        variant: wanted.
        active_sha256: digest of the model file the device has; empty = none.
    """
    fitting = [
        delta
        for delta in manifest.deltas
        if delta.to_sha256 == variant.sha256 and delta.from_sha256 in ("", active_sha256)
    ]
    choices: list[Variant | Delta] = [variant, *fitting]
    return min(choices, key=lambda choice: choice.bytes)
