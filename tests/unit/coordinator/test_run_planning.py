"""The plan of a run: the whole budget, drift and triggers included, is covered before anybody is asked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from fedinfer.coordinator.plan.cohort import Population
from fedinfer.coordinator.plan.run_plan import IN_THE_FIELD, RunPlan, make_plan
from fedinfer.coordinator.run import budget_of
from fedinfer.errors import ConfigError
from fedinfer.privacy.accounting.events import NonPrivate
from fedinfer.privacy.mechanism.mechanism import NoiseKind
from fedinfer.types import Trust, Unit
from tests.protocol.fleet import settings

FLEET = Population(devices=20, rows=2000, least_rows=60, dimension=14, classes=2)


def plan(extra: str = "", population: Population = FLEET) -> RunPlan:
    return make_plan(settings(extra), population, "test", ())


COMBINATIONS = [(unit, trust) for unit in (Unit.EXAMPLE, Unit.DEVICE) for trust in Trust]


@pytest.mark.parametrize(("unit", "trust"), COMBINATIONS)
def test_everything_together_fits_the_budget_and_uses_it(unit: Unit, trust: Trust) -> None:
    made = plan(f'privacy.unit = "{unit}"\nprivacy.trust = "{trust}"\nprivacy.epsilon = 8.0')
    assert made.planned is not None
    assert 0.95 * 8.0 < made.planned.epsilon <= 8.0
    assert made.drift_epsilon <= 1.0
    assert made.noise_multiplier > 0
    assert made.drift is not None
    assert made.drift_noise_multiplier > 0


@pytest.mark.parametrize("trust", list(Trust))
def test_without_a_unit_nothing_is_planned_to_be_spent(trust: Trust) -> None:
    made = plan(f'privacy.unit = "none"\nprivacy.trust = "{trust}"')
    assert made.planned is None
    assert (made.noise_multiplier, made.drift_noise_multiplier) == (0.0, 0.0)


@pytest.mark.parametrize(("unit", "trust"), COMBINATIONS)
def test_noise_is_in_the_ring_for_trust_distributed_and_outside_it_otherwise(unit: Unit, trust: Trust) -> None:
    made = plan(f'privacy.unit = "{unit}"\nprivacy.trust = "{trust}"\nprivacy.epsilon = 8.0')
    for sums in (made.train, made.drift):
        assert sums is not None
        inside = sums.mechanism.kind is not NoiseKind.NONE
        assert inside == (trust is Trust.DISTRIBUTED)
        assert (sums.noise_multiplier == 0) == inside
    assert (made.train.sampling_rate, made.sampling) == ((0.5, "poisson") if unit is Unit.EXAMPLE else (1.0, "none"))


@hypothesis_settings(max_examples=15, deadline=None)
@given(epsilon=st.floats(2.0, 16.0), more=st.floats(1.1, 3.0))
def test_more_budget_means_less_noise(epsilon: float, more: float) -> None:
    tight, loose = plan(f"privacy.epsilon = {epsilon}"), plan(f"privacy.epsilon = {epsilon * more}")
    assert loose.noise_multiplier < tight.noise_multiplier
    assert loose.drift_noise_multiplier == pytest.approx(tight.drift_noise_multiplier)


def test_rounds_that_an_alarm_may_trigger_are_paid_for_beforehand() -> None:
    without, with_two = plan("drift.max_triggers = 0"), plan("drift.max_triggers = 2\ndrift.rounds = 10")
    assert with_two.noise_multiplier > without.noise_multiplier
    assert (with_two.rounds, with_two.retrain_rounds) == (3, 10)


def test_dishonest_and_vanishing_devices_are_not_counted_on_for_noise() -> None:
    honest, some = (plan(f"secure_aggregation.corruption_rate = {rate}") for rate in (0.0, 0.1))
    assert some.train.mechanism.contributors == honest.train.mechanism.contributors - 2
    assert some.train.mechanism.share_variance > honest.train.mechanism.share_variance
    assert honest.train.mechanism.contributors == honest.train.min_survivors == 15
    (warning,) = (line for line in honest.warnings if "corruption_rate is 0" in line)
    assert "real device" in warning
    assert not [line for line in some.warnings if "corruption_rate" in line]


def test_nothing_is_watched_when_nothing_is_asked_for() -> None:
    made = plan("drift.enabled = false")
    assert made.drift is None
    assert (made.windows, made.drift_epsilon, made.drift_noise_multiplier) == (0, 0.0, 0.0)


def test_without_a_unit_there_is_no_promise() -> None:
    made = plan('privacy.unit = "none"')
    assert made.planned is None
    assert made.noise_multiplier == 0
    assert made.train.mechanism.kind is NoiseKind.NONE
    assert made.train.mechanism.event(1.0) == NonPrivate()
    assert budget_of(settings('privacy.unit = "none"')).epsilon == float("inf")


@pytest.mark.parametrize(
    ("extra", "population", "words"),
    [
        ("training.cohort = 1", FLEET, "below the minimum aggregation size"),
        ('privacy.unit = "device"\ndrift.epsilon = 4.0', FLEET, "leaves nothing"),
        ("rollout.canary_epsilon = 3.9\nrollout.unjudgeable = 'hold'\ndrift.epsilon = 3.9", FLEET, "together cost"),
        ("privacy.epsilon = 0.0001\ndrift.enabled = false", FLEET, "too small to train even one useful round"),
        ("secure_aggregation.dropout_rate = 0.8", FLEET, "devices"),
        ("secure_aggregation.corruption_rate = 0.7", FLEET, "corrupt"),
    ],
)
def test_what_cannot_be_protected_is_refused_with_numbers(extra: str, population: Population, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        plan(extra, population)
    assert any(letter.isdigit() for letter in str(caught.value))


def test_rows_of_windows_have_the_whole_budget_to_themselves() -> None:
    """They are not trained on, so neither pays for the other (unit `example`); a device does both and pays for both."""
    little, much = plan(), plan("drift.epsilon = 4.0")
    assert much.noise_multiplier == pytest.approx(little.noise_multiplier, rel=1e-3)
    assert much.drift_noise_multiplier < little.drift_noise_multiplier / 3
    assert much.planned is not None
    assert much.planned.epsilon <= 4.0
    little, much = (plan(f'privacy.unit = "device"\ndrift.epsilon = {part}') for part in (1.0, 3.0))
    assert much.noise_multiplier > 1.1 * little.noise_multiplier


def test_live_windows_of_a_deployment_share_the_budget_with_training() -> None:
    """Nobody knows whether a case that was predicted in service is a training row too."""
    extra = "drift.epsilon = 4.0"
    simulated, real = plan(extra), make_plan(settings(extra), FLEET, IN_THE_FIELD, ())
    assert real.drift_epsilon <= 0.2 * 4.0
    assert real.noise_multiplier > 1.005 * simulated.noise_multiplier
    assert real.planned is not None
    assert real.planned.epsilon <= 4.0
    assert any("live predictions" in warning for warning in real.warnings)
    assert not any("live predictions" in warning for warning in simulated.warnings)


def test_a_cohort_larger_than_the_population_is_everybody() -> None:
    assert plan("training.cohort = 20").cohort == plan("training.cohort = 0").cohort == 20
    assert plan("training.cohort = 12").cohort == 12
