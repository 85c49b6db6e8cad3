"""Many windows, one promise: a quiet run of `windows` windows alarms with probability at most `false_alarm_rate`.

MEWMA (Lowry et al. 1992) over the differences d_t of `statistics`, with the covariance carried along exactly:

    s_t = (1 - w) s_(t-1) + w d_t
    cov(s_t) = O_t + c_t^2 R0 + g_t^2 A'VA,    T_t = s_t' cov(s_t)^-1 s_t ~ chi2(df) at every t

O_t is the windows' own sampling and noise (independent between windows), c_t R0 the ONE reference error that all
windows share, g_t what a change of reporters may explain (unit `example` only, taken as the same in all windows). Sizes
and noise may differ from window to window. The threshold for max_t T_t is simulated under the null with that shared
error.

Without an end, the reference is renewed after every W watched windows and with it the run: periods are alike, and the
number N of watched windows to a false alarm has E[N] = E[min(T, W)] / P(T <= W), where T is the first alarm of a period
(Wald's equation for the number of periods and the windows in them).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fedinfer.drift.channels import Floats
from fedinfer.drift.statistics import quadratic_form
from fedinfer.errors import ConfigError
from fedinfer.system import simulation_rng

_SAMPLES = 2_000_000
_MOST_RUNS = 20_000
_LEAST_RUNS = 2_000
SHARED_STEP = 0.05


@dataclass(frozen=True, slots=True)
class Ewma:
    """Weighted mean of the differences so far and what is needed for its covariance.

    Args:
        mean: s_t, shape (..., df).
        own: O_t, shape (..., df, df); of bins, where only variances are wanted, (..., bins).
        reference: c_t in [0, 1].
        composition: g_t >= 0.
        windows: windows seen.
    """

    mean: Floats
    own: Floats
    reference: float = 0.0
    composition: float = 0.0
    windows: int = 0


def start(df: int) -> Ewma:
    """Nothing seen yet.

    Args:
        df: degrees of freedom of the channel, see `degrees_of_freedom`.
    """
    return Ewma(np.zeros(df), np.zeros((df, df)))


def advance(state: Ewma, weight: float, difference: Floats, own: Floats, composition: float) -> Ewma:
    """Take in one window.

    Args:
        state: before it.
        weight: w in (0, 1]; 0.2 for long runs and small shifts, 0.5 for short runs and large ones.
        difference: d_t, shape (df,).
        own: covariance of the window alone, shape (df, df).
        composition: standard deviation factor of a change of reporters, >= 0.

    Returns:
        The state after the window; the one given is not changed.
    """
    rest = 1.0 - weight
    return Ewma(
        mean=rest * state.mean + weight * difference,
        own=rest**2 * state.own + weight**2 * own,
        reference=rest * state.reference + weight,
        composition=rest * state.composition + weight * composition,
        windows=state.windows + 1,
    )


def statistic(state: Ewma, reference: Floats, one_unit: Floats) -> Floats:
    """T_t: the squared running mean in units of its covariance.

    Args:
        state: after the last window.
        reference: covariance of the reference rate, (..., df, df).
        one_unit: covariance of one unit's report, (..., df, df), both in contrast space.

    Returns:
        (...), >= 0; chi-square distributed with df degrees of freedom without drift.
    """
    covariance = state.own + state.reference**2 * reference + state.composition**2 * one_unit
    return quadratic_form(state.mean, covariance)


def threshold(df: int, windows: int, weight: float, shared: float, false_alarm_rate: float) -> float:
    """Level that max T_t over a quiet run exceeds with probability at most `false_alarm_rate`.

    Args:
        df: degrees of freedom, >= 1.
        windows: length of the run, >= 1.
        weight: w of the MEWMA in (0, 1].
        shared: share of one window's variance that is reference error, in [0, 1); rounded down to a step of 0.05, which
            is the safe side (independent windows reach higher).
        false_alarm_rate: in (0, 1).

    Returns:
        Threshold, simulated with a fixed seed; the Monte-Carlo error is taken on the safe side.

    Raises:
        ConfigError: when a value is out of range.
    """
    if not (0 < weight <= 1 and 0 < false_alarm_rate < 1 and 0 <= shared < 1 and windows >= 1 and df >= 1):
        raise ConfigError(
            f"no threshold for df {df}, {windows} windows, weight {weight}, shared {shared}, rate {false_alarm_rate}"
        )
    maxima = _quiet_maxima(df, windows, weight, int(_steps(np.array(shared))))
    runs = maxima.size
    # One standard error of the simulated rate is given away, so that the promise does not rest on a lucky simulation.
    error = math.sqrt(false_alarm_rate * (1 - false_alarm_rate) / runs)
    allowed = max(math.floor((false_alarm_rate - error) * runs), 0)
    return float(maxima[runs - 1 - allowed])


@lru_cache(maxsize=256)
def standing_threshold(df: int, windows: int, weight: float, shared: float, run_length: float) -> float:
    """Level at which a quiet watch without an end raises a false alarm every `run_length` watched windows on average.

    Args:
        df: degrees of freedom, >= 1.
        windows: W, watched windows after which the reference is renewed, >= 1.
        weight: w of the MEWMA in (0, 1].
        shared: as in `threshold`.
        run_length: E[N] > 1; so far beyond W that a simulated period hardly ever alarms, the level is the largest of
            the simulation.

    Returns:
        The least level whose simulated average run length reaches `run_length`.

    Raises:
        ConfigError: when a value is out of range.
    """
    if not (0 < weight <= 1 and run_length > 1 and 0 <= shared < 1 and windows >= 1 and df >= 1):
        raise ConfigError(
            f"no threshold for df {df}, {windows} windows, weight {weight}, shared {shared}, run length {run_length}"
        )
    reached = _quiet_paths(df, windows, weight, int(_steps(np.array(shared))))
    low, high = 0.0, float(reached[:, -1].max())
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if average_run_length(reached, middle) < run_length else (low, middle)
    return high


def average_run_length(reached: Floats, level: float) -> float:
    """E[N] of renewed periods, by Wald's equation.

    Args:
        reached: (periods, W), the largest statistic of a period so far.
        level: alarm above it.

    Returns:
        > 0; inf when no period alarms.
    """
    quiet = (reached <= level).mean(axis=0)
    if quiet[-1] == 1.0:
        return math.inf
    # E[min(T, W)] is the sum of P(T > t) for t = 0 to W - 1; nothing has alarmed before the first window.
    return float((1.0 + quiet[:-1].sum()) / (1.0 - quiet[-1]))


def rounded(shared: Floats) -> Floats:
    """Shares of the reference for which thresholds are simulated: the middle of their step.

    Args:
        shared: in [0, 1), any shape.
    """
    middle: Floats = (_steps(shared) + 0.5) * SHARED_STEP
    return middle


def _steps(shared: Floats) -> Floats:
    # Rounded down to a whole step: fewer thresholds to simulate, and the smaller share gives the higher threshold.
    steps: Floats = np.maximum(np.round(shared / SHARED_STEP - 0.5), 0.0)
    return steps


@lru_cache(maxsize=64)
def _quiet_maxima(df: int, windows: int, weight: float, shared_steps: int) -> Floats:
    """Sorted largest statistic of each simulated quiet run."""
    runs = min(max(_SAMPLES // (df * windows), _LEAST_RUNS), _MOST_RUNS)
    largest = np.zeros(runs)
    for value in _quiet_statistics(df, windows, weight, shared_steps, runs):
        np.maximum(largest, value, out=largest)
    largest.sort()
    return largest


@lru_cache(maxsize=8)
def _quiet_paths(df: int, windows: int, weight: float, shared_steps: int) -> Floats:
    """Largest statistic so far of each simulated quiet period, (periods, windows)."""
    values = [*_quiet_statistics(df, windows, weight, shared_steps, _MOST_RUNS)]
    return np.maximum.accumulate(np.stack(values, axis=1), axis=1)


def _quiet_statistics(df: int, windows: int, weight: float, shared_steps: int, runs: int) -> Iterator[Floats]:
    """The statistic of many quiet runs, window by window, each (runs,)."""
    rng = simulation_rng("drift threshold", df, windows, shared_steps)
    shared = shared_steps * SHARED_STEP
    # Every window of a run is compared with the same reference, so its error is drawn once per run.
    offset = math.sqrt(shared) * rng.standard_normal((runs, df))
    mean = np.zeros((runs, df))
    own = reference = 0.0
    for _ in range(windows):
        window = offset + math.sqrt(1.0 - shared) * rng.standard_normal((runs, df))
        mean = (1.0 - weight) * mean + weight * window
        own, reference = (1.0 - weight) ** 2 * own + weight**2, (1.0 - weight) * reference + weight
        variance = (1.0 - shared) * own + shared * reference**2
        yield np.einsum("rd,rd->r", mean, mean) / variance
