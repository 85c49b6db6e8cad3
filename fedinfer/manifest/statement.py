"""The privacy statement of a run: made once from its plan, the same in run.json, in the report and in every manifest.

The fields follow NIST SP 800-226 (Guidelines for Evaluating Differential Privacy Guarantees, 2025), from the top of its
pyramid down: parameters and unit of privacy; mechanism and proof; trust model, security and data collection.
`fedinfer.coordinator` makes it, `fedinfer.report` puts it into words. What it claims covers the whole run as planned
(all rounds, windows, canary evaluations, and those that an alarm may start), so it never changes while a run lasts;
what was spent so far stands beside it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any

from fedinfer.errors import ArtifactRejected
from fedinfer.manifest.fields import demand, is_decimal, items, number, value_of
from fedinfer.types import AggregationMode, Json, Relation, Trust, Unit

VERSION = 1
"""Of the JSON form. A reader that left a field out could make a claim look stronger, so it refuses other versions."""
MOST_ROWS = 16
"""Of each of the tables, at most."""
OPTIONAL = frozenset({"thresholds", "thresholds_epsilon"})
"""Fields that are there only where they claim something."""
SETTINGS = ("simulation", "deployment", "audit")
PARTS = ("training", "windows")

Figures = tuple[tuple[int, str], ...]
"""Pairs of a count >= 1 and an epsilon, in the order of the counts."""


@dataclass(frozen=True, slots=True)
class Statement:
    """What a run claims about its training data. Epsilons are decimal texts, rounded up, or "inf".

    Args:
        epsilon, delta: of (epsilon, delta)-differential privacy, for everything that the run may release.
        budget: limit on epsilon that the run keeps; "inf" where nothing is protected.
        unit, relation: what is protected, and when two data sets are neighbours.
        parts: epsilon by part where units fall into disjoint parts, names from PARTS: rows that are trained on, and
            rows of windows. Empty: every release may touch every unit.
        groups: epsilon of several units together, at the same delta, by their number.
        mechanism: law of the noise: skellam, discrete_gaussian, gaussian or none.
        clipping: fixed or adaptive.
        clipping_norm: C, > 0; of an adaptive run that of its first round.
        noise_multiplier: of training rounds: standard deviation of the guaranteed noise over C, >= 0.
        correlation: how the noise of rounds is correlated: none, banded or blt.
        accountant: by which bound: pld, rdp or none.
        sampling: poisson where amplification by sampling is claimed, else none.
        trust: who is trusted to add noise.
        devices: that take part.
        least: devices in a sum, at least: what the server may read is no smaller.
        corrupt: devices of a sum that may work for the attacker, without any loss of what is claimed. What they know of
            the sum is taken off, so the honest part of a sum holds `least` - `corrupt` devices.
        honest: shares of noise that are counted on; 0 where noise is not made of shares.
        missing: epsilon when one, two, ... of these shares are missing, because more devices are corrupt than planned.
        mode: how updates are summed.
        setting: simulation, deployment or audit.
        confirmed: somebody confirmed that ranges and categories are public, and not read off the rows.
        label_bits: bits that a device may give away, without noise, by saying whether its table fits a description.
        windows, windows_epsilon: drift reports, and what all of them cost by themselves.
        evaluations, evaluations_epsilon: canary evaluations of one unit, and what all of them cost by themselves.
        thresholds, thresholds_epsilon: private choices of a decision threshold, and what all of them cost by
            themselves; statements of earlier programs have none.
        earlier: runs before this one in the same ledger, whose rows may be the same.
        over_runs: epsilon of this run and those together.
    """

    epsilon: str
    delta: str
    budget: str
    unit: str
    relation: str
    parts: tuple[tuple[str, str], ...]
    groups: Figures
    mechanism: str
    clipping: str
    clipping_norm: float
    noise_multiplier: float
    correlation: str
    accountant: str
    sampling: str
    trust: str
    devices: int
    least: int
    corrupt: int
    honest: int
    missing: Figures
    mode: str
    setting: str
    confirmed: bool
    label_bits: int
    windows: int
    windows_epsilon: str
    evaluations: int
    evaluations_epsilon: str
    earlier: int
    over_runs: str
    thresholds: int = 0
    thresholds_epsilon: str = "0"

    def sentence(self) -> str:
        """The statement in one line, for people and logs that show one line."""
        if self.unit == Unit.NONE:
            return "no privacy guarantee: trained without noise"
        against = {
            Trust.DISTRIBUTED: f"the server and {self.corrupt} corrupt device(s) of a sum",
            Trust.LOCAL: "everybody but the device itself",
            Trust.CENTRAL: "everybody but the server",
        }[Trust(self.trust)]
        named = {AggregationMode.PROTOCOL: ""}
        mode = named.get(AggregationMode(self.mode), f", aggregation mode {self.mode}")
        return (
            f"({self.epsilon}, {self.delta})-differential privacy per {self.unit} ({self.relation}) for the whole run, "
            f"against {against}; accountant {self.accountant}, sampling {self.sampling}, trust {self.trust}, "
            f"{self.setting}{mode}"
        )

    def to_json(self) -> Json:
        """A JSON object that `read_statement` reads back; pairs become lists."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        if not self.thresholds:  # programs that know no such choice read the others
            plain = {name: value for name, value in plain.items() if name not in OPTIONAL}
        return {"version": VERSION} | {
            name: [list(pair) for pair in value] if isinstance(value, tuple) else value for name, value in plain.items()
        }


