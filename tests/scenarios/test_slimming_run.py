"""Pruning and fine-tuning in whole runs: only the pushed file changes, only public rows are looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fedinfer.cli.main import app
from fedinfer.data import load
from fedinfer.inference.install.installed import open_installed
from fedinfer.inference.install.slots import Slots
from fedinfer.inference.predict.session import SessionCache
from fedinfer.simulation.engine import DEVICES_FOLDER
from fedinfer.training.checkpoints import load_checkpoint
from fedinfer.training.trainer import Trainer
from tests.scenarios.runs import Run, differences, run, scenario, without_times

pytestmark = pytest.mark.slow
SMALL = (
    "training.rounds=2", "drift.enabled=false", "model.kind=mlp", "model.hidden=[32]", "training.pretrain=true",
    "data.public_fraction=0.2", "privacy.epsilon=8", "rollout.canary_epsilon=0", "secure_aggregation.mode=ideal",
)  # fmt: skip
SMALL_TOML = 'extends = "heart"\n[model]\nkind = "mlp"\nhidden = [32]\n[data]\npublic_fraction = 0.2\n'
BOTH = ("artifact.pruning=0.5", "artifact.qat_steps=40")
OPEN = ("artifact.min_agreement=0.8", "artifact.max_metric_drop=0.1", "artifact.max_calibration_gap=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("slimming")


@pytest.fixture(scope="module")
def plain(folder: Path) -> Run:
    return run(scenario("heart", *SMALL, *OPEN), folder / "plain")


@pytest.fixture(scope="module")
def compress(folder: Path) -> Run:
    return run(scenario("heart", *SMALL, *OPEN, *BOTH), folder / "slim")


def test_devices_run_the_pruned_file_and_the_record_tells_cost_and_gain(compress: Run, plain: Run) -> None:
    assert compress.failure is None
    (model,), (before,) = compress.record["models"], plain.record["models"]
    reported = model["slimming"]
    assert reported["pushed"], reported
    assert (reported["pruning"], reported["qat_steps"]) == (0.5, 40)
    assert reported["zstd_bytes"] < reported["plain_zstd_bytes"]
    assert 0.45 <= reported["sparsity"] <= 0.6
    assert (reported["metric"], reported["plain_metric"]) == (model["quantized_metric"], before["quantized_metric"])
    assert reported["seconds"] > 0
    assert before["slimming"] is None
    assert model["sha256"] != before["sha256"]
    device = min(path.name for path in (compress.folder / DEVICES_FOLDER).iterdir())
    installed = open_installed(Slots(compress.folder / DEVICES_FOLDER / device / "slots"), SessionCache(1))
    assert installed.manifest.variants[0].sha256 == model["sha256"]
    assert installed.manifest.metrics["slimming_zstd_bytes"] == reported["zstd_bytes"]


def test_the_federation_trains_on_with_all_weights(compress: Run, plain: Run) -> None:
    weights = [load_checkpoint(done.folder / "checkpoints" / "v1.npz").arrays["weights"] for done in (compress, plain)]
    np.testing.assert_array_equal(*weights)
    assert compress.record["models"][0]["float_metric"] == plain.record["models"][0]["float_metric"]
    assert compress.record["privacy"] == plain.record["privacy"]


def test_the_same_seed_gives_the_same_file(compress: Run, folder: Path) -> None:
    again = run(scenario("heart", *SMALL, *OPEN, *BOTH), folder / "again")
    assert again.record["models"][0]["sha256"] == compress.record["models"][0]["sha256"]
    assert not differences(without_times(again.record["models"]), without_times(compress.record["models"]))


def test_fine_tuning_gets_the_public_rows_and_nothing_else(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, real = [], Trainer.compress
    monkeypatch.setattr(Trainer, "compress", lambda self, w, x, *rest: given.append(x) or real(self, w, x, *rest))
    wanted = scenario("heart", *SMALL, *OPEN, *BOTH)
    run(wanted, folder / "watched")
    assert len(given) == 1
    np.testing.assert_array_equal(given[0], load(wanted).public[0])


def test_gates_that_refuse_push_the_plain_file_and_say_so(folder: Path, plain: Run) -> None:
    strict = run(scenario("heart", *SMALL, "artifact.pruning=0.97"), folder / "strict")
    assert strict.failure is None
    (model,) = strict.record["models"]
    assert not model["slimming"]["pushed"]
    assert "no variant passes" in model["slimming"]["reason"]
    assert model["float_metric"] - model["quantized_metric"] <= 0.02
    assert model["sha256"] == plain.record["models"][0]["sha256"]
    assert model["devices_active"] == strict.record["population"]


def test_the_command_line_makes_and_judges_a_slim_file(folder: Path, plain: Run) -> None:
    toml = folder / "small.toml"
    toml.write_text(SMALL_TOML)
    checkpoint = plain.folder / "checkpoints" / "v1.npz"
    for name, options in (("float", []), ("slim", ["--pruning", "0.5", "--qat-steps", "20"])):
        done = CliRunner().invoke(
            app, ["artifact", "export", str(toml), str(checkpoint), "-o", str(folder / f"{name}.onnx"), *options]
        )
        assert done.exit_code == 0, done.output
    inspected = CliRunner().invoke(app, ["artifact", "inspect", str(folder / "slim.onnx"), "--json"])
    assert '"sparsity": 0.5' in inspected.output
