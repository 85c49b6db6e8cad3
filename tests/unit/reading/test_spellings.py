"""Spellings of one category or label, and codes that stay apart."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedinfer.reading import CellRule, ReadingRules, Spellings, one_spelling

SAME = ReadingRules()


@pytest.mark.parametrize(
    ("names", "cell", "place"),
    [
        (("0", "1"), "1.0", 1),
        (("0.0", "1.0"), "1", 1),
        (("0", "1"), 1.0, 1),
        (("0", "1"), np.float32(1), 1),
        (("False", "True"), "TRUE", 1),
        (("FALSE", "TRUE"), False, 0),
        (("no", "yes"), "Yes", 1),
        (("1_1", "1_2"), "1_2", 1),
        (("007", "7"), "7.0", 1),
        (("NA", "EU"), "NA", 0),
        (("-1", "1"), "-1.0", 0),
        (("0", "1"), "-0", 0),
    ],
)
def test_a_cell_finds_its_category(names: tuple[str, ...], cell: object, place: int) -> None:
    assert CellRule("x", SAME, names).reader()(cell) == place


@pytest.mark.parametrize(
    ("names", "cell"),
    [
        (("007", "8"), "7"),
        (("1.1", "2"), "1.10"),
        (("north",), "North"),
        (("1_2",), "12"),
        (("1", "1.0"), "1.00"),
        (("a",), "NA"),
        (("a",), None),
        (("a",), ""),
    ],
)
def test_a_cell_that_is_no_category_is_missing(names: tuple[str, ...], cell: object) -> None:
    assert math.isnan(CellRule("x", SAME, names).reader()(cell))


def test_exact_spellings_find_only_what_is_listed() -> None:
    exact = Spellings(("0", "1", "True"), ReadingRules(spellings="exact"))
    assert [exact.place(text) for text in ("1", "1.0", "TRUE", "True")] == [1, None, None, 2]


def test_a_person_may_say_which_texts_are_the_same() -> None:
    rules = ReadingRules(same_text=(("ja", "j", "oui"), ("nein", "n")))
    found = Spellings(("nein", "ja"), rules)
    assert [found.place(text) for text in ("J", "OUI", "N", "yes")] == [1, 1, 0, None]


def test_labels_that_are_the_same_get_one_name_in_one_case() -> None:
    chosen = one_spelling({"FALSE": 132, "False": 139, "TRUE": 168, "True": 161}, SAME)
    assert chosen == {"FALSE": "False", "False": "False", "TRUE": "True", "True": "True"}
    assert set(one_spelling({"0": 238, "0.0": 260, "1": 245, "1.0": 157}, SAME).values()) == {"0", "1"}
