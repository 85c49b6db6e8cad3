"""`fedinfer artifact import` and what follows: quantize, sign, install, predict, roll back; and its refusals."""

from __future__ import annotations

import json
import os
import sys
from importlib.resources import files

import numpy as np
import pytest
from typer.testing import CliRunner

from fedinfer.artifact import Image
from fedinfer.cli.importing import image_of
from fedinfer.cli.main import app
from tests.unit.artifact import foreign_models as foreign

RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setenv("FEDINFER_PASSPHRASE", "correct horse battery")
    monkeypatch.setenv("FEDINFER_ROOT_PASSPHRASE", "another horse battery")


def call(*words: object) -> tuple[int, str]:
    result = RUNNER.invoke(app, [str(word) for word in words])
    return result.exit_code, result.output


def asked(*words: object) -> dict:
    code, text = call(*words, "--json")
    assert code == 0, text
    return json.loads(text)


@pytest.fixture
def vad(tmp_path):
    """The cell with state as a file, and what its import says."""
    (tmp_path / "vad.onnx").write_bytes(foreign.stream("n"))
    said = asked(
        "artifact", "import", tmp_path / "vad.onnx", "-o", tmp_path / "vad", "--task", "scores", "--labels", "speech",
        "--range", "x=-1:1",
    )  # fmt: skip
    return tmp_path, said


@pytest.mark.slow
def test_a_model_with_state_goes_from_its_file_to_a_stream_on_a_device_and_back(vad):
    folder, said = vad
    assert said["inputs"] == ["x: float32 [3] in [-1, 1]", "h: float32 [2, 2] in [-1, 1]"]
    assert said["outputs"][1].endswith("feeds h")
    assert said["parity"] < 1e-5
    assert asked("artifact", "verify", folder / "vad")["verified"]
    for version in (1, 2):
        figures = asked("artifact", "quantize", folder / "vad", "-o", folder / f"build{version}", "--version", version)
        assert figures["version"] == version
        assert {item["name"] for item in figures["outputs"]} == {"p", "hN"}
        if version == 1:
            asked("artifact", "keys", folder / "keys")
        asked(
            "artifact",
            "publish",
            folder / f"build{version}",
            "--repository",
            folder / "site",
            "--keys",
            folder / "keys/online",
        )
        report = asked(
            "device", "install", "--store", folder / "store", "--repository", folder / "site", "--root",
            folder / "site/metadata/1.root.json",
        )  # fmt: skip
        assert report["version"] == version
    frames = np.linspace(-1, 1, 15, dtype=np.float32).reshape(5, 3)
    np.save(folder / "frames.npy", frames)
    streamed = asked("device", "predict", "--store", folder / "store", folder / "frames.npy", "--stream")
    alone = asked("device", "predict", "--store", folder / "store", folder / "frames.npy")
    first, last = streamed["predictions"][0], streamed["predictions"][-1]
    assert first["p"] == pytest.approx(alone["predictions"][0]["p"], abs=1e-2)  # an int8 file: batches differ a little
    assert abs(last["p"][0] - alone["predictions"][-1]["p"][0]) > 5e-2
    code, text = call("device", "predict", "--store", folder / "store", folder / "frames.npy", "--stream")
    assert (code, text.splitlines()[0]) == (0, "row,speech")
    explained = asked("device", "predict", "--store", folder / "store", folder / "frames.npy", "--explain")
    assert {word.split(":", 1)[0] for word in explained["predictions"][0]["reasons"].split()} == {"x[0", "x[1", "x[2"}
    assert asked("device", "rollback", "--store", folder / "store")["version"] == 1


@pytest.mark.slow
def test_a_model_of_words_answers_texts_on_a_device(tmp_path):
    data = foreign.model_bytes(
        [
            ("Gather", ["table", "tokens"], ["e"]), ("Transpose", ["e"], ["t"], {"perm": [0, 2, 1]}),
            ("GlobalAveragePool", ["t"], ["m"]), ("Flatten", ["m"], ["y"]),
        ],
        [("tokens", foreign.INT, ["n", 4])], [("y", foreign.F, ["n", 2])],
        {"table": np.array([[0, 0], [0, 0], [0, 8], [8, 0]], np.float32)},
    )  # fmt: skip
    (tmp_path / "m.onnx").write_bytes(data)
    (tmp_path / "words.txt").write_text("[PAD]\n[UNK]\ngood\nbad\n")
    (tmp_path / "said.csv").write_text('tokens\nGood thing\n"Bad, very bad"\n')
    asked(
        "artifact", "import", tmp_path / "m.onnx", "-o", tmp_path / "m", "--task", "classification",
        "--labels", "no,yes", "--vocabulary", f"tokens={tmp_path / 'words.txt'}",
    )  # fmt: skip
    asked("artifact", "keys", tmp_path / "keys")
    asked("artifact", "quantize", tmp_path / "m", "-o", tmp_path / "build")
    asked(
        "artifact", "publish", tmp_path / "build", "--repository", tmp_path / "site", "--keys", tmp_path / "keys/online"
    )
    asked(
        "device", "install", "--store", tmp_path / "store", "--repository", tmp_path / "site", "--root",
        tmp_path / "site/metadata/1.root.json",
    )  # fmt: skip
    said = asked("device", "predict", "--store", tmp_path / "store", tmp_path / "said.csv")
    assert [answer["label"] for answer in said["predictions"]] == ["yes", "no"]


