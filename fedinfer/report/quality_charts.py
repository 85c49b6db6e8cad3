"""Plots of how good a model is: ROC, precision and recall, reliability, loss, and parts of the rows side by side.

Axes of shares go from 0 to 1; an axis that shows less says so in its title.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedinfer.report import axes
from fedinfer.report.figures import decimal, significant
from fedinfer.report.markup import Markup, join, tag

Points = Sequence[tuple[float, float]]
TOP, BOTTOM, LEFT, RIGHT = 30.0, 40.0, 44.0, 12.0
ROW = 24.0
LONGEST_NAME = 16
Z = 1.959964
"""97.5 % quantile of the normal distribution."""


@dataclass(frozen=True, slots=True)
class Line:
    """A curve in the unit square.

    Args:
        name: for the legend and for screen readers.
        points: (x, y) in [0, 1].
    """

    name: str
    points: Points


@dataclass(frozen=True, slots=True)
class Row:
    """A share with the number of rows that it is of.

    Args:
        name: of the device or group.
        share: in [0, 1].
        rows: >= 1.
    """

    name: str
    share: float
    rows: int

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval (Wilson 1927): so much is chance when there are so few rows."""
        scale = 1 + Z * Z / self.rows
        middle = (self.share + Z * Z / (2 * self.rows)) / scale
        half = Z * math.sqrt(self.share * (1 - self.share) / self.rows + Z * Z / (4 * self.rows**2)) / scale
        return max(middle - half, 0.0), min(middle + half, 1.0)


def line_style(place: int) -> tuple[str, str | None]:
    """Colour and dash of the curve at a place.

    Args:
        place: from 0.
    """
    return axes.PALETTE[place % len(axes.PALETTE)], axes.DASHES[place % len(axes.DASHES)]


def roc_chart(lines: Sequence[Line], at: tuple[float, float] | None, width: float) -> Markup:
    """ROC curves; the diagonal is what guessing reaches.

    Args:
        lines: x: share of the other rows that are taken for the class; y: share of its rows that are found.
        at: where the model's answers lie; None: nowhere on one curve.
        width: px.
    """
    guess = Line("guessing", ((0.0, 0.0), (1.0, 1.0)))
    return _square("ROC curve", "others taken for it", "found", lines, guess, at, width)


def precision_recall_chart(
    lines: Sequence[Line], share: float | None, at: tuple[float, float] | None, width: float
) -> Markup:
    """Precision over recall; the level line is what guessing reaches.

    Args:
        lines: x: share of the class's rows that are found; y: share of the answers that are right.
        share: of the rows that are of the class; None: there are several classes.
        at: where the model's answers lie.
        width: px.
    """
    guess = None if share is None else Line("guessing", ((0.0, share), (1.0, share)))
    return _square("Precision and recall", "found (recall)", "right (precision)", lines, guess, at, width)


def reliability_chart(bins: Sequence[tuple[float, float, int]], width: float) -> Markup:
    """How often a stated probability came true; on the diagonal the model can be taken at its word.

    Args:
        bins: mean probability that was said, share that came true, rows.
        width: px.
    """
    x, y = _scales(width)
    most = max((rows for _, _, rows in bins), default=1)
    points = [(x(said), y(seen)) for said, seen, _ in bins]
    dots = [axes.dot(axes.PALETTE[0], 2.5 + 5 * math.sqrt(rows / most))(x(said), y(seen)) for said, seen, rows in bins]
    words = ", ".join(f"{decimal(said, 2)} said and {decimal(seen, 2)} seen" for said, seen, _ in bins)
    return axes.drawing(
        width,
        _height(width),
        "Reliability",
        f"{words}.",
        *_unit_axes("probability that it said", "came true", width),
        axes.path([(x(0), y(0)), (x(1), y(1))], "#5b6b7b", "5 4"),
        axes.path(points, axes.PALETTE[0]),
        *dots,
    )


