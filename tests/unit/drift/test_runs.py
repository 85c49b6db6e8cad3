"""Many runs at once are the monitor's runs, quiet runs keep both promises, and drift is seen as often as stated."""

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest

from fedinfer.drift import chosen_channels, sequential
from fedinfer.drift.channels import width
from fedinfer.drift.monitor import MonitorPlan, WindowSum, begin, observe
from fedinfer.drift.runs import watch_runs
from fedinfer.drift.state import MonitorState
from fedinfer.errors import BadMessage, ConfigError
from fedinfer.schema import Numeric, Schema
from fedinfer.types import Unit


def load_benchmark():
    """By its path: some installed package is called benchmarks too."""
    spec = importlib.util.spec_from_file_location("bench", Path(__file__).parents[3] / "benchmarks" / "drift.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


bench = load_benchmark()
SCHEMA = Schema((Numeric("a", 0, 1), Numeric("b", 0, 1)), "y", ("no", "yes", "maybe"))
CHANNELS = chosen_channels(SCHEMA, ["predicted_class", "confidence", "faults", "flags"])


def plan(**changes):
    values = {
        "channels": CHANNELS, "unit": Unit.DEVICE, "reference_windows": 2, "windows": 6, "false_alarm_rate": 0.05,
        "warning_rate": 0.2, "weight": 0.4,
    }  # fmt: skip
    return MonitorPlan(**{**values, **changes})


def totals(runs, windows, rng, sigma=3.0):
    return 20.0 + sigma * rng.standard_normal((runs, windows, width(CHANNELS))) + np.arange(windows)[:, None] * 2.0


@pytest.mark.parametrize("length", [0.0, 40.0])
def test_many_runs_at_once_do_what_the_monitor_does_with_each(length):
    a_plan, sums = plan(average_run_length=length), totals(3, 15, np.random.default_rng(0))
    found = watch_runs(a_plan, sums, [60] * 15, 1, 3.0)
    names = tuple(f"d{number}" for number in range(60))
    for run in range(3):
        state = begin(a_plan)
        for window in range(15):
            state, result = observe(a_plan, state, WindowSum(window, sums[run, window], names, 1, 3.0))
            ratios = {each.channel: each.statistic / each.threshold for each in result.channels}
            for place, channel in enumerate(CHANNELS):
                assert found.ratios[run, window, place] == pytest.approx(ratios.get(channel.name, 0.0), rel=1e-9)
                assert found.alarms[run, window, place] == (ratios.get(channel.name, 0.0) > 1)
    assert (found.first_alarm() >= 0).any()


def test_flags_are_learned_after_the_devices_own_reference():
    found = watch_runs(plan(), totals(1, 12, np.random.default_rng(1)), [60] * 12, 1, 3.0)
    compared = (found.ratios[0] > 0).argmax(axis=0).tolist()
    assert compared == [2, 2, 2, 2 + CHANNELS[3].warm_up]


def test_sums_of_another_shape_are_refused():
    with pytest.raises(BadMessage, match="numbers per window"):
        watch_runs(plan(), np.zeros((2, 5, 3)), [10] * 5, 1, 1.0)
    with pytest.raises(BadMessage, match="numbers per window"):
        watch_runs(plan(), np.zeros((2, 5, width(CHANNELS))), [10] * 4, 1, 1.0)


def test_a_state_goes_through_json_in_the_middle_of_a_run():
    a_plan, sums = plan(), totals(1, 10, np.random.default_rng(2))[0]
    names, state = tuple(f"d{number}" for number in range(40)), begin(plan())
    for window in range(10):
        kept = MonitorState.from_json(json.loads(json.dumps(state.to_json())))
        report = WindowSum(window, sums[window], names, 1, 3.0)
        _, expected = observe(a_plan, state, report)
        state, found = observe(a_plan, kept, report)
        assert found == expected


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data.pop("channels"),
        lambda data: data["channels"][0].pop("seen"),
        lambda data: data["channels"][0]["reference"].update(total=[1.0, float("nan"), 2.0]),
        lambda data: data["channels"][0]["ewma"].update(own=[[1.0]]),
        lambda data: data["channels"][1]["bins"].update(mean=[0.0]),
        lambda data: data.update(last_window=float("inf")),
        lambda data: data.update(channels=3),
    ],
)
def test_a_spoiled_state_is_refused(spoil):
    data = begin(plan()).to_json()
    spoil(data)
    with pytest.raises(BadMessage, match="cannot be read"):
        MonitorState.from_json(data)


