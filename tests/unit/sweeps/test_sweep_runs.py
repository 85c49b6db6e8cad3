"""Sweeps that run: what is there is not run again, what cannot run says why, and a kill loses what was in flight."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedinfer.config import load_scenario
from fedinfer.errors import ConfigError
from fedinfer.sweeps import Axis, SweepSettings, Tick, run_sweep, select_privately
from fedinfer.sweeps.folder import CellStatus, Outcome, finish, found, opened, part_of
from fedinfer.sweeps.pool import carry_out_all
from fedinfer.system import SystemClock

QUICK = ["training.rounds=1", "drift.windows=0", "secure_aggregation.mode=ideal"]


def test_a_cell_is_there_when_it_is_complete(tmp_path: Path) -> None:
    with opened(tmp_path / "s"):
        part = part_of(tmp_path / "s", "k", 7)
        (part / "devices").mkdir(parents=True)
        (part / "run.json").write_text("{}")
        assert found(tmp_path / "s", "k") is None
        finish(part, Outcome(CellStatus.REFUSED, "why"), keep=False)
        assert found(tmp_path / "s", "k") == Outcome(CellStatus.REFUSED, "why")
        names = {path.name for path in (tmp_path / "s" / "cells" / "k").iterdir()}
        assert names == {"run.json", "cell.json"}


def test_what_the_machine_did_wrong_is_tried_again(tmp_path: Path) -> None:
    with opened(tmp_path / "s"):
        part = part_of(tmp_path / "s", "k", 7)
        part.mkdir()
        finish(part, Outcome(CellStatus.FAILED, "disk full"), keep=True)
        assert found(tmp_path / "s", "k") is None


def test_a_folder_is_for_one_sweep_at_a_time_and_for_nothing_else(tmp_path: Path) -> None:
    with opened(tmp_path / "s"), pytest.raises(ConfigError, match="another sweep"), opened(tmp_path / "s"):
        pass
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(ConfigError, match="holds no sweep"), opened(tmp_path / "other"):
        pass


def test_what_a_kill_left_in_flight_is_removed(tmp_path: Path) -> None:
    with opened(tmp_path / "s"):
        part_of(tmp_path / "s", "k", 7).mkdir()
    with opened(tmp_path / "s"):
        assert not list((tmp_path / "s" / "cells").iterdir())


@pytest.mark.slow
def test_cells_run_once_share_runs_and_say_why_they_cannot(tmp_path: Path) -> None:
    base = load_scenario("heart", QUICK)
    axes = (Axis("privacy.epsilon", (1.0, float("inf"))), Axis("privacy.trust", ("central", "local")))
    ticks: list[Tick] = []
    first = run_sweep(base, SweepSettings(axes, jobs=1), tmp_path / "s", SystemClock(), ticks.append)
    assert [row["status"] for row in first.rows] == ["completed"] * 4
    assert first.rows[2]["key"] == first.rows[3]["key"] != first.rows[0]["key"]  # no privacy: trust does not matter
    assert (ticks[-1].done, ticks[-1].total, ticks[-1].cached) == (3, 3, 0)
    assert all(row["cpu_seconds"] > 0 and row["energy_joules"] == row["cpu_seconds"] * 10 for row in first.rows)

    more = (*axes, Axis("privacy.unit", ("example", "device", "hospital")))
    second = run_sweep(base, SweepSettings(more, jobs=1), tmp_path / "s", SystemClock(), ticks.append)
    assert ticks[-1].cached == 3
    by = {(row["epsilon"], row["trust"], row["unit"]): row for row in second.rows}
    assert by[1.0, "central", "example"]["utility"] == first.rows[0]["utility"]
    assert by[1.0, "central", "device"]["status"] == "refused"
    assert "too small" in by[1.0, "central", "device"]["reason"]
    assert "hospital" in by[1.0, "local", "hospital"]["reason"]
    assert json.loads((tmp_path / "s" / "sweep.json").read_text())["looking"]["unprotected"] == 1


@pytest.mark.slow
def test_after_a_kill_only_cells_in_flight_are_lost_and_no_process_stays(tmp_path: Path) -> None:
    words = ["sweep", "heart", "--epsilon", "1,2", "--seeds", "2", "--jobs", "1", "--out", "s"]
    words += [word for text in QUICK for word in ("--set", text)]
    program = [sys.executable, "-c", "from fedinfer.cli.main import main; main()", *words]
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    process = subprocess.Popen(program, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    cells = tmp_path / "s" / "cells"
    deadline = time.monotonic() + 120
    while len(list(cells.glob("*/cell.json"))) < 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    tasks = Path(f"/proc/{process.pid}/task").iterdir()
    children += [child for task in tasks for child in (task / "children").read_text().split()]
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert children
    while any(_alive(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_alive(child) for child in children)
    done = {path.parent.name: path.stat().st_mtime_ns for path in cells.glob("*/cell.json")}
    assert 1 <= len(done) < 4

    again = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert f"{len(done)} taken from the folder" in again.stderr
    assert len(list(cells.iterdir())) == 4
    assert all((cells / key / "cell.json").stat().st_mtime_ns == time_ for key, time_ in done.items())


@pytest.mark.slow
def test_a_process_that_dies_is_one_failed_cell(tmp_path: Path) -> None:
    from fedinfer.config import to_flat

    flat = to_flat(load_scenario("heart", [*QUICK, "model.factory=deadly:make"]))
    (tmp_path / "deadly.py").write_text("import os\n\n\ndef make(schema):\n    os._exit(9)\n")
    jobs = [{"scenario": flat, "rows": "own", "part": str(tmp_path / f"{n}.1.part"), "keep": False} for n in (1, 2)]
    answers = {}
    sys.path.insert(0, str(tmp_path))
    try:
        carry_out_all(jobs, 1, tmp_path, answers.__setitem__)
    finally:
        sys.path.remove(str(tmp_path))
    assert [answers[n]["status"] for n in (0, 1)] == ["failed", "failed"]
    assert "exit code 9" in answers[0]["reason"]


@pytest.mark.slow
def test_private_selection_releases_the_best_run_alone_and_charges_more_than_one_run(tmp_path: Path) -> None:
    base = load_scenario("heart", [*QUICK, "data.public_fraction=0.2"])
    axes = (Axis("training.server_learning_rate", (0.01, 1.0)),)
    ticks: list[Tick] = []
    settings = SweepSettings(axes, jobs=1)
    result = select_privately(base, settings, 3.0, tmp_path / "s", SystemClock(), ticks.append)
    assert {path.name for path in (tmp_path / "s").iterdir()} == {
        "cells", "selected", "selection.json", "workers.log", ".lock",
    }  # fmt: skip
    assert not list((tmp_path / "s" / "cells").iterdir())
    assert result["epsilon"] > base.privacy.epsilon
    assert result["candidates"] == 2
    record = json.loads((tmp_path / "s" / "selected" / "run.json").read_text())
    assert record["metrics"]["accuracy"] == result["score"]
    assert "pooled" not in record  # it follows from private rows without noise
    assert record["metrics"]["rows"] == sum(part["rows"] for part in record["judgement"]["devices"])


@pytest.mark.parametrize(
    ("overrides", "axes", "message"),
    [
        ([], [Axis("training.rounds", (1, 2))], "0 public rows"),
        (["data.public_fraction=0.2"], [Axis("privacy.epsilon", (float("inf"),))], "without privacy"),
        (["data.public_fraction=0.2"], [Axis("privacy.delta", (1e-5, 1e-6))], "different values of privacy.delta"),
    ],
)
def test_what_no_selection_can_cover_is_refused(
    overrides: list[str], axes: list[Axis], message: str, tmp_path: Path
) -> None:
    base = load_scenario("heart", [*QUICK, *overrides])
    with pytest.raises(ConfigError, match=message):
        select_privately(base, SweepSettings(tuple(axes)), 3.0, tmp_path / "s", SystemClock(), lambda tick: None)


def test_a_selection_does_not_remove_a_sweep(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").touch()
    with pytest.raises(ConfigError, match="holds a sweep"):
        select_privately(load_scenario("heart"), SweepSettings(()), 3.0, tmp_path, SystemClock(), lambda tick: None)


def _alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except OSError:
        return False
