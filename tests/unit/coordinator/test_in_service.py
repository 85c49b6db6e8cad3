"""Which version serves and which one an alarm goes back to, after some were withdrawn."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from fedinfer.coordinator import drift_actions
from fedinfer.coordinator.context import Progress, Server
from fedinfer.coordinator.drift import Watch, in_service
from fedinfer.coordinator.drift_actions import roll_back
from fedinfer.coordinator.record import ModelRecord
from fedinfer.coordinator.released import CHECKPOINTS, released_version
from fedinfer.drift import Decision, WatchAction, Worlds, monitor, policy, report_channels
from fedinfer.training import Checkpoint, save_checkpoint
from fedinfer.types import Unit


def progress(*versions: int) -> Progress:
    return Progress(
        np.zeros(2, np.float32), None, 1.0, models=[ModelRecord(number, "drift", 0, {}) for number in versions]
    )


def test_a_withdrawn_version_neither_serves_nor_is_gone_back_to() -> None:
    assert in_service((), progress()) == (0, 0)
    assert in_service((1,), progress(1)) == (1, 0)
    assert in_service((1, 2), progress(1, 2)) == (2, 1)
    assert in_service((1,), progress(1, 2)) == (1, 0), "version 2 was gone back from: nothing is left to go back to"
    assert in_service((1, 3), progress(1, 2, 3)) == (3, 1)
    assert in_service((1, 3, 9), progress(1, 3)) == (3, 1), "version 9 was signed and never recorded"


def test_going_back_twice_ends_at_the_version_that_was_never_withdrawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took the weights of the version that was withdrawn before, and stopped at its manifest, which is gone."""
    (tmp_path / CHECKPOINTS).mkdir()
    for number in (1, 2, 3):
        weights = np.full(2, number, np.float32)
        save_checkpoint(tmp_path / CHECKPOINTS / f"v{number}.npz", Checkpoint({"weights": weights}, {}))
    held = {1: b"", 3: b""}  # version 2 is withdrawn

    def gone(_repository: object, _fleet: object, _emit: object, version: int, _devices: object) -> dict[str, str]:
        del held[version]
        return {}

    monkeypatch.setattr(drift_actions, "withdraw", gone)
    monkeypatch.setattr(drift_actions, "ChosenFile", SimpleNamespace(of=lambda manifest, files: manifest))
    repository = SimpleNamespace(
        versions=lambda: tuple(sorted(held)), manifest=lambda number: held[number], model_files=lambda number: {}
    )
    told: dict[str, Any] = {}
    parts: dict[str, Any] = {"repository": repository, "fleet": None, "devices": {}, "folder": tmp_path}
    parts["emit"] = lambda name, fields: told.update({name: fields})
    plan = monitor.MonitorPlan(report_channels(2), Unit.DEVICE, 2, 3, 0.05, 0.1, 0.5)
    watch = Watch(plan, monitor.begin(plan), cast(policy.PolicySettings, None), policy.PolicyState(), Worlds())
    state = progress(1, 2, 3)
    roll_back(cast(Server, SimpleNamespace(**parts)), state, watch, Decision(WatchAction.ROLLBACK, "worse", 7))
    assert (told["rolled_back"]["version"], told["rolled_back"]["to"]) == (3, 1)
    assert state.weights.tolist() == [1.0, 1.0]
    assert released_version(tmp_path) == 1
