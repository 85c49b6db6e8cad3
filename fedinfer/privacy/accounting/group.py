"""What the same releases cost k units together: the rows of one person, for instance.

"About k times epsilon" is not it: the same delta needs more, and k times epsilon goes with a far larger delta. Here it
is computed from the events, for k units that are blanked out at once (zero-out, equally add or remove):

* Not sampled: k vectors move a sum k times as far, so both norms grow by k. The exact Gaussian profile and the Rényi
  bounds of `rdp` hold with them.
* Gaussian, Poisson-sampled: a binomial number of the k units is drawn, and the law of the sum is a mixture of Gaussians
  moved by 0, 1, ..., k. The pair is tight (Ganesh 2024, *Tight group-level DP guarantees for DP-SGD with sampling via
  mixture of Gaussians mechanisms*, section 2; for vectors Choquette-Choo et al. 2024, *Privacy amplification for matrix
  mechanisms*, corollary 4.7); dp-accounting composes it.
* Skellam noise: as Gaussian noise of the same variance (`skellam_as_gaussian`), or, like other integer noise, the
  smaller of the unsampled Rényi bound and `_step_by_step`.
* In disjoint parts (`parallel`): the k units may be spread over the parts, so every way to spread them is accounted,
  j in one part and k - j in the other, and the worst counts. With more than one split, or more than two parts, all k
  are counted in every part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np

from fedinfer.errors import ConfigError
from fedinfer.privacy.accounting.accountant import (
    SAMPLER_DISTANCE,
    account_history,
    rdp_history_epsilon,
    without_skellam,
)
from fedinfer.privacy.accounting.events import (
    DiscreteGaussianEvent,
    Event,
    GaussianEvent,
    InPart,
    NonPrivate,
    Plain,
    PoissonSampled,
    Single,
    SkellamEvent,
    flatten,
)
from fedinfer.privacy.accounting.gaussian import gaussian_epsilon_of, has_pld
from fedinfer.privacy.accounting.parallel import History, splits_of
from fedinfer.privacy.accounting.rdp import ORDERS, Curve, noise_curve, to_epsilon
from fedinfer.privacy.accounting.sampled import mixture_distribution
from fedinfer.types import Relation

MOST_UNITS = 1000
_STEPS = (2.0**-13, 2.0**-5)
"""Finest and coarsest grid of privacy-loss values; any grid gives an upper bound."""
_MOST_PLD_EPSILON = 300.0
"""Above this a privacy-loss distribution takes minutes and protects nobody."""


def group_epsilon(events: Sequence[Event], delta: float, units: int) -> float:
    """A proved bound on epsilon for `units` units that are blanked out together, at the same delta.

    Args:
        events: what was done, in any order; norms are those of one unit.
        delta: in (0, 1).
        units: k, in [1, 1000]; 1 gives the epsilon of `account`.

    Returns:
        Epsilon >= 0; infinite when an event is `NonPrivate` or nothing can be proved.

    Raises:
        ConfigError: delta or units out of range.
    """
    if not 1 <= units <= MOST_UNITS:
        raise ConfigError(f"{units} rows: a group has 1 to {MOST_UNITS}")
    history = flatten(events)
    one = account_history(history, delta, Relation.ZERO_OUT).epsilon
    if units == 1 or not history or math.isinf(one):
        return one
    return _group_epsilon(history, delta, units)


@lru_cache(maxsize=256)
def _group_epsilon(history: History, delta: float, units: int) -> float:
    """The worst way to spread the units over parts; a way whose quick bound is no larger is not looked at closely."""
    chain = _step_by_step(history, delta, units)
    likely = 3 * units * account_history(history, delta, Relation.ZERO_OUT).epsilon
    worst = 0.0
    for spread in _spreads(history, units):
        quick = min(_rdp(spread, delta), chain)
        if quick > worst:
            worst = max(worst, min(quick, _pld(spread, delta, quick, likely)))
    return worst


Sized: TypeAlias = tuple[tuple[Plain, int, int], ...]
"""Events with how often they ran and how many of the group's units they touched, >= 1."""


