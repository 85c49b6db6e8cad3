"""What it costs to run a private mechanism a random number of times and to release the best result alone.

Papernot and Steinke 2022, *Hyperparameter Tuning with Rényi Differential Privacy*: the number of runs K follows a
truncated negative binomial law (Definition 1), each run draws its setting at random, and Theorem 2 bounds the Rényi
divergence of the best result, model and score, by little more than that of one run. A fixed number of runs has no such
bound: its cost grows with the number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedinfer.errors import ConfigError
from fedinfer.privacy.accounting.accountant import SAMPLER_DISTANCE
from fedinfer.privacy.accounting.events import Event, flatten
from fedinfer.privacy.accounting.parallel import PlainHistory, worlds
from fedinfer.privacy.accounting.rdp import ORDERS, Curve, event_curve, to_epsilon
from fedinfer.types import Relation


@dataclass(frozen=True, slots=True)
class Repetitions:
    """Truncated negative binomial law of the number of runs, K >= 1 (Papernot and Steinke 2022, Definition 1).

    P[K = k] is proportional to (1 - gamma)^k times the product over l < k of (l + eta) / (l + 1).

    Args:
        eta: shape, > -1; 0 is the logarithmic law, 1 the geometric one. Smaller: less epsilon, longer tail.
        gamma: in (0, 1); smaller: more runs.
    """

    eta: float
    gamma: float

    def __post_init__(self) -> None:
        if not (self.eta > -1 and 0 < self.gamma < 1):
            raise ConfigError(f"repetitions: eta {self.eta} must be > -1 and gamma {self.gamma} in (0, 1)")

    @property
    def mean(self) -> float:
        """Expected number of runs."""
        if self.eta == 0:
            return (1 / self.gamma - 1) / math.log(1 / self.gamma)
        return self.eta * (1 - self.gamma) / (self.gamma * (1 - math.pow(self.gamma, self.eta)))

    def probability(self, runs: int) -> float:
        """Of exactly so many runs.

        Args:
            runs: >= 1.
        """
        if self.eta == 0:
            return (1 - self.gamma) ** runs / (runs * math.log(1 / self.gamma))
        places = np.arange(runs)
        product = float(np.prod((places + self.eta) / (places + 1)))
        return math.pow(1 - self.gamma, runs) / (math.pow(self.gamma, -self.eta) - 1) * product

    def draw(self, rng: np.random.Generator) -> int:
        """A number of runs. Whoever learns it, or the scores of runs that are not the best, learns more than the bound.

        Args:
            rng: the draw.
        """
        left, runs = float(rng.random()), 1
        chance = self.probability(1)
        while left >= chance > 0:
            left -= chance
            chance *= (1 - self.gamma) * (runs + self.eta) / (runs + 1)
            runs += 1
        return runs


def repetitions_of(mean: float, eta: float = 0.0) -> Repetitions:
    """The law with a wanted mean.

    Args:
        mean: expected number of runs, in (1, 1e6].
        eta: shape, > -1.

    Raises:
        ConfigError: the mean is outside.
    """
    if not 1 < mean <= 1e6:
        raise ConfigError(f"expected number of runs {mean:g}: must be above 1 and at most 1e6")
    low, high = -60.0, math.log1p(-1e-12)  # log gamma; the mean falls as gamma grows
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if Repetitions(eta, math.exp(middle)).mean > mean else (low, middle)
    return Repetitions(eta, math.exp(high))


def selection_epsilon(
    candidates: Sequence[Sequence[Event]], law: Repetitions, delta: float, relation: Relation
) -> float:
    """Epsilon of releasing the best of a random number of runs, each with a setting drawn at random.

    Args:
        candidates: for each setting everything that one run of it releases; at least one setting.
        law: of the number of runs.
        delta: in (0, 1).
        relation: neighbouring relation.

    Returns:
        Epsilon >= 0; infinite when a setting has no Rényi bound. It covers the best run's setting, models and score,
        when the score follows from what the run released and from public rows, and nothing else is released.

    Raises:
        ConfigError: no candidate, or delta is outside (0, 1).
    """
    if not candidates or not 0 < delta < 1:
        raise ConfigError(f"selection among {len(candidates)} settings at delta {delta}")
    # A run is a draw among mechanisms that is released with its result: its divergence is at most the largest one.
    worst = np.max([_curve(events, relation) for events in candidates], axis=0)
    if not np.isfinite(worst).any():
        return math.inf
    curve = selection_curve(worst, law)
    epsilon = to_epsilon(curve, delta)
    # Integer samplers are within SAMPLER_DISTANCE of their law in every run (see `accountant`).
    ceiling = epsilon + 0.01
    left = delta - (1 + math.exp(min(ceiling, 700.0))) * SAMPLER_DISTANCE * law.mean
    sure = to_epsilon(curve, left) if left > 0 else math.inf
    return sure if sure <= ceiling else math.inf


def selection_curve(one: Curve, law: Repetitions) -> Curve:
    """Theorem 2: the divergence of the best result, from that of one run.

    For every order a > 1 and any order b >= 1,

        e'(a) = e(a) + (1 + eta) (1 - 1/b) e(b) + (1 + eta) log(1/gamma) / b + log(E[K]) / (a - 1).

    Args:
        one: bounds for one run at ORDERS, nats.
        law: of the number of runs.

    Returns:
        Bounds at ORDERS, with the best b among ORDERS.
    """
    orders = ORDERS.astype(np.float64)
    extra = (1 + law.eta) * np.min((1 - 1 / orders) * one + math.log(1 / law.gamma) / orders)
    result: Curve = one + extra + math.log(law.mean) / (orders - 1)
    return result


def _curve(events: Sequence[Event], relation: Relation) -> Curve:
    """Of one run, whatever parts a unit is in: at every order the worst of its worlds (`parallel`)."""
    worst: Curve = np.max([_of_world(history, relation) for history in worlds(flatten(events))], axis=0)
    return worst


def _of_world(history: PlainHistory, relation: Relation) -> Curve:
    total = np.zeros(ORDERS.size)
    for event, count in history:
        total += count * event_curve(event, relation)
    return total
