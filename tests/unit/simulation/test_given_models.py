"""Runs of models that were trained elsewhere: what their scenario allows, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedinfer.artifact import Deciding, Evidence
from fedinfer.data import inject
from fedinfer.drift import report_names
from fedinfer.errors import ConfigError, DataError
from fedinfer.schema import Schema
from fedinfer.simulation import engine
from fedinfer.simulation.given import _calibrated, _federation, given_scenario, settings_of
from fedinfer.system import simulation_rng
from fedinfer.tensors import TensorSpec

SCHEMA = Schema(
    (), "label", ("a", "b"), inputs=(TensorSpec("t", "uint8", (2,), 0, 255), TensorSpec("x", "float32", (1,), 0, 1))
)


def test_such_a_run_has_no_rounds_and_takes_overrides():
    scenario = given_scenario("policy", 7, ["drift.windows=12"])
    assert (scenario.training.rounds, scenario.most_rounds) == (0, 0)
    assert (scenario.data.partition.devices, scenario.drift.windows) == (7, 12)
    with pytest.raises(ConfigError, match="has no rounds"):
        given_scenario("policy", 7, ["training.rounds=1"])


def test_the_statistics_of_a_declaration_are_watched_unless_somebody_names_channels():
    chosen = report_names(SCHEMA, ("mean:t",))
    assert chosen == ("predicted_class", "confidence", "mean:t")
    imported: Any = SimpleNamespace(
        schema=SCHEMA, watched=("mean:t",), declaration=SimpleNamespace(deciding=Deciding(2, 0.3, 0.4))
    )
    said = given_scenario("m", 7, settings_of(imported))
    assert said.drift.channels == chosen
    assert (said.artifact.top, said.training.threshold, said.artifact.abstain_below) == (2, 0.3, 0.4)
    named = given_scenario("m", 7, [*settings_of(imported), 'drift.channels=["confidence"]'])
    assert named.drift.channels == ("confidence",)
    many = Schema((), "label", tuple(f"class {place}" for place in range(65)), inputs=SCHEMA.inputs)
    assert report_names(many, ("mean:t",)) == ("confidence", "mean:t")
    assert report_names(many, ()) == ()


def test_public_rows_of_the_import_take_the_place_of_drawn_ones():
    rows, nothing = np.zeros((4, 3), np.float32), np.empty((0, 3), np.float32)
    evidence = Evidence(nothing, np.empty(0, np.int64), rows, nothing)
    assert _calibrated(evidence, nothing) is evidence
    public = np.ones((300, 3), np.float32)
    assert _calibrated(evidence, public).calibration_x.tolist() == public[:256].tolist()


def test_it_does_not_go_on_after_it_was_killed(monkeypatch, tmp_path):
    monkeypatch.setattr(engine, "begun_scenario", lambda folder: (given_scenario("policy", 7, []), "local"))
    with pytest.raises(ConfigError, match="imported model does not go on"):
        engine.prepare_again(tmp_path)


def test_rows_are_dealt_so_that_each_is_on_one_device():
    x = np.arange(90, dtype=np.float32).reshape(30, 3)
    federation = _federation(SCHEMA, x, np.zeros(30, np.int64), given_scenario("m", 7, []), ())
    held = np.concatenate([np.concatenate([d.train_x, d.test_x]) for d in federation.devices.values()])
    np.testing.assert_array_equal(np.sort(held[:, 0]), x[:, 0])
    with pytest.raises(DataError, match="30 rows for 11 devices") as caught:
        _federation(SCHEMA, x, np.zeros(30, np.int64), given_scenario("m", 11, []), ())
    assert caught.value.hint == "--devices 10"


def test_changed_tensors_stay_whole_and_in_their_range():
    change = given_scenario("m", 7, []).drift.inject
    rows = np.array([[10, 250, 0.5]], np.float32)
    moved, _ = inject(rows, np.zeros(1, np.int64), SCHEMA, change, 6, simulation_rng("rows"))
    np.testing.assert_array_equal(moved, [[138, 255, 1.0]])
