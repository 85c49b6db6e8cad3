"""`fedinfer artifact convert`: objects of modules, files that are data, files that are programs."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from fedinfer.cli.main import app
from fedinfer.system import simulation_rng

pytest.importorskip("skl2onnx")
RUNNER = CliRunner()
MODULE = """
import numpy as np
from sklearn.linear_model import LogisticRegression

def made():
    x = np.random.default_rng(1).normal(0, 1, (60, 2))
    return LogisticRegression().fit(x, np.array(["well", "ill"])[(x[:, 0] > 0).astype(int)])

class Holder:
    model = made()

word = "text"
"""


def call(*words: object) -> tuple[int, str]:
    result = RUNNER.invoke(app, [str(word) for word in ("artifact", "convert", *words)])
    return result.exit_code, result.output


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with a module of the user's and public rows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "wards.py").write_text(MODULE)
    rows = simulation_rng("rows").normal(0, 1, (40, 2))
    lines = [f"{a:.4f},{b:.4f},{'well' if a > 0 else 'ill'}" for a, b in rows]
    (tmp_path / "rows.csv").write_text("\n".join(["age,bmi,label", *lines]) + "\n")
    np.save(tmp_path / "rows.npy", rows)
    yield tmp_path
    sys.modules.pop("wards", None)


@pytest.mark.parametrize("source", ["wards:made", "wards:Holder.model"])
def test_an_object_of_a_module_becomes_a_folder(place, source):
    code, text = call(source, "--rows", "rows.csv", "-o", "m", "--json")
    assert code == 0, text
    said = json.loads(text)
    assert (said["name"], said["labels"]) == (source.lower().replace(":", "-").replace(".", "-"), ["ill", "well"])
    assert said["row_values"] == 2
    declared = (place / "m/model.toml").read_text()
    assert 'columns = ["age", "bmi"]' in declared


def test_a_booster_of_a_text_file_needs_no_trust(place):
    xgboost = pytest.importorskip("xgboost")
    rows = np.load("rows.npy")
    xgboost.XGBClassifier(n_estimators=4, nthread=1).fit(rows, rows[:, 0] > 0).save_model("b.json")
    code, text = call("b.json", "--rows", "rows.npy", "-o", "m", "--labels", "no,yes", "--columns", "age,bmi", "--json")
    assert (code, json.loads(text)["labels"] if code == 0 else text) == (0, ["no", "yes"])


def test_a_pickle_runs_only_when_it_is_trusted(place):
    joblib = pytest.importorskip("joblib")
    import wards

    joblib.dump(wards.made(), "m.joblib")
    code, text = call("m.joblib", "--rows", "rows.csv", "-o", "m")
    assert (code, "runs whatever program its maker put in" in " ".join(text.split())) == (2, True), text
    assert not (place / "m").exists()
    code, text = call("m.joblib", "--rows", "rows.csv", "-o", "m", "--unsafe-load")
    assert code == 0, text


@pytest.mark.parametrize(
    ("source", "words", "said"),
    [
        ("wards", (), "neither a file that is known nor module:object"),
        ("wards:gone", (), "has no attribute 'gone'"),
        ("gone:x", (), "No module named 'gone'"),
        ("wards:word", (), "builtins.str is no model that is converted"),
        ("gone.json", (), "no such file"),
        ("rows.txt", (), "cannot be loaded"),
        ("wards:made", ("--task", "magic"), "not one of classification"),
    ],
)
def test_a_source_that_is_none_is_one_line_and_code_2(place, source, words, said):
    pytest.importorskip("lightgbm")
    (place / "rows.txt").write_text("no booster")
    code, text = call(source, "--rows", "rows.csv", "-o", "m", *words)
    assert (code, said in " ".join(text.split())) == (2, True), text
    assert not (place / "m").exists()
