"""The door for programmers, used as they use it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fedinfer
from fedinfer.errors import BudgetExceeded, ConfigError, NoModel
from fedinfer.types import Relation

SMALL = {"training.rounds": 2, "drift.windows": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> fedinfer.Run:
    return fedinfer.run("heart", out=tmp_path_factory.mktemp("api") / "run", progress=False, **SMALL)


def test_a_run_is_what_its_folder_says(run: fedinfer.Run) -> None:
    again = fedinfer.open_run(run.folder)
    assert again == run
    assert len(run.rounds) == 2
    assert len(run.windows) == 1
    assert run.rounds["metric"].iloc[-1] == run.metrics["accuracy"]
    assert 0 < run.epsilon <= run.record["privacy"]["budget"]


def test_a_run_shows_itself(run: fedinfer.Run) -> None:
    assert "accuracy" in run._repr_html_()
    assert "heart" in repr(run)
    svg = run.plot()._repr_svg_()
    assert svg.startswith("<svg")
    assert "http://www.w3.org/2000/svg" in svg
    assert run.report() == run.folder / "report.html"


def test_its_model_is_what_the_devices_run(run: fedinfer.Run) -> None:
    predictor = run.model()
    names = {path.name for path in (run.folder / "devices").glob("*/")}
    assert len(names) == 4
    row = np.zeros((1, predictor.schema.width), np.float32)
    answers = [run.device(name).predictor.predict(row).probabilities for name in sorted(names)]
    assert all(np.array_equal(answer, answers[0]) for answer in answers)
    assert run.device("Hungary").version == 1


def test_a_device_that_nobody_has_is_named(run: fedinfer.Run, tmp_path: Path) -> None:
    with pytest.raises(NoModel):
        run.device("Atlantis")
    with pytest.raises(NoModel, match="no model was ever installed"):
        fedinfer.open_device(tmp_path)
    with pytest.raises(ConfigError, match=r"run\.json"):
        fedinfer.open_run(tmp_path)


def test_overrides_reach_the_scenario_and_wrong_ones_are_named() -> None:
    with pytest.raises(ConfigError, match="roundz"):
        fedinfer.run("heart", progress=False, training__roundz=3)
    with pytest.raises(ConfigError, match="rounds"):
        fedinfer.run(fedinfer.load_scenario("heart"), progress=False, **{"training.rounds": "many"})


def test_overrides_by_name_and_on_a_loaded_scenario_are_the_same(tmp_path: Path) -> None:
    one = fedinfer.run("heart", out=tmp_path / "one", progress=False, training__rounds=1, drift__enabled=False)
    loaded = fedinfer.load_scenario("heart", ["training.rounds=1", "drift.enabled=false"])
    two = fedinfer.run(loaded, out=tmp_path / "two", progress=True)
    assert one.metrics == two.metrics


def test_a_run_that_ends_early_says_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise BudgetExceeded("nothing left")

    monkeypatch.setattr("fedinfer.coordinator.run.training_round", refuse)
    with pytest.raises(BudgetExceeded) as caught:
        fedinfer.run("heart", out=tmp_path / "run", progress=False, **SMALL)
    assert str(tmp_path / "run") in " ".join(caught.value.__notes__)


def test_the_accountant_is_at_the_door() -> None:
    spent = fedinfer.privacy.account([fedinfer.privacy.GaussianEvent(1.0)], 1e-5, Relation.ADD_REMOVE)
    assert 4.37 < spent.epsilon < 4.38  # Balle and Wang 2018, analytic Gaussian mechanism


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'flwr', 'onnxruntime', 'numpy'}"
    script = f"import sys, fedinfer; dir(fedinfer); print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_name_at_the_door_opens() -> None:
    for name in fedinfer.__all__:
        assert getattr(fedinfer, name) is not None
    with pytest.raises(AttributeError):
        fedinfer.nothing  # noqa: B018  # the access is the test


@pytest.mark.slow
def test_a_sweep_is_a_data_frame(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    table = fedinfer.sweep(
        "heart", {"epsilon": [1, 4]}, seeds=1, jobs=1, out=tmp_path / "s", progress=False, rows="synthetic",
        training__rounds=1, drift__windows=0,
    )  # fmt: skip
    assert isinstance(table, pandas.DataFrame)
    assert list(table["epsilon"]) == [1.0, 4.0]
    assert (table["status"] == "completed").all()
    assert (tmp_path / "s" / "sweep.html").is_file()
