"""`fedinfer run --resume` and `fedinfer.resume`: what they refuse, and a run that they finish."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer import Typer
from typer.testing import CliRunner

import fedinfer
from fedinfer.cli.run import run
from fedinfer.errors import ConfigError
from fedinfer.simulation.coordinate import RUN_ID
from fedinfer.simulation.engine import prepare_local, run_local
from fedinfer.simulation.folder import EventLog
from fedinfer.system import SystemClock
from tests.protocol.fleet import settings, write_table

app = Typer()
app.command()(run)


class Killed(BaseException):
    """Stands for kill -9: nothing on the way catches it."""


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    """A run of two rounds that died after the first."""
    write_table(tmp_path / "rows.csv", 1, 400)
    extra = "training.rounds = 2\ndrift.enabled = false\ndata.partition.devices = 8"
    prepared, folder, clock = prepare_local(settings(extra, tmp_path)), tmp_path / "run", SystemClock()
    folder.mkdir()
    log = EventLog(folder, clock, RUN_ID)

    def mortal(name: str, fields: Any) -> None:
        log(name, fields)
        if name == "round" and fields["round"] == 2:
            raise Killed

    with pytest.raises(Killed):
        run_local(prepared, folder, clock, mortal)
    return folder


def invoke(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def said(result: Any) -> str:
    return " ".join(result.output.split())


def test_an_interrupted_run_says_so_and_is_finished(interrupted: Path) -> None:
    assert json.loads((interrupted / "run.json").read_text())["status"] == "unfinished"
    result = invoke("--resume", str(interrupted), "--json")
    assert result.exit_code == 0, result.output
    record = json.loads((interrupted / "run.json").read_text())
    assert (record["status"], [row["status"] for row in record["rounds"]]) == ("completed", ["released"] * 2)
    assert (interrupted / "report.html").exists()
    assert not (interrupted / "state").exists()
    assert "this run is over" in said(invoke("--resume", str(interrupted)))


def test_a_program_finishes_a_run_too_and_a_folder_without_one_is_refused(interrupted: Path, tmp_path: Path) -> None:
    finished = fedinfer.resume(interrupted, progress=False)
    assert finished.record["status"] == "completed"
    assert len(finished.record["rounds"]) == 2
    with pytest.raises(ConfigError, match="no simulation was begun here"):
        fedinfer.resume(tmp_path / "nowhere", progress=False)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("heart", "--resume", "x"), "takes no scenario"),
        (("--resume", "x", "--rounds", "3"), "takes no scenario"),
        (("--resume", "x", "--set", "training.rounds=3"), "takes no scenario"),
        (("--resume", "x", "--out", "y"), "takes no scenario"),
        ((), "no scenario is named"),
        (("--resume", "nowhere"), "no simulation was begun here"),
    ],
)
def test_what_cannot_be_resumed_ends_with_2(words: tuple[str, ...], why: str) -> None:
    result = invoke(*words)
    assert result.exit_code == 2, result.output
    assert why in said(result)
