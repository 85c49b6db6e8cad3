"""The search: every number of rounds with the noise that the real plan gives it, every setting in several worlds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

import numpy as np

from fedinfer.config import ModelKind, Scenario, override
from fedinfer.coordinator import make_plan
from fedinfer.errors import ConfigError
from fedinfer.planning.facts import Facts
from fedinfer.planning.trial import Setting, TrialRows, TrialTerms, scores
from fedinfer.planning.worlds import MOST_COLUMNS, World, cut, draw_world, hat_inputs_of, inputs_of
from fedinfer.system import simulation_rng
from fedinfer.types import Unit

ROUNDS, DEVICE_ROUNDS = (10, 20, 40, 80), (10, 20, 40)
"""Tried for rows, and for devices that are protected as a whole or so many that rounds take long."""
WORLDS, JUDGED_ROWS = 9, 2000
LEAST_ROWS, MOST_ROWS = 200, 2000
"""Rows that a world is trained on: as many as the fleet has, within these."""
WIDE, FEW_WORLDS = 30, 5
"""Columns from which a world takes so long that there are fewer."""
SHARES, STRENGTHS = (0.1, 0.3, 0.5), (1.0, 1.5, 2.5)
"""Part of the rows with the rarer answer, where no public prior says it, and how much the columns say (see
`fedinfer.planning.worlds`), world by world."""
NEARLY = 0.001
"""Score within which fewer rounds win: they are done sooner."""
SETTINGS = (
    *(Setting("fedavgm", rate / norm, norm) for norm in (0.25, 0.5, 1.0, 2.0) for rate in (0.1, 0.3, 1.0, 3.0)),
    *(Setting("fedadam", rate, norm) for norm in (0.25, 0.5, 1.0, 2.0) for rate in (0.02, 0.05, 0.1, 0.2)),
)
DEVICE_SETTINGS = (
    *(Setting("fedavgm", rate, 0.5) for rate in (0.3, 1.0, 3.0, 10.0)),
    *(Setting("fedadam", rate, 0.5) for rate in (0.02, 0.05, 0.1, 0.2)),
)
"""Of devices the norm adapts, so where it starts matters little."""
MOST_DEVICES = 200
"""Devices that descend in a trial; noise is that of the real cohort."""
MANY_DEVICES = 100
"""Devices from which a round takes so long that rounds are counted."""


@dataclass(frozen=True, slots=True)
class Found:
    """The best of the search.

    Args:
        kind: of model.
        rounds: of training.
        setting: optimizer, its step and the clipping norm.
        score: on synthetic rows: of classes the mean of AUC and accuracy, of a number the explained part of its
            variance.
        without_noise: the same of the best setting with no noise at all.
        number: whether the label is a number.
    """

    kind: ModelKind
    rounds: int
    setting: Setting
    score: float
    without_noise: float
    number: bool


def kinds_of(facts: Facts) -> Mapping[ModelKind, int]:
    """Kinds of model that are tried, the simpler first, each with its number of parameters.

    Args:
        facts: of the fleet.
    """
    simple = ModelKind.LOGISTIC if facts.schema.label_range is None else ModelKind.LINEAR
    outputs = facts.schema.outputs
    return {
        simple: outputs * (inputs_of(facts.schema) + 1),
        ModelKind.ADDITIVE: outputs * (hat_inputs_of(facts.schema) + 1),
    }


def search(scenario: Scenario, facts: Facts) -> Found:
    """Kind of model, rounds and setting with the best mean score over the worlds.

    Args:
        scenario: with its budget; whatever it says about the kind, rounds and steps is replaced.
        facts: of the fleet.

    Raises:
        ConfigError: no number of rounds can be planned within the budget; the reason is that of the fewest.
    """
    worlds = _worlds(scenario, facts)
    settings = DEVICE_SETTINGS if _whole_devices(scenario.privacy.unit) else SETTINGS
    table: dict[tuple[int, ModelKind], np.ndarray] = {}
    refused: ConfigError | None = None
    for rounds in _tried(scenario, facts):
        for kind, dimension in kinds_of(facts).items():
            try:
                terms = _terms(scenario, facts, dimension, rounds)
            except ConfigError as error:
                refused = refused or error
                continue
            table[rounds, kind] = _mean_scores(worlds, kind, settings, terms, facts)
    if not table:
        raise refused or ConfigError("no number of rounds was tried")
    best = max(float(found.max()) for found in table.values())
    rounds, kind = next(tried for tried, found in table.items() if found.max() >= best - NEARLY)
    freely = TrialTerms(max(tried for tried, _ in table), 0.0, _terms_devices(scenario, facts))
    bare = float(_mean_scores(worlds, kind, settings, freely, facts).max())
    chosen = int(table[rounds, kind].argmax())
    score = float(table[rounds, kind][chosen])
    return Found(kind, rounds, settings[chosen], score, bare, facts.schema.label_range is not None)


def _tried(scenario: Scenario, facts: Facts) -> tuple[int, ...]:
    many = _whole_devices(scenario.privacy.unit) or facts.devices > MANY_DEVICES
    return DEVICE_ROUNDS if many else ROUNDS


def _whole_devices(unit: Unit) -> bool:
    """Whether devices descend by themselves and are protected as a whole, if at all."""
    match unit:
        case Unit.EXAMPLE:
            return False
        case Unit.DEVICE | Unit.NONE:
            return True
        case _:
            assert_never(unit)


def _terms(scenario: Scenario, facts: Facts, dimension: int, rounds: int) -> TrialTerms:
    """Rounds with the noise of their plan in one coordinate of a mean update, in clipping norms."""
    tried = override(scenario, {"training.rounds": rounds, "drift.rounds": more_rounds(rounds)})
    plan = make_plan(tried, facts.population(dimension), "local", ())
    # Shares of devices that are alive though nobody counts on them are in the sum as well.
    everybody = math.sqrt(plan.cohort / max(plan.train.mechanism.contributors, 1))
    units = plan.cohort if _whole_devices(scenario.privacy.unit) else plan.train.sampling_rate * facts.rows
    wider = math.sqrt(max(1.0, len(facts.schema.columns) / MOST_COLUMNS))
    noise = plan.noise_multiplier * everybody * wider / units
    return TrialTerms(rounds, noise, _terms_devices(scenario, facts))


def _terms_devices(scenario: Scenario, facts: Facts) -> int:
    if not _whole_devices(scenario.privacy.unit):
        return 0
    return min(scenario.training.cohort or facts.devices, facts.devices, MOST_DEVICES)


def more_rounds(rounds: int) -> int:
    """Rounds that an alarm starts: a part of the first ones, which start from nothing.

    Args:
        rounds: planned, >= 1.
    """
    return max(3, rounds // 8)


def _worlds(scenario: Scenario, facts: Facts) -> Sequence[tuple[World, World]]:
    """Rows to train on and rows to judge, the same for every number of rounds."""
    prior = scenario.training.prior
    shares = (min(prior.values()),) * len(SHARES) if len(prior) == 2 else SHARES
    rows = min(max(facts.rows, LEAST_ROWS), MOST_ROWS)
    found = []
    for number in range(WORLDS if len(facts.schema.columns) <= WIDE else FEW_WORLDS):
        share, strength = shares[number % len(SHARES)], STRENGTHS[number % len(STRENGTHS)]
        rng = simulation_rng("planning", number)
        world = draw_world(facts.schema, rows + JUDGED_ROWS, share, strength, rng)
        found.append((cut(world, slice(rows)), cut(world, slice(rows, None))))
    return found


def _mean_scores(
    worlds: Sequence[tuple[World, World]],
    kind: ModelKind,
    settings: Sequence[Setting],
    terms: TrialTerms,
    facts: Facts,
) -> np.ndarray:
    total = np.zeros(len(settings))
    for number, (train, judged) in enumerate(worlds):
        rng = simulation_rng("planning", terms.rounds, number)
        learned, tested = (_rows(world, kind, facts) for world in (train, judged))
        total += scores(learned, tested, settings, terms, rng)
    return total / len(worlds)


def _rows(world: World, kind: ModelKind, facts: Facts) -> TrialRows:
    x = {ModelKind.ADDITIVE: world.additive}.get(kind, world.linear)
    return TrialRows(x, world.y, facts.schema.label_range is not None)
