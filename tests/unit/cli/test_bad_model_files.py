"""Files that are no good model: each ends `artifact import` with one clear line and exit code 2 or 5."""

from __future__ import annotations

import os
import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from fedinfer.cli.main import app
from tests.unit.artifact import foreign_models as foreign

F, RUNNER = foreign.F, CliRunner()
X, Y = [("x", F, ["n", 2])], [("y", F, ["n", 2])]


def graph(*nodes, weights=None, inputs=X, outputs=Y, **options):
    return foreign.model_bytes(list(nodes), inputs, outputs, weights, **options)


def changed(data, change):
    """The same model after something was done to its parsed form, without any check."""
    model = onnx.load_model_from_string(data)
    change(model)
    return model.SerializeToString()


def weighted(change):
    """x + w, after something was done to w."""
    data = graph(("Add", ["x", "w"], ["y"]), weights={"w": np.zeros(2, np.float32)})
    return changed(data, lambda model: change(model.graph.initializer[0]))


def claim(tensor):
    tensor.dims[0] = 2**30  # 4 GiB of float32


def sparse(model):
    """Two numbers that say they are 2^40."""
    values = numpy_helper.from_array(np.ones(2, np.float32), "s")
    places = numpy_helper.from_array(np.array([0, 1], np.int64), "at")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [2**20, 2**20]))


def outside(location):
    def change(tensor):
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)

    return change


def tile(times):
    return graph(
        ("Tile", ["x", "many"], ["t"]), ("ReduceSum", ["t", "last"], ["y"], {"keepdims": 1}),
        weights={"many": np.array([1, times], np.int64), "last": np.array([1], np.int64)},
        outputs=[("y", F, ["n", 1])],
    )  # fmt: skip


def doubling(times):
    """Each node doubles the width: no constant names the size that comes out."""
    nodes = [("Concat", [f"a{i}"] * 2, [f"a{i + 1}"], {"axis": 1}) for i in range(times)]
    return graph(
        ("Identity", ["x"], ["a0"]), *nodes, ("ReduceSum", [f"a{times}", "last"], ["y"], {"keepdims": 1}),
        weights={"last": np.array([1], np.int64)}, outputs=[("y", F, ["n", 1])],
    )  # fmt: skip


def control_flow():
    branch = helper.make_graph([], "b", [], [helper.make_tensor_value_info("x", F, None)])
    return graph(("If", ["x"], ["y"], {"then_branch": branch, "else_branch": branch}))


def two_inputs(model):
    model.graph.input.append(model.graph.input[0])


def two_outputs(model):
    model.graph.output.append(model.graph.output[0])


