"""What the watch over a fleet sees, how often it is wrong, and what it costs a device.

Every figure is made by the product's own test (`fedinfer.drift.runs` runs the monitor over many runs at once). Sums
carry Gaussian noise of the standard deviation that (epsilon, 1e-6) needs for ONE window (Balle and Wang 2018), times
the norm of the report. The last line is one JSON object.

    python benchmarks/drift.py [--runs 1000]
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence

import numpy as np
from scipy import signal, stats

from fedinfer.drift import Outputs, Sketch, chosen_channels, judge_window, named
from fedinfer.drift.channels import Channel, clip_norm
from fedinfer.drift.flags import LEVEL, LOCAL_WINDOWS
from fedinfer.drift.monitor import MonitorPlan
from fedinfer.drift.runs import watch_runs
from fedinfer.drift.statistics import NoisySum, quadratic_form, rate, rate_covariance, unit_covariance
from fedinfer.schema import Numeric, Schema
from fedinfer.types import Unit

NOISE = {4.0: 1.19, 1.0: 4.22, 0.25: 15.4}
"""Noise multiplier of one release by epsilon, delta 1e-6."""
COLUMNS, ROWS = 20, 20
SCHEMA = Schema(tuple(Numeric(f"x{number}", -4.0, 4.0) for number in range(COLUMNS)), "y", tuple("abcdefghij"))
REFERENCE = 5


def plan(channels: Sequence[Channel], windows: int, weight: float = 0.2, reference: int = REFERENCE) -> MonitorPlan:
    return MonitorPlan(tuple(channels), Unit.DEVICE, reference, windows, 0.05, 0.2, weight)


def differing_devices(
    bins: int, devices: int, windows: int, rng: np.random.Generator, alpha: float = 0.3, part: float = 0.9
) -> np.ndarray:
    """Sums of one fleet, (windows, bins): Dirichlet devices of which another arc of 90 % reports in every window.

    Rows inside a device are independent; their sum is drawn with its covariance (central limit theorem).
    """
    mixes = rng.dirichlet(np.full(bins, alpha), devices)
    count, twice = round(part * devices), np.concatenate([mixes, mixes])
    before = np.concatenate([np.zeros((1, bins)), np.cumsum(twice, axis=0)])
    first = rng.integers(devices, size=windows)
    spread = part * (np.diag(mixes.sum(axis=0)) - mixes.T @ mixes) / ROWS
    values, vectors = np.linalg.eigh(spread)
    draws = rng.standard_normal((windows, bins)) * np.sqrt(np.maximum(values, 0.0))
    return before[first + count] - before[first] + draws @ vectors.T


def false_alarms(devices: int, epsilon: float, runs: int, windows: int = 100, seed: int = 1) -> float:
    """Part of quiet runs with any alarm: class and confidence, noisy reference, reporters that change."""
    rng, channels = np.random.default_rng(seed), chosen_channels(SCHEMA, ())
    sigma = NOISE[epsilon] * clip_norm(channels)
    totals = np.stack(
        [
            np.concatenate(
                [differing_devices(channel.bins, devices, REFERENCE + windows, rng) for channel in channels], axis=1
            )
            for _ in range(runs)
        ]
    )
    totals += sigma * rng.standard_normal(totals.shape)
    found = watch_runs(plan(channels, windows), totals, [round(0.9 * devices)] * totals.shape[1], ROWS, sigma)
    return float((found.first_alarm() >= 0).mean())


def equal_devices_false_alarms(devices: int, epsilon: float, runs: int, windows: int = 100, seed: int = 2) -> float:
    """The same where the null is not conservative: one row per device, all devices alike."""
    rng, channels = np.random.default_rng(seed), chosen_channels(SCHEMA, ())
    sigma = NOISE[epsilon] * clip_norm(channels)
    size = (runs, REFERENCE + windows)
    totals = np.concatenate(
        [rng.multinomial(devices, np.full(channel.bins, 1 / channel.bins), size) for channel in channels], axis=2
    ) + sigma * rng.standard_normal((*size, sum(channel.bins for channel in channels)))
    found = watch_runs(plan(channels, windows), totals, [devices] * size[1], 1, sigma)
    return float((found.first_alarm() >= 0).mean())


def run_length(devices: int, epsilon: float, runs: int, promised: float = 200.0, period: int = 50) -> float:
    """Mean number of watched windows to a false alarm of a watch without an end, devices alike with one row each.

    The reference is renewed after every 50 watched windows, so a run of 10 periods is 10 draws of one: Wald's equation,
    E[N] = E[min(T, W)] / P(T <= W).
    """
    rng, channels = np.random.default_rng(8), chosen_channels(SCHEMA, ())
    sigma, windows = NOISE[epsilon] * clip_norm(channels), 10 * (REFERENCE + period)
    watch = MonitorPlan(channels, Unit.DEVICE, REFERENCE, period, 0.05, 0.2, 0.2, average_run_length=promised)
    size = (runs, windows)
    totals = np.concatenate(
        [rng.multinomial(devices, np.full(channel.bins, 1 / channel.bins), size) for channel in channels], axis=2
    ) + sigma * rng.standard_normal((*size, sum(channel.bins for channel in channels)))
    alarms = watch_runs(watch, totals, [devices] * windows, 1, sigma).alarms.any(axis=2)
    watched = alarms.reshape(-1, REFERENCE + period)[:, REFERENCE:]
    ended = watched.any(axis=1)
    return float(np.where(ended, watched.argmax(axis=1) + 1, period).sum() / max(ended.sum(), 1))


def shift_power(devices: int, epsilon: float, runs: int, shift: float = 0.3, seed: int = 3) -> float:
    """One window at level 0.01 against an exact reference: one ordered channel of ten bins, one row per device."""
    rng, sigma = np.random.default_rng(seed), NOISE[epsilon]
    channel = plan_channel(10)
    edges = np.r_[-np.inf, stats.norm.ppf(np.arange(1, 10) / 10), np.inf]
    moved = np.diff(stats.norm.cdf(edges - shift))
    totals = rng.multinomial(devices, moved, runs) + sigma * rng.standard_normal((runs, 10))
    observed, exact = NoisySum(totals, devices, sigma**2), NoisySum(np.full(10, 1e8), 1e9, 0.0)
    one_unit = unit_covariance(channel, exact.total, exact.size)
    difference = rate(channel, observed) - rate(channel, exact)
    return float((quadratic_form(difference, rate_covariance(one_unit, observed)) > stats.chi2.isf(0.01, 3)).mean())


def plan_channel(bins: int) -> Channel:
    from fedinfer.drift.channels import confidence

    return confidence(10, bins)


def flag_power(devices: int, epsilon: float, runs: int, part: float = 0.1, shift: float = 0.5, seed: int = 4) -> float:
    """A random tenth of the devices shifts by half a standard deviation: alarm of any channel within two windows.

    Every device compares 50 rows of five columns with its own first 200; class and confidence stay as they are.
    """
    rng, names = np.random.default_rng(seed), ["predicted_class", "confidence", "flags"]
    channels, rows, columns = chosen_channels(SCHEMA, names), 50, 5
    sigma = NOISE[epsilon] * clip_norm(channels)
    quiet, moved = (raised_rate(rows, columns, value, rng) for value in (0.0, shift))
    windows = LOCAL_WINDOWS + REFERENCE + 2
    flags = np.empty((runs, windows, 1))
    drifting = round(part * devices)
    for window in range(windows):
        rates = (moved, quiet) if window >= windows - 2 else (quiet, quiet)
        flags[:, window, 0] = rng.binomial(drifting, rates[0], runs) + rng.binomial(devices - drifting, rates[1], runs)
    flags *= channels[2].most
    still = [np.full((runs, windows, channel.bins), devices / channel.bins) for channel in channels[:2]]
    totals = np.concatenate([*still, flags], axis=2)
    totals += sigma * rng.standard_normal(totals.shape)
    found = watch_runs(plan(channels, 20), totals, [devices] * windows, rows, sigma)
    return float(found.alarms[:, -2:, 2].any(axis=1).mean())


def raised_rate(rows: int, columns: int, shift: float, rng: np.random.Generator, devices: int = 4000) -> float:
    """How often a device raises its flag: two samples of rows, every column by itself, the level shared."""
    channel = chosen_channels(SCHEMA, ["input:x0"])[0]
    edges = np.linspace(-4, 4, channel.bins + 1)[1:-1]
    edges = np.r_[-np.inf, edges, np.inf]
    raised = np.zeros(devices, np.bool_)
    for column in range(columns):
        centre = rng.normal(0, 0.5, (devices, 1))
        own = rows * LOCAL_WINDOWS
        old, new = (
            np.stack([rng.multinomial(count, mix) for mix in np.diff(stats.norm.cdf(edges - place), axis=1)])
            for count, place in ((own, centre), (rows, centre + (shift if column == 0 else 0.0)))
        )
        raised |= _raised(channel, old.astype(float), own, new.astype(float), rows, LEVEL / columns)
    return float(raised.mean())


def dependent_flags_false_alarms(
    devices: int, epsilon: float, runs: int, dependence: float = 0.8, seed: int = 8
) -> float:
    """Part of quiet runs of 40 windows in which `flags` alarms: rows of a device follow each other (AR(1)).

    Twenty rows per window of one column, devices of different means; what the devices' own test calls its level is
    wrong for such rows, so this fails unless the fleet learns how often flags go up.
    """
    rng, rows, windows = np.random.default_rng(seed), 20, 40
    channels = chosen_channels(SCHEMA, ["flags"])
    column = chosen_channels(SCHEMA, ["input:x0"])[0]
    sigma, many = NOISE[epsilon] * clip_norm(channels), LOCAL_WINDOWS + REFERENCE + windows
    totals = np.empty((runs, many, 1))
    for run in range(runs):
        steps = signal.lfilter(
            [math.sqrt(1 - dependence**2)], [1.0, -dependence], rng.normal(size=(devices, 50 + rows * many))
        )
        values = steps[:, 50:] + rng.normal(0, 0.5, (devices, 1))
        places = np.clip((values / 8 + 0.5) * column.bins, 0, column.bins - 1).astype(int).reshape(devices, many, rows)
        counts = np.stack([(places == place).sum(axis=2) for place in range(column.bins)], axis=2).astype(float)
        before = counts[:, :LOCAL_WINDOWS].sum(axis=1)
        for window in range(many):
            raised = _raised(column, before, rows * LOCAL_WINDOWS, counts[:, window], rows)
            totals[run, window, 0] = channels[0].most * raised.sum() * (window >= LOCAL_WINDOWS)
    totals += sigma * rng.standard_normal(totals.shape)
    found = watch_runs(plan(channels, windows), totals, [devices] * many, rows, sigma)
    return float((found.first_alarm() >= 0).mean())


def _raised(
    channel: Channel, old: np.ndarray, own: int, new: np.ndarray, rows: int, level: float = LEVEL
) -> np.ndarray:
    """`flags.judge_window` for many devices at once, one channel."""
    before, now = NoisySum(old, own, 0.0), NoisySum(new, rows, 0.0)
    one_row = unit_covariance(channel, before.total + now.total, own + rows)
    spread = rate_covariance(one_row, before) + rate_covariance(one_row, now)
    return quadratic_form(rate(channel, now) - rate(channel, before), spread) > stats.chi2.isf(level, 3)


def named_sensors(devices: int = 400, windows: int = 8, rows: int = 20, seed: int = 8) -> tuple[float, float]:
    """One of ten columns is stuck at the low end of its range: how often a device names it, and it alone, after two
    windows, and in which part of its windows a sound device names anything."""
    rng, channels = np.random.default_rng(seed), chosen_channels(SCHEMA, [f"input:x{column}" for column in range(10)])
    right = wrong = 0
    for broken in (True, False):
        for _ in range(devices):
            middle, reference = rng.normal(0, 0.5, COLUMNS), None
            for window in range(LOCAL_WINDOWS + (2 if broken else windows)):
                x = (middle + rng.standard_normal((rows, COLUMNS))).astype(np.float32)
                if broken and window >= LOCAL_WINDOWS:
                    x[:, 3] = -4.0
                outputs = Outputs(np.zeros(rows, np.int64), np.ones((rows, 1)), x)
                counts = [channel.count(outputs) for channel in channels]
                reference, _ = judge_window(channels, reference, 1, counts, rows)
                wrong += not broken and bool(named(channels, reference))
            right += broken and named(channels, reference) == ("input:x3",)
    return right / devices, wrong / (devices * windows)


def digits_power(devices: int, epsilon: float, runs: int, seed: int = 9) -> dict[str, float]:
    """One window of handwritten digits, one image per device: chance of an alarm by what was done to the images."""
    from scipy import ndimage
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    x, y = load_digits(return_X_y=True)
    model = LogisticRegression(C=0.05, max_iter=500).fit(x[:700], y[:700])
    images, truth = x[700:].reshape(-1, 8, 8), y[700:]
    changed = {
        "nothing": images,
        "blur": ndimage.gaussian_filter(images, (0, 0.7, 0.7)),
        "rotation": ndimage.rotate(images, 15, axes=(1, 2), reshape=False, order=1),
        "missing class": images[truth != 0],
    }
    channels, rng = chosen_channels(SCHEMA, ()), np.random.default_rng(seed)
    sigma = NOISE[epsilon] * clip_norm(channels)

    def mean_report(shown: np.ndarray) -> list[np.ndarray]:
        said = model.predict_proba(shown.reshape(-1, 64))
        outputs = Outputs(said.argmax(axis=1), said)
        sketch = Sketch(channels)
        sketch.add(outputs)
        return [counts / len(shown) for counts in sketch.histograms()]

    def drawn(part: np.ndarray) -> np.ndarray:
        return rng.multinomial(devices, part / part.sum(), runs)

    normal, power = mean_report(images), {}
    # One image per device fills one bin of each channel, so a report is cut from sqrt(2) to C.
    cut = clip_norm(channels) / math.sqrt(2.0)
    for name, shown in changed.items():
        mixes = [*[normal] * REFERENCE, mean_report(shown)]
        totals = cut * np.stack(
            [
                np.concatenate([rng.multinomial(devices, part / part.sum(), runs) for part in mix], axis=1)
                for mix in mixes
            ],
            axis=1,
        )
        totals += sigma * rng.standard_normal(totals.shape)
        found = watch_runs(plan(channels, 1), totals, [devices] * (REFERENCE + 1), 1, sigma)
        power[name] = float((found.first_alarm() >= 0).mean())
    return power


def missing_power(devices: int, epsilon: float, runs: int, part: float = 0.05, seed: int = 5) -> float:
    """A twentieth of one column's cells goes missing on every device: alarm of `faults` within two windows."""
    rng, names = np.random.default_rng(seed), ["predicted_class", "confidence", "faults"]
    channels = chosen_channels(SCHEMA, names)
    sigma, windows = NOISE[epsilon] * clip_norm(channels), REFERENCE + 2
    limit = math.sqrt(channels[2].clip_share)
    shares = np.minimum(rng.binomial(ROWS, part, (runs, 2, devices)) / ROWS, limit)
    totals = np.concatenate(
        [np.full((runs, windows, channel.bins), devices / channel.bins * (place < 2)) for place, channel in
         enumerate(channels)], axis=2,
    )  # fmt: skip
    totals[:, -2:, sum(channel.bins for channel in channels[:2])] += shares.sum(axis=2)
    totals += sigma * rng.standard_normal(totals.shape)
    found = watch_runs(plan(channels, 20), totals, [devices] * windows, ROWS, sigma)
    return float(found.alarms[:, -2:, 2].any(axis=1).mean())


