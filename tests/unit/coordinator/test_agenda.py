"""What a run has still to do: the order of steps, and what an alarm adds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fedinfer.coordinator.agenda import DRIFT, INITIAL, Agenda, RunStep, after, retrained, whole_run


def walked(agenda: Agenda) -> list[RunStep]:
    steps = []
    while (step := agenda.next) is not None:
        steps.append(step)
        agenda = after(agenda)
    return steps


def test_a_run_trains_pushes_and_watches() -> None:
    expected = [RunStep.ROUND] * 2 + [RunStep.PUBLISH, RunStep.ROLL_OUT] + [RunStep.WINDOW] * 3
    assert walked(whole_run(2, 3)) == expected
    assert whole_run(2, 3).reason == INITIAL


def test_a_run_without_rounds_and_windows_pushes() -> None:
    assert walked(whole_run(0, 0)) == [RunStep.PUBLISH, RunStep.ROLL_OUT]


def test_nothing_follows_the_last_step() -> None:
    assert after(Agenda()) == Agenda()


def test_rounds_that_belong_together_are_remembered_until_their_version_is_published() -> None:
    agenda = whole_run(2, 1)
    for _ in range(2):
        agenda = after(agenda)
        assert agenda.together == 2
    assert after(agenda).together == 0


def test_an_earlier_version_is_brought_back_before_the_next_window() -> None:
    assert walked(Agenda(windows=2, reuse=1)) == [RunStep.REUSE, RunStep.WINDOW, RunStep.WINDOW]


@given(left=st.integers(0, 5), rounds=st.integers(0, 4), wanted=st.integers(0, 6))
def test_an_alarm_adds_rounds_a_push_and_the_windows_that_are_missing(left: int, rounds: int, wanted: int) -> None:
    agenda, more = retrained(Agenda(windows=left), rounds, wanted)
    assert agenda.reason == DRIFT
    assert more == max(wanted - left, 0)
    push = [RunStep.PUBLISH, RunStep.ROLL_OUT]
    assert walked(agenda) == [RunStep.ROUND] * rounds + push + [RunStep.WINDOW] * max(left, wanted)
