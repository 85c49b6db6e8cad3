"""The order of the classes that init lists: what matters last, grades from low to high."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest

from fedinfer.cli.init import proposed
from fedinfer.config import parse_scenario
from fedinfer.data import load
from fedinfer.data.class_order import grades, listed

POINT = (".", "")


@pytest.mark.parametrize(
    ("counts", "names"),
    [
        ({"leak": 226, "ok": 5774}, ("ok", "leak")),
        ({"a": 90, "b": 10}, ("a", "b")),
        ({"a": 10, "b": 90}, ("b", "a")),
        ({"0": 10, "1": 90}, ("1", "0")),  # rare, so it is what is looked for
        ({"ja": 40, "nein": 60}, ("nein", "ja")),
        ({"defect": 40, "OK": 60}, ("OK", "defect")),
        ({"No": 60, "Yes": 40}, ("No", "Yes")),
        ({"cat": 60, "dog": 40}, ("cat", "dog")),
        ({"no": 50, "none": 50}, ("no", "none")),
        ({"high": 5, "low": 50, "medium": 45}, ("low", "medium", "high")),
        ({"c": 5, "a": 50, "b": 45}, ("a", "b", "c")),
    ],
)
def test_what_matters_is_last(counts: dict[str, int], names: tuple[str, ...]) -> None:
    assert listed(counts, POINT) == names


@pytest.mark.parametrize(
    ("names", "label", "ordered"),
    [
        (["Strongly agree", "Agree", "Neutral", "Disagree"], "q7", ["Disagree", "Neutral", "Agree", "Strongly agree"]),
        (["oft", "nie", "manchmal"], "x", ["nie", "manchmal", "oft"]),
        (["very_good", "Poor", "good"], "x", ["Poor", "good", "very_good"]),
        (["36+", "<18", "18-25", "26 - 35"], "x", ["<18", "18-25", "26 - 35", "36+"]),
        (["5", "3", "4"], "movieRating", ["3", "4", "5"]),
        (["1", "2", "3"], "species", []),
        (["1", "2", "4"], "grade", []),
        (["low", "high"], "grade", []),
        (["low", "lo", "high"], "x", []),  # two spellings of one level
        (["low", "high", "blue"], "x", []),
        (["never", "good", "severe"], "x", []),
    ],
)
def test_grades_are_found_by_words_bands_and_the_name_of_the_label(
    names: list[str], label: str, ordered: list[str]
) -> None:
    assert list(grades(names, label, POINT)) == ordered


def table(folder: Path, label: str, cells: list[str]) -> Path:
    file = folder / "t.csv"
    file.write_text(f"x,{label}\n" + "".join(f"{row * 7 % 37},{cell}\n" for row, cell in enumerate(cells)))
    return file


def test_grades_stay_classes_and_init_says_how_they_become_a_number(tmp_path: Path) -> None:
    file = table(tmp_path, "grade", [str(1 + row % 5) for row in range(600)])
    proposal, _, text = proposed(file, tmp_path / "m", "grade", "", header=True, label_above=None)
    assert any("has an order: 1 < 2 < 3 < 4 < 5. It is learned as classes" in note for note in proposal.notes)
    assert load(parse_scenario(text, tmp_path / "m", "m")).schema.labels == ("1", "2", "3", "4", "5")
    said = "label_range = [1, 5]"
    assert f"# As a number instead: remove labels, and prior below, and set {said}" in text
    changed = "\n".join(said if line.startswith("labels = ") else line for line in text.splitlines())
    assert load(parse_scenario(changed, tmp_path / "m", "m")).schema.label_range == (1.0, 5.0)


def test_words_of_a_scale_are_listed_from_low_to_high(tmp_path: Path) -> None:
    file = table(tmp_path, "risk", [("low", "medium", "high")[row % 3] for row in range(300)])
    proposal, _, text = proposed(file, tmp_path / "m", "risk", "", header=True, label_above=None)
    assert parse_scenario(text, tmp_path / "m", "m").data.labels == ("low", "medium", "high")
    assert any("low < medium < high" in note for note in proposal.notes)
    assert "As a number" not in text


def test_figures_of_a_rare_class_are_its_own(tmp_path: Path) -> None:
    """It comes first in the alphabet: average precision of the usual class would be above 0.9 whatever is answered."""
    cells = ["leak" if row % 25 == 0 else "ok" for row in range(1000)]
    proposal, _, text = proposed(table(tmp_path, "y", cells), tmp_path / "m", "y", "", header=True, label_above=None)
    assert 'AUC, precision and F1 are those of "leak"' in text
    schema = load(parse_scenario(text, tmp_path / "m", "m")).schema
    counts = Counter(cells)
    assert schema.labels == ("ok", "leak")
    assert math.isclose(proposal.prior["leak"], counts["leak"] / counts.total())