def cut_off_false_alarms(devices: int, epsilon: float, runs: int, seed: int = 6) -> tuple[float, float]:
    """What is not offered: PSI above 0.25 and plain chi-square at 0.01 on noisy counts, per quiet window."""
    rng, sigma, p = np.random.default_rng(seed), NOISE[epsilon], np.full(10, 0.1)
    counts = rng.multinomial(devices, p, runs) + sigma * rng.standard_normal((runs, 10))
    shares = np.maximum(counts, 0.5) / np.maximum(counts, 0.5).sum(axis=1, keepdims=True)
    index = ((shares - p) * np.log(shares / p)).sum(axis=1)
    surprise = ((counts - devices * p) ** 2 / (devices * p)).sum(axis=1)
    return float((index > 0.25).mean()), float((surprise > stats.chi2.isf(0.01, 9)).mean())


def microseconds_per_sample(rows: int = 20_000, repeats: int = 5) -> float:
    """Counting one row into class, confidence, faults and histograms of 20 columns, in bulk: best of some passes."""
    names = ["predicted_class", "confidence", "faults", *(f"input:x{number}" for number in range(COLUMNS))]
    rng = np.random.default_rng(7)
    probabilities = rng.dirichlet(np.ones(10), rows)
    outputs = Outputs(probabilities.argmax(axis=1), probabilities, rng.normal(size=(rows, COLUMNS)).astype(np.float32))
    channels, best = chosen_channels(SCHEMA, names), math.inf
    for _ in range(repeats):
        sketch, start = Sketch(channels), time.perf_counter()
        sketch.add(outputs)
        sketch.report(Unit.DEVICE)
        best = min(best, (time.perf_counter() - start) / rows * 1e6)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000, help="simulated runs per figure")
    runs = parser.parse_args().runs
    print(f"quiet runs of 100 windows with any alarm, promised 0.05 ({runs} runs each):")
    quiet = {}
    for devices in (100, 1000):
        for epsilon in (0.25, 1.0):
            quiet[devices, epsilon] = false_alarms(devices, epsilon, runs)
            alike = equal_devices_false_alarms(devices, epsilon, runs)
            print(
                f"  n={devices} epsilon={epsilon} per window: devices that differ {quiet[devices, epsilon]:.3f}, "
                f"one row from devices that are alike {alike:.3f}"
            )
            quiet[devices, epsilon] = max(quiet[devices, epsilon], alike)
    for devices, epsilon in ((100, 0.25), (1000, 0.25), (1000, 1.0)):
        length = run_length(devices, epsilon, min(runs, 400))
        print(f"  without an end, promised one in 200: n={devices} epsilon={epsilon} per window, one in {length:.0f}")
    index, plain = cut_off_false_alarms(100, 1.0, 20 * runs)
    print(
        f"not offered, n=100 epsilon=1, per quiet window: PSI > 0.25 {index:.3f}, plain chi-square at 0.01 {plain:.3f}"
    )
    dependent = dependent_flags_false_alarms(300, 1.0, 60)
    print(f"flags of rows that follow each other, 40 quiet windows, n=300 epsilon=1: {dependent:.3f}")
    few = flag_power(1000, 1.0, runs, part=0.03, shift=-8.0)
    exact, untrue = named_sensors()
    print(
        f"a sensor stuck on 3 % of 1,000 devices, epsilon=1: flags alarm within two windows {few:.3f}; after two "
        f"windows the device names the column {exact:.3f}, a sound device names any in {untrue:.4f} of its windows"
    )
    digits = {}
    for devices in (200, 1000):
        digits[f"{devices} devices"] = {name: round(part, 3) for name, part in digits_power(devices, 1.0, runs).items()}
        told = ", ".join(f"{name} {part:.2f}" for name, part in digits[f"{devices} devices"].items())
        print(f"digits, one window, n={devices} epsilon=1: {told}")
    result = {
        "us_per_sample": round(microseconds_per_sample(), 3),
        "false_alarm_rate": max(quiet.values()),
        "power_300_eps1": shift_power(300, 1.0, 20 * runs),
        "power_1000_eps025": shift_power(1000, 0.25, 20 * runs),
        "flag_power": flag_power(1000, 1.0, runs),
        "flag_power_3_percent": few,
        "sensor_named": exact,
        "sensor_named_wrongly": untrue,
        "missing_power": missing_power(1000, 1.0, min(runs, 400)),
        "dependent_flags_false_alarms": dependent,
        "digits_power": digits,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
