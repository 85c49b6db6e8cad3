"""What a model file may hold: every rule has a file that breaks it, and every place where a rule could be evaded."""

from __future__ import annotations

import ast
import struct
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, parser

from fedinfer.errors import GateFailed, Refusal
from fedinfer.model_file import check_model, open_checked
from fedinfer.model_file.inspection import CheckedModel
from fedinfer.model_file.limits import LIMITS, GraphLimits
from fedinfer.model_file.onnx_fields import MESSAGES, Scalar
from fedinfer.model_file.session import NOWHERE

TEXT = """<ir_version: 10, opset_import: ["" : 20, "ai.onnx.ml": 4]>
g (float[batch, 2] input) => (float[batch, 2] probabilities) { probabilities = Softmax(input) }"""
NUMBERS = np.arange(64, dtype=np.float32)


def plain() -> Any:
    return parser.parse_model(TEXT)


def outside(size: int = 64) -> TensorProto:
    """A tensor whose data lies in a file."""
    tensor = TensorProto(name="k", data_type=TensorProto.UINT8, dims=[size])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "secret"), ("offset", "0"), ("length", str(size))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def refused(model: Any, limits: GraphLimits = LIMITS) -> Refusal:
    with pytest.raises(GateFailed) as caught:
        check_model(model if isinstance(model, bytes) else model.SerializeToString(), limits)
    return caught.value.refusal


def inner_graph(tensor: TensorProto) -> Any:
    return helper.make_graph([], "inner", [], [], initializer=[tensor])


def places() -> dict[str, Any]:
    """The same tensor in every place of a file that can hold one."""
    models = {name: plain() for name in (
        "weight", "sparse values", "sparse indices", "attribute", "attributes", "sparse attribute", "function",
        "function attribute", "training", "inner graph", "inner graphs", "graph in a graph", "location alone",
        "data alone",
    )}  # fmt: skip
    sparse = onnx.SparseTensorProto(values=outside(), dims=[64])
    node = {name: model.graph.node[0] for name, model in models.items()}
    models["weight"].graph.initializer.append(outside())
    models["sparse values"].graph.sparse_initializer.append(sparse)
    indices = models["sparse indices"].graph.sparse_initializer.add(indices=outside(), dims=[64])
    indices.values.CopyFrom(numpy_helper.from_array(NUMBERS))
    node["attribute"].attribute.add(name="value", t=outside())
    node["attributes"].attribute.add(name="values", tensors=[outside()])
    node["sparse attribute"].attribute.add(name="sparse_value", sparse_tensor=sparse)
    body = helper.make_node("Constant", [], ["c"], value=outside())
    models["function"].functions.append(helper.make_function("f", "F", [], ["c"], [body], []))
    models["function attribute"].functions.add(name="F").attribute_proto.add(name="a", t=outside())
    models["training"].training_info.add(algorithm=inner_graph(outside()))
    node["inner graph"].attribute.add(name="body", g=inner_graph(outside()))
    node["inner graphs"].attribute.add(name="bodies", graphs=[inner_graph(outside())])
    deep = helper.make_graph([helper.make_node("If", ["c"], ["d"], then_branch=inner_graph(outside()))], "a", [], [])
    node["graph in a graph"].attribute.add(name="body", g=deep)
    lying = numpy_helper.from_array(NUMBERS, "k")
    lying.data_location = TensorProto.EXTERNAL
    models["location alone"].graph.initializer.append(lying)
    models["data alone"].graph.initializer.add(name="k", data_type=1, dims=[1], raw_data=b"1234").external_data.add(
        key="location", value="secret"
    )
    return models


PLACES = places()


@pytest.mark.parametrize("place", PLACES)
def test_data_outside_the_file_is_refused_wherever_it_hides(place: str) -> None:
    assert refused(PLACES[place]) is Refusal.EXTERNAL_DATA


