"""A model of texts on a device: what it takes, what it refuses, what it says, over HTTP and for explanations."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedinfer.errors import ArtifactRejected, DataError, GateFailed
from fedinfer.inference.install.self_check import check_matrix, self_check
from fedinfer.inference.predict.explain import explain, reference_row
from fedinfer.inference.predict.observation import ObservationBuffer
from fedinfer.inference.predict.predictor import Predictor
from fedinfer.inference.predict.reader import reader_of
from fedinfer.inference.predict.texts import TextReader
from fedinfer.inference.serve.descriptions import model_metadata
from fedinfer.inference.serve.protocol_v2 import read_request, reply
from fedinfer.manifest import Manifest, Privacy, Variant
from fedinfer.schema import Numeric, Schema
from fedinfer.system import FrozenClock
from fedinfer.text import MOST_CHARACTERS, tokens
from tests.unit.artifact.text_model import COLUMN, SCHEMA, text_file
from tests.unit.artifact.workshop import START

FILE = text_file()
PREDICTOR = Predictor.open(FILE)
TEXTS = ["good", "Not good!", "bad, bad, bad", ""]
ALONE = np.stack([PREDICTOR.predict_one(text).probabilities for text in TEXTS])


def manifest(texts: list[str]) -> Manifest:
    answers = PREDICTOR.predict(texts)
    probabilities = tuple(tuple(float(p) for p in row) for row in answers.probabilities)
    labels = tuple(int(label) for label in answers.classes)
    variant = Variant(
        "float", "model/1.onnx", "0" * 64, len(FILE), "float", 1.0, 1.0, 0.0, 1.0, 0.0, labels, probabilities, 1e-3
    )
    rows = tuple((text,) for text in texts)
    return Manifest(1, "notes", SCHEMA, (variant,), rows, 1.0, {}, "x", START.isoformat(), Privacy("inf", "1", "none"))


@pytest.mark.parametrize(
    "rows",
    [
        TEXTS,
        tuple(TEXTS),
        iter(TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, object).reshape(-1, 1),
        [[text] for text in TEXTS],
        [{"note": text, "other": 1} for text in TEXTS],
        pd.DataFrame({"id": range(4), "note": TEXTS}),
        pd.DataFrame({"note": [*TEXTS[:3], None]}),
        'id,note\n1,good\n2,Not good!\n3,"bad, bad, bad"\n4,\n',
    ],
    ids=["list", "tuple", "iterator", "array", "column", "lists", "dicts", "frame", "missing", "csv"],
)
def test_texts_of_any_usual_kind(rows) -> None:
    answers = PREDICTOR.predict(rows)
    np.testing.assert_allclose(answers.probabilities, ALONE, atol=1e-6)


@pytest.mark.parametrize("row", ["Not good!", {"note": "Not good!"}, ["Not good!"], np.array(["Not good!"], object)])
def test_one_text_of_any_usual_kind(row) -> None:
    np.testing.assert_allclose(PREDICTOR.predict_one(row).probabilities, ALONE[1], atol=1e-6)
    assert PREDICTOR.last_row().tolist() == ["Not good!"]


def test_nothing_gives_nothing() -> None:
    assert PREDICTOR.predict([]).probabilities.shape == (0, 2)


def test_a_missing_text_is_the_empty_one() -> None:
    found = PREDICTOR.predict([None, float("nan"), ""]).probabilities
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([3.5], "row 0, column note: 3.5 .float. breaks the rule: a text of at most 100,000 characters"),
        (["a", b"bytes"], "row 1, column note: b'bytes' .bytes."),
        (["x" * (MOST_CHARACTERS + 1)], r"column note: 'x+ \(100,001 characters\) breaks the rule"),
        (["\ud800"], "valid Unicode"),
        ([{"text": "a"}], "row 0: column note is absent"),
        (pd.DataFrame({"text": ["a"]}), "column note is absent"),
        ([["a", "b"]], "row 0 has 2 values"),
        ("text\na\n", "column note is absent"),
        ("", "CSV text: empty"),
        (b"good", "rows of type bytes"),
        (7, "rows of type int"),
        (np.zeros((2, 8), np.float32), "row 0 has 8 values"),
    ],
)
def test_what_is_no_text_is_refused_by_name(rows, message: str) -> None:
    with pytest.raises(DataError, match=message):
        PREDICTOR.predict(rows)


def test_the_longest_text_is_answered() -> None:
    longest = "a.b! " * (MOST_CHARACTERS // 5)
    first = " ".join(longest.split(" ")[:8])
    np.testing.assert_array_equal(
        PREDICTOR.predict_one(longest).probabilities, PREDICTOR.predict_one(first).probabilities
    )


@given(st.lists(st.text(max_size=40), min_size=1, max_size=5))
def test_rows_do_not_see_each_other(texts: list[str]) -> None:
    if any("\ud800" <= c <= "\udfff" for text in texts for c in text):
        with pytest.raises(DataError):
            PREDICTOR.predict(texts)
        return
    alone = np.stack([PREDICTOR.predict_one(text).probabilities for text in texts])
    np.testing.assert_allclose(PREDICTOR.predict(texts).probabilities, alone, atol=1e-6)


def test_a_graph_of_texts_needs_a_schema_of_a_text_and_the_other_way_round() -> None:
    numbers = Schema(tuple(Numeric(f"x{i}", 0, 1) for i in range(8)), "verdict", ("no", "yes"))
    with pytest.raises(GateFailed, match="rows of 1 values, the schema has 8"):
        Predictor.open(FILE, numbers)
    one = Schema((Numeric("x", 0, 1),), "verdict", ("no", "yes"))
    with pytest.raises(GateFailed, match="the model fails"):
        Predictor.open(FILE, one)
    assert isinstance(reader_of(SCHEMA), TextReader)


def test_the_self_check_runs_on_texts() -> None:
    made = manifest(TEXTS)
    again = Manifest.from_bytes(made.to_bytes())
    assert again == made
    assert check_matrix(PREDICTOR, again).tolist() == [[text] for text in TEXTS]
    assert self_check(PREDICTOR, again, again.chosen, FrozenClock(START), 1e6).largest_difference < 1e-6
    other = replace(again, check_rows=tuple((text + " good good",) for text in TEXTS))
    with pytest.raises(GateFailed, match="differs by"):
        self_check(PREDICTOR, other, other.chosen, FrozenClock(START), 1e6)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1.0]] * 4, "texts if the schema is of a text"),
        ([["a"], ["b"], ["c"], [None]], "texts if the schema"),
        ([["a", "b"]] * 4, "not a finite number"),
        ([["\ud800"]] * 4, "no Unicode"),
        ([["x" * 70_000]] * 4, "280000 self-check values, at most 262144"),
    ],
)
def test_a_manifest_with_other_check_rows_is_refused(rows, message: str) -> None:
    document = {**manifest(TEXTS).to_json(), "check_rows": rows}
    with pytest.raises(ArtifactRejected, match=message):
        Manifest.from_bytes(json.dumps(document).encode())


def body(**changes) -> dict:
    return {"inputs": [{"name": "input", "datatype": "BYTES", "shape": [4, 1], "data": TEXTS} | changes]}


@pytest.mark.parametrize("changes", [{}, {"shape": [4]}, {"name": "note"}, {"data": [[text] for text in TEXTS]}])
def test_the_open_inference_protocol_carries_texts_as_bytes(changes) -> None:
    request = read_request(body(**changes), SCHEMA)
    answers = PREDICTOR.predict(request.rows)
    np.testing.assert_allclose(answers.probabilities, ALONE, atol=1e-6)
    assert reply(request, "notes", 1, answers)[0]["outputs"][0]["shape"] == [4]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"datatype": "FP32", "data": [1, 2, 3, 4]}, "texts are BYTES"),
        ({"shape": [2, 2]}, "expected .rows. or .rows, 1."),
        ({"shape": [3]}, "4 values for shape"),
    ],
)
def test_requests_that_carry_no_texts_are_refused(changes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_request(body(**changes), SCHEMA)


def test_the_metadata_says_bytes() -> None:
    (taken,) = model_metadata("notes", 1, SCHEMA)["inputs"]
    assert taken == {"name": "input", "datatype": "BYTES", "shape": [-1, 1], "parameters": {"columns": ["note"]}}


def test_an_explanation_names_the_words() -> None:
    reference = reference_row(manifest(TEXTS))
    texts = ["Not good!", "", "bad " * 20]
    found = explain(PREDICTOR, PREDICTOR.reader.matrix(texts), reference)
    assert found.words == (("Not", "good!"), (), ("bad",) * 8)
    assert found.attributions.shape == (3, COLUMN.length)
    whole, without = (PREDICTOR.predict_one(text).probabilities for text in ("Not good!", ". good!"))
    best = int(whole.argmax())
    assert found.attributions[0, 0] == pytest.approx(whole[best] - without[best], abs=1e-6)
    assert not found.attributions[0, 2:].any()
    strongest = found.strongest(2, 3)
    assert {name for name, _ in strongest} == {"bad"}
    assert all(abs(a) >= abs(b) for (_, a), (_, b) in pairwise(strongest))
    assert found.strongest(1, 3) == ()


def test_an_observer_gets_the_raw_texts() -> None:
    seen: list[list[str]] = []
    buffer = ObservationBuffer(2, lambda found: seen.extend(observed.rows[:, 0].tolist() for observed in found))
    for text in ("good", "bad\0"):
        answer = PREDICTOR.predict_one(text)
        buffer.add_one(1, PREDICTOR, answer.probabilities)
    assert seen == [["good", "bad\0"]]


def test_the_tokens_behind_an_answer_are_those_of_training() -> None:
    same = PREDICTOR.predict(["GOOD. bad", "good bad", 'good\n("bad")']).probabilities
    np.testing.assert_array_equal(*(tokens([text], COLUMN) for text in ("GOOD. bad", "good bad")))
    np.testing.assert_allclose(same[0], same[1], atol=1e-6)
    np.testing.assert_allclose(same[0], same[2], atol=1e-6)
