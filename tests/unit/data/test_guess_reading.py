"""What reading rules `init` proposes for files of any dialect, and that they read the file."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from fedinfer.data import guess_reading, plain_cells, propose, reading_lines
from fedinfer.reading import ReadingRules, plain_numbers, read_file

CASES = {
    "plain": ("a,b\n1.5,x\n2.5,y\n", {}),
    "decimal commas": ("a;b\n1,5;x\n2,25;y\n", {"delimiter": ";", "decimal": ","}),
    "three decimals, one below 1": ("a;b\n1,234;x\n0,567;y\n", {"delimiter": ";", "decimal": ","}),
    "three decimals only": ("a;b\n12,345;x\n2,500;y\n", {"delimiter": ";", "decimal": ","}),
    "both marks": ("a;b\n1.234,5;x\n12,5;y\n", {"delimiter": ";", "decimal": ",", "thousands": "."}),
    "groups of points": ("a;b\n1.234.567;x\n12;y\n", {"delimiter": ";", "decimal": ",", "thousands": "."}),
    "American thousands": ('a,b\n"1,234.50",x\n"12.25",y\n', {"thousands": ","}),
    "American thousands only": ('a,b\n"1,234",x\n"56,789",y\n', {"thousands": ","}),
    "apostrophes": ("a;b\n1'234.5;x\n12.5;y\n", {"delimiter": ";", "thousands": "'"}),
    "blanks": ("a;b\n1 234,5;x\n12,5;y\n", {"delimiter": ";", "decimal": ",", "thousands": " "}),
    "narrow blanks": ("a;b\n1\u202f234,5;x\n12,5;y\n", {"delimiter": ";", "decimal": ",", "thousands": " "}),
    "tabs": ("a\tb\n1.5\tx\n2.5\ty\n", {"delimiter": "\t"}),
    "pipes": ("a|b\n1.5|x\n2.5|y\n", {"delimiter": "|"}),
    "three decimals with points": ("a,b\n1.234,x\n5.678,y\n", {}),
    "loose quotes": ('a\tb\n1.5\t"x" y\n2.5\t"z\n', {"delimiter": "\t", "quote": ""}),
    "addresses and dates": ("a;b\n10.0.0.1;1,5\n10.0.0.2;2,5\n", {"delimiter": ";", "decimal": ","}),
    "codes": ("a,b\n1_2,x\n3_4,y\n", {}),
    "texts with commas": ('a;b\n"x, y";1\n"z, w, v";2\n', {"delimiter": ";"}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_dialect_of_a_file(tmp_path: Path, name: str) -> None:
    text, expected = CASES[name]
    path = tmp_path / "t.csv"
    path.write_text(text, encoding="utf-8")
    rules = guess_reading(path)
    assert {key: getattr(rules, key) for key in expected} == expected
    assert tomllib.loads("\n".join(reading_lines(rules))) == expected
    assert rules.marks == ()


def test_a_column_of_its_own_marks_says_so(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("income;price (EUR)\n1970.8;5,5\n1634.67;6,5\n")
    rules = guess_reading(path)
    assert rules.marks == (("price (EUR)", ","),)
    assert tomllib.loads("\n".join(reading_lines(rules))) == {"delimiter": ";", "marks": {"price (EUR)": ","}}
    raw = read_file(path, rules)
    assert plain_numbers(raw, "income", rules).tolist() == [1970.8, 1634.67]
    assert plain_numbers(raw, "price (EUR)", rules).tolist() == [5.5, 6.5]


@pytest.mark.parametrize(
    ("cells", "unit", "value"),
    [
        (("45.5%", "7%"), "%", 45.5),
        (("$ 1,200.50", "$12"), "$", 1200.5),
        (("-\u20ac5", "\u20ac12.25"), "\u20ac", -5),
        (("12 kg", "7.5 kg"), "kg", 12),
        (("36 months", "60 months"), "months", 36),
        (("A1", "A2"), "", None),
        (("1m", "3m"), "", None),
        (("1m3", "2m3"), "", None),
        (("3_kg", "4_kg"), "", None),
    ],
)
def test_a_unit_beside_numbers_is_taken_off(tmp_path: Path, cells: tuple[str, str], unit: str, value: float) -> None:
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["a;b", *(f"{cell};x" for cell in cells)]), encoding="utf-8")
    rules = guess_reading(path)
    assert rules.unit("a") == unit
    if unit:
        assert plain_numbers(read_file(path, rules), "a", rules)[0] == value
        assert tomllib.loads("\n".join(reading_lines(rules)))["units"] == {"a": unit}


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16-le"])
def test_an_encoding_is_proposed_where_it_was_a_guess(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("ort,b\nZürich,1.5\nGenève,2.5\n".encode(encoding))
    assert guess_reading(path).encoding == encoding
    path.write_bytes("ort,b\nZürich,1.5\nGenève,2.5\n".encode("utf-16"))
    assert guess_reading(path).encoding == ""


def test_plain_cells_need_no_marks() -> None:
    rules = ReadingRules(decimal=",", thousands=".")
    assert plain_cells("x", ["1.234,5", "7", "n.a.", ""], rules) == ["1234.5", "7", "n.a.", ""]


def test_a_proposal_says_the_dialect_and_reads_by_it(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    rows = [f"{20 + row},{row % 10};{('no', 'yes')[row % 2]}" for row in range(60)]
    path.write_text("\n".join(["wert;y", *rows]))
    found = tomllib.loads(propose(path, tmp_path, "y", "").text)["data"]
    assert (found["delimiter"], found["decimal"]) == (";", ",")
    assert found["ranges"] == {"wert": [20, 80]}


def test_a_numeric_label_with_decimal_commas_is_a_number(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["age;price", *(f"{20 + row % 9};{row},5" for row in range(60))]))
    assert propose(path, tmp_path, "price", "").label_range == (0.0, 60.0)


def test_spellings_of_a_label_are_one_class(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    for spellings, labels in (
        (("True", "TRUE", "False", "FALSE", "True"), ["False", "True"]),
        (("0", "0.0", "1", "1.0"), ["0", "1"]),
        (("Yes", "no", "yes", "NO", "yes", "no"), ["no", "yes"]),
    ):
        path.write_text("\n".join(["age,y", *(f"{row % 9},{spellings[row % len(spellings)]}" for row in range(60))]))
        assert tomllib.loads(propose(path, tmp_path, "y", "").text)["data"]["labels"] == labels


def test_a_table_without_header_gets_numbered_columns(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("\n".join(f"{row * 1.5},{row % 7},{row % 2}" for row in range(60)))
    found = tomllib.loads(propose(path, tmp_path, "column_3", "", header=False).text)["data"]
    assert found["header"] is False
    assert set(found["ranges"]) == {"column_1", "column_2"}
