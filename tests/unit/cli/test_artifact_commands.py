"""`fedinfer artifact`: the whole way from a model file to a signed repository, and every refusal with its exit code."""

from __future__ import annotations

import json
import os
from datetime import timedelta

import numpy as np
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

from fedinfer.artifact.export.graph import OutputHead, finish
from fedinfer.artifact.release.repository import Repository
from fedinfer.artifact.release.signing import load_keys
from fedinfer.cli.artifact import app
from fedinfer.errors import GateFailed
from fedinfer.inference.predict.predictor import Predictor
from fedinfer.schema import BREAKS, MARKS
from fedinfer.system import FrozenClock, SystemClock, simulation_rng
from tests.unit.artifact.test_privacy_statement import STATEMENT
from tests.unit.artifact.text_model import COLUMN, text_file
from tests.unit.artifact.workshop import TABLE, dense_core, release

RUNNER = CliRunner()
PASSPHRASE, ROOT_PASSPHRASE = "correct horse battery", "another horse battery"


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(autouse=True)
def _passphrases(monkeypatch):
    monkeypatch.setenv("FEDINFER_PASSPHRASE", PASSPHRASE)
    monkeypatch.setenv("FEDINFER_ROOT_PASSPHRASE", ROOT_PASSPHRASE)


def every_key(folder):
    """Root and online keys, which no command reads together except `rotate`."""
    root = load_keys(folder / "root", lambda what: ROOT_PASSPHRASE)
    return root.joined(load_keys(folder / "online", lambda what: PASSPHRASE))


def call(*words: object) -> tuple[int, str]:
    result = RUNNER.invoke(app, [str(word) for word in words])
    return result.exit_code, result.output


def asked(*words: object) -> dict:
    code, text = call(*words, "--json")
    assert code == 0, text
    return json.loads(text)


def table_core():
    """Three raw columns of very different size, scaled in the graph as a prepared model does it."""
    from onnx import helper

    core = dense_core((3, 16, 3), scale=2.0)
    scale = numpy_helper.from_array(np.array([0.02, 0.01, 1.0], np.float32), "scale")
    shift = numpy_helper.from_array(np.array([-1.0, -1.4, -1.0], np.float32), "shift")
    zero = numpy_helper.from_array(np.array(0.0, np.float32), "zero")
    first = [
        helper.make_node("IsNaN", ["input"], ["missing"], name="isnan"),
        helper.make_node("Where", ["missing", "zero", "input"], ["known"], name="where"),
        helper.make_node("Mul", ["known", "scale"], ["scaled"], name="mul"),
        helper.make_node("Add", ["scaled", "shift"], ["ready"], name="add"),
    ]
    core.graph.node[0].input[0] = "ready"
    rest = list(core.graph.node)
    del core.graph.node[:]
    core.graph.node.extend([*first, *rest])
    core.graph.initializer.extend([scale, shift, zero])
    return core


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(finish(table_core(), OutputHead(TABLE, 1.0, "demo", 4)))
    return path


@pytest.fixture
def labelled(tmp_path, model):
    """200 rows labelled by the model itself."""
    rng = simulation_rng("labelled")
    rows = ["age,pressure,ward"]
    for _ in range(200):
        rows.append(f"{rng.uniform(0, 100):.2f},{rng.uniform(80, 200):.2f},{rng.choice(['north', 'south', '7'])}")
    (tmp_path / "plain.csv").write_text("\n".join(rows) + "\n")
    found = asked("predict", model, tmp_path / "plain.csv")["predictions"]
    lines = [f"{row},{answer['label']}" for row, answer in zip(rows[1:], found, strict=True)]
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(["age,pressure,ward,outcome", *lines]) + "\n")
    return path


@pytest.fixture
def build(tmp_path, model, labelled):
    (tmp_path / "statement.json").write_text(json.dumps(STATEMENT.to_json()))
    options = ("--rows", labelled, "--statement", tmp_path / "statement.json")
    asked("quantize", model, "--out", tmp_path / "build", *options)
    return tmp_path / "build"


@pytest.fixture
def repository(tmp_path, build):
    asked("keys", tmp_path / "keys")
    asked("publish", build, "--repository", tmp_path / "repository", "--keys", tmp_path / "keys" / "online")
    return tmp_path / "repository"


def test_quantize_reports_what_was_tried(tmp_path, model, labelled):
    figures = asked("quantize", model, "-o", tmp_path / "out", "--rows", labelled, "--calibration", labelled)
    assert figures["metric"] == "accuracy"
    assert figures["float_metric"] == 1.0
    assert figures["variant"] == "int8"
    assert figures["version"] == 4
    assert {"float", "static-qdq-s8s8"} <= {item["recipe"] for item in figures["tried"]}
    assert (tmp_path / "out" / "model" / "4.onnx").stat().st_size == figures["quantized_bytes"]
    code, text = call("quantize", model, "-o", tmp_path / "again")
    assert code == 0
    assert "recipe" in text