def loss_chart(values: Sequence[tuple[str, float]], width: float) -> Markup:
    """Loss after each round.

    Args:
        values: name of the round and its loss, at least one, finite.
        width: px.
    """
    numbers = [value for _, value in values]
    low, high = axes.padded(numbers, least=0.02, floor=0.0 if min(numbers) >= 0 else -math.inf)
    left, height = 54.0, 170.0
    x = axes.Scale(0, max(len(values) - 1, 1), left + 8, width - 16)
    y = axes.Scale(low, high, height - 26, TOP)
    points = [(x(place), y(value)) for place, (_, value) in enumerate(values)]
    step = max(1, math.ceil(len(values) * 34 / (width - left)))
    return axes.drawing(
        width,
        height,
        "Loss per round",
        f"From {significant(numbers[0])} to {significant(numbers[-1])}.",
        axes.label(0, 14, f"Loss (axis from {low:.3g} to {high:.3g})", "panel"),
        *_levels(y, axes.ticks(low, high, 4), left, width - 10),
        axes.path(points, axes.PALETTE[1]),
        axes.markers(points, axes.dot(axes.PALETTE[1], 2.6)),
        tag("rect", x=left, y=TOP, width=width - 10 - left, height=height - 26 - TOP, class_="frame"),
        *(
            axes.label(x(place), height - 8, name, "tick", "middle")
            for place, (name, _) in enumerate(values)
            if place % step == 0
        ),
    )


def residual_chart(parts: Sequence[tuple[float, float, float, float]], across: str, width: float) -> Markup:
    """Errors of a regression over its answers: the median as a line, the middle 90 % as bars.

    Args:
        parts: mean answer, and 5 %, median and 95 % of label minus answer; at least two, finite.
        across: what the answers are.
        width: px.
    """
    low, high = axes.padded([end for _, *ends in parts for end in ends] + [0.0], least=1e-9)
    left, height = 64.0, 190.0
    bottom = height - 40
    first, last = min(part[0] for part in parts), max(part[0] for part in parts)
    x = axes.Scale(first, last if last > first else first + 1.0, left + 8, width - 18)
    y = axes.Scale(low, high, bottom, TOP)
    middles = [(x(answer), y(middle)) for answer, _, middle, _ in parts]
    said = ", ".join(f"{significant(middle)} at {significant(answer)}" for answer, _, middle, _ in parts)
    return axes.drawing(
        width,
        height,
        "Residuals",
        f"Median of label minus answer: {said}.",
        axes.label(0, 14, f"Label minus answer (axis from {low:.3g} to {high:.3g})", "panel"),
        *_levels(y, axes.ticks(low, high, 4), left, width - 10),
        axes.path([(left, y(0.0)), (width - 10, y(0.0))], "#5b6b7b", "5 4"),
        *(
            axes.path([(x(answer), y(least)), (x(answer), y(most))], axes.PALETTE[0])
            for answer, least, _, most in parts
        ),
        axes.path(middles, axes.PALETTE[1]),
        axes.markers(middles, axes.dot(axes.PALETTE[1], 2.6)),
        tag("rect", x=left, y=TOP, width=width - 10 - left, height=bottom - TOP, class_="frame"),
        *(axes.label(x(at), bottom + 14, f"{at:.3g}", "tick", "middle") for at in axes.ticks(first, last, 5)),
        axes.label(width / 2, height - 6, across, "tick", "middle"),
    )


def rows_chart(title: str, rows: Sequence[Row], width: float) -> Markup:
    """Shares of devices or groups under each other, each with its 95 % interval.

    Args:
        title: what the shares are.
        rows: at least one, from top to bottom.
        width: px.
    """
    ends = [end for row in rows for end in row.interval]
    low, high = axes.padded(ends, least=0.1, floor=0.0, ceiling=1.0)
    left = max(44.0, 12.0 + 7.6 * max(len(_short(row.name)) for row in rows))
    x = axes.Scale(low, high, left, width - 18)
    bottom = TOP + ROW * len(rows)
    body = [_interval_row(row, x, TOP + ROW * (place + 0.5), left) for place, row in enumerate(rows)]
    words = ", ".join(f"{row.name} {decimal(row.share)} of {row.rows}" for row in rows)
    return axes.drawing(
        width,
        bottom + 22,
        title,
        f"{words}.",
        axes.label(0, 14, f"{title} (axis from {low:.2f} to {high:.2f})", "panel"),
        *(axes.line(x(mark), TOP, x(mark), bottom, "grid") for mark in axes.ticks(low, high, 5)),
        *(axes.label(x(mark), bottom + 16, f"{mark:g}", "tick", "middle") for mark in axes.ticks(low, high, 5)),
        tag("rect", x=left, y=TOP, width=width - 18 - left, height=bottom - TOP, class_="frame"),
        *body,
    )


