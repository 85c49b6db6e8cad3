"""One drawing for each width of page."""

from __future__ import annotations

from collections.abc import Callable

from fedinfer.report.markup import Markup, tag

WIDE, NARROW = 900.0, 326.0
"""Widths of a drawing over the whole page, on a desktop and on a phone, px."""


def both(draw: Callable[[float], Markup], wide: float) -> Markup:
    """One drawing for a desktop or paper and one for a phone: text keeps its size on both.

    Args:
        draw: makes the drawing of a width in px.
        wide: width on a desktop, px.
    """
    return tag(
        "figure",
        tag("div", draw(wide), class_="wide"),
        tag("div", draw(NARROW), class_="narrow"),
    )