def test_what_cannot_be_quantized_is_pushed_as_it_is_and_says_so(tmp_path):
    data = foreign.model_bytes([("Neg", ["x"], ["y"])], [("x", foreign.F, ["n", 2])], [("y", foreign.F, ["n", 2])])
    (tmp_path / "m.onnx").write_bytes(data)
    asked("artifact", "import", tmp_path / "m.onnx", "-o", tmp_path / "m", "--task", "tensors", "--range", "x=-1:1")
    figures = asked("artifact", "quantize", tmp_path / "m", "-o", tmp_path / "build")
    assert figures["variant"] == "float"
    assert figures["note"].startswith("not quantized to 8 bits, pushed as it is: no scheme is known")
    assert figures["outputs"] == [{"name": "y", "rms_error": 0.0, "largest_error": 0.0}]


@pytest.mark.parametrize(
    ("data", "words", "code", "said"),
    [
        (foreign.policy(), (), 2, "range of input obs"),
        (foreign.policy(), ("--range", "obs=-1:1"), 2, "the task cannot be read"),
        (foreign.policy(), ("--range", "obs=1:-1"), 2, "not NAME=VALUE"),
        (foreign.policy(), ("--task", "magic"), 2, "not one of classification"),
        (foreign.policy(), ("--constant", "sr=1"), 2, "no such name"),
        (foreign.policy(9), (), 5, "operator set 9"),
        (foreign.policy()[:100], (), 5, "GateFailed"),
    ],
    ids=["range", "task", "order", "word", "name", "opset", "cut"],
)
def test_a_refusal_is_a_line_a_hint_and_a_code(tmp_path, data, words, code, said):
    (tmp_path / "m.onnx").write_bytes(data)
    found, text = call("artifact", "import", tmp_path / "m.onnx", "-o", tmp_path / "m", *words)
    assert (found, said in " ".join(text.split())) == (code, True), text
    assert not (tmp_path / "m").exists()


def test_a_model_that_answers_nan_is_refused_before_anything_is_written(tmp_path):
    data = foreign.model_bytes(
        [("Sqrt", ["x"], ["y"])], [("x", foreign.F, ["n", 2])], [("y", foreign.F, ["n", 2])]
    )  # fmt: skip
    (tmp_path / "m.onnx").write_bytes(data)
    code, text = call(
        "artifact", "import", tmp_path / "m.onnx", "-o", tmp_path / "m", "--task", "tensors", "--range", "x=-1:1"
    )
    assert (code, "answers NaN or infinity" in " ".join(text.split())) == (5, True), text
    assert not (tmp_path / "m").exists()


def test_a_changed_model_or_declaration_is_found(vad):
    folder, _ = vad
    toml = folder / "vad/model.toml"
    toml.write_text(toml.read_text().replace('feeds = "h"', 'feeds = "gone"'))
    code, text = call("artifact", "verify", folder / "vad")
    assert (code, "which is no input" in " ".join(text.split())) == (2, True), text
    (folder / "vad/model.onnx").write_bytes(foreign.policy())
    toml.write_text(toml.read_text().replace('feeds = "gone"', 'feeds = "h"'))
    code, text = call("artifact", "quantize", folder / "vad", "-o", folder / "b")
    assert (code, "is not the model of its model.toml" in " ".join(text.split())) == (5, True), text