def spread_chart(title: str, rows: Sequence[Row], width: float) -> Markup:
    """Shares of many devices, in order: each is a dot.

    Args:
        title: what the shares are.
        rows: at least one.
        width: px.
    """
    shares = sorted(row.share for row in rows)
    low, high = axes.padded(shares, least=0.1, floor=0.0, ceiling=1.0)
    left, height = 44.0, 170.0
    x, y = axes.Scale(0, max(len(shares) - 1, 1), left + 6, width - 16), axes.Scale(low, high, height - 12, TOP)
    points = [(x(place), y(share)) for place, share in enumerate(shares)]
    return axes.drawing(
        width,
        height,
        title,
        f"{len(shares)} devices, from {decimal(shares[0])} to {decimal(shares[-1])}.",
        axes.label(0, 14, f"{title} (axis from {low:.2f} to {high:.2f})", "panel"),
        *_levels(y, axes.ticks(low, high, 4), left, width - 10),
        tag("rect", x=left, y=TOP, width=width - 10 - left, height=height - 12 - TOP, class_="frame"),
        axes.path(points, axes.PALETTE[0]),
        axes.markers(points, axes.dot(axes.PALETTE[0], 2.0)),
    )


def _interval_row(row: Row, x: axes.Scale, y: float, left: float) -> Markup:
    low, high = row.interval
    return join(
        axes.label(left - 8, y + 4, _short(row.name), "note", "end"),
        axes.line(x(low), y, x(high), y, "span"),
        axes.dot(axes.PALETTE[0], 4)(x(row.share), y),
    )


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "\u2026"


def _square(
    title: str,
    across: str,
    up: str,
    lines: Sequence[Line],
    guess: Line | None,
    at: tuple[float, float] | None,
    width: float,
) -> Markup:
    x, y = _scales(width)
    drawn = []
    for place, line in enumerate(lines):
        colour, dash = line_style(place)
        drawn.append(axes.path([(x(a), y(b)) for a, b in line.points], colour, dash))
    guessed = [(x(a), y(b)) for a, b in guess.points] if guess else []
    answers = None if at is None else axes.diamond(axes.PALETTE[1], 6)(x(at[0]), y(at[1]))
    where = "" if at is None else f" The answers lie at {decimal(at[0], 2)} {across}, {decimal(at[1], 2)} {up}."
    return axes.drawing(
        width,
        _height(width),
        title,
        f"Curves of {', '.join(line.name for line in lines)}.{where}",
        *_unit_axes(across, up, width),
        axes.path(guessed, "#5b6b7b", "5 4"),
        *drawn,
        answers,
    )


def _height(width: float) -> float:
    return min(width, 360.0)


def _scales(width: float) -> tuple[axes.Scale, axes.Scale]:
    return axes.Scale(0, 1, LEFT, width - RIGHT), axes.Scale(0, 1, _height(width) - BOTTOM, TOP)


def _unit_axes(across: str, up: str, width: float) -> tuple[Markup, ...]:
    """Both axes from 0 to 1, with what they mean."""
    x, y = _scales(width)
    marks = (0.0, 0.25, 0.5, 0.75, 1.0)
    return (
        *_levels(y, marks, LEFT, width - RIGHT),
        *(axes.line(x(mark), TOP, x(mark), y(0), "grid") for mark in marks),
        *(axes.label(x(m), y(0) + 15, f"{m:g}", "tick", "end" if m == 1 else "middle") for m in marks),
        axes.label(0, 14, f"\u2191 {up}", "panel"),
        axes.label(width - RIGHT, _height(width) - 6, f"{across} \u2192", "panel", "end"),
        tag("rect", x=LEFT, y=TOP, width=width - RIGHT - LEFT, height=y(0) - TOP, class_="frame"),
    )


def _levels(y: axes.Scale, marks: Sequence[float], left: float, right: float) -> tuple[Markup, ...]:
    return tuple(
        join(
            axes.line(left, y(mark), right, y(mark), "grid"),
            axes.label(left - 6, y(mark) + 4, f"{mark:g}", "tick", "end"),
        )
        for mark in marks
    )
