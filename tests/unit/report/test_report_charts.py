from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedinfer.report import axes
from fedinfer.report.loop_chart import loop_chart
from fedinfer.report.small_charts import bars, latency_chart
from fedinfer.report.timeline import ROUND, WINDOW, LoopStep, steps
from tests.unit.report import sample_runs

WIDTHS = (900.0, 326.0)
SVG = "{http://www.w3.org/2000/svg}"
SHARE = st.none() | st.floats(0, 1)
POSITIVE = st.floats(0, 1e12)
CHANNELS = st.lists(st.tuples(st.sampled_from(["a", "b", "<c>"]), POSITIVE), max_size=3, unique_by=lambda pair: pair[0])
STEPS = st.builds(
    LoopStep,
    kind=st.sampled_from([ROUND, WINDOW]),
    label=st.integers(0, 9999).map(str),
    phase=st.sampled_from(["initial", "watching", "drift", "manual & more"]),
    metric=SHARE | st.floats(-1e6, 1e6),
    epsilon=st.none() | POSITIVE,
    aborted=st.booleans(),
    ratios=CHANNELS.map(tuple),
    alarms=st.lists(st.text(max_size=3), max_size=2).map(tuple),
    versions=st.lists(st.sampled_from(["1", "v2"]), max_size=2).map(tuple),
)


def _inside(svg: str) -> None:
    """Well formed, no NaN, and every place lies in the drawing (text and markers may stand out by their size)."""
    assert not re.search(
        r"\b(nan|inf)\b", re.sub(r"<(desc|title|text)[^>]*>.*?</\1>|aria-label=\"[^\"]*\"", "", svg), re.I
    )
    root = ElementTree.fromstring(svg)
    _, _, width, height = (float(part) for part in root.attrib["viewBox"].split())
    for element in root.iter():
        for key, limit in (
            ("x", width),
            ("x1", width),
            ("x2", width),
            ("cx", width),
            ("y", height),
            ("y1", height),
            ("cy", height),
        ):
            if key in element.attrib and element.tag != SVG + "svg":
                assert -9 <= float(element.attrib[key]) <= limit + 9, (element.tag, element.attrib)


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, min_size=1, max_size=40), st.none() | st.floats(1e-6, 1e6), st.sampled_from(WIDTHS))
def test_any_steps_give_a_drawing_inside_its_frame(
    sequence: list[LoopStep], budget: float | None, width: float
) -> None:
    _inside(loop_chart(sequence, "accuracy", budget, width))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("make", [sample_runs.digits, sample_runs.heart, sample_runs.aborted])
def test_sample_runs_are_drawn(make: object, width: float) -> None:
    assert callable(make)
    run, events = make()
    _inside(loop_chart(steps(run, events), "accuracy", 8.0, width))


def test_one_marker_per_step_and_the_story_in_words() -> None:
    run, events = sample_runs.digits(initial=5, after=3, windows=6, inject_at=3)
    svg = loop_chart(steps(run, events), "accuracy", 8.0, 900.0)
    root = ElementTree.fromstring(svg)
    colours = [element.attrib.get("fill") for element in root.iter(SVG + "circle")]
    assert colours.count(axes.PALETTE[0]) == 7  # 8 rounds, one aborted
    words = root.findtext(SVG + "desc") or ""
    assert "8 rounds and 6 drift windows, 1 with an alarm" in words
    assert "of 8" in words


@given(st.floats(0, 1e9), st.floats(0, 1e9), st.sampled_from((460.0, 326.0)))
def test_any_latency_is_drawn(p50: float, p99: float, width: float) -> None:
    _inside(latency_chart(min(p50, p99), max(p50, p99), width))


@given(st.lists(st.tuples(st.text(max_size=5), st.floats(-2, 2), st.just("#000")), min_size=1, max_size=4))
def test_any_bars_are_drawn(values: list[tuple[str, float, str]]) -> None:
    _inside(bars("title", values, 326.0))


@given(st.floats(-1e9, 1e9), st.floats(1e-9, 1e9), st.integers(2, 9))
def test_ticks_are_few_round_and_inside(low: float, span: float, most: int) -> None:
    high = low + span
    found = axes.ticks(low, high, most)
    assert len(found) <= most + 1
    slack = 1e-8 * (span + abs(low))
    assert all(low - slack <= value <= high + slack for value in found)


def test_ticks_of_known_ranges() -> None:
    assert axes.ticks(0, 1, 5) == (0.0, 0.5, 1.0)
    assert axes.ticks(0.38, 0.95, 5) == (0.4, 0.6, 0.8)
    assert axes.ticks(0, 10, 4) == (0.0, 5.0, 10.0)
    assert axes.ticks(2, 2, 4) == (2,)


def test_a_scale_draws_what_is_outside_at_the_border() -> None:
    scale = axes.Scale(0.0, 10.0, 100.0, 200.0)
    assert [scale(value) for value in (-5, 0, 5, 10, 99)] == [100.0, 100.0, 150.0, 200.0, 200.0]
    assert math.isfinite(axes.Scale(1.0, 1.0, 0.0, 10.0)(1.0))
