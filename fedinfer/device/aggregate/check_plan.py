"""What a device checks about a plan before it takes part: the server proposes, the device's owner decides.

Rules, each with a test in tests/protocol/test_device_plans.py. A plan is refused
* that is of another run, or comes after a certificate of the roster or the revocation list has expired;
* that does not name this device, or has a smaller minimum aggregation size than its owner demands;
* that protects another unit, or trusts somebody else with the noise, than the run this device joined;
* whose mechanism does not bound exactly what this device is going to send: its clipping norm is the one this device
  clips to (of an adaptive run: that of update and bit in units of the round's norm, whatever that is), so nobody can
  make an epsilon appear smaller by naming another norm;
* whose cohort is a group that the published seed does not give;
* that claims sampling or local steps for work that has none;
* that asks for a report in which one row moves more than a count in each histogram (unit `example`);
* that counts noise of more devices than are honest and present by the owner's own assumption;
* that correlates noise where the run it joined does not, or over other rounds. The participation schedule is kept by
  fedinfer.device.session_store, which remembers the device's last round.
"""

from __future__ import annotations

from typing import assert_never

from fedinfer.config import Correlation
from fedinfer.device.host import Host
from fedinfer.drift import chosen_channels, report_norm
from fedinfer.errors import Misbehaviour
from fedinfer.messages import INDEPENDENT, Purpose, SumPlan
from fedinfer.metrics import HISTOGRAM_NORM
from fedinfer.privacy import Work, charge, clipping_of, mechanism_of, noise_model, promise_in
from fedinfer.rollout import NORM
from fedinfer.secagg import check_group, corrupt_among, most_corrupt, rate_of
from fedinfer.types import DeviceId, Unit


def check_plan(host: Host, plan: SumPlan, device: DeviceId) -> None:
    """Refuse a plan that this device's owner would not agree to.

    Args:
        host: wiring of this process; it has joined the run.
        plan: as the server sent it.
        device: whose part is asked for.

    Raises:
        Misbehaviour: says what is wrong, with numbers.
        ConfigError: as `check_plan_of_all`.
    """
    check_plan_of_all(host, plan)
    check_member(plan, device)


def check_member(plan: SumPlan, device: DeviceId) -> None:
    """Refuse a plan that does not name a device.

    Args:
        plan: as the server sent it.
        device: whose part is asked for.

    Raises:
        Misbehaviour: the device is not in the cohort.
    """
    if device not in plan.cohort:
        raise Misbehaviour(f"device {device} is not in the cohort of round {plan.round_id}")


def check_plan_of_all(host: Host, plan: SumPlan) -> None:
    """What `check_plan` says to every device of a host alike.

    Args:
        host: wiring of this process; it has joined the run.
        plan: as the server sent it.

    Raises:
        Misbehaviour: says what is wrong, with numbers.
        ConfigError: the run names channels that there are not, or that bound nobody's influence.
    """
    _check_place(host, plan)
    _check_promise(host, plan)
    _check_work(plan)
    _check_schedule(host, plan)
    _own_norm(host, plan)  # whoever adds the noise: without a norm there is none that fits
    if noise_model(plan.trust, plan.unit).noise_in_ring:
        _check_mechanism(host, plan)
    charge(plan)  # refuses a plan whose parts contradict each other
    promise_in(plan, "")  # refuses one whose promise cannot be read


def corruption_rate(host: Host, plan: SumPlan) -> float:
    """Part of the cohort that may work for the attacker, by the owner's own assumption about all devices.

    A random group of many devices holds more than its share of the corrupt ones about every second time.

    Args:
        host: holds the owner's policy.
        plan: names cohort and grouping.

    Returns:
        In [0, 1): the owner's rate for a single group, a larger one for a random group.
    """
    rate, split = host.policy.corruption_rate, plan.split
    if split.groups == 1:
        return rate
    size, everyone = len(plan.cohort), len(split.everyone)
    return rate_of(most_corrupt(everyone, corrupt_among(everyone, rate), size, split.groups), size)


def _check_place(host: Host, plan: SumPlan) -> None:
    if plan.run_id != host.joined().run_id:
        raise Misbehaviour(f"plan of run {plan.run_id!r}, this device joined {host.joined().run_id!r}")
    host.check_roster()
    check_group(plan.cohort, plan.split)
    if not host.policy.min_survivors <= plan.min_survivors <= len(plan.cohort):
        raise Misbehaviour(
            f"the plan promises {plan.min_survivors} survivors of {len(plan.cohort)}: the owner's "
            f"min_survivors {host.policy.min_survivors} bound"
        )


def _check_promise(host: Host, plan: SumPlan) -> None:
    privacy = host.joined().scenario.privacy
    if (plan.unit, plan.trust) != (privacy.unit, privacy.trust):
        raise Misbehaviour(
            f"the plan protects a {plan.unit} with {plan.trust} trust, this device joined a run that protects a "
            f"{privacy.unit} with {privacy.trust} trust"
        )


def _check_work(plan: SumPlan) -> None:
    """Sampling happens only where examples are trained on; several noisy steps only where a device trains by itself."""
    training, model = plan.purpose is Purpose.TRAIN, noise_model(plan.trust, plan.unit)
    examples = training and model.unit is Unit.EXAMPLE
    if not examples and plan.sampling_rate != 1:
        raise Misbehaviour(f"sampling rate {plan.sampling_rate} for work that samples nothing")
    if not (training and model.work is Work.PRIVATE_STEPS) and plan.local_steps != 1:
        raise Misbehaviour(f"{plan.local_steps} local steps for work that has one")
    if plan.local_steps < 1:  # a vector that costs nothing
        raise Misbehaviour(f"{plan.local_steps} local steps, a device makes 1 or more")


def _check_schedule(host: Host, plan: SumPlan) -> None:
    scenario, scheduled = host.joined().scenario, plan.scheduled
    correlation = scenario.privacy.correlation if plan.purpose is Purpose.TRAIN else Correlation.NONE
    match correlation:
        case Correlation.BANDED | Correlation.BLT:
            if scheduled.rounds != scenario.most_rounds:
                raise Misbehaviour(
                    f"noise is correlated over {scheduled.rounds} rounds, the run has {scenario.most_rounds}"
                )
        case Correlation.NONE:
            if scheduled != INDEPENDENT:
                raise Misbehaviour(f"correlated noise for purpose {plan.purpose}, where this run has independent noise")
        case _:
            assert_never(correlation)


def _check_mechanism(host: Host, plan: SumPlan) -> None:
    mechanism, norm = mechanism_of(plan), _own_norm(host, plan)
    if mechanism.clipping_norm != norm:
        raise Misbehaviour(f"the mechanism is for clipping norm {mechanism.clipping_norm}, this device clips to {norm}")
    honest = plan.min_survivors - corrupt_among(len(plan.cohort), corruption_rate(host, plan))
    if mechanism.contributors > honest:
        raise Misbehaviour(
            f"noise of {mechanism.contributors} devices is counted, {honest} are surely honest and there: the owner's "
            f"corruption_rate {host.policy.corruption_rate:g} bound"
        )


def _own_norm(host: Host, plan: SumPlan) -> float:
    """The norm to which this device cuts what it sends for this purpose."""
    task = host.joined()
    match plan.purpose:
        case Purpose.TRAIN:
            return clipping_of(task.scenario.privacy).bound
        case Purpose.GATE:
            return NORM
        case Purpose.THRESHOLD:
            return HISTOGRAM_NORM
        case Purpose.DRIFT:
            return report_norm(plan.unit, chosen_channels(task.schema, task.scenario.drift.channels))
        case _:
            assert_never(plan.purpose)
