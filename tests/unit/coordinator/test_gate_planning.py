"""Looks at new models are part of the plan: they cost what `gate_epsilon` says, and much noise is said beforehand."""

from __future__ import annotations

import pytest

from fedinfer.config import Scenario, load_scenario
from fedinfer.coordinator.gate_planning import pushes
from fedinfer.coordinator.planning import Population, RunPlan, make_plan
from fedinfer.errors import ConfigError
from fedinfer.privacy.accounting import account
from fedinfer.privacy.charges import relation_of
from fedinfer.privacy.events import GaussianEvent, Repeated
from fedinfer.rollout.waves import Wave, plan_waves, wave_sizes


def digits(*overrides: str) -> Scenario:
    return load_scenario("digits", list(overrides))


def plan(scenario: Scenario, devices: int = 200) -> RunPlan:
    return make_plan(scenario, Population(devices, 5 * devices, 2, 650, 10), "test", ())


def look_warnings(planned: RunPlan) -> list[str]:
    return [text for text in planned.warnings if "look at wave" in text]


def test_looks_cost_their_part_and_everything_together_the_budget() -> None:
    planned = plan(digits())
    assert planned.planned is not None
    assert 1.4 < planned.gate_epsilon <= 1.5
    assert planned.planned.epsilon <= 8.0
    assert [settings.norm for settings in planned.gates] == [1.0, 1.0]
    assert not look_warnings(planned)


def test_every_wave_of_every_push_is_counted() -> None:
    scenario = digits("privacy.trust=central", "drift.max_triggers=2")
    planned = plan(scenario)
    looks = [Repeated(GaussianEvent(planned.gate_noise_multiplier), 3)] * 2
    relation = relation_of(scenario.privacy.unit)
    assert pushes(scenario) == 3
    assert planned.gate_epsilon == pytest.approx(account(looks, scenario.privacy.delta, relation).epsilon)


def test_training_pays_for_looks_with_noise() -> None:
    assert plan(digits()).noise_multiplier > plan(digits("rollout.gate_epsilon=0")).noise_multiplier


def test_without_a_part_of_the_budget_nobody_looks() -> None:
    planned = plan(digits("rollout.gate_epsilon=0"))
    assert planned.gates == ()
    assert planned.gate_epsilon == planned.gate_noise_multiplier == 0


def test_without_privacy_looks_cost_nothing_and_have_no_noise() -> None:
    planned = plan(digits("privacy.unit=none"))
    assert len(planned.gates) == 2
    assert planned.gate_noise_multiplier == 0
    assert planned.planned is None


def test_looks_may_not_eat_the_whole_budget() -> None:
    with pytest.raises(ConfigError, match="leaves nothing"):
        plan(digits("rollout.gate_epsilon=8"))


def test_a_wave_of_one_device_cannot_be_looked_at() -> None:
    with pytest.raises(ConfigError, match=r"wave 1 has 1 devices.*nobody to hide among") as caught:
        plan(digits(), devices=2)
    assert "gate_epsilon = 0" in caught.value.hint


def test_noise_that_would_hold_good_models_is_a_warning() -> None:
    (first, second) = look_warnings(plan(digits("rollout.gate_epsilon=0.3")))
    assert "wave 1" in first
    assert "wave 2" in second
    assert "100 devices" in first


def test_a_run_without_triggers_pushes_once() -> None:
    assert pushes(digits("drift.enabled=false")) == 1
    assert pushes(digits("drift.max_triggers=0")) == 1


@pytest.mark.parametrize("devices", [1, 2, 3, 7, 10, 200])
@pytest.mark.parametrize("fractions", [(1.0,), (0.25, 1.0), (0.01, 0.02, 1.0), (0.1, 0.4, 1.0)])
def test_wave_sizes_are_those_of_the_rollout(devices: int, fractions: tuple[float, ...]) -> None:
    fleet: dict[str, dict[str, str]] = {f"d{i}": {} for i in range(devices)}
    planned = plan_waves(fleet, [Wave(fraction) for fraction in fractions], "salt")
    assert wave_sizes(devices, fractions) == tuple(wave.size for wave in planned)
