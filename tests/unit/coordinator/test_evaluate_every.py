"""Figures on held-out rows after some rounds only: the weights stay the same, and the last round has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedinfer.coordinator import run as runs
from fedinfer.coordinator import run_json
from fedinfer.coordinator.agenda import RunStep, whole_run
from fedinfer.coordinator.checkpoint import RunState
from tests.protocol.fleet import settings
from tests.protocol.opened import Run, opened

DEVICES = 4


def rounds(folder: Path, text: str, count: int) -> Run:
    """The first rounds of a run that plans one more than `count`, each as the run itself takes it."""
    run = opened(folder, settings(f"training.rounds = {count + 1}\ndrift.enabled = false\n{text}"), DEVICES)
    state = RunState(whole_run(count + 1, 0), run.progress, None, run.server.population)
    for _ in range(count):
        runs._one_step(run.server, run.plan, state, RunStep.ROUND)
    return run


def test_rounds_without_figures_train_the_same(tmp_path: Path) -> None:
    every, some = (rounds(tmp_path / name, text, 3) for name, text in (("1", ""), ("2", "training.evaluate_every = 2")))
    assert [bool(row.metrics) for row in every.progress.rounds] == [True, True, True]
    assert [bool(row.metrics) for row in some.progress.rounds] == [False, True, False]
    assert [fields["metric"] is None for name, fields in some.events if name == "round"] == [True, False, True]
    assert some.progress.rounds[1].metrics == every.progress.rounds[1].metrics
    np.testing.assert_array_equal(some.progress.weights, every.progress.weights)


def test_the_last_round_before_a_version_has_figures(tmp_path: Path) -> None:
    run = rounds(tmp_path, "training.evaluate_every = 9", 1)
    state = RunState(whole_run(1, 0), run.progress, None, run.server.population)
    runs._one_step(run.server, run.plan, state, RunStep.ROUND)
    assert [bool(row.metrics) for row in run.progress.rounds] == [False, True]


def test_a_run_that_ends_early_has_the_figures_of_its_last_weights(tmp_path: Path) -> None:
    run = rounds(tmp_path, "training.evaluate_every = 9", 2)
    record = run_json.closing(run.server, run.plan, run.progress, "aborted", 0.0)
    assert [row["metrics"] for row in record["rounds"]] == [{}, {}]
    figures = run.server.trainer.evaluate(run.progress.weights, *run.server.judged(0))
    assert record["metrics"] == pytest.approx(figures)
    assert "loss" in figures
