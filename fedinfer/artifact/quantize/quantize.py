"""Applies one quantization scheme to one core. The gates decide whether the result is good enough, not this module."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from fedinfer.artifact.export.graph import OnnxModel, batch_rows, onnx_module, quiet
from fedinfer.artifact.quantize.schemes import AROUND, Activation, Method, QuantizedNodes, Scheme
from fedinfer.errors import ArtifactRejected
from fedinfer.manifest import INPUT

_WEIGHTED = ("Gemm", "MatMul", "Conv")
_SMALLEST = 8  # a shorter tensor costs more in extra nodes than it can save
_INTEGER_NODES = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "MatMulInteger", "ConvInteger", "QGemm", "QLinearMatMul", "QLinearConv",
     "DynamicQuantizeLSTM", "DynamicQuantizeMatMul"}
)  # fmt: skip


class NothingQuantized(ArtifactRejected):
    """The scheme changed no node; without this check it would pass every gate and save nothing."""


def prepare(core: OnnxModel) -> OnnxModel:
    """Fold constants and infer shapes; needed before every scheme.

    Symbolic shape inference is skipped: it fails on graphs that were exported with `optimize=False`. Inferred shapes
    are dropped again: dynamic quantization transposes weights and then refuses the shapes they had before. The core
    goes through a file: given in memory, onnxruntime 1.31 loses the table of a Gather.

    Args:
        core: onnx.ModelProto with input "input" and output "logits"; not changed.

    Returns:
        onnx.ModelProto that answers the same.
    """
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with quiet(), tempfile.TemporaryDirectory() as folder:
        source, path = Path(folder) / "core.onnx", Path(folder) / "prepared.onnx"
        onnx_module().save(core, source)
        quant_pre_process(source, path, skip_symbolic_shape=True)
        prepared = onnx_module().load(path)
        del prepared.graph.value_info[:]
        return prepared


def apply(recipe: Scheme, prepared: OnnxModel, calibration: npt.NDArray[np.float32]) -> OnnxModel:
    """A core quantized by a scheme.

    Args:
        recipe: the scheme.
        prepared: from `prepare`; not changed.
        calibration: public or synthetic rows, float32 (n, width), n >= 1; only static schemes read them.

    Raises:
        NothingQuantized: when no weight was quantized.
        ArtifactRejected: when onnxruntime cannot apply the scheme, or a weight does not fit into 16 bits.
    """
    match recipe.method:
        case Method.FLOAT:
            return prepared
        case Method.HALF_WEIGHTS:
            model, count = _store_weights(prepared, _half)
        case Method.INT8_WEIGHTS:
            model, count = _store_weights(prepared, _int8)
        case Method.DYNAMIC:
            model = _onnxruntime_quantize(_dynamic, recipe, prepared, calibration)
            count = quantized_nodes(model)
        case Method.STATIC:
            model = _onnxruntime_quantize(_static, recipe, prepared, calibration)
            count = quantized_nodes(model)
        case _:
            assert_never(recipe.method)
    if count == 0:
        raise NothingQuantized(f"{recipe.name}: 0 nodes quantized", hint="this kind of graph needs another scheme")
    return model


def quantized_nodes(model: OnnxModel) -> int:
    """How many integer nodes work on a stored 8-bit weight.

    Args:
        model: onnx.ModelProto.
    """
    onnx = onnx_module()
    eight_bit = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    weights = {t.name for t in model.graph.initializer if t.data_type in eight_bit and len(t.dims) >= 2}
    return sum(node.op_type in _INTEGER_NODES and bool(weights & set(node.input)) for node in model.graph.node)


def _onnxruntime_quantize(
    quantizer: Callable[[Scheme, OnnxModel, Path, npt.NDArray[np.float32]], None],
    recipe: Scheme,
    prepared: OnnxModel,
    calibration: npt.NDArray[np.float32],
) -> OnnxModel:
    with quiet(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quantized.onnx"
        try:
            quantizer(recipe, prepared, path, calibration)
            return onnx_module().load(path)
        except Exception as error:  # onnxruntime.quantization raises unrelated types; the next scheme is tried
            raise ArtifactRejected(f"{recipe.name}: {type(error).__name__}: {str(error)[:200]}") from error


def _dynamic(recipe: Scheme, prepared: OnnxModel, path: Path, calibration: npt.NDArray[np.float32]) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    around = _around(prepared)
    quantize_dynamic(_copy(prepared), path, per_channel=True, weight_type=QuantType.QInt8, nodes_to_exclude=around)


def _static(recipe: Scheme, prepared: OnnxModel, path: Path, calibration: npt.NDArray[np.float32]) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    kind = QuantType.QInt8 if _signed(recipe.activation) else QuantType.QUInt8
    constant_only, excluded = _scoped(recipe.scope, prepared)
    reader = _Rows(calibration, one_row=_one_row(prepared))
    quantize_static(
        _copy(prepared), path, reader, quant_format=QuantFormat.QDQ, activation_type=kind, weight_type=kind,
        op_types_to_quantize=[*_WEIGHTED, "Gather"] if constant_only else list(_WEIGHTED),
        nodes_to_exclude=[*excluded, *_around(prepared)],
        per_channel=True, calibrate_method=CalibrationMethod.MinMax, extra_options={"MatMulConstBOnly": constant_only},
    )  # fmt: skip


def _signed(activation: Activation) -> bool:
    match activation:
        case Activation.S8:
            return True
        case Activation.U8:
            return False
        case _:
            assert_never(activation)


def _scoped(scope: QuantizedNodes, prepared: OnnxModel) -> tuple[bool, list[str]]:
    """Whether products of two activations stay float, and which nodes do by name."""
    match scope:
        case QuantizedNodes.ALL:
            return False, []
        case QuantizedNodes.INNER:
            return False, _ends(prepared)
        case QuantizedNodes.CONSTANT_ONLY:
            return True, []
        case _:
            assert_never(scope)


class _Rows:
    """The calibration reader that onnxruntime asks for: batches until None."""

    def __init__(self, rows: npt.NDArray[np.float32], *, one_row: bool) -> None:
        step = 1 if one_row else min(256, batch_rows(rows.shape[1]))
        self._batches = iter([rows[i : i + step] for i in range(0, len(rows), step)])

    def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def _one_row(model: OnnxModel) -> bool:
    """Whether the graph takes one row at a time."""
    return bool(model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1)


def _ends(model: OnnxModel) -> list[str]:
    around = set(_around(model))
    names = [node.name for node in model.graph.node if node.op_type in _WEIGHTED and node.name not in around]
    return names[:1] + names[-1:]


def _around(model: OnnxModel) -> list[str]:
    """Nodes that stay as they are: a rounded filter bank, or rounded pixels, would be other rows."""
    return [node.name for node in model.graph.node if node.name.startswith(AROUND)]


def _store_weights(
    prepared: OnnxModel, store: Callable[[str, npt.NDArray[np.float32], int], tuple[list[Any], list[Any]]]
) -> tuple[OnnxModel, int]:
    """Store the weights smaller and widen them in the graph: activations stay float32, no calibration is needed."""
    onnx = onnx_module()
    model = _copy(prepared)
    consumers = {name: node for node in model.graph.node for name in node.input}
    stored = 0
    for tensor in list(model.graph.initializer):
        if tensor.name not in consumers or tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        if consumers[tensor.name].name.startswith(AROUND):
            continue
        value = onnx.numpy_helper.to_array(tensor)
        if value.ndim < 2 or value.size < _SMALLEST:
            continue
        nodes, tensors = store(tensor.name, value, _channel_axis(consumers[tensor.name], value.ndim))
        model.graph.initializer.remove(tensor)
        model.graph.initializer.extend(tensors)
        for node in reversed(nodes):
            model.graph.node.insert(0, node)
        stored += 1
    return model, stored


def _half(name: str, value: npt.NDArray[np.float32], axis: int) -> tuple[list[Any], list[Any]]:
    onnx = onnx_module()
    with np.errstate(over="ignore"):
        half = value.astype(np.float16)
    if not np.isfinite(half).all():
        raise ArtifactRejected(f"{name}: {float(np.abs(value).max()):.3g} does not fit into 16 bits")
    return [_cast(f"{name}_half", name)], [onnx.numpy_helper.from_array(half, f"{name}_half")]


def _int8(name: str, value: npt.NDArray[np.float32], axis: int) -> tuple[list[Any], list[Any]]:
    """Symmetric, one scale per channel: w ~ scale * q with q in [-127, 127] (Jacob et al. 2018, section 2.1).

    Cast and Mul instead of DequantizeLinear: onnxruntime folds them once when it loads the file, whereas it may turn
    DequantizeLinear and MatMul into one kernel that quantizes the activations too.
    """
    onnx = onnx_module()
    others = tuple(a for a in range(value.ndim) if a != axis)
    scale = (np.maximum(np.abs(value).max(axis=others, keepdims=True), 1e-12) / 127).astype(np.float32)
    quantized = np.clip(np.rint(value / scale), -127, 127).astype(np.int8)
    stored, scaled, wide = f"{name}_int8", f"{name}_scale", f"{name}_wide"
    nodes = [_cast(stored, wide), onnx.helper.make_node("Mul", [wide, scaled], [name], name=f"scale/{name}")]
    return nodes, [onnx.numpy_helper.from_array(quantized, stored), onnx.numpy_helper.from_array(scale, scaled)]


def _cast(stored: str, name: str) -> Any:
    onnx = onnx_module()
    return onnx.helper.make_node("Cast", [stored], [name], name=f"widen/{name}", to=onnx.TensorProto.FLOAT)


def _channel_axis(consumer: Any, dimensions: int) -> int:
    """The axis along which a weight gets its own scales: the output channels of the node that reads it."""
    if consumer.op_type == "MatMul":
        return dimensions - 1
    if consumer.op_type == "Gemm":
        transposed = any(a.name == "transB" and a.i for a in consumer.attribute)
        return 0 if transposed else 1
    return 1 if consumer.op_type in ("GRU", "LSTM", "RNN") else 0


def _copy(model: OnnxModel) -> OnnxModel:
    copy = onnx_module().ModelProto()
    copy.CopyFrom(model)
    return copy
