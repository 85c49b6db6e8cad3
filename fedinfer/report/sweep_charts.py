"""Drawings of a sweep: a figure against epsilon, one line per kind of trust, with its confidence band.

Each has its legend inside and differs in shape and dash as well as in colour, so it stands alone, in print and in grey.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedinfer.report import axes
from fedinfer.report.figures import decimal, finite, number, rows, significant, words
from fedinfer.report.layout import WIDE
from fedinfer.report.markup import Markup, join, tag
from fedinfer.report.verdict import metric_words
from fedinfer.types import Json

HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 330.0, 52.0, 16.0, 44.0, 44.0
NO_PRIVACY = 74.0
"""Width of the strip for an infinite epsilon, px."""
STAGGER = 5.0
"""Lines are drawn so far beside each other that their intervals do not cover each other, px."""
STYLES: dict[str, tuple[str, str | None, axes.Marker]] = {
    "local": (axes.PALETTE[1], axes.DASHES[2], axes.triangle(axes.PALETTE[1])),
    "distributed": (axes.PALETTE[0], None, axes.dot(axes.PALETTE[0], 4.0)),
    "central": (axes.PALETTE[2], axes.DASHES[1], axes.square(axes.PALETTE[2], 4.0)),
}
"""Colour, dash and marker of each kind of trust."""
MOST_PANELS = 12
UNBOUNDED = ("log_loss", "rmse", "mae", "r2")
"""Figures that may lie outside of [0, 1]; for the others an interval that does is drawn up to the border."""
STANDALONE = (
    'svg { background: #fff; } text { font-family: "DejaVu Sans", Arial, sans-serif; fill: #1b2733; font-size: 12px; } '
    ".tick { font-size: 11.5px; fill: #52606d; } .panel { font-size: 12.5px; font-weight: 600; } "
    ".grid { stroke: #e2e7ec; stroke-width: 1; } .axis { stroke: #9aa7b4; stroke-width: 1; }"
)
"""Style of a drawing outside of a page: only what every program that draws SVG knows."""


@dataclass(frozen=True, slots=True)
class Point:
    """A mean at one epsilon.

    Args:
        epsilon: may be infinite.
        mean, low, high: with the ends of its interval.
    """

    epsilon: float
    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Panel:
    """One drawing.

    Args:
        name: for a file: letters, digits and hyphens.
        title: for people.
        figure: column of the settings that is drawn.
        lines: points by kind of trust, epsilon ascending.
    """

    name: str
    title: str
    figure: str
    lines: dict[str, tuple[Point, ...]]


def panels(sweep: Json, figure: str) -> list[Panel]:
    """One panel per unit and combination of the other axes, at most `MOST_PANELS`.

    Args:
        sweep: sweep.json.
        figure: "utility" or "worst_group".
    """
    others = [name for name in sweep["columns"] if name not in ("epsilon", "trust")]
    found: dict[tuple[str, ...], list[Json]] = {}
    for setting in rows(sweep, "settings"):
        if finite(setting.get(figure)) is not None:
            found.setdefault(tuple(words(setting.get(name)) for name in others), []).append(setting)
    parts = []
    for number_, (values, settings) in enumerate(list(found.items())[:MOST_PANELS], 1):
        shown = ", ".join(f"{name} {value}" for name, value in zip(others, values, strict=True))
        name = f"{figure.replace('_', '-')}-{number_}"
        parts.append(Panel(name, shown, figure, _lines(settings, figure)))
    return parts


def chart(panel: Panel, metric: str, width: float) -> Markup:
    """The drawing of a panel.

    Args:
        panel: with at least one point.
        metric: name of the figure's unit.
        width: px.
    """
    points = [point for line in panel.lines.values() for point in line]
    epsilons = sorted({point.epsilon for point in points if math.isfinite(point.epsilon)})
    endless = any(math.isinf(point.epsilon) for point in points)
    bounds = (-math.inf, math.inf) if metric in UNBOUNDED else (0.0, 1.0)
    low, high = axes.padded([end for point in points for end in (point.low, point.high)], 0.02, *bounds)
    right = width - RIGHT - (NO_PRIVACY if endless else 0.0)
    ends = (math.log2(epsilons[0]), math.log2(epsilons[-1])) if epsilons else (0.0, 0.0)
    x = axes.Scale(*ends, LEFT + 18, right - 18)
    y = axes.Scale(low, high, HEIGHT - BOTTOM, TOP)

    def place(epsilon: float) -> float:
        return width - RIGHT - NO_PRIVACY / 2 if math.isinf(epsilon) else x(math.log2(epsilon))

    title = f"{'Worst group: ' if panel.figure == 'worst_group' else ''}{metric_words(metric)} against epsilon"
    return axes.drawing(
        width, HEIGHT, f"{title}, {panel.title}", _description(panel),
        *_frame(x, y, epsilons, endless, right, width),
        axes.label(LEFT, 14, f"{title} ({panel.title})", "panel"),
        _legend(panel, width),
        *(_line(name, line, place, y, index - (len(panel.lines) - 1) / 2)
          for index, (name, line) in enumerate(panel.lines.items())),
    )  # fmt: skip


def standalone(drawing: Markup) -> str:
    """A drawing as an SVG file of its own, with its style inside and a white ground.

    Args:
        drawing: from `chart`.
    """
    head, _, rest = drawing.partition(">")
    ground = tag("rect", width="100%", height="100%", fill="#fff")
    return f"{head}>{tag('style', Markup(STANDALONE))}{ground}{rest}\n"


def sweep_plots(sweep: Json) -> dict[str, str]:
    """All drawings as SVG files, by name.

    Args:
        sweep: sweep.json.
    """
    metric = words(sweep.get("metric"))
    found = [*panels(sweep, "utility"), *panels(sweep, "worst_group")]
    return {panel.name: standalone(chart(panel, metric, WIDE)) for panel in found}


def _lines(settings: Sequence[Json], figure: str) -> dict[str, tuple[Point, ...]]:
    lines: dict[str, tuple[Point, ...]] = {}
    for trust in STYLES:
        points = [
            Point(epsilon, *(finite(each[name]) or 0.0 for name in (figure, f"{figure}_low", f"{figure}_high")))
            for each in settings
            if each.get("trust") == trust and (epsilon := number(each.get("epsilon"))) is not None
        ]
        if points:
            lines[trust] = tuple(sorted(points, key=lambda point: point.epsilon))
    return lines


def _frame(
    x: axes.Scale, y: axes.Scale, epsilons: Sequence[float], endless: bool, right: float, width: float
) -> list[Markup]:
    bottom = HEIGHT - BOTTOM
    parts = [
        join(
            axes.line(LEFT, y(mark), width - RIGHT, y(mark), "grid"),
            axes.label(LEFT - 6, y(mark) + 4, f"{mark:g}", "tick", "end"),
        )
        for mark in axes.ticks(y.low, y.high, 6)
    ]
    parts.append(axes.line(LEFT, bottom, right if endless else width - RIGHT, bottom, "axis"))
    last = -math.inf
    for epsilon in epsilons:
        at = x(math.log2(epsilon))
        parts.append(axes.line(at, bottom, at, bottom + 4, "axis"))
        if at - last >= 26:
            parts.append(axes.label(at, bottom + 17, f"{epsilon:g}", "tick", "middle"))
            last = at
    parts.append(axes.label((LEFT + right) / 2, HEIGHT - 8, "epsilon (logarithmic)", "tick", "middle"))
    if endless:
        middle = width - RIGHT - NO_PRIVACY / 2
        parts += [
            axes.line(right, TOP, right, bottom, "axis", "3 3"),
            axes.label(middle, bottom + 17, "no privacy", "tick", "middle"),
        ]
    return parts


def _legend(panel: Panel, width: float) -> Markup:
    step = min(150.0, (width - LEFT) / max(len(panel.lines), 1))
    parts = []
    for index, name in enumerate(panel.lines):
        colour, dash, marker = STYLES[name]
        at = LEFT + index * step
        parts += [axes.path([(at, 29.0), (at + 28, 29.0)], colour, dash), marker(at + 14, 29.0)]
        parts.append(axes.label(at + 34, 33, name, "tick"))
    return join(*parts)


def _line(name: str, line: Sequence[Point], place: Callable[[float], float], y: axes.Scale, rank: float) -> Markup:
    colour, dash, marker = STYLES[name]
    shift = rank * STAGGER
    where = [(place(point.epsilon) + shift, point) for point in line]
    finite_ones = [(at, point) for at, point in where if math.isfinite(point.epsilon)]
    above = [(at, y(point.high)) for at, point in finite_ones]
    below = [(at, y(point.low)) for at, point in reversed(finite_ones)]
    corners = " ".join(f"{a:.1f},{b:.1f}" for a, b in [*above, *below])
    band = tag("polygon", points=corners, fill=colour, fill_opacity=0.12) if len(finite_ones) > 1 else None
    whiskers = (
        tag("path", d=f"M{at:.1f} {y(p.low):.1f}V{y(p.high):.1f}M{at - 3:.1f} {y(p.low):.1f}h6M{at - 3:.1f} "
            f"{y(p.high):.1f}h6", stroke=colour, stroke_width=1.2, fill="none")
        for at, p in where
    )  # fmt: skip
    middle = axes.path([(at, y(point.mean)) for at, point in finite_ones], colour, dash)
    return join(band, middle, *whiskers, axes.markers([(at, y(point.mean)) for at, point in where], marker))


def _description(panel: Panel) -> str:
    said = []
    for name, line in panel.lines.items():
        shown = ", ".join(f"{decimal(p.mean)} at {significant(p.epsilon)}" for p in line)
        said.append(f"trust {name}: {shown}")
    return "Mean over seeds with 95 % interval. " + "; ".join(said) + "."
