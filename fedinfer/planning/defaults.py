"""From public figures to the sections [model] to [drift] of a scenario, each choice with its reason."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import assert_never

from fedinfer.config import ModelKind, Scenario, override
from fedinfer.coordinator import make_plan, noise_seconds
from fedinfer.errors import ConfigError, MissingExtra
from fedinfer.planning.choosing import Choosing, plan_choosing
from fedinfer.planning.facts import Facts
from fedinfer.planning.search import Found, kinds_of, more_rounds, search
from fedinfer.planning.trial import LOCAL_STEPS, Setting
from fedinfer.planning.watching import Watching, plan_watching
from fedinfer.schema import Schema
from fedinfer.types import Unit

MANY_DEVICES = 100
"""Devices from which each is protected as a whole."""
LARGEST_COHORT = 200
LARGEST_EPSILON = 16.0
TEXT_ROUNDS, OF_A_TEXT = 20, Setting("fedadam", 0.03, 1.0)
"""No synthetic texts: a rule of thumb."""
LEAST_WIDTH, MOST_WIDTH = 4, 8
"""Numbers per word, as many as classes within these: noise, and the time to draw it, grow with their count."""
TEXT_SECONDS = 15.0
"""Of one core, for the noise of a round: with more a run takes a quarter of an hour and longer."""


@dataclass(frozen=True, slots=True)
class BudgetTerms:
    """What is protected, and how much may be spent on it.

    Args:
        unit: of privacy.
        epsilon, delta: of the whole run.
        why: one sentence for the reader.
    """

    unit: Unit
    epsilon: float
    delta: float
    why: str

    @property
    def by_device(self) -> bool:
        """Whether each device is protected as a whole, and so trains by itself."""
        match self.unit:
            case Unit.DEVICE:
                return True
            case Unit.EXAMPLE | Unit.NONE:
                return False
            case _:
                assert_never(self.unit)


@dataclass(frozen=True, slots=True)
class Defaults:
    """What is proposed for a run.

    Args:
        budget: of privacy.
        rounds: of training.
        cohort: devices asked in a round; 0: all.
        setting: optimizer, its step and the clipping norm.
        watching: windows and their budget.
        why: how rounds and steps were chosen.
        kind: of model; `bag` for texts.
        number: whether the label is predicted as a number.
        prior: public share of each class; may be empty.
        choosing: of a decision threshold.
        hidden: widths of the model; empty for kinds without any.
    """

    budget: BudgetTerms
    rounds: int
    cohort: int
    setting: Setting
    watching: Watching
    why: str
    kind: ModelKind
    number: bool
    prior: Mapping[str, float]
    choosing: Choosing
    hidden: tuple[int, ...] = ()

    def text(self) -> str:
        """The sections, TOML that starts with an empty line."""
        return (
            "\n".join([*self._model(), *self._training(), *self._privacy(), *self._artifact(), *self._drift()]) + "\n"
        )

    def _model(self) -> list[str]:
        more = [f"hidden = {list(self.hidden)}"] if self.hidden else []
        return ["", "[model]", f'kind = "{self.kind}" # {self._about_kind()}', *more]

    def _about_kind(self) -> str:
        simple = ModelKind.LINEAR if self.number else ModelKind.LOGISTIC
        about = {
            ModelKind.BAG: 'the mean of word vectors; "transformer" needs more rows',
            ModelKind.ADDITIVE: f'one curve per column, added up; or "{simple}", "mlp"',
        }
        return about.get(self.kind, 'on synthetic rows it did as well as curves ("additive"), with fewer weights')

    def _training(self) -> list[str]:
        by_row = not self.budget.by_device
        return [
            "",
            f"[training] # {self.why}",
            f"rounds = {self.rounds}",
            *([f"cohort = {self.cohort} # devices asked in a round"] if self.cohort else []),
            *(["sampling_rate = 1.0 # every row in every round: least noise for the budget"] if by_row else []),
            *([] if by_row else [f"local_steps = {LOCAL_STEPS}"]),
            f'server_optimizer = "{self.setting.optimizer}"',
            f"server_learning_rate = {self.setting.learning_rate:.3g}",
            *self._prior(),
            *self.choosing.lines(),
        ]

    def _prior(self) -> list[str]:
        """The metric follows it, and so do steps."""
        if not self.prior:
            return []
        shares = ", ".join(f"{json.dumps(name, ensure_ascii=False)} = {share:g}" for name, share in self.prior.items())
        return [f"prior = {{ {shares} }} # rounded shares of the table. CONFIRM that they are public, or remove them"]

    def _privacy(self) -> list[str]:
        adaptive = ['clipping = "adaptive" # follows the devices\' updates, learned in private']
        return [
            "",
            "[privacy]",
            f'unit = "{self.budget.unit}" # {self.budget.why}',
            'trust = "distributed" # devices add the noise inside secure aggregation; nobody sees a single update',
            f"epsilon = {self.budget.epsilon} # budget of the whole run; smaller is more private, larger learns more",
            f"delta = {self.budget.delta}",
            f"clipping_norm = {self.setting.clipping_norm:g}",
            *(adaptive if self.budget.by_device else []),
        ]

    def _artifact(self) -> list[str]:
        return [
            "",
            "[artifact]",
            "max_metric_drop = 0.05 # the int8 model may lose this much of the metric on few rows",
        ]

    def _drift(self) -> list[str]:
        if not self.watching.rows:
            return ["", "[drift]", f"enabled = false # {self.watching.why}"]
        values = self.watching.values()
        lines = [f"{key.removeprefix('drift.')} = {value}" for key, value in values.items()]
        return ["", f"[drift] # {self.watching.why}", *lines, f"rounds = {more_rounds(self.rounds)} # after an alarm"]


def plan_defaults(scenario: Scenario, facts: Facts) -> Defaults:
    """Choose what suits a fleet, so that the real plan accepts it.

    The budget starts at a rule of thumb and doubles until a run can be planned.

    Args:
        scenario: says what the columns are; its other sections are defaults.
        facts: of the fleet.

    Raises:
        ConfigError: nothing up to epsilon 16 can be planned.
    """
    budget, refused = _budget(facts), ConfigError("nothing was tried")
    while budget.epsilon <= LARGEST_EPSILON:
        try:
            return _planned(scenario, facts, budget)
        except ConfigError as error:
            refused = error
        why = f"{_budget(facts).why}; a smaller epsilon has no plan, or rounds of minutes"
        budget = replace(budget, epsilon=2 * budget.epsilon, why=why)
    raise refused


def _budget(facts: Facts) -> BudgetTerms:
    """Rules of thumb: noise is fixed by epsilon, so the signal has to come from rows (or devices)."""
    rows, devices = facts.rows, facts.devices
    units = devices if devices >= MANY_DEVICES else rows
    delta = min(1e-5, 10.0 ** -math.ceil(math.log10(20 * units)))
    if devices >= MANY_DEVICES:
        return BudgetTerms(Unit.DEVICE, 8.0, delta, f"{devices} devices: each is protected as a whole")
    epsilon = next((e for least, e in ((1400, 1.0), (350, 2.0), (140, 4.0)) if rows >= least), 8.0)
    return BudgetTerms(
        Unit.EXAMPLE, epsilon, delta, f"{devices} holders with {rows} training rows: every row is protected"
    )


def _planned(scenario: Scenario, facts: Facts, budget: BudgetTerms) -> Defaults:
    cohort = LARGEST_COHORT if facts.devices > LARGEST_COHORT else 0
    number, prior = facts.schema.label_range is not None, scenario.training.prior
    if facts.schema.text is not None:
        return _planned_text(scenario, facts, budget, cohort)
    base = override(scenario, _values(budget, cohort))
    watching = plan_watching(base, facts, max(kinds_of(facts).values()))
    found = search(override(base, watching.values()), facts)
    choosing = plan_choosing(override(base, watching.values()), facts)
    return Defaults(
        budget, found.rounds, cohort, found.setting, watching, _why(found), found.kind, number, prior, choosing
    )


def _planned_text(scenario: Scenario, facts: Facts, budget: BudgetTerms, cohort: int) -> Defaults:
    width = min(max(LEAST_WIDTH, facts.schema.classes), MOST_WIDTH)
    bag = {"model.kind": "bag", "model.hidden": [width]}
    base = override(scenario, _values(budget, cohort) | bag | _steps(TEXT_ROUNDS, OF_A_TEXT))
    dimension = _dimension(base, facts.schema)
    watching = plan_watching(base, facts, dimension)
    plan = make_plan(override(base, watching.values()), facts.population(dimension), "local", ())
    slow = noise_seconds(plan.train.mechanism, plan.cohort) > TEXT_SECONDS
    if slow and 2 * budget.epsilon <= LARGEST_EPSILON:
        raise ConfigError(f"the noise of a round takes more than {TEXT_SECONDS:g} s of one core")
    why, prior = "a rule of thumb", scenario.training.prior
    choosing = plan_choosing(override(base, watching.values()), facts)
    return Defaults(
        budget, TEXT_ROUNDS, cohort, OF_A_TEXT, watching, why, ModelKind.BAG, False, prior, choosing, (width,)
    )


def _values(budget: BudgetTerms, cohort: int) -> dict[str, object]:
    return {
        "privacy.unit": str(budget.unit),
        "privacy.epsilon": budget.epsilon,
        "privacy.delta": budget.delta,
        "privacy.clipping": "adaptive" if budget.by_device else "fixed",
        "training.cohort": cohort,
        "training.sampling_rate": 1.0,
        "training.local_steps": LOCAL_STEPS if budget.by_device else 0,
    }


def _steps(rounds: int, setting: Setting) -> dict[str, object]:
    return {
        "training.rounds": rounds,
        "training.server_optimizer": setting.optimizer,
        "training.server_learning_rate": setting.learning_rate,
        "privacy.clipping_norm": setting.clipping_norm,
        "drift.enabled": False,
        "drift.rounds": more_rounds(rounds),
    }


def _dimension(scenario: Scenario, schema: Schema) -> int:
    """Number of parameters of a model of texts, from the model itself."""
    from fedinfer.training import load_trainer

    try:
        return load_trainer(scenario.model, schema, scenario.training, scenario.scenario.seed).dimension
    except MissingExtra:
        words = 0 if schema.text is None else len(schema.text.vocabulary)
        width = scenario.model.hidden[0]
        return width * (words + 1) + schema.classes * (width + 1)


def _why(found: Found) -> str:
    of = "the explained variance" if found.number else "AUC and accuracy"
    lost = round(100 * (found.without_noise - found.score))
    cost = "less than a point" if lost < 1 else "about a point" if lost == 1 else f"about {lost} points"
    return f"chosen on synthetic rows of these columns; noise costs {cost} of {of} there"
