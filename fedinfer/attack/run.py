"""`fedinfer attack`: membership inference and gradient inversion against a scenario, with and without its privacy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedinfer.attack.inversion import Inversion, invert
from fedinfer.attack.membership import LEAST_RUNS, RATES, Roc, likelihood_ratios, most_found, roc
from fedinfer.attack.rounds import observe, without_privacy
from fedinfer.attack.targets import targets_of
from fedinfer.config import Scenario
from fedinfer.errors import ConfigError
from fedinfer.ports import Clock
from fedinfer.privacy import Spent
from fedinfer.simulation import Prepared
from fedinfer.system import simulation_rng
from fedinfer.training import load_trainer
from fedinfer.types import AggregationMode, Json, Trust, Unit

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

Heard = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class AttackSettings:
    """What is done.

    Args:
        runs: with privacy, and as many without; each with a random half of all units.
        show_rows: keep a few real rows beside what was recovered; whoever gets the result then gets them.
    """

    runs: int = 32
    show_rows: bool = False


@dataclass(frozen=True, slots=True)
class AttackReport:
    """What attackers get.

    Args:
        scenario, unit, trust, rounds: what was attacked.
        planned: the claim.
        targets: units that were guessed.
        private, bare: curve by what the attacker looks at ("model", "rounds"), with and without privacy.
        inversions: rows recovered from gradients, by what the attacker sees.
        note: what a reader must know; may be empty.
    """

    scenario: str
    unit: Unit
    trust: Trust
    rounds: int
    planned: Spent
    targets: int
    private: dict[str, Roc]
    bare: dict[str, Roc]
    inversions: tuple[Inversion, ...]
    note: str

    def to_json(self) -> Json:
        """Everything, for attack.json and the page."""
        claim = {f"{rate:g}": most_found(rate, self.planned.epsilon, self.planned.delta) for rate in RATES}
        return {
            "scenario": self.scenario,
            "unit": str(self.unit),
            "trust": str(self.trust),
            "rounds": self.rounds,
            "epsilon": self.planned.epsilon,
            "delta": self.planned.delta,
            "targets": self.targets,
            "allowed": claim,
            "membership": {
                "with privacy": {name: curve.to_json() for name, curve in self.private.items()},
                "without privacy": {name: curve.to_json() for name, curve in self.bare.items()},
            },
            "inversion": [inversion.to_json() for inversion in self.inversions],
            "note": self.note,
        }


def run_attack(prepared: Prepared, settings: AttackSettings, clock: Clock, heard: Heard) -> AttackReport:
    """Attack a scenario.

    Args:
        prepared: scenario and data.
        settings: how much is done.
        clock: time.
        heard: called after each run with how many are over and how many there are.

    Raises:
        ConfigError: nothing is protected, too few units or runs.
        FedInferError: whatever stops a run.
    """
    scenario, federation = _quiet(prepared.scenario), prepared.federation
    _check(scenario, settings)
    seed = scenario.scenario.seed
    trainer = load_trainer(scenario.model, federation.schema, scenario.training, seed)
    rng = simulation_rng(seed, "attack", "targets")
    targets = targets_of(federation, scenario.privacy.unit, trainer.dimension, rng)
    total, done = 2 * settings.runs, 0
    curves: list[dict[str, Roc]] = []
    planned: Spent | None = None
    for variant in (scenario, without_privacy(scenario)):
        scores: dict[str, list[Floats]] = {"model": [], "rounds": []}
        coins = []
        for number in range(settings.runs):
            coin = simulation_rng(seed, "attack", str(number)).random(targets.count) < 0.5
            seen = observe(_seeded(variant, number), targets.chosen(coin), clock)
            planned = planned or seen.planned
            coins.append(coin[targets.guessed])
            scores["model"].append(targets.fit(trainer, seen))
            scores["rounds"].append(targets.match(trainer, seen))
            done += 1
            heard(done, total)
        curves.append(_curves(scores, np.array(coins)))
    if planned is None:
        raise ConfigError("privacy.unit is none: there is no claim to attack")
    inversions, note = invert(scenario, federation, trainer, clock, settings.show_rows)
    return AttackReport(
        scenario=scenario.scenario.name,
        unit=scenario.privacy.unit,
        trust=scenario.privacy.trust,
        rounds=scenario.training.rounds,
        planned=planned,
        targets=int(targets.guessed.size),
        private=curves[0],
        bare=curves[1],
        inversions=inversions,
        note=note,
    )


def _curves(scores: dict[str, list[Floats]], coins: Flags) -> dict[str, Roc]:
    """The best attack on the model alone, and the one of whoever saw every release too."""
    of_model = likelihood_ratios(np.array(scores["model"]), coins)
    of_rounds = likelihood_ratios(np.array(scores["rounds"]), coins)
    return {"model": roc(of_model, coins), "rounds": roc(of_model + of_rounds, coins)}


def _check(scenario: Scenario, settings: AttackSettings) -> None:
    if scenario.privacy.unit is Unit.NONE:
        raise ConfigError("privacy.unit is none: there is no claim to attack")
    if not scenario.training.rounds:
        raise ConfigError("no rounds are planned: nothing is released", hint="--rounds 10")
    if settings.runs < LEAST_RUNS:
        raise ConfigError(f"{settings.runs} runs: at least {LEAST_RUNS} are needed", hint="--runs 32")


def _quiet(scenario: Scenario) -> Scenario:
    section = scenario.secure_aggregation.model_copy(update={"mode": AggregationMode.IDEAL})
    return scenario.model_copy(update={"secure_aggregation": section})


def _seeded(scenario: Scenario, number: int) -> Scenario:
    section = scenario.scenario.model_copy(update={"seed": scenario.scenario.seed + 1000 + number})
    return scenario.model_copy(update={"scenario": section})
