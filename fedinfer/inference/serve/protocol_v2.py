"""Requests and replies of the Open Inference Protocol v2 (KServe), as plain dictionaries: no web framework here.

A request carries rows in one of two ways:

* one tensor "input" of shape [rows, width] and a numeric datatype, null = missing, categories as indices; for a model
  of texts of shape [rows] or [rows, 1] and datatype BYTES, each text a JSON string;
* one tensor per column, named after it, of shape [rows] or [rows, 1]: numbers, or BYTES for categories and texts.

Data may be flat or nested, as the protocol allows. The reply has "label" (BYTES), "probabilities" (FP32) and, when the
request's parameters ask with "explain": true, "attributions" (FP32, one value per column or per word of a text).

Source: KServe, Open Inference Protocol (V2), Inference Protocol HTTP/REST.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedinfer.errors import DataError
from fedinfer.inference.predict.answers import Predictions
from fedinfer.inference.predict.explain import Explanations
from fedinfer.inference.predict.session import INPUT
from fedinfer.manifest import COVERAGE, LABEL, PROBABILITIES, VALUE
from fedinfer.schema import Categorical, Schema, Text
from fedinfer.types import Json

ATTRIBUTIONS = "attributions"
INTERVAL = "interval"
MOST_ROWS = 100_000
NUMERIC = frozenset({"BOOL", "FP16", "FP32", "FP64"} | {f"{s}INT{b}" for s in ("", "U") for b in (8, 16, 32, 64)})


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request that was read and checked.

    Args:
        rows: what `Predictor.predict` takes: an array, or a list of dictionaries.
        id: echoed in the reply; may be empty.
        outputs: names of the wanted outputs.
    """

    rows: Any
    id: str
    outputs: tuple[str, ...]


def read_request(body: Any, schema: Schema) -> InferRequest:
    """Check a decoded JSON body.

    Args:
        body: any decoded JSON value; untrusted.
        schema: of the active model.

    Raises:
        DataError: with the field and the rule. Cells of columns are checked later, by the predictor.
    """
    if not isinstance(body, Mapping):
        raise DataError("the body is not a JSON object")
    inputs = body.get("inputs")
    if not isinstance(inputs, list) or not inputs or not all(isinstance(tensor, Mapping) for tensor in inputs):
        raise DataError('"inputs" is not a non-empty list of tensors')
    request_id, parameters = body.get("id", ""), body.get("parameters") or {}
    if not isinstance(request_id, str) or not isinstance(parameters, Mapping):
        raise DataError('"id" is not a text or "parameters" is not an object')
    if _is_whole(inputs) and schema.text is not None:
        inputs = [{**inputs[0], "name": schema.text.name}]
    rows = _matrix(inputs[0], schema.width) if _is_whole(inputs) else _columns(inputs, schema)
    return InferRequest(rows, request_id, _wanted(body.get("outputs"), parameters.get("explain") is True, schema))


def reply(
    request: InferRequest, name: str, version: int, answers: Predictions, explanations: Explanations | None
) -> Json:
    """The reply to a request, ready for JSON.

    Args:
        request: that is answered; it says which outputs are wanted.
        name: of the model.
        version: of the model.
        answers: one per row of the request.
        explanations: of the same rows; needed when the request wants attributions, else None.
    """
    tensors = _answers(answers)
    if explanations is not None:
        shape, values = list(explanations.attributions.shape), explanations.attributions.ravel().tolist()
        tensors[ATTRIBUTIONS] = _tensor(ATTRIBUTIONS, shape, "FP32", values)
    document: Json = {"model_name": name, "model_version": str(version)}
    if request.id:
        document["id"] = request.id
    document["outputs"] = [tensors[output] for output in request.outputs]
    return document


def _answers(answers: Predictions) -> dict[str, Json]:
    count = len(answers)
    if answers.naming.bounds is not None:
        return {
            VALUE: _tensor(VALUE, [count], "FP32", answers.values.tolist()),
            INTERVAL: _tensor(INTERVAL, [count, 2], "FP64", answers.intervals.ravel().tolist()),
        }
    return {
        LABEL: _tensor(LABEL, [count], "BYTES", [str(label) for label in answers.labels]),
        PROBABILITIES: _tensor(PROBABILITIES, [*answers.raw.shape], "FP32", answers.raw.ravel().tolist()),
    }


def outputs_of(schema: Schema) -> tuple[str, str]:
    """Names of the usual outputs: label and probabilities, or value and interval.

    Args:
        schema: of the model.
    """
    return (LABEL, PROBABILITIES) if schema.label_range is None else (VALUE, INTERVAL)


