"""Shares of two classes: proposed with one digit, by the names of the label, only where there are two classes."""

from pathlib import Path

import pytest

from fedinfer.cli.init import proposed
from fedinfer.config import parse_scenario
from fedinfer.data import load, propose


def table(folder: Path, labels: list[str]) -> Path:
    (folder / "t.csv").write_text("x,y\n" + "\n".join(f"{row % 37},{label}" for row, label in enumerate(labels)) + "\n")
    return folder / "t.csv"


@pytest.mark.parametrize(
    ("labels", "prior"),
    [
        (["no"] * 263 + ["yes"] * 37, {"no": 0.9, "yes": 0.1}),
        (["no"] * 287 + ["yes"] * 13, {"no": 0.96, "yes": 0.04}),
        (["yes"] * 200 + ["no"] * 100, {"yes": 0.7, "no": 0.3}),
        (["a"] * 100 + ["b"] * 100 + ["c"] * 100, {}),
    ],
)
def test_the_rarer_share_has_one_digit(tmp_path: Path, labels: list[str], prior: dict[str, float]) -> None:
    assert propose(table(tmp_path, labels), tmp_path / "m", "y", "").prior == prior


def test_a_label_cut_at_a_number_has_none(tmp_path: Path) -> None:
    file = table(tmp_path, [str(row) for row in range(100)])
    assert propose(file, tmp_path / "m", "y", "", label_above=30).prior == {}


def test_what_init_writes_names_the_classes_of_the_schema(tmp_path: Path) -> None:
    labels = ["healthy"] * 336 + ["ill"] * 64
    _, _, text = proposed(table(tmp_path, labels), tmp_path / "m", "y", "", header=True, label_above=None)
    scenario = parse_scenario(text, tmp_path / "m", "m")
    assert scenario.training.prior == {"healthy": 0.8, "ill": 0.2}
    assert set(scenario.training.prior) == set(load(scenario).schema.labels)
    assert "CONFIRM that they are public" in text
