"""Requests and replies of the Open Inference Protocol v2 (KServe), as plain values: no web framework here.

A request carries rows in one of these ways:

* one tensor "input" of shape [rows, width] and a numeric datatype, null = missing, categories as indices; for a model
  of texts of shape [rows] or [rows, 1] and datatype BYTES;
* for a model that was made elsewhere its own tensors, by name, of shape [rows, ...] and any datatype of numbers, or
  BOOL; state that is left out is zero;
* one tensor per column, named after it, of shape [rows] or [rows, 1]: numbers, or BYTES for categories and texts.

Data is JSON, flat or nested, or binary. The reply has "label" (BYTES) and "probabilities" (FP32), or the answered
tensors, and, when the request's parameters ask with "explain": true, "attributions" (FP32, one value per column, per
patch of a tensor, or per word of a text). An output with the parameter "classification": k becomes its k likeliest
classes, each as the text "value:number:name".

Sources: KServe, Open Inference Protocol (V2), Inference Protocol HTTP/REST; Triton's extensions "Binary Tensor Data"
and "Classification".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.errors import DataError
from fedinfer.inference.predict.answers import Predictions
from fedinfer.inference.predict.explain import Explanations
from fedinfer.inference.predict.session import INPUT
from fedinfer.inference.serve.tensors import (
    NUMERIC,
    TEXTS,
    BinaryData,
    Tensor,
    read_tensor,
    tensor_binary,
    tensor_json,
)
from fedinfer.manifest import LABEL, PROBABILITIES, VALUE
from fedinfer.printable import is_unicode
from fedinfer.schema import Categorical, Schema, Text
from fedinfer.types import Json

ATTRIBUTIONS = "attributions"
INTERVAL = "interval"
UNKNOWN = "unknown_categories"
"""Parameter of a reply: texts of the request that are no category, and counted as missing."""


class Columns:
    """Columns of a request, as `Predictor.predict` takes a data frame.

    Args:
        by_name: at least one; all of one length.
    """

    def __init__(self, by_name: Mapping[str, npt.NDArray[Any]]) -> None:
        self.by_name = by_name

    @property
    def columns(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self.by_name)

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self.by_name[name]

    def __len__(self) -> int:
        """Rows."""
        return len(next(iter(self.by_name.values())))


@dataclass(frozen=True, slots=True)
class WantedOutput:
    """An output that a request asks for.

    Args:
        name: of the output.
        binary: as binary data, not JSON.
        classes: likeliest classes of each row that are wanted in place of all probabilities; 0: all probabilities.
    """

    name: str
    binary: bool = False
    classes: int = 0


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request that was read and checked.

    Args:
        rows: what `Predictor.predict` takes: an array, or `Columns`.
        id: echoed in the reply; may be empty.
        outputs: in the order of the reply.
    """

    rows: Any
    id: str
    outputs: tuple[WantedOutput, ...]

    @property
    def explains(self) -> bool:
        """Whether attributions are wanted."""
        return any(output.name == ATTRIBUTIONS for output in self.outputs)


