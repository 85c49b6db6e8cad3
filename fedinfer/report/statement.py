"""The privacy statement in words that need no mathematics, in the order of NIST SP 800-226.

What is claimed is the section `statement` of run.json, which is also what signed manifests hold
(`fedinfer.manifest.Statement`); what was spent so far is in the section `privacy`. A record of an older release has no
section `statement`: what it did not say is left out here.

NIST SP 800-226 (Guidelines for Evaluating Differential Privacy Guarantees, 2025) asks of each claim, from the top down:
the parameters and the unit of privacy; mechanism, proof, utility and bias; trust model, security and data collection.
"""

from __future__ import annotations

import math
from typing import assert_never

from fedinfer.report.figures import (
    bound,
    count,
    exact_figure,
    finite,
    lower_bound,
    number,
    section,
    significant,
    whole,
    words,
)
from fedinfer.report.limits import Item, against, besides, composition, groups, pairs, uncovered
from fedinfer.types import AggregationMode, Json, Trust, Unit

UNITS = {
    Unit.EXAMPLE: "one row (for example one patient's record)",
    Unit.DEVICE: "everything that one device holds",
}
RELATIONS = {
    "add-or-remove-one": "with that unit and without it",
    "zero-out-one": "with that unit and with it blanked out",
    "replace-one": "with that unit and with another one in its place",
}
TRUST = {
    Trust.LOCAL: "Nobody is trusted: each device adds all the noise itself, before anything leaves it.",
    Trust.DISTRIBUTED: (
        "Each device adds a share of the noise. The sum has the full noise as long as at least the threshold of "
        "devices answers and the assumed share of them is honest. The server is not trusted to add noise."
    ),
    Trust.CENTRAL: (
        "The server is trusted to add the noise to the sum, and not to keep the sum before it did. "
        "Others, who only see what is released, are covered."
    ),
}
SUMS = {
    AggregationMode.PROTOCOL: (
        "Updates were summed by secure aggregation: the server could read the sum over at least {threshold} devices "
        "and no single update."
    ),
    AggregationMode.IDEAL: (
        "This simulation added the same integers without masks. The sum is identical bit for bit, but the "
        "cryptography was not exercised: a deployment runs in mode `protocol`."
    ),
    AggregationMode.OFF: (
        "UNSAFE: secure aggregation was switched off, so the server could read every single update. "
        "Do not use this setting with real data."
    ),
}
PARTS = {"training": "training", "windows": "a window"}
SIMULATED = ("local", "ray")
WEAK = 0.9
"""A bound on the guess above this is called weak in the report; a matter of words, not of the guarantee."""


def statement(run: Json) -> tuple[Item, ...]:
    """The components of the privacy statement of a run.

    Args:
        run: run.json, schema 1; missing or damaged figures become a dash.
    """
    privacy = section(run, "privacy")
    told = section(run, "statement")
    items = (
        _guarantee(privacy, told),
        _unit(privacy, told),
        _mechanism(run),
        _evidence(privacy),
        composition(told),
        _utility(run),
        _trust(privacy),
        against(told),
        _security(run),
        _collection(run),
    )
    return tuple(item for item in items if item is not None)


def is_private(privacy: Json) -> bool:
    """Whether the run claims a finite epsilon at a delta for a unit.

    Args:
        privacy: the section `privacy` of run.json.
    """
    return _claim(privacy) is not None


def _claim(privacy: Json) -> tuple[float, float] | None:
    """Epsilon and delta, or None where there is no such claim or it makes no sense."""
    epsilon, delta = finite(privacy.get("epsilon")), finite(privacy.get("delta"))
    if words(privacy.get("unit")) not in set(UNITS) or epsilon is None or delta is None:
        return None
    return (epsilon, delta) if epsilon >= 0 and 0 <= delta <= 1 else None


def unit_words(privacy: Json) -> str:
    """The privacy unit in words.

    Args:
        privacy: the section `privacy` of run.json.
    """
    unit = words(privacy.get("unit"))
    return UNITS[Unit(unit)] if unit in set(UNITS) else "nothing: no privacy unit is protected"