def test_a_location_that_the_runtime_would_cut_to_external_is_refused() -> None:
    """An enum is cut to 32 bits when it is read: 2^32 + 1 is EXTERNAL to the runtime."""
    tensor = numpy_helper.from_array(NUMBERS, "k").SerializeToString() + b"\x70\x81\x80\x80\x80\x10"
    graph = plain().graph.SerializeToString() + b"\x2a" + bytes([0x80 | len(tensor) & 0x7F, len(tensor) >> 7]) + tensor
    rest = plain()
    rest.ClearField("graph")
    size = struct.pack("BB", 0x80 | len(graph) & 0x7F, len(graph) >> 7)
    assert refused(rest.SerializeToString() + b"\x3a" + size + graph) is Refusal.EXTERNAL_DATA


@pytest.mark.parametrize("location", ["secret", "./secret", "sub/../secret", "../{folder}/secret", "{path}/secret"])
def test_past_the_inspection_the_runtime_still_finds_no_file(
    location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session has no folder: the same bytes that a plain session would fill from the working directory fail."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "secret").write_bytes(bytes(range(64)))
    monkeypatch.chdir(tmp_path)
    model = parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[batch, 64] input) => (float[batch, 64] probabilities)'
        "{ z = Cast<to: int = 1>(k)  probabilities = Add(input, z) }"
    )
    tensor = outside()
    tensor.external_data[0].value = location.format(folder=tmp_path.name, path=tmp_path)
    model.graph.initializer.append(tensor)
    with pytest.raises(GateFailed) as caught:
        open_checked(CheckedModel(model.SerializeToString(), ""))
    assert caught.value.refusal is Refusal.NOT_LOADED
    assert not Path(NOWHERE).exists()


def changed(change: str) -> Any:
    model = plain()
    node = model.graph.node[0]
    match change:
        case "domain":
            node.domain = "com.example"
        case "operator":
            node.domain, node.op_type = "com.microsoft", "EPContext"
        case "overload":
            node.overload = "other"
        case "import":
            model.opset_import.append(helper.make_opsetid("com.example", 1))
        case "function":
            model.functions.add(name="F", domain="f")
        case "training":
            model.training_info.add()
        case "reference":
            node.attribute.add(name="axis", ref_attr_name="outer")
        case "type":
            node.attribute.add(name="type", tp=onnx.TypeProto())
        case "text output":
            model.graph.output.append(helper.make_tensor_value_info("secret", TensorProto.STRING, ["batch"]))
        case "map output":
            value = helper.make_tensor_type_proto(1, [1])
            model.graph.output.append(helper.make_value_info("m", helper.make_map_type_proto(7, value)))
        case "no type":
            model.graph.output.add(name="nothing")
        case "device":
            model.configuration.add(name="gpu")
        case "part":
            model.graph.initializer.add(name="k", data_type=1, dims=[1], raw_data=b"1234").segment.begin = 1
        case "graph":
            model.ClearField("graph")
    return model