def test_float_only(tmp_path, model):
    figures = asked("quantize", model, "-o", tmp_path / "out", "--quantization", "float")
    assert figures["recipe"] == "float"
    assert call("quantize", model, "-o", tmp_path / "out", "--quantization", "int3")[0] == 2


def test_gates_decide(tmp_path, model):
    code, text = call("quantize", model, "-o", tmp_path / "out", "--max-bytes", 100)
    assert code == 5
    assert "no variant passes" in text
    assert not (tmp_path / "out").exists()


def test_inspect_says_what_is_there(model, build, repository):
    described = asked("inspect", model)
    assert (described["kind"], described["task"], described["version"]) == ("model", "demo", 4)
    assert described["outputs"] == ["probabilities", "label"]
    shown = asked("inspect", build)
    assert (shown["epsilon"], shown["statement"]) == (STATEMENT.epsilon, STATEMENT.to_json())
    whole = asked("inspect", repository)
    assert whole["roles"]["root"] | {"expires": ""} == {
        "version": 1, "keys": 3, "threshold": 2, "expires": "", "expired": False,
    }  # fmt: skip
    assert [version["version"] for version in whole["versions"]] == [4]
    for path in (model, build, repository):
        assert call("inspect", path)[0] == 0


def test_verify_accepts_what_is_sound(model, build, repository):
    assert asked("verify", model)["verified"]
    assert asked("verify", build)["files"] == 3
    root = repository / "metadata" / "1.root.json"
    assert asked("verify", repository, "--root", root)["versions"] == [4]


def test_verify_refuses_with_exit_code_5(tmp_path, model, build, repository):
    target = next((repository / "targets" / "model").glob("*.4.onnx"))
    target.write_bytes(target.read_bytes()[:-1] + b"x")
    code, text = call("verify", repository)
    assert code == 5
    assert "was changed on disk" in text
    (build / "model" / "4.onnx").write_bytes(b"something else")
    assert call("verify", build)[0] == 5
    model.write_bytes(model.read_bytes()[:200])
    assert call("verify", model)[0] == 5
    (tmp_path / "nothing").mkdir()
    assert call("verify", tmp_path / "nothing")[0] == 5
    assert call("verify", tmp_path / "absent.onnx")[0] == 5


def test_verify_refuses_another_root(tmp_path, repository):
    asked("keys", tmp_path / "strangers")
    other = Repository(tmp_path / "other", every_key(tmp_path / "strangers"), SystemClock(), lambda keys: None)
    (tmp_path / "root.json").write_bytes(other.trusted_root())
    code, text = call("verify", repository, "--root", tmp_path / "root.json")
    assert code == 5
    assert "BadSignature" in text


def test_verify_refuses_expired_metadata(tmp_path):
    asked("keys", tmp_path / "keys")
    clock = FrozenClock(SystemClock().now() - timedelta(days=3))
    old = Repository(tmp_path / "old", every_key(tmp_path / "keys"), clock, lambda keys: None)
    old.publish(*release(1))
    code, text = call("verify", tmp_path / "old")
    assert code == 5
    assert "expired: timestamp" in text
    asked("renew", tmp_path / "old", "--keys", tmp_path / "keys" / "online")
    assert "expired" not in call("verify", tmp_path / "old")[1]


def test_verify_repeats_the_self_check(tmp_path):
    """Signed bytes that are no model are signed all the same: the self-check finds out."""
    asked("keys", tmp_path / "keys")
    site = Repository(tmp_path / "site", every_key(tmp_path / "keys"), SystemClock(), lambda keys: None)
    site.publish(*release(1))
    assert call("verify", tmp_path / "site")[0] == 5


def test_predict_prints_labels(tmp_path, model):
    rows = tmp_path / "rows.csv"
    rows.write_text("ward,age,pressure\nsouth,50,\nelsewhere,,120\n")
    found = asked("predict", model, rows)["predictions"]
    assert [line["row"] for line in found] == [0, 1]
    assert all(line["label"] in TABLE.labels and 0 < line["confidence"] <= 1 for line in found)
    code, text = call("predict", model, rows)
    assert code == 0
    assert text.splitlines()[0] == "row,label,confidence"
    rows.write_text("age,ward\n1,south\n")
    assert call("predict", model, rows)[0] == 2


