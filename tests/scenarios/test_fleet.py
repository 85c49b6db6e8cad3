"""A fleet in groups: the whole run, small, in both modes; and the shipped scenario as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedinfer.coordinator.run import budget_of
from fedinfer.privacy.accounting.ledger import LEDGER_MIGRATIONS, Ledger
from fedinfer.privacy.charges import relation_of
from fedinfer.store import open_store
from fedinfer.training.checkpoints import load_checkpoint
from tests.scenarios.runs import Run, run, scenario, without_times

SMALL = (
    "data.partition.devices=64", "training.cohort=48", "training.rounds=3", "secure_aggregation.group_size=16",
    "secure_aggregation.dropout_rate=0.25", "secure_aggregation.corruption_rate=0.0", "privacy.epsilon=20",
    "fleet.dropout=0.08", "fleet.late_dropout=0.04", "drift.windows=2", "drift.reference_windows=1",
)  # fmt: skip
OF_THE_MODE = ("mode", "bytes_up_per_device", "bytes_down_per_device", "detail", "stage")


def small(folder: Path, mode: str) -> Run:
    return run(scenario("fleet", *SMALL, f"secure_aggregation.mode={mode}"), folder / mode)


def weights(finished: Run) -> np.ndarray:
    return load_checkpoint(finished.folder / "checkpoints" / "v1.npz").arrays["weights"]


def comparable(value: object) -> object:
    if isinstance(value, dict):
        return {key: comparable(item) for key, item in value.items() if key not in OF_THE_MODE}
    return [comparable(item) for item in value] if isinstance(value, list) else value


@pytest.mark.slow
def test_masked_and_open_groups_with_dropouts_end_with_the_same_model(tmp_path: Path) -> None:
    masked, opened = small(tmp_path, "protocol"), small(tmp_path, "ideal")
    assert masked.failure is opened.failure is None
    assert [row["groups"] for row in masked.record["rounds"]] == [3, 3, 3]
    assert masked.record["devices"]["dropped"] >= 5
    assert all(row["groups_released"] >= 2 for row in masked.record["rounds"])
    np.testing.assert_array_equal(weights(masked), weights(opened))
    assert comparable(without_times(masked.record)) == comparable(without_times(opened.record))


@pytest.mark.slow
def test_the_shipped_fleet_learns_within_its_budget(tmp_path: Path) -> None:
    wanted = scenario("fleet")
    finished = run(wanted, tmp_path / "run")
    record = finished.record
    assert finished.failure is None
    assert record["population"] == 1000
    sums = record["secure_aggregation"]
    assert (sums["mode"], sums["groups"], sums["group_size"], sums["drift_groups"]) == ("ideal", 3, 200, 5)
    assert sums["threshold"] == 180
    assert record["privacy"]["guaranteed_noise_contributors"] == 180 - sums["corrupt_per_group"]
    start = finished.events("pretrained")[0]["metrics"]["accuracy"]
    assert record["rounds"][-1]["metric"] > start + 0.1
    assert record["privacy"]["epsilon"] <= 8
    assert [row["reporters"] > 600 for row in record["drift"]["timeline"]] == [True] * 4
    ledger = Ledger(
        open_store(finished.folder / "devices" / "devices.sqlite", "privacy", LEDGER_MIGRATIONS),
        relation_of(wanted.privacy.unit),
    )
    spent = {ledger.spent(f"d{i:03d}", "simulation").epsilon for i in range(0, 1000, 50)}
    assert max(spent) <= record["privacy"]["epsilon"] <= budget_of(wanted).epsilon
