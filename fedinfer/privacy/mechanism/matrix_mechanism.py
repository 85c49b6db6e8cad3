"""Correlated noise for many rounds without sampling amplification: the matrix mechanism with a Toeplitz factor.

The server releases sums G_t of clipped vectors for t = 0, 1, ..., and training uses their prefix sums A G. With A = B C
it releases A G + B Z, that is G_t + (C^-1 Z)_t in round t: noise of a round cancels part of the noise of earlier ones
(Kairouz et al. 2021, DP-FTRL; Choquette-Choo et al. 2023, banded; Kalinin and Lampert 2024, square root; Dvijotham et
al. 2024 and McMahan et al. 2024, buffered linear Toeplitz). Trust `central` only: one party has to remember the noise.

Privacy of all rounds together is that of ONE Gaussian mechanism on C G, also when later rounds depend on earlier ones
(Denisov et al. 2022, Theorem 2.1). Its sensitivity depends on how often a unit takes part: at most
`participations` times, at least `separation` rounds apart. Whoever chooses cohorts must keep that: see `Participation`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import assert_never

import numpy as np
import numpy.typing as npt

from fedinfer.config import Correlation
from fedinfer.errors import ConfigError, Misbehaviour
from fedinfer.privacy.accounting.events import GaussianEvent
from fedinfer.privacy.mechanism.noise import NoiseStream, gaussian
from fedinfer.privacy.mechanism.strategy_search import KEPT, search_bands, search_buffers

Floats = npt.NDArray[np.float64]
MOST_BUFFERS = 4
"""More bring less than one part in a thousand, for 2,000 rounds too."""


@dataclass(frozen=True, slots=True)
class Participation:
    """How often one unit may take part.

    Args:
        rounds: T, number of rounds.
        limit: most rounds that one unit takes part in, 1..T.
        separation: least difference between the numbers of two rounds that a unit takes part in, >= 1.
    """

    rounds: int
    limit: int
    separation: int

    def __post_init__(self) -> None:
        if not (1 <= self.limit <= self.rounds and self.separation >= 1):
            raise ConfigError(f"{self.limit} participations in {self.rounds} rounds, {self.separation} apart")

    @property
    def most(self) -> int:
        """Participations that actually fit."""
        return min(self.limit, 1 + (self.rounds - 1) // self.separation)

    def check(self, taken: Sequence[int], wanted: int) -> None:
        """Refuse a round that would break the pattern.

        Args:
            taken: rounds the unit took part in before, ascending.
            wanted: the round it is asked for now.

        Raises:
            Misbehaviour: too many participations, or too close to the last one.
        """
        if len(taken) >= self.limit:
            raise Misbehaviour(f"round {wanted} would be participation {len(taken) + 1}, limit {self.limit}")
        if not 0 <= wanted < self.rounds or (taken and wanted - taken[-1] < self.separation):
            raise Misbehaviour(f"round {wanted} after {list(taken[-1:])}: {self.separation} rounds apart were promised")


@dataclass(frozen=True, slots=True)
class Factorization:
    """A Toeplitz strategy matrix C and the pattern it is used under.

    Args:
        coefficients: c_0 = 1, c_1, ..., not increasing, not negative: the first column of C.
        participation: see there.
        buffers: (decay t_i, weight w_i) of a buffered linear strategy, whose coefficients are sum_i w_i t_i^(k-1), all
            rounds of them; it remembers one vector per buffer. Empty: one per band.
    """

    coefficients: tuple[float, ...]
    participation: Participation
    buffers: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        c = np.array(self.coefficients)
        if c.size == 0 or c[0] != 1 or not ((c >= 0).all() and (np.diff(c) <= 0).all()):  # NaN is neither
            raise ConfigError("coefficients must start with 1, fall, and not be negative")
        if self.buffers and self.coefficients != _buffered_column(self.buffers, self.participation.rounds):
            raise ConfigError("coefficients are not those of the buffers: noise and charge would differ")

    @property
    def kind(self) -> Correlation:
        """What the scenario calls it."""
        return Correlation.BLT if self.buffers else Correlation.BANDED

    @property
    def remembered(self) -> int:
        """Vectors of noise that the server keeps from round to round."""
        return len(self.buffers) or len(self.coefficients) - 1

    @property
    def sensitivity(self) -> float:
        """L2 sensitivity of C G for vectors of norm 1.

        The norm of the sum of the columns 0, b, 2b, ... (as many as participations): for falling, non-negative
        coefficients no allowed pattern, and no choice of vectors, gives more (Kalinin and Lampert 2024, Theorem 2).
        """
        return math.sqrt(_squared_sensitivities(self)[-1])

    def charge(self, noise_multiplier: float, scheduled: int) -> GaussianEvent:
        """What a unit pays for taking part in one cycle of the participation schedule.

        Cycle k is the rounds k b .. k b + b - 1, b the separation; a unit takes part in each cycle at most once. The
        charge is a Gaussian mechanism with noise multiplier z / sqrt(S(k + 1)^2 - S(k)^2). Gaussian mechanisms compose
        exactly, 1/z^2 adds up (Dong, Roth and Su 2022, Corollary 3.3), so all cycles together cost `event`. The
        increment is about whole columns of C: it pays for everything that later rounds release about the contribution
        of this one, and nothing is due when a unit stays away later, or when later rounds never come.

        Charges cover what every allowed pattern costs. Let a unit take part in rounds p_1 < p_2 < ..., at least b
        apart, so in cycles k_i = floor(p_i / b) with k_i < k_(i+1), hence k_i >= i - 1. With A(l, n) = sum of c_m
        c_(m+l) over m < n, columns p < q of C have the inner product A(q - p, T - q). It is not negative, falls with l
        and grows with n, because c falls and is not negative. Whatever its vectors of norm <= 1 are, and whatever they
        depend on, the unit moves C G by at most, squared,

            sum_i [A(0, T - p_i) + 2 sum_(j<i) A(p_i - p_j, T - p_i)]
            <= sum_i [A(0, T - k_i b) + 2 sum_(l=1..k_i) A(l b, T - k_i b)],

        since p_i >= k_i b, p_i - p_j >= (i - j) b, and i - 1 <= k_i: terms only grow, and there are more of them. The
        bracket is S(k_i + 1)^2 - S(k_i)^2: the charge of cycle k_i.

        Args:
            noise_multiplier: z > 0, standard deviation of the fresh noise Z over the clipping norm.
            scheduled: k, the cycle, counted from 0.

        Raises:
            Misbehaviour: the schedule has no such cycle.
            ConfigError: the noise multiplier is not positive.
        """
        if not 0 <= scheduled < self.participation.most:
            raise Misbehaviour(f"cycle {scheduled} of {self.participation.most}")
        squares = _squared_sensitivities(self)
        return GaussianEvent(noise_multiplier / math.sqrt(squares[scheduled + 1] - squares[scheduled]))

    def event(self, noise_multiplier: float) -> GaussianEvent:
        """All rounds together, when fresh noise Z has standard deviation noise_multiplier * clipping norm.

        Args:
            noise_multiplier: z > 0, standard deviation of the fresh noise Z over the clipping norm.

        Raises:
            ConfigError: the noise multiplier is not positive.
        """
        return GaussianEvent(noise_multiplier / self.sensitivity)

    def spread(self) -> float:
        """Largest standard deviation of the noise in a prefix sum over that of independent noise with the same z."""
        return self.prefix_error() / self.sensitivity / math.sqrt(self.participation.rounds)

    def prefix_error(self) -> float:
        """`error` where nothing fades: of a sum of all rounds."""
        return self.error(1.0)

    def error(self, kept: float) -> float:
        """Largest standard deviation of the noise in a sum over rounds, for one unit of epsilon-equivalent noise.

        Relative to sensitivity: of a plain sum independent noise has sqrt(rounds * participations). Smaller is better.

        Args:
            kept: part of a term that is left one round later, in [0, 1].
        """
        rounds = self.participation.rounds
        column = np.array(self.coefficients[:rounds])
        inverse = np.zeros(rounds)  # first column of C^-1
        inverse[0] = 1.0
        for t in range(1, rounds):
            reach = min(t, len(column) - 1)
            inverse[t] = -np.dot(column[1 : reach + 1], inverse[t - 1 :: -1][:reach])
        row = inverse
        for t in range(1, rounds):
            row[t] += kept * row[t - 1]
        return float(np.linalg.norm(row)) * self.sensitivity

    def loss(self) -> float:
        """What strategies are compared by: the mean of log `error` over models that pull back and that do not."""
        return float(np.mean([math.log(self.error(kept)) for kept in KEPT]))


@lru_cache(maxsize=64)
def _squared_sensitivities(factorization: Factorization) -> tuple[float, ...]:
    """S(0)^2, S(1)^2, ..., S(most)^2: squared norms of the sums of the first columns 0, b, 2b, ..."""
    rounds, step = factorization.participation.rounds, factorization.participation.separation
    total, squares = np.zeros(rounds), [0.0]
    for start in range(0, step * factorization.participation.most, step):
        part = np.array(factorization.coefficients[: rounds - start])
        total[start : start + part.size] += part
        squares.append(float(total @ total))
    return tuple(squares)


def square_root_coefficients(bands: int) -> tuple[float, ...]:
    """First column of the square root of the prefix-sum matrix: c_k = c_(k-1) (2k-1) / (2k), the first `bands` of them.

    Fichtenberger, Henzinger and Upadhyay 2023; cut off to a band as in Kalinin and Lampert 2024.

    Args:
        bands: >= 1; 1 is independent noise.

    Returns:
        (c_0 = 1, c_1, ...), falling.

    Raises:
        ConfigError: fewer than one band.
    """
    if bands < 1:
        raise ConfigError(f"at least one band is needed, got {bands}")
    coefficients = [1.0]
    for k in range(1, bands):
        coefficients.append(coefficients[-1] * (2 * k - 1) / (2 * k))
    return tuple(coefficients)


def _buffered_column(buffers: tuple[tuple[float, float], ...], rounds: int) -> tuple[float, ...]:
    """(1, sum_i w_i, sum_i w_i t_i, ...), one number per round."""
    decays, weights = np.array(buffers).T
    lags = np.arange(rounds - 1, dtype=np.float64)
    return (1.0, *(weights @ decays[:, None] ** lags).tolist())


def buffered_linear(buffers: tuple[tuple[float, float], ...], participation: Participation) -> Factorization:
    """The strategy of some buffers.

    Args:
        buffers: (decay in [0, 1), weight >= 0), the weights at most 1 together.
        participation: how often a unit may take part.

    Raises:
        ConfigError: its coefficients do not fall, or are negative.
    """
    return Factorization(_buffered_column(buffers, participation.rounds), participation, buffers)


@lru_cache(maxsize=64)
def factorize(participation: Participation, correlation: Correlation = Correlation.BANDED) -> Factorization:
    """The strategy of a family with the least `loss` for a pattern.

    `banded`: square roots cut off after 1, 2, 4, ... bands, and what a search finds for `separation` bands. One band is
    independent noise, so the result is never worse than that. `blt`: one to four buffers.

    Args:
        participation: how often a unit may take part.
        correlation: the family.

    Returns:
        The same object for equal patterns.

    Raises:
        ConfigError: `none` is no family.
    """
    rounds, separation, most = participation.rounds, participation.separation, participation.most
    match correlation:
        case Correlation.BANDED:
            columns = [square_root_coefficients(2**i) for i in range(rounds.bit_length())]
            columns.append(search_bands(rounds, separation, most))
            tried = [Factorization(column, participation) for column in columns]
        case Correlation.BLT:
            searches = (search_buffers(rounds, separation, most, count) for count in range(1, MOST_BUFFERS + 1))
            tried = [buffered_linear(buffers, participation) for buffers in searches]
        case Correlation.NONE:
            raise ConfigError("independent noise has no strategy")
        case _:
            assert_never(correlation)
    return min(tried, key=Factorization.loss)


@dataclass(frozen=True, slots=True)
class CorrelatedNoise:
    """What the server must remember between rounds, in secret: the noise it added in the last rounds.

    Args:
        round: number of the next round.
        recent: float64, zeros before the first round. Banded: noise of the last rounds, newest first, (bands - 1, d).
            Buffered: sum_j t_i^(j-1) w_(t-j) for each buffer i, (buffers, d).
    """

    round: int
    recent: Floats = field(repr=False)


def start_noise(factorization: Factorization, dimension: int) -> CorrelatedNoise:
    """State before round 0.

    Args:
        factorization: of the run.
        dimension: d of the vectors, with what adaptive clipping appends.
    """
    return CorrelatedNoise(0, np.zeros((factorization.remembered, dimension)))


def next_noise(
    state: CorrelatedNoise, factorization: Factorization, std: float, stream: NoiseStream
) -> tuple[Floats, CorrelatedNoise]:
    """Noise of the next round, and the state after it.

    Solves C W = Z row by row: w_t = z_t - c_1 w_(t-1) - c_2 w_(t-2) - ... With buffers s_i that is w_t = z_t - sum_i
    w_i s_i, and each becomes t_i s_i + w_t (Dvijotham et al. 2024).

    Args:
        state: from `start_noise` or the round before; never use one twice with different data.
        factorization: as at the start.
        std: standard deviation of z_t: noise multiplier times clipping norm.
        stream: source of words; a `SecureStream` in a real deployment.

    Returns:
        Noise w_t, (d,) float64, and the next state; the state given is not changed.

    Raises:
        ConfigError: when all rounds are over.
    """
    if state.round >= factorization.participation.rounds:
        raise ConfigError(f"all {factorization.participation.rounds} rounds have had their noise")
    fresh = gaussian(std, (state.recent.shape[1],), stream)
    if factorization.buffers:
        decays, weights = np.array(factorization.buffers).T
        made: Floats = fresh - weights @ state.recent
        return made, CorrelatedNoise(state.round + 1, decays[:, None] * state.recent + made)
    noise: Floats = fresh - np.array(factorization.coefficients[1:]) @ state.recent
    recent = np.concatenate([noise[None, :], state.recent])[: state.recent.shape[0]]
    return noise, CorrelatedNoise(state.round + 1, recent)