# ------------------------------------------------------------------ promises
def allowed(rate, runs):
    return rate + 3 * math.sqrt(rate * (1 - rate) / runs)


@pytest.mark.parametrize("devices", [100, 1000])
@pytest.mark.parametrize("epsilon", [0.25, 1.0])
@pytest.mark.parametrize("runs", [300, pytest.param(4000, marks=pytest.mark.soak)])
def test_quiet_runs_of_a_hundred_windows_keep_the_promise(devices, epsilon, runs):
    """Noisy reference; Dirichlet(0.3) devices with reporters that change, and devices that are alike with one row."""
    assert bench.false_alarms(devices, epsilon, runs) <= allowed(0.05, runs)
    assert bench.equal_devices_false_alarms(devices, epsilon, runs) <= allowed(0.05, runs)


def test_a_covariance_that_is_small_by_chance_raises_no_more_false_alarms_than_promised():
    """Few devices, much noise in the reference: without one standard error on top the rate is 0.07."""
    assert bench.equal_devices_false_alarms(100, 1.0, 4000) <= allowed(0.05, 4000)


@pytest.mark.parametrize("runs", [400, pytest.param(10_000, marks=pytest.mark.soak)])
def test_power_of_the_watch(runs):
    slack = 3 * math.sqrt(0.05 / runs)
    assert bench.shift_power(300, 1.0, 10 * runs) >= 0.80
    assert bench.shift_power(1000, 0.25, 10 * runs) >= 0.95
    assert bench.flag_power(1000, 1.0, runs) >= 0.95 - slack
    assert bench.missing_power(1000, 1.0, min(runs, 100)) >= 0.95


def test_a_thousand_devices_see_what_was_done_to_digits_in_one_window():
    seen = bench.digits_power(1000, 1.0, 200)
    assert seen.pop("nothing") <= 0.05
    assert seen == {"blur": 1.0, "rotation": 1.0, "missing class": 1.0}


def test_flags_keep_the_promise_where_rows_of_a_device_follow_each_other():
    """The devices' own level is wrong for such rows; what counts is how often flags went up in the reference."""
    assert bench.dependent_flags_false_alarms(100, 1.0, 25) <= allowed(0.05, 25)


def test_cut_offs_on_noisy_counts_fail():
    """Why PSI and plain chi-square are not offered: most quiet windows of a small fleet are above them."""
    index, plain = bench.cut_off_false_alarms(100, 1.0, 4000)
    assert index > 0.4
    assert plain > 0.4


@pytest.mark.parametrize(("shared", "length"), [(0.0, 60.0), (0.12, 200.0)])
def test_a_watch_without_an_end_alarms_once_in_the_promised_number_of_windows(shared, length):
    """Periods simulated with the MEWMA itself, from a generator of its own: the average within 10 % of the promise."""
    windows, df, weight, periods = 50, 3, 0.2, 20_000
    level = sequential.standing_threshold(df, windows, weight, shared, length)
    rng, state = np.random.default_rng(5), sequential.start(df)
    # A share is rounded down to its step, so periods are drawn with that share.
    part = math.floor(shared / sequential.SHARED_STEP + 1e-9) * sequential.SHARED_STEP
    offset = math.sqrt(part) * rng.standard_normal((periods, df))
    first, lasted = np.zeros(periods, bool), 0
    for _ in range(windows):
        lasted += int((~first).sum())
        difference = offset + math.sqrt(1 - part) * rng.standard_normal((periods, df))
        state = sequential.advance(state, weight, difference, (1 - part) * np.eye(df), 0.0)
        first |= sequential.statistic(state, part * np.eye(df), np.eye(df)) > level
    assert lasted / first.sum() == pytest.approx(length, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "epsilon"), [(100, 0.25), (1000, 1.0)])
