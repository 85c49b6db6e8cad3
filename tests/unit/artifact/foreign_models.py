"""Small graphs as other tools write them. Not a test itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fedinfer.system import simulation_rng

F, INT, TEXT = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING


def model_bytes(
    nodes: list, inputs: list, outputs: list, weights: dict[str, Any] | None = None, opset: int = 17, ml: int = 0
) -> bytes:
    """A graph of (op, inputs, outputs, attributes) nodes and (name, type, shape) ports."""
    made = [
        helper.make_node(op, ins, outs, **attributes)
        for op, ins, outs, attributes in ((*node, {})[:4] for node in nodes)
    ]
    graph = helper.make_graph(
        made,
        "g",
        [helper.make_tensor_value_info(*port) for port in inputs],
        [helper.make_tensor_value_info(*port) for port in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()],
    )
    imports = [helper.make_opsetid("", opset), *([helper.make_opsetid("ai.onnx.ml", ml)] if ml else [])]
    return bytes(helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString())


def weights(*shape: int, seed: int = 1) -> np.ndarray:
    """Drawn weights whose products stay near 1."""
    return simulation_rng(seed, "foreign", str(shape)).normal(0, shape[0] ** -0.5, shape).astype(np.float32)


def policy(opset: int = 17, batch: Any = "n") -> bytes:
    """obs (4) to logits of three actions."""
    return model_bytes(
        [("Gemm", ["obs", "w", "b"], ["h"]), ("Tanh", ["h"], ["t"]), ("MatMul", ["t", "v"], ["action_logits"])],
        [("obs", F, [batch, 4])],
        [("action_logits", F, [batch, 3])],
        {"w": weights(4, 16), "b": weights(16), "v": weights(16, 3)},
        opset,
    )


def softmax_pair() -> bytes:
    """Two inputs of different types, one of them tokens, to two outputs, one of them probabilities."""
    return model_bytes(
        [
            ("Gather", ["table", "tokens"], ["e"], {"axis": 0}),
            ("ReduceMean", ["e"], ["m"], {"axes": [1], "keepdims": 0}),
            ("Cast", ["mask"], ["k"], {"to": F}),
            ("Concat", ["m", "k"], ["c"], {"axis": 1}),
            ("MatMul", ["c", "w"], ["z"]),
            ("Softmax", ["z"], ["probs"], {"axis": -1}),
        ],
        [("tokens", INT, ["batch", "length"]), ("mask", TensorProto.BOOL, ["batch", 2])],
        [("probs", F, ["batch", 3]), ("m", F, ["batch", 5])],
        {"table": weights(20, 5), "w": weights(7, 3)},
    )


def stream(batch: Any = 1) -> bytes:
    """A cell with state whose axis of rows is the second one: x (3), h (2, batch, 2) to p (1) and hN."""
    return model_bytes(
        [
            ("ReduceSum", ["h", "zero"], ["s"], {"keepdims": 0}),
            ("Concat", ["x", "s"], ["c"], {"axis": 1}),
            ("MatMul", ["c", "w"], ["z"]),
            ("Sigmoid", ["z"], ["p"]),
            ("Mul", ["h", "half"], ["d"]),
            ("Add", ["d", "p"], ["hN"]),
        ],
        [("x", F, [batch, 3]), ("h", F, [2, batch, 2])],
        [("p", F, [batch, 1]), ("hN", F, [2, batch, 2])],
        {"w": weights(5, 1), "half": np.float32(0.5), "zero": np.array([0], np.int64)},
    )


def wards() -> bytes:
    """A column of texts and one of numbers, as a converted pipeline takes them, to one probability."""
    return model_bytes(
        [
            ("LabelEncoder", ["ward"], ["w"], {
                "domain": "ai.onnx.ml", "keys_strings": ["north", "south"], "values_floats": [1.0, -1.0],
                "default_float": 0.0,
            }),
            ("Add", ["w", "age"], ["z"]),
            ("Sigmoid", ["z"], ["p"]),
        ],
        [("ward", TEXT, ["n", 1]), ("age", F, ["n", 1])],
        [("p", F, ["n", 1])],
        ml=2,
    )  # fmt: skip


def with_outside_data(folder: Path, location: str = "weights.bin", offset: int = 8, length: int | None = None) -> Path:
    """The policy with its first weight in a file beside it."""
    model = onnx.load_model_from_string(policy())
    tensor = next(item for item in model.graph.initializer if item.name == "w")
    data = tensor.raw_data
    (folder / "weights.bin").write_bytes(b"\0" * 8 + data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length or len(data)))):
        tensor.external_data.add(key=key, value=value)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path
