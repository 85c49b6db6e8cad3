"""The watch over many windows: few false alarms, drift found, state that can be kept."""

import math

import numpy as np
import pytest
from scipy import stats

from fedinfer import wire
from fedinfer.drift.channels import Bins, Outputs, Source, confidence, predicted_class, tally, width
from fedinfer.drift.monitor import MonitorPlan, MonitorState, WindowSum, begin, observe, reset
from fedinfer.drift.reference import composition, empty_reference, extend
from fedinfer.drift.sketch import device_report
from fedinfer.drift.statistics import NoisySum
from fedinfer.errors import BadMessage, ConfigError
from fedinfer.types import Unit
from tests.unit.drift.entries import uncounted

CHANNELS = (predicted_class(10), confidence(10, 10))


def plan(**changes):
    values = {
        "channels": CHANNELS, "unit": Unit.DEVICE, "reference_windows": 3, "windows": 10,
        "false_alarm_rate": 0.05, "warning_rate": 0.2, "weight": 0.5,
    }  # fmt: skip
    return MonitorPlan(**{**values, **changes})


def watch(a_plan, sums):
    state, results = begin(a_plan), []
    for report in sums:
        state, result = observe(a_plan, state, report)
        results.append(result)
    return results


def first_alarm(results):
    return next((result.window for result in results if result.alarms), None)


def names(count):
    return tuple(f"d{i:03d}" for i in range(count))


def within(rate, runs):
    return rate + 3 * math.sqrt(rate * (1 - rate) / runs)


# ------------------------------------------------------------------ quiet
def quiet_fleet(a_plan, rng, devices, sigma, rows, dropout, alpha=0.3):
    """Dirichlet(0.3) devices that differ from each other and do not change; some miss a window."""
    likes = [rng.dirichlet(np.full(channel.bins, alpha), devices) for channel in a_plan.channels]
    sums = []
    for window in range(a_plan.reference_windows + a_plan.windows):
        here = np.flatnonzero(rng.random(devices) >= dropout)
        total = np.concatenate([rng.multinomial(rows, like[here]).sum(0) for like in likes]).astype(float)
        if a_plan.unit is Unit.DEVICE:
            total /= rows
        total += sigma * rng.standard_normal(total.size)
        sums.append(WindowSum(window, total, tuple(f"d{i}" for i in here), rows, sigma))
    return sums


@pytest.mark.parametrize(
    ("sigma", "reference_windows"),
    [(14.0, 2), pytest.param(0.0, 3, marks=pytest.mark.slow), pytest.param(20.0, 3, marks=pytest.mark.slow)],
)
def test_quiet_heterogeneous_fleet_rarely_alarms(sigma, reference_windows):
    a_plan = plan(reference_windows=reference_windows)
    runs, rng = 1000, np.random.default_rng(11)
    alarms = sum(
        first_alarm(watch(a_plan, quiet_fleet(a_plan, rng, 200, sigma, 20, dropout=0.1))) is not None
        for _ in range(runs)
    )
    assert alarms / runs <= within(0.05, runs)


def test_one_sample_per_device_is_the_worst_case_and_still_holds():
    """Devices that are alike and send one row each: the bound on the covariance is met with equality."""
    a_plan, rng, runs = plan(), np.random.default_rng(5), 1000
    alarms = 0
    for _ in range(runs):
        shapes = [rng.dirichlet(np.full(10, 3.0)) for _ in CHANNELS]
        sums = [
            WindowSum(w, np.concatenate([rng.multinomial(200, p) for p in shapes]) + 10.0 * rng.standard_normal(20),
                      names(200), 1, 10.0)
            for w in range(13)
        ]  # fmt: skip
        alarms += first_alarm(watch(a_plan, sums)) is not None
    assert 0.02 <= alarms / runs <= within(0.05, runs)


@pytest.mark.parametrize(("sigma", "dropout"), [(42.0, 0.25), (6.0, 0.25), (0.0, 0.1)])
def test_four_hospitals_that_differ_and_miss_windows_rarely_alarm(sigma, dropout):
    a_plan = plan(channels=(predicted_class(2), confidence(2, 10)), unit=Unit.EXAMPLE, reference_windows=2, windows=4)
    runs, rng = 1000, np.random.default_rng(23)
    alarms = counted = 0
    while counted < runs:
        sums = quiet_fleet(a_plan, rng, 4, sigma, 10, dropout, alpha=1.0)
        if not all(report.reporters for report in sums):
            continue  # an empty window is never released
        counted += 1
        alarms += first_alarm(watch(a_plan, sums)) is not None
    assert alarms / runs <= within(0.05, runs)


# ------------------------------------------------------------------ drift
def test_drift_of_the_whole_fleet_is_found_within_three_windows():
    a_plan, rng, found = plan(), np.random.default_rng(2), 0
    for _ in range(100):
        sums = quiet_fleet(a_plan, rng, 200, 12.0, 20, dropout=0.1)
        moved = [
            WindowSum(s.window, np.r_[s.total[:10], s.total[10:] + 30.0 * np.linspace(1, -1, 10)], s.reporters,
                      s.rows, s.noise_std) if s.window >= 6 else s
            for s in sums
        ]  # fmt: skip
        first = first_alarm(watch(a_plan, moved))
        found += first is not None and 6 <= first <= 8
    assert found >= 95


