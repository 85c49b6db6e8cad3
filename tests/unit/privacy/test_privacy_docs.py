"""Each claim of docs/privacy-accounting.md names tests that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedinfer.cli.main import app

ROOT = Path(__file__).parents[3]


def test_every_test_named_on_the_page_exists() -> None:
    page = (ROOT / "docs" / "privacy-accounting.md").read_text()
    named = re.findall(r"`(test_privacy_\w+\.py)::(test_\w+)`", page)
    assert len(named) > 40
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / "unit" / "privacy" / file).read_text(), f"{file}::{test}"


def published() -> list[tuple[str, ...]]:
    """Rows of the table: published figure, command, figures by the conversion of 2017, by Rényi bounds, as stated."""
    page = (ROOT / "docs" / "privacy-accounting.md").read_text()
    return re.findall(
        r"^\| [^|]+ \| ([\d.]+) \| `(--[^`]+)` \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", page, re.MULTILINE
    )


@pytest.mark.parametrize("row", published(), ids=lambda row: row[1])
def test_every_published_figure_is_what_its_command_says(row: tuple[str, ...]) -> None:
    printed, options, *figures = row
    command = ["privacy", "epsilon", *options.split(), "--delta", "1e-5", "--conversions", "--json"]
    answer = json.loads(CliRunner().invoke(app, command).output)
    said = (*answer["conversions"].values(), answer["epsilon"])
    assert [f"{epsilon:.3f}" for epsilon in said] == figures
    assert said[0] == pytest.approx(float(printed), rel=0.011), "what was printed is the conversion of its time"
    assert said[0] > said[1] > said[2]


def test_the_table_of_published_figures_is_there() -> None:
    assert len(published()) == 6
