"""A decision threshold for a rare class: chosen by a private histogram where held-out rows pay and are enough."""

from __future__ import annotations

import json
from dataclasses import dataclass

from fedinfer.config import Scenario, override
from fedinfer.coordinator import noise_std, plan_threshold
from fedinfer.errors import ConfigError
from fedinfer.metrics import RARE, least_rows
from fedinfer.planning.facts import Facts
from fedinfer.types import Unit

ROOM = 1.5
"""Expected rows of the rare class, over those without which no threshold is chosen."""
DIMENSION = 1
"""Of the model; a histogram does not depend on it."""


@dataclass(frozen=True, slots=True)
class Choosing:
    """Whether a threshold is chosen in private.

    Args:
        epsilon: of all choices; 0: none is made.
        why: a comment for the reader; empty: no class is rare.
    """

    epsilon: float
    why: str

    def lines(self) -> list[str]:
        """Lines of [training]."""
        if not self.why:
            return []
        if not self.epsilon:
            return [f"# {self.why}"]
        return [f'threshold = "private" # {self.why}', f"threshold_epsilon = {self.epsilon:g}"]


def plan_choosing(scenario: Scenario, facts: Facts) -> Choosing:
    """Propose a private choice where one of two classes is rare and its held-out rows are more than noise.

    Args:
        scenario: with its budget, its watch and the public share of each class.
        facts: of the fleet.
    """
    prior = scenario.training.prior
    rare = min(prior, key=lambda name: prior[name]) if len(prior) == 2 else ""
    if not rare or prior[rare] >= RARE:
        return Choosing(0.0, "")
    held_out = facts.rows * scenario.data.test_fraction / (1 - scenario.data.test_fraction)
    expected, needed, epsilon = prior[rare] * held_out, *_priced(scenario, facts)
    name = json.dumps(rare, ensure_ascii=False)
    if expected < ROOM * needed:
        return Choosing(
            0.0,
            f"threshold = 0.2 would answer {name} more often than the likeliest class does, class_weights = "
            '"balanced" too; held-out rows are too few to choose a threshold by them in private',
        )
    return Choosing(
        epsilon, f"{name} is rare: from which probability on it is answered, held-out rows say in a noisy histogram"
    )


def _priced(scenario: Scenario, facts: Facts) -> tuple[float, float]:
    """Rows of a class that a choice needs, and its budget: what drift leaves of that of rows that are not trained on.

    Infinitely many where training would have to pay.
    """
    spent = scenario.drift.epsilon if scenario.drift.enabled and scenario.drift.windows else 0.0
    epsilon = float(f"{scenario.privacy.epsilon - spent:.2g}")
    if scenario.privacy.unit is not Unit.EXAMPLE:
        return float("inf"), 0.0
    wanted = override(scenario, {"training.threshold": "private", "training.threshold_epsilon": epsilon})
    try:
        plan = plan_threshold(wanted, facts.population(DIMENSION))
    except ConfigError:
        return float("inf"), 0.0
    if plan.settings is None:
        return float("inf"), 0.0
    return least_rows(noise_std(wanted, plan.settings, facts.devices)), epsilon
