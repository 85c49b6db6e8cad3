"""No figure of a report makes a bound look better than it is: epsilons are rounded up, what is left is rounded down."""

from __future__ import annotations

import math
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from fedinfer.report.figures import bound, lower_bound
from fedinfer.report.ledger import ACCOUNTS, ENTRIES, ledger_tables
from fedinfer.report.statement import _factor, _guarantee
from fedinfer.report.tables import ROUNDS, rounds_table

EPSILONS = st.floats(min_value=1e-6, max_value=1e6)


def _exactly(text: str) -> Fraction:
    return Fraction(text.replace("\u202f", "").replace(",", ""))


@given(EPSILONS)
def test_a_bound_is_never_shown_on_its_good_side(value: float) -> None:
    assert _exactly(bound(value)) >= Fraction(repr(value))
    assert _exactly(lower_bound(value)) <= Fraction(repr(value))
    assert _exactly(lower_bound(-value)) <= -Fraction(repr(value))


def test_the_tables_of_rounds_and_ledger_round_epsilons_to_the_safe_side() -> None:
    shown = {name: show for name, _, show in (*ROUNDS, *ACCOUNTS, *ENTRIES)}
    assert shown["Epsilon after"] is shown["Spent"] is shown["Epsilon alone"] is bound
    assert shown["Left"] is lower_bound
    assert shown["Delta"] is bound
    page = rounds_table({"rounds": [{"round": 1, "epsilon": 0.8781768932444778}]})
    assert "0.879" in str(page)
    assert "0.878" not in str(page)
    account = {
        "owner": "server",
        "budget": {"epsilon": 1.0, "delta": 1e-5},
        "spent": {"epsilon": 0.9021883189037228},
        "remaining_epsilon": 0.0978168,
    }
    text = str(ledger_tables({"accounts": [account], "entries": [{"reference": "r", "epsilon_alone": 0.19211}]}))
    assert all(figure in text for figure in ("0.903", "0.0978", "0.193"))


def test_a_delta_is_rounded_up_beside_its_epsilon() -> None:
    privacy = {"unit": "example", "epsilon": 1.0, "delta": 1.0049e-5, "budget": 2.0}
    item = _guarantee(privacy, {})
    assert "epsilon 1 at delta 1.01e-5" in item.value
    assert "remainder of 1.01e-5" in str(item)


@given(st.floats(min_value=1e-3, max_value=30.0))
def test_the_ratio_of_the_two_worlds_is_rounded_up(epsilon: float) -> None:
    text = _factor(epsilon)
    if text.startswith("e^"):
        assert _exactly(text[2:]) >= Fraction(repr(epsilon))
    else:
        assert float(_exactly(text)) >= math.exp(epsilon) * (1 - 1e-12)
