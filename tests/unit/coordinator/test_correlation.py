"""Turns of a run with correlated noise: who is asked when, which runs may have it, what is remembered."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from fedinfer.coordinator.participation import ParticipationSchedule
from fedinfer.coordinator.plan.cohort import Population
from fedinfer.coordinator.plan.correlation import describe
from fedinfer.coordinator.plan.run_plan import RunPlan, make_plan
from fedinfer.errors import ConfigError, Misbehaviour
from fedinfer.privacy.accounting.accountant import account
from fedinfer.privacy.accounting.events import GaussianEvent, Repeated
from fedinfer.privacy.mechanism.matrix_mechanism import Factorization, Participation, factorize
from fedinfer.privacy.mechanism.noise import SimulatedStream
from fedinfer.system import SimulatedEntropy
from tests.protocol.fleet import settings

FLEET = Population(devices=20, rows=2000, least_rows=60, dimension=14, classes=2)
BANDED = """
privacy.correlation = "banded"
privacy.trust = "central"
privacy.unit = "device"
privacy.epsilon = 8.0
training.rounds = 30
training.cohort = 6
"""


def plan(extra: str = "") -> RunPlan:
    keys = dict(line.split(" = ", 1) for line in (BANDED + extra).strip().splitlines())
    return make_plan(settings("\n".join(f"{key} = {value}" for key, value in keys.items())), FLEET, "test", ())


def stream(name: object) -> SimulatedStream:
    return SimulatedStream(SimulatedEntropy("turns", str(name)))


def schedule(devices: int, cohort: int, rounds: int, order: list[str] | None = None) -> ParticipationSchedule:
    separation = devices // cohort
    strategy = factorize(Participation(rounds, -(-rounds // separation), separation))
    return ParticipationSchedule(strategy, order or [f"d{i:02d}" for i in range(devices)], cohort, 1.0, 3)


@hypothesis_settings(deadline=None)
@given(devices=st.integers(1, 30), share=st.floats(0.0, 1.0), rounds=st.integers(1, 40))
def test_turns_keep_the_pattern_and_leave_nobody_out(devices: int, share: float, rounds: int) -> None:
    cohort = max(1, min(devices, round(share * devices)))
    separation = devices // cohort
    taken: dict[str, list[int]] = {}
    order = schedule(devices, cohort, rounds)
    for index in range(rounds):
        asked = order.take(stream(index))
        assert list(asked.cohort) == sorted(set(asked.cohort))
        assert len(asked.cohort) == cohort
        assert (asked.scheduled.index, asked.scheduled.separation) == (index, separation)
        for device in asked.cohort:
            taken.setdefault(device, []).append(index)
    for indices in taken.values():
        assert len(indices) <= -(-rounds // separation)
        assert all(gap >= separation for gap in np.diff(indices))
    assert len(taken) == min(devices, rounds * cohort), "everybody is asked before anybody is asked again"
    with pytest.raises(Misbehaviour):
        order.take(stream("late"))


def test_fewer_devices_than_planned_are_asked_in_smaller_cohorts() -> None:
    strategy = factorize(Participation(10, 5, 2))
    order = ParticipationSchedule(strategy, list("abcdefg"), 5, 1.0, 3)
    for index in range(10):
        assert len(order.take(stream(index)).cohort) == 3


def test_whoever_would_be_asked_too_early_stops_the_server() -> None:
    order = schedule(4, 2, 10, ["a", "b", "a", "c"])
    order.take(stream(0))
    with pytest.raises(Misbehaviour, match="2 rounds apart were promised"):
        order.take(stream(1))


def test_noise_is_not_printed() -> None:
    order = schedule(4, 2, 10)
    asked = order.take(stream(0))
    assert asked.noise is not None
    assert "noise" not in repr(asked)
    assert "array" not in repr(order)


def test_the_plan_is_one_gaussian_event_and_uses_the_budget() -> None:
    made = plan()
    assert made.factorization is not None
    pattern = made.factorization.participation
    # 20 devices, 6 asked: three rounds apart; five more rounds may be triggered.
    assert (pattern.rounds, pattern.limit, pattern.separation) == (35, 12, 3)
    assert made.planned is not None
    assert made.drift is not None
    events = [Repeated(GaussianEvent(made.drift_noise_multiplier), 5), made.factorization.event(made.noise_multiplier)]
    assert account(events, 1e-5, made.relation).epsilon == pytest.approx(made.planned.epsilon, rel=1e-12)
    assert 0.99 * 8.0 < made.planned.epsilon <= 8.0
    assert (made.sampling, made.planned.accountant) == ("none", "pld")


def test_prefix_sums_are_more_exact_than_with_independent_noise() -> None:
    """The same cohorts and budget: what 35 rounds add up to has a third of the noise."""
    made, plain = plan(), plan('privacy.correlation = "none"')
    assert made.factorization is not None
    assert plain.factorization is None
    in_prefix = made.noise_multiplier * made.factorization.spread()
    assert in_prefix < 0.4 * plain.noise_multiplier


def test_a_record_says_what_is_correlated() -> None:
    made = plan()
    reported = describe(made.factorization)
    assert json.loads(json.dumps(reported)) == reported
    assert (reported["kind"], reported["rounds"], reported["limit"], reported["separation"]) == ("banded", 35, 12, 3)
    assert reported["bands"] > 1
    assert made.factorization is not None
    assert reported["sensitivity"] == made.factorization.sensitivity
    buffered = describe(plan('privacy.correlation = "blt"').factorization)
    assert (buffered["kind"], buffered["rounds"], 1 <= buffered["buffers"] <= 4) == ("blt", 35, True)
    assert describe(None) == {"kind": "none"}
    assert describe(Factorization((1.0,), Participation(5, 5, 1)))["bands"] == 1


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ('privacy.trust = "distributed"', "one party has to remember"),
        ('privacy.trust = "local"', "one party has to remember"),
        ('privacy.unit = "none"', "there is no noise"),
        ('training.robust = "median"\nsecure_aggregation.group_size = 5', "noise of its own"),
        ('privacy.unit = "example"', "sampling_rate = 0.5"),
    ],
)
def test_runs_that_it_does_not_fit_are_refused(extra: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        plan(extra)
    assert "[privacy] correlation = 'banded'" in str(caught.value)
    assert caught.value.hint


def test_unit_example_without_sampling_and_runs_without_rounds() -> None:
    assert plan('privacy.unit = "example"\ntraining.sampling_rate = 1.0').factorization is not None
    assert plan("training.rounds = 0\ndrift.max_triggers = 0").factorization is None
    one = plan("training.rounds = 1\ndrift.max_triggers = 0").factorization
    assert one is not None
    assert (one.sensitivity, len(one.coefficients)) == (1.0, 1)
