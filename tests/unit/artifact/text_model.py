"""A core on token numbers whose answers show every token: for the tests of graphs that take texts."""

from typing import Any

import numpy as np

from fedinfer.artifact.export.graph import LOGITS, OutputHead, finish, onnx_module
from fedinfer.manifest import INPUT
from fedinfer.schema import Schema, Text

COLUMN = Text("note", 8, ("good", "bad", "not", "it's", "caf\u00e9", "e\u0301", "\U0001f600", "0"))
SCHEMA = Schema((COLUMN,), "verdict", ("no", "yes"))


def token_core(schema: Schema = SCHEMA, opset: int = 20) -> Any:
    """Logits (sum over places of table[token] * (place + 1)): embeds, so that recipes for embeddings apply."""
    onnx = onnx_module()
    text = schema.text
    assert text is not None
    rng = np.random.default_rng(1)
    table = 0.3 * rng.normal(size=(text.last + 1, 16)).astype(np.float32)
    table[0] = 0
    head = rng.normal(size=(16, schema.classes)).astype(np.float32)
    places = np.linspace(0.5, 1.5, text.length, dtype=np.float32)[None, :, None]
    constants = {"table": table, "head": head, "places": places, "axis": np.array([1], np.int64)}
    make = onnx.helper.make_node
    nodes = [
        make("Cast", [INPUT], ["whole"], name="whole", to=onnx.TensorProto.INT64),
        make("Gather", ["table", "whole"], ["embedded"], name="embedded"),
        make("Mul", ["embedded", "places"], ["weighted"], name="weighted"),
        make("ReduceSum", ["weighted", "axis"], ["sum"], name="sum", keepdims=0),
        make("MatMul", ["sum", "head"], [LOGITS], name="head_product"),
    ]
    info, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes, "core", [info(INPUT, kind, ["batch", text.length])], [info(LOGITS, kind, ["batch", schema.classes])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=10)


def text_file(schema: Schema = SCHEMA, version: int = 1) -> bytes:
    """A published graph of texts."""
    return finish(token_core(schema), OutputHead(schema, 1.0, "notes", version))
