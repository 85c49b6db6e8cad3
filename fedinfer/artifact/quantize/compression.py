"""Pruned and fine-tuned files: what they cost, what they gain, and whether they are pushed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.artifact.export.graph import OnnxModel, onnx_module
from fedinfer.types import Json


@dataclass(frozen=True, slots=True)
class Compression:
    """A pruned or fine-tuned file beside the plain one of the same weights.

    Args:
        pruning: share of weights asked to be zero, in [0, 1).
        qat_steps: steps of quantization-aware fine-tuning that were asked for, >= 0.
        pushed: True when the compressed file is the chosen one, False when the plain one stayed.
        reason: why it stayed, with numbers; empty when the compressed file is pushed.
        sparsity: zeros among the weights of the compressed file, in [0, 1]; None when none passed the gates.
        metric, plain_metric: of both files on the same held-out rows, in [0, 1]; `metric` is None as above.
        zstd_bytes, plain_zstd_bytes: both as zstandard frames, which is the download; `zstd_bytes` is None as above.
        seconds: pruning, fine-tuning, and building and judging the compressed file.
    """

    pruning: float
    qat_steps: int
    pushed: bool
    reason: str
    sparsity: float | None
    metric: float | None
    plain_metric: float
    zstd_bytes: int | None
    plain_zstd_bytes: int
    seconds: float

    def to_json(self) -> Json:
        """For reports and `--json`."""
        return asdict(self)

    def numbers(self) -> dict[str, float]:
        """For the manifest, which holds numbers: True is 1, what is unknown is left out."""
        named = {name: value for name, value in asdict(self).items() if name != "reason" and value is not None}
        return {f"slimming_{name}": float(value) for name, value in named.items()}


def sparsity(model: OnnxModel) -> float:
    """Share of zeros among the stored weights with two dimensions or more, in [0, 1]; 0 when there are none.

    A quantized weight is zero where it equals its zero point.

    Args:
        model: onnx.ModelProto.
    """
    onnx = onnx_module()
    kinds = onnx.TensorProto
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    readers = {node.input[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
    zeros = total = 0
    for name, tensor in tensors.items():
        weight = len(tensor.dims) >= 2 and not name.endswith("_scale")
        if weight and tensor.data_type in (kinds.FLOAT, kinds.FLOAT16, kinds.INT8, kinds.UINT8):
            value = onnx.numpy_helper.to_array(tensor)
            zeros += int((value == _zero_point(readers.get(name), tensors, value.ndim)).sum())
            total += value.size
    return zeros / total if total else 0.0


def _zero_point(reader: Any, tensors: Mapping[str, Any], dimensions: int) -> npt.NDArray[Any]:
    """The stored value that means zero: 0, or per channel the zero point of the node that dequantizes the weight."""
    if reader is None or len(reader.input) < 3 or reader.input[2] not in tensors:
        return np.zeros(1)
    point = onnx_module().numpy_helper.to_array(tensors[reader.input[2]])
    if point.size == 1:
        return np.asarray(point.reshape(1))
    axis = next((attribute.i for attribute in reader.attribute if attribute.name == "axis"), 1)
    return np.asarray(point.reshape([-1 if at == axis else 1 for at in range(dimensions)]))
