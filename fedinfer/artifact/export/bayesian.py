"""A discrete Bayesian network as an ONNX graph: evidence in, the exact posterior of one variable out.

    P(target | evidence) ~ sum over all other variables of prod_i P(x_i | parents_i) prod_j l_j(x_j)

with l_j the indicator of what was observed of x_j, and 1 everywhere where nothing was (Darwiche 2009, "Modeling and
Reasoning with Bayesian Networks", section 6.4: the sum of a product of factors). It is one Einsum, so it is exact
and costs what the joint table costs: small networks only.

The graph takes one text (batch, 1) per evidence variable, the name of its state; a missing or unknown name is no
evidence. It answers float32 (batch, states of the target).
"""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.artifact.export.graph import onnx_module
from fedinfer.errors import ConfigError

MOST_JOINT = 2**22
"""Entries of the joint table of all variables."""
_OPSETS = {"": 17, "ai.onnx.ml": 3}
_BATCH = "z"
_LETTERS = string.ascii_uppercase + string.ascii_lowercase.replace(_BATCH, "")


@dataclass(frozen=True, slots=True)
class Factor:
    """The conditional distribution of one variable.

    Args:
        variable: its name.
        parents: names; may be empty.
        table: P(variable | parents), float (states of the variable, states of each parent ...); sums to 1 over the
            first axis.
    """

    variable: str
    parents: tuple[str, ...]
    table: npt.NDArray[Any]


def bayesian_network(
    factors: Sequence[Factor], states: Mapping[str, Sequence[str]], target: str, evidence: Sequence[str]
) -> bytes:
    """The ONNX file of a network.

    Args:
        factors: one for each variable.
        states: names of the states of each variable, in the order of the tables.
        target: variable whose posterior is answered, in the output "posterior".
        evidence: variables that may be observed, each an input of its name; at least one, the target not among them.

    Raises:
        ConfigError: tables that do not fit together, or a joint table of more than MOST_JOINT entries.
    """
    _check(factors, states, target, evidence)
    onnx, letters = onnx_module(), dict(zip(states, _LETTERS, strict=False))
    nodes: list[Any] = []
    constants = [
        onnx.numpy_helper.from_array(np.array([-1], np.int64), "last"),
        onnx.numpy_helper.from_array(np.array(1, np.float32), "one"),
    ]
    terms, operands = [], []
    for place, factor in enumerate(factors):
        name = f"table_{place}"
        constants.append(onnx.numpy_helper.from_array(np.asarray(factor.table, np.float32), name))
        terms.append("".join(letters[variable] for variable in (factor.variable, *factor.parents)))
        operands.append(name)
    for place, variable in enumerate(evidence):
        nodes += _likelihood(onnx, variable, list(states[variable]), f"seen_{place}")
        terms.append(_BATCH + letters[variable])
        operands.append(f"seen_{place}")
    equation = f"{','.join(terms)}->{_BATCH}{letters[target]}"
    nodes += [
        onnx.helper.make_node("Einsum", operands, ["joint"], equation=equation),
        onnx.helper.make_node("ReduceSum", ["joint", "last"], ["total"], keepdims=1),
        onnx.helper.make_node("Div", ["joint", "total"], ["posterior"]),
    ]
    text, real = onnx.TensorProto.STRING, onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "network",
        [onnx.helper.make_tensor_value_info(variable, text, ["batch", 1]) for variable in evidence],
        [onnx.helper.make_tensor_value_info("posterior", real, ["batch", len(states[target])])],
        constants,
    )
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in _OPSETS.items()]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def from_pgmpy(model: Any, target: str, evidence: Sequence[str]) -> bytes:
    """The ONNX file of a network of pgmpy.

    Args:
        model: pgmpy.models.DiscreteBayesianNetwork with a table for each variable.
        target: variable whose posterior is answered.
        evidence: variables that may be observed.

    Raises:
        ConfigError: as `bayesian_network`.
    """
    tables = {cpd.variable: cpd for cpd in model.get_cpds()}
    factors = [Factor(name, tuple(cpd.variables[1:]), np.asarray(cpd.values)) for name, cpd in tables.items()]
    states = {name: [str(state) for state in cpd.state_names[name]] for name, cpd in tables.items()}
    return bayesian_network(factors, states, target, evidence)


def _likelihood(onnx: Any, variable: str, names: list[str], out: str) -> list[Any]:
    """1 for the observed state and 0 for the others; 1 for all of them where none of the names was given."""
    make = onnx.helper.make_node
    return [
        make("Constant", [], [f"{out}_shape"], value_ints=[-1, len(names)]),
        make("OneHotEncoder", [variable], [f"{out}_hot"], domain="ai.onnx.ml", cats_strings=names, zeros=1),
        make("Reshape", [f"{out}_hot", f"{out}_shape"], [f"{out}_flat"]),
        make("ReduceSum", [f"{out}_flat", "last"], [f"{out}_any"], keepdims=1),
        make("Sub", ["one", f"{out}_any"], [f"{out}_none"]),
        make("Add", [f"{out}_flat", f"{out}_none"], [out]),
    ]


def _check(
    factors: Sequence[Factor], states: Mapping[str, Sequence[str]], target: str, evidence: Sequence[str]
) -> None:
    named = [factor.variable for factor in factors]
    if sorted(named) != sorted(states) or len(set(named)) != len(named) or len(named) > len(_LETTERS):
        raise ConfigError(f"{len(named)} tables for {len(states)} variables; each has one, at most {len(_LETTERS)}")
    unknown = [name for name in (target, *evidence) if name not in states]
    if unknown or target in evidence or not evidence or len(set(evidence)) != len(evidence):
        raise ConfigError(f"target {target!r} and evidence {list(evidence)} are different variables of the network")
    for factor in factors:
        wanted = tuple(len(states[name]) for name in (factor.variable, *factor.parents) if name in states)
        if factor.table.shape != wanted or not np.allclose(factor.table.sum(axis=0), 1, atol=1e-6):
            raise ConfigError(
                f"table of {factor.variable}: shape {factor.table.shape}, expected {wanted} with sums of 1"
            )
    joint = math.prod(len(names) for names in states.values())
    if joint > MOST_JOINT:
        raise ConfigError(
            f"the joint table has {joint} entries, at most {MOST_JOINT}",
            hint="leave out variables that nobody asks for",
        )
