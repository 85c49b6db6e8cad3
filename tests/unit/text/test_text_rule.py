"""The rule that turns texts into token numbers, and texts in a schema."""

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedinfer import text
from fedinfer.errors import ConfigError
from fedinfer.schema import BREAKS, MARKS, Numeric, Schema, Text
from fedinfer.text import NOTHING, UNKNOWN, column_of, most_parts, pieces, raw_rows, texts_of, tokens, words

COLUMN = Text("note", 6, ("good", "not", "don't", "caf\u00e9"))
SCHEMA = Schema((COLUMN,), "verdict", ("no", "yes"))


def test_examples_in_the_docstrings_are_true() -> None:
    assert doctest.testmod(text) == (0, 3)


@pytest.mark.parametrize(
    ("written", "numbers"),
    [
        ("Not GOOD!", [3, 2, 0, 0, 0, 0]),
        ("  good   not ", [2, 3, 0, 0, 0, 0]),
        ("", [0] * 6),
        (" . , ", [0] * 6),
        ("Don't don\u2019t", [4, 1, 0, 0, 0, 0]),
        (
            "caf\u00e9 CAF\u00c9 cafe\u0301",
            [5, 1, 1, 0, 0, 0],
        ),  # only ASCII letters are folded, accents are not composed
        ("good\tnot good\nnot", [2, 3, 2, 3, 0, 0]),  # line ends and tabs are spaces
        ("good\r\nnot\rgood", [2, 3, 0, 0, 0, 0]),  # a carriage return is a mark
        ('"good" good', [2, 2, 0, 0, 0, 0]),
        ("(not) [good]", [3, 1, 0, 0, 0, 0]),
        ('("good") "(good)"', [2, 0, 0, 0, 0, 0]),
        ("((good) \"\"good .good good(s) 'good'", [0, 0, 0, 2, 1, 0]),
        ("\n" * 63 + "good", [2, 0, 0, 0, 0, 0]),
        ("\n" * 64 + "good", [0] * 6),
        ("\t" * 63 + "good", [2, 0, 0, 0, 0, 0]),
        ("not" + "\t" * 64 + "good", [3, 0, 0, 0, 0, 0]),
        ("good\0 good", [1, 2, 0, 0, 0, 0]),
        ("a a a a a a good", [1] * 6),
        ("~ .", [1, 0, 0, 0, 0, 0]),
    ],
)
def test_known_answers(written: str, numbers: list[int]) -> None:
    assert tokens([written], COLUMN).tolist() == [numbers]


@pytest.mark.parametrize(("length", "most"), [(1, 64), (64, 64), (65, 128), (4096, 4096)])
def test_what_is_read_of_a_text_is_bounded(length: int, most: int) -> None:
    assert most_parts(length) == most
    assert pieces("a\n" * 5000, 4096)[:length] == ["a"] * min(length, 4096)


@given(st.lists(st.text(max_size=60), max_size=4), st.integers(1, 9))
def test_any_text_gives_numbers_in_range_and_each_row_is_its_own(texts: list[str], length: int) -> None:
    column = Text("note", length, ("a", "b", "0"))
    rows = tokens(texts, column)
    assert rows.shape == (len(texts), length)
    assert np.isin(rows, [0, 1, 2, 3, 4]).all()
    for row, one in zip(rows, texts, strict=True):
        np.testing.assert_array_equal(row, tokens([one], column)[0])
        assert len(pieces(one, length)) == len(words(one, length)) <= length


@given(st.lists(st.lists(st.integers(0, COLUMN.last), min_size=6, max_size=6), min_size=1, max_size=5))
def test_the_plainest_text_has_the_same_tokens(rows: list[list[int]]) -> None:
    x = np.array(rows, np.float32)
    np.testing.assert_array_equal(tokens(texts_of(x, COLUMN), COLUMN), x)


def test_raw_rows_of_a_text_are_words_of_the_vocabulary_only() -> None:
    x = tokens(["My secret is not good.", ""], COLUMN)
    assert raw_rows(SCHEMA, x).tolist() == [["~ ~ ~ not good"], [""]]
    table = Schema((Numeric("a", 0, 1),), "y", ("n", "y"))
    assert raw_rows(table, np.ones((2, 1), np.float32)).tolist() == [[1.0], [1.0]]


def test_a_column_of_texts_keeps_a_nul_at_the_end() -> None:
    column = column_of(["a\0", "b"])
    assert (column.shape, column[0, 0]) == ((2, 1), "a\0")
    assert column_of([]).shape == (0, 1)


def test_a_text_schema_survives_json() -> None:
    again = Schema.from_json(SCHEMA.to_json())
    assert again == SCHEMA
    assert again.text == COLUMN
    assert (again.width, COLUMN.last) == (6, 5)
    assert Schema((Numeric("a", 0, 1),), "y", ("n", "y")).text is None


@pytest.mark.parametrize(
    "word", ["Good", "", "two words", "end.", "~x", "x" * 65, *(f"a{mark}" for mark in MARKS + BREAKS)]
)
def test_a_word_that_no_text_can_hold_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match="can never be found"):
        Text("note", 4, ("good", word))


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: Text("t", 0, ("a",)), "0 words"),
        (lambda: Text("t", 4097, ("a",)), "1 to 4096"),
        (lambda: Text("t", 4, ()), "0 words"),
        (lambda: Text("t", 4, ("a", "a")), "twice"),
        (lambda: Schema((COLUMN, Numeric("a", 0, 1)), "y", ("n", "y")), "stands alone"),
        (lambda: Schema((COLUMN,), "y", ("n", "y"), (1, 1, 6)), "no shape"),
    ],
)
def test_descriptions_that_make_no_sense_are_refused(make, rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        make()


def test_the_two_stand_ins_are_no_words() -> None:
    assert words(f"{NOTHING} {UNKNOWN}", 2) == ["", "~"]
    for name in (NOTHING, UNKNOWN):
        with pytest.raises(ConfigError):
            Text("t", 2, (name,))
