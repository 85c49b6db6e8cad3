"""What can be read from a graph: names, types and sizes of its inputs and outputs, class names, operators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedinfer.artifact.export.graph import OnnxModel, onnx_module
from fedinfer.errors import ArtifactRejected
from fedinfer.printable import STEERING
from fedinfer.tensors import FLOATING, WHOLE

TEXT = "string"
OLDEST, NEWEST = 11, 23
"""Operator sets that are read."""
LONGEST_NAME = 200
_LABELS = ("classlabels_strings", "classlabels_int64s", "classlabels_ints")
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger")
CLASSIFIERS = ("TreeEnsembleClassifier", "LinearClassifier", "SVMClassifier")
REGRESSORS = ("TreeEnsembleRegressor", "LinearRegressor", "SVMRegressor")


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a graph.

    Args:
        name: in the graph.
        dtype: name of a numpy dtype, or TEXT.
        sizes: of each axis: a number, or the name of a free one, empty when it has none; None: the graph does not say.
    """

    name: str
    dtype: str
    sizes: tuple[int | str, ...] | None


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """What a graph says.

    Args:
        inputs, outputs: in the order of the graph.
        opset: of the standard operators.
        operators: how often each is used.
        producers: operator that makes each output.
        classes: class names that a classifier lists; empty where none does.
        categories: texts that the graph knows of an input of texts, by input.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    opset: int
    operators: Mapping[str, int]
    producers: Mapping[str, str]
    classes: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]]

    @property
    def quantized(self) -> bool:
        """Whether it works on 8-bit integers already."""
        return any(name in self.operators for name in _QUANTIZED)


def read_facts(model: OnnxModel, data: bytes | None = None) -> GraphFacts:
    """Read a parsed graph.

    Args:
        model: onnx.ModelProto of a file that `check_model` accepted; its texts are still untrusted.
        data: that file, where the caller has it; None: it is written once more.

    Raises:
        ArtifactRejected: another operator set, a type that rows cannot have, a name that cannot be shown, or a graph
            that onnx finds wrong (operators that do not exist, an input that nobody gives, a cycle).
    """
    _check(model, data)
    graph = model.graph
    given = {tensor.name for tensor in graph.initializer}
    made = {name: node for node in graph.node for name in node.output}
    return GraphFacts(
        inputs=tuple(_port(item, "input") for item in graph.input if item.name not in given),
        outputs=tuple(_port(item, "output") for item in graph.output),
        opset=_opset(model),
        operators=dict(sorted(Counter(node.op_type for node in graph.node).items())),
        producers={item.name: made[item.name].op_type for item in graph.output if item.name in made},
        classes=_classes(graph),
        categories=_categories(graph),
    )


def _check(model: OnnxModel, data: bytes | None) -> None:
    onnx, opset = onnx_module(), _opset(model)
    if not OLDEST <= opset <= NEWEST:
        raise ArtifactRejected(
            f"operator set {opset}, read are {OLDEST} to {NEWEST}",
            hint=f"export the model with an opset_version of {OLDEST} to {NEWEST}",
        )
    _check_order(model.graph)
    try:
        onnx.checker.check_model(model if data is None else data)
    except (ValueError, onnx.checker.ValidationError) as error:
        first = (str(error).splitlines() or ["no reason given"])[0]
        raise ArtifactRejected(f"not a valid ONNX graph: {ascii(first)[1:-1][:200]}") from error


def _check_order(graph: Any) -> None:
    """Every value is made once, before it is read, and something goes in and comes out."""
    given = {tensor.name for tensor in graph.initializer} | {item.values.name for item in graph.sparse_initializer}
    asked = [item.name for item in graph.input if item.name not in given]
    for what, items in (("operator", graph.node), ("input", asked), ("output", graph.output)):
        if not items:
            raise ArtifactRejected(f"the graph has no {what}")
    for what, names in (("inputs", asked), ("outputs", [item.name for item in graph.output])):
        twice = next((name for name, count in Counter(names).items() if count > 1), None)
        if twice is not None:
            raise ArtifactRejected(f"two {what} of the graph are called {_cut(twice)}")
    known, made = {"", *given, *asked}, {name for node in graph.node for name in node.output}
    for node in graph.node:
        unknown = next((name for name in node.input if name not in known), None)
        if unknown is not None:
            why = "made later: a circle, or operators out of order" if unknown in made else "which nothing gives"
            raise ArtifactRejected(f"operator {_cut(node.op_type)} reads {_cut(unknown)}, {why}")
        for name in node.output:
            if name and name in known:
                raise ArtifactRejected(f"two parts of the graph make the value {_cut(name)}")
            known.add(name)


def _cut(name: str) -> str:
    return ascii(name)[:80]


def _opset(model: OnnxModel) -> int:
    return max((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), default=OLDEST)


def _port(item: Any, what: str) -> Port:
    if not item.name or len(item.name) > LONGEST_NAME or STEERING.search(item.name):
        raise ArtifactRejected(f"an {what} is called {ascii(item.name)[:80]}", hint="names are short and plain text")
    kind = item.type.tensor_type
    if item.type.WhichOneof("value") != "tensor_type":
        raise ArtifactRejected(f"{what} {item.name} is no tensor")
    try:
        dtype = str(onnx_module().helper.tensor_dtype_to_np_dtype(kind.elem_type))
    except (KeyError, TypeError) as error:
        raise ArtifactRejected(f"{what} {item.name} has the unknown type {kind.elem_type}") from error
    dtype = TEXT if dtype == "object" else dtype
    if dtype not in (*FLOATING, *WHOLE, TEXT):
        raise ArtifactRejected(f"{what} {item.name} is of type {dtype}, which rows cannot have")
    sizes = tuple(_size(dim, item.name) for dim in kind.shape.dim) if kind.HasField("shape") else None
    return Port(item.name, dtype, sizes)


def _size(dim: Any, name: str) -> int | str:
    if dim.WhichOneof("value") == "dim_value":
        return int(dim.dim_value) or ""  # a size of 0 is how some exporters say that it is free
    if STEERING.search(dim.dim_param) or len(dim.dim_param) > LONGEST_NAME:
        raise ArtifactRejected(f"a size of {name} is called {ascii(dim.dim_param)[:80]}")
    return str(dim.dim_param)


def _classes(graph: Any) -> tuple[str, ...]:
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in _LABELS and (attribute.strings or attribute.ints):
                found = tuple(_text(label) for label in attribute.strings) or tuple(map(str, attribute.ints))
                if any(STEERING.search(label) or not label for label in found):
                    raise ArtifactRejected("a class name of the graph is empty or holds a control character")
                return found
    return ()


def _categories(graph: Any) -> dict[str, tuple[str, ...]]:
    """Texts that an operator lists which reads an input directly."""
    names, found = {item.name for item in graph.input}, {}
    for node in graph.node:
        for attribute in node.attribute:
            if node.input and node.input[0] in names and attribute.name in ("cats_strings", "keys_strings"):
                found[node.input[0]] = tuple(_text(text) for text in attribute.strings)
    return found


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ArtifactRejected("a text of the graph is not UTF-8") from error
