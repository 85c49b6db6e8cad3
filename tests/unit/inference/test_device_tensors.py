"""Rows and answers of models that were made elsewhere: named tensors in, named tensors out, state from row to row."""

from __future__ import annotations

import io
import json
import wave

import numpy as np
import pytest

from fedinfer.artifact.export.graph import OutputHead, finish
from fedinfer.artifact.imported.adapt import adapt, schema_of
from fedinfer.artifact.imported.declaration import Declaration, InputSpec, ModelTask, OutputSpec, Use
from fedinfer.artifact.imported.outside import parse
from fedinfer.cli.answers import answer_fields, answer_lines
from fedinfer.cli.streaming import answer_pipe
from fedinfer.errors import ConfigError, DataError
from fedinfer.inference import ObservationBuffer
from fedinfer.inference.predict.files import labelled_arrays, rows_in_file
from fedinfer.inference.predict.predictor import Predictor
from fedinfer.inference.predict.streaming import streamed
from fedinfer.inference.predict.tensor_rows import TensorReader
from fedinfer.inference.serve.descriptions import model_config, model_metadata
from fedinfer.inference.serve.protocol_v2 import read_request, reply
from fedinfer.schema import Schema
from fedinfer.tensors import TensorSpec, check_tensors
from tests.unit.artifact import foreign_models as foreign

TOKENS = TensorSpec("tokens", "int64", (3,), 0, 9)
PIXELS = TensorSpec("pixels", "float32", (2, 2), -1, 1)
SCORE = TensorSpec("p", "float32", (1,), 0, 1, names=("speech",))
SCHEMA = Schema((), "label", (), label_range=(0.0, 1.0), inputs=(TOKENS, PIXELS), answers=(SCORE,))
READER = TensorReader(SCHEMA)
ROW = np.array([[1, 2, 9, 0.5, -0.5, 0.25, 1]], np.float32)


@pytest.mark.parametrize(
    "rows",
    [
        ROW,
        ROW[0],
        {"tokens": [1, 2, 9], "pixels": [[0.5, -0.5], [0.25, 1]]},
        {"tokens": [[1, 2, 9]], "pixels": [[[0.5, -0.5], [0.25, 1]]]},
        [{"tokens": np.array([1, 2, 9]), "pixels": np.float16([[0.5, -0.5], [0.25, 1]])}],
        "tokens[0],tokens[1],tokens[2],pixels[0],pixels[1],pixels[2],pixels[3]\n1,2,9,0.5,-0.5,0.25,1\n",
        [[1, 2, 9, 0.5, -0.5, 0.25, 1]],
    ],
    ids=["matrix", "row", "mapping", "batch", "arrays", "table", "values"],
)
def test_a_row_of_any_kind_is_the_same_row(rows):
    np.testing.assert_array_equal(READER.matrix(rows), ROW)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"tokens": [1, 2, 9]}, "input pixels is absent"),
        ({"tokens": [1, 2, 9], "pixels": np.zeros((2, 2)), "extra": 1}, "no input is called 'extra'"),
        ({"tokens": [1, 2], "pixels": np.zeros((2, 2))}, "input tokens has shape"),
        ({"tokens": [1, 2, 10], "pixels": np.zeros((2, 2))}, r"tokens\[2\]: 10 breaks the rule: a whole number from 0"),
        ({"tokens": [1, 2, 0.5], "pixels": np.zeros((2, 2))}, r"tokens\[2\]: 0.5 breaks the rule"),
        ({"tokens": [1, 2, 3], "pixels": [[np.nan, 0], [0, 0]]}, r"pixels\[0\]: nan breaks the rule: a finite number"),
        ({"tokens": [1, 2, 3], "pixels": [[1e300, 0], [0, 0]]}, r"pixels\[0\]: inf breaks the rule"),
        ({"tokens": ["a"] * 3, "pixels": np.zeros((2, 2))}, "expected numbers"),
        ({"tokens": [[1], [2, 3]], "pixels": np.zeros((2, 2))}, "not an array"),
        (np.zeros((1, 6)), r"array of shape \(1, 6\), expected \(rows, 7\)"),
        (b"bytes", "rows of type bytes"),
        ("tokens[0]\n1\n", "absent"),
    ],
)
def test_a_row_that_breaks_its_description_is_refused_by_name(rows, said):
    with pytest.raises(DataError, match=said):
        READER.matrix(rows)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dtype": "object"}, "dtype 'object'"),
        ({"shape": (0,)}, "sizes from 1"),
        ({"shape": (2**20, 2**20)}, "sizes from 1"),
        ({"low": 1.0}, "range"),
        ({"high": 2.0**30}, "travel exactly"),
        ({"names": ("a",)}, "1 names for 3 values"),
    ],
)
def test_a_tensor_that_breaks_a_rule_is_refused(changes, said):
    fields = {"name": "t", "dtype": "int64", "shape": (3,), "low": 0.0, "high": 1.0}
    with pytest.raises(ConfigError, match=said):
        TensorSpec(**(fields | changes))


