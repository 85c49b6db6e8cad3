"""What `finish` appends to a core: how a class is decided, an answer that is a number, or one that is a sum of terms.

* number: "value" = middle + half * clip(logits, -1, 1), float32 (batch, 1), in the label's unit and within its range;
* tensors: "value" = middle + half * logits, float32 (batch, values), each with its own middle and half, not clipped;
* terms: "contributions", float32 (batch, terms + 1, outputs): what each term of an additive model adds to the logit
  (after the temperature) or to the value (before it is clipped), in the order of the metadata `terms`; the last row is
  the intercept. Their sum is the logit, or the value where that is inside the range.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.metrics import EVEN
from fedinfer.schema import Schema

ADDED = "fedinfer_added"
_INT64 = 7  # onnx.TensorProto.INT64
AddNode = Callable[..., None]
AddConstant = Callable[[str, npt.NDArray[Any]], None]


def terms_tensor(graph: Any, logits: str) -> str:
    """Name of the tensor (terms, batch, outputs) whose sum over terms, plus a constant, is the logits; "" without one.

    Args:
        graph: onnx.GraphProto of a core.
        logits: name of its output.
    """
    made = {output: node for node in graph.node for output in node.output}
    last = made.get(logits)
    while last is not None and last.op_type == "Identity":
        last = made.get(last.input[0])
    if last is None or last.op_type != "Add":
        return ""
    sums = [made[name] for name in last.input if name in made and made[name].op_type == "ReduceSum"]
    return str(sums[0].input[0]) if sums else ""


def add_value(schema: Schema, logits: str, value: str, node: AddNode, constant: AddConstant) -> str:
    """Append the value of a regression, or those of tensors.

    Args:
        schema: with a label range.
        logits: name of the scaled output.
        value: name that the answer gets.
        node: appends a node to the graph.
        constant: appends a constant.

    Returns:
        Name of the value before it is clipped.
    """
    low, high = schema.ranges() if schema.answers else map(np.array, schema.label_range or (-1.0, 1.0))
    constant("fedinfer_half", np.asarray((high - low) / 2, np.float32))
    constant("fedinfer_middle", np.asarray((high + low) / 2, np.float32))
    if schema.answers:
        node("Mul", [logits, "fedinfer_half"], [f"fedinfer_wide_{value}"])
        node("Add", [f"fedinfer_wide_{value}", "fedinfer_middle"], [value])
        return value
    constant("fedinfer_least", np.array(-1.0, np.float32))
    constant("fedinfer_most", np.array(1.0, np.float32))
    node("Clip", [logits, "fedinfer_least", "fedinfer_most"], ["fedinfer_inside"])
    for name, source in ((value, "fedinfer_inside"), ("fedinfer_unclipped", logits)):
        node("Mul", [source, "fedinfer_half"], [f"fedinfer_wide_{name}"])
        node("Add", [f"fedinfer_wide_{name}", "fedinfer_middle"], [name])
    return "fedinfer_unclipped"


def add_decision(threshold: float, probabilities: str, chosen: str, node: AddNode, constant: AddConstant) -> None:
    """The number of the class that is answered, in operators of set 11.

    Args:
        threshold: of two classes, the second from this probability on; 0.5: the likeliest of all.
        probabilities: name of the probabilities, (batch, classes).
        chosen: name of the number, int64 (batch,).
        node: appends a node.
        constant: appends a constant.
    """
    if threshold == EVEN:
        node("ArgMax", [probabilities], [chosen], axis=-1, keepdims=0)
        return
    constant("fedinfer_one", np.array(1, np.int64))
    constant("fedinfer_threshold", np.array(threshold, np.float32))
    node("Gather", [probabilities, "fedinfer_one"], ["fedinfer_second"], axis=1)
    node("Greater", ["fedinfer_second", "fedinfer_threshold"], ["fedinfer_beyond"])
    node("Equal", ["fedinfer_second", "fedinfer_threshold"], ["fedinfer_met"])
    node("Or", ["fedinfer_beyond", "fedinfer_met"], ["fedinfer_reached"])
    node("Cast", ["fedinfer_reached"], [chosen], to=_INT64)


def add_contributions(
    terms: str, total: str, scaling: str, factor: str, output: str, node: AddNode, constant: AddConstant
) -> None:
    """Append what each term adds.

    Args:
        terms: name of the tensor (terms, batch, outputs), see `terms_tensor`.
        total: name of their scaled sum with the intercept, (batch, outputs).
        scaling: operator that scales them, "Div" or "Mul".
        factor: name of its constant.
        output: name of the result.
        node: appends a node to the graph.
        constant: appends a constant.
    """
    constant("fedinfer_term_axis", np.array([1], np.int64))
    node("Transpose", [terms], ["fedinfer_terms"], perm=[1, 0, 2])
    node(scaling, ["fedinfer_terms", factor], [ADDED])
    node("ReduceSum", [ADDED, "fedinfer_term_axis"], ["fedinfer_added_total"], keepdims=0)
    node("Sub", [total, "fedinfer_added_total"], ["fedinfer_intercept"])
    node("Unsqueeze", ["fedinfer_intercept", "fedinfer_term_axis"], ["fedinfer_intercept_row"])
    node("Concat", [ADDED, "fedinfer_intercept_row"], [output], axis=1)
