"""A privacy filter: what a device may still take part in when the server chooses noise by what it has seen.

Composition theorems speak of mechanisms that are fixed beforehand. A server that is against its devices is not bound to
its plan: it may read a release and then ask for the noise that hurts most. Two rules hold against it, and one of them
must allow every spend.

* **Promised.** With its first request a server promises what it may ask for: at most so many releases of each of a few
  kinds (`Promise`). The device keeps the first promise and no later one. A history within the promise costs at most
  what the whole promise costs.
* **Renyi filter.** A history beyond the promise is within the budget while, at one of a few orders that are fixed
  beforehand, the divergences of all its events add up to what that order may hold.

**Theorem.** Whatever the server does, all that is released under both rules together is (epsilon, delta)-differentially
private for the budget (epsilon, delta).

*Promised.* Let H(S) be the largest P(E) - e^x Q(E) of the composition of the dominating pairs in a multiset S. For
every adversary who runs each of S once at most, in an order that follows the outcomes, or stops, P(E) - e^x Q(E) is at
most H(S), for every x. By induction on the size of S: let the first release be i, with laws p, q and log-likelihood
ratio l. What follows is such an adversary for S without i, so it gets at most H(S - i) at x - l, and the whole is at
most the sum of p H(S - i; x - l) over the outcomes, which is the value of the composition of (p, q) with the pairs of
S - i, and at most H(S), since domination survives composition with a fixed pair (Zhu, Dong and Wang 2022, Theorem 10).
Stopping is running constants. The same for sums of Renyi divergences. So an epsilon of the whole promise at delta is
one of every history within it.

*Filter.* At a fixed order a, a sum of divergences that never exceeds r gives (a, r)-Renyi privacy although every
mechanism is chosen by what was released (Feldman and Zrnic 2021, *Individual privacy accounting via a Renyi filter*,
Theorem 4.3; Whitehouse, Ramdas, Rogers and Wu 2023, *Fully-adaptive composition in differential privacy*, section 3);
r is what Canonne, Kamath and Steinke 2020, Proposition 12, turns into epsilon at a share of delta.

*Together.* Let E_0 be the outcomes whose history ends within the promise, E_1, E_2, ... those that end beyond it and
within the sum of order 1, 2, ... (the first that holds). Stop the process where it leaves the promise: on E_0 that
changes nothing, because histories only grow, so P(E E_0) <= e^epsilon Q(E E_0) + delta_0, where delta_0 is the delta of
the promise at epsilon. Likewise for every order with its share. Adding up, the deltas add up: that of the promise and
the shares are delta together. So a promise that fills the budget leaves no room for anything else, and one that needs
less than half of delta leaves the other half to the filter. []

*Real samplers.* Integer noise is within statistical distance t = SAMPLER_DISTANCE of its law, over all draws of an
account and whoever chose them: the law of one draw is replaced after the other, and every replacement moves the
transcript by no more than that draw's distance. With E in the union of E_1, E_2, ...: P(E) <= e^x Q(E) + d of the laws
becomes P(E) <= e^x Q(E) + d + (1 + e^x) t of the samplers, since both sides move by t. So of the filter's share s the
orders have s - (1 + e^x) t together. The promise pays for its own part, E_0, in `account_history`.

*Large budgets.* Nothing says that x has to be the budget: what is (x, s)-private is (epsilon, s)-private for every
epsilon >= x. At x = log(s / 2t) the distance takes half of s, and beyond it the orders would have less and less until
nothing is left at log(s / t - 1), although a larger budget is a weaker claim. So x = min(epsilon, log(s / 2t)). The
limits then grow with the budget up to there and stay: order a allows x + log(left) / (a - 1) and a constant, whose
derivative by x is 1 - e^x t / ((a - 1) left), and (a - 1) left >= 2 (s / 2 - t) >= s / 2 >= e^x t for a >= 3, s >= 4 t.
With s <= 2 t nothing is left, and the filter allows nothing. []

The server's own ledger needs none of this: its plan is fixed before the first release.
tests/unit/privacy/test_privacy_filter.py tries every adversary of small mechanisms.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fedinfer.errors import ConfigError
from fedinfer.privacy.accounting.accountant import SAMPLER_DISTANCE, account_history
from fedinfer.privacy.accounting.events import Event, InPart, Repeated, Single, flatten, from_json, to_json
from fedinfer.privacy.accounting.ledger_records import Budget
from fedinfer.privacy.accounting.parallel import History, PlainHistory, either, worlds
from fedinfer.privacy.accounting.rdp import ORDERS, Curve, event_curve
from fedinfer.privacy.rounding import at_most
from fedinfer.types import Relation

FILTER_ORDERS = (3, 6, 12, 24, 48, 96)
"""Orders of the filter. Each has an equal share of delta, so they are few; a budget's best order lies near one."""
MOST_LINES = 64
"""Of a promise, which a server makes."""
MOST_RELEASES = 1 << 40
"""Of one line, counted with their repetitions: far more than a run has, and few enough to be counted exactly."""