@pytest.fixture(scope="module")
def digits():
    from scipy import ndimage
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    x, y = load_digits(return_X_y=True)
    model = LogisticRegression(C=0.05, max_iter=500).fit(x[:360], y[:360])
    images = x[360:].reshape(-1, 8, 8)
    turned = ndimage.rotate(images, 30, axes=(1, 2), reshape=False, order=1).reshape(-1, 64)
    return y[360:], model.predict_proba(x[360:]), model.predict_proba(turned)


def digits_run(digits, seed, drift_at, windows=13, noise_multiplier=14.0, clip=0.8, bins=6):
    """200 devices with Dirichlet(0.3) labels, 20 rows per window from each device's own few; epsilon about 1 in all."""
    y, straight, turned = digits
    a_plan = plan(channels=(predicted_class(10), confidence(10, bins)), weight=0.6)
    rng, sigma = np.random.default_rng(seed), noise_multiplier * clip
    shares = rng.dirichlet(np.full(200, 0.3), 10)
    owner = np.array([rng.choice(200, p=shares[label]) for label in y])
    rows_of = [np.flatnonzero(owner == device) for device in range(200)]
    sums = []
    for window in range(windows):
        probabilities = turned if window >= drift_at else straight
        reports = []
        for rows in rows_of:
            if rows.size and rng.random() > 0.05:
                seen = probabilities[rng.choice(rows, 20)]
                counts = [tally(channel, Outputs(seen.argmax(1), seen)) for channel in a_plan.channels]
                reports.append(device_report(counts, clip))
        total = np.sum(reports, axis=0, dtype=float) + sigma * rng.standard_normal(10 + bins)
        sums.append(WindowSum(window, total, names(len(reports)), 20, sigma))
    return first_alarm(watch(a_plan, sums))


def test_rotated_digits_alarm_within_three_windows_in_nearly_every_seed(digits):
    found = [digits_run(digits, seed, drift_at=6) for seed in range(20)]
    assert sum(window in (6, 7, 8) for window in found) >= 19


def test_quiet_digits_do_not_alarm(digits):
    found = [digits_run(digits, 100 + seed, drift_at=99) for seed in range(20)]
    assert sum(window is not None for window in found) <= 2


@pytest.mark.parametrize(
    ("devices", "sigma"),
    [
        pytest.param(100, 5.97, marks=pytest.mark.soak),
        pytest.param(100, 21.8, marks=pytest.mark.slow),
        pytest.param(1000, 5.97, marks=pytest.mark.soak),
        pytest.param(1000, 21.8, marks=pytest.mark.soak),
    ],
)
def test_long_quiet_runs_of_differing_devices_keep_the_promise(devices, sigma):
    """1,000 runs of 100 windows, epsilon 1 or 0.25 per window for two histograms, noisy reference, Dirichlet(0.3)."""
    a_plan, runs, rng = plan(windows=100, weight=0.2, reference_windows=5), 1000, np.random.default_rng(7)
    rows, alarms, who = 20, 0, names(devices)
    for _ in range(runs):
        # A sum over devices needs only the spread inside each device: drawn for the whole run at once.
        total = np.zeros((105, 20))
        for at in (0, 10):
            likes = rng.dirichlet(np.full(10, 0.3), devices)
            total[:, at : at + 10] = sums_of_fixed_devices(likes, rows, 105, rng)
        total += sigma * rng.standard_normal(total.shape)
        state, alarmed = begin(a_plan), False
        for window in range(105):
            state, result = observe(a_plan, state, WindowSum(window, total[window], who, rows, sigma))
            alarmed |= bool(result.alarms)
        alarms += alarmed
    assert alarms / runs <= within(0.05, runs)


def sums_of_fixed_devices(likes, rows, windows, rng):
    """Normal approximation of sums of multinomial reports: mean sum p_i, covariance sum (diag p_i - p_i p_i')/rows."""
    covariance = (np.diag(likes.sum(0)) - likes.T @ likes) / rows
    return rng.multivariate_normal(likes.sum(0), covariance, windows)


@pytest.mark.slow
def test_small_shift_at_small_epsilon_is_found_in_a_few_windows():
    """n = 1000, epsilon 0.25 per window, 0.2 sd after window 50 of 100: median delay 3 windows in the research runs."""
    a_plan = plan(
        channels=(uncounted("x", 10, Bins.ORDERED, Source.OUTPUT),), windows=100, weight=0.2, reference_windows=5
    )
    edges = np.r_[-np.inf, stats.norm.ppf(np.arange(1, 10) / 10), np.inf]
    quiet, moved = (np.diff(stats.norm.cdf(edges - shift)) for shift in (0.0, 0.2))
    rng, delays, early = np.random.default_rng(3), [], 0
    for _ in range(200):
        sums = [
            WindowSum(w, rng.multinomial(1000, moved if w >= 55 else quiet) + 15.4 * rng.standard_normal(10),
                      names(1000), 1, 15.4)
            for w in range(105)
        ]  # fmt: skip
        first = first_alarm(watch(a_plan, sums))
        early += first is not None and first < 55
        delays += [first - 54] if first is not None and first >= 55 else []
    assert early <= 20
    assert len(delays) >= 0.99 * (200 - early)
    assert np.median(delays) <= 5