def test_second_version_gets_deltas(tmp_path, model, repository):
    model.write_bytes(finish(table_core(), OutputHead(TABLE, 1.0, "demo", 5)))
    asked("quantize", model, "-o", tmp_path / "next")
    published = asked("publish", tmp_path / "next", "--repository", repository, "--keys", tmp_path / "keys" / "online")
    assert published["version"] == 5
    assert min(published["deltas"].values()) < min(published["variants"].values()) / 4
    code, text = call("publish", tmp_path / "next", "--repository", repository, "--keys", tmp_path / "keys" / "online")
    assert code == 5
    assert "version 5 is not newer than 5" in text


def test_rotation_by_command(tmp_path, repository):
    both = ("--keys", tmp_path / "keys" / "online", "--root-keys", tmp_path / "keys" / "root")
    assert asked("rotate", repository, *both, "--role", "root")["root_version"] == 2
    assert asked("renew", repository, "--keys", tmp_path / "keys" / "online")["version"] == 4
    assert asked("verify", repository)["verified"]
    assert call("rotate", repository, *both, "--role", "nobody")[0] == 2


def test_withdrawal_by_command(tmp_path, repository):
    assert asked("withdraw", repository, "--keys", tmp_path / "keys" / "online", "--version", 3)["withdrawn"] == [3]
    assert asked("verify", repository)["verified"]
    assert asked("inspect", repository)["withdrawn"] == [3]
    code, text = call("withdraw", repository, "--keys", tmp_path / "keys" / "online", "--version", 99)
    assert code == 5
    assert "never published" in text


def test_keys_are_never_overwritten(tmp_path):
    asked("keys", tmp_path / "keys")
    code, text = call("keys", tmp_path / "keys")
    assert code == 2
    assert "not empty" in text
    assert call("publish", tmp_path, "--repository", tmp_path / "r", "--keys", tmp_path / "absent")[0] == 2


def test_unknown_label_names_its_row(tmp_path, model, labelled):
    labelled.write_text(labelled.read_text() + "1,90,south,dead\n")
    code, text = call("quantize", model, "-o", tmp_path / "out", "--rows", labelled)
    assert code == 2
    assert "row 202: 'dead' is no label" in text


def test_a_foreign_model_is_explained(tmp_path):
    path = tmp_path / "foreign.onnx"
    path.write_bytes(dense_core((3, 2)).SerializeToString())
    code, text = call("quantize", path, "-o", tmp_path / "out")
    assert code == 5
    assert "no usable metadata" in text


@pytest.mark.slow
def test_export_of_a_checkpoint(tmp_path):
    from fedinfer.config import load_scenario
    from fedinfer.data import load
    from fedinfer.training import load_trainer
    from fedinfer.training.checkpoints import Checkpoint, save_checkpoint

    scenario = load_scenario("heart")
    trainer = load_trainer(scenario.model, load(scenario).schema, scenario.training, scenario.scenario.seed)
    weights = simulation_rng("weights").normal(0, 0.3, trainer.size).astype(np.float32)
    save_checkpoint(tmp_path / "v3.npz", Checkpoint({"weights": weights}, {}))
    figures = asked("export", "heart", tmp_path / "v3.npz", "-o", tmp_path / "m.onnx", "--version", 3)
    assert figures["weights"] == trainer.size
    assert figures["parity"] < 1e-4
    assert (tmp_path / "m.onnx").stat().st_size == figures["bytes"] < 20_000
    assert asked("inspect", tmp_path / "m.onnx")["version"] == 3
    save_checkpoint(tmp_path / "short.npz", Checkpoint({"weights": weights[:-1]}, {}))
    code, text = call("export", "heart", tmp_path / "short.npz", "-o", tmp_path / "m.onnx")
    assert code == 2
    assert "the model of heart has" in text
    save_checkpoint(tmp_path / "other.npz", Checkpoint({"something": weights}, {}))
    assert call("export", "heart", tmp_path / "other.npz", "-o", tmp_path / "m.onnx")[0] == 2


@pytest.mark.parametrize("change", ["labels", "wider", "slow"])
def test_verify_asks_all_that_a_device_asks(build, monkeypatch, change):
    """A build whose probabilities are right, but whose label texts, rows or time are not."""
    import hashlib

    import onnx

    from fedinfer import inference

    assert call("verify", build)[0] == 0
    document = json.loads((build / "manifest.json").read_bytes())
    for variant in document["variants"]:
        model = onnx.load(build / variant["path"])
        if change == "labels":
            names = next(tensor for tensor in model.graph.initializer if tensor.name == "fedinfer_labels")
            names.string_data[:] = list(names.string_data)[::-1]
        elif change == "wider":
            model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 4
        data = model.SerializeToString()
        (build / variant["path"]).write_bytes(data)
        variant["sha256"], variant["bytes"] = hashlib.sha256(data).hexdigest(), len(data)
    if change == "slow":
        monkeypatch.setattr(inference, "MOST_LATENCY_US", 0.0)
    (build / "manifest.json").write_text(json.dumps(document, sort_keys=True, separators=(",", ":")))
    code, text = call("verify", build)
    assert code == GateFailed.exit_code
    words = {"labels": "the graph's labels differ", "wider": "Incompatible dimensions", "slow": "us per prediction"}
    assert words[change] in " ".join(text.split())


