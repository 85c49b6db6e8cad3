"""From a list of events to the (epsilon, delta) that is proved for it, with everything a reader needs to judge it.

* Only continuous Gaussian noise, no sampling: the exact profile (called "pld": it is the privacy-loss distribution in
  closed form).
* Only continuous Gaussian noise, Poisson sampling: dp-accounting's PLD of the dominating pair, see `gaussian`.
* Skellam noise, alone or beside Gaussian noise: as Gaussian noise of the same variance, with a proved distance
  (`skellam_as_gaussian`) that is added to epsilon and taken from delta.
* Anything else (discrete Gaussian noise): Rényi bounds, see `rdp`.
* Releases that touch disjoint parts of the units: the worst part, see `parallel`.

The smaller of PLD and RDP is taken where both hold. Zero-out-one is accounted like add-or-remove-one: in both, one
neighbour has the unit's vector and the other has a zero in its place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np

from fedinfer.errors import ConfigError
from fedinfer.privacy.accounting.events import Event, GaussianEvent, NonPrivate, Plain, PoissonSampled, flatten
from fedinfer.privacy.accounting.gaussian import has_pld, pld_epsilon, profile_epsilon
from fedinfer.privacy.accounting.parallel import History, PlainHistory, worlds
from fedinfer.privacy.accounting.rdp import ORDERS, Curve, event_curve, to_epsilon, to_epsilon_as_of_2017
from fedinfer.privacy.accounting.skellam_as_gaussian import exchange
from fedinfer.types import Json, Relation, Sampling

Accountant: TypeAlias = Literal["pld", "rdp", "none"]

SAMPLER_DISTANCE = 2.0**-68
"""Statistical distance between all integer noise of one account and its exact law: 2^40 samples at 2^-108 each
(`fedinfer.privacy.mechanism.tables`). It is added to delta."""
_MAX_PLD_EPSILON = 60.0
"""Above this a privacy-loss distribution takes minutes to compute and protects nobody: the Rényi bound is reported."""


@dataclass(frozen=True, slots=True)
class Spent:
    """A proved bound on what was spent.

    Args:
        epsilon: may be infinite.
        delta: the delta it holds at.
        accountant: "pld", "rdp", or "none" when nothing was spent or a release was not private.
        relation: neighbouring relation.
        sampling: "poisson" when sampling amplification was used for some event, else "none".
    """

    epsilon: float
    delta: float
    accountant: Accountant
    relation: Relation
    sampling: str

    def to_json(self) -> Json:
        """All fields."""
        return {
            "epsilon": self.epsilon,
            "delta": self.delta,
            "accountant": self.accountant,
            "relation": str(self.relation),
            "sampling": self.sampling,
        }


def account(events: Sequence[Event], delta: float, relation: Relation) -> Spent:
    """The best proved bound for the composition of all events; cached by history.

    Args:
        events: what was done, in any order.
        delta: in (0, 1).
        relation: neighbouring relation.

    Raises:
        ConfigError: when delta is outside (0, 1).
    """
    return account_history(flatten(events), delta, relation)


@lru_cache(maxsize=16384)
def account_history(history: History, delta: float, relation: Relation) -> Spent:
    """`account` for a flattened history.

    Args:
        history: pairs (event, count >= 1) from `flatten`.
        delta: in (0, 1).
        relation: neighbouring relation.

    Returns:
        As `account`: epsilon is infinite when an event is `NonPrivate` or when no bound can be proved.

    Raises:
        ConfigError: when delta is outside (0, 1).
    """
    _check_delta(delta)
    seen = worlds(history)
    epsilon, accountant = max((_of_world(world, delta, relation) for world in seen), key=lambda found: found[0])
    sampled = any(_is_sampled(event) for world in seen for event, _ in world)
    return Spent(epsilon, delta, accountant, relation, str(Sampling.POISSON if sampled else Sampling.NONE))


def _of_world(history: PlainHistory, delta: float, relation: Relation) -> tuple[float, Accountant]:
    """Epsilon and accountant of events that all touch one unit."""
    if not history:
        return 0.0, "none"
    if any(isinstance(event, NonPrivate) for event, _ in history):
        return math.inf, "none"
    # Both are proved upper bounds for the same composition, so the smaller one is proved too.
    rdp = _rdp_of_world(history, delta, relation)
    pld = _pld_if_proved(history, delta, relation, rdp)
    return min(pld, rdp), "pld" if pld <= rdp else "rdp"


def rdp_epsilon(events: Sequence[Event], delta: float, relation: Relation) -> float:
    """A valid bound from Rényi divergences only: quick, numpy only; up to a third above `account`.

    Args:
        events: what was done.
        delta: in (0, 1).
        relation: neighbouring relation.

    Raises:
        ConfigError: when delta is outside (0, 1).
    """
    return rdp_history_epsilon(flatten(events), delta, relation)


@lru_cache(maxsize=65536)
def rdp_history_epsilon(history: History, delta: float, relation: Relation) -> float:
    """`rdp_epsilon` for a flattened history; cached by history.

    Args:
        history: pairs (event, count >= 1) from `flatten`.
        delta: in (0, 1).
        relation: neighbouring relation.

    Returns:
        Epsilon >= 0; infinite when an event is `NonPrivate` or delta is too small for the distance of the samplers.

    Raises:
        ConfigError: when delta is outside (0, 1).
    """
    _check_delta(delta)
    return max(_rdp_of_world(world, delta, relation) for world in worlds(history))


def epsilon_as_of_2017(events: Sequence[Event], delta: float, relation: Relation) -> float:
    """What the accounting of 2017 says of the same noise: to compare with figures in print, never to claim.

    Args:
        events: what was done.
        delta: in (0, 1).
        relation: neighbouring relation.

    Returns:
        Epsilon, never below that of `rdp_epsilon` for continuous noise.

    Raises:
        ConfigError: when delta is outside (0, 1).
    """
    _check_delta(delta)
    totals = (sum((n * event_curve(e, relation) for e, n in world), np.zeros(ORDERS.size)) for world in _worlds(events))
    return max((to_epsilon_as_of_2017(total, delta) for total in totals), default=0.0)


def _worlds(events: Sequence[Event]) -> tuple[PlainHistory, ...]:
    return tuple(world for world in worlds(flatten(events)) if world)


@lru_cache(maxsize=65536)
def _rdp_of_world(history: PlainHistory, delta: float, relation: Relation) -> float:
    if not history:
        return 0.0
    total = np.zeros(ORDERS.size)
    for event, count in history:
        total += count * event_curve(event, relation)
    if not np.isfinite(total).any():
        return math.inf
    # Continuous noise is not drawn from the integer tables, whose distance from the exact law costs delta.
    if all(_is_gaussian(event) for event, _ in history):
        return to_epsilon(total, delta)
    return _with_sampler_distance(total, delta)


def _with_sampler_distance(total: Curve, delta: float) -> float:
    """Real samplers are within t of the law: (epsilon, delta)-DP becomes (epsilon, delta + (1 + e^epsilon) t)-DP.

    The share of delta that this takes is about 1e-16 at epsilon 10; above epsilon 35 or so nothing is left, and the
    answer is infinity.
    """
    ceiling = to_epsilon(total, delta) + 0.01  # guess an epsilon, reserve delta for it, then see that the guess holds
    left = delta - (1 + math.exp(min(ceiling, 700.0))) * SAMPLER_DISTANCE
    epsilon = to_epsilon(total, left) if left > 0 else math.inf
    return epsilon if epsilon <= ceiling else math.inf


def _pld_if_proved(history: PlainHistory, delta: float, relation: Relation, rdp: float) -> float:
    if all(_is_gaussian(event) for event, _ in history):
        return _gaussian_pld(history, delta, relation, rdp)
    if rdp > _MAX_PLD_EPSILON:
        return math.inf
    found = without_skellam(history, delta, rdp)
    return math.inf if found is None else _gaussian_pld(found.history, found.delta, relation, rdp) + found.epsilon


@dataclass(frozen=True, slots=True)
class Exchanged:
    """A history of Gaussian noise that stands for one with Skellam noise, and what the exchange takes.

    Args:
        history: pairs (event, count) without Skellam noise.
        delta: what is left of delta, in (0, 1).
        epsilon: to be added to that of `history` at `delta`.
    """

    history: PlainHistory
    delta: float
    epsilon: float


def without_skellam(history: PlainHistory, delta: float, ceiling: float) -> Exchanged | None:
    """Gaussian noise for the Skellam noise of a history, see `skellam_as_gaussian`; None where nothing is proved.

    Args:
        history: pairs (event, count).
        delta: in (0, 1).
        ceiling: a proved bound on epsilon at delta. The result counts only where it is not larger.
    """
    log_tau = math.log(delta) - ceiling - math.log(1000)  # a thousandth of delta
    found = exchange(history, log_tau)
    if found is None or found.eta > ceiling:  # it would not be the smaller bound
        return None
    outside = (1 + math.exp(ceiling + found.eta)) * math.exp(log_tau) + (1 + math.exp(ceiling)) * SAMPLER_DISTANCE
    left = (delta - outside) * math.exp(-found.eta)
    return Exchanged(found.history, left, 2 * found.eta) if left > 0 else None


def _gaussian_pld(history: PlainHistory, delta: float, relation: Relation, rdp: float) -> float:
    if not any(_is_sampled(event) for event, _ in history):
        return profile_epsilon(history, delta, relation)
    return math.inf if rdp > _MAX_PLD_EPSILON or not has_pld() else pld_epsilon(history, delta, relation, rdp)


def _is_sampled(event: Plain) -> bool:
    return isinstance(event, PoissonSampled)


def _is_gaussian(event: Plain) -> bool:
    return isinstance(event.event if isinstance(event, PoissonSampled) else event, GaussianEvent)


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise ConfigError(f"delta {delta} is outside (0, 1)")
