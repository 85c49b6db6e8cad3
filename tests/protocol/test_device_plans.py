"""The rules of `device.aggregate.check_plan`: what a device refuses before it takes part, whatever the server says."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from fedinfer.config import override
from fedinfer.device.aggregate import stages
from fedinfer.errors import Misbehaviour, TransportError
from fedinfer.messages import Kind, Purpose, ReportWork
from fedinfer.ports import Ask
from fedinfer.privacy.accounting.accountant import account
from fedinfer.privacy.accounting.ledger import Budget
from fedinfer.privacy.charges import charge, mechanism_of
from fedinfer.types import Relation, Trust, Unit
from fedinfer.wire import encode
from tests.protocol.fleet import Fleet, enrolled, real, settings, simulated, work


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return simulated(tmp_path, settings(), 4)


def refusal(fleet: Fleet, **changes: object) -> str:
    purpose = changes.pop("purpose", Purpose.TRAIN)
    job = work() if purpose is Purpose.TRAIN else encode(ReportWork(1))
    plan = fleet.promise("round-1", job, purpose=purpose, **changes)  # type: ignore[arg-type]  # changes are fields
    device = min(fleet.hosts)
    answer = fleet.post.ask([Ask(device, Kind.KEYS, encode(plan))], 1.0)[0]
    assert not fleet.ledger(device), "a refused plan must not be charged"
    return f"{answer.error}: {answer.detail}"


def changed_mechanism(fleet: Fleet, **changes: object) -> bytes:
    mechanism = fleet.plan.train.mechanism
    return encode(replace(mechanism, **changes))  # type: ignore[arg-type]  # changes are fields


def test_an_honest_plan_is_taken(fleet: Fleet) -> None:
    assert refusal(fleet) == ": "


def test_a_smaller_clipping_norm_in_the_mechanism_is_refused(fleet: Fleet) -> None:
    """It would halve the norm in the event, and with it every epsilon, while the device still clips to 1."""
    honest = fleet.promise("round-1", work())
    half = changed_mechanism(fleet, clipping_norm=0.5, noise_multiplier=2 * fleet.plan.train.mechanism.noise_multiplier)
    lying = replace(honest, mechanism=half)
    cheap, true = (account(charge(plan), 1e-5, Relation.ADD_REMOVE).epsilon for plan in (lying, honest))
    assert cheap < 0.7 * true, "the attack must pay off, or this test shows nothing"
    assert "clipping norm 0.5, this device clips to 1.0" in refusal(fleet, mechanism=half)


def test_a_mechanism_for_another_norm_is_refused_in_drift_reports(fleet: Fleet) -> None:
    assert fleet.plan.drift is not None
    mechanism = replace(fleet.plan.drift.mechanism, clipping_norm=0.1)
    text = refusal(fleet, purpose=Purpose.DRIFT, mechanism=encode(mechanism))
    assert "clipping norm 0.1" in text


def test_a_mechanism_for_another_norm_is_refused_in_choices_of_a_threshold(fleet: Fleet) -> None:
    """A row adds one count, so a mechanism for half a count would make a choice look half as dear."""
    assert fleet.plan.drift is not None
    mechanism = replace(fleet.plan.drift.mechanism, clipping_norm=0.5)
    plan = fleet.promise("threshold-1", work(), purpose=Purpose.DRIFT, mechanism=encode(mechanism))
    plan = replace(plan, purpose=Purpose.THRESHOLD)
    device = min(fleet.hosts)
    answer = fleet.post.ask([Ask(device, Kind.KEYS, encode(plan))], 1.0)[0]
    assert "clipping norm 0.5, this device clips to 1.0" in answer.detail
    assert not fleet.ledger(device)


@pytest.mark.parametrize("trust", ["distributed", "local"])
def test_a_report_with_a_flag_is_refused_where_rows_are_protected(tmp_path: Path, trust: str) -> None:
    """One row of a window can turn the flag round, and then every row of it counts otherwise."""
    fleet = simulated(tmp_path, settings(f'privacy.trust = "{trust}"'), 4)
    for host in fleet.hosts.values():
        task = host.joined()
        task.scenario = override(task.scenario, {"drift.channels": ["predicted_class", "confidence", "flags"]})
    assert "'flags' needs [privacy] unit = 'device'" in refusal(fleet, purpose=Purpose.DRIFT)


def test_noise_that_fits_the_ring_but_takes_years_to_draw_is_refused(fleet: Fleet) -> None:
    """A share larger than any table is a sum of many samples; so much noise costs the ledger next to nothing."""
    mechanism = fleet.plan.train.mechanism
    wide = replace(mechanism, bits=32)
    endless = replace(wide, noise_multiplier=2.0**31 * math.sqrt(wide.contributors) / (wide.scale * wide.clipping_norm))
    assert math.sqrt(endless.share_variance) < 2**32, "else the older check refuses it"
    assert "one share of noise takes" in refusal(fleet, mechanism=encode(endless), bits=32)


def test_sampling_is_not_credited_to_a_report(fleet: Fleet) -> None:
    """A report sends all rows; a claimed rate of 1 % would make it look a hundred times cheaper."""
    assert "sampling rate 0.01 for work that samples nothing" in refusal(
        fleet, purpose=Purpose.DRIFT, sampling_rate=0.01
    )


def test_sampling_is_not_credited_to_a_device(tmp_path: Path) -> None:
    devices = simulated(tmp_path, settings('[privacy]\nunit = "device"\n'), 4)
    assert "sampling rate 0.1" in refusal(devices, sampling_rate=0.1)


def test_a_plan_that_trusts_somebody_else_is_refused(fleet: Fleet) -> None:
    assert "distributed trust" in refusal(fleet, trust=Trust.CENTRAL, noise_multiplier=10.0)


def test_a_plan_for_another_unit_is_refused(fleet: Fleet) -> None:
    assert "protects a device" in refusal(fleet, unit=Unit.DEVICE)


def test_a_plan_of_another_run_is_refused(fleet: Fleet) -> None:
    """Its charge would go to an account that has not paid for this run's rounds."""
    assert "plan of run 'another', this device joined" in refusal(fleet, run_id="another")


