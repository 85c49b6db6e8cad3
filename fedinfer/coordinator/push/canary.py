"""One private canary evaluation: the devices of a wave judge the new model on their own rows, the server reads the sum.

The server learns the noisy sum of their figures, never those of one device. Its ledger, which stands for every unit,
is charged for a version once, before its first wave: no unit is in two waves of it (fedinfer.coordinator.plan.canary).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedinfer.coordinator.aggregate.promise import sum_plans
from fedinfer.coordinator.aggregate.release import noise_std, release_groups
from fedinfer.coordinator.context import RunAccount, Server
from fedinfer.coordinator.plan.robust import PLAIN_MEAN
from fedinfer.coordinator.plan.run_plan import RunPlan
from fedinfer.errors import Misbehaviour, TooFewSurvivors
from fedinfer.messages import GateWork, Purpose
from fedinfer.rollout import Measured, read_sum
from fedinfer.types import DeviceId, Json
from fedinfer.wire import encode


@dataclass(frozen=True, slots=True)
class CanaryEvaluation:
    """What came of a canary evaluation.

    Args:
        measured: for the rollout; without groups when there was no release: then the wave can never pass.
        detail: why there was none; empty otherwise.
        epsilon: spent by the run so far.
    """

    measured: Measured
    detail: str
    epsilon: float

    @property
    def judged(self) -> int:
        """Devices in the sum."""
        return sum(group.judged for group in self.measured.groups)

    def reported(self) -> Json:
        """Mean of every figure with the standard deviation of its noise, by name."""
        return {
            figure.name: {"mean": figure.total / group.judged, "noise_std": figure.noise_std / group.judged}
            for group in self.measured.groups
            for figure in group.figures
        }


def evaluate_canaries(
    server: Server, plan: RunPlan, work: GateWork, wave: int, devices: Sequence[DeviceId], *, compared: bool
) -> CanaryEvaluation:
    """Ask the devices of a wave for the private sum of their figures.

    Args:
        server: wiring of the run.
        plan: of the run.
        work: version of the model that they judge, and the inference window whose rows they use.
        wave: number of the wave, from 0.
        devices: that acknowledged the install, sorted.
        compared: whether there is a previous model to compare with.

    Returns:
        The figures; without any when the budget holds no evaluation of this wave, too few devices answered, or the
        evaluation was charged before and not finished.

    Raises:
        BudgetExceeded: the server's budget does not cover the evaluation; no device was asked.
    """
    account = server.account
    if wave >= len(plan.gates):
        return _nothing(account, wave, f"the budget has no canary evaluation of wave {wave + 1}")
    settings, name, encoded = plan.gates[wave], f"gate-{work.version:04d}-{wave + 1}", encode(work)
    try:
        promises = sum_plans(server, settings, Purpose.GATE, name, tuple(devices), encoded)
        if plan.push:
            whole = f"gate-{work.version:04d}"
            account.reserve_once(whole, plan.push, f"canary evaluations of version {work.version}, all waves")
        charged = () if plan.push else None
        released, sums = release_groups(server, name, promises, encoded, PLAIN_MEAN, charged=charged)
    except (TooFewSurvivors, Misbehaviour) as error:  # Misbehaviour: it was charged before, not finished
        return _nothing(account, wave, str(error))
    if released is None:
        return _nothing(account, wave, "; ".join(sums.left_out))
    figures = read_sum(
        released.total,
        len(released.survivors),
        noise_std(server.scenario, settings, len(released.survivors)),
        server.scenario.rollout,
        server.scenario.privacy.unit,
        server.scenario.drift.window,
        compared=compared,
    )
    return CanaryEvaluation(Measured(wave, (figures,)), "", account.spent().epsilon)


def _nothing(account: RunAccount, wave: int, detail: str) -> CanaryEvaluation:
    return CanaryEvaluation(Measured(wave, ()), detail, account.spent().epsilon)
