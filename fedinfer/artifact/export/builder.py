"""Puts an ONNX core together node by node; what a model kind, an estimator or a tree describes is written with it."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from fedinfer.artifact.export.graph import LOGITS, OnnxModel, onnx_module
from fedinfer.manifest import INPUT
from fedinfer.schema import Schema

_OPSETS = {"": 20, "ai.onnx.ml": 3}
_IR_VERSION = 10


class GraphBuilder:
    """A graph while it grows; see `fedinfer.ports.GraphWriter`. Equal constants are kept once."""

    def __init__(self) -> None:
        self._onnx = onnx_module()
        self._nodes: list[Any] = []
        self._tensors: list[Any] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def add(self, operator: str, *inputs: str, place: int = 0, domain: str = "", **attributes: Any) -> str:
        """Append a node and return the name of the output that is used.

        Args:
            operator: of `domain`.
            inputs: names of its inputs; "" for one that is left out.
            place: which of its outputs is used.
            domain: "" for ai.onnx.
            attributes: of the operator.
        """
        name = f"{operator.lower()}_{len(self._nodes)}"
        outputs = [""] * place + [name]
        node = self._onnx.helper.make_node(operator, list(inputs), outputs, name=name, domain=domain, **attributes)
        self._nodes.append(node)
        return name

    def constant(self, value: npt.NDArray[Any]) -> str:
        """Append a constant and return its name.

        Args:
            value: of any type that ONNX has.
        """
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._constants:
            self._constants[key] = self.weight(f"constant_{len(self._constants)}", value)
        return self._constants[key]

    def weight(self, name: str, value: npt.NDArray[Any]) -> str:
        """Append a constant under a name that others know and return that name.

        Args:
            name: unique in the graph.
            value: of any type that ONNX has.
        """
        self._tensors.append(self._onnx.numpy_helper.from_array(value, name))
        return name

    def model(self, logits: str, schema: Schema) -> OnnxModel:
        """The core.

        Args:
            logits: name of the value that becomes its output "logits"; no node reads it.
            schema: gives the width of the input and of the output.

        Returns:
            onnx.ModelProto.
        """
        helper, kind = self._onnx.helper, self._onnx.TensorProto.FLOAT
        node = next(node for node in self._nodes if logits in node.output)
        node.output[list(node.output).index(logits)] = LOGITS
        inputs = [helper.make_tensor_value_info(INPUT, kind, ["batch", schema.width])]
        outputs = [helper.make_tensor_value_info(LOGITS, kind, ["batch", schema.outputs])]
        graph = helper.make_graph(self._nodes, "core", inputs, outputs, self._tensors)
        used = {node.domain for node in self._nodes} | {""}
        opsets = [helper.make_opsetid(domain, version) for domain, version in _OPSETS.items() if domain in used]
        return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
