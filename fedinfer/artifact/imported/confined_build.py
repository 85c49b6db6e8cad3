"""The program that quantizes and measures an imported model, confined with one folder of its own; see `confined`.

onnxruntime's quantizer works on files, so the process has a room for them and nothing else. Whoever started it trusts
nothing of the answer.
"""

from __future__ import annotations

import json
import os
import site
import struct
import sys
import sysconfig
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from fedinfer.artifact.evaluate.judging import judging_of
from fedinfer.artifact.evaluate.measure import Evidence
from fedinfer.artifact.export.graph import core_of, head_of, load
from fedinfer.artifact.imported.build import ImportedBuild, build_imported
from fedinfer.artifact.imported.declaration import Deciding
from fedinfer.config import ArtifactSection
from fedinfer.errors import FedInferError
from fedinfer.manifest import Privacy
from fedinfer.model_file import Room, confine, first_line, unpacked
from fedinfer.system import SystemClock
from fedinfer.types import Json

SIZES = struct.Struct("<QQ")
"""Before everything else: bytes of the head, of the model."""
ANSWER = struct.Struct("<Q")
"""Before the answer: bytes of its head."""
NOTHING_SAID = Privacy("inf", "1", "said by the caller")
"""Stands where the caller puts what it says of the training data."""
_ROOT = Path(__file__).resolve().parents[3]
_SYSTEM = (
    "/usr/lib", "/lib", "/lib64", "/usr/local/lib", "/etc/ld.so.cache", "/dev/urandom", "/proc/self", "/proc/cpuinfo",
    "/proc/meminfo", "/sys/devices/system/cpu",
)  # fmt: skip


def main() -> None:
    """Build what standard input says, then end."""
    source, target = sys.stdin.buffer, sys.stdout.buffer
    sizes = SIZES.unpack(_read(source, SIZES.size))
    head = json.loads(_read(source, sizes[0]))
    model = _read(source, sizes[1])
    arrays = {item["name"]: unpacked(item, _read(source, item["bytes"])) for item in head["rows"]}
    _load_libraries()
    confine(head["memory_bytes"], head["processor_seconds"], room(head["folder"], head["file_bytes"]))
    tempfile.tempdir = head["folder"]  # from here on the bytes of the model are looked at
    answer, files = _answer(model, head, arrays)
    encoded = json.dumps(answer).encode()
    for part in (ANSWER.pack(len(encoded)), encoded, *files):
        target.write(part)
    target.flush()


def room(folder: str, file_bytes: int) -> Room:
    """What the process may reach: its folder, the interpreter, installed packages, this package.

    Of a checkout that is its package alone: beside it lies whatever its owner works on.

    Args:
        folder: its own.
        file_bytes: largest file that it may write.
    """
    paths = sysconfig.get_paths()
    modules = {*sys.path, *site.getsitepackages(), paths["stdlib"], paths["platstdlib"]} - {""}
    if (_ROOT / "pyproject.toml").exists():
        modules = modules - {str(_ROOT)} | {str(_ROOT / "fedinfer")}
    return Room(folder, (*sorted(modules), os.path.join(sys.base_prefix, "lib"), *_SYSTEM), file_bytes)


def _load_libraries() -> None:
    """What is needed later, before anything is locked; a module that comes later still can be read."""
    import onnx  # noqa: F401
    import onnxruntime.quantization  # noqa: F401


def _answer(model: bytes, head: Json, arrays: dict[str, Any]) -> tuple[Json, list[bytes]]:
    try:
        parsed = load(model)
        settings = ArtifactSection.model_validate(head["settings"])
        core, ends, deciding = core_of(parsed), head_of(parsed), Deciding(**head["deciding"])
        ends = replace(ends, top=deciding.top, abstain_below=deciding.abstain_below)
        judging = replace(judging_of(ends.schema), threshold=deciding.threshold)
        evidence = Evidence(**arrays)
        return _said(build_imported(core, ends, head["quantized"], evidence, settings, SystemClock(), judging))
    except FedInferError as error:
        return {"error": str(error), "hint": error.hint, "code": error.exit_code}, []
    except Exception as error:  # whatever it is, it is the model's
        return {"error": f"the model cannot be built: {first_line(error)}", "hint": "", "code": 5}, []


def _said(found: ImportedBuild) -> tuple[Json, list[bytes]]:
    built, targets = found.built, found.built.targets()
    manifest = built.manifest(NOTHING_SAID, SystemClock().now().isoformat(timespec="seconds"))
    return {
        "manifest": manifest.to_bytes().decode(),
        "figures": built.to_json(),
        "outputs": list(found.outputs),
        "note": found.note,
        "files": {path: len(data) for path, data in targets.items()},
    }, list(targets.values())


def _read(source: BinaryIO, size: int) -> bytes:
    data = source.read(size)
    if len(data) != size:
        raise SystemExit(1)
    return data
