"""Runs side by side, and what must not be concluded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedinfer.cli.main import app
from fedinfer.errors import ConfigError
from fedinfer.sweeps import compare_runs


def a_run(folder: Path, *, seed: int = 1, unit: str = "example", interval: tuple[float, float] = (0.7, 0.9)) -> Path:
    """A folder with a small run.json."""
    privacy = {
        "unit": unit, "trust": "central", "epsilon": 0.9, "delta": 1e-5, "budget": 1.0, "planned_epsilon": 1.0,
        "clipping_norm": 1.0, "noise_multiplier": 3.0, "accountant": "pld", "relation": "zero-out-one",
        "sampling": "none", "private": True,
    }  # fmt: skip
    record = {
        "schema": 1, "scenario": "heart", "seed": seed, "status": "completed", "seconds": 3.0, "population": 4,
        "task": {"metric": "accuracy", "higher_is_better": True}, "model": {"kind": "logistic", "parameters": 7},
        "metrics": {"accuracy": 0.8}, "judgement": {"value": sum(interval) / 2, "interval": list(interval)},
        "pooled": {}, "privacy": privacy, "secure_aggregation": {"mode": "ideal", "robust": "mean"},
        "models": [], "drift": {"alarms": []},
        "rounds": [
            {"round": number, "status": "released", "bytes_up_per_device": 5, "bytes_down_per_device": 6}
            for number in (1, 2)
        ],
    }  # fmt: skip
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def test_figures_stand_side_by_side(tmp_path: Path) -> None:
    found = compare_runs([a_run(tmp_path / "a"), a_run(tmp_path / "b", seed=2)])
    assert [row["bytes_up_per_device"] for row in found.rows] == [10, 10]
    assert [row["utility"] for row in found.rows] == [0.8, 0.8]


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    folders = [a_run(tmp_path / "a"), a_run(tmp_path / "b", unit="device")]
    notes = " ".join(compare_runs(folders).notes)
    assert "unit differs (example, device): their epsilons protect different things" in notes
    assert "may be chance" in notes
    assert "All runs have one seed" in notes


def test_no_note_where_nothing_is_wrong(tmp_path: Path) -> None:
    folders = [a_run(tmp_path / "a", interval=(0.5, 0.6)), a_run(tmp_path / "b", seed=2)]
    assert compare_runs(folders).notes == ()


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run\.json"):
        compare_runs([tmp_path])


def test_the_command_prints_and_writes(tmp_path: Path) -> None:
    runs = [str(a_run(tmp_path / name)) for name in ("a", "b")]
    done = CliRunner().invoke(app, ["compare", *runs, "--out", str(tmp_path / "c.csv")])
    assert done.exit_code == 0
    assert "noise multiplier" in done.output
    assert len((tmp_path / "c.csv").read_text().splitlines()) == 3
    parsed = json.loads(CliRunner().invoke(app, ["compare", *runs, "--json"]).stdout)
    assert len(parsed["runs"]) == 2
