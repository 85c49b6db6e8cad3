"""Answers of a look: bounded, silent where there is nothing to say, and read back without bias."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedinfer.config import RolloutSection
from fedinfer.errors import BadMessage
from fedinfer.rollout import evaluations
from fedinfer.rollout.gates import Bound, GateSettings, Verdict, judge
from fedinfer.types import Unit

SECTION = RolloutSection(canary_epsilon=1, max_error_rate=0.3, max_slow_rate=0.25, min_metric=0.6)
UNLIMITED = RolloutSection(canary_epsilon=1)
values = st.one_of(st.floats(0, 1), st.just(float("nan")))
tables = st.integers(1, 12).flatmap(lambda rows: arrays(np.float64, (rows, evaluations.WIDTH), elements=values))


def answers(figures: np.ndarray, devices: int, section: RolloutSection = SECTION) -> np.ndarray:
    one = evaluations.device_answer(figures, float(np.nanmean(figures[:, evaluations.SLOW])), section)
    return one.astype(np.float64) * devices


def verdicts(section: RolloutSection, total: np.ndarray, devices: int, std: float, *, compared: bool = True) -> dict:
    group = evaluations.read_sum(total, devices, std, section, Unit.DEVICE, 20, compared=compared)
    settings = GateSettings(evaluations.gates_of(section, compared=compared), 1, 0.05, 0.05, 1)
    return {finding.figure: finding.verdict for finding in judge(settings, ((group,),)).findings}


@given(tables, values)
def test_one_device_moves_the_sum_by_at_most_the_norm(figures: np.ndarray, slow: float) -> None:
    answer = evaluations.device_answer(figures, slow, SECTION)
    assert answer.dtype == np.float32
    assert np.isfinite(answer).all()
    assert np.linalg.norm(answer.astype(np.float64)) <= evaluations.NORM * (1 + 1e-6)


@given(tables, arrays(np.float64, evaluations.WIDTH, elements=values))
def test_one_row_moves_the_answer_of_a_device_by_at_most_the_norm(figures: np.ndarray, row: np.ndarray) -> None:
    without = evaluations.example_answer(figures, SECTION).astype(np.float64)
    with_row = evaluations.example_answer(np.vstack([figures, row]), SECTION).astype(np.float64)
    assert np.linalg.norm(with_row - without) <= evaluations.NORM * (1 + 1e-5)


@given(tables, values)
def test_cutting_keeps_the_side_of_every_limit(figures: np.ndarray, slow: float) -> None:
    answer = evaluations.device_answer(figures, slow, SECTION)
    known = np.where(np.isnan(figures), 0, figures).sum(0) / np.maximum((~np.isnan(figures)).sum(0), 1)
    known[evaluations.SLOW] = slow
    silent = np.isnan(figures).all(axis=0)
    silent[evaluations.SLOW] = np.isnan(slow)
    excess = np.where(silent, 0, known - evaluations.centres(SECTION))
    assert (np.sign(answer) == np.sign(np.where(abs(excess) < 1e-6, answer, excess))).all()
    assert (answer[silent] == 0).all()


def test_a_rare_class_that_is_never_found_counts_as_much_as_the_usual_one() -> None:
    figures = np.full((20, evaluations.WIDTH), np.nan)
    classes = np.array([0] * 18 + [1] * 2)
    figures[:, evaluations.WRONG] = classes == 1
    centre = evaluations.centres(SECTION)[evaluations.WRONG]
    by_row = evaluations.device_answer(figures, float("nan"), SECTION)[evaluations.WRONG]
    by_class = evaluations.device_answer(figures, float("nan"), SECTION, classes)[evaluations.WRONG]
    assert (by_row + centre, by_class + centre) == (pytest.approx(0.1), pytest.approx(0.5))
    figures[18:, evaluations.WRONG] = np.nan  # the rows of the rare class say nothing
    assert evaluations.device_answer(figures, float("nan"), SECTION, classes)[evaluations.WRONG] + centre < 1e-6
    figures[:, evaluations.WRONG] = np.nan
    assert not evaluations.device_answer(figures, float("nan"), SECTION, classes).any()


def test_who_has_nothing_to_say_answers_zero_and_that_holds() -> None:
    silent = np.full((5, evaluations.WIDTH), np.nan)
    assert not evaluations.device_answer(silent, float("nan"), SECTION).any()
    assert not evaluations.example_answer(silent, SECTION).any()
    found = verdicts(SECTION, np.zeros(evaluations.WIDTH), 1000, 1.0)
    assert set(found.values()) == {Verdict.HOLD}


def test_devices_without_labels_neither_pass_nor_fail_the_metric() -> None:
    good = np.array([[0.0, 0.0, 0.1, 0.1, 0.2]])
    unlabelled = np.array([[0.0, 0.0, 0.1, 0.1, np.nan]])
    found = verdicts(SECTION, answers(unlabelled, 100), 100, 0.5)
    assert found["error"] is Verdict.PASS
    assert found["metric"] is Verdict.HOLD
    mixed = answers(good, 50) + answers(unlabelled, 50)
    assert verdicts(SECTION, mixed, 100, 0.5)["metric"] is Verdict.PASS


@pytest.mark.parametrize(
    ("row", "failed"),
    [
        ([1.0, 0.0, 1.0, 0.9, 1.0], {"error", "metric"}),
        ([0.0, 1.0, 0.0, 0.0, 0.2], {"slow"}),
        ([0.0, 0.0, 0.9, 0.6, 0.9], {"metric"}),
        ([1.0, 1.0, 1.0, 1.0, 1.0], {"error", "slow", "metric"}),
        ([0.0, 0.0, 0.4, 0.2, 0.2], set()),
    ],
)
def test_each_kind_of_bad_model_fails_its_figures(row: list[float], failed: set[str]) -> None:
    found = verdicts(SECTION, answers(np.array([row]), 100), 100, 2.0)
    assert {name for name, verdict in found.items() if verdict is Verdict.FAIL} == failed
    assert {name for name, verdict in found.items() if verdict is Verdict.PASS} == set(found) - failed


def test_a_sum_of_rows_is_read_as_means_of_devices() -> None:
    rows, devices = 20, 6
    figures = np.tile([0.1, 0.05, 0.3, 0.2, 0.25], (rows, 1))
    total = evaluations.example_answer(figures, SECTION).astype(np.float64) * devices
    group = evaluations.read_sum(total, devices, 4.0, SECTION, Unit.EXAMPLE, rows, compared=True)
    means = {figure.name: figure.total / devices for figure in group.figures}
    expected = {"error": 0.1, "slow": 0.05, "agreement": 0.7, "confidence_shift": 0.2, "metric": 0.75}
    assert means == pytest.approx(expected, abs=1e-5)
    assert {figure.noise_std for figure in group.figures} == {4.0 / rows}


def test_rows_that_a_small_device_lacks_count_as_silent() -> None:
    few = evaluations.example_answer(np.tile([0.0, 0.0, 0.25, 0.25, 0.0], (5, 1)), SECTION)
    group = evaluations.read_sum(few, 1, 0.0, SECTION, Unit.EXAMPLE, 20, compared=False)
    error = next(figure for figure in group.figures if figure.name == "error")
    assert error.total == pytest.approx(0.3 * 15 / 20)  # the mean is pulled to the limit, never past it


def test_silence_stands_on_every_limit() -> None:
    """Who has nothing to say moves no judged figure to either side."""
    section = RolloutSection(
        canary_epsilon=1,
        max_error_rate=0.3,
        max_slow_rate=0.2,
        min_agreement=0.8,
        max_confidence_shift=0.4,
        min_metric=0.6,
    )
    silent = evaluations.device_answer(np.full((3, evaluations.WIDTH), np.nan), float("nan"), section)
    group = evaluations.read_sum(4.0 * silent, 4, 0.0, section, Unit.DEVICE, 20, compared=True)
    means = {figure.name: figure.total / 4 for figure in group.figures}
    limits = {gate.figure: gate.passes_at for gate in evaluations.gates_of(section, compared=True)}
    assert len(limits) == evaluations.WIDTH
    assert means == pytest.approx(limits, abs=1e-6)


def test_without_a_model_before_nobody_is_asked_to_agree() -> None:
    section = RolloutSection(canary_epsilon=1, min_agreement=0.8, max_confidence_shift=0.3)
    names = [gate.figure for gate in evaluations.gates_of(section, compared=True)]
    assert names == ["error", "slow", "agreement", "confidence_shift"]
    assert [gate.figure for gate in evaluations.gates_of(section, compared=False)] == ["error", "slow"]
    group = evaluations.read_sum(np.zeros(evaluations.WIDTH), 3, 1.0, section, Unit.DEVICE, 20, compared=False)
    assert {figure.name for figure in group.figures} == {"error", "slow", "metric"}


def test_limits_become_gates_with_the_right_side() -> None:
    gates = {gate.figure: gate for gate in evaluations.gates_of(SECTION, compared=True)}
    assert set(gates) == {"error", "slow", "metric"}
    assert (gates["metric"].bound, gates["metric"].passes_at) == (Bound.AT_LEAST, 0.6)
    assert (gates["error"].bound, gates["error"].fails_at) == (Bound.AT_MOST, 0.3)
    assert set(gate.figure for gate in evaluations.gates_of(UNLIMITED, compared=True)) == {"error", "slow"}


def test_a_sum_of_another_length_is_refused() -> None:
    with pytest.raises(BadMessage, match="shape"):
        evaluations.read_sum(np.zeros(3), 3, 1.0, SECTION, Unit.DEVICE, 20, compared=True)
