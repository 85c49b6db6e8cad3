"""Inputs that are made of raw values: which steps a declaration names, as graph parts and in numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fedinfer.artifact.export.graph import OnnxModel, onnx_module
from fedinfer.artifact.imported import log_mel as log_mel_steps
from fedinfer.artifact.imported import vocabulary
from fedinfer.artifact.imported.declaration import InputSpec
from fedinfer.artifact.imported.log_mel import add_log_mel, log_mel, raw_samples
from fedinfer.artifact.imported.pixels import Constant, Node, add_pixels, prepared, raw_tensor
from fedinfer.artifact.imported.vocabulary import add_look_up, looked_up, token_tensor
from fedinfer.errors import ConfigError
from fedinfer.tensors import TensorSpec

_FORMAT = 9  # of ONNX files, that came with operator set 20
_NO_STEPS = "input {}: nothing is declared that makes it of raw values"


def made_of_raw(spec: InputSpec) -> bool:
    """Whether rows bring something else than the input.

    Args:
        spec: of the input.
    """
    return spec.image is not None or spec.audio is not None or spec.vocabulary is not None


def raw_of(spec: InputSpec) -> TensorSpec:
    """What rows bring of an input that is made of it.

    Args:
        spec: of the input.

    Raises:
        ConfigError: the steps do not end in what the input takes, or it is made of pixels and of samples.
    """
    if sum(step is not None for step in (spec.image, spec.audio, spec.vocabulary)) > 1:
        raise ConfigError(f"input {spec.name} is made of several of an image, audio and words: one of them")
    if spec.image is not None:
        return raw_tensor(spec, spec.image)
    if spec.audio is not None:
        return raw_samples(spec, spec.audio)
    if spec.vocabulary is not None:
        return token_tensor(spec.name, spec.shape, spec.vocabulary)
    raise ConfigError(_NO_STEPS.format(spec.name))


def made(spec: InputSpec, raw: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The input, made in numpy.

    Args:
        spec: of the input.
        raw: float32 (n, raw values).

    Returns:
        float32 (n, *shape of the input).

    Raises:
        ConfigError: nothing is declared that makes it.
    """
    if spec.image is not None:
        return prepared(spec, spec.image, raw)
    if spec.audio is not None:
        return log_mel(spec, spec.audio, raw)
    if spec.vocabulary is not None:
        return looked_up(spec.vocabulary, raw)
    raise ConfigError(_NO_STEPS.format(spec.name))


def add_steps(spec: InputSpec, values: str, node: Node, constant: Constant, batch: int) -> str:
    """Graph parts from raw values to the input, (batch, *its shape) in float32.

    Args:
        spec: of the input.
        values: name of the raw values, (batch, k).
        node: appends a node and gives the name of its output.
        constant: appends a constant and gives its name.
        batch: first size of a Reshape.

    Raises:
        ConfigError: nothing is declared that makes it.
    """
    if spec.image is not None:
        return add_pixels(spec, spec.image, values, node, constant, batch)
    if spec.audio is not None:
        return add_log_mel(spec, spec.audio, values, node, constant, batch)
    if spec.vocabulary is not None:
        return add_look_up(spec.vocabulary, values, node, constant)
    raise ConfigError(_NO_STEPS.format(spec.name))


def with_steps_known(model: OnnxModel, inputs: Sequence[InputSpec]) -> OnnxModel:
    """A model whose operator set has every operator of the steps; that it still answers the same is checked as ever.

    Args:
        model: onnx.ModelProto; not used any more.
        inputs: of its declaration.

    Raises:
        ConfigError: its operator set is too old and cannot be raised.
    """
    onnx = onnx_module()
    found = max((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), default=0)
    needed = max((_opset(spec) for spec in inputs), default=0)
    if found >= needed:
        return model
    try:
        raised = onnx.version_converter.convert_version(model, needed)
    except Exception as error:  # of the converter, whatever its class
        raise ConfigError(
            f"the declared steps need operator set {needed}, and the model cannot be raised to it: {str(error)[:120]}",
            hint=f"export it with operator set {needed} or later",
        ) from error
    raised.ir_version = max(raised.ir_version, _FORMAT)
    return raised


def _opset(spec: InputSpec) -> int:
    """The operator set that the steps of an input need."""
    if spec.vocabulary is not None:
        return vocabulary.OPSET
    return log_mel_steps.OPSET if spec.audio is not None else 0