def _described_outputs(schema: Schema) -> list[Json]:
    if schema.label_range is None:
        return [
            {"name": LABEL, "datatype": "BYTES", "shape": [-1], "parameters": {"labels": list(schema.labels)}},
            {"name": PROBABILITIES, "datatype": "FP32", "shape": [-1, schema.classes]},
        ]
    facts = {"range": [*schema.label_range], "unit": schema.label_unit}
    return [
        {"name": VALUE, "datatype": "FP32", "shape": [-1], "parameters": facts},
        {"name": INTERVAL, "datatype": "FP64", "shape": [-1, 2], "parameters": {"coverage": COVERAGE}},
    ]


def model_metadata(name: str, version: int, schema: Schema) -> Json:
    """Metadata of the active model; the columns and labels stand in the parameters of its tensors.

    Args:
        name: of the model.
        version: of the model.
        schema: of the model.
    """
    parameters = {"columns": [column.name for column in schema.columns]}
    datatype, width = ("FP32", schema.width) if schema.text is None else ("BYTES", 1)
    return {
        "name": name,
        "versions": [str(version)],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": INPUT, "datatype": datatype, "shape": [-1, width], "parameters": parameters}],
        "outputs": _described_outputs(schema),
    }


def _is_whole(inputs: Sequence[Mapping[str, Any]]) -> bool:
    return len(inputs) == 1 and inputs[0].get("name") == INPUT


def _matrix(tensor: Mapping[str, Any], width: int) -> Any:
    (shape, values), datatype = _shape_and_values(tensor), str(tensor.get("datatype"))
    if datatype not in NUMERIC:
        raise DataError(f"tensor {INPUT!r} has datatype {datatype[:40]!r}, expected a numeric one")
    if len(shape) != 2 or shape[1] != width:
        raise DataError(f"tensor {INPUT!r} has shape {shape}, expected [rows, {width}]")
    return np.array([_number(value) for value in values], np.float64).reshape(shape)


def _columns(inputs: Sequence[Mapping[str, Any]], schema: Schema) -> list[dict[str, Any]]:
    columns: dict[str, list[Any]] = {}
    worded = {column.name for column in schema.columns if isinstance(column, Categorical | Text)}
    for tensor in inputs:
        name = tensor.get("name")
        if not isinstance(name, str) or name in columns:
            raise DataError(f"tensor name {str(name)[:60]!r} is no text or stands twice")
        (shape, values), datatype = _shape_and_values(tensor), str(tensor.get("datatype"))
        if len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] != 1):
            raise DataError(f"tensor {name!r} has shape {shape}, expected [rows] or [rows, 1]")
        if datatype != "BYTES" and (datatype not in NUMERIC or name in worded):
            raise DataError(f"tensor {name!r} has datatype {datatype[:40]!r}; categories and texts are BYTES")
        columns[name] = values
    counts = {name: len(values) for name, values in columns.items()}
    if len(set(counts.values())) != 1:
        raise DataError(f"tensors have different numbers of rows: {str(counts)[:200]}")
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def _shape_and_values(tensor: Mapping[str, Any]) -> tuple[list[int], list[Any]]:
    name, shape, data = str(tensor.get("name"))[:60], tensor.get("shape"), tensor.get("data")
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise DataError(f"tensor {name!r}: shape is not a list of sizes")
    if not isinstance(data, list):
        raise DataError(f"tensor {name!r}: data is not a list", hint="the binary data extension is not spoken here")
    values = _flat(data)
    if math.prod(shape) != len(values) or not shape or shape[0] > MOST_ROWS:
        raise DataError(f"tensor {name!r}: {len(values)} values for shape {str(shape)[:80]}, at most {MOST_ROWS} rows")
    return shape, values


def _flat(data: list[Any]) -> list[Any]:
    """Level by level: nesting is bounded by the protocol's dimensions, not by Python's stack."""
    for _ in range(8):
        if not any(isinstance(item, list) for item in data):
            return data
        if not all(isinstance(item, list) for item in data):
            raise DataError("data mixes lists and values")
        data = [value for item in data for value in item]
    raise DataError("data is nested deeper than 8 levels")


def _number(value: Any) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool | int | float) and abs(value) < 1e300:  # an integer of JSON may be too large for a float
        return float(value)
    if isinstance(value, float) and math.isnan(value):
        return value
    raise DataError(f"value {str(value)[:60]!r} of tensor {INPUT!r} breaks the rule: a finite number or null")


def _wanted(outputs: Any, explain: bool, schema: Schema) -> tuple[str, ...]:
    known = (*outputs_of(schema), ATTRIBUTIONS)
    usual = known if explain else known[:2]
    if outputs is None:
        return usual
    if not isinstance(outputs, list) or not all(isinstance(item, Mapping) for item in outputs):
        raise DataError('"outputs" is not a list of tensors')
    names = tuple(str(item.get("name")) for item in outputs)
    unknown = [name[:60] for name in names if name not in known]
    if unknown or len(set(names)) != len(names):
        raise DataError(f"outputs {unknown or list(names)} are unknown or stand twice; there are {list(usual)}")
    return names or usual


def _tensor(name: str, shape: list[int], datatype: str, data: list[Any]) -> Json:
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}
