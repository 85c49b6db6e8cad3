"""Tensors of the Open Inference Protocol: strict types, and the same values in JSON and in binary data."""

from __future__ import annotations

import gzip
import json
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedinfer.errors import DataError
from fedinfer.inference.serve.encodings import accepted, is_known, packed, unpacked
from fedinfer.inference.serve.protocol_v2 import InferRequest, WantedOutput, read_request, reply
from fedinfer.inference.serve.tensors import DTYPES, BinaryData, read_tensor, tensor_binary, tensor_json
from fedinfer.reading import ReadingRules
from fedinfer.schema import Numeric, Schema
from tests.unit.inference.device_world import SCHEMA

NUMBERS = sorted(set(DTYPES) - {"BOOL"})


def whole_range(datatype):
    dtype = DTYPES[datatype]
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    return [
        limits.min.item() if dtype.kind == "f" else limits.min,
        0,
        limits.max.item() if dtype.kind == "f" else limits.max,
    ]


@pytest.mark.parametrize("datatype", NUMBERS)
def test_the_ends_of_a_datatype_are_values_in_json_and_in_binary_data(datatype):
    values = whole_range(datatype)
    document = {"name": "x", "datatype": datatype, "shape": [3]}
    of_json = read_tensor({**document, "data": values}, BinaryData())
    data = np.array(values, DTYPES[datatype]).tobytes()
    size = {"parameters": {"binary_data_size": len(data)}}
    of_bytes = read_tensor({**document, **size}, BinaryData(data))
    np.testing.assert_array_equal(of_json.values, np.array(values, np.float64))
    np.testing.assert_array_equal(of_bytes.values, of_json.values)


@pytest.mark.parametrize(
    "datatype", [name for name in NUMBERS if DTYPES[name].kind != "f" and DTYPES[name].itemsize < 8]
)
def test_beyond_the_ends_of_a_type_of_integers_nothing_is_a_value(datatype):
    low, _, high = whole_range(datatype)
    for value in (low - 1, high + 1, 0.5, 10**400, True, "1"):
        with pytest.raises(DataError, match=f"{datatype}: a whole number from {low} to {high}"):
            read_tensor({"name": "x", "datatype": datatype, "shape": [2], "data": [0, value]}, BinaryData())


@pytest.mark.parametrize(("datatype", "value"), [("FP16", 65520.0), ("FP32", 1e39), ("FP64", 10**400), ("FP32", False)])
def test_beyond_the_ends_of_a_type_of_floats_nothing_is_a_value(datatype, value):
    with pytest.raises(DataError, match=f"{datatype}: a finite number or null"):
        read_tensor({"name": "x", "datatype": datatype, "shape": [2], "data": [None, value]}, BinaryData())


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)


@settings(max_examples=50, deadline=None)
@given(st.lists(texts, max_size=5))
def test_what_is_written_as_binary_data_is_read_again(values):
    tensor, data = tensor_binary("t", "BYTES", np.array(values, object))
    assert read_tensor(tensor, BinaryData(data)).values.tolist() == values
    assert tensor_json("t", "BYTES", np.array(values, object))["data"] == values


def test_flags_are_bytes_of_zero_and_one():
    tensor, data = tensor_binary("t", "BOOL", np.array([True, False]))
    assert data == b"\1\0"
    assert read_tensor(tensor, BinaryData(data)).values.tolist() == [True, False]
    with pytest.raises(DataError, match="BOOL: 0 or 1"):
        read_tensor(tensor, BinaryData(b"\1\2"))


BAD_BYTES = {
    "a text that is longer than the data": (b"\5\0\0\0abcd", "cut off"),
    "half a length": (b"\1\0", "cut off"),
    "no UTF-8": (b"\1\0\0\0\xff", "not UTF-8"),
    "one text too many": (b"\0\0\0\0\0\0\0\0", "2 values for shape"),
}


@pytest.mark.parametrize("name", BAD_BYTES)
def test_binary_texts_that_are_cut_off_or_no_texts_are_refused(name):
    data, reason = BAD_BYTES[name]
    document = {"name": "ward", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(data)}}
    with pytest.raises(DataError, match=reason):
        read_tensor(document, BinaryData(data))


def request_of(size, data, count=4):
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, count], "parameters": {"binary_data_size": size}}
    return read_request({"inputs": [tensor]}, SCHEMA, data)


def test_binary_data_belongs_to_tensors_to_its_last_byte():
    row = np.array([50, 120.5, 2, 1], np.float32)
    np.testing.assert_array_equal(request_of(16, row.tobytes()).rows, row[None])
    for size, data, reason in (
        (17, row.tobytes(), "is 17, 16 bytes are left"),
        (True, row.tobytes(), "is True"),
        (16, row.tobytes() + b"x", "1 bytes of binary data belong to no tensor"),
        (12, row.tobytes()[:12], "4 values of FP32 are 16"),
    ):
        with pytest.raises(DataError, match=reason):
            request_of(size, data)


