"""`fedinfer run digits`: 200 devices, privacy per device, a world that turns by 30 degrees, a fleet that notices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.scenarios.record_shape import missing
from tests.scenarios.runs import Run, run, scenario, without_times

pytestmark = pytest.mark.slow
IDEAL = "secure_aggregation.mode=ideal"  # the same integers as `protocol` (tested below), in a tenth of the time
QUIET_SEEDS = (1, 2)


@pytest.fixture(scope="module")
def turned(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(scenario("digits", IDEAL), tmp_path_factory.mktemp("digits") / "turned")


def test_the_run_completes_within_epsilon_8(turned: Run) -> None:
    record = turned.record
    assert turned.failure is None
    assert record["status"] == "completed"
    assert record["population"] == 200
    assert (record["privacy"]["unit"], record["privacy"]["trust"]) == ("device", "distributed")
    assert record["privacy"]["delta"] == 1e-5
    assert record["privacy"]["epsilon"] <= 8.0
    assert record["privacy"]["sampling"] == "none"  # a fixed cohort amplifies nothing
    assert record["secure_aggregation"]["mode"] == "ideal"
    assert missing(record) == []


def test_the_alarm_comes_within_three_windows_of_the_change(turned: Run) -> None:
    drift = turned.record["drift"]
    changed = scenario("digits").drift.inject
    assert changed is not None
    assert drift["alarms"]
    assert changed.at_window <= drift["alarms"][0]["window"] <= changed.at_window + 2


def test_the_alarm_starts_rounds_and_a_new_model(turned: Run) -> None:
    record = turned.record
    assert record["drift"]["triggered_rounds"] == 1
    reasons = [row["reason"] for row in record["rounds"]]
    assert reasons == ["initial"] * 3 + ["drift"] * 12
    assert [model["reason"] for model in record["models"]] == ["initial", "drift"]
    assert record["models"][-1]["version"] > record["models"][0]["version"]
    assert record["models"][-1]["devices_active"] == 200


def test_most_of_the_lost_accuracy_comes_back(turned: Run) -> None:
    drift = turned.record["drift"]
    lost = drift["metric_before"] - drift["metric_during"]
    assert lost > 0.2
    assert (drift["metric_after"] - drift["metric_during"]) / lost >= 0.85


def test_devices_dropped_out_all_the_time(turned: Run) -> None:
    assert turned.record["devices"]["dropped"] > 20
    assert all(row["status"] == "released" for row in turned.record["rounds"])


@pytest.mark.parametrize("seed", QUIET_SEEDS)
def test_a_quiet_run_of_the_same_length_raises_no_alarm(turned: Run, tmp_path: Path, seed: int) -> None:
    quiet = run(scenario("digits", IDEAL, "drift.inject.kind=none", f"scenario.seed={seed}"), tmp_path / "quiet")
    assert quiet.record["status"] == "completed"
    assert quiet.record["drift"]["windows"] == turned.record["drift"]["windows"] >= 8
    assert quiet.record["drift"]["alarms"] == []
    assert quiet.record["drift"]["triggered_rounds"] == 0
    assert quiet.record["privacy"]["epsilon"] < turned.record["privacy"]["epsilon"]


SMALL = (
    "data.partition.devices=40",
    "secure_aggregation.dropout_rate=0.25",  # what drops out below, at any stage, stays within the plan
    "training.rounds=2",
    "rollout.canary_epsilon=0.0",  # so few devices cannot afford looks
    "drift.windows=4",
    "drift.rounds=2",
    "drift.inject.at_window=4",
)
MANY = ("digits", *SMALL, "scenario.seed=3", "fleet.dropout=0.05", "fleet.late_dropout=0.04")
FEW = ("heart", "training.rounds=6", "drift.windows=2", "fleet.dropout=0.1", "fleet.late_dropout=0.02")


@pytest.mark.parametrize("name", [MANY, FEW], ids=["many devices", "four hospitals"])
def test_protocol_and_ideal_give_the_same_model_with_dropouts_at_every_stage(
    tmp_path: Path, name: tuple[str, ...]
) -> None:
    """Keys, masks and shares change no bit of what is released."""
    modes = ("protocol", "ideal")
    results = {mode: run(scenario(*name, f"secure_aggregation.mode={mode}"), tmp_path / mode) for mode in modes}
    protocol, ideal = results["protocol"].record, results["ideal"].record
    assert protocol["status"] == ideal["status"] == "completed"
    assert protocol["devices"]["dropped"] > 0
    assert [model["sha256"] for model in protocol["models"]] == [model["sha256"] for model in ideal["models"]]
    for version in range(1, len(protocol["models"]) + 1):
        weights = [np.load(result.folder / "checkpoints" / f"v{version}.npz")["weights"] for result in results.values()]
        np.testing.assert_array_equal(*weights)
    for record in (protocol, ideal):
        record["secure_aggregation"].pop("mode")
        record["statement"].pop("mode")
        for row in record["rounds"]:
            row.pop("bytes_up_per_device")
            row.pop("bytes_down_per_device")
    assert without_times(protocol) == without_times(ideal)