@pytest.mark.parametrize("place", ["label", "task", "producer"])
def test_a_model_file_cannot_steer_the_terminal(tmp_path, model, place):
    import onnx

    changed = onnx.load(model)
    evil = "\x1b[31mred\nverified true"
    for item in changed.metadata_props:
        if place == "label" and item.key == "schema":
            schema = json.loads(item.value)
            schema["labels"][0] = evil
            item.value = json.dumps(schema)
        elif place == item.key:
            item.value = evil
    if place == "producer":
        changed.producer_name = evil
    path = tmp_path / "evil.onnx"
    path.write_bytes(changed.SerializeToString())
    code, text = call("inspect", path)
    assert code == (0 if place == "producer" else 5)
    assert "\x1b" not in text
    assert "\nverified" not in text
    assert r"\x1b[31m" in text


def test_verify_tries_a_model_file_as_a_device_would(tmp_path):
    """A graph can be valid ONNX and useless: other outputs, operators that nobody has, NaN for an answer."""
    import onnx
    from onnx import helper

    good = onnx.load_from_string(finish(table_core(), OutputHead(TABLE, 1.0, "triage", 1)))
    renamed, foreign = (onnx.load_from_string(good.SerializeToString()) for _ in range(2))
    for node in renamed.graph.node:
        node.output[:] = ["answers" if name == "probabilities" else name for name in node.output]
        node.input[:] = ["answers" if name == "probabilities" else name for name in node.input]
    for output in renamed.graph.output:
        output.name = "answers" if output.name == "probabilities" else output.name
    foreign.graph.node[0].op_type, foreign.graph.node[0].domain = "Unheard", "com.example"
    foreign.opset_import.append(helper.make_opsetid("com.example", 1))
    for name, model, code in (("good", good, 0), ("renamed", renamed, 5), ("foreign", foreign, 5)):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(model.SerializeToString())
        assert call("verify", path)[0] == code, name


def test_a_slim_file_is_judged_against_the_unpruned_one(tmp_path, model, labelled):
    core = table_core()
    for tensor in core.graph.initializer:
        value = numpy_helper.to_array(tensor).copy()
        if value.ndim == 2:
            value[np.abs(value) < np.quantile(np.abs(value), 0.9)] = 0.0
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    compress = tmp_path / "slim.onnx"
    compress.write_bytes(finish(core, OutputHead(TABLE, 1.0, "demo", 4)))
    alone = asked("quantize", compress, "--out", tmp_path / "alone", "--rows", labelled)
    assert alone["tried"][0]["metric_drop"] == 0
    code, text = call("quantize", compress, "--out", tmp_path / "judged", "--rows", labelled, "--against", model)
    assert code == 5
    assert "no variant passes: float: metric drops by" in " ".join(text.split())
    assert asked("inspect", compress)["sparsity"] > 0.8
    assert asked("inspect", compress)["zstd_bytes"] < asked("inspect", model)["zstd_bytes"]


def test_a_model_of_texts_goes_the_whole_way(tmp_path):
    model, rows, build = tmp_path / "notes.onnx", tmp_path / "rows.csv", tmp_path / "build"
    model.write_bytes(text_file())
    texts = [f"{word} {other}, {word}!" for word in COLUMN.vocabulary for other in ("good", "bad", "so what")]
    answers = Predictor.open(model).predict(texts).labels
    lines = [f'"{text}",{label}' for text, label in zip(texts, answers, strict=True)]
    rows.write_text("\n".join(["note,verdict", *lines]) + "\n")
    predicted = asked("predict", model, rows)["predictions"]
    assert [line["label"] for line in predicted] == list(answers)
    assert asked("verify", model)["verified"]
    assert asked("inspect", model)["operators"]["StringSplit"] == 1 + len(MARKS + BREAKS)
    figures = asked("quantize", model, "--out", build, "--rows", rows, "--calibration", rows)
    assert figures["float_metric"] == 1.0
    assert asked("verify", build)["verified"]
    rows.write_text("text\ngood\n")
    code, text = call("predict", model, rows)
    assert (code, "column note is absent" in text) == (2, True)
