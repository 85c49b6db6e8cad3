"""Columns that a careful analyst does not hand to a model, and numbers that mean that nothing was measured."""

from pathlib import Path

import numpy as np
import pytest

from fedinfer.data import ColumnRole, propose
from fedinfer.data.giveaway import gives_away, is_copy
from fedinfer.data.guess import guess_column
from fedinfer.data.suspicion import sentinels, tells_rows_apart

MISSING = ("", "NA")
RNG = np.random.default_rng(4)
ROWS = 600


def texts(values: object) -> list[str]:
    return [str(value) for value in np.asarray(values)]


def write(path: Path, columns: dict[str, list[str]]) -> Path:
    lines = [",".join(columns), *(",".join(row) for row in zip(*columns.values(), strict=True))]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("patient_nr", texts(RNG.integers(10**7, 2 * 10**7, ROWS))),
        ("UNIQUE_ID", texts(np.repeat(np.arange(200), 3))),
        ("Surname", [f"Name{number}" for number in RNG.integers(0, 90, ROWS)]),
        ("last name", ["Smith", "Miller", "Jones"] * 200),
        ("zip", texts(RNG.integers(10_000, 99_999, ROWS))),
        ("PLZ", texts(RNG.integers(10_000, 10_020, ROWS))),
        ("reached by", [f"+49{number}" for number in RNG.integers(10**9, 10**10, ROWS)]),
        ("reached by", [f"a{number}@b.org" for number in RNG.integers(0, 200, ROWS)]),
        ("x", texts(RNG.integers(10**8, 2 * 10**8, ROWS))),
        ("x", texts(RNG.permutation(np.arange(1000, 4000))[:ROWS])),
        ("hobby", [f"hobby {number % 150}" for number in range(ROWS)]),
    ],
)
def test_what_tells_persons_or_rows_apart_is_no_input(name: str, cells: list[str]) -> None:
    assert guess_column(name, cells, MISSING).role is ColumnRole.DROP


@pytest.mark.parametrize(
    "cells",
    [
        texts(RNG.integers(1500, 8000, ROWS)),
        texts(RNG.integers(0, 100, ROWS)),
        texts(np.round(RNG.lognormal(10, 1, ROWS), 2)),
        texts(RNG.integers(20, 200, ROWS) * 1000),
    ],
)
def test_quantities_stay_numbers(cells: list[str]) -> None:
    assert guess_column("amount", cells, MISSING).role is ColumnRole.NUMERIC


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("ward", ["07", "12", "31"] * 200),
        ("admission_type_id", ["1", "2", "6"] * 200),
        ("region code", texts(np.arange(600) % 9)),
    ],
)
def test_codes_are_categories_though_they_are_digits(name: str, cells: list[str]) -> None:
    assert guess_column(name, cells, MISSING).role is ColumnRole.CATEGORICAL


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.r_[RNG.normal(15, 8, 1000).round(1), [-200] * 30], (-200.0,)),
        (np.r_[RNG.integers(0, 28, 900), [999] * 9000], (999.0,)),
        (np.r_[RNG.normal(230, 40, 300).round(), [0] * 30], (0.0,)),
        (np.r_[RNG.normal(0, 10, 500).round(2), [-999] * 9, [999] * 5], (-999.0, 999.0)),
        (np.r_[RNG.poisson(3, 500) + 1, [-1] * 9], (-1.0,)),
        (RNG.poisson(3, 500), ()),
        (np.r_[RNG.exponential(3000, 500).round(), [0] * 300], ()),
        (RNG.integers(18, 100, 500), ()),
        (RNG.normal(0, 1, 500), ()),
        (np.array([-1, 0, 1] * 100), ()),
    ],
)
def test_numbers_that_mean_not_measured(values: np.ndarray, expected: tuple[float, ...]) -> None:
    assert sentinels(values.astype(np.float64)) == expected


def test_a_sentinel_is_written_as_missing_and_leaves_the_range(tmp_path: Path) -> None:
    lab = np.r_[RNG.normal(15, 3, 580).round(1), [-200] * 20]
    label = texts(np.where(np.r_[lab[:580] + RNG.normal(0, 3, 580), RNG.normal(15, 3, 20)] > 15, "b", "a"))
    proposal = propose(write(tmp_path / "t.csv", {"lab": texts(lab), "y": label}), tmp_path / "p", "y", "")
    assert "[data.missing_values] # numbers that seem to mean `not measured`" in proposal.text
    assert '"lab" = [-200]' in proposal.text
    assert proposal.columns[0].low > 0
    assert proposal.columns[0].missing == 20


