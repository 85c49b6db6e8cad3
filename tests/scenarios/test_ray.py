"""The same apps on Flower's own simulation: `--engine ray` gives the run of the local engine and leaves nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.scenarios.runs import differences, without_times, without_traffic

pytestmark = pytest.mark.slow
COMMAND = [sys.executable, "-c", "from fedinfer.cli.main import main; main()"]
SMALL = ("training.rounds=3", "drift.windows=2", "fleet.dropout=0.15", "scenario.seed=6")
ADAPTIVE = (
    "training.rounds=3", "drift.windows=2", "fleet.dropout=0.03", "scenario.seed=6",
    "data.partition.devices=30", "privacy.clipping=adaptive", "privacy.epsilon=60", "privacy.delta=1e-4",
    "drift.epsilon=20", "rollout.canary_epsilon=0", "secure_aggregation.mode=ideal",
)  # fmt: skip


def started_here(mark: str) -> list[str]:
    """Command lines of living processes whose environment carries a mark of this test."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment, command = (entry / "environ").read_bytes(), (entry / "cmdline").read_bytes()
        except OSError:
            continue  # it is gone, or somebody else's
        if mark.encode() in environment.split(b"\0") and command and int(entry.name) != os.getpid():
            found.append(command.replace(b"\0", b" ").decode(errors="replace"))
    return found


def fedinfer_run(
    folder: Path, engine: str, mark: str, scenario: str = "heart", changes: tuple[str, ...] = SMALL
) -> dict:
    overrides = [word for text in changes for word in ("--set", text)]
    command = [*COMMAND, "run", scenario, "--engine", engine, "--out", str(folder), "--json", *overrides]
    name, value = mark.split("=")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), name: value}
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=280)
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def test_ray_gives_the_run_of_the_local_engine_and_leaves_no_process(tmp_path: Path) -> None:
    mark = f"FEDINFER_TEST_MARK={tmp_path.name}-{os.getpid()}"
    before = set(Path("/tmp").glob("fedinfer-ray-*"))
    local, ray = (fedinfer_run(tmp_path / engine, engine, mark) for engine in ("local", "ray"))
    assert (local.pop("engine"), ray.pop("engine")) == ("local", "ray")
    assert local["status"] == "completed"
    assert local["devices"]["dropped"] > 0
    assert differences(without_times(local), without_times(ray)) == []
    assert started_here(mark) == []
    assert set(Path("/tmp").glob("fedinfer-ray-*")) <= before
    for engine in ("local", "ray"):
        assert (tmp_path / engine / "report.html").stat().st_size > 10_000


def test_ray_adapts_the_clipping_norm_as_the_local_engine_does(tmp_path: Path) -> None:
    mark = f"FEDINFER_TEST_MARK={tmp_path.name}-{os.getpid()}"
    local, ray = (fedinfer_run(tmp_path / engine, engine, mark, "digits", ADAPTIVE) for engine in ("local", "ray"))
    assert (local.pop("engine"), ray.pop("engine")) == ("local", "ray")
    assert len({row["clipping_norm"] for row in local["rounds"]}) == 3
    assert differences(without_traffic(without_times(local)), without_traffic(without_times(ray))) == []
