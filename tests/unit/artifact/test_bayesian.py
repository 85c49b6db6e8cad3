"""Bayesian networks as graphs: posteriors against the joint table written out by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fedinfer.artifact.export.bayesian import MOST_JOINT, Factor, bayesian_network
from fedinfer.artifact.imported.facts import read_facts
from fedinfer.artifact.imported.outside import parse
from fedinfer.errors import ConfigError
from fedinfer.model_file import check_model, open_checked
from fedinfer.system import simulation_rng

STATES = {"rain": ("no", "yes"), "sprinkler": ("off", "on"), "grass": ("dry", "damp", "wet"), "boots": ("no", "yes")}
PARENTS = {"rain": (), "sprinkler": ("rain",), "grass": ("rain", "sprinkler"), "boots": ("rain",)}


def _factors():
    rng = simulation_rng("network")
    for name, parents in PARENTS.items():
        table = rng.uniform(0.1, 1, [len(STATES[v]) for v in (name, *parents)])
        yield Factor(name, parents, table / table.sum(axis=0))


FACTORS = tuple(_factors())


def by_enumeration(seen: dict[str, str]) -> np.ndarray:
    """P(rain | seen), summed over every assignment of all variables."""
    total = np.zeros(2)
    for values in itertools.product(*(range(len(names)) for names in STATES.values())):
        assigned = dict(zip(STATES, values, strict=True))
        if any(
            name in STATES[variable] and STATES[variable][assigned[variable]] != name for variable, name in seen.items()
        ):
            continue
        weight = 1.0
        for factor in FACTORS:
            weight *= factor.table[tuple(assigned[v] for v in (factor.variable, *factor.parents))]
        total[assigned["rain"]] += weight
    return total / total.sum()


def test_posteriors_are_those_of_the_joint_table_with_any_part_of_the_evidence_missing():
    data = bayesian_network(FACTORS, STATES, "rain", ("grass", "boots"))
    cases = [{"grass": g, "boots": b} for g in (*STATES["grass"], "", "unheard") for b in (*STATES["boots"], "")]
    feeds = {name: np.array([[case[name]] for case in cases], object) for name in ("grass", "boots")}
    said = open_checked(check_model(data)).run(["posterior"], feeds)[0]
    np.testing.assert_allclose(said, [by_enumeration(case) for case in cases], atol=1e-6)


def test_an_import_reads_the_states_of_the_evidence_from_the_graph():
    facts = read_facts(parse(bayesian_network(FACTORS, STATES, "rain", ("grass", "boots"))))
    assert dict(facts.categories) == {"grass": STATES["grass"], "boots": STATES["boots"]}


@pytest.mark.parametrize(
    ("factors", "target", "evidence", "said"),
    [
        (FACTORS[:-1], "rain", ("grass",), "3 tables for 4 variables"),
        (FACTORS, "rain", ("rain",), "different variables"),
        (FACTORS, "snow", ("rain",), "different variables"),
        (FACTORS, "rain", (), "different variables"),
        ((*FACTORS[:-1], Factor("boots", ("rain",), np.ones((2, 2)))), "rain", ("grass",), "sums of 1"),
        ((*FACTORS[:-1], Factor("boots", (), FACTORS[-1].table)), "rain", ("grass",), "table of boots: shape"),
    ],
)
def test_a_network_that_does_not_fit_together_is_refused(factors, target, evidence, said):
    with pytest.raises(ConfigError, match=said):
        bayesian_network(factors, STATES, target, evidence)


def test_a_network_whose_joint_table_is_too_large_is_refused():
    states = {f"v{i}": ("a", "b") for i in range(23)}
    factors = [Factor(name, (), np.array([0.5, 0.5])) for name in states]
    assert 2**23 > MOST_JOINT
    with pytest.raises(ConfigError, match="joint table has 8388608 entries"):
        bayesian_network(factors, states, "v0", ("v1",))