def test_a_label_of_minus_200_is_no_class(tmp_path: Path) -> None:
    values = np.r_[RNG.normal(40, 9, 570).round(1), [-200] * 30]
    table = write(tmp_path / "t.csv", {"x": texts(RNG.normal(0, 1, 600).round(2)), "no2": texts(values)})
    proposal = propose(table, tmp_path / "p", "no2", "")
    assert '"no2" = [-200]' in proposal.text
    assert "30 of 600 rows have no label" in proposal.notes[0]


def classes(values: np.ndarray) -> list[str]:
    return texts(values > 52)


def test_a_copy_of_the_label_is_found_and_an_honest_column_is_not() -> None:
    x = RNG.normal(50, 10, ROWS).round(1)
    label = classes(x)
    assert gives_away(["p" if one == "True" else "q" for one in label], label, MISSING) == 1.0
    assert gives_away(texts(x + RNG.normal(0, 5, ROWS)), label, MISSING) < 0.95
    assert gives_away(texts(np.arange(ROWS)), label, MISSING) < 0.7


@pytest.mark.parametrize(
    "made",
    [
        lambda yes: np.where(yes, "p", "q"),
        lambda yes: (10 * yes + RNG.normal(0, 1, ROWS)).round(3),
        lambda yes: np.where(yes, (RNG.exponential(50, ROWS) + 0.01).round(2), 0.0),
    ],
)
def test_what_was_made_from_the_label_is_left_out_with_its_figure(tmp_path: Path, made: object) -> None:
    x = RNG.normal(50, 10, ROWS).round(1)
    yes = x + RNG.normal(0, 10, ROWS) > 52
    columns = {"x": texts(x), "later": texts(made(yes)), "y": texts(yes)}  # type: ignore[operator]
    proposal = propose(write(tmp_path / "t.csv", columns), tmp_path / "p", "y", "")
    roles = {guess.name: guess.role for guess in proposal.columns}
    assert roles == {"x": ColumnRole.NUMERIC, "later": ColumnRole.DROP}
    assert any("'later' is left out, it gives the label away: alone it is right in" in note for note in proposal.notes)


def test_a_column_by_whose_limit_the_label_was_decided_is_used_and_said(tmp_path: Path) -> None:
    x = RNG.normal(50, 10, ROWS).round(1)
    table = write(tmp_path / "t.csv", {"x": texts(x), "z": texts(RNG.normal(0, 1, ROWS).round(2)), "y": classes(x)})
    proposal = propose(table, tmp_path / "p", "y", "")
    assert not is_copy(texts(x), classes(x), MISSING)
    assert proposal.columns[0].role is ColumnRole.NUMERIC
    assert any("'x' alone answers" in note for note in proposal.notes)


def test_no_cell_of_a_rare_value_is_written(tmp_path: Path) -> None:
    town = ["Big"] * 300 + ["Small"] * 290 + [f"Secret{number}" for number in range(10)]
    columns = {"town": town, "x": texts(RNG.normal(0, 1, ROWS).round(2)), "y": texts(RNG.integers(0, 2, ROWS))}
    proposal = propose(write(tmp_path / "t.csv", columns), tmp_path / "p", "y", "")
    assert '"town" = ["Big", "Small"]' in proposal.text
    assert "Secret" not in proposal.text + " ".join(proposal.notes)


def test_a_category_of_one_device_only_is_not_written() -> None:
    cells, holders = ["a"] * 50 + ["b"] * 50 + ["mine"] * 50, ["s1", "s2"] * 50 + ["s3"] * 50
    assert guess_column("x", cells, MISSING, holders).categories == ("a", "b")


def test_rows_without_label_or_device_repeated_persons_and_rare_classes_are_said(tmp_path: Path) -> None:
    columns = {
        "patient_id": texts(np.repeat(np.arange(100), 6)),
        "x": texts(RNG.normal(0, 1, ROWS).round(2)),
        "site": ["", *["s1", "s2", "s3"] * 200][:ROWS],
        "y": ["", "", *["no"] * 570, *["yes"] * 28],
    }
    notes = " ".join(propose(write(tmp_path / "t.csv", columns), tmp_path / "p", "y", "site").notes)
    assert "2 of 600 rows have no label" in notes
    assert "1 of 600 rows have no device" in notes
    assert "'patient_id' has 100 different values in 600 rows, at most 6 rows for one" in notes
    assert "always answering 'no' is right in 95.3%" in notes


def test_numbers_without_a_repeat_that_chance_would_not_give_are_an_identifier() -> None:
    drawn = RNG.permutation(np.arange(5000))[:1000].astype(float)
    assert "no number comes twice" in tells_rows_apart(drawn)
    assert tells_rows_apart(RNG.integers(0, 5000, 1000).astype(float)) == ""
