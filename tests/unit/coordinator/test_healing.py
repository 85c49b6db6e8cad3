"""After rounds that drift started the fleet is compared with what it was before the alarm."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedinfer.coordinator.drift import Watch, _decide, relearn
from fedinfer.drift import ConfidenceCalibration, MonitorPlan, chosen_channels, policy
from fedinfer.drift.monitor import WindowSum, begin, observe
from fedinfer.schema import Numeric, Schema
from fedinfer.types import Unit

SCHEMA = Schema((Numeric("x", 0, 1),), "y", ("a", "b"))
DEVICES = 400
SETTINGS = policy.PolicySettings(policy.Mode.AUTO, 2, 0, 2, 2, 1)
READY = policy.Situation(5.0, 1.0, DEVICES, True)
SURE, UNSURE = np.r_[0, 0, 0, 0.1, 0.2, 0.7], np.r_[0.1, 0.2, 0.2, 0.2, 0.2, 0.1]
CALIBRATION = ConfidenceCalibration(np.r_[55.0, 64, 72, 81, 90, 98], np.full(6, 100.0))


def report(sure: np.ndarray, right: float, names: tuple[str, ...]) -> np.ndarray:
    parts = {"predicted_class": np.r_[0.5, 0.5], "confidence": sure, "errors": np.r_[right, 1 - right] * 0.32**0.5}
    return DEVICES * np.concatenate([parts[name] for name in names])


def story(names: tuple[str, ...], windows: list[tuple[np.ndarray, float]]) -> tuple[Watch, list[policy.Decision]]:
    """Windows of a fleet: where rounds start, the next window is the first with a new model."""
    plan = MonitorPlan(chosen_channels(SCHEMA, names), Unit.DEVICE, 2, 10, 0.05, 0.2, 0.6)
    watch, decisions = Watch(plan, begin(plan), SETTINGS, policy.PolicyState()), []
    progress: Any = SimpleNamespace(calibration=CALIBRATION)
    for number, (sure, right) in enumerate(windows, 1):
        total = report(sure, right, names)
        watch.state, result = observe(plan, watch.state, WindowSum(number, total, ("d",) * DEVICES, 20, 4.0))
        decisions.append(_decide(SCHEMA, progress, watch, result, READY))
        if decisions[-1].action is policy.WatchAction.ROUND:
            relearn(watch, 1)
    return watch, decisions


@pytest.mark.parametrize("names", [("predicted_class", "confidence"), ("predicted_class", "confidence", "errors")])
def test_a_fleet_that_is_not_back_is_trained_again_and_one_that_is_back_is_not(names: tuple[str, ...]) -> None:
    healthy, lost, half = (SURE, 0.95), (UNSURE, 0.6), ((SURE + UNSURE) / 2, 0.78)
    watch, decisions = story(names, [healthy] * 2 + [lost] + [half] * 2 + [healthy] * 2)
    assert [str(each.action) for each in decisions] == ["none", "none", "round", "none", "round", "none", "none"]
    assert "before the alarm" in decisions[4].reason
    assert watch.policy.healthy == 0.0
    assert watch.policy.triggers == 2


def test_labels_show_what_confidence_does_not() -> None:
    names = ("predicted_class", "confidence", "errors")
    healthy, lost, half = (SURE, 0.95), (SURE, 0.5), (SURE, 0.7)
    _, decisions = story(names, [healthy] * 2 + [lost] + [half] * 2)
    assert [str(each.action) for each in decisions] == ["none", "none", "round", "none", "round"]
    _, decisions = story(names, [healthy] * 2 + [lost] + [healthy] * 2)
    assert [str(each.action) for each in decisions] == ["none", "none", "round", "none", "none"]