def test_state_must_be_fed_to_an_input_of_its_shape_and_leave_something_to_ask_with():
    state = TensorSpec("h", "float32", (2,), -1, 1)
    with pytest.raises(ConfigError, match="which is no input"):
        check_tensors((state,), (TensorSpec("n", "float32", (2,), -1, 1, feeds="gone"),))
    with pytest.raises(ConfigError, match="which has shape"):
        check_tensors((state, TOKENS), (TensorSpec("n", "float32", (3,), -1, 1, feeds="h"),))
    with pytest.raises(ConfigError, match="nothing is left"):
        check_tensors((state,), (TensorSpec("n", "float32", (2,), -1, 1, feeds="h"),))


def test_a_schema_of_tensors_comes_back_from_its_json():
    assert Schema.from_json(json.loads(json.dumps(SCHEMA.to_json()))) == SCHEMA
    assert SCHEMA.kind == "scores"
    assert (SCHEMA.width, SCHEMA.outputs) == (7, 1)


def speech() -> Predictor:
    """The cell with state, one row at a time, as a device opens it."""
    found = Declaration(
        "vad", ModelTask.SCORES, "label", (), True, False, "",
        (InputSpec("x", "float32", (3,), 0, -1, 1), InputSpec("h", "float32", (2, 2), 1, -1, 1)),
        (
            OutputSpec("p", "float32", (1,), 0, Use.VALUE, 0, 1, names=("speech",)),
            OutputSpec("hN", "float32", (2, 2), 1, Use.VALUE, -1, 2, feeds="h"),
        ),
    )  # fmt: skip
    return Predictor.open(finish(adapt(parse(foreign.stream()), found), OutputHead(schema_of(found), 1.0, "vad", 1)))


def by_hand(frames: np.ndarray) -> list[float]:
    """The cell in numpy."""
    h, answers, w = np.zeros((2, 2)), [], foreign.weights(5, 1)
    for frame in frames:
        p = 1 / (1 + np.exp(-(np.concatenate([frame, h.sum(axis=0)]) @ w)[0]))
        h = 0.5 * h + p
        answers.append(p)
    return answers


FRAMES = np.linspace(-1, 1, 15, dtype=np.float32).reshape(5, 3)


def test_state_goes_from_row_to_row_of_a_stream_and_rows_without_a_stream_begin_at_zero():
    predictor = speech()
    matrix = predictor.reader.matrix(FRAMES)
    np.testing.assert_allclose(streamed(predictor, matrix).raw[:, 0], by_hand(FRAMES), atol=1e-6)
    alone = predictor.predict(FRAMES)
    np.testing.assert_allclose(alone.raw[:, 0], [by_hand(FRAMES[i : i + 1])[0] for i in range(5)], atol=1e-6)
    np.testing.assert_allclose(predictor.predict_one(FRAMES[1]).raw, alone.raw[1], atol=1e-6)
    assert alone.tensors["hN"].shape == (5, 2, 2)
    with pytest.raises(DataError, match="tensors, not one number"):
        _ = alone.values


def test_a_pipe_of_frames_is_answered_line_by_line(monkeypatch, capsys):
    lines = "\n".join(json.dumps({"x": frame.tolist()}) for frame in FRAMES)
    monkeypatch.setattr("sys.stdin", io.StringIO(lines + "\n"))
    seen = []
    answer_pipe(speech(), 7, ObservationBuffer(256, seen.extend))
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    np.testing.assert_allclose([line["p"][0] for line in told], by_hand(FRAMES), atol=1e-6)
    assert set(told[0]) == {"row", "p"}
    assert [each.version for each in seen] == [7] * len(FRAMES)
    np.testing.assert_array_equal(np.concatenate([each.rows for each in seen])[:, :3], FRAMES)
    np.testing.assert_allclose([each.raw[0, 0] for each in seen], by_hand(FRAMES), atol=1e-6)
    seen.clear()
    monkeypatch.setattr("sys.stdin", io.StringIO('{"x": [0, 0, 0]}\n{oops\n'))
    with pytest.raises(DataError, match="line 2 is not JSON"):
        answer_pipe(speech(), 7, ObservationBuffer(256, seen.extend))
    assert len(seen) == 1  # what was answered before the bad line counts


def test_answers_are_fields_by_name_without_state():
    answers = speech().predict(FRAMES)
    assert answer_fields(answers.naming) == ("row", "speech")
    lines = list(answer_lines(answers))
    assert lines[0] == {"row": 0, "speech": pytest.approx(by_hand(FRAMES[:1])[0], abs=1e-6)}
    assert answers.labels[0] == f"{answers.raw[0, 0]:.7g}"


