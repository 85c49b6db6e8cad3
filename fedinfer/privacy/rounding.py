"""Bounds in words: a rounded figure claims no more than the figure itself."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Context


def exactly(value: float) -> str:
    """A figure that somebody chose (a budget), with all of its digits and no more.

    >>> exactly(4.0), exactly(1e-05), exactly(2.0000049), exactly(float("inf"))
    ('4', '1e-05', '2.0000049', 'inf')

    Args:
        value: may be infinite.
    """
    return repr(float(value)).removesuffix(".0")


def at_most(value: float, digits: int = 3) -> str:
    """An upper bound (epsilon spent) with so many significant digits, rounded up.

    >>> at_most(0.92331), at_most(0.1), at_most(float("inf"))
    ('0.924', '0.1', 'inf')

    Args:
        value: may be infinite.
        digits: significant digits, >= 1.
    """
    return _reported(value, digits, ROUND_CEILING)


def at_least(value: float, digits: int = 3) -> str:
    """A lower bound (epsilon left, epsilon measured) with so many significant digits, rounded down.

    >>> at_least(0.07669), at_least(-0.0005111)
    ('0.0766', '-0.000512')

    Args:
        value: may be infinite.
        digits: significant digits, >= 1.
    """
    return _reported(value, digits, ROUND_FLOOR)


def _reported(value: float, digits: int, rounding: str) -> str:
    return f"{float(Context(prec=digits, rounding=rounding).create_decimal(repr(float(value)))):.{digits}g}"
