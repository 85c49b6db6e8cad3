"""Correlated noise for many rounds without sampling amplification: the matrix mechanism with a banded Toeplitz factor.

The server releases sums G_t of clipped vectors for t = 0, 1, ..., and training uses their prefix sums A G. With A = B C
it releases A G + B Z, that is G_t + (C^-1 Z)_t in round t: noise of a round cancels part of the noise of earlier ones
(Kairouz et al. 2021, DP-FTRL; Choquette-Choo et al. 2023, banded; Kalinin and Lampert 2024, square root). Trust
`central` only: one party has to remember the noise.

Privacy of all rounds together is that of ONE Gaussian mechanism on C G, also when later rounds depend on earlier ones
(Denisov et al. 2022, Theorem 2.1). Its sensitivity depends on how often a unit takes part: at most
`participations` times, at least `separation` rounds apart. Whoever chooses cohorts must keep that: see `Participation`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from fedinfer.errors import ConfigError, Misbehaviour
from fedinfer.privacy.accounting.events import GaussianEvent
from fedinfer.privacy.mechanism.noise import NoiseStream, gaussian

Floats = npt.NDArray[np.float64]


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
    """A banded Toeplitz strategy matrix C and the pattern it is used under.

    Args:
        coefficients: c_0 = 1, c_1, ..., not increasing, not negative: the first column of C.
        participation: see there.
    """

    coefficients: tuple[float, ...]
    participation: Participation

    def __post_init__(self) -> None:
        c = np.array(self.coefficients)
        if c.size == 0 or c[0] != 1 or not ((c >= 0).all() and (np.diff(c) <= 0).all()):  # NaN is neither
            raise ConfigError("coefficients must start with 1, fall, and not be negative")

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
        """Largest standard deviation of the noise in a prefix sum, for one unit of epsilon-equivalent noise.

        Relative to sensitivity: independent noise has sqrt(rounds * participations). Smaller is better.
        """
        rounds = self.participation.rounds
        inverse = np.zeros(rounds)  # first column of C^-1
        inverse[0] = 1.0
        for t in range(1, rounds):
            reach = min(t, len(self.coefficients) - 1)
            inverse[t] = -np.dot(self.coefficients[1 : reach + 1], inverse[t - 1 :: -1][:reach])
        return float(np.linalg.norm(np.cumsum(inverse))) * self.sensitivity


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


@lru_cache(maxsize=64)
def factorize(participation: Participation) -> Factorization:
    """The number of bands with the least `prefix_error` for a pattern: powers of two, separation, and rounds are tried.

    One band is independent noise, so the result is never worse than that.

    Args:
        participation: how often a unit may take part.

    Returns:
        The same object for equal patterns.
    """
    # The error changes slowly with the number of bands, so powers of two miss little. `separation` is the most bands
    # for which the columns of two participations of a unit share no row of C (Choquette-Choo et al. 2023).
    sizes = {2**i for i in range(participation.rounds.bit_length())}
    sizes |= {min(participation.separation, participation.rounds), participation.rounds}
    tried = [Factorization(square_root_coefficients(bands), participation) for bands in sorted(sizes)]
    return min(tried, key=Factorization.prefix_error)


@dataclass(frozen=True, slots=True)
class CorrelatedNoise:
    """What the server must remember between rounds, in secret: the noise it added in the last rounds.

    Args:
        round: number of the next round.
        recent: (bands - 1, d) float64, newest first; zeros where there was no round yet.
    """

    round: int
    recent: Floats = field(repr=False)


def start_noise(factorization: Factorization, dimension: int) -> CorrelatedNoise:
    """State before round 0.

    Args:
        factorization: of the run.
        dimension: d of the vectors, with what adaptive clipping appends.
    """
    return CorrelatedNoise(0, np.zeros((len(factorization.coefficients) - 1, dimension)))


def next_noise(
    state: CorrelatedNoise, factorization: Factorization, std: float, stream: NoiseStream
) -> tuple[Floats, CorrelatedNoise]:
    """Noise of the next round, and the state after it.

    Solves C W = Z row by row: w_t = z_t - c_1 w_(t-1) - c_2 w_(t-2) - ...

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
    noise: Floats = fresh - np.array(factorization.coefficients[1:]) @ state.recent
    recent = np.concatenate([noise[None, :], state.recent])[: state.recent.shape[0]]
    return noise, CorrelatedNoise(state.round + 1, recent)