def read_statement(data: Any) -> Statement:
    """Read and check what `Statement.to_json` wrote.

    Args:
        data: any decoded JSON value; untrusted.

    Raises:
        ArtifactRejected: when a field is missing or unknown, has the wrong type or breaks a bound, or for another
            version.
    """
    found = value_of(data, "version", int)
    if found != VERSION:
        raise ArtifactRejected(f"privacy statement of version {found}, this program reads {VERSION}", hint="update")
    names = {field.name: str(field.type) for field in fields(Statement)}
    needed = names.keys() if OPTIONAL & set(data) else names.keys() - OPTIONAL
    odd = sorted(set(data) ^ {"version", *needed})
    demand(not odd, f"fields of the privacy statement: {', '.join(odd)[:80]}")
    statement = Statement(**{name: _field(data, name, kind) for name, kind in names.items() if name in data})
    _check(statement)
    return statement


def _field(data: Any, name: str, kind: str) -> Any:
    match kind:
        case "str":
            return value_of(data, name, str)
        case "bool":
            return value_of(data, name, bool)
        case "int":
            return value_of(data, name, int)
        case "float":
            return number(data, name)
        case _:
            first = str if name == "parts" else int
            return items(data, name, lambda pair: _pair(pair, first), MOST_ROWS)


def _pair(value: Any, first: type) -> tuple[Any, str]:
    demand(isinstance(value, list) and len(value) == 2, "a row of a privacy statement is no pair")
    demand(type(value[0]) is first and type(value[1]) is str, "a row of a privacy statement has other types")
    return value[0], value[1]


def _check(statement: Statement) -> None:
    one_of: dict[str, Collection[str]] = {
        "unit": list(Unit), "relation": list(Relation), "trust": list(Trust), "mode": list(AggregationMode),
        "setting": SETTINGS, "accountant": ("pld", "rdp", "none"), "sampling": ("poisson", "none"),
        "mechanism": ("skellam", "discrete_gaussian", "gaussian", "none"), "clipping": ("fixed", "adaptive"),
        "correlation": ("none", "banded", "blt"),
    }  # fmt: skip
    for name, known in one_of.items():
        demand(getattr(statement, name) in known, f"{name} {getattr(statement, name)[:40]!r} of a privacy statement")
    figures = (
        "epsilon", "delta", "budget", "windows_epsilon", "evaluations_epsilon", "thresholds_epsilon", "over_runs",
    )  # fmt: skip
    for name in figures:
        demand(is_decimal(getattr(statement, name)), f"{name} {getattr(statement, name)[:40]!r}")
    rows = (*statement.parts, *statement.groups, *statement.missing)
    demand(all(is_decimal(epsilon) for _, epsilon in rows), "an epsilon of a privacy statement is no number")
    demand(all(name in PARTS for name, _ in statement.parts), "a part of a privacy statement is unknown")
    demand(all(count >= 1 for count, _ in (*statement.groups, *statement.missing)), "a count of a privacy statement")
    counts = ("devices", "least", "corrupt", "honest", "label_bits", "windows", "evaluations", "thresholds", "earlier")
    for name in (*counts, "clipping_norm", "noise_multiplier"):
        demand(getattr(statement, name) >= 0, f"{name} of a privacy statement is negative")
