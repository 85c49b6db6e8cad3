"""Whole runs in which a model goes bad after the server's gates: the first wave says so, and everybody gets back.

A bad model is planted by changing the built file after all gates; it is signed, published, installed and passes its
self-check like any other.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from fedinfer.artifact.build import Built
from fedinfer.config import Scenario
from fedinfer.coordinator.context import Progress, Server
from fedinfer.coordinator.push import publish as push
from fedinfer.errors import GateFailed
from fedinfer.inference.install.slots import Slots
from fedinfer.rollout.state import RolloutStore
from tests.scenarios import tampering
from tests.scenarios.runs import Run, run, scenario

DEVICES = 40
QUIET = (
    f"data.partition.devices={DEVICES}",
    "data.partition.scheme=iid",
    "training.rounds=1",
    "secure_aggregation.mode=ideal",
    "fleet.dropout=0.0",
    "drift.windows=6",
    "drift.rounds=1",
    "drift.after_windows=1",
    "drift.inject.amount=90",
    "rollout.waves=[0.25, 0.5, 1.0]",
    "rollout.max_latency_us=5000",
)
NO_NOISE = ("privacy.unit=none", "rollout.min_metric=0.3")


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make one version bad."""

    def with_change(change: tampering.Change, version: int) -> None:
        honest = push.build

        def build(server: Server, progress: Progress) -> Built:
            built = honest(server, progress)
            return tampering.tampered(built, change) if progress.version == version else built

        monkeypatch.setattr(push, "build", build)

    return with_change


def settings(*overrides: str) -> Scenario:
    return scenario("digits", *QUIET, *overrides)


def stores(done: Run) -> list[Slots]:
    """Model slots of all devices."""
    return [Slots(folder / "slots") for folder in sorted((done.folder / "devices").iterdir()) if folder.is_dir()]


def active_versions(done: Run) -> list[int]:
    """Versions that devices serve, as their own stores say; devices without a model are left out."""
    return [active.version for slots in stores(done) if (active := slots.active()) is not None]


def active_models(done: Run) -> set[str]:
    """SHA-256 of the model files that devices serve."""
    active = [(slots.folder, info.slot) for slots in stores(done) if (info := slots.active()) is not None]
    return {hashlib.sha256((folder / slot / "model.onnx").read_bytes()).hexdigest() for folder, slot in active}


def audit_log(done: Run) -> list[Any]:
    """Entries of the rollouts' log, whose chain is checked."""
    store = RolloutStore(done.folder / "rollout.sqlite")
    try:
        store.verify(None)
        return [json.loads(line) for line in store.log_lines()]
    finally:
        store.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "figure"),
    [(tampering.not_a_number, "error"), (tampering.slow, "slow"), (tampering.collapsed, "metric")],
    ids=["nan", "slow", "collapse"],
)
def test_a_bad_model_is_stopped_in_its_first_wave_and_taken_back_everywhere(
    tmp_path: Path, plant: Any, change: tampering.Change, figure: str
) -> None:
    plant(change, 2)
    done = run(settings(*NO_NOISE, "rollout.canary_epsilon=1"), tmp_path / "run")

    assert isinstance(done.failure, GateFailed)
    assert done.record["status"] == "aborted"
    good, bad = done.record["models"]
    assert good["rollout"] == "done"
    assert good["devices_active"] == DEVICES
    assert bad["rollout"] == "rolled_back"
    assert bad["devices_active"] == 0
    assert [wave["wave"] for wave in bad["waves"]] == [1]
    assert bad["waves"][0]["installed"] == bad["waves"][0]["judged"] == DEVICES // 4
    assert bad["waves"][0]["figures"][figure]["verdict"] == "fail"
    assert figure in str(done.failure)
    # Ten devices went back, under a new number; the others never left the good model.
    assert sorted(active_versions(done)) == [1] * (DEVICES - 10) + [3] * 10
    assert active_models(done) == {good["sha256"]}
    assert done.events("rolled_back")[0]["devices"] == 10
    assert audit_log(done)


