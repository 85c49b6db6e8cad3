from __future__ import annotations

import pytest

from fedinfer.report.timeline import ROUND, WINDOW, phases, steps
from tests.unit.report import sample_runs


def test_events_give_the_order_the_ratios_and_the_versions() -> None:
    run, events = sample_runs.digits(initial=3, after=2, windows=6, inject_at=3)
    found = steps(run, events)
    assert [(step.kind, step.label) for step in found] == [
        *[(ROUND, str(n)) for n in (1, 2, 3)],
        *[(WINDOW, str(n)) for n in (1, 2, 3, 4)],
        *[(ROUND, str(n)) for n in (4, 5)],
        *[(WINDOW, str(n)) for n in (5, 6)],
    ]
    assert [step.versions for step in found if step.versions] == [("1",), ("2",)]
    assert [step.label for step in found if step.alarms] == ["4"]
    assert found[6].alarms == sample_runs.SHOWN
    statistic = next(event for event in events if event["event"] == "window")["channels"][0]["statistic"]
    assert found[3].ratios[0] == (sample_runs.SHOWN[0], pytest.approx(statistic / 11.3))


def test_without_events_run_json_gives_the_same_steps() -> None:
    run, events = sample_runs.digits(initial=4, after=2, windows=6, inject_at=3)
    assert steps(run, []) == steps(run, events)


def test_a_version_that_serves_again_stands_at_its_window() -> None:
    run, events = sample_runs.digits(initial=3, after=2, windows=6, inject_at=3)
    run["models"].append(run["models"][0] | {"version": 3, "reason": "reuse"})
    with_it = steps(run, [*events, {"event": "reused", "version": 3}])
    assert [step.versions for step in with_it if step.versions] == [("1",), ("2",), ("3",)]
    assert with_it[-1].versions == ("3",)
    assert [step.versions for step in steps(run, []) if step.versions] == [("1",), ("2",)], "its window is not known"


def test_without_events_and_timeline_the_windows_are_counted() -> None:
    run, events = sample_runs.digits(initial=4, after=2, windows=6, inject_at=3)
    del run["drift"]["timeline"]
    counted, whole = steps(run, []), steps(run, events)
    assert [(s.kind, s.label, s.alarms) for s in counted] == [(s.kind, s.label, s.alarms) for s in whole]
    assert all(step.ratios == () for step in counted)


def test_phases_are_runs_of_equal_names() -> None:
    run, events = sample_runs.digits(initial=3, after=2, windows=6, inject_at=3)
    assert phases(steps(run, events)) == (("initial", 0, 2), ("watching", 3, 6), ("drift", 7, 8), ("watching", 9, 10))
    assert phases(()) == ()


def test_an_aborted_round_is_marked() -> None:
    run, events = sample_runs.aborted()
    assert all(step.aborted and step.metric is None for step in steps(run, events))


@pytest.mark.parametrize("threshold", [0, -1, "nan", None, "x"])
def test_a_threshold_that_divides_nothing_gives_no_ratio(threshold: object) -> None:
    tests = [{"channel": "c", "statistic": 1.0, "threshold": threshold}]
    (step,) = steps({}, [{"event": "window", "window": 1, "channels": tests}])
    assert step.ratios == ()
