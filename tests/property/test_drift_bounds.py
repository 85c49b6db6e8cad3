"""What no device and no order of events can do."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedinfer import wire
from fedinfer.drift.channels import Bins, Source, confidence, predicted_class, width
from fedinfer.drift.monitor import ChannelResult, MonitorPlan, MonitorState, WindowResult, WindowSum, begin, observe
from fedinfer.drift.policy import (
    Mode,
    PolicySettings,
    PolicyState,
    Situation,
    WatchAction,
    WatchPhase,
    decide,
    finished,
    pushed,
)
from fedinfer.drift.sketch import device_report
from fedinfer.drift.statistics import contrasts, unit_covariance
from fedinfer.types import Unit
from tests.unit.drift.entries import uncounted

CHANNELS = (predicted_class(4), confidence(4, 6))
PLAN = MonitorPlan(CHANNELS, Unit.DEVICE, 2, 8, 0.05, 0.2, 0.5)
histogram = st.lists(st.integers(0, 1000), min_size=2, max_size=12).filter(any).map(np.array)


@given(st.lists(histogram, min_size=1, max_size=4), st.floats(0.01, 3.0))
def test_a_device_report_never_exceeds_the_clipping_norm(histograms, norm):
    report = device_report(histograms, norm)
    assert np.linalg.norm(report.astype(float)) <= norm * (1 + 1e-6)
    assert (report >= 0).all()
    assert report.size == sum(h.size for h in histograms)


@given(
    st.lists(st.lists(st.integers(0, 50), min_size=5, max_size=5).filter(any), min_size=2, max_size=30),
    st.floats(0.2, 2.0),
    st.sampled_from(Bins),
)
def test_one_sample_per_device_bounds_the_covariance_of_any_reports(rows, norm, kind):
    """Clipped or not, alike or not: E[hh'] <= diag(E[h]) in every tested direction (the half count adds to it)."""
    reports = np.array([device_report([np.array(row)], norm) for row in rows], float)
    a = contrasts(5, kind)
    spread = a.T @ (np.diag(reports.mean(0)) - np.cov(reports.T, bias=True) - np.outer(*[reports.mean(0)] * 2)) @ a
    assert np.linalg.eigvalsh(spread).min() > -1e-6  # float32 reports
    bound = unit_covariance(uncounted("x", 5, kind, Source.OUTPUT), reports.sum(0), len(reports))
    assert np.linalg.eigvalsh(bound).min() > 0


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 1.4))
def test_one_device_moves_the_statistic_by_no_more_than_its_clipped_share(seed, norm):
    """The root of the statistic is a norm of the summed differences, so one report shifts it by at most w C / (n s)."""
    rng = np.random.default_rng(seed)
    reporters, sigma, state = tuple(map(str, range(50))), 4.0, begin(PLAN)
    for window in range(2):
        total = 5.0 + sigma * rng.standard_normal(width(CHANNELS))
        state, _ = observe(PLAN, state, WindowSum(window, total, reporters, 1, sigma))
    total = 5.0 + sigma * rng.standard_normal(width(CHANNELS))
    push = rng.standard_normal(width(CHANNELS))
    push *= norm / np.linalg.norm(push)
    _, honest = observe(PLAN, state, WindowSum(2, total, reporters, 1, sigma))
    _, forged = observe(PLAN, state, WindowSum(2, total + push, reporters, 1, sigma))
    # The covariance of the weighted rate is at least (w sigma / n)^2 I, and the push moves the rate by C/n.
    for before, after in zip(honest.channels, forged.channels, strict=True):
        assert abs(math.sqrt(after.statistic) - math.sqrt(before.statistic)) <= norm / sigma + 1e-9


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.floats(0, 50)), min_size=1, max_size=6),
    st.sampled_from([Unit.DEVICE, Unit.EXAMPLE]),
)
def test_any_window_gives_finite_figures_and_a_state_that_encodes(windows, unit):
    plan = MonitorPlan(CHANNELS, unit, 1, 8, 0.05, 0.2, 0.5)
    rng, state = np.random.default_rng(0), begin(plan)
    for number, (devices, sigma) in enumerate(windows):
        total = rng.standard_normal(width(CHANNELS)) * sigma + devices / 5
        state, result = observe(plan, state, WindowSum(number, total, tuple(map(str, range(devices))), 3, sigma))
        assert all(math.isfinite(c.statistic) and 0 <= c.p_value <= 1 and c.threshold > 0 for c in result.channels)
        assert wire.encode(wire.decode(MonitorState, wire.encode(state))) == wire.encode(state)


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(st.floats(0, 40), st.sampled_from(Source), st.booleans(), st.booleans(), st.booleans()), max_size=30
    ),
    st.integers(0, 3),
)
def test_the_policy_never_triggers_without_budget_or_too_often_or_twice_at_once(windows, allowed):
    rules = PolicySettings(Mode.AUTO, allowed, 2, 2, 2, 5)
    state, rounds, acted = PolicyState(), 0, False
    for number, (value, source, rich, done, old) in enumerate(windows):
        verdict = WindowResult(number, (ChannelResult("x", source, 0.5, value, 10.0, 20.0),), ())
        pending = state.phase is WatchPhase.ROUND_PENDING
        acted = (acted and state.phase is WatchPhase.ALARM) or (value > 20.0 and source is not Source.INPUT)
        state, decision = decide(rules, state, verdict, Situation(1.0 if rich else 0.1, 0.5, 10, old))
        if decision.action is WatchAction.ROUND:
            rounds += 1
            assert rich
            assert not pending
            assert acted  # drift of inputs alone never led here
        if decision.action is not WatchAction.NONE:
            assert decision.reason
        if state.phase is WatchPhase.ROUND_PENDING and done:
            state = pushed(finished(rules, state))
    assert rounds == state.triggers <= allowed
