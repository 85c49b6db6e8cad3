"""Plots of one idea each: latency, the three metrics of a drift story, a meter."""

from __future__ import annotations

from collections.abc import Sequence

from fedinfer.report import axes
from fedinfer.report.figures import decimal, microseconds
from fedinfer.report.markup import Markup, join, tag

BAR = 22.0


def latency_chart(p50: float, p99: float, width: float) -> Markup:
    """Median and 99th percentile of one prediction on an axis from zero, both in microseconds.

    Args:
        p50: median, microseconds.
        p99: 99th percentile, microseconds.
        width: of the drawing, px.
    """
    x = axes.Scale(0.0, max(p50, p99, 1e-9) * 1.15, 8.0, width - 24.0)
    y, bottom = 40.0, 64.0
    marks = axes.ticks(0.0, x.high, 5 if width > 300 else 4)
    return axes.drawing(
        width,
        bottom + 22,
        "Latency of one prediction",
        f"Median {microseconds(p50)}, 99th percentile {microseconds(p99)}.",
        *(axes.line(x(mark), 26, x(mark), bottom, "grid") for mark in marks),
        *(
            axes.label(x(mark), bottom + 15, microseconds(mark), "tick", "middle" if mark else "start")
            for mark in marks
        ),
        tag("rect", x=x(p50), y=y - 5, width=max(x(p99) - x(p50), 0.0), height=10.0, fill="#bcd6e8"),
        axes.dot(axes.PALETTE[0], 6)(x(p50), y),
        axes.diamond(axes.PALETTE[1], 7)(x(p99), y),
        *_latency_names(x, p50, p99),
    )


def _latency_names(x: axes.Scale, p50: float, p99: float) -> Sequence[Markup]:
    """Names above the two markers; left and right aligned where they would touch."""
    near = x(p99) - x(p50) < 60
    return (
        axes.label(x(p50) + (4 if near else 0), 17, "median", "note", "end" if near and x(p50) > 60 else "start"),
        axes.label(x(p99), 17, "99 %", "note", "start" if near else "middle"),
    )


def bars(title: str, values: Sequence[tuple[str, float, str]], width: float) -> Markup:
    """Horizontal bars on [0, 1].

    Args:
        title: name of the plot.
        values: (name, value in [0, 1], colour), from top to bottom.
        width: px.
    """
    left, right = 84.0, width - 52.0
    x = axes.Scale(0.0, 1.0, left, right)
    parts = []
    for place, (name, value, colour) in enumerate(values):
        top = 4.0 + place * (BAR + 8)
        parts.append(axes.label(left - 8, top + BAR - 6, name, "note", "end"))
        parts.append(tag("rect", x=left, y=top, width=right - left, height=BAR, class_="track"))
        parts.append(tag("rect", x=left, y=top, width=max(x(value) - left, 0.0), height=BAR, fill=colour))
        parts.append(axes.label(right + 6, top + BAR - 6, decimal(value), "note"))
    words = ", ".join(f"{name} {decimal(value)}" for name, value, _ in values)
    return axes.drawing(width, 4 + len(values) * (BAR + 8), title, words, join(*parts))


def meter(share: float, words: str) -> Markup:
    """A thin bar that is filled to `share` in [0, 1]; `words` say the same for screen readers.

    Args:
        share: filled part; values outside [0, 1] are cut.
        words: what it means, plain text.
    """
    filled = min(max(share, 0.0), 1.0)
    return tag(
        "span",
        tag("span", "", class_="fill", style=f"width:{100 * filled:.1f}%"),
        class_="meter",
        role="img",
        aria_label=words,
    )