def _spreads(history: History, units: int) -> list[Sized]:
    """All ways to spread units over the two parts of one split, everything in one part first."""
    names = sorted({event.name for event, _ in history if isinstance(event, InPart)})
    if len(splits_of(history)) > 1 or len(names) > 2:
        return [_sized(history, dict.fromkeys(names, units), units)]
    ways = [{names[0]: units}, {names[1]: units}] if len(names) == 2 else [{name: units for name in names}]
    if len(names) == 2:
        ways += [{names[0]: first, names[1]: units - first} for first in range(1, units)]
    return list(dict.fromkeys(_sized(history, way, units) for way in ways))


def _sized(history: History, way: Mapping[str, int], units: int) -> Sized:
    found = []
    for event, count in history:
        touched = way.get(event.name, 0) if isinstance(event, InPart) else units
        plain = event.event if isinstance(event, InPart) else event
        if touched:
            found.append((plain, count, touched))
    return tuple(found)  # type: ignore[arg-type]  # `flatten` leaves plain events in parts


def _rdp(spread: Sized, delta: float) -> float:
    curve = np.zeros(ORDERS.size)
    for event, count, units in spread:
        curve += count * _curve(event, units)
    left = delta if _all_gaussian(spread) else _without_samplers(curve, delta)
    return to_epsilon(curve, left) if left > 0 else math.inf


def _pld(spread: Sized, delta: float, bound: float, likely: float) -> float:
    near = min(bound, likely)
    if _all_gaussian(spread):
        return _gaussian_epsilon(spread, delta, near)
    # Unsampled noise that a group moves k times as far is noise for a unit of k times the norms.
    moved = tuple((_moved(event, units), count) for event, count, units in spread)
    found = without_skellam(moved, delta, bound) if bound <= _MOST_PLD_EPSILON else None
    if found is None:
        return math.inf
    gaussian = tuple(
        (event, count, units if isinstance(event, PoissonSampled) else 1)
        for (event, count), (_, _, units) in zip(found.history, spread, strict=True)
    )
    return _gaussian_epsilon(gaussian, found.delta, near) + found.epsilon


def _moved(event: Plain, units: int) -> Plain:
    match event:
        case GaussianEvent():
            return GaussianEvent(event.noise_multiplier / units)
        case SkellamEvent():
            return replace(event, l2=event.l2 * units, l1=event.l1 * units)
        case _:
            return event


def _without_samplers(curve: Curve, delta: float) -> float:
    """What is left of delta when the distance of the integer samplers from their law is paid for; see `accountant`."""
    ceiling = to_epsilon(curve, delta) + 0.01
    left = delta - (1 + math.exp(min(ceiling, 700.0))) * SAMPLER_DISTANCE
    return left if left > 0 and to_epsilon(curve, left) <= ceiling else 0.0


def _curve(event: Plain, units: int) -> Curve:
    """Bounds for k units at ORDERS; sampling never hurts (joint convexity), so sampled noise has those of its noise."""
    if isinstance(event, NonPrivate):
        return np.full(ORDERS.size, np.inf)
    return noise_curve(event.event if isinstance(event, PoissonSampled) else event, ORDERS, float(units))


def _step_by_step(history: History, delta: float, units: int) -> float:
    """Group privacy from the bound for one unit: (e, d) becomes (k e, d (exp(k e) - 1) / (exp(e) - 1)).

    From P(S) <= exp(e) Q(S) + d along a chain of k neighbours (Vadhan 2017, *The complexity of differential privacy*,
    Lemma 2.2, with the geometric sum kept). Which d is best is searched: each one gives a valid bound.
    """
    best = math.inf
    for smaller in np.arange(0.0, 40.0, 0.5):
        one = rdp_history_epsilon(history, delta * math.exp(-smaller), Relation.ZERO_OUT)
        if math.isinf(one):
            break
        if _growth(one, units) <= smaller:
            best = min(best, units * one)
    return best