def test_several_local_steps_are_not_credited_to_a_gradient_sum(fleet: Fleet) -> None:
    assert "3 local steps" in refusal(fleet, local_steps=3)


@pytest.mark.parametrize("steps", [0, -1])
def test_a_vector_without_a_step_that_costs_nothing_is_refused(tmp_path: Path, steps: int) -> None:
    fleet = simulated(tmp_path, settings('[privacy]\ntrust = "local"\n'), 4)
    assert refusal(fleet) == ": "
    assert f"Misbehaviour: {steps} local steps, a device makes 1 or more" in refusal(fleet, local_steps=steps)


def test_noise_of_devices_that_may_be_corrupt_is_not_counted(fleet: Fleet) -> None:
    host = fleet.hosts[min(fleet.hosts)]
    host.policy = replace(host.policy, corruption_rate=0.25)
    assert mechanism_of(fleet.promise("round-1", work())).contributors == 2
    claimed = replace(fleet.plan.train.mechanism, contributors=3)
    text = refusal(fleet, mechanism=encode(claimed))
    assert "noise of 3 devices is counted, 2 are surely honest" in text
    assert "owner's corruption_rate 0.25 bound" in text


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.25])
def test_a_rate_below_one_in_n_still_counts_on_one_device(fleet: Fleet, rate: float) -> None:
    host = fleet.hosts[min(fleet.hosts)]
    host.policy = replace(host.policy, corruption_rate=rate)
    claimed = replace(fleet.plan.train.mechanism, contributors=3)
    assert "2 are surely honest" in refusal(fleet, mechanism=encode(claimed))


def test_a_session_that_may_hold_one_honest_vector_is_refused_by_the_owners_rate(fleet: Fleet) -> None:
    """The noise is enough by the owner's rate; the sum is not."""
    host = fleet.hosts[min(fleet.hosts)]
    host.policy = replace(host.policy, corruption_rate=0.5)
    claimed = replace(fleet.plan.train.mechanism, contributors=1)
    assert "one honest vector alone" in refusal(fleet, mechanism=encode(claimed))


def test_a_session_is_checked_against_each_of_the_owners_own_numbers(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, seen = fleet.hosts[min(fleet.hosts)], []

    def refuse(_session: object, *numbers: float) -> None:
        seen.append(numbers)
        raise Misbehaviour("no")

    monkeypatch.setattr(stages, "check_session", refuse)
    host.policy = replace(host.policy, min_survivors=3, dropout_rate=0.21, corruption_rate=0.07)
    assert refusal(fleet) == "Misbehaviour: no"
    assert seen == [(3, 0.21, 0.07)]


def test_a_real_device_refuses_a_run_in_which_the_server_adds_the_noise(tmp_path: Path) -> None:
    scenario = settings('[privacy]\ntrust = "central"\n')
    stores = enrolled(tmp_path / "stores", 4, Budget(5.0, 1e-5))
    with pytest.raises(TransportError, match="trusts central with the noise"):
        real(stores, scenario)


def test_the_refusal_is_typed(fleet: Fleet) -> None:
    assert refusal(fleet, local_steps=3).startswith(Misbehaviour.__name__)