@dataclass(frozen=True, slots=True)
class PromiseLine:
    """So many releases at most, each of one of several kinds.

    Args:
        most: releases, >= 1; with the repetitions of each at most MOST_RELEASES.
        events: what one release may cost, each one event, repeated or not, in one part or none.
    """

    most: int
    events: tuple[Event, ...]

    def __post_init__(self) -> None:
        kinds = [flatten([event]) for event in self.events]
        if self.most < 1 or not kinds or any(len(one) != 1 or self.most * one[0][1] > MOST_RELEASES for one in kinds):
            raise ConfigError(f"a promise of {self.most} releases of {len(self.events)} kinds cannot be kept")


@dataclass(frozen=True, slots=True)
class Promise:
    """All that a server may ever ask for, made before its first request.

    Args:
        lines: in any order; none: nothing is promised.
    """

    lines: tuple[PromiseLine, ...] = ()

    def to_text(self) -> str:
        """JSON with sorted keys; equal promises give equal texts."""
        lines = [{"most": line.most, "events": [to_json(event) for event in line.events]} for line in self.lines]
        return json.dumps(lines, sort_keys=True, separators=(",", ":"))


@lru_cache(maxsize=64)
def read_promise(text: str) -> Promise:
    """Inverse of `Promise.to_text`.

    Args:
        text: untrusted.

    Raises:
        ConfigError: when it is no promise, or has more than MOST_LINES.
    """
    try:
        lines = json.loads(text)
        if not isinstance(lines, list) or len(lines) > MOST_LINES:
            raise ConfigError(f"a promise of {len(lines)} lines, at most {MOST_LINES}")
        return Promise(tuple(PromiseLine(int(line["most"]), tuple(map(from_json, line["events"]))) for line in lines))
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ConfigError(f"promise cannot be read: {error!r}") from error


def refusal(history: History, promise: Promise, budget: Budget, relation: Relation) -> str:
    """Why a history may not come true; empty when one of the two rules allows it.

    Args:
        history: of the account, with the spend that is asked for.
        promise: the first one that was made to the account.
        budget: of the account.
        relation: neighbouring relation.
    """
    if math.isinf(budget.epsilon):
        return ""
    kept, cost = _is_within(history, promise), 0.0
    if kept:
        cost = account_history(flatten(promised_events(promise)), budget.delta, relation).epsilon
        if cost <= budget.epsilon:
            return ""
    share = _filter_share(promise, budget, relation)
    if share > 0 and all(_fits(world, budget.epsilon, share, relation) for world in worlds(history)):
        return ""
    # A promise that does not fit is worth nothing, so a run that would end halfway does not begin.
    return f"all that it may ask for costs {at_most(cost, 6)}" if kept else "this is beyond its promise"


def promised_events(promise: Promise) -> tuple[Event, ...]:
    """What everything that is promised costs together.

    Args:
        promise: of a server.
    """
    return tuple(Repeated(_dearest(line.events), line.most) for line in promise.lines)


def _dearest(events: Sequence[Event]) -> Event:
    """The dearest of several kinds; kinds in different parts are added up."""
    parts = {(event.split, event.name) for event in events if isinstance(event, InPart)}
    inner = [event.event if isinstance(event, InPart) else event for event in events]
    if len(parts) == 1 and all(isinstance(event, InPart) for event in events):
        split, name = parts.pop()
        return InPart(split, name, either(inner))
    return either(inner)


def _is_within(history: History, promise: Promise) -> bool:
    """Whether each event finds a place: lines take in turn as many as they may."""
    left: dict[Single, int] = dict(history)
    for line in promise.lines:
        room = line.most
        for event in line.events:
            ((single, size),) = flatten([event])
            taken = min(-(-left.get(single, 0) // size), room)
            room -= taken
            if single in left:
                left[single] = max(left[single] - taken * size, 0)
    return not any(left.values())


@lru_cache(maxsize=256)
def _filter_share(promise: Promise, budget: Budget, relation: Relation) -> float:
    """The part of delta that the promise leaves to the filter."""
    if not promise.lines:
        return budget.delta
    half = budget.delta / 2
    whole = flatten(promised_events(promise))
    return half if account_history(whole, half, relation).epsilon <= budget.epsilon else 0.0


def _fits(world: PlainHistory, epsilon: float, share: float, relation: Relation) -> bool:
    total = np.zeros(ORDERS.size)
    for event, count in world:
        total += count * event_curve(event, relation)
    return bool((total[_PLACES] <= filter_limits(epsilon, share)).any())


_PLACES = np.searchsorted(ORDERS, FILTER_ORDERS)


@lru_cache(maxsize=256)
def filter_limits(epsilon: float, share: float) -> Curve:
    """Sum of divergences that each order of the filter may reach; negative where an order allows nothing.

    Args:
        epsilon: of the budget, finite.
        share: part of delta that the filter has, in (0, 1); the distance of integer samplers is taken off first.

    Returns:
        (len(FILTER_ORDERS),) float64.
    """
    # What keeps a smaller epsilon keeps the larger one; see "Large budgets".
    epsilon = min(epsilon, math.log(share / (2 * SAMPLER_DISTANCE)))
    left = share - (1 + math.exp(epsilon)) * SAMPLER_DISTANCE
    if left <= 0:
        return np.full(len(FILTER_ORDERS), -1.0)
    alpha = np.array(FILTER_ORDERS, np.float64)
    limits: Curve = epsilon - np.log1p(-1 / alpha) + (math.log(left / len(alpha)) + np.log(alpha)) / (alpha - 1)
    return limits