CHANGES = {
    "domain": Refusal.OPERATOR, "operator": Refusal.OPERATOR, "overload": Refusal.OPERATOR, "import": Refusal.OPERATOR,
    "function": Refusal.FUNCTIONS, "training": Refusal.TRAINING, "reference": Refusal.ATTRIBUTE,
    "type": Refusal.ATTRIBUTE, "text output": Refusal.OUTPUTS, "map output": Refusal.OUTPUTS,
    "no type": Refusal.OUTPUTS, "device": Refusal.UNKNOWN_FIELD, "part": Refusal.MALFORMED, "graph": Refusal.MALFORMED,
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_graph_must_not_hold_is_refused(change: str) -> None:
    assert check_model(plain().SerializeToString()).outputs == ("probabilities",)
    assert refused(changed(change)) is CHANGES[change]


@pytest.mark.parametrize("operator", ["If", "Loop", "Scan", "SequenceMap"])
def test_control_flow_is_refused(operator: str) -> None:
    model = plain()
    model.graph.node.append(helper.make_node(operator, ["c"], ["d"], body=helper.make_graph([], "inner", [], [])))
    assert refused(model) is Refusal.CONTROL_FLOW


def test_a_graph_inside_any_other_operator_is_refused() -> None:
    model = plain()
    model.graph.node[0].attribute.add(name="body", g=helper.make_graph([], "inner", [], []))
    assert refused(model) is Refusal.CONTROL_FLOW


def test_a_graph_inside_a_listed_operator_is_walked_like_the_outer_one() -> None:
    """For importers that list an operator: its inner graphs keep all rules, to the depth of the table."""
    limits = GraphLimits(control_flow=frozenset({"If"}))
    model = plain()
    inner = helper.make_graph([], "inner", [], [])
    model.graph.node.append(helper.make_node("If", ["c"], ["d"], then_branch=inner))
    check_model(model.SerializeToString(), limits)
    bad = helper.make_graph([helper.make_node("Foreign", [], ["x"], domain="com.example")], "inner", [], [])
    model.graph.node[1].attribute[0].g.CopyFrom(bad)
    assert refused(model, limits) is Refusal.OPERATOR
    nested = inner
    for _ in range(8):
        nested = helper.make_graph([helper.make_node("If", ["c"], ["d"], then_branch=nested)], "inner", [], [])
    model.graph.node[1].attribute[0].g.CopyFrom(nested)
    assert refused(model, limits) is Refusal.TOO_DEEP


def sized(name: str) -> Any:
    model = plain()
    add = model.graph.initializer.append
    match name:
        case "announced":
            model.graph.initializer.add(name="k", data_type=1, dims=[1000, 1000], raw_data=b"12345678")
            return model, LIMITS, Refusal.MALFORMED
        case "negative":
            model.graph.initializer.add(name="k", data_type=1, dims=[-1, -1], raw_data=b"12345678")
            return model, LIMITS, Refusal.MALFORMED
        case "one":
            add(numpy_helper.from_array(NUMBERS, "k"))
            return model, GraphLimits(elements=63), Refusal.TOO_LARGE
        case "all":
            add(numpy_helper.from_array(NUMBERS, "k"))
            add(numpy_helper.from_array(NUMBERS, "l"))
            return model, GraphLimits(all_elements=127), Refusal.TOO_LARGE
        case "sparse":
            model.graph.sparse_initializer.add(dims=[2**20, 2**20])
            return model, LIMITS, Refusal.TOO_LARGE
        case "shape":
            model.graph.value_info.append(helper.make_tensor_value_info("x", 1, [2**20, 2**20]))
            return model, LIMITS, Refusal.TOO_LARGE
        case "nodes":
            model.graph.node.extend([helper.make_node("Relu", ["a"], [f"b{number}"]) for number in range(5)])
            return model, GraphLimits(nodes=5), Refusal.TOO_LARGE
        case "fields":
            return model, GraphLimits(fields=10), Refusal.TOO_LARGE
        case "text":
            model.doc_string = "x" * 100
            return model, GraphLimits(text_bytes=99), Refusal.TOO_LARGE
        case "bytes":
            return model, GraphLimits(bytes=20), Refusal.TOO_LARGE
        case operator:
            large = np.array([2**14, 2**14], np.int64)
            add(numpy_helper.from_array(large if operator != "Range" else np.array(2**40), "size"))
            add(numpy_helper.from_array(np.array(0), "zero"))
            add(numpy_helper.from_array(np.array(1), "step"))
            inputs = {"ConstantOfShape": ["size"], "Expand": ["input", "size"], "Tile": ["input", "size"],
                      "Resize": ["input", "", "", "size"], "Range": ["zero", "size", "step"]}[operator]  # fmt: skip
            model.graph.node.append(helper.make_node(operator, inputs, ["big"]))
            return model, LIMITS, Refusal.TOO_LARGE


SIZED = ["announced", "negative", "one", "all", "sparse", "shape", "nodes", "fields", "text", "bytes",
         "ConstantOfShape", "Expand", "Tile", "Resize", "Range"]  # fmt: skip


@pytest.mark.parametrize("name", SIZED)
def test_what_is_too_large_is_refused(name: str) -> None:
    model, limits, refusal = sized(name)
    assert refused(model, limits) is refusal


def test_a_size_that_a_constant_node_names_counts_too() -> None:
    model = plain()
    model.graph.node.append(helper.make_node("Constant", [], ["size"], value_ints=[2**14, 2**14]))
    model.graph.node.append(helper.make_node("Tile", ["input", "size"], ["big"]))
    assert refused(model) is Refusal.TOO_LARGE


def test_files_that_two_readers_could_understand_differently_are_refused() -> None:
    data = plain().SerializeToString()
    graph = plain().graph.SerializeToString()
    assert refused(data + b"\x3a" + bytes([len(graph)]) + graph) is Refusal.MALFORMED  # graphs would be merged
    assert refused(data + b"\x08\x0a") is Refusal.MALFORMED  # ir_version twice
    assert refused(data + b"\x0b\x0c") is Refusal.MALFORMED  # a group
    assert refused(data + b"\x2b\x2c") is Refusal.MALFORMED  # and one in place of model_version, which comes once
    assert refused(data + b"\xba\x80\x80\x80\x10\x00") is Refusal.MALFORMED  # a tag of more than 32 bits
    assert refused(data + b"\xb2\x80\x80\x80\x10\x00") is Refusal.MALFORMED  # cut to 32 bits it is doc_string's
    assert refused(data + b"\x92\x06\x00") is Refusal.UNKNOWN_FIELD
    assert refused(data + b"\x28" + b"\xff" * 10 + b"\x01") is Refusal.MALFORMED  # a number of more than 64 bits
    assert refused(data[:-1]) is Refusal.MALFORMED


def test_the_table_of_fields_is_that_of_onnx() -> None:
    """Numbers, names, kinds and repetition, message by message; what the table leaves out is refused."""
    left_out = {("ModelProto", "configuration"), ("NodeProto", "device_configurations"), ("TypeProto", "opaque_type")}
    kinds = {2: Scalar.FIXED32, 1: Scalar.FIXED64, 9: Scalar.BYTES, 12: Scalar.BYTES}
    waiting, seen = [onnx.ModelProto.DESCRIPTOR], set()
    while waiting:
        described = waiting.pop()
        name = described.full_name.removeprefix("onnx.").removeprefix("TensorProto.").removeprefix("TensorShapeProto.")
        name = f"TensorShapeProto.{name}" if name == "Dimension" else name
        if name in seen:
            continue
        seen.add(name)
        for field in described.fields:
            if (name, field.name) in left_out:
                assert field.number not in MESSAGES[name]
                continue
            ours = MESSAGES[name][field.number]
            assert (ours.name, ours.repeated) == (field.name, field.is_repeated), (name, field.name)
            if field.message_type is None:
                assert ours.kind is kinds.get(field.type, Scalar.VARINT), (name, field.name)
            else:
                assert field.message_type.full_name.endswith(str(ours.kind)), (name, field.name)
                waiting.append(field.message_type)
    assert seen == set(MESSAGES)


@given(st.binary(max_size=300))
def test_any_bytes_are_judged_or_refused_with_a_typed_error(data: bytes) -> None:
    with pytest.raises(GateFailed):
        check_model(data, GraphLimits(fields=1000))


WHOLE = PLACES["graph in a graph"].SerializeToString()


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255), st.integers(0, len(WHOLE)))
def test_a_changed_or_cut_file_never_brings_outside_data_past_the_judge(place: int, value: int, end: int) -> None:
    """What passes after a change holds no outside data for onnx's own reader either."""
    data = (WHOLE[:place] + bytes([value]) + WHOLE[place + 1 :])[:end]
    try:
        check_model(data)
    except GateFailed:
        return
    text = str(onnx.load_model_from_string(data))
    assert "external_data" not in text
    assert "EXTERNAL" not in text


def test_one_module_makes_sessions_and_takes_judged_bytes_only() -> None:
    """No other line calls the constructor of the runtime; its own quantizer opens files that were judged before."""
    root = Path(__file__).parents[3] / "fedinfer"
    makers = []
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            name = node.func if isinstance(node, ast.Call) else None
            called = name.attr if isinstance(name, ast.Attribute) else name.id if isinstance(name, ast.Name) else ""
            if called in ("InferenceSession", "InferenceSessionWithScores", "C_InferenceSession"):
                makers.append(path.relative_to(root).as_posix())
    assert makers == ["model_file/session.py"]
    assert open_checked.__annotations__["model"] == "CheckedModel"
