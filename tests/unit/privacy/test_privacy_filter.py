"""A server that chooses noise by what it saw cannot get past a budget, by either rule or by changing between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import mpmath
import numpy as np
import pytest

from fedinfer.errors import BudgetExceeded, ConfigError, Misbehaviour
from fedinfer.messages import Purpose
from fedinfer.privacy.accounting import filter as privacy_filter
from fedinfer.privacy.accounting.accountant import account
from fedinfer.privacy.accounting.events import Event, GaussianEvent, InPart, PoissonSampled, Repeated, flatten
from fedinfer.privacy.accounting.filter import (
    FILTER_ORDERS,
    Promise,
    PromiseLine,
    filter_limits,
    promised_events,
    read_promise,
    refusal,
)
from fedinfer.privacy.accounting.ledger import ANY_TASK, LEDGER_MIGRATIONS, Budget, Ledger, Protected
from fedinfer.privacy.charges import encode_promise, promise_in
from fedinfer.store import open_store
from fedinfer.types import Relation, Unit
from tests.unit.privacy.test_privacy_charges import PLAN

ZO, DELTA = Relation.ZERO_OUT, 1e-5
NOW = datetime(2026, 5, 1, tzinfo=UTC)
ROUND, LATER = PoissonSampled(0.5, GaussianEvent(4.0)), GaussianEvent(7.0)
PROMISE = Promise((PromiseLine(4, (ROUND,)), PromiseLine(2, (LATER, GaussianEvent(9.0)))))
COST = account(promised_events(PROMISE), DELTA, ZO).epsilon


def why(events: Sequence[Event], epsilon: float, promise: Promise = PROMISE) -> str:
    return refusal(flatten(events), promise, Budget(epsilon, DELTA), ZO)


def test_a_promise_that_is_kept_costs_what_the_accountant_says_and_fills_the_budget() -> None:
    assert why([Repeated(ROUND, 4), Repeated(LATER, 2)], COST) == ""
    assert why([Repeated(ROUND, 4), LATER, GaussianEvent(9.0)], COST) == "", "one of several kinds each time"
    assert why([Repeated(ROUND, 5)], COST) == "this is beyond its promise"
    assert why([Repeated(LATER, 3)], COST) == "this is beyond its promise"
    assert why([GaussianEvent(7.1)], COST) == "this is beyond its promise", (
        "also less noise than was promised is another kind"
    )
    assert why([ROUND], 0.9 * COST).startswith("all that it may ask for costs"), (
        "a promise that does not fit is worth nothing"
    )


def test_what_a_promise_leaves_is_there_for_the_filter() -> None:
    """A second run with other noise, within a budget three times the first one's."""
    other = Repeated(PoissonSampled(0.5, GaussianEvent(4.1)), 4)
    first = [Repeated(ROUND, 4), Repeated(LATER, 2)]
    assert why([*first, other], 3 * COST) == ""
    assert why([*first, Repeated(other, 100)], 3 * COST) == "this is beyond its promise"


def test_without_a_promise_the_filter_has_all_of_delta() -> None:
    limits = filter_limits(2.0, DELTA)
    most = max(limit * 2 / order for limit, order in zip(limits, FILTER_ORDERS, strict=True))  # divergence a / 2 z^2
    z = 1 / math.sqrt(most)
    assert why([GaussianEvent(1.0001 * z)], 2.0, Promise()) == ""
    assert why([GaussianEvent(0.9999 * z)], 2.0, Promise()) == "this is beyond its promise"
    assert account([GaussianEvent(z)], DELTA / len(FILTER_ORDERS), ZO).epsilon <= 2.0


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 8.0, 25.0, 33.5, 34.3, 35.0, 40.0, 200.0, 1e4, 1e300])
@pytest.mark.parametrize("share", [1e-5, 1e-9, 1e-18, 2.0**-65])
def test_what_the_orders_may_reach_costs_the_share_at_an_epsilon_within_the_budget(
    epsilon: float, share: float
) -> None:
    """To 50 digits, from Canonne, Kamath and Steinke 2020, Proposition 12, and what inexact samplers add to it."""
    mpmath.mp.dps = 50
    t = mpmath.mpf(2) ** -68
    x = min(mpmath.mpf(epsilon), mpmath.log(mpmath.mpf(share) / (2 * t)))
    spent = (1 + mpmath.exp(x)) * t
    for a, limit in zip(FILTER_ORDERS, filter_limits(epsilon, share), strict=True):
        moment = (a - 1) * (mpmath.mpf(float(limit)) - x) + (a - 1) * mpmath.log(1 - mpmath.mpf(1) / a)
        spent += mpmath.exp(moment) / a
    assert abs(spent / share - 1) < 1e-9


def test_a_larger_budget_allows_no_less() -> None:
    budgets = [0.5, 2.0, 10.0, *np.linspace(30.0, 38.0, 81), 60.0, 800.0, 1e6]
    limits = np.array([filter_limits(budget, DELTA) for budget in budgets])
    assert (np.diff(limits, axis=0) >= 0).all()
    assert (limits[-1] == limits[-2]).all()