@pytest.mark.slow
def test_noise_does_not_hide_a_bad_model_in_a_fleet_that_is_large_enough(tmp_path: Path, plant: Any) -> None:
    plant(tampering.not_a_number, 1)
    wanted = scenario("digits", "training.rounds=1", "drift.enabled=false", "secure_aggregation.mode=ideal")
    done = run(wanted, tmp_path / "run")

    (model,) = done.record["models"]
    assert isinstance(done.failure, GateFailed)
    assert model["waves"][0]["figures"]["error"]["verdict"] == "fail"
    assert model["waves"][0]["figures"]["error"]["noise_std"] > 0
    # It was the first version: there is nothing to go back to, so the devices of its wave have no model now.
    assert model["rollout"] == "rolled_back"
    assert model["devices_active"] == 0
    assert active_versions(done) == []
    assert sum(slots.pointer().withdrawn == (1,) for slots in stores(done)) == 100
    (withdrawn,) = done.events("withdrawn")
    assert (withdrawn["version"], withdrawn["devices"], withdrawn["failed"]) == (1, 100, {})
    assert done.record["privacy"]["epsilon"] <= done.record["privacy"]["budget"]


@pytest.mark.slow
def test_a_good_model_reaches_everybody_wave_by_wave(tmp_path: Path) -> None:
    done = run(settings(*NO_NOISE, "rollout.canary_epsilon=1"), tmp_path / "run")

    assert done.failure is None
    for model in done.record["models"]:
        assert model["rollout"] == "done"
        assert model["devices_active"] == DEVICES
        assert [wave["state"] for wave in model["waves"]] == ["pushing", "pushing", "done"]
        assert [wave["judged"] for wave in model["waves"]] == [10, 10, 20]
        assert all(wave["figures"]["error"]["mean"] == pytest.approx(0, abs=1e-3) for wave in model["waves"])
    first, second = (model["waves"][0]["figures"] for model in done.record["models"])
    assert "agreement" not in first  # there was nothing to agree with
    assert second["agreement"]["verdict"] == "told"
    assert second["agreement"]["mean"] < 0.9  # the world turned: the new model is meant to disagree
    gates = done.events("gate")
    assert [(event["version"], event["wave"]) for event in gates] == [(v, w) for v in (1, 2) for w in (1, 2, 3)]


@pytest.mark.slow
@pytest.mark.parametrize("on_hold", ["stop", "proceed"])
def test_too_much_noise_holds_and_the_scenario_says_what_then(tmp_path: Path, on_hold: str) -> None:
    done = run(
        settings(
            "drift.enabled=false",
            "rollout.canary_epsilon=0.5",
            "rollout.unjudgeable=hold",
            f"rollout.on_hold={on_hold}",
        ),
        tmp_path / "run",
    )

    (model,) = done.record["models"]
    assert model["waves"][0]["figures"]["error"]["verdict"] == "hold"
    assert any("will often hold a good model" in text for text in done.record["warnings"])
    assert done.record["privacy"]["gate_epsilon"] <= 0.5
    assert done.record["privacy"]["epsilon"] <= done.record["privacy"]["budget"]
    approvals = [entry for entry in audit_log(done) if '"approve"' in json.dumps(entry)]
    if on_hold == "stop":
        assert isinstance(done.failure, GateFailed)
        assert model["rollout"] == "held"
        assert model["devices_active"] == DEVICES // 4
        assert not approvals
        assert active_versions(done) == [1] * (DEVICES // 4)
    else:
        assert done.failure is None
        assert model["rollout"] == "done"
        assert model["devices_active"] == DEVICES
        assert model["proceeded"]
        assert len(approvals) == len(model["proceeded"])
        assert all("[rollout] on_hold" in json.dumps(line) for line in approvals)
