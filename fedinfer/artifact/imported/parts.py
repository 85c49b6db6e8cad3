"""Nodes and constants around a graph of somebody else, whose names are replaced before."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.artifact.export.graph import OnnxModel
from fedinfer.artifact.quantize.schemes import AROUND


@dataclass(slots=True)
class Parts:
    """Nodes and constants that are put around a graph.

    Args:
        onnx: the package.
        core: the graph, already renamed.
        names: old name of a value to its new one.
        batch: first size of a Reshape: -1, or 1 where the graph takes one row at a time.
    """

    onnx: Any
    core: OnnxModel
    names: dict[str, str]
    batch: int
    count: int = 0
    front: list[Any] = field(default_factory=list)

    def constant(self, values: npt.NDArray[Any], name: str = "") -> str:
        """Add a constant and give its name.

        Args:
            values: of the constant.
            name: that it gets; empty: a fresh one.
        """
        name = name or self.fresh()
        self.core.graph.initializer.append(self.onnx.numpy_helper.from_array(values, name))
        return name

    def node(self, kind: str, inputs: list[str], output: str = "", *, first: bool = False, **attributes: Any) -> str:
        """Add a node behind the graph, or before it, and give the name of its output.

        Args:
            kind: operator.
            inputs: names of what it reads.
            output: name that it gets; empty: a fresh one.
            first: it comes before the graph.
            attributes: of the operator.
        """
        output = output or self.fresh()
        made = self.onnx.helper.make_node(kind, inputs, [output], name=f"{AROUND}{output}", **attributes)
        (self.front if first else self.core.graph.node).append(made)
        return output

    def nodes(self, kind: str, inputs: list[str], *, outputs: int = 1, **attributes: Any) -> list[str]:
        """Add a node with several outputs behind the graph, and give their names.

        Args:
            kind: operator.
            inputs: names of what it reads.
            outputs: how many.
            attributes: of the operator.
        """
        names = [self.fresh() for _ in range(outputs)]
        made = self.onnx.helper.make_node(kind, inputs, names, name=f"{AROUND}{names[0]}", **attributes)
        self.core.graph.node.append(made)
        return names

    def fresh(self) -> str:
        """A name that nothing has."""
        self.count += 1
        return f"around_{self.count}"

    def kind(self, dtype: str) -> int:
        """Number of a numpy dtype in ONNX.

        Args:
            dtype: its name.
        """
        return int(self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def rename(core: OnnxModel) -> dict[str, str]:
    """Give every value and node a number for a name, and drop every text that says something to people.

    Args:
        core: onnx.ModelProto; it is changed.

    Returns:
        New name of each value, by its old one.
    """
    graph, names = core.graph, {"": ""}

    def new(name: str) -> str:
        return names.setdefault(name, f"v{len(names)}")

    for item in (*graph.input, *graph.initializer, *graph.output):
        item.name = new(item.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = new(sparse.values.name)
    for place, node in enumerate(graph.node):
        for side in (node.input, node.output):
            renamed = [new(name) for name in side]
            del side[:]
            side.extend(renamed)
        node.name, node.doc_string = f"n{place}", ""
        del node.metadata_props[:]
    for texts in (graph.value_info, graph.quantization_annotation, graph.metadata_props, core.metadata_props):
        del texts[:]
    graph.name, graph.doc_string, core.doc_string = "core", "", ""
    for told in ("producer_name", "producer_version", "domain"):
        core.ClearField(told)
    return names