def guess_bound(epsilon: float, delta: float) -> float:
    """Best chance to guess membership from a 50:50 start: (e^epsilon + delta) / (1 + e^epsilon).

    From Kairouz, Oh and Viswanath 2015, theorem 2.1: false alarms and misses obey a + e^epsilon b >= 1 - delta both
    ways round, so a + b >= 2 (1 - delta) / (1 + e^epsilon).

    Args:
        epsilon: >= 0, may be infinite.
        delta: in [0, 1].
    """
    odds = math.exp(-epsilon)
    return min((1.0 + delta * odds) / (1.0 + odds), 1.0)


def _guarantee(privacy: Json, told: Json) -> Item:
    claim = _claim(privacy)
    if claim is None:
        value = "epsilon is infinite: no differential privacy"
        return Item("Guarantee", value, "What was released may reveal any row that a device trained on.")
    epsilon, delta = claim
    value = f"epsilon {bound(epsilon)} at delta {bound(delta)}, budget {exact_figure(privacy.get('budget'))}"
    if "epsilon" in told:
        value += f"; at most {words(told.get('epsilon'))} over the whole run, whatever happens in it"
    if parts := pairs(told, "parts"):
        value += " (" + ", ".join(f"a row of {PARTS.get(name, name)}: {most}" for name, most in parts) + ")"
    relation = RELATIONS.get(str(privacy.get("relation")), "with that unit and without it")
    guess = guess_bound(epsilon, delta)
    meaning = (
        f"Compare two worlds, {relation}. Each possible outcome of the whole run is at most "
        f"{_factor(epsilon)} times as likely in the one as in the other, up to a remainder of {bound(delta)}. "
        "Somebody who sees every release and has to say which of the two data sets was used, starting from 50 : 50, "
        f"is right at most {_of_hundred(guess)} times in 100."
    )
    if guess > WEAK:
        meaning += " Taken alone, a bound this high says little; a smaller budget buys a stronger promise."
    return Item("Guarantee", value, meaning)


def _factor(epsilon: float) -> str:
    """The largest ratio of the two likelihoods, e^epsilon."""
    if epsilon < math.log(100):
        return bound(math.exp(epsilon))
    return whole(math.ceil(math.exp(epsilon))) if epsilon < 14 else f"e^{bound(epsilon)}"


def _of_hundred(share: float) -> str:
    """Rounded up: a bound may not look smaller than it is."""
    digits = 0 if share < 0.99 else 2
    return f"{math.ceil(100 * share * 10**digits) / 10**digits:.{digits}f}"


def _unit(privacy: Json, told: Json) -> Item:
    value = f"unit {words(privacy.get('unit'))}, neighbours by {words(privacy.get('relation'))}"
    unit = privacy.get("unit")
    if isinstance(unit, str) and unit in set(Unit):
        return Item("Unit of privacy", value, f"{_protected(Unit(unit), privacy)}{groups(told)}")
    meaning = "The record names no unit that is known here."
    return Item("Unit of privacy", value, meaning)


def _protected(unit: Unit, privacy: Json) -> str:
    match unit:
        case Unit.EXAMPLE:
            return (
                f"Protected is the content of {unit_words(privacy)}. How many rows each device holds is not hidden. A "
                "person with several rows has a weaker guarantee: at the same delta, epsilon grows faster than the "
                "number of rows; `fedinfer privacy group` computes it. What is true of all rows of a device together, "
                "such as its share of a diagnosis, is not hidden either."
            )
        case Unit.DEVICE:
            return f"Protected is the content of {unit_words(privacy)}. How many rows that is, is not hidden."
        case Unit.NONE:
            return "No unit is protected."
        case _:
            assert_never(unit)