def read_request(body: Any, schema: Schema, binary: bytes = b"") -> InferRequest:
    """Check a decoded JSON body.

    Args:
        body: any decoded JSON value; untrusted.
        schema: of the active model.
        binary: what stood behind the JSON; untrusted.

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
    if not is_unicode(request_id):
        raise DataError('"id" is not Unicode: it holds half of a surrogate pair')
    data = BinaryData(binary)
    tensors = [read_tensor(tensor, data) for tensor in inputs]
    data.end()
    return InferRequest(_rows(tensors, schema), request_id, _wanted(body.get("outputs"), parameters, schema))


def reply(
    request: InferRequest,
    name: str,
    version: int,
    answers: Predictions,
    explanations: Explanations | None = None,
    unknown: Mapping[str, int] | None = None,
) -> tuple[Json, bytes]:
    """The reply to a request.

    Args:
        request: that is answered; it says which outputs are wanted.
        name: of the model.
        version: of the model.
        answers: one per row of the request.
        explanations: of the same rows; needed when the request wants attributions, else None.
        unknown: texts that are no category, by column; only columns with any.

    Returns:
        What is sent as JSON, and the binary data behind it; empty where no output is wanted so.
    """
    document: Json = {"model_name": name, "model_version": str(version)}
    if request.id:
        document["id"] = request.id
    if unknown:
        by_column = {f"{UNKNOWN}.{column}": count for column, count in unknown.items()}
        document["parameters"] = {UNKNOWN: sum(unknown.values()), **by_column}
    outputs, binary = document.setdefault("outputs", []), []
    for wanted in request.outputs:
        datatype, values = _output(wanted, answers, explanations)
        if wanted.binary:
            tensor, data = tensor_binary(wanted.name, datatype, values)
            binary.append(data)
        else:
            tensor = tensor_json(wanted.name, datatype, values)
        outputs.append(tensor)
    return document, b"".join(binary)


def outputs_of(schema: Schema) -> tuple[str, ...]:
    """Names of the usual outputs: label and probabilities, value and interval, or tensors.

    Args:
        schema: of the model.
    """
    if schema.answers:
        return tuple(tensor.name for tensor in schema.answers)
    return (LABEL, PROBABILITIES) if schema.label_range is None else (VALUE, INTERVAL)


def _output(
    wanted: WantedOutput, answers: Predictions, explanations: Explanations | None
) -> tuple[str, npt.NDArray[Any]]:
    """Datatype and values of one output."""
    if wanted.classes:
        return TEXTS, _likeliest(answers, wanted.classes)
    if wanted.name == ATTRIBUTIONS and explanations is not None:
        return "FP32", explanations.attributions
    if answers.naming.tensors:
        return "FP32", answers.tensors[wanted.name]
    if wanted.name == INTERVAL:
        return "FP64", answers.intervals
    if wanted.name == LABEL:
        return TEXTS, answers.labels
    return "FP32", answers.values if wanted.name == VALUE else answers.raw


def _likeliest(answers: Predictions, count: int) -> npt.NDArray[Any]:
    """Texts "value:number:name" as Triton writes them, (rows, classes wanted)."""
    places, names = answers.top(count), answers.naming.labels
    texts = np.empty(places.shape, object)
    for row, chosen in enumerate(places.tolist()):
        values = answers.raw[row]
        texts[row] = [f"{values[place]:f}:{place}:{names[place]}" for place in chosen]
    return texts


def _rows(tensors: Sequence[Tensor], schema: Schema) -> Any:
    if schema.inputs and {tensor.name for tensor in tensors} <= {tensor.name for tensor in schema.inputs}:
        return _named(tensors)
    if len(tensors) > 1 or tensors[0].name != INPUT:
        return _columns(tensors, schema)
    (whole,) = tensors
    if schema.text is None:
        return _matrix(whole, schema)
    return _columns([Tensor(schema.text.name, whole.datatype, whole.shape, whole.values)], schema)


def _named(tensors: Sequence[Tensor]) -> dict[str, npt.NDArray[Any]]:
    """Tensors with their own shapes, (rows, ...); the reader of the schema checks sizes and values."""
    found: dict[str, npt.NDArray[Any]] = {}
    for tensor in tensors:
        if tensor.name in found or tensor.datatype == TEXTS:
            raise DataError(f"tensor {tensor.name[:60]!r} stands twice, or has no numeric datatype")
        found[tensor.name] = tensor.values.reshape(tensor.shape)
    return found


def _matrix(tensor: Tensor, schema: Schema) -> npt.NDArray[Any]:
    if tensor.datatype not in NUMERIC:
        raise DataError(f"tensor {INPUT!r} has datatype {tensor.datatype!r}, expected a numeric one")
    if len(tensor.shape) != 2 or tensor.shape[1] != schema.width:
        raise DataError(f"tensor {INPUT!r} has shape {list(tensor.shape)}, expected [rows, {schema.width}]")
    return _raw(tensor.values, schema).reshape(tensor.shape)


def _raw(values: npt.NDArray[Any], schema: Schema) -> npt.NDArray[Any]:
    """Values in the unit of the table. A float32 array would count as read already, with offsets taken off.

    A float32 means the shortest decimal number that is nearest to it, so a sentinel of -99.9 is found in FP32.
    """
    if values.dtype != np.float32 or not (schema.reading.missing_values or schema.reading.offsets):
        return values
    return values.astype(np.str_).astype(np.float64)


def _columns(tensors: Sequence[Tensor], schema: Schema) -> Columns:
    columns: dict[str, npt.NDArray[Any]] = {}
    worded = {column.name for column in schema.columns if isinstance(column, Categorical | Text)}
    for tensor in tensors:
        name, shape = tensor.name, tensor.shape
        if name in columns:
            raise DataError(f"tensor name {name[:60]!r} stands twice")
        if len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] != 1):
            raise DataError(f"tensor {name[:60]!r} has shape {list(shape)}, expected [rows] or [rows, 1]")
        if tensor.datatype != TEXTS and (tensor.datatype not in NUMERIC or name in worded):
            raise DataError(
                f"tensor {name[:60]!r} has datatype {tensor.datatype!r}; categories and texts are BYTES, "
                "numbers are no BOOL"
            )
        columns[name] = tensor.values
    counts = {name[:60]: len(values) for name, values in columns.items()}
    if len(set(counts.values())) != 1:
        raise DataError(f"tensors have different numbers of rows: {str(counts)[:200]}")
    return Columns(columns)


def _wanted(outputs: Any, parameters: Mapping[str, Any], schema: Schema) -> tuple[WantedOutput, ...]:
    known = (*outputs_of(schema), ATTRIBUTIONS)
    usual, binary = known if parameters.get("explain") is True else known[:-1], _flag(parameters, "binary_data_output")
    if outputs is None or outputs == []:
        return tuple(WantedOutput(name, binary) for name in usual)
    if not isinstance(outputs, list) or not all(isinstance(item, Mapping) for item in outputs):
        raise DataError('"outputs" is not a list of tensors')
    names = tuple(str(item.get("name")) for item in outputs)
    unknown = [name[:60] for name in names if name not in known]
    if unknown or len(set(names)) != len(names):
        raise DataError(f"outputs {unknown or list(names)} are unknown or stand twice; there are {', '.join(usual)}")
    asked = zip(names, outputs, strict=True)
    return tuple(_wanted_one(name, item.get("parameters"), binary, schema) for name, item in asked)


def _wanted_one(name: str, parameters: Any, binary: bool, schema: Schema) -> WantedOutput:
    parameters = {} if parameters is None else parameters
    if not isinstance(parameters, Mapping):
        raise DataError(f'output {name!r}: "parameters" is not an object')
    count = parameters.get("classification", 0)
    if type(count) is not int or count < 0 or (count and name != PROBABILITIES):
        raise DataError(
            f"output {name!r}: classification {str(count)[:20]!r}, expected how many classes of {PROBABILITIES!r}"
        )
    return WantedOutput(name, _flag(parameters, "binary_data", binary), min(count, schema.classes))


def _flag(parameters: Mapping[str, Any], name: str, usual: bool = False) -> bool:
    value = parameters.get(name, usual)
    if not isinstance(value, bool):
        raise DataError(f"parameter {name} is {str(value)[:20]!r}, expected true or false")
    return value