def test_the_inference_protocol_speaks_named_tensors():
    predictor = speech()
    assert [tensor["name"] for tensor in model_metadata("vad", 1, predictor.schema)["inputs"]] == ["x", "h"]
    assert [tensor["dims"] for tensor in model_config("vad", predictor.schema)["output"]] == [[1], [2, 2]]
    tensor = {"name": "x", "shape": [5, 3], "datatype": "FP32", "data": FRAMES.tolist()}
    request = read_request({"inputs": [tensor]}, predictor.schema)
    answers = predictor.predict(request.rows)
    outputs = {item["name"]: item for item in reply(request, "vad", 1, answers)[0]["outputs"]}
    assert outputs["hN"]["shape"] == [5, 2, 2]
    np.testing.assert_allclose(outputs["p"]["data"], answers.raw[:, 0])
    texts = {**tensor, "datatype": "BYTES", "data": ["a"] * 15}
    with pytest.raises(DataError, match="no numeric datatype"):
        read_request({"inputs": [texts]}, predictor.schema)


def test_rows_come_from_arrays_lines_sounds_and_folders(tmp_path):
    schema = speech().schema
    np.save(tmp_path / "a.npy", FRAMES)
    np.savez(tmp_path / "b.npz", x=FRAMES)
    (tmp_path / "c.jsonl").write_text("\n".join(json.dumps({"x": frame.tolist()}) for frame in FRAMES))
    with wave.open(str(tmp_path / "d.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(np.array([16384, -16384, 0, 8192], "<i2").tobytes())
    for name in ("a.npy", "b.npz", "c.jsonl"):
        np.testing.assert_allclose(rows_in_file(tmp_path / name, schema)[:, :3], FRAMES)
    np.testing.assert_allclose(rows_in_file(tmp_path / "d.wav", schema)[:, :3], [[0.5, -0.5, 0], [0.25, 0, 0]])
    assert len(rows_in_file(tmp_path, schema)) == 17
    assert rows_in_file(tmp_path / "table.csv", schema) is None


def test_a_file_of_objects_or_garbage_is_refused(tmp_path):
    schema = speech().schema
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], object), allow_pickle=True)
    (tmp_path / "g.npz").write_bytes(b"PK\x03\x04 nothing")
    (tmp_path / "w.wav").write_bytes(b"RIFF0000WAVE")
    (tmp_path / "l.jsonl").write_text("[" * 100_000)
    for name, said in (
        ("o.npy", "no numpy file"),
        ("g.npz", "no numpy file"),
        ("w.wav", "no sound"),
        ("l.jsonl", "line 1"),
    ):
        with pytest.raises(DataError, match=said):
            rows_in_file(tmp_path / name, schema)


def test_labels_of_arrays_are_names_or_numbers(tmp_path):
    schema = Schema((), "kind", ("text", "image"), inputs=(TOKENS,))
    np.savez(tmp_path / "n.npz", tokens=[[1, 2, 3], [4, 5, 6]], kind=["image", "text"])
    x, y = labelled_arrays(tmp_path / "n.npz", schema)
    np.testing.assert_array_equal(y, [1, 0])
    assert x.shape == (2, 3)
    np.savez(tmp_path / "u.npz", tokens=[[1, 2, 3]], kind=["sound"])
    with pytest.raises(DataError, match="'sound' is no label"):
        labelled_arrays(tmp_path / "u.npz", schema)


def test_an_image_is_whole_pixels_in_the_order_of_the_model(tmp_path):
    images = pytest.importorskip("PIL.Image")
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    images.fromarray(pixels).save(tmp_path / "i.png")
    for shape, expected in (((2, 4, 3), pixels), ((3, 2, 4), np.moveaxis(pixels, -1, 0))):
        schema = Schema((), "kind", ("a", "b"), inputs=(TensorSpec("image", "uint8", shape, 0, 255),))
        np.testing.assert_array_equal(rows_in_file(tmp_path / "i.png", schema), expected.reshape(1, -1))


def test_the_likeliest_score_and_the_leading_value_are_what_a_fleet_counts():
    from fedinfer.device.counted import placed

    raw = np.array([[0.25, 0.75]], np.float32)
    scores = TensorSpec("p", "float32", (2,), 0, 1, names=("a", "b"))
    schema = Schema((), "l", (), label_range=(0.0, 1.0), inputs=(TOKENS,), answers=(scores,))
    assert placed(schema, raw)[0, 0] == pytest.approx(0.75)
    vector = TensorSpec("e", "float32", (2,), 0, 1)
    schema = Schema((), "l", (), label_range=(0.0, 1.0), inputs=(TOKENS,), answers=(vector,))
    assert placed(schema, raw)[0, 0] == pytest.approx(0.75)
    assert placed(schema, raw[:, ::-1])[0, 0] == pytest.approx(0.25)
