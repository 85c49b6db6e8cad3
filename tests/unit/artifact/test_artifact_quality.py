"""Figures and gates, against values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fedinfer.artifact.evaluate import metrics as quality
from fedinfer.artifact.evaluate.gates import Figures, Limits, judge, limits_of
from fedinfer.artifact.evaluate.self_check_rows import choose_rows, reference_of, tolerance_of
from fedinfer.artifact.export.graph import OutputHead, finish
from fedinfer.artifact.quantize.calibration import synthetic_rows
from fedinfer.config import ArtifactSection
from fedinfer.manifest import PROBABILITIES, Reference
from fedinfer.schema import Schema
from fedinfer.system import FrozenClock, simulation_rng
from tests.unit.artifact.workshop import START, TABLE, dense_core, vector_schema

LIMITS = Limits(0.02, 0.95, 0.05, 0.05, 1000, 100.0)
GOOD = Figures("r", "int8", 900, 0.8, 0.01, 0.97, 0.04, 1.0, 0.01, 50.0)


def test_softmax_with_temperature():
    p = quality.softmax(np.array([[0.0, np.log(3.0)], [1000.0, 0.0]]))
    np.testing.assert_allclose(p, [[0.25, 0.75], [1.0, 0.0]], atol=1e-12)
    np.testing.assert_allclose(quality.softmax(np.array([[0.0, np.log(9.0)]]), 2.0), [[0.25, 0.75]], atol=1e-12)


def test_calibration_error_by_hand():
    """Two bins: 0.9 right once of twice (gap 0.4), 0.65 right twice of twice (gap -0.35)."""
    p = np.array([[0.9, 0.1], [0.9, 0.1], [0.35, 0.65], [0.35, 0.65]])
    assert quality.calibration_error(p, np.array([0, 1, 1, 1])) == pytest.approx((2 * 0.4 + 2 * 0.35) / 4)
    assert quality.calibration_error(np.array([[1.0, 0.0]]), np.array([0])) == 0.0


@pytest.mark.parametrize("truth", [0.5, 1.0, 3.0])
def test_temperature_is_found_again(truth):
    """Labels drawn from softmax(logits / truth): the fitted temperature is close to truth."""
    rng = simulation_rng("temperature", str(truth))
    logits = rng.normal(0, 3, (20_000, 4))
    p = quality.softmax(logits, truth)
    y = (rng.random((len(p), 1)) > p.cumsum(axis=1)).sum(axis=1)
    assert quality.fit_temperature(logits, quality.one_hot(y, 4)) == pytest.approx(truth, rel=0.05)


def test_temperature_matches_soft_targets_exactly_and_stays_in_its_bounds():
    logits = simulation_rng("soft").normal(0, 3, (300, 3))
    assert quality.fit_temperature(logits * 1.7, quality.softmax(logits)) == pytest.approx(1.7, rel=1e-3)
    certain = np.array([[10.0, 0.0]] * 5)
    assert quality.fit_temperature(certain, quality.one_hot(np.zeros(5, np.int64), 2)) == pytest.approx(0.2, rel=1e-3)
    assert quality.fit_temperature(certain, quality.one_hot(np.ones(5, np.int64), 2)) == pytest.approx(20, rel=1e-3)


def test_latency_uses_the_given_clock():
    class Ticking:
        def __init__(self):
            self.at = 0.0

        def now(self):
            return START

        def seconds(self):
            self.at += 1e-6
            return self.at

    file = finish(dense_core((3, 2)), OutputHead(vector_schema(3, 2), 1.0, "demo", 1))
    row = np.zeros(3, np.float32)
    assert quality.latency_us(file, row, Ticking(), PROBABILITIES, repeats=5) == pytest.approx(1.0)
    assert quality.latency_us(file, row, FrozenClock(START), PROBABILITIES, repeats=5) == 0.0


def test_instruction_set_names_what_matters(tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text("flags : fpu sse2 avx2 avx512_vnni\n")
    assert quality.instruction_set(info).endswith(" avx2 avx512_vnni")
    assert quality.instruction_set(tmp_path / "none") == quality.instruction_set(tmp_path / "none").strip()


def test_a_variant_within_all_limits_passes():
    assert judge(GOOD, 0.0, LIMITS) == ()
    assert GOOD.passed


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"metric_drop": 0.03}, "metric drops by 0.03, limit 0.02"),
        ({"agreement": 0.9}, "agreement 0.9, limit 0.95"),
        ({"calibration_error": 0.06}, "calibration error rises by 0.06, limit 0.05"),
        ({"batch_difference": 0.2}, "a row alone differs from a batch by 0.2, limit 0.05"),
        ({"bytes": 1001}, "bytes 1001, limit 1000"),
        ({"latency_us": 101.0}, "latency in us 101, limit 100"),
        ({"metric_drop": float("nan")}, "metric drops by nan"),
    ],
)
def test_every_broken_limit_is_named_with_numbers(change, reason):
    from dataclasses import replace

    failures = judge(replace(GOOD, **change), 0.0, LIMITS)
    assert len(failures) == 1
    assert reason in failures[0]
    assert not replace(GOOD, failures=failures).passed


def test_limits_come_from_the_scenario():
    limits = limits_of(ArtifactSection(max_metric_drop=0.1, min_agreement=0.5, max_bytes=77))
    assert (limits.max_metric_drop, limits.min_agreement, limits.max_bytes) == (0.1, 0.5, 77)


def test_a_row_alone_may_move_a_probability_by_a_twentieth():
    """The documented limit (docs/how-to/artifacts.md), from the settings of any scenario."""
    from dataclasses import replace

    limits = limits_of(ArtifactSection())
    assert judge(replace(GOOD, batch_difference=0.05), GOOD.calibration_error, limits) == ()
    (failure,) = judge(replace(GOOD, batch_difference=0.0501), GOOD.calibration_error, limits)
    assert "a row alone differs from a batch" in failure


def test_synthetic_rows_stay_in_the_public_ranges_and_miss_a_tenth():
    rows = synthetic_rows(TABLE, 4000, simulation_rng("synthetic"))
    assert rows.dtype == np.float32
    assert np.isnan(rows).mean() == pytest.approx(0.1, abs=0.01)
    for place, (low, high) in enumerate([(0, 100), (80, 200), (0, 2)]):
        column = rows[~np.isnan(rows[:, place]), place]
        assert low <= column.min() < low + 0.03 * (high - low) + 1e-9
        assert high >= column.max() > high - 0.03 * (high - low) - 1e-9
    assert set(rows[~np.isnan(rows[:, 2]), 2]) == {0.0, 1.0, 2.0}


def test_synthetic_images():
    grey = synthetic_rows(Schema((), "digit", ("a", "b"), (1, 4, 4), 16.0), 50, simulation_rng("grey"))
    assert grey.shape == (50, 16)
    assert set(np.unique(grey)) == set(range(17))
    unit = synthetic_rows(Schema((), "digit", ("a", "b"), (1, 4, 4), 1.0), 50, simulation_rng("unit"))
    assert 0 <= unit.min() < unit.max() <= 1
    assert len(np.unique(unit)) > 100


def test_check_rows_show_every_class_and_the_clearest_answers():
    p = quality.softmax(simulation_rng("check").normal(0, 2, (500, 4)))
    x = np.arange(500, dtype=np.float32)[:, None]
    chosen = choose_rows(x, p)[:, 0].astype(int)
    assert len(chosen) == len(set(chosen)) == 16
    assert sorted(np.bincount(p[chosen].argmax(axis=1), minlength=4)) == [4, 4, 4, 4]
    margin = np.sort(p, axis=1)[:, -1] - np.sort(p, axis=1)[:, -2]
    for k in range(4):
        of_class = np.flatnonzero(p.argmax(axis=1) == k)
        assert set(of_class[np.argsort(-margin[of_class])[:4]]) <= set(chosen)


def test_wide_rows_give_fewer_check_rows():
    x = np.zeros((40, 100_000), np.float32)
    assert len(choose_rows(x, np.full((40, 2), 0.5))) == 2


def test_reference_histograms():
    p = np.array([[0.9, 0.1], [0.55, 0.45], [0.2, 0.8], [0.0, 1.0]], np.float32)
    reference = reference_of(p)
    assert reference.rows == 4
    assert reference.classes == (0.5, 0.5)
    assert reference.edges[0] == 0.5
    assert reference.edges[-1] == 1.0
    assert sum(reference.confidence) == pytest.approx(1.0)
    assert reference.confidence[-1] == pytest.approx(0.25)
    assert reference_of(np.empty((0, 2), np.float32)) == Reference()


def test_tolerance_is_wider_for_integers_only():
    assert tolerance_of("float", 0.0) == tolerance_of("fp16", 0.0) == 1e-3
    assert tolerance_of("int8", 0.0) == 0.05
    assert tolerance_of("int8", 1.0) == 0.25
