"""An earlier version serves again in a live deployment: on the devices, in what others download, in what comes next."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedinfer.coordinator.released import released_version
from fedinfer.drift import Decision, WatchAction, policy
from fedinfer.inference.install.slots import Slots
from fedinfer.privacy.accounting.ledger import Budget
from fedinfer.training import load_checkpoint
from tests.protocol.fleet import enrolled
from tests.unit.deployment.test_deployment_run import DEVICES, Pilot

WATCHED = (
    "training.rounds = 1\ndrift.rounds = 1\ndrift.windows = 3\ndrift.after_windows = 2\ndrift.reference_windows = 1\n"
    "drift.reuse = true\nsecure_aggregation.dropout_rate = 0.2"
)


@pytest.mark.slow
def test_a_version_that_serves_again_is_what_every_device_runs_and_what_others_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pilot = Pilot(tmp_path, enrolled(tmp_path, DEVICES, Budget(4.0, 1e-5)), [])
    told = {1: (WatchAction.ROUND, 0), 2: (WatchAction.REUSE, 1)}

    def decide(settings: Any, state: Any, result: Any, situation: Any) -> tuple[Any, Decision]:
        """Noise hides what five devices see, so the policy's word is given."""
        action, version = told.get(result.window, (WatchAction.NONE, 0))
        return state, Decision(action, "as told", result.window, version)

    monkeypatch.setattr(policy, "decide", decide)
    record = pilot.run(WATCHED)
    assert record["status"] == "completed"
    assert [(model["version"], model["reason"]) for model in record["models"]] == [
        (1, "initial"), (2, "drift"), (3, "reuse"),
    ]  # fmt: skip
    assert record["models"][2]["sha256"] == record["models"][0]["sha256"] != record["models"][1]["sha256"]
    assert [Slots(store / "slots").active().version for store in pilot.stores] == [3] * DEVICES
    folder = tmp_path / "server"
    assert released_version(folder) == 3
    first, again = (load_checkpoint(folder / "checkpoints" / f"v{version}.npz").arrays["weights"] for version in (1, 3))
    assert first.tobytes() == again.tobytes()
    offered = [json.loads(path.read_bytes())["version"] for path in (folder / "released").rglob("*current.json")]
    assert max(offered) == 3
    reports = [row["reporters"] for row in record["drift"]["timeline"]]
    assert reports[2:] == [DEVICES] * len(reports[2:]), "devices report what the version answers that serves again"
