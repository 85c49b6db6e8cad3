"""Scales, ticks and what all plots share: axes, grid lines, markers that differ in shape as well as in colour."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedinfer.report.markup import Markup, join, tag

Marker = Callable[[float, float], Markup]

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#8B4A8B", "#8A6A00")
"""Dark enough on white for text; the first three are of Okabe and Ito (2008), made for colour-blind readers."""
DASHES = (None, "6 3", "2 3", "8 3 2 3", "1 4")


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear map from values [low, high] to places [start, end] on the page, in px."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The place of a value; values outside are drawn at the border."""
        span = self.high - self.low
        share = (min(max(value, self.low), self.high) - self.low) / span if span > 0 else 0.5
        return self.start + share * (self.end - self.start)


def ticks(low: float, high: float, most: int) -> tuple[float, ...]:
    """At most `most` round values (1, 2 or 5 times a power of ten) that lie in [low, high].

    Args:
        low: lower end of the axis.
        high: upper end, >= low.
        most: how many fit, >= 1.
    """
    if not high - low > 1e-300:  # the smallest floats have no round parts
        return (low,)
    rough = (high - low) / max(most - 1, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(round(index * step, 12) for index in range(first, last + 1))


def padded(
    values: Sequence[float], least: float, floor: float = -math.inf, ceiling: float = math.inf
) -> tuple[float, float]:
    """Limits a little outside the values, at least `least` apart, inside [floor, ceiling].

    Args:
        values: at least one, finite.
        least: smallest distance of the limits, in the unit of the values.
        floor: the lower limit is not below it.
        ceiling: the upper limit is not above it.
    """
    low, high = min(values), max(values)
    room = max(0.08 * (high - low), (least - (high - low)) / 2, 1e-9)
    return max(low - room, floor), min(high + room, ceiling)


def line(x1: float, y1: float, x2: float, y2: float, class_: str, dash: str | None = None) -> Markup:
    """A straight line.

    Args:
        x1: of the first end, px.
        y1: of the first end, px.
        x2: of the other end, px.
        y2: of the other end, px.
        class_: CSS class.
        dash: SVG dash pattern; None: solid.
    """
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_, stroke_dasharray=dash)


def path(points: Sequence[tuple[float, float]], colour: str, dash: str | None = None) -> Markup | None:
    """A line through the points; nothing for fewer than two.

    Args:
        points: (x, y) in px.
        colour: CSS colour.
        dash: SVG dash pattern; None: solid.
    """
    if len(points) < 2:
        return None
    data = "M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in points)
    return tag("path", d=data, fill="none", stroke=colour, stroke_width=2.0, stroke_dasharray=dash)


def stairs(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points with corners put in, so that a value holds until the next one.

    Args:
        points: (x, y), x ascending.
    """
    corners: list[tuple[float, float]] = []
    for x, y in points:
        if corners:
            corners.append((x, corners[-1][1]))
        corners.append((x, y))
    return corners


def label(
    x: float, y: float, words: str, class_: str = "tick", anchor: str = "start", colour: str | None = None
) -> Markup:
    """A piece of text whose base line starts, ends or is centred at (x, y).

    Args:
        x: of the base line, px.
        y: of the base line, px.
        words: plain text; it is escaped.
        class_: CSS class.
        anchor: which part of the text is at (x, y): start, middle or end.
        colour: CSS colour; None: that of the class.
    """
    return tag("text", words, x=x, y=y, class_=class_, text_anchor=anchor, fill=colour)


def dot(colour: str, size: float = 3.0) -> Marker:
    """A filled circle.

    Args:
        colour: CSS colour.
        size: radius, px.
    """
    return lambda x, y: tag("circle", cx=x, cy=y, r=size, fill=colour)


def square(colour: str, size: float = 3.0) -> Marker:
    """An open square.

    Args:
        colour: CSS colour.
        size: half of a side, px.
    """
    return lambda x, y: tag(
        "rect", x=x - size, y=y - size, width=2 * size, height=2 * size, fill="#fff", stroke=colour, stroke_width=1.6
    )


def triangle(colour: str, size: float = 5.0) -> Marker:
    """A filled triangle that stands on its base.

    Args:
        colour: CSS colour.
        size: half of its width and of its height, px.
    """
    return lambda x, y: tag(
        "path", d=f"M{x:.2f} {y - size:.2f}L{x + size:.2f} {y + size:.2f}H{x - size:.2f}Z", fill=colour
    )


def diamond(colour: str, size: float = 5.0) -> Marker:
    """A filled diamond.

    Args:
        colour: CSS colour.
        size: half of a diagonal, px.
    """
    return lambda x, y: tag(
        "path", d=f"M{x:.2f} {y - size:.2f}l{size:g} {size:g}l-{size:g} {size:g}l-{size:g} -{size:g}Z", fill=colour
    )


def cross(colour: str, size: float = 4.0) -> Marker:
    """A cross.

    Args:
        colour: CSS colour.
        size: half of its width, px.
    """
    return lambda x, y: tag(
        "path",
        d=f"M{x - size:.2f} {y - size:.2f}l{2 * size:g} {2 * size:g}m0 -{2 * size:g}l-{2 * size:g} {2 * size:g}",
        stroke=colour,
        stroke_width=2.0,
        fill="none",
    )


def markers(points: Sequence[tuple[float, float]], marker: Marker) -> Markup:
    """One marker per point.

    Args:
        points: (x, y) in px.
        marker: draws one of them.
    """
    return join(*(marker(x, y) for x, y in points))


def drawing(width: float, height: float, title: str, description: str, *parts: Markup | None) -> Markup:
    """An SVG of fixed width in px that never grows wider than its column, with a name and a text for screen readers.

    Args:
        width: px.
        height: px.
        title: short name, read out first.
        description: what the drawing shows, in a sentence with its figures.
        parts: of the drawing, back to front; None is left out.
    """
    return tag(
        "svg",
        tag("title", title),
        tag("desc", description),
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width:g} {height:g}",
        width=width,
        height=height,
        role="img",
        aria_label=f"{title}. {description}",
    )