def _growth(one: float, units: int) -> float:
    """Log of (exp(k e) - 1) / (exp(e) - 1), which is log k at e = 0: without epsilon the deltas add up all the same."""
    if one == 0:
        return math.log(units)
    return (units - 1) * one + math.log(-math.expm1(-units * one)) - math.log(-math.expm1(-one))


def _gaussian_epsilon(spread: Sized, delta: float, near: float) -> float:
    sampled = [each for each in spread if isinstance(each[0], PoissonSampled)]
    precision = sum(n * (k / event.noise_multiplier) ** 2 for event, n, k in spread if isinstance(event, GaussianEvent))
    if not sampled:
        return gaussian_epsilon_of(math.sqrt(precision), delta)
    if not has_pld() or near > _MOST_PLD_EPSILON:
        return math.inf
    step = min(_STEPS[1], max(_STEPS[0], 2.0 ** math.floor(math.log2(max(near, 1e-9) / 500))))
    total = _mixture(1 / math.sqrt(precision), 1.0, 1, step) if precision else None
    for event, count, units in sampled:
        one = _mixture(event.event.noise_multiplier, event.rate, units, step)  # type: ignore[union-attr]  # all are Gaussian
        part = one if count == 1 else one.self_compose(count)
        total = part if total is None else total.compose(part)
    return float(total.get_epsilon_for_delta(delta)) if total is not None else 0.0


@lru_cache(maxsize=64)
def _mixture(noise_multiplier: float, rate: float, units: int, step: float) -> Any:
    from dp_accounting.pld import privacy_loss_distribution

    if rate == 1:
        return privacy_loss_distribution.from_gaussian_mechanism(
            noise_multiplier, sensitivity=units, value_discretization_interval=step
        )
    chances = [math.comb(units, j) * rate**j * (1 - rate) ** (units - j) for j in range(units + 1)]
    return mixture_distribution(noise_multiplier, chances, step)


def _is_gaussian(event: Plain) -> bool:
    return isinstance(event.event if isinstance(event, PoissonSampled) else event, GaussianEvent)


def _all_gaussian(spread: Sized) -> bool:
    return all(_is_gaussian(event) for event, _, _ in spread)


def with_missing_shares(events: Sequence[Event], counted: int, missing: int) -> tuple[Event, ...]:
    """The same releases when fewer honest devices brought their share of the noise than the plan counted on.

    Args:
        events: with integer noise of `counted` shares, all of one size; Gaussian noise, which no share makes, stays.
        counted: honest contributors that the plan guarantees, >= 1.
        missing: of them, >= 0.

    Returns:
        Events for `account`; `NonPrivate` where no share is left.

    Raises:
        ConfigError: counts out of range.
    """
    if counted < 1 or missing < 0:
        raise ConfigError(f"{missing} of {counted} shares missing")
    left = max(counted - missing, 0)
    return tuple(_with_shares(event, left / counted) for event, n in flatten(events) for _ in range(n))


def _with_shares(event: Single, part: float) -> Event:
    if isinstance(event, InPart):
        return InPart(event.split, event.name, _with_shares(event.event, part))  # type: ignore[arg-type]  # a plain event
    if part == 0 and not _is_gaussian(event):
        return NonPrivate()
    match event:
        case SkellamEvent():
            return SkellamEvent(event.variance * part, event.l2, event.l1, event.dimension)
        case DiscreteGaussianEvent():
            shares = math.floor(event.shares * part)
            return (
                NonPrivate()
                if shares < 1
                else DiscreteGaussianEvent(event.variance_per_share, shares, event.l2, event.l1, event.dimension)
            )
        case PoissonSampled():
            inner = _with_shares(event.event, part)
            return inner if isinstance(inner, NonPrivate) else PoissonSampled(event.rate, inner)  # type: ignore[arg-type]  # noise stays noise
        case _:
            return event
