"""Rows of every kind become the same matrix, and bad cells are named."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fedinfer.errors import DataError
from fedinfer.inference.predict.rows import RowReader
from fedinfer.schema import Schema
from tests.unit.inference.device_world import SCHEMA, make_rows

READER = RowReader(SCHEMA)
EXPECTED = np.array([[41, 120.5, 2, 0], [np.nan, 90, np.nan, 1]], np.float32)
DICTS = [
    {"age": 41, "pressure": 120.5, "ward": "7", "smoker": "no", "outcome": "ill"},
    {"smoker": "yes", "ward": None, "pressure": "90", "age": None},
]
KINDS = {
    "dicts": DICTS,
    "tuples": [(41, 120.5, "7", "no"), (None, 90, "unseen ward", "yes")],
    "lines": ["41,120.5,7,no", "?,90,,yes"],
    "csv": "pressure,age,ward,smoker,extra\n120.5,41,7,no,x\n90, NA ,elsewhere,yes,y\n",
    "float32": EXPECTED,
    "float64": EXPECTED.astype(np.float64),
    "objects": np.array([[41, 120.5, "7", "no"], [None, 90, None, "yes"]], dtype=object),
    "texts": np.array([["41", "120.5", "7", "no"], ["", "90", "", "yes"]]),
    "arrays": [EXPECTED[0], EXPECTED[1].astype(np.float64)],
    "generator": (row for row in DICTS),
    "frame": pd.DataFrame(DICTS).astype({"age": "float64"}),
    "frame of numbers as categories": pd.DataFrame(
        {"age": [41, np.nan], "pressure": [120.5, 90], "ward": [7.0, np.nan], "smoker": pd.Categorical(["no", "yes"])}
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_rows_gives_the_same_matrix(kind):
    matrix = READER.matrix(KINDS[kind])
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, EXPECTED)


@pytest.mark.parametrize("row", [DICTS[0], KINDS["tuples"][0], "41,120.5,7,no", EXPECTED[0], EXPECTED[:1]])
def test_every_kind_of_one_row(row):
    np.testing.assert_array_equal(READER.one(row), EXPECTED[:1])


def test_checked_float32_rows_are_not_copied():
    rows = make_rows()
    assert np.shares_memory(READER.matrix(rows), rows)


def test_no_rows():
    assert READER.matrix(np.empty((0, 4), np.float32)).shape == (0, 4)
    assert READER.matrix([]).shape == (0, 4)
    assert READER.matrix("age,pressure,ward,smoker\n").shape == (0, 4)


def changed(**cells):
    return [DICTS[0], {**DICTS[0], **cells}]


BAD = {
    "text in a numeric column": (changed(age="old"), "row 1, column age: 'old' breaks the rule: a finite number"),
    "infinite number": (changed(age=float("inf")), "row 1, column age: inf breaks"),
    "too large for float32": (changed(age=1e39), r"row 1, column age: 1e\+39 breaks"),
    "too large for any float": (changed(age=10**400), "row 1, column age: 1000"),
    "bytes": (changed(age=b"41"), "column age: b'41' breaks"),
    "a list in a cell": (changed(pressure=[1]), r"column pressure: \[1\] breaks"),
    "absent column": ([{"age": 1, "ward": "7", "smoker": "no"}], "row 0: column pressure is absent"),
    "too few values": ([(1, 2, 3)], "row 0 has 3 values, expected 4"),
    "too few cells in a line": (["1,2"], "row 0 has 2 values, expected 4"),
    "a number as a row": ([5], "row 0 is of type int"),
    "a number as rows": (5, "rows of type int"),
    "bytes as rows": (b"1,2,3,4", "rows of type bytes"),
    "array of another width": (np.zeros((3, 5), np.float32), r"shape \(3, 5\), expected \(rows, 4\)"),
    "flat array": (np.zeros(5, np.float32), r"shape \(5,\)"),
    "array without dimension": (np.array(3.0), r"shape \(\)"),
    "complex array": (np.zeros((1, 4), np.complex64), "dtype complex64"),
    "infinite cell": (np.array([[1, np.inf, 0, 0]], np.float32), "row 0, column pressure: inf breaks the rule"),
    "double beyond float32": (np.array([[1, 1e300, 0, 0]]), "column pressure: inf"),
    "category index too large": (np.array([[1, 1, 3, 0]], np.float32), "column ward: 3 .* an index from 0 to 2 or NaN"),
    "negative category index": (np.array([[1, 1, 0, -1]], np.float32), "column smoker: -1 .* from 0 to 1"),
    "fraction of a category": (np.array([[1, 1, 0.5, 0]], np.float32), "column ward: 0.5 .* from 0 to 2"),
    "empty text": ("", "CSV text: empty"),
    "ragged text": ("age,pressure,ward,smoker\n1,2,3\n", "row 2 has 3 cells, the header has 4"),
    "column named twice": ("age,age\n1,2\n", "duplicate column 'age'"),
    "open quote": ('age,pressure,ward,smoker\n"1,2,3,4', "row 2 .line 2. is not CSV"),
    "frame without a column": (pd.DataFrame({"age": [1.0]}), "column pressure is absent"),
    "frame with infinity": (
        pd.DataFrame({"age": [1.0, np.inf], "pressure": [1.0, 1.0], "ward": ["7", "7"], "smoker": ["no", "no"]}),
        "row 1, column age: ",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rows_name_row_column_value_and_rule(name):
    rows, message = BAD[name]
    with pytest.raises(DataError, match=message):
        READER.matrix(rows)


def test_one_row_must_be_one():
    with pytest.raises(DataError, match="expected one row"):
        READER.one(EXPECTED)


IMAGES = RowReader(Schema((), "digit", ("0", "1"), shape=(1, 2, 3), pixel_max=16.0))


@pytest.mark.parametrize("shape", [(6,), (1, 6), (1, 2, 3), (1, 1, 2, 3)])
def test_images_in_every_shape(shape):
    pixels = np.arange(6, dtype=np.float32)
    np.testing.assert_array_equal(IMAGES.matrix(pixels.reshape(shape)), pixels[None])


def test_batch_of_images_and_values():
    np.testing.assert_array_equal(IMAGES.matrix(np.ones((5, 1, 2, 3), np.uint8)), np.ones((5, 6), np.float32))
    np.testing.assert_array_equal(IMAGES.matrix([[0, 1, 2, 3, 4, 5]]), [[0, 1, 2, 3, 4, 5]])


def test_bad_images_name_the_pixel():
    with pytest.raises(DataError, match="column pixel 4: inf"):
        IMAGES.matrix(np.array([[0, 0, 0, 0, np.inf, 0]], np.float32))
    with pytest.raises(DataError, match="not named columns"):
        IMAGES.matrix([{"a": 1}])
