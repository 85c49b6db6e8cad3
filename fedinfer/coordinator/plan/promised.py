"""What a run promises its devices: all that it may ever ask them for, so that nothing depends on what it saw."""

from __future__ import annotations

from fedinfer.config import Scenario
from fedinfer.coordinator.plan.canary import pushes
from fedinfer.coordinator.plan.drift import windows
from fedinfer.coordinator.plan.run_plan import RunPlan
from fedinfer.coordinator.plan.sum_settings import SumSettings, noise_model_of
from fedinfer.messages import Purpose
from fedinfer.privacy import Event, PromiseLine, encode_promise


def promise_of(scenario: Scenario, plan: RunPlan) -> bytes:
    """Rounds, windows, canary evaluations and histograms of one device, with their events, as text.

    A device marks the parts of its rows by itself, so the events here touch every unit.

    Args:
        scenario: of the run.
        plan: of the run.
    """
    lines = [(Purpose.TRAIN, line) for line in _rounds(scenario, plan)]
    if plan.drift:
        lines.append((Purpose.DRIFT, PromiseLine(windows(scenario), (_event(scenario, plan.drift),))))
    if plan.gates:
        waves = dict.fromkeys(_event(scenario, each) for each in plan.gates)
        lines.append((Purpose.GATE, PromiseLine(pushes(scenario), tuple(waves))))
    if plan.threshold:
        lines.append((Purpose.THRESHOLD, PromiseLine(plan.thresholds, (_event(scenario, plan.threshold),))))
    return encode_promise(lines)


def _rounds(scenario: Scenario, plan: RunPlan) -> tuple[PromiseLine, ...]:
    count = scenario.most_rounds
    if not count:
        return ()
    if plan.factorization is not None:
        turns = range(plan.factorization.participation.most)
        return tuple(PromiseLine(1, (plan.factorization.charge(plan.noise_multiplier, turn),)) for turn in turns)
    return (PromiseLine(count, (_event(scenario, plan.train),)),)


def _event(scenario: Scenario, sums: SumSettings) -> Event:
    """What `privacy.charge` makes of a plan with these settings."""
    model = noise_model_of(scenario)
    return model.event(sums.mechanism, sums.noise_multiplier, sums.sampling_rate, sums.local_steps)
