"""Looks at new models are part of the plan: they cost what `canary_epsilon` says, and much noise is said beforehand."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from fedinfer.config import Scenario, load_scenario
from fedinfer.coordinator.plan.canary import USUAL_LUCK, WRONG_PASS_RATE, WRONG_STOP_RATE, pushes
from fedinfer.coordinator.plan.cohort import Population
from fedinfer.coordinator.plan.run_plan import RunPlan, make_plan
from fedinfer.errors import ConfigError
from fedinfer.privacy.accounting.accountant import account
from fedinfer.privacy.accounting.events import GaussianEvent, Repeated
from fedinfer.privacy.charges import relation_of
from fedinfer.rollout.evaluations import WIDTH, centres, gates_of, read_sum
from fedinfer.rollout.gates import GateSettings, Verdict, judge
from fedinfer.rollout.waves import Wave, plan_waves, wave_sizes


def digits(*overrides: str) -> Scenario:
    return load_scenario("digits", list(overrides))


def plan(scenario: Scenario, devices: int = 200) -> RunPlan:
    return make_plan(scenario, Population(devices, 5 * devices, 2, 650, 10), "test", ())


REFUSE = "rollout.unjudgeable=refuse"


def look_warnings(planned: RunPlan) -> list[str]:
    return [text for text in planned.warnings if "of a canary evaluation" in text]


def test_looks_cost_their_part_and_everything_together_the_budget() -> None:
    planned = plan(digits())
    assert planned.planned is not None
    assert 1.4 < planned.gate_epsilon <= 1.5
    assert planned.planned.epsilon <= 8.0
    assert [settings.norm for settings in planned.gates] == [1.0, 1.0]
    assert not look_warnings(planned)


def test_every_push_is_counted_and_the_waves_of_one_push_are_disjoint() -> None:
    scenario = digits("privacy.trust=central", "drift.max_triggers=2")
    planned = plan(scenario)
    evaluations = [Repeated(GaussianEvent(planned.gate_noise_multiplier), 3)]
    assert planned.push == (GaussianEvent(planned.gate_noise_multiplier),)
    relation = relation_of(scenario.privacy.unit)
    assert pushes(scenario) == 3
    assert planned.gate_epsilon == pytest.approx(account(evaluations, scenario.privacy.delta, relation).epsilon)


def test_disjoint_waves_need_less_noise_than_waves_that_add_up() -> None:
    """5.17 when both waves of a push were charged to every device."""
    assert plan(digits()).gate_noise_multiplier < 3.7


def test_training_pays_for_looks_with_noise() -> None:
    assert plan(digits()).noise_multiplier > plan(digits("rollout.canary_epsilon=0")).noise_multiplier


def test_without_a_part_of_the_budget_nobody_looks() -> None:
    planned = plan(digits("rollout.canary_epsilon=0"))
    assert planned.gates == ()
    assert planned.gate_epsilon == planned.gate_noise_multiplier == 0


def test_without_privacy_looks_cost_nothing_and_have_no_noise() -> None:
    planned = plan(digits("privacy.unit=none"))
    assert len(planned.gates) == 2
    assert planned.gate_noise_multiplier == 0
    assert planned.planned is None


def test_looks_may_not_eat_the_whole_budget() -> None:
    with pytest.raises(ConfigError, match="leaves nothing"):
        plan(digits("rollout.canary_epsilon=8"))


def test_a_wave_of_one_device_cannot_be_looked_at() -> None:
    with pytest.raises(ConfigError, match=r"wave 1 has 1 devices.*below the minimum aggregation size") as caught:
        plan(digits(REFUSE, "secure_aggregation.corruption_rate=0"), devices=2)
    assert "canary_epsilon = 0" in caught.value.hint


@pytest.mark.parametrize("devices", [10, 40, 60])
def test_looks_that_can_decide_nothing_are_refused_with_numbers_that_would_do(devices: int) -> None:
    with pytest.raises(ConfigError, match=rf"in the mean of {devices // 2} devices") as caught:
        plan(digits(REFUSE), devices)
    hint = caught.value.hint
    enough = re.search(r"(\d+) devices", hint)
    assert enough is not None
    assert plan(digits(REFUSE), int(enough[1])).gates
    with pytest.raises(ConfigError):
        plan(digits(REFUSE), int(enough[1]) - 1)
    for remedy in re.findall(r"(rollout\.(?:waves|canary_epsilon)) = (\S+?)[;,]? ", hint):
        if remedy[1] != "0)":
            assert plan(digits(REFUSE, "=".join(remedy)), devices).gates


def test_nobody_looks_where_the_scenario_says_acknowledge_and_the_plan_says_so() -> None:
    planned = plan(digits("rollout.unjudgeable=acknowledge"), 40)
    assert planned.gates == ()
    assert planned.gate_epsilon == 0
    (warning,) = (text for text in planned.warnings if "no canary evaluation" in text)
    assert "20 devices" in warning
    assert "what they do not catch reaches everybody" in warning
    # What looks would have cost is there for training.
    assert planned.noise_multiplier == plan(digits("rollout.canary_epsilon=0"), 40).noise_multiplier


def test_looks_can_be_kept_although_they_will_often_hold_a_good_model() -> None:
    planned = plan(digits("rollout.canary_epsilon=0.3", "rollout.unjudgeable=hold"))
    (warning,) = look_warnings(planned)
    assert len(planned.gates) == 2
    assert "will often hold a good model" in warning
    assert "100 devices" in warning


def test_waves_that_hide_nobody_cannot_be_kept() -> None:
    with pytest.raises(ConfigError, match="minimum aggregation size is 2 honest devices"):
        plan(digits("rollout.unjudgeable=hold"), devices=3)


def test_a_flawless_model_passes_where_the_plan_has_no_trouble() -> None:
    """The least fleet that is proposed, at usual bad luck of the noise: the gates say pass."""
    scenario = digits(REFUSE)
    planned = plan(scenario, 152)
    privacy, section = scenario.privacy, scenario.rollout
    for settings, size in zip(planned.gates, wave_sizes(152, section.waves), strict=True):
        std = settings.mechanism.noise_multiplier * math.sqrt(size / settings.mechanism.contributors)
        lucky = np.zeros(WIDTH) - size * centres(section) + USUAL_LUCK * std
        figures = read_sum(lucky, size, std, section, privacy.unit, 20, compared=False)
        gates = GateSettings(gates_of(section, compared=False), 1, WRONG_PASS_RATE, WRONG_STOP_RATE, 1)
        assert judge(gates, [[figures]]).verdict is Verdict.PASS


def test_more_judged_devices_than_a_wave_has_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"min_judged = 150: wave 1 has 100 of 200 devices") as caught:
        plan(digits("rollout.min_judged=150"))
    assert "at most 100" in caught.value.hint
    assert plan(digits("rollout.min_judged=100")).gates


def test_a_run_without_triggers_pushes_once() -> None:
    assert pushes(digits("drift.enabled=false")) == 1
    assert pushes(digits("drift.max_triggers=0")) == 1


@pytest.mark.parametrize("devices", [1, 2, 3, 7, 10, 200])
@pytest.mark.parametrize("fractions", [(1.0,), (0.25, 1.0), (0.01, 0.02, 1.0), (0.1, 0.4, 1.0)])
def test_wave_sizes_are_those_of_the_rollout(devices: int, fractions: tuple[float, ...]) -> None:
    fleet: dict[str, dict[str, str]] = {f"d{i}": {} for i in range(devices)}
    planned = plan_waves(fleet, [Wave(fraction) for fraction in fractions], "salt")
    assert wave_sizes(devices, fractions) == tuple(wave.size for wave in planned)
