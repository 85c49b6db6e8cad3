"""Table files of every kind and dialect give the same cells; faults name file, row and remedy."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import feather, ipc

from fedinfer.errors import DataError
from fedinfer.reading import RawTable, ReadingRules, number_hint, plain_numbers, read_bytes, read_file
from fedinfer.reading.packed import PackedColumns

CELLS = {"größe": ["1.5", "2", ""], "ort": ["Zürich", "Bern", "x;y"]}
TEXT = 'größe,ort\n1.5,Zürich\n2,Bern\n,"x;y"\n'
ARFF = """% made up
@RELATION demo
@attribute größe numeric
@attribute 'ort' {Zürich, Bern, 'x;y'}

@DATA
1.5, Zürich
2,Bern
% between
?,'x;y'
"""


def cells(table: RawTable) -> dict[str, list[str]]:
    return {name: list(table.columns[name]) for name in table.columns}


def excel(path: Path) -> None:
    pd.DataFrame({"größe": [1.5, 2, None], "ort": ["Zürich", "Bern", "x;y"]}).to_excel(path, index=False)


def arrow(path: Path) -> None:
    feather.write_feather(pa.table(CELLS), path)


def arrow_stream(path: Path) -> None:
    table = pa.table(CELLS)
    with ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table)


WRITERS: dict[str, Callable[[Path], object]] = {
    "utf-8.csv": lambda path: path.write_text(TEXT, encoding="utf-8"),
    "bom.csv": lambda path: path.write_text(TEXT, encoding="utf-8-sig"),
    "utf-16.csv": lambda path: path.write_text(TEXT, encoding="utf-16"),
    "crlf.csv": lambda path: path.write_bytes(TEXT.replace("\n", "\r\n").encode()),
    "cr.csv": lambda path: path.write_bytes(TEXT.replace("\n", "\r").encode()),
    "excel.csv": lambda path: path.write_text("sep=|\n" + TEXT.replace(",", "|"), encoding="utf-8-sig"),
    "blank lines.csv": lambda path: path.write_text("\n \n" + TEXT.replace("\n", "\n\n  \n"), encoding="utf-8"),
    "tab.tsv": lambda path: path.write_text(TEXT.replace(",", "\t"), encoding="utf-8"),
    "pipe.txt": lambda path: path.write_text(TEXT.replace(",", "|"), encoding="utf-8"),
    "packed.csv.gz": lambda path: path.write_bytes(gzip.compress(TEXT.encode())),
    "a.arrow": arrow,
    "a.feather": arrow,
    "stream.arrow": arrow_stream,
    "book.xlsx": excel,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_same_cells(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    table = read_file(tmp_path / name, ReadingRules())
    assert cells(table) == CELLS
    assert table.notes == ()
    assert table.rows == 3


def test_arff_keeps_its_question_mark(tmp_path: Path) -> None:
    (tmp_path / "a.arff").write_text(ARFF, encoding="utf-8")
    assert cells(read_file(tmp_path / "a.arff", ReadingRules())) == {"größe": ["1.5", "2", "?"], "ort": CELLS["ort"]}


@pytest.mark.parametrize(("encoding", "found"), [("cp1252", "cp1252"), ("utf-16-le", "utf-16-le")])
def test_an_encoding_that_was_guessed_is_said(tmp_path: Path, encoding: str, found: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(TEXT.encode(encoding))
    table = read_file(path, ReadingRules())
    assert cells(table) == CELLS
    assert found in table.notes[0]
    assert read_file(path, ReadingRules(encoding=found)).notes == ()


def test_a_file_without_header_has_numbered_columns(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("1,2,x\n3,4,y\n")
    assert cells(read_file(path, ReadingRules(header=False))) == {
        "column_1": ["1", "3"],
        "column_2": ["2", "4"],
        "column_3": ["x", "y"],
    }
    assert "--no-header" in read_file(path, ReadingRules()).notes[0]


def test_quotes_may_be_ordinary_characters(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_text('label\ttext\nspam\t"WIN cash" call now\nham\t"hello\n')
    with pytest.raises(DataError, match=r"t.tsv: row 2 \(line 2\) is not CSV") as caught:
        read_file(path, ReadingRules())
    assert 'quote = ""' in caught.value.hint
    assert cells(read_file(path, ReadingRules(quote="")))["text"] == ['"WIN cash" call now', '"hello']


@pytest.mark.parametrize(
    ("name", "content", "words", "hint"),
    [
        ("t.csv", b"a,b\n1,2\n3\n", "row 3 has 1 cells, the header has 2", "delimiter"),
        ("t.csv", b"1,1\n2,2\n", "duplicate column '1'", "--no-header"),
        ("t.csv", b"a,a\n2,2\n", "duplicate column 'a'", "rename"),
        ("t.xls", b"\xd0\xcf\x11\xe0", ".xls are not read", ".xlsx"),
        ("t.zip", b"PK\x03\x04", ".zip are not read", "unpack"),
        ("t.csv", b"PK\x03\x04xx", "a ZIP archive", ".xlsx"),
        ("t.csv.gz", b"\x1f\x8b\x08\x00", "gzip cannot be unpacked", "gzip --test"),
        ("t.xlsx", b"no workbook", "not a workbook", "CSV"),
        ("t.parquet", b"no parquet", "cannot be read", "path"),
        ("t.arff", b"a,b\n1,2\n", "line 1: 'a,b' is no ARFF", "csv"),
        ("t.arff", b"@attribute a numeric\n@data\n{0 1}\n", "line 3: sparse ARFF", "dense"),
        ("t.arff", b"@attribute a numeric\n@data\n1,2\n", "line 3 has 2 cells", ""),
        ("t.csv", b"", "no header line", ""),
    ],
)
def test_a_fault_has_its_place_and_a_remedy(tmp_path: Path, name: str, content: bytes, words: str, hint: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_file(path, ReadingRules())
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert hint in caught.value.hint


def test_an_encoding_that_a_person_states_is_taken_at_its_word(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="near line 2: byte 0xfc"):
        read_bytes(Path("t.csv"), "a,b\nZürich,1\n".encode("cp1252"), ReadingRules(encoding="utf-8"))
    with pytest.raises(DataError, match="no such encoding"):
        read_bytes(Path("t.csv"), b"a,b\n1,2\n", ReadingRules(encoding="klingon"))


def test_a_file_of_another_delimiter_is_taken_where_it_has_the_columns() -> None:
    rules = ReadingRules(delimiter=";")
    assert cells(read_bytes(Path("q.csv"), b"a,b\n1,2\n", rules, wanted=("a", "b"))) == {"a": ["1"], "b": ["2"]}
    assert cells(read_bytes(Path("q.csv"), b"a,b\n1,2\n", rules, wanted=("a", "z"))) == {"a,b": ["1,2"]}


@pytest.mark.parametrize(
    ("cell", "rules", "words"),
    [
        ("1,5", ReadingRules(), 'decimal = ","'),
        ("1.234,5", ReadingRules(), 'decimal = "," and thousands = "."'),
        ("1.5", ReadingRules(decimal=","), 'decimal = "."'),
        ("1'234", ReadingRules(), 'thousands = "\'"'),
        ("red", ReadingRules(), ""),
    ],
)
def test_a_number_of_another_dialect_gets_the_setting(cell: str, rules: ReadingRules, words: str) -> None:
    hint = number_hint("x", cell, rules)
    assert words in hint
    assert bool(words) == bool(hint)


def test_columns_of_parquet_keep_their_own_numbers(tmp_path: Path) -> None:
    table = pa.table({"f": pa.array([-99.9, None], pa.float32()), "b": [True, False], "d": [2**53 + 1, 7]})
    assert cells(RawTable("t", PackedColumns(table))) == {
        "f": ["-99.9", ""],
        "b": ["True", "False"],
        "d": ["9007199254740993", "7"],
    }


@pytest.mark.parametrize("name", ["plain.csv", "packed.csv.gz", "wide.csv", "latin.csv"])
def test_a_large_file_is_packed_whatever_it_is_wrapped_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    text = "größe,ort\n" + "".join(f"{row}.5,Zürich\n" for row in range(400))
    content = {
        "plain.csv": text.encode(),
        "packed.csv.gz": gzip.compress(text.encode()),
        "wide.csv": text.encode("utf-16"),
        "latin.csv": text.encode("cp1252"),
    }[name]
    (tmp_path / name).write_bytes(content)
    plain = cells(read_file(tmp_path / name, ReadingRules()))
    monkeypatch.setattr("fedinfer.reading.files.LARGE_BYTES", 1000)
    table = read_file(tmp_path / name, ReadingRules())
    assert isinstance(table.columns, PackedColumns)
    assert cells(table) == plain
    assert len(table.notes) == (name == "latin.csv")


@pytest.mark.parametrize(
    ("text", "row"), [("a\n1\nx\n", 3), ("\n\na\n1\n\nx\n", 6), ("sep=;\na;b\n1;2\n\nx;2\n", 5), ("a\n\nx\n", 3)]
)
def test_a_row_has_the_number_that_a_spreadsheet_shows(text: str, row: int) -> None:
    rules = ReadingRules()
    with pytest.raises(DataError, match=f"t.csv: column 'a', row {row}: 'x' is not a number"):
        plain_numbers(read_bytes(Path("t.csv"), text.encode(), rules), "a", rules)
