"""The functions of an additive model, one small drawing each, all on one vertical scale."""

from __future__ import annotations

from collections.abc import Sequence

from fedinfer.report import axes
from fedinfer.report.figures import finite, rows, section, words
from fedinfer.report.markup import Markup, join, tag
from fedinfer.types import Json

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 300.0, 190.0, 46.0, 10.0, 14.0, 44.0
MOST_CURVES, MOST_LEVELS, SHOWN = 5, 14, 14
BAND = 2.0
"""Standard deviations of noise on either side of a curve."""


def shape_charts(run: Json) -> Markup | None:
    """What each column adds, with the noise of training; None for a model that is no sum.

    Args:
        run: the record.
    """
    found = [shape for shape in rows(run, "shapes") if shape.get("kind") in ("number", "levels")]
    pairs = [shape for shape in rows(run, "shapes") if shape.get("kind") == "pair"]
    low, high = _limits(found)
    if not found or not low < high:
        return None
    charts = tag("div", *(_chart(shape, low, high) for shape in found), class_="shapes")
    names = "; ".join(" x ".join(map(str, shape["columns"])) for shape in pairs)
    return join(
        tag("p", _lead(run, any(shape.get("band") for shape in found)), class_="how"),
        charts,
        tag("p", f"Pairs that add a function of two columns more: {names}; their values are in run.json.", class_="how")
        if pairs
        else None,
    )


def _lead(run: Json, banded: bool) -> str:
    task = section(run, "task")
    unit = words(task.get("unit"), "") if task.get("kind") == "regression" else ""
    what = f"to the predicted {words(task.get('label'), 'number')}{f', in {unit}' if unit else ''}"
    classes = task.get("classes")
    if task.get("kind") != "regression":
        two = isinstance(classes, list) and len(classes) == 2
        what = (
            f"to the log-odds of {classes[1]!s}" if two and isinstance(classes, list) else "to the logit of each class"
        )
    text = (
        f"The model is a sum: a curve is what one column adds {what}. The curves and a constant are all of the answer."
    )
    if not banded:
        return text
    return (
        f"{text} The band is {BAND:g} standard deviations of the noise of training on either side, estimated from "
        "above: the noise of all rounds through the server's optimizer, without what later rounds took back."
    )


def _limits(shapes: Sequence[Json]) -> tuple[float, float]:
    values = [value for shape in shapes for curve in _curves(shape) for value in curve]
    return axes.padded([0.0, *values], 1e-6)


def _curves(shape: Json) -> list[list[float]]:
    """Curves of a shape, each with a value per place."""
    values = [[finite(cell) or 0.0 for cell in place] for place in shape["values"]]
    return [list(curve) for curve in zip(*values, strict=True)][:MOST_CURVES]


def _chart(shape: Json, low: float, high: float) -> Markup:
    name = " x ".join(map(str, shape["columns"]))
    y = axes.Scale(low, high, HEIGHT - BOTTOM, TOP)
    draw = _levels if shape["kind"] == "levels" else _line
    curves = _curves(shape)
    grid = [
        join(axes.line(LEFT, y(mark), WIDTH - RIGHT, y(mark), "grid"), axes.label(LEFT - 5, y(mark) + 4, f"{mark:g}",
             "tick", "end"))
        for mark in axes.ticks(low, high, 4)
    ]  # fmt: skip
    text = f"What {name} adds: from {min(map(min, curves)):.3g} to {max(map(max, curves)):.3g}."
    parts = (*grid, axes.line(LEFT, y(0.0), WIDTH - RIGHT, y(0.0), "axis"), *draw(shape, curves, y))
    return tag("figure", tag("figcaption", name), axes.drawing(WIDTH, HEIGHT, f"What {name} adds", text, *parts))


def _line(shape: Json, curves: Sequence[Sequence[float]], y: axes.Scale) -> list[Markup]:
    at = [float(place) for place in shape["at"]]
    x = axes.Scale(at[0], at[-1], LEFT, WIDTH - RIGHT)
    parts = []
    for number, curve in enumerate(curves):
        colour = axes.PALETTE[number % len(axes.PALETTE)]
        points = [(x(place), y(value)) for place, value in zip(at, curve, strict=True)]
        if shape.get("band"):
            parts.append(_band(at, curve, shape["band"], x, y, colour))
        parts.append(tag("polyline", points=_path(points), fill="none", stroke=colour, stroke_width=2.0,
                         stroke_dasharray=axes.DASHES[number % len(axes.DASHES)]))  # fmt: skip
    bottom = HEIGHT - BOTTOM + 15
    ends = (
        axes.label(LEFT, bottom, f"{at[0]:g}", "tick"),
        axes.label(WIDTH - RIGHT, bottom, f"{at[-1]:g}", "tick", "end"),
    )
    return [*parts, *ends]


def _band(
    at: Sequence[float], curve: Sequence[float], band: Sequence[float], x: axes.Scale, y: axes.Scale, colour: str
) -> Markup:
    above = [(x(p), y(v + BAND * s)) for p, v, s in zip(at, curve, band, strict=True)]
    below = [(x(p), y(v - BAND * s)) for p, v, s in zip(at, curve, band, strict=True)]
    return tag("polygon", points=_path([*above, *reversed(below)]), fill=colour, fill_opacity=0.15)


def _levels(shape: Json, curves: Sequence[Sequence[float]], y: axes.Scale) -> list[Markup]:
    names = [str(name) for name in shape["at"]][:MOST_LEVELS]
    step = (WIDTH - RIGHT - LEFT) / len(names)
    parts = []
    for place, name in enumerate(names):
        middle = LEFT + (place + 0.5) * step
        for number, curve in enumerate(curves):
            colour, offset = axes.PALETTE[number % len(axes.PALETTE)], (number - (len(curves) - 1) / 2) * 6
            if shape.get("band"):
                half = BAND * float(shape["band"][place])
                ends = y(curve[place] - half), y(curve[place] + half)
                parts.append(tag("line", x1=middle + offset, x2=middle + offset, y1=ends[0], y2=ends[1], stroke=colour,
                                 stroke_width=5.0, stroke_opacity=0.25))  # fmt: skip
            parts.append(axes.dot(colour, 4)(middle + offset, y(curve[place])))
        short = name if len(name) <= SHOWN else f"{name[: SHOWN - 1]}\u2026"
        parts.append(tag("text", short, class_="tick", text_anchor="end",
                         transform=f"translate({middle + 3:.1f} {HEIGHT - BOTTOM + 10:.1f}) rotate(-35)"))  # fmt: skip
    return parts


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
