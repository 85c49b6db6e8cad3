"""What `init` writes for any table, `validate` accepts, and it holds no cell that only few rows have."""

import csv
import json
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from fedinfer.cli.main import app

Cells = list[str]
KINDS: dict[str, Callable[[np.random.Generator, int], Cells]] = {
    "amount": lambda rng, rows: [f"{value:.2f}" for value in rng.lognormal(3, 1, rows)],
    "count": lambda rng, rows: [str(value) for value in rng.poisson(4, rows)],
    "with_sentinel": lambda rng, rows: [
        str(value if rng.random() > 0.1 else -999) for value in rng.integers(0, 60, rows)
    ],
    "colour": lambda rng, rows: list(rng.choice(["red", "green", "", "blue, dark"], rows)),
    "code": lambda rng, rows: [f"0{value}" for value in rng.integers(1, 9, rows)],
    "town": lambda rng, rows: [f"Town{value}" for value in rng.integers(0, rows // 3, rows)],
    "surname": lambda rng, rows: [f"Name{value}" for value in rng.integers(0, 40, rows)],
    "visit": lambda rng, rows: [f"2024-{m:02d}-{d:02d}" for m, d in rng.integers(1, 13, (rows, 2))],
    "row_id": lambda rng, rows: [str(value) for value in range(rows)],
    "constant": lambda rng, rows: ["x"] * rows,
    "empty": lambda rng, rows: [""] * rows,
}
SAFE = ("amount", "count")


def table(seed: int, rows: int, kinds: list[str], classes: int, devices: int) -> dict[str, Cells]:
    rng = np.random.default_rng(seed)
    columns = {kind: KINDS[kind](rng, rows) for kind in kinds}
    columns["y"] = [f"c{value}" if rng.random() > 0.02 else "" for value in rng.integers(0, classes, rows)]
    if devices:
        columns["site"] = [f"s{value}" for value in rng.integers(0, devices, rows)]
    return columns


def written(folder: Path, columns: dict[str, Cells]) -> str:
    path = folder / "t.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([list(columns), *zip(*columns.values(), strict=True)])
    device = ["--device", "site"] if "site" in columns else []
    result = CliRunner().invoke(app, ["init", str(folder / "p"), "--csv", str(path), "--label", "y", *device])
    assert result.exit_code == 0, result.output
    return (folder / "p" / "scenario.toml").read_text() + result.output


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(80, 400),
    safe=st.sampled_from(SAFE),
    others=st.lists(st.sampled_from(sorted(set(KINDS) - set(SAFE))), max_size=5, unique=True),
    classes=st.integers(2, 4),
    devices=st.sampled_from([0, 2, 3, 7]),
)
def test_what_init_writes_validate_accepts(
    seed: int, rows: int, safe: str, others: list[str], classes: int, devices: int
) -> None:
    columns = table(seed, rows, [safe, *others], classes, devices)
    with tempfile.TemporaryDirectory() as name:
        text = written(Path(name), columns)
        result = CliRunner().invoke(app, ["validate", str(Path(name) / "p")])
        assert result.exit_code == 0, result.output
    for kind in set(others) & {"town", "surname", "colour", "code"}:
        rare = [cell for cell, count in Counter(columns[kind]).items() if count < 10 and cell]
        assert not [cell for cell in rare if json.dumps(cell) in text]


@pytest.mark.slow
@pytest.mark.parametrize("devices", [0, 2, 5])
def test_and_run_finishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, devices: int) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, table(devices, 300, ["amount", "with_sentinel", "colour", "visit", "surname"], 2, devices))
    result = CliRunner().invoke(app, ["run", "p", "--json", "--out", "out"])
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out" / "run.json").read_text())["status"] == "completed"


@pytest.mark.slow
def test_texts_are_proposed_planned_and_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(2)
    words = {"ham": "meeting lunch tomorrow call you later now".split(), "spam": "win free cash prize now call".split()}
    labels = list(rng.choice(["ham", "spam"], 1200))
    texts = [" ".join([*rng.choice(words[label], 7), str(number)]) for number, label in enumerate(labels)]
    written(tmp_path, {"y": labels, "message": texts})
    result = CliRunner().invoke(app, ["run", "p", "--json", "--rounds", "3", "--out", "out"])
    assert result.exit_code == 0, result.output
