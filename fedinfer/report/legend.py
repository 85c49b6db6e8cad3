"""What the signs of the loop picture mean; only those that occur are explained."""

from __future__ import annotations

from collections.abc import Sequence

from fedinfer.report import axes
from fedinfer.report.loop_chart import ALARM, INK, METRIC, SPENT, channel_style
from fedinfer.report.markup import Markup, join, tag
from fedinfer.report.timeline import ROUND, WINDOW, LoopStep


def loop_legend(sequence: Sequence[LoopStep]) -> Markup:
    """One entry per sign that occurs in the steps.

    Args:
        sequence: steps that the chart shows.
    """
    rounds = any(step.kind == ROUND and step.metric is not None for step in sequence)
    windows = any(step.kind == WINDOW and step.metric is not None for step in sequence)
    entries = (
        (rounds, axes.dot(METRIC)(12, 7), "after a round, held-out rows"),
        (windows, axes.square(METRIC)(12, 7), "in a window, on the devices"),
        (any(step.aborted for step in sequence), axes.cross(INK)(12, 7), "aborted round"),
        (any(step.epsilon is not None for step in sequence), _stroke(SPENT, None), "epsilon spent"),
        *_channels(sequence),
        (any(step.alarms for step in sequence), axes.triangle(ALARM)(12, 7), "alarm"),
        (any(step.versions for step in sequence), axes.diamond(INK)(12, 7), "model pushed"),
    )
    return tag("ul", *(tag("li", _sign(sign), words) for seen, sign, words in entries if seen), class_="legend")


def line_legend(lines: Sequence[tuple[str, str, str | None]]) -> Markup:
    """One entry per line of a chart.

    Args:
        lines: name, colour and dash of each.
    """
    entries = (tag("li", _sign(_stroke(colour, dash)), name) for name, colour, dash in lines)
    return tag("ul", *entries, class_="legend")


def _channels(sequence: Sequence[LoopStep]) -> list[tuple[bool, Markup, str]]:
    names = list(dict.fromkeys(channel for step in sequence for channel, _ in step.ratios))
    return [(True, _stroke(*channel_style(place)), f"drift: {name}") for place, name in enumerate(names)]


def _stroke(colour: str, dash: str | None) -> Markup:
    return axes.path([(0.0, 7.0), (24.0, 7.0)], colour, dash) or join()


def _sign(sign: Markup) -> Markup:
    return tag("svg", sign, viewBox="0 0 24 14", width=24.0, height=14.0, aria_hidden="true")
