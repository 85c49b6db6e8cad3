"""Runs in the real MLflow and the real TensorBoard, where they are installed."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedinfer.cli.main import app
from fedinfer.errors import ConfigError
from fedinfer.sweeps import exported, to_mlflow, to_tensorboard
from fedinfer.system import SystemClock
from tests.unit.sweeps.test_compare import a_run


def test_a_run_as_trackers_know_it(tmp_path: Path) -> None:
    run = exported(a_run(tmp_path / "a"), more={"epsilon": float("inf")})
    assert run.parameters["unit"] == "example"
    assert run.parameters["epsilon"] == "Infinity"  # a text: trackers refuse it as a number
    assert run.figures["utility"] == 0.8
    assert "status" not in run.figures
    assert [step for step, _ in run.steps] == [1, 2]


@pytest.mark.filterwarnings("ignore")  # MLflow's own
def test_mlflow_has_parameters_figures_and_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path / 'store.db'}"
    monkeypatch.chdir(tmp_path)  # artifacts of a store in SQLite go to ./mlruns
    to_mlflow([exported(a_run(tmp_path / "a")), exported(a_run(tmp_path / "b", seed=2))], uri, "e", SystemClock())
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("e")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.info.run_name for run in runs) == ["a", "b"]
    assert {run.data.params["seed"] for run in runs} == {"1", "2"}
    assert runs[0].data.metrics["utility"] == 0.8
    history = client.get_metric_history(runs[0].info.run_id, "round/bytes_up_per_device")
    assert [(point.step, point.value) for point in history] == [(1, 5.0), (2, 5.0)]
    assert [file.path for file in client.list_artifacts(runs[0].info.run_id)] == ["run.json"]


@pytest.mark.filterwarnings("ignore")  # TensorBoard's own
def test_tensorboard_has_scalars_and_parameters(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    to_tensorboard([exported(a_run(tmp_path / "a"))], tmp_path / "logs", SystemClock())
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(tmp_path / "logs" / "a")).Reload()
    assert [(point.step, point.value) for point in read.Scalars("round/bytes_up_per_device")] == [(1, 5.0), (2, 5.0)]
    assert read.Scalars("run/utility")[0].value == pytest.approx(0.8)
    assert "_hparams_/session_start_info" in read.summary_metadata


def test_two_runs_of_one_name_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = exported(a_run(tmp_path / "a"))
    with pytest.raises(ConfigError, match="two runs are called a"):
        to_tensorboard([run, run], tmp_path / "logs", SystemClock())


def test_a_missing_tracker_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    done = CliRunner().invoke(app, ["compare", str(a_run(tmp_path / "a")), "--mlflow", "x"])
    assert done.exit_code == 2
    assert "pip install 'fedinfer[mlflow]'" in done.output
