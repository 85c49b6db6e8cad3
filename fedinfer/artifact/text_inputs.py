"""A graph for other runtimes: one named input per column, categories as text.

fedinfer's own devices look categories up from the schema and feed one float32 row. A program that only has onnxruntime
can use this variant instead: it feeds what a person would write, and the look-up is part of the graph.
"""

from __future__ import annotations

from typing import Any

from fedinfer.artifact.graph import OnnxModel, onnx_module
from fedinfer.errors import ConfigError
from fedinfer.manifest import INPUT
from fedinfer.schema import Categorical, Column, Schema


def with_text_inputs(model: OnnxModel, schema: Schema) -> OnnxModel:
    """A core or a published graph whose single input is replaced by one input per column.

    Args:
        model: with the input "input", float32 (batch, width).
        schema: of a table; its column names become the names of the inputs.

    Returns:
        The graph with inputs (batch, 1): float32 for a numeric column (NaN = missing), string for a categorical one
        (any other text = missing).

    Raises:
        ConfigError: when the schema describes no table.
    """
    if not schema.columns or schema.text is not None:
        raise ConfigError("text inputs need a table; this schema describes images, series or a text")
    onnx = onnx_module()
    named = onnx.ModelProto()
    named.CopyFrom(model)
    graph = named.graph
    rest = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    del graph.input[:], graph.node[:]
    parts = [_input(graph, place, column) for place, column in enumerate(schema.columns)]
    graph.node.append(onnx.helper.make_node("Concat", parts, [INPUT], name="columns/row", axis=1))
    graph.node.extend(rest)
    if not any(item.domain == "ai.onnx.ml" for item in named.opset_import):
        named.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", 4))
    return named


def _input(graph: Any, place: int, column: Column) -> str:
    """Declare the input of one column; returns the float32 (batch, 1) tensor it ends in."""
    onnx = onnx_module()
    text = isinstance(column, Categorical)
    kind = onnx.TensorProto.STRING if text else onnx.TensorProto.FLOAT
    graph.input.append(onnx.helper.make_tensor_value_info(column.name, kind, ["batch", 1]))
    if not isinstance(column, Categorical):
        return column.name
    found = f"columns_{place}"
    graph.node.append(
        onnx.helper.make_node(
            "LabelEncoder", [column.name], [found], name=f"columns/{place}", domain="ai.onnx.ml",
            keys_strings=list(column.categories), values_floats=[float(i) for i in range(len(column.categories))],
            default_float=float("nan"),
        )
    )  # fmt: skip
    return found
