"""The state of a run to a file and back: every field, every type, exactly."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedinfer.coordinator.agenda import RunStep, whole_run
from fedinfer.coordinator.checkpoint import (
    RunState,
    StateFile,
    from_checkpoint,
    planned_population,
    read_state,
    to_checkpoint,
)
from fedinfer.coordinator.context import Progress
from fedinfer.coordinator.drift import Watch
from fedinfer.coordinator.participation import ParticipationSchedule
from fedinfer.coordinator.plan.cohort import Population
from fedinfer.coordinator.record import (
    AlarmRecord,
    CanaryRecord,
    HoldRecord,
    ModelRecord,
    ReportRecord,
    RolloutRecord,
    RoundRecord,
    Sent,
    TransferMode,
    WaveRecord,
    WindowRecord,
)
from fedinfer.drift import ConfidenceCalibration, Decision, WatchAction, monitor, policy, report_channels, reuse
from fedinfer.errors import ConfigError
from fedinfer.privacy.mechanism.matrix_mechanism import Participation, factorize
from fedinfer.privacy.mechanism.noise import SimulatedStream
from fedinfer.schema import Numeric, Schema
from fedinfer.system import SimulatedEntropy
from fedinfer.training.server_optimizers import OptimizerState
from fedinfer.types import Unit

ROUND = RoundRecord(
    1, "initial", 4, 3, 0, 1, 1, True, "", "accuracy", {"loss": 0.1 + 0.2}, 1.0, None, math.inf, 0.5, 7, 8
)
STEPS = (
    WaveRecord(1, 1, 3, 0, "", (Sent(TransferMode.PATCH, 3, 4),), "pushing", ""),
    CanaryRecord(1, 1, 3, {"error": {"mean": 0.25, "verdict": "pass"}}, "", 0.1, "pushing", ""),
    HoldRecord(1, 1, "too few"),
)
PLAN = monitor.MonitorPlan(report_channels(2), Unit.DEVICE, 1, 4, 0.1, 0.2, 0.6)
WIDTH = sum(channel.bins for channel in PLAN.channels)
POPULATION = Population(4, 40, 8, 6, 2)


def seen_watch() -> Watch:
    """A watch after a window that it learned from and one that it judged."""
    watch = fresh_watch()
    for window in (1, 2):
        report = monitor.WindowSum(window, np.arange(WIDTH) / window, ("a", "b"), 5, 0.7)
        watch.state, result = monitor.observe(PLAN, watch.state, report)
        situation = policy.Situation(1.0, 0.0, 2, previous_model=False)
        watch.policy, _ = policy.decide(watch.settings, watch.policy, result, situation)
    watch.worlds = reuse.remember(PLAN, watch.worlds, 1, watch.state)
    assert [world.version for world in watch.worlds.known] == [1]
    return watch


def fresh_watch() -> Watch:
    settings = policy.PolicySettings(policy.Mode.AUTO, 1, 0, 1, 2, 1)
    return Watch(PLAN, monitor.begin(PLAN), settings, policy.PolicyState())


def fresh_schedule() -> ParticipationSchedule:
    return ParticipationSchedule(factorize(Participation(6, 3, 2)), ["a", "b", "c", "d"], 2, 1.5, 5)


def state_of(**changes: Any) -> RunState:
    schedule = fresh_schedule()
    schedule.take(SimulatedStream(SimulatedEntropy(1)))
    watch = seen_watch()
    _, result = monitor.observe(PLAN, watch.state, monitor.WindowSum(3, np.ones(WIDTH), ("a",), 5, 0.7))
    report = ReportRecord(3, 1, 1, 0.25, result)
    window = WindowRecord(1, None, 2.5, report, "ok", Decision(WatchAction.WARN, "more", 1))
    progress = Progress(
        weights=np.linspace(0, 1, 6, dtype=np.float32),
        optimizer=OptimizerState("fedadam", np.ones(6, np.float32), np.full(6, 1e-6, np.float32)),
        clipping_norm=0.1 + 0.2,
        round=1,
        window=1,
        version=2,
        previous=1,
        rounds=[ROUND],
        models=[ModelRecord(2, "initial", 0, {"sha256": "ab", "slimming": None}, RolloutRecord("done", STEPS, 4))],
        windows=[window],
        alarms=[AlarmRecord(1, "class", 0.01)],
        latencies_us=[1.5, 2.25],
        window_metrics=[math.nan, 0.5],
        judgement={"value": 0.75, "devices": []},
        aborted_in_a_row=2,
        schedule=schedule,
    )
    return replace(RunState(whole_run(3, 2), progress, watch, POPULATION, 12.5), **changes)


def test_what_was_kept_comes_back(tmp_path: Path) -> None:
    state = state_of()
    StateFile(tmp_path, {"run_id": "one"}).keep(RunStep.ROUND, to_checkpoint(state))
    kept = read_state(tmp_path)
    assert kept is not None
    assert kept.header["run_id"] == "one"
    back = from_checkpoint(kept, fresh_watch(), fresh_schedule())
    for field in dataclasses.fields(Progress):
        before, now = getattr(state.progress, field.name), getattr(back.progress, field.name)
        if field.name not in ("schedule", "weights", "optimizer", "window_metrics"):
            assert now == before, field.name
    assert back.progress.weights.tobytes() == state.progress.weights.tobytes()
    assert back.progress.weights.dtype == np.float32
    assert back.progress.optimizer.second.tobytes() == state.progress.optimizer.second.tobytes()
    assert np.array_equal(back.progress.window_metrics, state.progress.window_metrics, equal_nan=True)
    assert (back.agenda, back.population, back.seconds) == (state.agenda, POPULATION, 12.5)
    assert to_checkpoint(back).header == to_checkpoint(state).header
    assert planned_population(kept) == POPULATION


def test_monitor_policy_and_schedule_go_on_as_if_nothing_had_happened() -> None:
    state = state_of()
    back = from_checkpoint(to_checkpoint(state), fresh_watch(), fresh_schedule())
    assert state.watch is not None
    assert back.watch is not None
    assert back.watch.policy == state.watch.policy
    assert to_checkpoint(back).arrays["worlds"].tobytes() == to_checkpoint(state).arrays["worlds"].tobytes()
    assert [world.version for world in back.watch.worlds.known] == [1]
    report = monitor.WindowSum(4, np.arange(WIDTH) + 1.0, ("a", "c"), 5, 0.7)
    one, other = (monitor.observe(PLAN, watch.state, report)[1] for watch in (state.watch, back.watch))
    assert one == other
    assert state.progress.schedule is not None
    assert back.progress.schedule is not None
    asked = [s.take(SimulatedStream(SimulatedEntropy(2))) for s in (state.progress.schedule, back.progress.schedule)]
    assert asked[0].cohort == asked[1].cohort == ("c", "d")
    assert asked[0].scheduled == asked[1].scheduled
    assert asked[0].noise is not None
    assert asked[1].noise is not None
    assert asked[0].noise.tobytes() == asked[1].noise.tobytes()


def test_equal_states_give_equal_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        StateFile(tmp_path / name, {}).keep(None, to_checkpoint(state_of()))
    assert (tmp_path / "a/state/state.npz").read_bytes() == (tmp_path / "b/state/state.npz").read_bytes()


def test_a_run_that_is_over_leaves_nothing(tmp_path: Path) -> None:
    keeper = StateFile(tmp_path, {})
    keeper.keep(None, to_checkpoint(state_of()))
    keeper.end()
    assert read_state(tmp_path) is None


def test_state_of_another_run_or_version_is_refused(tmp_path: Path) -> None:
    kept = to_checkpoint(state_of())
    with pytest.raises(ConfigError, match="does not fit this run"):
        from_checkpoint(replace(kept, header=kept.header | {"facts": "{}"}), None, None)
    without_watch = to_checkpoint(state_of(watch=None))
    with pytest.raises(ConfigError, match="does not fit this run"):
        from_checkpoint(without_watch, fresh_watch(), fresh_schedule())
    with pytest.raises(ConfigError, match="names no population"):
        planned_population(replace(kept, header={"facts": "{}"}))
    StateFile(tmp_path, {}).keep(None, replace(kept, header={"state_version": 0}))
    with pytest.raises(ConfigError, match="state of version 0"):
        read_state(tmp_path)


def test_the_calibration_of_the_newest_version_is_kept_and_the_schema_is_not() -> None:
    right, rows = np.array([1.0, 2.0, 0.0]), np.array([2.0, 2.0, 5.0])
    optimizer = OptimizerState("fedadam", np.zeros(6, np.float32), np.zeros(6, np.float32))
    progress = Progress(np.zeros(6, np.float32), optimizer, 1.0, calibration=ConfidenceCalibration(right, rows))
    schema = Schema((Numeric("a", 0, 1),), "y", ("no", "yes"))
    kept = to_checkpoint(RunState(whole_run(1, 0), progress, None, replace(POPULATION, schema=schema)))
    found = from_checkpoint(kept, None, None)
    assert found.progress.calibration is not None
    assert np.array_equal(found.progress.calibration.right, right)
    assert np.array_equal(found.progress.calibration.rows, rows)
    assert planned_population(kept) == POPULATION
