"""Reads a model file of somebody else, with weights that lie in files beside it folded in.

Rules:
* the file is judged before anything parses it, and once more when all its weights are inside;
* a weight may lie in a regular file of the same folder, named without any path; no link is followed;
* what the model says of place and length must be what its shape needs and what the file has.
"""

from __future__ import annotations

import math
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fedinfer.artifact.export.graph import OnnxModel, onnx_module
from fedinfer.errors import ArtifactRejected, ConfigError, GateFailed, Refusal
from fedinfer.manifest import MAX_ARTIFACT_BYTES
from fedinfer.model_file import LIMITS, check_model

_NAME_BYTES = 255
_HINTS = {
    Refusal.CONTROL_FLOW: "export the model without If, Loop and Scan, for one fixed setting",
    Refusal.OPERATOR: "scikit-learn and LightGBM: convert with zipmap=False; else leave custom operators out",
    Refusal.OUTPUTS: "outputs are tensors of numbers; scikit-learn and LightGBM: convert with zipmap=False",
    Refusal.FUNCTIONS: "inline the functions of the model, for instance with onnx.inliner.inline_local_functions",
    Refusal.MALFORMED: "is it whole, and ONNX? export it again",
    Refusal.UNKNOWN_FIELD: "is it whole, and ONNX? export it again",
}


def read_model(path: Path) -> bytes:
    """The bytes of a model, all weights inside.

    Args:
        path: of the ONNX file; untrusted.

    Raises:
        ConfigError: when it cannot be read.
        GateFailed: when it breaks a rule of `fedinfer.model_file`.
        ArtifactRejected: when it is no ONNX file, or a file beside it is not what the model says.
    """
    data = _whole(path)
    try:
        check_model(data)
        return data
    except GateFailed as error:
        if error.refusal is not Refusal.EXTERNAL_DATA:
            raise _explained(error) from error
    check_model(data, replace(LIMITS, data_outside=True))
    folded = _folded(data, path.parent)
    check_model(folded)
    return folded


def parse(data: bytes) -> OnnxModel:
    """A model file as onnx.ModelProto.

    Args:
        data: that `check_model` accepted.

    Raises:
        ArtifactRejected: when onnx cannot read it.
    """
    from google.protobuf.message import DecodeError

    try:
        return onnx_module().load_model_from_string(data)
    except (DecodeError, ValueError) as error:
        raise ArtifactRejected(f"not an ONNX file: {ascii(str(error))[1:200]}") from error


def _explained(error: GateFailed) -> GateFailed:
    malformed = error.refusal in (Refusal.MALFORMED, Refusal.UNKNOWN_FIELD)
    text = f"no well-formed ONNX file: {error}" if malformed else str(error)
    return GateFailed(text, error.refusal, hint=_HINTS.get(error.refusal, ""))


def _whole(path: Path) -> bytes:
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise ConfigError(f"{path}: not a regular file", hint="give an ONNX file")
            if not 1 <= facts.st_size <= MAX_ARTIFACT_BYTES:
                raise ArtifactRejected(f"{path}: {facts.st_size} bytes, allowed are 1 to {MAX_ARTIFACT_BYTES}")
            return file.read(MAX_ARTIFACT_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error


def _folded(data: bytes, folder: Path) -> bytes:
    onnx, model, left = onnx_module(), parse(data), MAX_ARTIFACT_BYTES - len(data)
    for tensor in model.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        tensor.raw_data = _weights(tensor, folder, left)
        left -= len(tensor.raw_data)
        tensor.ClearField("data_location")
        del tensor.external_data[:]
    return bytes(model.SerializeToString())


def _weights(tensor: Any, folder: Path, most: int) -> bytes:
    """The bytes of one weight out of the file that it names."""
    entries, what = {item.key: item.value for item in tensor.external_data}, f"the weight {ascii(tensor.name)[:60]}"
    name = entries.get("location", "")
    if not name or name in (".", "..") or {"/", "\\", "\0"} & set(name) or len(name.encode()) > _NAME_BYTES:
        raise GateFailed(f"{what} names {ascii(name)[:60]}, which is no file beside the model", Refusal.EXTERNAL_DATA)
    size = _size(tensor, what)
    start, length = _number(entries.get("offset", "0"), what), _number(entries.get("length", str(size)), what)
    if length != size or size > most:
        raise ArtifactRejected(f"{what}: its shape needs {size} bytes, the model says {length}, {most} may be left")
    try:
        descriptor = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ArtifactRejected(f"{what}: {ascii(name)[:60]} beside the model: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode) or start + size > facts.st_size:
            raise ArtifactRejected(f"{what}: {ascii(name)[:60]} has no {size} bytes at {start}")
        file.seek(start)
        return file.read(size)


def _size(tensor: Any, what: str) -> int:
    try:
        kind = np.dtype(onnx_module().helper.tensor_dtype_to_np_dtype(tensor.data_type))
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactRejected(f"{what}: type {tensor.data_type} is not read from another file") from error
    if kind.kind not in "fiub":
        raise ArtifactRejected(f"{what}: type {kind} is not read from another file")
    return math.prod(int(size) for size in tensor.dims) * int(kind.itemsize)


def _number(text: str, what: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 20:
        raise ArtifactRejected(f"{what}: {ascii(text)[:40]} is no place in a file")
    return int(text)