def test_a_float32_means_the_shortest_number_so_a_sentinel_is_found_in_binary_data():
    rules = ReadingRules(missing_values=(("t", (-99.9,)),), offsets=(("u", 1.7e9),))
    schema = Schema((Numeric("t", -50, 50), Numeric("u", 0, 60)), "y", ("a", "b"), reading=rules)
    data = np.array([[-99.9, 1.7e9]], np.float32).tobytes()
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
    request = read_request({"inputs": [tensor]}, schema, data)
    assert request.rows.tolist() == [[-99.9, 1.7e9]]


def test_outputs_are_as_each_one_is_asked_for():
    inputs = [{"name": "input", "datatype": "FP32", "shape": [0, 4], "data": []}]
    outputs = [
        {"name": "label"},
        {"name": "probabilities", "parameters": {"binary_data": False, "classification": 9}},
    ]
    request = read_request({"inputs": inputs, "outputs": outputs, "parameters": {"binary_data_output": True}}, SCHEMA)
    assert request.outputs == (WantedOutput("label", binary=True), WantedOutput("probabilities", classes=3))
    assert read_request({"inputs": inputs, "outputs": []}, SCHEMA).outputs == (
        WantedOutput("label"),
        WantedOutput("probabilities"),
    )


def test_unknown_categories_are_parameters_of_the_reply():
    from fedinfer.inference import Naming, Predictions

    answers = Predictions(np.zeros((0, 3), np.float32), Naming.of_schema(SCHEMA))
    document, binary = reply(InferRequest(None, "", ()), "m", 1, answers, unknown={"ward": 2, "smoker": 1})
    assert document["parameters"] == {
        "unknown_categories": 3,
        "unknown_categories.ward": 2,
        "unknown_categories.smoker": 1,
    }
    assert binary == b""


def test_bodies_are_read_in_the_encodings_of_http():
    text = json.dumps(["x"] * 99).encode()
    assert unpacked(text, "", len(text)) == unpacked(text, "identity", len(text)) == text
    assert unpacked(gzip.compress(text), "gzip", len(text)) == text
    assert unpacked(zlib.compress(text), "deflate", len(text)) == text
    for encoding in ("gzip", "deflate"):
        assert unpacked(packed(text, encoding), encoding, len(text)) == text
        assert unpacked(packed(text, encoding), encoding, len(text) - 1) is None
    assert unpacked(text, "", len(text) - 1) is None
    assert is_known("gzip")
    assert not is_known("br")


WHOLE = gzip.compress(b"abc", mtime=0)


@pytest.mark.parametrize("bad", [b"", b"x", WHOLE[:-1], WHOLE + b"x"], ids=["empty", "no stream", "cut", "longer"])
def test_a_body_that_is_no_whole_stream_is_refused(bad):
    with pytest.raises(DataError, match="gzip"):
        unpacked(bad, "gzip", 99)


@pytest.mark.parametrize(
    ("header", "encoding"),
    [
        ("", ""),
        ("br, zstd", ""),
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("deflate, GZip;q=0.5", "gzip"),
        ("gzip; q=0, deflate", "deflate"),
        ("gzip;q=0.0", ""),
    ],
)
def test_the_encoding_of_an_answer_is_one_that_the_client_takes(header, encoding):
    assert accepted(header) == encoding


@pytest.mark.parametrize("shape", [[], [1] * 10, [9] * 2_000, [10**4000, 10**4000], [0, 2**31 + 1], [-1]])
@pytest.mark.parametrize("binary", [False, True])
def test_a_shape_whose_product_nobody_can_compute_is_refused_before_it_is_computed(monkeypatch, shape, binary):
    def computed(sizes):
        raise AssertionError("sizes were multiplied")

    monkeypatch.setattr("fedinfer.inference.serve.tensors.math.prod", computed)
    data = {"parameters": {"binary_data_size": 0}} if binary else {"data": []}
    with pytest.raises(DataError, match="shape is not a list of 1 to 9 sizes"):
        read_tensor({"name": "x", "datatype": "FP32", "shape": shape, **data}, BinaryData())


def test_an_id_that_is_not_unicode_is_refused():
    shape = {"name": "input", "datatype": "FP32", "shape": [1, SCHEMA.width], "data": [0] * SCHEMA.width}
    assert read_request({"id": "42 \u00e9", "inputs": [shape]}, SCHEMA).id == "42 \u00e9"
    with pytest.raises(DataError, match='"id" is not Unicode'):
        read_request({"id": json.loads('"\\ud800"'), "inputs": [shape]}, SCHEMA)
