"""A recommended setting, with its reason, and what having looked at all of them costs. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedinfer.privacy import exactly
from fedinfer.sweeps.statistics import SweepSetting
from fedinfer.types import Json, Trust

LEAST_TRUST_FIRST = (Trust.LOCAL, Trust.DISTRIBUTED, Trust.CENTRAL)
"""`local` trusts nobody; `distributed` enough honest devices; `central` the server."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the reader wants.

    Args:
        utility: to be reached with the least epsilon; None: not asked for.
        epsilon: to be stayed within with the most utility; None: not asked for.
    """

    utility: float | None = None
    epsilon: float | None = None


@dataclass(frozen=True, slots=True)
class Advice:
    """A recommendation for one unit of privacy; epsilons of different units cannot be compared.

    Args:
        unit: "example" or "device".
        setting: recommended; None where none fits.
        reason: in a sentence or two.
    """

    unit: str
    setting: SweepSetting | None
    reason: str

    def to_json(self) -> Json:
        """For the page and `--json`."""
        return {
            "unit": self.unit,
            "setting": None if self.setting is None else self.setting.settings,
            "reason": self.reason,
        }


def advise(settings: Sequence[SweepSetting], wish: Wish, higher_is_better: bool) -> tuple[Advice, ...]:
    """One recommendation per unit that has a private setting with a figure.

    Args:
        settings: with the columns epsilon, unit and trust.
        wish: without one, the budget is the largest finite epsilon of the sweep.
        higher_is_better: of the metric.
    """
    private = [each for each in settings if each.utility is not None and math.isfinite(each.settings["epsilon"])]
    units = dict.fromkeys(str(each.settings["unit"]) for each in private)
    sign = 1.0 if higher_is_better else -1.0
    return tuple(
        _for_unit(unit, [each for each in private if each.settings["unit"] == unit], wish, sign) for unit in units
    )


def _for_unit(unit: str, settings: Sequence[SweepSetting], wish: Wish, sign: float) -> Advice:
    if wish.utility is not None:
        return _for_utility(unit, settings, wish, sign)
    budget = wish.epsilon if wish.epsilon is not None else max(each.settings["epsilon"] for each in settings)
    return _for_budget(unit, settings, budget, sign)


def _for_utility(unit: str, settings: Sequence[SweepSetting], wish: Wish, sign: float) -> Advice:
    """The least epsilon whose whole interval reaches the target; then the least trust; then the best mean."""
    target = wish.utility or 0.0
    affordable = [each for each in settings if wish.epsilon is None or each.settings["epsilon"] <= wish.epsilon]
    within = "" if wish.epsilon is None else f" within epsilon {exactly(wish.epsilon)}"
    sure = [each for each in affordable if _worst_end(each, sign) >= sign * target]
    if not sure:
        best = max(affordable, key=lambda each: sign * _mean(each), default=None)
        found = "nothing was run there" if best is None else f"the best is {_words(best)}"
        return Advice(unit, None, f"No setting surely reaches {target:g}{within}: {found}.")
    chosen = min(sure, key=lambda each: (each.settings["epsilon"], _trust(each), -sign * _mean(each)))
    reason = (
        f"The smallest epsilon whose 95 % interval lies on the right side of {target:g}{within}: {_words(chosen)}. "
        f"Among equal epsilons the one that trusts least."
    )
    return Advice(unit, chosen, reason + _useless(chosen, sign) + _few(chosen))


def _for_budget(unit: str, settings: Sequence[SweepSetting], budget: float, sign: float) -> Advice:
    """The best mean; of what is as good within its interval, the least trust and then the least epsilon."""
    affordable, most = [each for each in settings if each.settings["epsilon"] <= budget], exactly(budget)
    if not affordable:
        return Advice(unit, None, f"Nothing was run with epsilon up to {most}.")
    best = max(affordable, key=lambda each: sign * _mean(each))
    slack = best.utility.error if best.utility is not None else 0.0
    equal = [each for each in affordable if sign * _mean(each) >= sign * _mean(best) - slack]
    chosen = min(equal, key=lambda each: (_trust(each), each.settings["epsilon"], -sign * _mean(each)))
    if chosen is best:
        reason = f"The best mean with epsilon up to {most}: {_words(best)}; nothing as good trusts less or costs less."
    else:
        reason = (
            f"{_words(chosen)}. The best mean with epsilon up to {most} is {_words(best)}; this one lies within "
            "its 95 % interval and trusts less, or as little with a smaller epsilon."
        )
    return Advice(unit, chosen, reason + _useless(chosen, sign) + _few(chosen))


def looking(rows: Sequence[Json], rows_kind: str) -> Json:
    """What it costs to have looked at all runs, by basic composition of what each spent.

    Args:
        rows: of the table of results; cells that share a run count once.
        rows_kind: of `SweepRows`.

    Returns:
        `private`: whether anybody's rows were used; `runs`; `epsilon` and `delta`: sums over the private runs, by unit;
        `unprotected`: runs without privacy.
    """
    runs = {row["key"]: row for row in rows if row["epsilon_spent"] is not None}
    units = dict.fromkeys(str(row["unit"]) for row in runs.values())
    finite = {unit: [r for r in runs.values() if r["unit"] == unit and _spent(r) < math.inf] for unit in units}
    total: Callable[[str, str], float] = lambda unit, name: sum(row[name] for row in finite[unit])  # noqa: E731
    return {
        "private": rows_kind == "own",
        "runs": len(runs),
        "unprotected": sum(_spent(row) == math.inf for row in runs.values()),
        "epsilon": {unit: total(unit, "epsilon_spent") for unit in units if finite[unit]},
        "delta": {unit: total(unit, "delta") for unit in units if finite[unit]},
    }


def _spent(row: Json) -> float:
    return float(row["epsilon_spent"])


def _trust(setting: SweepSetting) -> int:
    return LEAST_TRUST_FIRST.index(Trust(setting.settings["trust"]))


def _mean(setting: SweepSetting) -> float:
    assert setting.utility is not None  # noqa: S101 - `advise` leaves the others out
    return setting.utility.mean


def _worst_end(setting: SweepSetting, sign: float) -> float:
    assert setting.utility is not None  # noqa: S101 - as above
    return min(sign * setting.utility.low, sign * setting.utility.high)


def _words(setting: SweepSetting) -> str:
    assert setting.utility is not None  # noqa: S101 - as above
    names = ", ".join(f"{name} {value}" for name, value in setting.settings.items() if name != "unit")
    return f"{names} ({setting.utility.mean:.4g} \u00b1 {setting.utility.error:.2g})"


def _useless(setting: SweepSetting, sign: float) -> str:
    """A warning where one constant answer does as well."""
    constant = setting.means["constant_utility"]
    if constant is None or _worst_end(setting, sign) > sign * constant:
        return ""
    return (
        f" It is not surely better than one constant answer, which has {constant:.4g}: no setting may be worth using."
    )


def _few(setting: SweepSetting) -> str:
    return " One seed alone says little: --seeds 5 gives intervals." if setting.runs < 2 else ""
