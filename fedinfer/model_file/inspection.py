"""Judging the bytes of a model before any runtime sees them.

Rules, each with a test in tests/unit/model_file/test_inspection.py:
* data lies in the file: a tensor that names another place is refused wherever it is (weights, sparse weights,
  attributes, graphs inside nodes, functions, training parts), because the runtime would open that place;
* only listed operators of listed domains; no functions, no training part, no control flow;
* outputs are tensors, and text comes out of "label" alone;
* sizes are bounded, and no tensor announces more elements than its bytes can hold;
* what the reader does not know is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from fedinfer.errors import GateFailed, Refusal
from fedinfer.model_file.limits import LIMITS, GraphLimits
from fedinfer.model_file.wire_format import Message, Reader

_STRING, _INT32, _INT64 = 8, 6, 7  # TensorProto.DataType
_ELEMENTS_PER_BYTE = 4  # the smallest type has 2 bits
_DATA = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data", "raw_data")
_TEXTS = ("name", "doc_string", "key", "value", "op_type", "domain", "denotation", "dim_param", "producer_name", "s")
_CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})
_SHOWN = 60  # characters of a name in an error
_MOST_SIZES = 64  # numbers of a shape that are read


@dataclass(frozen=True, slots=True)
class CheckedModel:
    """The bytes of a model that `check_model` found in order.

    Args:
        data: serialized ONNX model.
        sha256: of the data, hexadecimal.
        outputs: names of its outputs.
    """

    data: bytes = field(repr=False)
    sha256: str
    outputs: tuple[str, ...] = ()


def check_model(data: bytes, limits: GraphLimits = LIMITS) -> CheckedModel:
    """Judge a model file.

    Args:
        data: serialized ONNX model.
        limits: what it may hold.

    Raises:
        GateFailed: with the first rule that it breaks.
    """
    if not 1 <= len(data) <= limits.bytes:
        raise GateFailed(f"a model file of {len(data)} bytes, allowed are 1 to {limits.bytes}", Refusal.TOO_LARGE)
    judge = _Judge(limits)
    model = Reader(limits.fields, limits.nesting, judge.visit).read(memoryview(data), "ModelProto")
    graphs = model.messages("graph")
    if not graphs:
        raise GateFailed("a model file without a graph", Refusal.MALFORMED)
    return CheckedModel(data, hashlib.sha256(data).hexdigest(), _outputs(graphs[0], limits))


@dataclass(slots=True)
class _Judge:
    """Checks every message of a file once, the inner ones first."""

    limits: GraphLimits
    nodes: int = 0
    elements: int = 0

    def visit(self, message: Message) -> None:
        """Refuse a message that breaks a rule."""
        self._texts(message)
        match message.kind:
            case "TensorProto":
                self._tensor(message)
            case "SparseTensorProto" | "TensorShapeProto":
                self._shape(message)
            case "AttributeProto":
                _attribute(message)
            case "NodeProto":
                self._node(message)
            case "GraphProto":
                self._graph(message)
            case "OperatorSetIdProto":
                self._import(message)
            case "FunctionProto":
                raise GateFailed("the model has functions of its own", Refusal.FUNCTIONS)
            case "TrainingInfoProto":
                raise GateFailed("the model has a training part", Refusal.TRAINING)

    def _texts(self, message: Message) -> None:
        for name in _TEXTS:
            for value in message.fields.get(name, ()):
                if isinstance(value, memoryview) and len(value) > self.limits.text_bytes:
                    raise GateFailed(f"{message.kind}.{name} has {len(value)} bytes", Refusal.TOO_LARGE)

    def _tensor(self, tensor: Message) -> None:
        outside = bool(tensor.fields.get("external_data")) or any(tensor.numbers("data_location"))
        if outside and not self.limits.data_outside:
            raise GateFailed(f"the tensor {_shown(tensor)} lies outside the file", Refusal.EXTERNAL_DATA)
        if tensor.fields.get("segment"):
            raise GateFailed(f"the tensor {_shown(tensor)} is a part of another one", Refusal.MALFORMED)
        elements = _product(tensor.numbers("dims"), self.limits.elements)
        held = sum(tensor.payload(name) if name != "string_data" else _counted(tensor) for name in _DATA)
        if elements > _ELEMENTS_PER_BYTE * held and not outside:
            raise GateFailed(f"{elements} elements announced, {held} bytes are there", Refusal.MALFORMED)
        self.elements += elements
        if self.elements > self.limits.all_elements:
            raise GateFailed(f"more than {self.limits.all_elements} elements of weights", Refusal.TOO_LARGE)

    def _shape(self, message: Message) -> None:
        sizes = (size for dim in message.messages("dim") for size in dim.numbers("dim_value"))
        _product(sizes if message.kind == "TensorShapeProto" else message.numbers("dims"), self.limits.elements)

    def _node(self, node: Message) -> None:
        self.nodes += 1
        if self.nodes > self.limits.nodes:
            raise GateFailed(f"more than {self.limits.nodes} nodes", Refusal.TOO_LARGE)
        domain, operator = node.text("domain").decode("latin-1"), node.text("op_type").decode("latin-1")
        inner = any("g" in item.fields or "graphs" in item.fields for item in node.messages("attribute"))
        if (operator in _CONTROL_FLOW or inner) and operator not in self.limits.control_flow:
            raise GateFailed(f"operator {operator[:_SHOWN]!r} controls the flow", Refusal.CONTROL_FLOW)
        allowed = self.limits.domains.get(domain, frozenset())
        if node.text("overload") or (allowed is not None and operator not in allowed):
            raise GateFailed(
                f"operator {operator[:_SHOWN]!r} of domain {domain[:_SHOWN]!r} is not allowed", Refusal.OPERATOR
            )

    def _import(self, opset: Message) -> None:
        domain = opset.text("domain").decode("latin-1")
        if domain not in self.limits.domains and domain not in self.limits.imports:
            raise GateFailed(f"the model imports the domain {domain[:_SHOWN]!r}", Refusal.OPERATOR)

    def _graph(self, graph: Message) -> None:
        """Refuse a size that the graph itself names and that is too large."""
        constants = _constants(graph)
        for node in graph.messages("node"):
            operator, inputs = node.text("op_type").decode("latin-1"), node.texts("input")
            if operator == "Range":
                _check_range([constants.get(name) for name in inputs], self.limits.activation)
            for place in self.limits.size_inputs.get(operator, ()):
                sizes = constants.get(inputs[place]) if place < len(inputs) else None
                if sizes is not None:
                    _product((max(abs(size), 1) for size in sizes), self.limits.activation)


def _attribute(attribute: Message) -> None:
    if attribute.text("ref_attr_name") or "tp" in attribute.fields or "type_protos" in attribute.fields:
        raise GateFailed("an attribute is a reference or a type", Refusal.ATTRIBUTE)


def _outputs(graph: Message, limits: GraphLimits) -> tuple[str, ...]:
    """Names of the outputs, all of which are tensors."""
    names = []
    for output in graph.messages("output"):
        name = output.text("name").decode("latin-1")
        names.append(name)
        tensors = [kind for item in output.messages("type") for kind in item.messages("tensor_type")]
        if len(tensors) != 1:
            raise GateFailed(f"the output {name[:_SHOWN]!r} is no tensor", Refusal.OUTPUTS)
        if tensors[0].number("elem_type") == _STRING and name not in limits.text_outputs:
            raise GateFailed(f"the output {name[:_SHOWN]!r} is text", Refusal.OUTPUTS)
    return tuple(names)


def _constants(graph: Message) -> dict[bytes, list[int]]:
    """Small constants of whole numbers by name: initializers, and what nodes of the operator Constant say."""
    found = {tensor.text("name"): _whole(tensor) for tensor in graph.messages("initializer")}
    for node in graph.messages("node"):
        if node.text("op_type") == b"Constant" and (outputs := node.texts("output")):
            for attribute in node.messages("attribute"):
                tensors = attribute.messages("t")
                numbers = [*attribute.numbers("i"), *_first(attribute.numbers("ints"))]
                found[outputs[0]] = _whole(tensors[0]) if tensors else numbers or None
    return {name: numbers for name, numbers in found.items() if numbers is not None}


def _whole(tensor: Message) -> list[int] | None:
    """The first numbers of a tensor of whole numbers; None for other tensors."""
    kind = tensor.number("data_type")
    if kind not in (_INT32, _INT64):
        return None
    raw, size = tensor.text("raw_data"), 4 if kind == _INT32 else 8
    if raw:
        count = min(len(raw) // size, _MOST_SIZES)
        return [int(number) for number in np.frombuffer(raw, f"<i{size}", count)]
    return _first(tensor.numbers("int32_data" if kind == _INT32 else "int64_data"))


def _first(numbers: Iterator[int]) -> list[int]:
    return [number for number, _ in zip(numbers, range(_MOST_SIZES), strict=False)]


def _check_range(inputs: list[list[int] | None], most: int) -> None:
    if len(inputs) != 3 or any(not item for item in inputs):
        return
    start, limit, delta = (item[0] for item in inputs if item)
    if delta == 0 or abs(limit - start) // abs(delta) > most:
        raise GateFailed(f"a range of {start} to {limit} by {delta}", Refusal.TOO_LARGE)


def _product(sizes: Iterable[int], most: int) -> int:
    """How many elements a shape has."""
    elements = 1
    for size in sizes:
        if size < 0:
            raise GateFailed(f"a size of {size}", Refusal.MALFORMED)
        elements *= size
        if elements > most:
            raise GateFailed(f"more than {most} elements in one tensor", Refusal.TOO_LARGE)
    return elements


def _counted(tensor: Message) -> int:
    return len(tensor.fields.get("string_data", ()))


def _shown(tensor: Message) -> str:
    return repr(tensor.text("name")[:_SHOWN])
