"""Models that go bad after all gates of the server: files that are signed, pass the self-check, and fail on devices."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fedinfer.artifact.build import Built
from fedinfer.artifact.evaluate.self_check_rows import expected_answers

CLEAN = "clean_probabilities"
Change = Callable[[onnx.ModelProto, np.ndarray], None]


def tampered(built: Built, change: Change) -> Built:
    """The build with another file for the variant that is pushed; its manifest fits the new file."""
    model = onnx.load_from_string(built.files[built.chosen.name])
    change(model, np.asarray(built.check))
    file = model.SerializeToString()
    answers = expected_answers(file, built.check, built.head.schema)
    chosen = replace(
        built.chosen,
        sha256=hashlib.sha256(file).hexdigest(),
        bytes=len(file),
        labels=tuple(int(label) for label in answers.argmax(axis=1)),
        probabilities=tuple(tuple(round(float(p), 6) for p in row) for row in answers),
    )
    return replace(built, files=dict(built.files) | {chosen.name: file}, variants=(chosen, *built.variants[1:]))


def collapsed(model: onnx.ModelProto, _: np.ndarray) -> None:
    """All quantized weights are lost: every row gets the same answer."""
    small = (TensorProto.INT8, TensorProto.UINT8)
    weights = [tensor for tensor in model.graph.initializer if tensor.data_type in small and len(tensor.dims) > 1]
    assert weights
    for tensor in weights:
        tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(tensor)), tensor.name))


def not_a_number(model: onnx.ModelProto, check: np.ndarray) -> None:
    """NaN for every row but the self-check rows."""
    _last(model)
    _constant(model, "check", check.astype(np.float32)[None])
    _constant(model, "row_axis", np.array([1], np.int64))
    _constant(model, "column_axis", np.array([2], np.int64))
    _constant(model, "little", np.array(0.01, np.float32))
    _constant(model, "nan", np.array(np.nan, np.float32))
    model.graph.node.extend(
        [
            helper.make_node("Unsqueeze", ["input", "row_axis"], ["row"]),
            helper.make_node("Sub", ["row", "check"], ["difference"]),
            helper.make_node("Abs", ["difference"], ["distance"]),
            helper.make_node("ReduceSum", ["distance", "column_axis"], ["distances"], keepdims=0),
            helper.make_node("ReduceMin", ["distances", "row_axis"], ["nearest"], keepdims=1),
            helper.make_node("Greater", ["nearest", "little"], ["strange"]),
            helper.make_node("Where", ["strange", "nan", CLEAN], ["probabilities"]),
        ]
    )


def slow(model: onnx.ModelProto, _: np.ndarray) -> None:
    """The right answers after some tens of milliseconds of work for nothing."""
    _last(model)
    _constant(model, "large", np.full((700, 700), 1e-6, np.float32))
    _constant(model, "nothing", np.array(0.0, np.float32))
    nodes = [helper.make_node("ReduceMean", ["input"], ["scale"], keepdims=0)]
    nodes += [helper.make_node("Mul", ["large", "scale"], ["work0"])]
    nodes += [helper.make_node("MatMul", [f"work{i}", "large"], [f"work{i + 1}"]) for i in range(3)]
    nodes += [
        helper.make_node("ReduceMean", ["work3"], ["waste"], keepdims=0),
        helper.make_node("Mul", ["waste", "nothing"], ["none"]),
        helper.make_node("Add", [CLEAN, "none"], ["probabilities"]),
    ]
    model.graph.node.extend(nodes)


def _constant(model: onnx.ModelProto, name: str, value: np.ndarray) -> None:
    model.graph.initializer.append(numpy_helper.from_array(value, name))


def _last(model: onnx.ModelProto) -> None:
    """Everything that made or used the probabilities now makes or uses `clean_probabilities`."""
    for node in model.graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == "probabilities":
                    names[place] = CLEAN
