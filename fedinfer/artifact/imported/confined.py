"""Builds an imported model in a confined process, and takes what comes back as a stranger's.

Rules:
* the graph is quantized and run in that process alone; it has one new folder, no network, and bounded memory and time;
* of its answer, files must be those of its manifest and keep the rules of `fedinfer.model_file`;
* the manifest must be of the model, the version and the rows that were asked for;
* what is said of the privacy of the training data is put in here.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import IO, Any

from fedinfer.artifact.evaluate.measure import Evidence
from fedinfer.artifact.export.graph import finish
from fedinfer.artifact.imported.confined_build import ANSWER, SIZES
from fedinfer.artifact.imported.declaration import Deciding
from fedinfer.artifact.imported.folder import Imported
from fedinfer.artifact.release.releases import check_release
from fedinfer.config import ArtifactSection
from fedinfer.errors import ConfigError, FedInferError, GateFailed, Refusal
from fedinfer.manifest import MAX_ARTIFACT_BYTES, Manifest, Privacy
from fedinfer.model_file import RunLimits, confined_process, packed, taken
from fedinfer.ports import Clock
from fedinfer.types import Json

BUILD_LIMITS = RunLimits(memory_bytes=2**31, memory_per_byte=48, open_seconds=60.0, run_seconds=3600.0)
"""Several copies of the model, of its variants and of the activations of a batch; time for all schemes."""
_MAIN = "fedinfer.artifact.imported.confined_build"
_MOST_HEAD_BYTES = 2**24
_MOST_FILES = 4
_ELSE = "the confined process answers something else"


@dataclass(frozen=True, slots=True)
class ConfinedBuild:
    """What a confined process built.

    Args:
        manifest: of the version.
        files: target path to bytes of every variant.
        figures: as `Built.to_json`.
        outputs, note: as in ImportedBuild.
    """

    manifest: Manifest
    files: Mapping[str, bytes]
    figures: Json
    outputs: list[Json]
    note: str


def build_confined(
    imported: Imported, version: int, evidence: Evidence, settings: ArtifactSection, privacy: Privacy, clock: Clock,
    limits: RunLimits = BUILD_LIMITS,
) -> ConfinedBuild:  # fmt: skip
    """Build an imported model in a process of its own.

    Args:
        imported: the model.
        version: number of the build, >= 1.
        evidence: rows to judge with.
        settings: limits and the wanted quantization.
        privacy: what is said of the training data.
        clock: for time limits, and the time in the manifest.
        limits: of memory and time.

    Raises:
        GateFailed: nothing passes, or the process fails, takes too much, or answers something else.
        ArtifactRejected: files and manifest that do not fit together.
        ConfigError: rows that are not of the model.
    """
    head = imported.head(version)
    model = finish(imported.core, head)
    rows = [packed(name, getattr(evidence, name)) for name in ("held_x", "held_y", "calibration_x", "reference_x")]
    with tempfile.TemporaryDirectory(prefix="fedinfer-build-") as folder:
        asked = {
            "folder": folder,
            "quantized": imported.facts.quantized,
            "settings": settings.model_dump(mode="json"),
            "deciding": asdict(imported.declaration.deciding),
            "rows": [item for item, _ in rows],
            "memory_bytes": limits.memory_bytes + limits.memory_per_byte * len(model),
            "processor_seconds": int(limits.run_seconds) + 1,
            "file_bytes": 4 * MAX_ARTIFACT_BYTES,
        }
        encoded = json.dumps(asked).encode()
        parts = (SIZES.pack(len(encoded), len(model)), encoded, model, *(data for _, data in rows))
        with confined_process(_MAIN, parts) as pipe:
            answer, files = _taken(pipe, limits, clock)
    built = _judged(answer, files)
    _check_asked(built.manifest, imported, version)
    created = clock.now().isoformat(timespec="seconds")
    return replace(built, manifest=replace(built.manifest, privacy=privacy, created=created))


def _taken(pipe: IO[bytes], limits: RunLimits, clock: Clock) -> tuple[Json, dict[str, bytes]]:
    size = taken(pipe, ANSWER.size, limits.open_seconds + limits.run_seconds, clock)
    if size is None:
        raise GateFailed("quantization was ended: it takes too long, or more memory than it may", Refusal.CONFINED)
    count = ANSWER.unpack(size)[0]
    data = taken(pipe, count, limits.open_seconds, clock) if count <= _MOST_HEAD_BYTES else None
    try:
        answer = json.loads(data or b"")
        if "error" in answer:
            raise _error(int(answer["code"]), str(answer["error"]), str(answer["hint"]))
        sizes = {str(path): int(bytes_) for path, bytes_ in answer["files"].items()}
        if len(sizes) > _MOST_FILES or not all(0 < size <= MAX_ARTIFACT_BYTES for size in sizes.values()):
            raise GateFailed(_ELSE, Refusal.CONFINED)
        return answer, {path: taken(pipe, size, limits.open_seconds, clock) or b"" for path, size in sizes.items()}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise GateFailed(_ELSE, Refusal.CONFINED) from error


def _error(code: int, text: str, hint: str) -> FedInferError:
    text, hint = (ascii(part[:2000])[1:-1] for part in (text, hint))
    return ConfigError(text, hint=hint) if code == ConfigError.exit_code else GateFailed(text, hint=hint)


def _judged(answer: Json, files: dict[str, bytes]) -> ConfinedBuild:
    parts: tuple[Any, ...] = tuple(answer.get(key) for key in ("manifest", "figures", "outputs", "note"))
    if not all(isinstance(part, kind) for part, kind in zip(parts, (str, dict, list, str), strict=True)):
        raise GateFailed(_ELSE, Refusal.CONFINED)
    manifest = Manifest.from_bytes(parts[0].encode())
    check_release(manifest, files)
    return ConfinedBuild(manifest, files, parts[1], parts[2], parts[3])


def _check_asked(manifest: Manifest, imported: Imported, version: int) -> None:
    deciding = imported.declaration.deciding
    asked = (imported.declaration.name, version, asdict(imported.schema), deciding)
    decided = Deciding(manifest.top, manifest.threshold, manifest.abstain_below)
    if (manifest.task, manifest.version, asdict(manifest.schema), decided) != asked or manifest.deltas:
        raise GateFailed("the confined process answers with another model than it got", Refusal.CONFINED)
