"""Dates of birth are read as days where one reading fits all of them, in a range that is nobody's birthday."""

from pathlib import Path

import numpy as np
import pytest

from fedinfer.cli.init import proposed
from fedinfer.config import parse_scenario
from fedinfer.data import load
from fedinfer.data.birth import DECADE, decades, rule_of
from fedinfer.data.guess import ColumnRole, guess_column
from fedinfer.data.profile import profile_table
from fedinfer.reading import MISSING_TEXT
from fedinfer.schema import Numeric


@pytest.mark.parametrize(
    ("cells", "rule"),
    [
        (["1980-12-31", "1999-02-01"], "days since 1900-01-01"),
        (["31.12.1980", " 01.02.1999 "], "days since 1900-01-01 as %d.%m.%Y"),
        (["12/31/1980", "01/02/1999"], "days since 1900-01-01 as %m/%d/%Y"),
        (["31/12/1980", "01/02/1999"], "days since 1900-01-01 as %d/%m/%Y"),
        (["05/06/1980", "01/02/1999"], ""),
        (["31.12.80", "01.02.99"], ""),
        (["1980-12-31", "unknown"], ""),
    ],
)
def test_a_layout_must_read_every_cell_and_be_the_only_one(cells: list[str], rule: str) -> None:
    assert rule_of(cells) == rule


def test_a_range_is_whole_decades_and_holds_its_ends() -> None:
    for found in ([0.0], [1.0, 36_500.0], [-40.0, 29_000.5]):
        low, high = decades(found)
        assert low <= min(found) < max(found) + 1e-9 < high
        assert low % DECADE == high % DECADE == 0


def test_only_a_column_of_birth_is_kept() -> None:
    cells = [f"19{year}-03-05" for year in range(20, 90)]
    assert guess_column("visit", cells, MISSING_TEXT).role is ColumnRole.DROP
    assert guess_column("birth_date", cells, MISSING_TEXT).role is ColumnRole.NUMERIC
    assert guess_column("birth_date", [*cells, "unknown"], MISSING_TEXT).role is ColumnRole.DROP


def test_what_init_writes_reads_days_within_the_range(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    years = rng.integers(1930, 2005, 300)
    lines = [f"{rng.integers(13, 28)}.0{rng.integers(1, 9)}.{year},{'ny'[int(year < 1970)]}" for year in years]
    (tmp_path / "t.csv").write_text("dob,ill\n" + "\n".join(lines) + "\n")
    _, _, text = proposed(tmp_path / "t.csv", tmp_path / "m", "ill", "", header=True, label_above=None)
    federation = load(parse_scenario(text, tmp_path / "m", "m"))
    column = federation.schema.columns[0]
    assert isinstance(column, Numeric)
    values = np.concatenate([device.train_x[:, 0] for device in federation.devices.values()])
    assert ((values > column.low) & (values < column.high)).all()
    assert values.max() - values.min() > 70 * 365


def test_a_profile_shows_days(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("dob\n" + "\n".join(f"{year}-06-01" for year in range(1930, 2000)) + "\n")
    found = profile_table(tmp_path / "t.csv", "").columns[0]
    assert sum(count for _, count in found.bars) == 70
    assert "half of them" in found.summary
