"""From public figures to the sections [model] to [drift] of a scenario, each choice with its reason."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import assert_never

from fedinfer.config import Scenario, override
from fedinfer.coordinator import make_plan
from fedinfer.errors import ConfigError, MissingExtra
from fedinfer.planning.facts import Facts
from fedinfer.planning.search import Found, more_rounds, search
from fedinfer.planning.trial import Setting
from fedinfer.planning.watching import Watching, plan_watching
from fedinfer.planning.worlds import inputs_of
from fedinfer.schema import Schema
from fedinfer.types import Unit

MANY_DEVICES = 100
"""Devices from which each is protected as a whole."""
LARGEST_COHORT = 200
LARGEST_EPSILON = 16.0
OF_A_DEVICE = Setting("fedadam", 0.1, 0.5)
OF_A_TEXT = Setting("fedadam", 0.03, 1.0)
OF_A_NUMBER = Setting("fedadam", 0.05, 1.0)
TEXT_ROUNDS, DEVICE_ROUNDS, NUMBER_ROUNDS = 20, 20, 60


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
        kind: `table`, `text`, or `number` for a label that is predicted as one.
    """

    budget: BudgetTerms
    rounds: int
    cohort: int
    setting: Setting
    watching: Watching
    why: str
    kind: str

    def text(self) -> str:
        """The sections, TOML that starts with an empty line."""
        return (
            "\n".join([*self._model(), *self._training(), *self._privacy(), *self._artifact(), *self._drift()]) + "\n"
        )

    def _model(self) -> list[str]:
        if self.kind == "number":
            return ["", "[model]", 'kind = "additive" # one curve per column, added up; or "linear", "mlp"']
        if self.kind == "text":
            return [
                "",
                "[model]",
                'kind = "bag" # the mean of word vectors; "transformer" needs more rows',
                "hidden = [8]",
            ]
        return ["", "[model]", 'kind = "logistic" # or "mlp"; start simple, noise hurts large models more']

    def _training(self) -> list[str]:
        by_row = not self.budget.by_device
        return [
            "",
            f"[training] # {self.why}",
            f"rounds = {self.rounds}",
            *([f"cohort = {self.cohort} # devices asked in a round"] if self.cohort else []),
            *(["sampling_rate = 1.0 # every row in every round: least noise for the budget"] if by_row else []),
            *([] if by_row else ["local_steps = 5"]),
            f'server_optimizer = "{self.setting.optimizer}"',
            f"server_learning_rate = {self.setting.learning_rate:.3g}",
        ]

    def _privacy(self) -> list[str]:
        adaptive = ['clipping = "adaptive" # follows the devices\' updates, learned in private']
        return [
            "",
            "[privacy]",
            f'unit = "{self.budget.unit}" # {self.budget.why}',
            'trust = "distributed" # devices add the noise inside secure aggregation; nobody sees a single update',
            f"epsilon = {self.budget.epsilon} # budget of the whole run; smaller is more private, larger learns more",
            f"delta = {self.budget.delta:g}",
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
        budget = replace(budget, epsilon=2 * budget.epsilon, why=f"{_budget(facts).why}; a smaller epsilon has no plan")
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
    kind = _kind(facts.schema)
    fixed = _fixed(kind)
    base = override(scenario, _values(budget, cohort, kind) | _steps(*fixed, watched=False))
    dimension = _dimension(base, facts.schema)
    watching = plan_watching(base, facts, dimension)
    base = override(base, watching.values())
    if kind != "table" or budget.by_device:
        rounds, setting = fixed
        make_plan(base, facts.population(dimension), "local", ())
        return Defaults(budget, rounds, cohort, setting, watching, "a rule of thumb", kind)
    found = search(base, facts, dimension)
    return Defaults(budget, found.rounds, cohort, found.setting, watching, _why(found), kind)


def _kind(schema: Schema) -> str:
    if schema.text is not None:
        return "text"
    return "table" if schema.label_range is None else "number"


_FIXED = {
    "text": (TEXT_ROUNDS, OF_A_TEXT),
    "number": (NUMBER_ROUNDS, OF_A_NUMBER),
    "table": (DEVICE_ROUNDS, OF_A_DEVICE),
}
_KINDS = {"text": "bag", "number": "additive", "table": "logistic"}


def _fixed(kind: str) -> tuple[int, Setting]:
    """Where nothing is searched: the rounds and steps of a rule of thumb."""
    return _FIXED[kind]


def _values(budget: BudgetTerms, cohort: int, kind: str) -> dict[str, object]:
    model: dict[str, object] = {"model.kind": _KINDS[kind]} | ({"model.hidden": [8]} if kind == "text" else {})
    return model | {
        "privacy.unit": str(budget.unit),
        "privacy.epsilon": budget.epsilon,
        "privacy.delta": budget.delta,
        "privacy.clipping": "adaptive" if budget.by_device else "fixed",
        "training.cohort": cohort,
        "training.sampling_rate": 1.0,
        "training.local_steps": 5 if budget.by_device else 0,
    }


def _steps(rounds: int, setting: Setting, *, watched: bool) -> dict[str, object]:
    return {
        "training.rounds": rounds,
        "training.server_optimizer": setting.optimizer,
        "training.server_learning_rate": setting.learning_rate,
        "privacy.clipping_norm": setting.clipping_norm,
        "drift.enabled": watched,
        "drift.rounds": more_rounds(rounds),
    }


def _dimension(scenario: Scenario, schema: Schema) -> int:
    """Number of parameters: of a linear model by counting, of others from the model itself."""
    if schema.text is None and schema.label_range is None:
        return schema.classes * (inputs_of(schema) + 1)
    from fedinfer.training import load_trainer

    try:
        return load_trainer(scenario.model, schema, scenario.training, scenario.scenario.seed).dimension
    except MissingExtra:
        if schema.text is None:
            return scenario.model.knots * inputs_of(schema)
        return 8 * (len(schema.text.vocabulary) + 1) + schema.classes * 9


def _why(found: Found) -> str:
    lost = found.without_noise - found.score
    return f"chosen on synthetic rows of these columns; noise costs about {100 * lost:.0f} points there"
