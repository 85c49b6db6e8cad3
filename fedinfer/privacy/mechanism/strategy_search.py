"""Search for the Toeplitz strategy with the least noise in a model at equal epsilon: L-BFGS with exact gradients.

Noise that a round adds is all there in later rounds where nothing pulls the weights back, and a part r < 1 of it per
round where the loss does. So the loss is the mean over `KEPT` of log ||A_r C^-1|| + log S: the largest deviation of the
noise in sums whose older terms fade by r, for noise of one unit of sensitivity. With r = 1 alone (prefix sums:
Choquette-Choo et al. 2023; McMahan et al. 2024, for minimum separation) strategies come out that are up to 40 % noisier
where there is a pull; that the best one depends on it is in Choquette-Choo et al. 2024, *Correlated noise provably
beats independent noise for differentially private learning*. With c(x) the power series of the first column of C, the
last row of A_r C^-1 is a(x) = 1 / ((1 - r x) c(x)), so da/dc_j = -x^j a(x) / c(x).

Both families stay within the theorem on sensitivities: coefficients start with 1, fall, and are not negative.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
MOST_STEPS = 500
KEPT = (1.0, 0.95)
"""Parts of an error that are left a round later, for which a strategy is chosen."""


def search_bands(rounds: int, separation: int, most: int) -> tuple[float, ...]:
    """The best falling coefficients with as many bands as rounds lie between two participations.

    More bands bring nothing: then the columns of two participations would share rows (Choquette-Choo et al. 2023).

    Args:
        rounds: T >= 1.
        separation: b >= 1.
        most: participations of one unit, >= 1.

    Returns:
        (1, c_1, ...), min(b, T) numbers.
    """
    bands = min(separation, rounds)
    if bands == 1:
        return (1.0,)
    ratios = 1 - 0.5 / np.arange(1, bands)  # of the square root of the prefix sum

    def unfold(x: Floats) -> tuple[Floats, Callable[[Floats], Floats]]:
        kept = _logistic(x)
        column = np.concatenate([[1.0], np.cumprod(kept)])

        def back(slope: Floats) -> Floats:
            rest: Floats = np.cumsum((slope[1:bands] * column[1:])[::-1])[::-1]
            return rest * (1 - kept)

        return _padded(column, rounds), back

    found = _minimize(unfold, np.log(ratios / (1 - ratios)), separation, most)
    return (1.0, *np.cumprod(_logistic(found)).tolist())


def search_buffers(rounds: int, separation: int, most: int, count: int) -> tuple[tuple[float, float], ...]:
    """The best buffered linear Toeplitz strategy, c_k = sum_i w_i t_i^(k-1) for k >= 1 (Dvijotham et al. 2024).

    Args:
        rounds: T >= 1.
        separation: b >= 1.
        most: participations of one unit, >= 1.
        count: buffers, >= 1.

    Returns:
        Pairs (decay t_i in (0, 1), weight w_i > 0), the weights below 1 together.
    """
    lags = np.arange(max(rounds - 1, 1), dtype=np.float64)

    def unfold(x: Floats) -> tuple[Floats, Callable[[Floats], Floats]]:
        decays, weights = _buffers(x)
        powers = decays[:, None] ** lags
        column = np.concatenate([[1.0], weights @ powers])[:rounds]

        def back(slope: Floats) -> Floats:
            after = np.concatenate([slope[1:], np.zeros(len(lags) - len(slope) + 1)])
            by_weight = powers @ after
            falls = np.concatenate([np.zeros((count, 1)), lags[1:] * powers[:, :-1]], axis=1)  # d t^k / d t
            by_decay = weights * (falls @ after)
            mixed = weights * (by_weight - float(weights @ by_weight))
            return np.concatenate([by_decay * decays * (1 - decays), mixed])

        return column, back

    reach = min(separation, rounds) + 1.0
    decays = 1 - reach ** -(np.arange(1, count + 1) / count)
    start = np.concatenate([np.log(decays / (1 - decays)), np.zeros(count) - np.log(count)])
    decays, weights = _buffers(_minimize(unfold, start, separation, most))
    return tuple(zip(decays.tolist(), weights.tolist(), strict=True))


def _buffers(x: Floats) -> tuple[Floats, Floats]:
    """Decays in (0, 1), and positive weights whose sum is below 1."""
    half = len(x) // 2
    raised = np.exp(x[half:])
    return _logistic(x[:half]), raised / (1 + raised.sum())


def _logistic(x: Floats) -> Floats:
    kept: Floats = 1 / (1 + np.exp(-x))
    return kept


def _padded(column: Floats, rounds: int) -> Floats:
    return np.concatenate([column, np.zeros(rounds - len(column))])


def _minimize(
    unfold: Callable[[Floats], tuple[Floats, Callable[[Floats], Floats]]], start: Floats, separation: int, most: int
) -> Floats:
    from scipy.optimize import minimize  # a device computes charges without it

    def loss(x: Floats) -> tuple[float, Floats]:
        column, back = unfold(x)
        value, slope = loss_of(column, separation, most)
        return value, back(slope)

    bounds = [(-12.0, 12.0)] * len(start)  # decays stay below 1 - 6e-6, so that powers do not round to 1
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": MOST_STEPS})
    best: Floats = found.x
    return best


def loss_of(column: Floats, separation: int, most: int) -> tuple[float, Floats]:
    """The loss of a strategy, and its slope in every coefficient.

    Args:
        column: c_0, ..., c_(T-1), (T,).
        separation: b >= 1.
        most: participations of one unit, >= 1.

    Returns:
        Mean over `KEPT` of the log of the largest deviation, and (T,).
    """
    from scipy.signal import fftconvolve, lfilter

    rounds = len(column)
    impulse = np.zeros(rounds)
    impulse[0] = 1.0
    inverse = lfilter([1.0], column, impulse)
    total = np.zeros(rounds)
    for begin in range(0, separation * most, separation):
        total[begin:] += column[: rounds - begin]
    squared = float(total @ total)
    loss, slope = 0.5 * float(np.log(squared)), np.zeros(rounds)
    for begin in range(0, separation * most, separation):
        slope[: rounds - begin] += total[begin:] / squared
    for kept in KEPT:
        row = lfilter([1.0], [1.0, -kept], inverse)
        error = float(row @ row)
        moved = fftconvolve(row, inverse)[:rounds]
        slope -= fftconvolve(row, moved[::-1])[rounds - 1 :] / error / len(KEPT)
        loss += 0.5 * float(np.log(error)) / len(KEPT)
    return loss, slope