def test_a_share_that_inexact_samplers_use_up_allows_nothing() -> None:
    for share in (2.0**-67, 2.0**-68, 2.0**-80, 1e-300):
        assert (filter_limits(50.0, share) < 0).all()
    assert (filter_limits(50.0, 2.0**-60) > 0).any()


@pytest.mark.parametrize("budget", [0.5, 2.0, 3.8, 4.5, 9.0, 30.0])
def test_no_law_that_an_order_allows_gets_past_the_budget_with_samplers_that_are_off(
    budget: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two outcomes, every pair of laws on a grid, each sampler off by t in the direction that hurts most."""
    t, share = 1e-4, 1e-2
    monkeypatch.setattr(privacy_filter, "SAMPLER_DISTANCE", t)
    limits = filter_limits.__wrapped__(budget, share)
    p = np.concatenate([10.0 ** -np.arange(1, 7, 0.1), 1 - 10.0 ** -np.arange(0.4, 7, 0.1)])[:, None]
    q = 10.0 ** -np.arange(0.1, 16, 0.02)[None, :]
    worst = 0.0
    for a, limit in zip(FILTER_ORDERS, limits, strict=True):
        terms = [a * np.log(p) - (a - 1) * np.log(q), a * np.log1p(-p) - (a - 1) * np.log1p(-q)]
        allowed = np.logaddexp(*terms) / (a - 1) <= limit
        gained = np.minimum(p + t, 1) - math.exp(budget) * np.maximum(q - t, 0)
        worst = max(worst, float(gained[allowed].max(initial=0.0)))
    assert worst <= share
    assert worst > 0.1 * share, "the grid has laws that come near"


def test_a_unit_in_one_part_pays_for_that_part_by_both_rules() -> None:
    split = Promise(
        (PromiseLine(4, (InPart("s", "training", ROUND),)), PromiseLine(2, (InPart("s", "windows", LATER),)))
    )
    apart = account(promised_events(split), DELTA, ZO).epsilon
    assert apart < COST
    assert (
        why([InPart("s", "training", Repeated(ROUND, 4)), InPart("s", "windows", Repeated(LATER, 2))], apart, split)
        == ""
    )
    limit = filter_limits(2.0, DELTA)
    z = 1 / math.sqrt(max(2 * one / order for one, order in zip(limit, FILTER_ORDERS, strict=True)))
    assert (
        why([InPart("s", "a", GaussianEvent(1.01 * z)), InPart("s", "b", GaussianEvent(1.01 * z))], 2.0, Promise())
        == ""
    )


# Every adversary of a small world. Outcomes 0, 1, 2; laws of three mechanisms that a server may choose from.
LAWS = {
    "weak": ((0.4, 0.3, 0.3), (0.35, 0.32, 0.33)),
    "tail": ((0.90, 0.08, 0.02), (0.93, 0.065, 0.005)),
    "even": ((0.55, 0.25, 0.2), (0.45, 0.3, 0.25)),
}
ORDER = 4


def renyi(name: str) -> float:
    p, q = LAWS[name]
    ways = (math.fsum(a**ORDER * b ** (1 - ORDER) for a, b in zip(x, y, strict=True)) for x, y in ((p, q), (q, p)))
    return max(math.log(way) / (ORDER - 1) for way in ways)


@cache
def worst(growth: float, room: float, promised: tuple[str, ...], kept: bool, ratio: float, steps: int) -> float:
    """Largest P(E) - growth Q(E) of a server that may go on while one of the two rules holds, in any order.

    `kept`: the history is within the promise, of which `promised` is left; `room`: what is left at the filter's order.
    """
    best = max(1.0 - growth / ratio, 0.0)  # stop here
    if not steps:
        return best
    for name, (p, q) in LAWS.items():
        within = kept and name in promised
        left = room - renyi(name)
        if not within and left < -1e-12:
            continue
        rest = list(promised)
        if within:
            rest.remove(name)
        best = max(
            best,
            math.fsum(
                a * worst(growth, left, tuple(rest), within, round(ratio * a / b, 12), steps - 1)
                for a, b in zip(p, q, strict=True)
            ),
        )
    return best


def exact(growth: float, names: Sequence[str]) -> float:
    pairs = np.array([[1.0, 1.0]])
    for name in names:
        laws = np.array(LAWS[name]).T
        pairs = (pairs[:, None, :] * laws[None, :, :]).reshape(-1, 2)
    return float(np.maximum(pairs[:, 0] - growth * pairs[:, 1], 0).sum())


@pytest.mark.parametrize("promised", [("even", "weak"), ("tail", "tail"), ("even", "tail", "weak")])
@pytest.mark.parametrize("epsilon", [0.3, 0.6])
def test_no_adaptive_server_gets_more_than_both_rules_together(promised: tuple[str, ...], epsilon: float) -> None:
    """delta of the promise plus that of the filter's order, by every strategy of four releases."""
    growth, room = math.exp(epsilon), 0.12
    # Canonne, Kamath and Steinke 2020, Proposition 12
    of_filter = math.exp((ORDER - 1) * (room - epsilon)) / (ORDER - 1) * (1 - 1 / ORDER) ** ORDER
    found = worst(growth, room, promised, True, 1.0, 4)
    assert found <= exact(growth, promised) + of_filter + 1e-9
    assert found >= exact(growth, promised) - 1e-9, "a server that keeps its promise gets that much"
    assert worst(growth, math.inf, promised, True, 1.0, 4) > found, "without the filter it gets more"


def test_any_order_of_what_was_promised_costs_the_same() -> None:
    growth = math.exp(0.2)
    assert worst(growth, -1.0, ("even", "tail", "weak"), True, 1.0, 3) == pytest.approx(
        exact(growth, ["even", "tail", "weak"])
    )


def ledger(folder: Path, budget: float) -> Ledger:
    found = Ledger(open_store(folder / "l.sqlite", "ledger", LEDGER_MIGRATIONS), Protected(Unit.EXAMPLE, ZO))
    for task in (ANY_TASK, "run-1", "run-2"):
        found.open_account("d", task, Budget(budget, DELTA))
    return found


def asked(book: Ledger, task: str, reference: str, event: Event, promise: Promise) -> object:
    return book.reserve(["d"], task, reference, [event], "", NOW, promise=promise)["d"]


def test_a_ledger_keeps_the_first_promise_whatever_is_promised_later(tmp_path: Path) -> None:
    book = ledger(tmp_path, COST)
    larger = Promise((PromiseLine(400, (ROUND,)),))
    for number in range(4):
        assert asked(book, "run-1", f"r{number}", ROUND, PROMISE if number == 0 else larger) is None
    assert isinstance(asked(book, "run-1", "r4", ROUND, larger), BudgetExceeded)
    assert asked(book, "run-1", "r5", LATER, larger) is None, "what was promised first is still there"
    refused = asked(ledger(tmp_path, COST), "run-1", "r6", GaussianEvent(3.0), Promise())
    assert "beyond its promise" in str(refused), "also after a restart"


def test_a_promise_is_kept_for_all_runs_together_too(tmp_path: Path) -> None:
    """A new run with a new promise was chosen by somebody who has seen the first one."""
    book = ledger(tmp_path, COST)
    assert asked(book, "run-1", "r", ROUND, PROMISE) is None
    tempting = Promise((PromiseLine(1, (ROUND,)), PromiseLine(1, (GaussianEvent(9.5),))))
    assert account(promised_events(tempting), DELTA, ZO).epsilon < COST, "promised at the beginning it would have done"
    assert isinstance(asked(book, "run-2", "r", GaussianEvent(9.5), tempting), BudgetExceeded)


def test_a_refused_request_leaves_no_promise(tmp_path: Path) -> None:
    book = ledger(tmp_path, COST)
    assert isinstance(
        asked(book, "run-1", "r", GaussianEvent(0.1), Promise((PromiseLine(1, (GaussianEvent(0.1),)),))), BudgetExceeded
    )
    assert asked(book, "run-1", "r", ROUND, PROMISE) is None


def test_spends_before_promises_were_kept_count_as_unpromised(tmp_path: Path) -> None:
    book = ledger(tmp_path, COST)
    assert book.reserve(["d"], "run-1", "old", [ROUND], "", NOW)["d"] is None
    assert isinstance(asked(book, "run-1", "r", Repeated(ROUND, 3), PROMISE), BudgetExceeded)


def test_a_promise_travels_in_the_plan_and_the_device_marks_its_own_parts() -> None:
    plan = replace(
        PLAN,
        promise=encode_promise([(Purpose.TRAIN, PromiseLine(3, (ROUND,))), (Purpose.DRIFT, PromiseLine(2, (LATER,)))]),
    )
    assert promise_in(plan, "").lines == (PromiseLine(3, (ROUND,)), PromiseLine(2, (LATER,)))
    assert promise_in(plan, "mine").lines[1] == PromiseLine(2, (InPart("mine", "windows", LATER),))
    assert promise_in(PLAN, "mine") == Promise()
    assert read_promise(PROMISE.to_text()) == PROMISE
    for bad in (b"[]x", b'[{"most":0,"events":[],"purpose":"train"}]', b"7", b'[{"most":1}]', b'[{"purpose":"x"}]'):
        with pytest.raises(Misbehaviour, match="promise of the run"):
            promise_in(replace(PLAN, promise=bad), "")
    for endless in ("Infinity", "1e400", "1" + "0" * 400, str(1 << 41)):
        line = f'[{{"most":{endless},"events":[{{"kind":"non_private"}}],"purpose":"train"}}]'
        with pytest.raises(Misbehaviour, match="promise of the run"):
            promise_in(replace(PLAN, promise=line.encode()), "")
    with pytest.raises(ConfigError, match="promise"):
        PromiseLine(2, (Repeated(ROUND, 1 << 40),))
    with pytest.raises(ConfigError, match="lines"):
        read_promise("[" + ",".join('{"most":1,"events":[{"kind":"non_private"}]}' for _ in range(65)) + "]")