def test_a_whole_watch_without_an_end_meets_its_average_run_length(devices, epsilon):
    """Reference, noise and covariance as they are; 2,500 periods know the mean to 4 %."""
    assert bench.run_length(devices, epsilon, 250) == pytest.approx(200.0, rel=0.1)


def test_the_average_run_length_is_walds():
    """By hand: half of the periods alarm in their second and last window: an alarm in every other period of 2."""
    reached = np.array([[1.0, 5.0], [1.0, 2.0]])
    assert sequential.average_run_length(reached, 3.0) == 4.0
    assert sequential.average_run_length(reached, 9.0) == math.inf


def test_a_run_length_that_promises_nonsense_is_refused():
    with pytest.raises(ConfigError, match="run length"):
        sequential.standing_threshold(3, 10, 0.2, 0.0, 1.0)
    with pytest.raises(ConfigError, match="average run length"):
        plan(average_run_length=0.5)


def test_a_standing_watch_renews_its_reference_and_finds_drift_in_every_period():
    a_plan = plan(average_run_length=300.0, windows=6)
    rng = np.random.default_rng(3)
    sums = 20.0 + 3.0 * rng.standard_normal((50, 24, width(CHANNELS)))
    found = watch_runs(a_plan, sums, [60] * 24, 1, 3.0)
    learning = (found.ratios[:, :, 0] == 0).all(axis=0)
    assert learning.tolist() == ([True] * 2 + [False] * 6) * 3
    moved = sums.copy()
    moved[:, 20:, 0] += 60.0
    assert watch_runs(a_plan, moved, [60] * 24, 1, 3.0).alarms[:, 20:, 0].any(axis=1).all()


# ------------------------------------------------------------------ what changed
def test_an_alarm_names_the_bins_that_moved_and_their_direction():
    a_plan, rng = plan(reference_windows=3), np.random.default_rng(4)
    names, state = tuple(f"d{number}" for number in range(200)), begin(plan())
    for window in range(6):
        total = 40.0 + 4.0 * rng.standard_normal(width(CHANNELS))
        if window >= 4:
            total[:3] += [80.0, -40.0, -40.0]
        state, result = observe(a_plan, state, WindowSum(window, total, names, 1, 4.0))
    (alarm, *_) = result.alarms
    assert alarm.channel == "predicted_class"
    assert {change.bin: np.sign(change.change) for change in alarm.moved} == {"no": 1, "yes": -1, "maybe": -1}
    quiet = next(each for each in result.channels if each.channel == "flags") if len(result.channels) > 3 else None
    assert quiet is None or not quiet.changes[0].sure


def test_the_intervals_of_all_bins_hold_together_as_often_as_stated():
    """Devices alike, one row each: the null is exact but for one standard error that is added: 0.95 or a bit more."""
    channels = chosen_channels(SCHEMA, ["confidence"])
    a_plan = MonitorPlan(channels, Unit.DEVICE, 4, 10, 0.05, 0.2, 0.3)
    rng, names, held, runs = np.random.default_rng(6), tuple(f"d{number}" for number in range(300)), 0, 300
    before, after = np.full(6, 1 / 6), np.array([0.05, 0.1, 0.15, 0.2, 0.2, 0.3])
    for _ in range(runs):
        state = begin(a_plan)
        for window in range(8):
            mix = before if window < 4 else after
            total = rng.multinomial(300, mix) + 6.0 * rng.standard_normal(6)
            state, result = observe(a_plan, state, WindowSum(window, total, names, 1, 6.0))
        truth = {f"bin {place + 1} of 6": after[place] - before[place] for place in range(6)}
        held += all(change.low <= truth[change.bin] <= change.high for change in result.channels[0].changes)
    assert 0.92 <= held / runs <= 0.995
