"""Whatever is written as CSV is read back; whatever bytes come in, the answer is a table or a clear error."""

import csv
import tempfile
import tomllib
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedinfer.config import DataSection, parse_scenario
from fedinfer.data.proposal import propose
from fedinfer.data.read import read_table
from fedinfer.data.sources import arrays
from fedinfer.errors import DataError
from fedinfer.reading import MISSING_TEXT, ReadingRules, read_file

cells = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=12)
names = st.lists(
    st.text("abcXYZ äé_,\"'#.", min_size=1, max_size=8).map(str.strip), min_size=2, max_size=5, unique=True
)


def in_folder(text: bytes) -> tuple[tempfile.TemporaryDirectory, Path]:
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / "table.csv"
    path.write_bytes(text)
    return folder, path


@settings(deadline=None)  # other work may share the machine
@given(names.filter(lambda found: all(found)), st.data())
def test_what_was_written_is_read_back(header: list[str], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.lists(cells, min_size=len(header), max_size=len(header)), min_size=2, max_size=6))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, quoting=csv.QUOTE_ALL).writerows([header, *rows])
        table = read_file(path, ReadingRules(delimiter=","))
    assert list(table.columns) == header
    for place, name in enumerate(header):
        assert table.columns[name] == [row[place].strip() for row in rows]


@settings(deadline=None)  # other work may share the machine
@given(st.binary(max_size=200))
def test_any_bytes_give_a_table_or_a_clear_error(content: bytes) -> None:
    folder, path = in_folder(content)
    with folder:
        try:
            table = read_table(path)
        except DataError as error:
            assert str(path) in str(error)  # noqa: PT017 - both outcomes are right
        else:
            assert table.rows >= 2
            assert len({len(column) for column in table.columns.values()}) == 1


words = st.sampled_from(["red", "blue", "1", "2.5", "-3", "NA", "", "true", "2024-01-02", "1e3", "x y", '"', "n.a."])


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(40, 80))
def test_a_proposal_for_any_table_is_a_valid_scenario_that_reads_it(data: st.DataObject, rows: int) -> None:
    columns = {f"c {place}": data.draw(st.lists(words, min_size=rows, max_size=rows)) for place in range(3)}
    columns["score"] = [f"{row * 0.37:.2f}" for row in range(rows)]
    columns["y"] = [("no", "yes")[row % 2] for row in range(rows)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([columns.keys(), *zip(*columns.values(), strict=True)])
        proposal = propose(path, Path(folder), "y", "")
        scenario = parse_scenario(proposal.text, Path(folder), "draft")
        schema, table, warnings = arrays(read_table(path), scenario.data, ())
    assert tomllib.loads(proposal.text)["data"]["ranges_confirmed"] is False
    assert not schema.confirmed
    assert len(warnings) == 1
    assert len(table) == rows
    assert not np.isinf(table.x).any()


@settings(deadline=None)  # other work may share the machine
@given(st.lists(st.one_of(st.floats(-1e6, 1e6), st.none()), min_size=4, max_size=50))
def test_numbers_are_read_exactly_and_missing_is_nan(values: list[float | None]) -> None:
    text = "\n".join(["x,y", *(f"{'' if v is None else repr(v)},{row % 2}" for row, v in enumerate(values))])
    folder, path = in_folder(text.encode())
    section = DataSection(source="csv", path="table.csv", label="y", ranges={"x": (0.0, 1.0)})
    with folder:
        _, table, _ = arrays(read_table(path), section, ())
    expected = np.array([np.nan if value is None else value for value in values], dtype=np.float32)
    np.testing.assert_array_equal(table.x[:, 0], expected)
    assert "" in MISSING_TEXT
