"""The picture of the loop: metric, epsilon, drift and model versions, one above the other over the same steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedinfer.report import axes
from fedinfer.report.figures import bound, exact_figure, significant
from fedinfer.report.markup import Markup, join
from fedinfer.report.markup import tag as element
from fedinfer.report.timeline import ROUND, WINDOW, LoopStep, phases

METRIC, SPENT, ALARM = axes.PALETTE[0], axes.PALETTE[2], axes.PALETTE[1]
INK = "#1b2733"
TOP, GAP, TITLE = 26.0, 18.0, 28.0
PANELS = {"metric": 150.0, "epsilon": 100.0, "drift": 120.0, "models": 38.0}
LOWEST_RATIO = 0.01
LEAST_APART = 34.0


@dataclass(frozen=True, slots=True)
class Frame:
    """Where the steps lie: `x(index)` of step number index, between the left and the right border of all panels."""

    width: float
    left: float
    right: float
    x: axes.Scale

    @staticmethod
    def of(width: float, total: int) -> Frame:
        """Borders that leave space for tick labels; a narrow page gets narrow ones.

        Args:
            width: of the drawing, px.
            total: number of steps on the x axis, >= 0.
        """
        left, right = (46.0, width - 14.0) if width < 600 else (54.0, width - 16.0)
        half = (right - left) / max(total, 1) / 2
        return Frame(width, left, right, axes.Scale(0, max(total - 1, 1), left + half, right - half))


def loop_chart(sequence: Sequence[LoopStep], metric: str, budget: float | None, width: float) -> Markup:
    """Draw the steps of a run.

    Args:
        sequence: at least one step.
        metric: name of the metric, for instance "accuracy".
        budget: limit on epsilon, or None.
        width: width of the drawing, px.
    """
    frame = Frame.of(width, len(sequence))
    parts: list[Markup] = []
    top = TOP
    names = [name for name in PANELS if _has(name, sequence)]
    for name in names:
        top += TITLE
        parts.append(_panel(name, sequence, metric, budget, frame, top))
        top += PANELS[name] + GAP
    height = top + 14
    back = (_phase_strip(sequence, frame, top - GAP), _guides(sequence, frame, top - GAP))
    axis = _step_axis(sequence, frame, top - GAP)
    return axes.drawing(
        width, height, "The loop over time", _description(sequence, metric, budget), *back, *parts, axis
    )


def _has(name: str, sequence: Sequence[LoopStep]) -> bool:
    """Whether there is anything to draw in a panel."""
    seen = {
        "metric": any(step.metric is not None or step.aborted for step in sequence),
        "epsilon": any(step.epsilon is not None for step in sequence),
        "drift": any(step.ratios or step.alarms for step in sequence),
        "models": any(step.versions for step in sequence),
    }
    return seen[name]


def _panel(
    name: str, sequence: Sequence[LoopStep], metric: str, budget: float | None, frame: Frame, top: float
) -> Markup:
    bottom = top + PANELS[name]
    if name == "metric":
        return _metric_panel(sequence, metric, frame, top, bottom)
    if name == "epsilon":
        return _epsilon_panel(sequence, budget, frame, top, bottom)
    if name == "drift":
        return _drift_panel(sequence, frame, top, bottom)
    return _model_panel(sequence, frame, top, bottom)


def _metric_panel(sequence: Sequence[LoopStep], metric: str, frame: Frame, top: float, bottom: float) -> Markup:
    values = [step.metric for step in sequence if step.metric is not None]
    low, high = (
        axes.padded(values or [0.0, 1.0], least=0.1, floor=0.0, ceiling=1.0)
        if _share(values)
        else axes.padded(values, 0.1)
    )
    y = axes.Scale(low, high, bottom, top)
    rounds = [
        (frame.x(i), y(s.metric))
        for i, s in enumerate(sequence)
        if s.kind == ROUND and s.metric is not None and not s.aborted
    ]
    windows = [(frame.x(i), y(s.metric)) for i, s in enumerate(sequence) if s.kind == WINDOW and s.metric is not None]
    both = sorted(rounds + windows)
    failed = [(frame.x(i), bottom - 8) for i, step in enumerate(sequence) if step.aborted]
    size = 3.0 if len(sequence) <= 80 else 1.8
    return join(
        _grid(frame, y, axes.ticks(low, high, 5)),
        axes.label(0, top - 11, f"{metric[:1].upper()}{metric[1:]} (axis from {low:.3g} to {high:.3g})", "panel"),
        axes.path(both, METRIC),
        axes.markers(rounds, axes.dot(METRIC, size)),
        axes.markers(windows, axes.square(METRIC, size)),
        axes.markers(failed, axes.cross(INK)),
    )


def _share(values: Sequence[float]) -> bool:
    return all(0.0 <= value <= 1.0 for value in values)


def _epsilon_panel(
    sequence: Sequence[LoopStep], budget: float | None, frame: Frame, top: float, bottom: float
) -> Markup:
    spent = [(index, step.epsilon) for index, step in enumerate(sequence) if step.epsilon is not None]
    high = max([value for _, value in spent] + ([budget] if budget is not None else [])) * 1.25 or 1.0
    y = axes.Scale(0.0, high, bottom, top)
    places = [(frame.x(index), y(value)) for index, value in spent]
    places.append((frame.right, places[-1][1]))
    limit = None
    if budget is not None:
        words = f"budget {exact_figure(budget)}"
        limit = join(
            axes.line(frame.left, y(budget), frame.right, y(budget), "limit", "7 4"),
            axes.label(frame.left + 4, y(budget) - 5, words, "note"),
        )
    return join(
        _grid(frame, y, axes.ticks(0.0, high, 4)),
        axes.label(0, top - 11, "Privacy spent (epsilon, all releases so far)", "panel"),
        axes.path(axes.stairs(places), SPENT),
        limit,
    )


def _drift_panel(sequence: Sequence[LoopStep], frame: Frame, top: float, bottom: float) -> Markup:
    channels = list(dict.fromkeys(channel for step in sequence for channel, _ in step.ratios))
    ratios = [ratio for step in sequence for _, ratio in step.ratios]
    low = math.floor(math.log10(max(min(ratios, default=0.1), LOWEST_RATIO)))
    high = math.ceil(math.log10(max(max(ratios, default=1.0), 2.0)))
    y = axes.Scale(min(low, -1), high, bottom, top)
    lines = [_channel(sequence, channel, place, frame, y) for place, channel in enumerate(channels)]
    raised = [(frame.x(index), top + 8) for index, step in enumerate(sequence) if step.alarms]
    return join(
        _grid(frame, y, tuple(range(int(y.low), int(y.high) + 1)), power=True),
        axes.label(0, top - 11, "Drift statistic / alarm threshold (log)", "panel"),
        axes.line(frame.left, y(0), frame.right, y(0), "limit", "7 4"),
        axes.label(frame.right, y(0) - 5, "alarm threshold", "note", "end"),
        *lines,
        axes.markers(raised, axes.triangle(ALARM)),
    )


def _channel(sequence: Sequence[LoopStep], channel: str, place: int, frame: Frame, y: axes.Scale) -> Markup:
    """One line per stretch of windows: nothing was measured between them."""
    colour, dash = channel_style(place)
    stretches = []
    for _, first, last in phases(sequence):
        points = [
            (frame.x(index), y(math.log10(max(ratio, LOWEST_RATIO))))
            for index in range(first, last + 1)
            for name, ratio in sequence[index].ratios
            if name == channel
        ]
        stretches.append(join(axes.path(points, colour, dash), axes.markers(points, axes.dot(colour, 2.6))))
    return join(*stretches)


def channel_style(place: int) -> tuple[str, str | None]:
    """Colour and dash of the channel at a place; they repeat after as many as there are.

    Args:
        place: of the channel among all, from 0.

    Returns:
        CSS colour, and SVG dash pattern (None: solid).
    """
    styles = (axes.PALETTE[3], axes.PALETTE[4], axes.PALETTE[0], axes.PALETTE[2])
    return styles[place % len(styles)], axes.DASHES[place % len(axes.DASHES)]


def _model_panel(sequence: Sequence[LoopStep], frame: Frame, top: float, bottom: float) -> Markup:
    middle = (top + bottom) / 2 - 10
    pushed = [(frame.x(index), step.versions[-1]) for index, step in enumerate(sequence) if step.versions]
    names, free = [], -math.inf
    for x, version in pushed:
        words = version if version.startswith("v") else f"v{version}"
        half = 3.5 * len(words)
        if x - half > free:
            place = min(max(x, frame.left + half), frame.right - half)
            names.append(axes.label(place, bottom - 6, words, "tick", "middle"))
            free = x + half + 4
    return join(
        axes.label(0, top - 11, "Model versions pushed to devices", "panel"),
        axes.line(frame.left, middle, frame.right, middle, "grid"),
        axes.markers([(x, middle) for x, _ in pushed], axes.diamond(INK)),
        *names,
    )


def _grid(frame: Frame, y: axes.Scale, values: Sequence[float], power: bool = False) -> Markup:
    return join(
        *(
            join(
                axes.line(frame.left, y(value), frame.right, y(value), "grid"),
                axes.label(frame.left - 6, y(value) + 4, f"{10.0**value:g}" if power else f"{value:g}", "tick", "end"),
            )
            for value in values
        )
    )


def _phase_strip(sequence: Sequence[LoopStep], frame: Frame, bottom: float) -> Markup:
    half = (frame.x(1) - frame.x(0)) / 2 if len(sequence) > 1 else (frame.right - frame.left) / 2
    parts = []
    for phase, first, last in phases(sequence):
        start, end = frame.x(first) - half, frame.x(last) + half
        words = next((words for words in _phase_names(phase) if 6.3 * len(words) < end - start), None)
        shade = "watch" if phase == "watching" else "train"
        parts.append(element("rect", x=start, y=0, width=end - start, height=bottom, class_=shade))
        if words is not None:
            parts.append(axes.label((start + end) / 2, 17, words, "phase", "middle"))
    return join(*parts)


def _phase_names(phase: str) -> tuple[str, ...]:
    """Names of a phase from long to short; the longest that fits is written."""
    names = {
        "watching": ("watching for drift", "watching", "watch", "w"),
        "initial": ("first training", "training", "train", "t"),
        "drift": ("training after alarm", "after alarm", "alarm", "t"),
    }
    return names.get(phase, (phase, phase[:1]))


def _guides(sequence: Sequence[LoopStep], frame: Frame, bottom: float) -> Markup:
    """A vertical line through all panels at each alarm."""
    return join(
        *(
            axes.line(frame.x(index), TOP, frame.x(index), bottom, "alarm", "3 3")
            for index, step in enumerate(sequence)
            if step.alarms
        )
    )


def _step_axis(sequence: Sequence[LoopStep], frame: Frame, bottom: float) -> Markup:
    """Names of steps: the first of each phase before all others, then as many as fit."""
    starts = [first for _, first, _ in phases(sequence)]
    chosen: list[int] = []
    for index in (*starts, *range(len(sequence))):
        if all(abs(frame.x(index) - frame.x(other)) >= LEAST_APART for other in chosen):
            chosen.append(index)
    return join(
        axes.line(frame.left, bottom, frame.right, bottom, "axis"),
        *(axes.label(frame.x(index), bottom + 15, step_name(sequence[index]), "tick", "middle") for index in chosen),
    )


def step_name(step: LoopStep) -> str:
    """A round as r3, a window as w3.

    Args:
        step: a round or a window.
    """
    return f"{'w' if step.kind == WINDOW else 'r'}{step.label}"


def _description(sequence: Sequence[LoopStep], metric: str, budget: float | None) -> str:
    rounds = sum(step.kind == ROUND for step in sequence)
    alarms = sum(bool(step.alarms) for step in sequence)
    last = next((step.metric for step in reversed(sequence) if step.metric is not None), None)
    spent = next((step.epsilon for step in reversed(sequence) if step.epsilon is not None), None)
    return (
        f"{rounds} rounds and {len(sequence) - rounds} drift windows, {alarms} with an alarm. "
        f"Last {metric} {significant(last)}, epsilon spent {bound(spent)} of {exact_figure(budget)}."
    )
