"""Told bounds never claim more than the figure."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from fedinfer.privacy.rounding import at_least, at_most, exactly

FIGURES = st.floats(1e-12, 1e12)


@given(FIGURES, st.integers(1, 12))
def test_a_told_bound_is_on_the_safe_side_and_near(value: float, digits: int) -> None:
    above, below = float(at_most(value, digits)), float(at_least(value, digits))
    assert below <= value <= above
    assert above - below <= 10.0 ** (math.floor(math.log10(value)) - digits + 2)


@given(st.floats(allow_nan=False))
def test_what_was_chosen_is_told_with_all_of_its_digits(value: float) -> None:
    """With six digits an owner's budget of 0.9999996 was told as 1."""
    assert float(exactly(value)) == value


def test_what_was_chosen_is_told_as_short_as_it_was_written() -> None:
    assert [exactly(value) for value in (4, 4.0, 0.1, 1e-5, 0.9999996)] == ["4", "4", "0.1", "1e-05", "0.9999996"]


@given(FIGURES)
def test_what_is_short_already_stays(value: float) -> None:
    reported = at_most(value, 4)
    assert at_most(float(reported), 4) == reported == at_least(float(reported), 4)


def test_known_figures() -> None:
    assert at_most(0.9233431549501245) == "0.924"
    assert at_most(0.9235) == "0.924"
    assert at_most(1.0) == "1"
    assert at_most(0.0) == at_least(0.0) == "0"
    assert at_least(0.0767) == "0.0767"
    assert at_least(-0.0005111) == "-0.000512"
    assert at_most(math.inf) == "inf"