@pytest.mark.slow
def test_a_run_without_training_rolls_out_and_sees_the_rows_change(tmp_path):
    (tmp_path / "policy.onnx").write_bytes(foreign.policy())
    asked(
        "artifact", "import", tmp_path / "policy.onnx", "-o", tmp_path / "policy", "--task", "classification",
        "--labels", "left,stay,right", "--range", "obs=-2:2", "--columns", "x,dx,angle,spin",
    )  # fmt: skip
    rows = np.random.default_rng(1).normal(0, 0.7, (600, 4))
    (tmp_path / "rows.csv").write_text(
        "x,dx,angle,spin\n" + "\n".join(",".join(f"{v:.3f}" for v in row) for row in rows)
    )
    record = asked(
        "run", tmp_path / "policy", "--rows", tmp_path / "rows.csv", "--devices", 40, "--out", tmp_path / "run",
        "--set", "drift.inject.amount=0.7", "--calibration", tmp_path / "rows.csv",
    )  # fmt: skip
    assert record["status"] == "completed"
    assert record["model"]["kind"] == "imported"
    assert record["rounds"] == []
    assert record["models"][0]["rollout"]
    assert record["drift"]["alarms"]
    assert min(alarm["window"] for alarm in record["drift"]["alarms"]) >= 6
    assert any("trained elsewhere" in text for text in record["warnings"])
    assert not any("nobody trained" in text for text in record["warnings"])
    assert (tmp_path / "run/report.html").stat().st_size > 10_000
    code, text = call("run", tmp_path / "policy", "--devices", 5)
    assert (code, "--rows FILE" in text) == (2, True)
    code, text = call("run", "heart", "--calibration", tmp_path / "rows.csv")
    assert (code, "the scenario heart brings its own rows" in " ".join(text.split())) == (2, True), text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("8x6", Image(8, 6)),
        ("8x6/4x4", Image(8, 6, crop=(4, 4))),
        ("8x6/4x4:0.5:0.2,0.3,0.4", Image(8, 6, (0.5,), (0.2, 0.3, 0.4), (4, 4))),
    ],
)
def test_an_image_is_said_in_one_word(words, expected):
    assert image_of(words) == expected


def test_a_decision_and_detections_are_said_and_refused_in_one_line(tmp_path):
    (tmp_path / "m.onnx").write_bytes(foreign.policy())
    words = ("artifact", "import", tmp_path / "m.onnx", "-o", tmp_path / "m", "--range", "obs=-1:1")
    asked(*words, "--task", "classification", "--top", 2, "--abstain-below", 0.4)
    text = (tmp_path / "m/model.toml").read_text()
    assert "top = 2 #" in text
    assert "abstain_below = 0.4 #" in text
    assert "threshold" not in text
    for more, told in (
        (("--task", "classification", "--threshold", 0.3), "do not fit a model of 3 classes"),
        (("--detections", "boxes:gone,scores:action_logits,most:3"), "the graph has no such name"),
        (("--detections", "boxes"), "not NAME:VALUE with commas between them"),
    ):
        code, said = call(*words, *more)
        assert (code, told in " ".join(said.split())) == (2, True), said


def test_a_model_of_spectrograms_takes_raw_samples(tmp_path):
    data = foreign.model_bytes(
        [("Flatten", ["mel"], ["flat"]), ("MatMul", ["flat", "w"], ["y"])],
        [("mel", foreign.F, ["n", 1, 8, 13])], [("y", foreign.F, ["n", 3])], {"w": foreign.weights(104, 3)},
    )  # fmt: skip
    (tmp_path / "m.onnx").write_bytes(data)
    words = "samples:2000,rate:16000,frame:400,hop:160,bands:8"
    said = asked(
        "artifact", "import", tmp_path / "m.onnx", "-o", tmp_path / "m", "--task", "scores", "--audio", f"mel={words}"
    )
    assert said["inputs"] == ["mel: float32 [1, 8, 13], made of 2000 raw samples"]
    assert (said["row_values"], said["watched"]) == (2000, ["mean:mel", "spread:mel"])
    assert asked("artifact", "verify", tmp_path / "m")["verified"]
    for wrong, told in ((words.replace("hop", "step"), "audio has no 'step'"), ("2000", "not NAME=VALUE")):
        code, text = call("artifact", "import", tmp_path / "m.onnx", "-o", tmp_path / "n", "--audio", f"mel={wrong}")
        assert (code, told in " ".join(text.split())) == (2, True), text


@pytest.mark.parametrize("words", ["8", "8x6x3", "8x6:0.5", "8x6/4", "8x6/4x4/2x2"])
def test_an_image_that_is_said_otherwise_is_refused(tmp_path, words):
    (tmp_path / "m.onnx").write_bytes(foreign.policy())
    code, text = call("artifact", "import", tmp_path / "m.onnx", "-o", tmp_path / "m", "--image", f"obs={words}")
    assert (code, "not NAME=VALUE" in " ".join(text.split())) == (2, True), text


def test_no_program_beside_a_model_is_run(tmp_path, monkeypatch):
    """The scenario in the same folder names one; the folder is that of a model, so nobody reads the scenario."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder, ran = tmp_path / "model", tmp_path / "ran"
    folder.mkdir()
    (folder / "stranger_twin.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    own = (files("fedinfer.scenarios") / "heart.toml").read_text(encoding="utf-8")
    (folder / "scenario.toml").write_text(own.replace("[model]", '[model]\nfactory = "stranger_twin:twin"'))
    (folder / "model.toml").write_text("format = 1\n")
    for command in (["run"], ["artifact", "verify"], ["artifact", "inspect"]):
        assert call(*command, folder)[0] == 2
    assert not ran.exists()
    (folder / "model.toml").unlink()
    call("validate", folder)
    assert ran.exists(), "a scenario that names a program runs it, or this test shows nothing"