def _mechanism(run: Json) -> Item:
    privacy = section(run, "privacy")
    adaptive = privacy.get("clipping") == "adaptive"
    value = f"clipping norm {significant(privacy.get('clipping_norm'))}{' at first' if adaptive else ''}, noise "
    value += f"multiplier {significant(privacy.get('noise_multiplier'))}"
    if not is_private(privacy):
        return Item("Mechanism", value, "No noise protects the releases.")
    sources = {
        Trust.LOCAL: "continuous Gaussian noise on each device",
        Trust.DISTRIBUTED: f"integer noise, a share from each device, {_inside(run)}",
        Trust.CENTRAL: "Gaussian noise that the server adds",
    }
    trust = words(privacy.get("trust"))
    noise = sources[Trust(trust)] if trust in set(Trust) else "noise"
    if (privacy.get("correlation") or {}).get("kind") in ("banded", "blt"):
        noise += ", which takes away part of the noise of rounds before it"
    contributors = finite(privacy.get("guaranteed_noise_contributors"))
    sized = ""
    if trust == Trust.DISTRIBUTED and contributors is not None:
        sized = f" The shares are sized so that those of {whole(contributors)} honest devices give the full noise."
    meaning = (
        f"Each contribution is clipped to the norm above, then covered by {noise}.{sized}"
        f"{besides(section(run, 'statement'))}"
    )
    if adaptive:
        meaning += (
            " The norm of updates follows a quantile of the devices' norms: each says in private, inside its noised "
            "contribution, whether it was clipped. Epsilon includes that."
        )
    return Item("Mechanism", value, meaning)


def _inside(run: Json) -> str:
    mode = words(section(run, "secure_aggregation").get("mode"))
    if mode == AggregationMode.OFF:
        return "which covers the sum of all and not what one device sends"
    return "inside the secure sum"


def _evidence(privacy: Json) -> Item:
    value = f"accountant {words(privacy.get('accountant'))}, sampling {words(privacy.get('sampling'))}"
    meaning = (
        "Epsilon is an upper bound that follows from a proof for the mechanism that ran, composed over all releases "
        "in the ledger below. It is not a measurement."
    )
    audit = section(privacy, "audit")
    if number(audit.get("lower_bound")) is not None:
        meaning += (
            f" An attack of our own ({words(audit.get('method'))}) shows that epsilon is at least "
            f"{lower_bound(audit.get('lower_bound'))} (confidence {significant(audit.get('confidence'))})."
        )
    return Item("Evidence", value, meaning)


def _utility(run: Json) -> Item:
    metric = words(section(run, "task").get("metric"), "metric")
    meaning = (
        "Clipping and noise cost accuracy, and cost more for groups with few rows; look at the groups that matter "
        "before use. The figures of quality in this report are computed on held-out rows, are for the people who run "
        "the simulation and are not covered by epsilon: do not publish them for real data without care."
    )
    return Item("Utility and bias", f"{metric} on held-out rows, in the tables below", meaning)


def _trust(privacy: Json) -> Item:
    trust = words(privacy.get("trust"))
    meaning = TRUST[Trust(trust)] if trust in set(TRUST) else "Not stated."
    return Item("Trust model", words(trust), meaning)


def _security(run: Json) -> Item:
    sums = section(run, "secure_aggregation")
    mode = words(sums.get("mode"))
    meaning = SUMS[AggregationMode(mode)] if mode in set(SUMS) else "Not stated."
    meaning = meaning.format(threshold=words(sums.get("threshold"), "the threshold of"))
    if run.get("engine") in SIMULATED:
        meaning += (
            " This was a simulation: keys and noise come from the seed in run.json, so whoever has the seed can undo "
            "them. A deployment takes both from the operating system."
        )
    corrupt = count(section(run, "statement").get("corrupt"))
    if corrupt and mode == AggregationMode.PROTOCOL:
        left = max((count(sums.get("threshold")) or 0) - corrupt, 0)
        meaning += f" With {whole(corrupt)} corrupt on its side the server could read the sum over {whole(left)}."
    value = f"mode {words(mode)}, threshold {words(sums.get('threshold'))}, {words(sums.get('bits'))} bits"
    return Item("Security", value, meaning)


def _collection(run: Json) -> Item:
    meaning = (
        "Rows stay on the device that holds them; what leaves is the clipped, noised and encoded update. Not "
        "hidden: which devices took part, when, how many bytes they sent and how many rows they hold, the public "
        "ranges and categories in the schema, and the model itself. Not prevented: a device that sends false values."
        f"{uncovered(section(run, 'statement'))}"
    )
    return Item("Data collection", f"{words(run.get('population'))} devices, rows held where they arose", meaning)
