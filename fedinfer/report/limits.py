"""What a privacy statement says about its limits: against whom, several units, several runs, and what is not covered.

Each function takes the section `statement` of run.json (`fedinfer.manifest.Statement` as JSON), which a record of an
older release has not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedinfer.report.figures import count, words
from fedinfer.report.verdict import plural
from fedinfer.types import Json, Trust, Unit

TRUSTED_ALONE: dict[str, str] = {
    Trust.LOCAL: "Every device adds the whole noise itself, so nobody else has to be honest.",
    Trust.CENTRAL: (
        "Against everybody but the server, which sees the sum before it adds the noise. Devices that work together see "
        "no more than what is released."
    ),
}
UNITS: dict[str, str] = {Unit.EXAMPLE: "rows", Unit.DEVICE: "devices"}
NO_BOUND = "no bound"


@dataclass(frozen=True, slots=True)
class Item:
    """One component of the statement: what it is called, what holds in this run, what that means."""

    component: str
    value: str
    meaning: str


def against(told: Json) -> Item | None:
    """Who may be against the people whose data it is, and what is left of the claim when there are more of them.

    Args:
        told: a statement, or nothing.
    """
    if not told or told.get("unit") == Unit.NONE:
        return None
    if told.get("trust") != Trust.DISTRIBUTED:
        said = TRUSTED_ALONE.get(words(told.get("trust")), "Not stated.")
        return Item("Against whom", "any number of other devices", said)
    corrupt = count(told.get("corrupt")) or 0
    honest = plural(count(told.get("honest")), "honest share", "0")
    value = f"the server and {plural(corrupt, 'corrupt device', '0')} of a sum, {honest} of noise counted on"
    rows = [f"{missing} more: {_told(most)}" for missing, most in pairs(told, "missing")]
    meaning = (
        f"Epsilon holds against a server that works together with {plural(corrupt, 'device', '0')} of each sum. Each "
        "further device that leaves its share of the noise out, or tells it to the server, makes epsilon larger; over "
        f"the whole run: {', '.join(rows) or 'not stated'}. {readable(told)}"
    )
    if not corrupt:
        meaning += " No corrupt device is planned for here; a deployment refuses that."
    return Item("Against whom", value, meaning)


def readable(told: Json) -> str:
    """What the server may read at least a sum of, with corrupt devices on its side and without, in one sentence.

    Args:
        told: a statement.
    """
    corrupt, least = count(told.get("corrupt")) or 0, count(told.get("least")) or 0
    text = f"A sum is over at least {plural(least, 'device', '0')}"
    if not corrupt:
        return f"{text}."
    return f"{text}, {max(least - corrupt, 0)} once {plural(corrupt, 'corrupt one')} took its own part off."


def one_more(told: Json) -> str:
    """Whom the claim stands, and its epsilon with one corrupt device more, for one line of a summary.

    Args:
        told: a statement, or nothing.

    Returns:
        Empty where noise is not made of shares.
    """
    if told.get("trust") != Trust.DISTRIBUTED or told.get("unit") == Unit.NONE:
        return ""
    text = f"the server and {plural(count(told.get('corrupt')), 'corrupt device', '0')} of a sum"
    for _, most in pairs(told, "missing")[:1]:
        text += f"; with one more {'no epsilon' if most == 'inf' else f'epsilon {most}'} over the whole run"
    return f"{text}. {readable(told)}"


def groups(told: Json) -> str:
    """Epsilon of several units together, as a sentence after another one; empty where it is not known or infinite.

    Args:
        told: a statement, or nothing.
    """
    rows = [(number, most) for number, most in pairs(told, "groups") if most != "inf"]
    if not rows:
        return ""
    unit = UNITS.get(words(told.get("unit")), "units")
    shown = ", ".join(f"{number} {unit}: {most}" for number, most in rows)
    return f" Several {unit} together at the same delta, over the whole run: {shown}."


def besides(told: Json) -> str:
    """What else is released than training rounds, with its price, as a sentence after another one.

    Args:
        told: a statement, or nothing.
    """
    found = []
    if windows := count(told.get("windows")):
        found.append(f"{plural(windows, 'drift report')} (epsilon {words(told.get('windows_epsilon'))} by themselves)")
    if looks := count(told.get("evaluations")):
        cost = words(told.get("evaluations_epsilon"))
        found.append(f"{plural(looks, 'canary evaluation')} of new models by each device (epsilon {cost})")
    if choices := count(told.get("thresholds")):
        cost = words(told.get("thresholds_epsilon"))
        found.append(f"{plural(choices, 'private choice')} of a decision threshold (epsilon {cost})")
    if not found:
        return "" if told else " Drift reports go through the same path."
    return f" At most {_listed(found)} are covered in the same way and are part of epsilon."


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def composition(told: Json) -> Item | None:
    """What several runs on the same rows cost together.

    Args:
        told: a statement, or nothing.
    """
    if not told:
        return None
    earlier = plural(count(told.get("earlier")), "earlier run")
    value = f"{earlier} in this ledger, epsilon {words(told.get('over_runs'))} together with this one"
    meaning = (
        "Runs on the same rows add up, also those whose model nobody uses: somebody who starts several and keeps the "
        "best one has used all of them. A choice among runs by figures that were computed on private rows is not "
        "covered by any epsilon here. Each device keeps a ledger of its own over all runs and refuses what would go "
        "over its owner's budget."
    )
    return Item("Composition", value, meaning)


def uncovered(told: Json) -> str:
    """What leaves devices without noise, as sentences after another one.

    Args:
        told: a statement, or nothing.
    """
    text = ""
    if told.get("confirmed") is False:
        text += (
            " Nobody confirmed that ranges and categories are public: if they were read off the rows, they tell "
            "something about them that epsilon does not cover. A deployment refuses them."
        )
    if bits := count(told.get("label_bits")):
        text += (
            " Whether its table fits a description is one bit that a device tells without noise, at most "
            f"{plural(bits, 'time')} in its life."
        )
    return text


def limits(told: Json) -> tuple[str, ...]:
    """Everything else that a reader of one sentence has to know, in the order of the report.

    Args:
        told: a statement.
    """
    several = composition(told)
    runs = f"Composition: {several.value}." if several else ""
    return (groups(told), besides(told), runs, uncovered(told))


def pairs(told: Json, table: str) -> list[tuple[str, str]]:
    """Rows of a table of the statement, as texts; a row of a damaged record that is no pair is left out.

    Args:
        told: a statement, or nothing.
        table: name of the field.
    """
    rows = told.get(table)
    found = [row for row in rows if isinstance(row, list) and len(row) == 2] if isinstance(rows, list) else []
    return [(str(first), str(second)) for first, second in found]


def _told(most: object) -> str:
    return NO_BOUND if most == "inf" else str(most)