# ------------------------------------------------------------------ books
def counts(window):
    return WindowSum(window, np.full(20, 10.0), names(200), 1, 1.0)


def test_reference_windows_are_learned_and_do_not_alarm():
    a_plan, state = plan(reference_windows=2), begin(plan(reference_windows=2))
    for window in range(2):
        state, result = observe(a_plan, state, counts(window))
        assert result.learning == ("predicted_class", "confidence")
        assert result.channels == ()
        assert not result.alarms
        assert not result.warning
    state, result = observe(a_plan, state, counts(2))
    assert result.learning == ()
    assert [channel.p_value for channel in result.channels] == pytest.approx([1.0, 1.0])
    assert result.to_json()["channels"][1]["alarm"] is False


def test_the_most_surprising_channel_comes_first_among_the_alarms():
    a_plan, state = plan(reference_windows=1), begin(plan(reference_windows=1))
    state, _ = observe(a_plan, state, counts(0))
    total = np.r_[np.full(10, 10.0) + 30 * np.r_[1, -1, np.zeros(8)], np.full(10, 10.0) + 10 * np.linspace(9, -9, 10)]
    _, result = observe(a_plan, state, WindowSum(1, total, names(200), 1, 1.0))
    assert result.alarms[0].channel == "confidence"
    assert all(channel.p_value < 0.01 for channel in result.alarms)


def test_windows_come_in_order_and_once():
    a_plan = plan()
    state, _ = observe(a_plan, begin(a_plan), counts(4))
    for window in (4, 3):
        with pytest.raises(BadMessage, match="after window 4"):
            observe(a_plan, state, counts(window))


@pytest.mark.parametrize(
    "report",
    [
        WindowSum(0, np.zeros(20), (), 1, 1.0),
        WindowSum(0, np.zeros(19), names(3), 1, 1.0),
        WindowSum(0, np.full(20, np.inf), names(3), 1, 1.0),
    ],
)
def test_malformed_sums_are_refused(report):
    with pytest.raises(BadMessage):
        observe(plan(), begin(plan()), report)


def test_a_push_forgets_outputs_and_may_keep_inputs():
    channels = (*CHANNELS, uncounted("age", 8, Bins.ORDERED, Source.INPUT))
    a_plan = plan(channels=channels, reference_windows=1)
    flat = WindowSum(0, np.full(width(channels), 20.0), names(200), 1, 1.0)
    state, _ = observe(a_plan, begin(a_plan), flat)
    state = reset(a_plan, state, keep=("age",))
    state, result = observe(a_plan, state, WindowSum(1, flat.total, flat.reporters, 1, 1.0))
    assert result.learning == ("predicted_class", "confidence")
    assert [channel.channel for channel in result.channels] == ["age"]
    with pytest.raises(ConfigError, match="no drift channel is called"):
        reset(a_plan, state, keep=("weight",))


def test_state_survives_encoding():
    a_plan = plan(unit=Unit.EXAMPLE, reference_windows=2)
    rng, state = np.random.default_rng(0), begin(a_plan)
    for report in quiet_fleet(a_plan, rng, 20, 2.0, 10, 0.2)[:6]:
        kept = wire.decode(MonitorState, wire.encode(state))
        _, expected = observe(a_plan, state, report)
        state, result = observe(a_plan, kept, report)
        assert result == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"channels": ()}, {"channels": CHANNELS[:1] * 2}, {"unit": Unit.NONE}, {"reference_windows": 0},
        {"windows": 0}, {"false_alarm_rate": 0.0}, {"warning_rate": 0.01}, {"warning_rate": 1.0}, {"weight": 0.0},
        {"weight": 1.5},
    ],
)  # fmt: skip
def test_a_plan_that_promises_nonsense_is_refused(changes):
    with pytest.raises(ConfigError):
        plan(**changes)


def test_composition_is_zero_for_the_same_devices_and_known_for_a_missing_one():
    reference = extend(
        extend(empty_reference(2), NoisySum(np.ones(2), 4, 0.0), "abcd"), NoisySum(np.ones(2), 4, 0.0), "abcd"
    )
    assert composition(reference, tuple("abcd")) == pytest.approx(0.0)
    assert composition(reference, tuple("abc")) == pytest.approx(3 * (1 / 3 - 1 / 4) ** 2 + 1 / 16)
    unknown = extend(empty_reference(2), NoisySum(np.array([1.0, 2.0]), 3, 0.0), ())
    assert composition(unknown, ("a",)) == 0.0
