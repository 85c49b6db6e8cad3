"""The privacy statement of a run, made once from its plan: run.json, report, summary and manifests show this one."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedinfer.config import Scenario
from fedinfer.coordinator.plan.canary import pushes
from fedinfer.coordinator.plan.drift import windows
from fedinfer.coordinator.plan.run_plan import RunPlan
from fedinfer.coordinator.plan.sum_settings import SumSettings
from fedinfer.manifest import Figures, Statement
from fedinfer.messages import MOST_DESCRIPTIONS
from fedinfer.privacy import (
    TRAINED,
    WATCHED,
    Distributed,
    Event,
    InPart,
    Repeated,
    Spent,
    WindowRows,
    account,
    at_most,
    flatten,
    group_epsilon,
    noise_model,
    relation_of,
    split_of,
    with_missing_shares,
)
from fedinfer.schema import Schema

MOST_MISSING = 3
"""Missing shares for which epsilon is stated."""
TOGETHER = (2, 5, 10)
"""Units together for which epsilon is stated: rows of one person, or devices of one owner."""
_DIGITS = 6
"""Significant digits of an epsilon and a delta, rounded up."""


def make_statement(
    scenario: Scenario, schema: Schema, plan: RunPlan, devices: int, earlier: Sequence[Event], runs: int, *, real: bool
) -> Statement:
    """State what a run claims. Everything is computed from the planned events, none of which has happened yet.

    Args:
        scenario: of the run.
        schema: says whether ranges and categories are confirmed.
        plan: of the run.
        devices: that joined.
        earlier: what other runs in the server's ledger did.
        runs: how many those were.
        real: devices are real: a deployment.
    """
    privacy, train = scenario.privacy, plan.train
    planned = plan.planned or Spent(math.inf, 1.0, "none", plan.relation, "none")
    protected = plan.planned is not None
    split = split_of(scenario, WindowRows.HELD_OUT) if protected else ""
    events = plan.events.all
    return Statement(
        epsilon=_text(planned.epsilon),
        delta=at_most(planned.delta, _DIGITS),
        budget=_text(privacy.epsilon if protected else math.inf),
        unit=str(privacy.unit),
        relation=str(plan.relation),
        parts=_parts(scenario, plan) if split else (),
        groups=_groups(events, privacy.delta) if protected else (),
        mechanism=_mechanism(scenario) if protected else "none",
        clipping=privacy.clipping,
        clipping_norm=float(privacy.clipping_norm),
        noise_multiplier=float(plan.noise_multiplier),
        correlation="none" if plan.factorization is None else str(plan.factorization.kind),
        accountant=planned.accountant,
        sampling=planned.sampling,
        trust=str(privacy.trust),
        devices=devices,
        least=train.min_survivors,
        corrupt=min(each.corrupt for each in _sums(plan)),
        honest=train.mechanism.contributors if _is_shared(scenario) else 0,
        missing=_missing(scenario, plan) if _is_shared(scenario) else (),
        mode=str(scenario.secure_aggregation.mode),
        setting="deployment" if real else "simulation",
        confirmed=schema.confirmed and scenario.data.ranges_confirmed,
        label_bits=MOST_DESCRIPTIONS if real else 0,
        windows=windows(scenario) if plan.drift else 0,
        windows_epsilon=_text(plan.drift_epsilon if protected or not plan.drift else math.inf),
        evaluations=pushes(scenario) if plan.gates else 0,
        evaluations_epsilon=_text(plan.gate_epsilon if protected or not plan.gates else math.inf),
        thresholds=plan.thresholds,
        thresholds_epsilon=_text(plan.threshold_epsilon if protected or not plan.thresholds else math.inf),
        earlier=runs,
        over_runs=_text(_epsilon((*earlier, *events), scenario) if protected else math.inf),
    )


def _text(epsilon: float) -> str:
    return at_most(epsilon, _DIGITS) if math.isfinite(epsilon) else "inf"


def _epsilon(events: Sequence[Event], scenario: Scenario) -> float:
    return account(events, scenario.privacy.delta, relation_of(scenario.privacy.unit)).epsilon


def _is_shared(scenario: Scenario) -> bool:
    return isinstance(noise_model(scenario.privacy.trust, scenario.privacy.unit), Distributed)


def _mechanism(scenario: Scenario) -> str:
    return scenario.privacy.mechanism if _is_shared(scenario) else "gaussian"


def _sums(plan: RunPlan) -> tuple[SumSettings, ...]:
    """Settings of all kinds of sums: what is claimed must hold for each."""
    return (plan.train, *(each for each in (plan.drift, plan.threshold) if each), *plan.gates)


def _parts(scenario: Scenario, plan: RunPlan) -> tuple[tuple[str, str], ...]:
    """Epsilon of each part with what touches every row."""
    found = []
    for name in (TRAINED, WATCHED):
        seen = [
            Repeated(event, count)
            for event, count in flatten(plan.events.all)
            if not isinstance(event, InPart) or event.name == name
        ]
        found.append((name, _text(_epsilon(seen, scenario))))
    return tuple(found)


def _groups(events: Sequence[Event], delta: float) -> Figures:
    return tuple((count, _text(group_epsilon(events, delta, count))) for count in TOGETHER)


def _missing(scenario: Scenario, plan: RunPlan) -> Figures:
    """Each kind of sum counts on as many shares as it says itself; of canary evaluations the wave with the fewest."""
    planned = plan.events
    counted = [(plan.train.mechanism.contributors, planned.rounds)]
    if plan.drift:
        counted.append((plan.drift.mechanism.contributors, planned.windows))
    if plan.gates:
        counted.append((min(each.mechanism.contributors for each in plan.gates), planned.evaluations))
    if plan.threshold:
        counted.append((plan.threshold.mechanism.contributors, planned.thresholds))
    found = []
    for missing in range(1, MOST_MISSING + 1):
        events = [event for count, own in counted for event in with_missing_shares(own, count, missing)]
        found.append((missing, _text(_epsilon(events, scenario))))
        if found[-1][1] == "inf":
            break
    return tuple(found)
