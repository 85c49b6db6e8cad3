"""The search: every number of rounds with the noise that the real plan gives it, every setting in several worlds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fedinfer.config import Scenario, override
from fedinfer.coordinator import make_plan
from fedinfer.errors import ConfigError
from fedinfer.planning.facts import Facts
from fedinfer.planning.trial import Setting, scores
from fedinfer.planning.worlds import draw_world, inputs_of
from fedinfer.system import simulation_rng

ROUNDS = (10, 20, 40, 80)
WORLDS, WORLD_ROWS = 12, 4000
WIDE, FEW_WORLDS = 100, 4
"""Inputs from which a world takes so long that there are fewer."""
SHARES, STRENGTHS = (0.1, 0.3), (1.0, 1.5)
"""Part of the rows with the rarer answer, and how much the columns say (`fedinfer.planning.worlds`), world by world."""
NEARLY = 0.003
"""Score within which fewer rounds win: they are done sooner."""
SETTINGS = (
    *(Setting("fedavgm", rate / norm, norm) for norm in (0.5, 1.0, 2.0) for rate in (0.1, 0.3, 1.0, 3.0)),
    *(Setting("fedadam", rate, norm) for norm in (0.5, 1.0, 2.0) for rate in (0.02, 0.05, 0.1, 0.2)),
)
MANY_DEVICES = 100
"""Devices from which a round takes so long that rounds are counted."""


@dataclass(frozen=True, slots=True)
class Found:
    """The best of the search.

    Args:
        rounds: of training.
        setting: optimizer, its step and the clipping norm.
        score: mean of AUC and accuracy on synthetic rows.
        without_noise: the same of the best setting with no noise at all.
    """

    rounds: int
    setting: Setting
    score: float
    without_noise: float


def search(scenario: Scenario, facts: Facts, dimension: int) -> Found:
    """Rounds and settings with the best mean score over the worlds.

    Args:
        scenario: with its budget; whatever it says about rounds and steps is replaced.
        facts: of the fleet.
        dimension: number of tuned parameters.

    Raises:
        ConfigError: no number of rounds can be planned within the budget; the reason is that of the fewest.
    """
    table: dict[int, np.ndarray] = {}
    refused: ConfigError | None = None
    for rounds in _tried(facts):
        try:
            noise = _noise(scenario, facts, dimension, rounds)
        except ConfigError as error:
            refused = refused or error
            continue
        table[rounds] = _mean_scores(facts, rounds, noise)
    if not table:
        raise refused or ConfigError("no number of rounds was tried")
    best = max(float(found.max()) for found in table.values())
    rounds = next(rounds for rounds, found in table.items() if found.max() >= best - NEARLY)
    number = int(table[rounds].argmax())
    bare = float(_mean_scores(facts, max(table), 0.0).max())
    return Found(rounds, SETTINGS[number], float(table[rounds][number]), bare)


def _tried(facts: Facts) -> tuple[int, ...]:
    return ROUNDS if facts.devices <= MANY_DEVICES else ROUNDS[:3]


def _noise(scenario: Scenario, facts: Facts, dimension: int, rounds: int) -> float:
    """Standard deviation of the noise in one coordinate of a round's mean gradient, in clipping norms."""
    tried = override(scenario, {"training.rounds": rounds, "drift.rounds": more_rounds(rounds)})
    plan = make_plan(tried, facts.population(dimension), "local", ())
    mechanism = plan.train.mechanism
    # Shares of devices that are alive though nobody counts on them are in the sum as well.
    everybody = math.sqrt(facts.devices / max(mechanism.contributors, 1))
    return plan.noise_multiplier * everybody / (plan.train.sampling_rate * facts.rows)


def more_rounds(rounds: int) -> int:
    """Rounds that an alarm starts: a part of the first ones, which start from nothing.

    Args:
        rounds: planned, >= 1.
    """
    return max(3, rounds // 8)


def _mean_scores(facts: Facts, rounds: int, noise: float) -> np.ndarray:
    total = np.zeros(len(SETTINGS))
    worlds = WORLDS if inputs_of(facts.schema) <= WIDE else FEW_WORLDS
    for number in range(worlds):
        rng = simulation_rng("planning", number)  # the same worlds for every number of rounds
        strength, share = STRENGTHS[number % 2], SHARES[number // 2 % 2]
        world = draw_world(facts.schema, WORLD_ROWS, share, strength, rng)
        total += scores(world, SETTINGS, rounds, noise, rng)
    return total / worlds