NEG, RUN = graph(("Neg", ["x"], ["y"])), ("--task", "tensors", "--range", "x=-1:1")
BAD = {
    "empty file": (b"", (), 5, "0 bytes"),
    "text": (b"import onnx\n", (), 5, "no well-formed ONNX file: ModelProto has no field"),
    "cut": (NEG[:-9], (), 5, "no well-formed ONNX file: a field of"),
    "trailing bytes": (NEG + b"\xff\xff", (), 5, "no well-formed ONNX file: the model file ends within"),
    "no graph": (helper.make_model(helper.make_graph([], "g", [], [])).SerializeToString()[:4], (), 5, "graph|field"),
    "empty graph": (graph(inputs=[], outputs=[]), (), 5, "the graph has no operator"),
    "no output": (graph(("Neg", ["x"], ["y"]), outputs=[]), (), 5, "the graph has no output"),
    "no input": (
        graph(("Constant", [], ["y"], {"value_floats": [1.0, 2.0]}), inputs=[]), (), 5, "the graph has no input"
    ),
    "old operator set": (foreign.policy(9), (), 5, "operator set 9, read are 11 to 23"),
    "new operator set": (graph(("Neg", ["x"], ["y"]), opset=24), (), 5, "operator set 24, read are 11 to 23"),
    "no operator set": (
        changed(NEG, lambda model: model.ClearField("opset_import")), (), 5, "operator set|opset"
    ),
    "unknown operator": (graph(("Nope", ["x"], ["y"])), (), 5, "Nope"),
    "unknown domain": (graph(("Nope", ["x"], ["y"], {"domain": "evil.corp"})), (), 5, "evil.corp"),
    "foreign operator": (graph(("Sampling", ["x"], ["y"], {"domain": "com.microsoft"})), (), 5, "Sampling"),
    "control flow": (control_flow(), (), 5, "controls the flow"),
    "missing input": (graph(("Add", ["x", "gone"], ["y"])), (), 5, "operator 'Add' reads 'gone', which nothing gives"),
    "missing output": (graph(("Neg", ["x"], ["z"])), (), 5, "y"),
    "cycle": (
        graph(("Add", ["x", "b"], ["a"]), ("Neg", ["a"], ["b"]), ("Neg", ["a"], ["y"])), (), 5, "later: a circle"
    ),
    "node that reads itself": (graph(("Add", ["x", "y"], ["y"])), (), 5, "made later: a circle"),
    "two nodes make one value": (
        graph(("Neg", ["x"], ["y"]), ("Abs", ["x"], ["y"])), (), 5, "two parts of the graph make the value 'y'"
    ),
    "two inputs of one name": (changed(NEG, two_inputs), (), 5, "two inputs of the graph are called 'x'"),
    "two outputs of one name": (changed(NEG, two_outputs), (), 5, "two outputs of the graph are called 'y'"),
    "two weights of one name": (
        changed(
            graph(("Add", ["x", "w"], ["y"]), weights={"w": np.zeros(2, np.float32)}),
            lambda model: model.graph.initializer.append(model.graph.initializer[0]),
        ),
        (), 5, "not unique",
    ),
    "4 GiB claimed": (weighted(claim), (), 5, "elements"),
    "more elements than bytes": (weighted(lambda w: w.dims.append(1000)), (), 5, "announced|elements"),
    "fewer bytes than a shape needs": (weighted(lambda w: setattr(w, "raw_data", b"\0" * 4)), RUN, 5, "size|bytes"),
    "negative size": (weighted(lambda w: w.dims.append(-1)), (), 5, "a size of -1"),
    "sparse weights": (changed(NEG, sparse), (), 5, "elements in one tensor"),
    "data elsewhere": (weighted(outside("/etc/passwd")), (), 5, "no file beside the model"),
    "data in a folder": (weighted(outside("../model.onnx")), (), 5, "no file beside the model"),
    "data that is not there": (weighted(outside("weights.bin")), (), 5, "No such file"),
    "huge constant size": (tile(2**40), (), 5, "elements in one tensor"),
    "memory": (doubling(30), RUN, 5, "fails when it runs: operator Concat|was ended"),
    "NaN": (graph(("Sqrt", ["x"], ["y"])), RUN, 5, "answers NaN or infinity for"),
    "wrong shape": (
        graph(("Reshape", ["x", "s"], ["y"]), weights={"s": np.array([7], np.int64)}), RUN, 5,
        "operator Reshape: .*cannot be reshaped",
    ),
    "text output": (graph(("Cast", ["x"], ["y"], {"to": 8}), outputs=[("y", 8, ["n", 2])]), RUN, 5, "is text"),
    "complex numbers": (graph(("Identity", ["x"], ["y"]), inputs=[("x", 14, ["n"])], outputs=[("y", 14, ["n"])]), (),
                        5, "complex64"),
    "control characters": (graph(("Neg", ["\x1b[2J"], ["y"]), inputs=[("\x1b[2J", F, ["n", 2])]), (), 5, "x1b"),
    "answer that grows": (graph(("Concat", ["x", "x"], ["y"], {"axis": 0})), RUN, 2, "no output is left"),
}  # fmt: skip


def imported(path, folder, *words):
    result = RUNNER.invoke(app, [str(word) for word in ("artifact", "import", path, "-o", folder, *words)])
    return result.exit_code, result.output


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_ends_with_one_clear_line_and_a_code(tmp_path, name):
    data, words, code, said = BAD[name]
    (tmp_path / "m.onnx").write_bytes(data)
    found, text = imported(tmp_path / "m.onnx", tmp_path / "m", *words)
    assert found == code, text
    assert re.search(said, " ".join(text.split())), text
    lines = text.strip().replace("\n  ", " ").splitlines()  # a long line is folded, with two spaces
    assert [line.split(": ")[0] for line in lines][1:] in ([], ["hint"]), text
    assert not set(text) & {"\x1b", "\x07"}
    assert not (tmp_path / "m").exists()


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, said in (
        (tmp_path / "pipe", "not a regular file"),
        (tmp_path, "directory"),
        (tmp_path / "gone", "No"),
    ):
        code, text = imported(path, tmp_path / "m", *RUN)
        assert (code, said in " ".join(text.split())) == (2, True), text
