"""`fedinfer profile`: what an owner sees of a table, at 80 columns and as a page."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fedinfer.cli.main import app

ROWS = 200


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    rows = [
        f"{value:.1f},{'NA' if number % 10 == 0 else ('a', '<b>', 'b')[number % 3]},Name{number % 70},s{number % 2}"
        for number, value in enumerate(rng.normal(20, 4, ROWS))
    ]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["lab,grade,surname,site", *rows, rows[-1]]) + "\n")
    return path


def test_types_missing_cells_devices_and_repeated_rows_are_shown(table: Path) -> None:
    result = CliRunner().invoke(app, ["profile", str(table), "--device", "site"], env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.output
    assert max(map(len, result.output.splitlines())) <= 80
    assert "Exact copies of an earlier row: 1 row." in result.output
    assert "2 devices, 100 to 101 rows each" in " ".join(result.output.split())
    found = json.loads(CliRunner().invoke(app, ["profile", str(table), "--json"]).stdout)
    columns = {column["name"]: column for column in found["columns"]}
    assert (columns["lab"]["role"], columns["grade"]["missing"], columns["surname"]["role"]) == ("numeric", 20, "drop")
    assert sum(count for _, count in columns["lab"]["distribution"]) == ROWS + 1


def test_the_page_needs_nothing_from_outside_and_obeys_no_cell(table: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["profile", str(table), "--html", str(tmp_path / "p.html")])
    assert result.exit_code == 0, result.output
    page = (tmp_path / "p.html").read_text()
    assert "&lt;b&gt;: " in page
    assert "<b>: " not in page
    assert "http" not in page
    assert "prefers-color-scheme" in page or "color-scheme:light dark" in page


def test_a_column_that_is_not_there_is_an_error(table: Path) -> None:
    result = CliRunner().invoke(app, ["profile", str(table), "--device", "nobody"])
    assert result.exit_code != 0
    assert "no such column" in result.output
