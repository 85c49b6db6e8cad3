"""What is in a model file, a built folder or a repository, and whether it is sound. Reads, never changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TypeAlias

import numpy as np

from fedinfer.artifact.export.graph import head_of, load
from fedinfer.artifact.quantize.compression import sparsity
from fedinfer.artifact.quantize.schemes import family_of
from fedinfer.artifact.release.delta import compress
from fedinfer.artifact.release.files import read_file
from fedinfer.artifact.release.metadata import State, expired_roles, load_state
from fedinfer.artifact.release.targets import read_target, versions_of, withdrawn_in
from fedinfer.errors import ArtifactRejected, BadSignature
from fedinfer.manifest import Manifest, Variant, manifest_path
from fedinfer.types import Json

Check: TypeAlias = Callable[[Manifest, Variant, bytes], None]
"""What a device asks of a model file before it takes it; raises GateFailed. The device's own check lies in another
package, which this one may not import, so the caller passes it in: `fedinfer.inference.install.self_check`."""


def describe_model(data: bytes) -> Json:
    """Operators, weights and metadata of a model file.

    Args:
        data: serialized ONNX model, of fedinfer or of somebody else.

    Returns:
        JSON for the command line; task, version and labels only where the file carries them.

    Raises:
        GateFailed: when it breaks a rule of `fedinfer.model_file`.
        ArtifactRejected: when it is no valid model, or its metadata is malformed.
    """
    model = load(data)
    kinds = Counter(node.op_type for node in model.graph.node)
    sizes = [int(np.prod(tensor.dims)) for tensor in model.graph.initializer]
    described: Json = {
        "kind": "model",
        "bytes": len(data),
        "family": str(family_of(model)),
        "producer": model.producer_name,
        "opset": max((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), default=0),
        "inputs": [item.name for item in model.graph.input],
        "outputs": [item.name for item in model.graph.output],
        "weights": sum(sizes),
        "sparsity": sparsity(model),
        "zstd_bytes": len(compress(data)),
        "operators": dict(sorted(kinds.items())),
    }
    if any(item.key == "schema" for item in model.metadata_props):
        head = head_of(model)
        described |= {"task": head.task, "version": head.version, "labels": list(head.schema.labels)}
    return described


def describe_manifest(manifest: Manifest) -> Json:
    """The figures of a version, without labels, rows and expected answers.

    Args:
        manifest: of the version.
    """
    return {
        "kind": "version",
        "version": manifest.version,
        "task": manifest.task,
        "created": manifest.created,
        "epsilon": manifest.privacy.epsilon,
        "delta": manifest.privacy.delta,
        "privacy": manifest.privacy.sentence,
        "statement": manifest.privacy.statement.to_json() if manifest.privacy.statement else None,
        "float_metric": manifest.float_metric,
        "metrics": dict(manifest.metrics),
        "isa": manifest.isa,
        "variants": [
            {
                "name": variant.name,
                "recipe": variant.recipe,
                "bytes": variant.bytes,
                "metric": variant.metric,
                "agreement": variant.agreement,
                "calibration_error": variant.calibration_error,
                "latency_us": variant.latency_us,
                "sha256": variant.sha256,
            }
            for variant in manifest.variants
        ],
        "deltas": [{"path": delta.path, "bytes": delta.bytes} for delta in manifest.deltas],
    }


def describe_repository(folder: Path, trusted_root: bytes | None, now: datetime) -> Json:
    """Keys, expiry and versions of a repository whose signatures hold.

    Args:
        folder: with `metadata/` and `targets/`.
        trusted_root: root metadata to start from; None = the first one in the folder, which then proves nothing
            about who made it.
        now: time to judge expiry at.

    Raises:
        BadSignature: when a signature, a version or a size is wrong.
    """
    state = _state(folder, trusted_root)
    roles = {"root": state.root, "targets": state.targets, "snapshot": state.snapshot, "timestamp": state.timestamp}
    expired = expired_roles(state, now)
    return {
        "kind": "repository",
        "roles": {
            role: {
                "version": signed.version,
                "keys": len(state.root.roles[role].keyids),
                "threshold": state.root.roles[role].threshold,
                "expires": signed.expires.isoformat(),
                "expired": role in expired,
            }
            for role, signed in roles.items()
        },
        "cohorts": sorted(role.removeprefix("cohort-") for role in state.cohorts),
        "withdrawn": list(withdrawn_in(state.targets)),
        "versions": [describe_manifest(manifest) for manifest in _manifests(folder, state)],
    }


def verify_repository(folder: Path, trusted_root: bytes | None, now: datetime, check: Check) -> Json:
    """Check everything a device would check, for every version: signatures, expiry, digests, self-checks.

    Args:
        folder: with `metadata/` and `targets/`.
        trusted_root: as in `describe_repository`.
        now: time to judge expiry at.
        check: asked about every model file.

    Raises:
        BadSignature: wrong signature, expired metadata, or a file that differs from what was signed.
        GateFailed: a model that `check` refuses.
        ArtifactRejected: a malformed manifest.
    """
    state = _state(folder, trusted_root)
    expired = expired_roles(state, now)
    if expired:
        raise BadSignature(f"expired: {', '.join(expired)}", hint="sign again with `fedinfer artifact renew`")
    signed = [(targets, path) for targets in (state.targets, *state.cohorts.values()) for path in targets.targets]
    for targets, path in signed:
        read_target(folder, targets, path)
    manifests = _manifests(folder, state)
    for manifest in manifests:
        for variant in manifest.variants:
            check(manifest, variant, read_target(folder, state.targets, variant.path))
    versions = [manifest.version for manifest in manifests]
    return {"kind": "repository", "verified": True, "targets": len(signed), "versions": versions}


def _state(folder: Path, trusted_root: bytes | None) -> State:
    root = trusted_root if trusted_root is not None else read_file(folder / "metadata", "1.root.json")
    if root is None:
        raise ArtifactRejected(f"{folder} holds no metadata/1.root.json", hint="give a repository or a --root file")
    return load_state(lambda name: read_file(folder / "metadata", name), root)


def _manifests(folder: Path, state: State) -> list[Manifest]:
    versions = sorted(versions_of(state.targets))
    return [Manifest.from_bytes(read_target(folder, state.targets, manifest_path(version))) for version in versions]
