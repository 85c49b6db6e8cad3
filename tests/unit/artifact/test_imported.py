"""Models that were made elsewhere: what is read, what is asked for, and that the core answers as the graph does.

Everything here is pure or runs a graph in this process; confined runs are in test_imported_confined.py.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedinfer.artifact.export.graph import LOGITS, OutputHead, finish, run
from fedinfer.artifact.imported.adapt import adapt, feeds_of, schema_of
from fedinfer.artifact.imported.declaration import Declaration, InputSpec, ModelTask, OutputSpec, Use
from fedinfer.artifact.imported.facts import read_facts
from fedinfer.artifact.imported.image import Image
from fedinfer.artifact.imported.model_toml import from_toml, to_toml
from fedinfer.artifact.imported.outside import parse, read_model
from fedinfer.artifact.imported.pixels import raw_tensor
from fedinfer.artifact.imported.propose import Wishes, propose_inputs, propose_outputs, states_of
from fedinfer.artifact.imported.trial import answers_of, calibration_rows
from fedinfer.artifact.imported.watch import watched_of, with_watch
from fedinfer.errors import ArtifactRejected, ConfigError, GateFailed
from fedinfer.manifest import LABEL, PROBABILITIES, TOP, VALUE
from fedinfer.model_file import check_model, open_checked
from fedinfer.schema import Categorical, Numeric
from fedinfer.system import simulation_rng
from tests.unit.artifact import foreign_models as foreign


def facts(data):
    return read_facts(parse(data))


def declared(data, wishes, seen, axes, calibration=None):
    found = facts(data)
    inputs, one_row = propose_inputs(found, wishes, calibration or {})
    task, labels, outputs = propose_outputs(found, wishes, seen, axes, inputs)
    return Declaration("m", task, "label", labels, one_row, wishes.missing, "0" * 64, inputs, outputs)


def test_names_types_sizes_and_operators_are_read_from_the_graph():
    found = facts(foreign.softmax_pair())
    assert [(port.name, port.dtype, port.sizes) for port in found.inputs] == [
        ("tokens", "int64", ("batch", "length")), ("mask", "bool", ("batch", 2)),
    ]  # fmt: skip
    assert found.producers["probs"] == "Softmax"
    assert found.opset == 17
    assert not found.quantized


def test_everything_that_the_graph_does_not_say_is_asked_for_at_once():
    with pytest.raises(ConfigError) as caught:
        propose_inputs(facts(foreign.softmax_pair()), Wishes(), {})
    assert "free size 'length' at axis 1" in str(caught.value)
    assert caught.value.hint == "--size length=NUMBER"
    with pytest.raises(ConfigError, match="range of input tokens") as caught:
        propose_inputs(facts(foreign.softmax_pair()), Wishes(sizes={"length": 4}), {})
    assert "--range tokens=LOW:HIGH" in caught.value.hint


@pytest.mark.parametrize("sizes", [{"length": 4}, {"tokens:1": 4}])
def test_several_inputs_of_different_types_answer_through_one_row_as_the_graph_does(sizes):
    data, rng = foreign.softmax_pair(), simulation_rng("rows")
    tokens, mask = rng.integers(0, 20, (7, 4)), rng.integers(0, 2, (7, 2)).astype(bool)
    session = open_checked(check_model(data))
    expected = session.run(["probs"], {"tokens": tokens, "mask": mask})[0]
    wishes = Wishes(sizes=sizes, ranges={"tokens": (0, 19)}, labels=("a", "b", "c"))
    found = declared(data, wishes, {"probs": expected, "m": expected}, {"probs": 0, "m": 0})
    assert (found.task, found.outputs[0].use) == (ModelTask.CLASSIFICATION, Use.PROBABILITIES)
    rows = np.concatenate([tokens, mask], axis=1).astype(np.float32)
    core = adapt(parse(data), found)
    said = run(finish(core, OutputHead(schema_of(found), 1.0, "m", 1)), rows, PROBABILITIES)
    np.testing.assert_allclose(said, expected, atol=1e-6)
    np.testing.assert_allclose(answers_of(found, {"probs": expected}), expected)
    for name, value in feeds_of(found, rows).items():
        np.testing.assert_array_equal(value, {"tokens": tokens, "mask": mask}[name])


def test_a_softmax_is_undone_by_reading_what_it_reads():
    data = foreign.softmax_pair()
    seen = np.full((6, 3), 1 / 3)
    wishes = Wishes(sizes={"length": 4}, ranges={"tokens": (0, 19)}, outputs=("probs",))
    core = adapt(parse(data), declared(data, wishes, {"probs": seen, "m": seen}, {"probs": 0, "m": 0}))
    assert "Log" not in {node.op_type for node in core.graph.node}


def test_state_with_its_own_axis_of_rows_comes_back_as_it_went_in():
    data = foreign.stream()
    found = facts(data)
    assert states_of(found, Wishes()) == {"h": "hN"}
    rng = simulation_rng("rows")
    x, h = rng.uniform(-1, 1, (5, 3)).astype(np.float32), rng.uniform(-1, 1, (5, 2, 2)).astype(np.float32)
    session = open_checked(check_model(data))
    runs = [session.run(None, {"x": x[i : i + 1], "h": h[i][:, None]}) for i in range(5)]
    seen = {"p": np.concatenate([p for p, _ in runs]), "hN": np.stack([n[:, 0] for _, n in runs])}
    wishes = Wishes(task=ModelTask.SCORES, labels=("speech",), ranges={"x": (-1, 1)})
    declaration = declared(data, wishes, seen, {"p": 0, "hN": 1})
    assert declaration.one_row
    assert [(spec.name, spec.feeds) for spec in declaration.outputs] == [("p", ""), ("hN", "h")]
    schema = schema_of(declaration)
    assert schema.kind == "scores"
    file = finish(adapt(parse(data), declaration), OutputHead(schema, 1.0, "m", 1))
    rows = np.concatenate([x, h.reshape(5, 4)], axis=1)
    np.testing.assert_allclose(run(file, rows, VALUE), answers_of(declaration, seen), atol=1e-6)


def test_texts_and_numbers_of_a_pipeline_are_columns_with_categories_from_the_graph():
    data = foreign.wards()
    session = open_checked(check_model(data))
    wards, ages = np.array([["north"], ["south"], [""]], object), np.array([[0.5], [0.1], [-2]], np.float32)
    expected = session.run(None, {"ward": wards, "age": ages})[0]
    wishes = Wishes(task=ModelTask.CLASSIFICATION, ranges={"age": (-3, 3)}, labels=("well", "ill"))
    found = declared(data, wishes, {"p": expected}, {"p": 0})
    schema = schema_of(found)
    assert schema.columns == (Categorical("ward", ("north", "south")), Numeric("age", -3, 3))
    rows = calibration_rows(found, {"ward": wards, "age": ages})
    assert np.isnan(rows[2, 0])
    said = run(finish(adapt(parse(data), found), OutputHead(schema, 1.0, "m", 1)), rows, PROBABILITIES)
    np.testing.assert_allclose(said[:, 1:], expected, atol=1e-6)


LOGITS_SEEN = np.array([[3.0, -1.0, 0.2]] * 6)


@pytest.mark.parametrize("opset", [11, 13, 17, 20])
def test_operator_sets_11_to_23_are_read(opset):
    data = foreign.policy(opset)
    wishes = Wishes(task=ModelTask.CLASSIFICATION, ranges={"obs": (-2, 2)}, columns=("x", "dx", "a", "da"))
    found = declared(data, wishes, {"action_logits": LOGITS_SEEN}, {"action_logits": 0})
    assert found.outputs[0].use is Use.LOGITS
    assert found.labels == ("0", "1", "2")
    rows = simulation_rng("rows").uniform(-2, 2, (9, 4)).astype(np.float32)
    expected = open_checked(check_model(data)).run(None, {"obs": rows})[0]
    core = adapt(parse(data), found)
    np.testing.assert_allclose(run(core.SerializeToString(), rows, LOGITS), expected, atol=1e-6)
    said = run(finish(core, OutputHead(schema_of(found), 1.0, "m", 1)), rows, PROBABILITIES)
    np.testing.assert_array_equal(said.argmax(axis=1), expected.argmax(axis=1))


@pytest.mark.parametrize(
    ("use", "values", "expected"),
    [
        (Use.PROBABILITY, [[0.25]], [[0.75, 0.25]]),
        (Use.LOGIT, [[0.0]], [[0.5, 0.5]]),
        (Use.LOGITS, [[0.0, np.log(3)]], [[0.25, 0.75]]),
        (Use.PROBABILITIES, [[0.25, 0.75]], [[0.25, 0.75]]),
        (Use.CLASS, [[1.0]], [[0.0, 1.0]]),
    ],
)
def test_every_form_of_a_class_becomes_probabilities(use, values, expected):
    values = np.array(values, np.float32)
    size = values.shape[1]
    data = foreign.model_bytes(
        [("Identity", ["x"], ["y"])], [("x", foreign.F, ["n", size])], [("y", foreign.F, ["n", size])]
    )
    found = Declaration(
        "m", ModelTask.CLASSIFICATION, "label", ("a", "b"), False, False, "",
        (InputSpec("x", "float32", (size,), 0, -9, 9),), (OutputSpec("y", "float32", (size,), 0, use),),
    )  # fmt: skip
    said = run(finish(adapt(parse(data), found), OutputHead(schema_of(found), 1.0, "m", 1)), values, PROBABILITIES)
    np.testing.assert_allclose(said, expected, atol=1e-6)
    np.testing.assert_allclose(answers_of(found, {"y": values}), expected, atol=1e-6)


def test_half_precision_inside_is_float32_outside():
    data = foreign.model_bytes(
        [("Mul", ["x", "two"], ["y"])],
        [("x", 10, ["n", 2])], [("y", 10, ["n", 2])], {"two": np.float16(2)},
    )  # fmt: skip
    wishes = Wishes(task=ModelTask.TENSORS, ranges={"x": (-1, 1)})
    found = declared(data, wishes, {"y": np.array([[-2.0, 2.0]] * 6)}, {"y": 0})
    rows = np.array([[0.5, -0.25]], np.float32)
    said = run(finish(adapt(parse(data), found), OutputHead(schema_of(found), 1.0, "m", 1)), rows, VALUE)
    np.testing.assert_allclose(said, [[1.0, -0.5]], atol=1e-3)


def test_no_name_of_a_graph_survives_in_its_core():
    evil = foreign.model_bytes(
        [("Identity", ["x"], ["fedinfer_labels"], {"name": "fedinfer/label"}), ("Neg", ["fedinfer_labels"], ["y"])],
        [("x", foreign.F, ["n", 2])], [("y", foreign.F, ["n", 2])],
    )  # fmt: skip
    wishes = Wishes(task=ModelTask.CLASSIFICATION, ranges={"x": (-1, 1)})
    found = declared(evil, wishes, {"y": np.array([[-2.0, 2.0]] * 6)}, {"y": 0})
    core = adapt(parse(evil), found)
    texts = [name for node in core.graph.node for name in (node.name, *node.input, *node.output)]
    assert not any("fedinfer" in text for text in texts)
    rows = np.array([[0.5, -0.25]], np.float32)
    said = run(finish(core, OutputHead(schema_of(found), 1.0, "m", 1)), rows, PROBABILITIES)
    assert said.argmax() == 1


def test_a_declaration_comes_back_from_its_file_and_odd_names_stay_texts():
    data = foreign.stream()
    seen = {"p": np.full((6, 1), 0.5), "hN": np.zeros((6, 2, 2))}
    wishes = Wishes(task=ModelTask.SCORES, labels=('quo"te\\',), ranges={"x": (-1, 1)}, constants={})
    found = declared(data, wishes, seen, {"p": 0, "hN": 1})
    constant = replace(found.inputs[0], name="sr", dtype="int64", shape=(), axis=None, constant=16000.0)
    found = with_watch(replace(found, inputs=(*found.inputs, constant)))
    assert found.inputs[0].watch == ("mean", "spread")
    text = to_toml(found)
    read = from_toml(text, "model.toml")
    assert read == replace(found, inputs=(*found.inputs[:2], replace(constant, low=0.0, high=1.0)))
    assert text.startswith("# What fedinfer knows")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('task = "scores"', 'task = "magic"', "task = 'magic' must be one of"),
        ("format = 1", "format = 2", "format = 2, this program reads 1"),
        ("range = [-1, 1]", "range = [1, 1]", "range .* is empty"),
        ("shape = [3]", "shape = [0]", "shape is not a list of sizes"),
        ("shape = [3]", "shape = [3]\nfile = '/etc/passwd'", "unknown key 'file'"),
        ("shape = [3]", "shape = [3]\nwatch = ['median']", "watch names 'median'"),
        ('use = "value"', 'use = "gold"', "use = 'gold' must be one of"),
        ('dtype = "float32"', 'dtype = "object"', "dtype 'object'"),
        ('name = "p"', 'name = "p\\u001b[2J"', "name holds a control character"),
        ("format = 1", "format = ", "not TOML"),
        ('name = "m"', 'name = "../m"', "name = '../m': 1 to 64 of a-z"),
        ("shape = [3]", "shape = [65536, 65536]\nconstant = 0", "has 4294967296 values, at most 16777216"),
        ("shape = [3]", "shape = [2048, 1024]\nconstant = 0", "constants have 2097152 values together"),
        ("format = 1", f"format = 1\ntop = 0x{'f' * 20_000}", "top is larger than"),
        (
            "format = 1",
            'format = 1\ndetections = { boxes = "p\\u001b[2J", scores = "h", most = 1 }',
            "control character",
        ),
        (
            "format = 1",
            f"format = 1\ndetections = {{ boxes='p', scores='h', most=1, overlap=1{'0' * 400} }}",
            "too large",
        ),
    ],
)
def test_a_changed_declaration_is_read_strictly(old, new, said):
    found = declared(
        foreign.stream(), Wishes(task=ModelTask.SCORES, ranges={"x": (-1, 1)}),
        {"p": np.full((6, 1), 0.5), "hN": np.zeros((6, 2, 2))}, {"p": 0, "hN": 1},
    )  # fmt: skip
    text = to_toml(found)
    assert old in text
    with pytest.raises(ConfigError, match=said):
        from_toml(text.replace(old, new), "model.toml")


@pytest.mark.parametrize("axis", [-1, 2])
def test_rows_are_counted_by_an_axis_that_there_is(axis):
    with pytest.raises(ConfigError, match=f"input 'x': axis {axis} of a graph's 2"):
        InputSpec("x", "float32", (3,), axis)
    with pytest.raises(ConfigError, match=f"output 'y': axis {axis} of a graph's 2"):
        OutputSpec("y", "float32", (3,), axis, Use.VALUE)


def test_all_inputs_and_all_outputs_together_are_bounded():
    """Each of thousands may be as large as a row may be, and all lie in memory at once."""
    one, half = InputSpec("x", "float32", (2**24,), 0), OutputSpec("y", "float32", (2**23,), 0, Use.VALUE)
    started = Declaration("m", ModelTask.TENSORS, "label", (), False, False, "0" * 64, (one,), (half, half))
    with pytest.raises(ConfigError, match="all inputs have 33554432 values together, at most 16777216"):
        replace(started, inputs=(one, one))
    with pytest.raises(ConfigError, match="all outputs have 25165824 values together"):
        replace(started, outputs=(half, half, half))


def test_an_image_is_not_made_larger_than_an_edge_of_one():
    """A picture of 1 x 4096 for a model of 2^24 x 1 has 2^36 pixels on the way."""
    spec = InputSpec("x", "float32", (2**24, 1), 0, image=Image(1, 4096))
    with pytest.raises(ConfigError, match="edges have 1 to 4096 pixels"):
        raw_tensor(spec, spec.image)


def test_of_the_largest_tensor_statistics_are_watched_and_never_of_state_or_columns():
    outputs = (
        OutputSpec("p", "float32", (1,), 0, Use.VALUE),
        OutputSpec("hN", "float32", (9,), 0, Use.VALUE, feeds="h"),
    )
    image, gain = InputSpec("image", "uint8", (2, 2, 1), 0, 0, 255), InputSpec("gain", "float32", (1,), 0)
    state = InputSpec("h", "float32", (9,), 0)
    found = with_watch(
        Declaration("m", ModelTask.SCORES, "y", (), False, False, "0" * 64, (gain, image, state), outputs)
    )
    assert watched_of(found) == ("mean:image", "spread:image")
    with pytest.raises(ConfigError, match="watch of input h: it is state"):
        watched_of(replace(found, inputs=(gain, image, replace(state, watch=("mean",)))))
    table = declared(
        foreign.policy(), Wishes(task=ModelTask.CLASSIFICATION, ranges={"obs": (-1, 1)}),
        {"action_logits": np.array([[1.0, 2.0, -3.0]] * 6)}, {"action_logits": 0},
    )  # fmt: skip
    assert watched_of(with_watch(table)) == ()
    with pytest.raises(ConfigError, match="its values are columns") as refused:
        watched_of(replace(table, inputs=(replace(table.inputs[0], watch=("mean",)),)))
    assert "input:COLUMN" in refused.value.hint


def test_weights_beside_the_model_are_folded_in(tmp_path):
    data = read_model(foreign.with_outside_data(tmp_path))
    rows = np.ones((2, 4), np.float32)
    expected = open_checked(check_model(foreign.policy())).run(None, {"obs": rows})[0]
    np.testing.assert_array_equal(open_checked(check_model(data)).run(None, {"obs": rows})[0], expected)


@pytest.mark.parametrize("place", ["../secret", "/etc/passwd", "sub/weights.bin", "..", "a\\b", ""])
def test_weights_anywhere_else_are_refused(tmp_path, place):
    with pytest.raises(GateFailed, match="no file beside the model"):
        read_model(foreign.with_outside_data(tmp_path, place))


def test_a_link_beside_the_model_is_not_followed(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"x" * 1000)
    path = foreign.with_outside_data(tmp_path, "link")
    (tmp_path / "link").symlink_to(secret)
    with pytest.raises(ArtifactRejected, match="beside the model"):
        read_model(path)


@pytest.mark.parametrize(("offset", "length"), [(9, None), (2**62, None), (8, 2**32), (8, 8)])
def test_weights_that_are_not_what_their_shape_needs_are_refused(tmp_path, offset, length):
    with pytest.raises(ArtifactRejected, match="the weight 'w'"):
        read_model(foreign.with_outside_data(tmp_path, offset=offset, length=length))


def test_a_map_of_classes_is_refused_with_the_way_out(tmp_path):
    data = foreign.model_bytes(
        [("ZipMap", ["x"], ["y"], {"domain": "ai.onnx.ml", "classlabels_int64s": [0, 1]})],
        [("x", foreign.F, ["n", 2])], [("y", foreign.F, ["n", 2])], ml=2,
    )  # fmt: skip
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(GateFailed, match="'ZipMap'") as caught:
        read_model(tmp_path / "m.onnx")
    assert "zipmap=False" in caught.value.hint


def test_a_wish_for_what_the_graph_does_not_have_is_refused():
    for wishes in (Wishes(constants={"sr": 1.0}), Wishes(states={"obs": "gone"}), Wishes(outputs=("gone",))):
        with pytest.raises(ConfigError, match="the graph has no such name"):
            propose_inputs(facts(foreign.policy()), wishes, {})


def test_rows_of_a_model_that_knows_nothing_missing_are_drawn_complete_and_read_complete():
    from fedinfer.artifact.quantize.calibration import synthetic_rows
    from fedinfer.errors import DataError
    from fedinfer.inference.predict.rows import RowReader

    seen = {"action_logits": LOGITS_SEEN}
    wishes = Wishes(task=ModelTask.CLASSIFICATION, ranges={"obs": (-2, 2)})
    schema = schema_of(declared(foreign.policy(), wishes, seen, {"action_logits": 0}))
    assert np.isfinite(synthetic_rows(schema, 100, simulation_rng("rows"))).all()
    with pytest.raises(DataError, match="obs_1: nan breaks the rule: a finite number"):
        RowReader(schema).matrix([[0, None, 0, 0]])
    lax = schema_of(declared(foreign.policy(), replace(wishes, missing=True), seen, {"action_logits": 0}))
    assert np.isnan(RowReader(lax).matrix([[0, None, 0, 0]])[0, 1])
    assert np.isnan(synthetic_rows(lax, 100, simulation_rng("rows"))).any()


@pytest.mark.parametrize("shape", [(3, 4, 5), (4, 5, 3), (4, 5)], ids=["channels first", "channels last", "grey"])
@pytest.mark.parametrize(
    ("raw", "crop"),
    [((4, 5), ()), ((8, 10), ()), ((7, 3), ()), ((9, 12), (4, 5)), ((9, 12), (6, 10))],
    ids=["same", "half", "odd", "middle", "middle resized"],
)
@pytest.mark.parametrize("one_row", [False, True])
def test_raw_pixels_are_cropped_resized_normalised_and_put_in_order_as_in_numpy(shape, raw, crop, one_row):
    data = foreign.model_bytes(
        [("Flatten", ["image"], ["flat"]), ("Identity", ["flat"], ["y"])],
        [("image", foreign.F, [1 if one_row else "n", *shape])],
        [("y", foreign.F, [1 if one_row else "n", int(np.prod(shape))])],
    )  # fmt: skip
    channels = 3 if 3 in shape else 1
    image = Image(*raw, mean=(0.5, 0.25, 0.1)[:channels], std=(0.2, 0.3, 0.5)[:channels], crop=crop)
    size = int(np.prod(shape))
    found = Declaration(
        "m", ModelTask.TENSORS, "label", (), one_row, False, "",
        (InputSpec("image", "float32", shape, 0, image=image),),
        (OutputSpec("y", "float32", (size,), 0, Use.VALUE, -1, 1),),
    )  # fmt: skip
    schema = schema_of(found)
    assert schema.inputs[0].shape == (*raw, channels)[: len(shape)]
    rows = simulation_rng("pixels").integers(0, 256, (3, schema.width)).astype(np.float32)
    said = run(finish(adapt(parse(data), found), OutputHead(schema, 1.0, "m", 1)), rows, VALUE)
    np.testing.assert_allclose(said, feeds_of(found, rows)["image"].reshape(3, -1), atol=2e-4)
    if (4, 5) in (raw, crop):  # nothing is resized: row 2, column 3 of what is left
        top, left = (raw[0] - 4) // 2, (raw[1] - 5) // 2
        by_hand = (rows.reshape(3, *raw, channels)[1, top + 2, left + 3] / 255 - image.mean) / image.std
        seen = feeds_of(found, rows)["image"][1]
        np.testing.assert_allclose(seen[:, 2, 3] if shape[0] == 3 else seen[2, 3], by_hand.squeeze(), atol=1e-5)
    assert from_toml(to_toml(found), "model.toml") == replace(
        found, inputs=(replace(found.inputs[0], low=0.0, high=1.0),)
    )


@pytest.mark.parametrize(
    ("shape", "image", "said"),
    [
        ((4,), Image(4, 4), "is no image"),
        ((2, 4, 4), Image(4, 4), "is no image"),
        ((3, 4, 4), Image(4, 4, (1.0, 2.0)), "have one number, or 3"),
    ],
)
def test_pixels_for_what_is_no_image_are_refused(shape, image, said):
    spec = InputSpec("x", "float32", shape, 0, image=image)
    found = Declaration("m", ModelTask.TENSORS, "l", (), False, False, "", (spec,), ())
    with pytest.raises(ConfigError, match=said):
        calibration_rows(found, {})


@pytest.mark.parametrize("crop", [(5, 4), (4, 5), (0, 4)])
def test_a_crop_lies_in_its_image(crop):
    with pytest.raises(ConfigError, match=r"a crop of \[\d, \d\] out of 4 x 4 pixels"):
        Image(4, 4, crop=crop)
    with pytest.raises(ConfigError, match="crop is not"):
        from_toml(IMAGE_TOML.replace("crop = [2, 2]", "crop = [2]"), "model.toml")


IMAGE_TOML = """
format = 1
name = "m"
task = "tensors"
label = "l"
one_row = false
missing = false
sha256 = ""
[[inputs]]
name = "x"
dtype = "float32"
shape = [3, 2, 2]
axis = 0
image = [4, 4]
crop = [2, 2]
mean = [0.0]
std = [1.0]
[[outputs]]
name = "y"
dtype = "float32"
shape = [2]
axis = 0
use = "value"
range = [0.0, 1.0]
"""


@pytest.mark.parametrize("opset", [11, 17, 23])
def test_top_threshold_and_abstention_work_in_every_operator_set(opset):
    data = foreign.model_bytes(
        [("Identity", ["x"], ["z"])], [("x", foreign.F, ["n", 2])], [("z", foreign.F, ["n", 2])], opset=opset
    )
    found = Declaration(
        "m", ModelTask.CLASSIFICATION, "label", ("no", "yes"), False, False, "",
        (InputSpec("x", "float32", (2,), 0, -9.0, 9.0),), (OutputSpec("z", "float32", (2,), 0, Use.LOGITS),),
    )  # fmt: skip
    core, schema = adapt(parse(data), found), schema_of(found)
    rows = np.log(np.array([[0.75, 0.25], [0.6, 0.4], [0.1, 0.9]], np.float32))
    decided = finish(core, OutputHead(schema, 1.0, "m", 1, threshold=0.3))
    assert run(decided, rows, LABEL).tolist() == ["no", "yes", "yes"]
    careful = finish(core, OutputHead(schema, 1.0, "m", 1, top=2, abstain_below=0.7))
    assert run(careful, rows, LABEL).tolist() == ["no", "abstain", "yes"]
    assert run(careful, rows, TOP).tolist() == [[0, 1], [0, 1], [1, 0]]
