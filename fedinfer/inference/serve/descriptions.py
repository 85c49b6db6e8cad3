"""What a server says about itself and its one model: metadata, configuration, index of the repository, statistics.

Sources: KServe, Open Inference Protocol (V2); Triton's extensions "Model Configuration", "Model Repository" (the index
alone: which model serves, its signed repository decides) and "Statistics".
"""

from __future__ import annotations

from fedinfer.inference.predict.session import INPUT
from fedinfer.inference.serve.protocol_v2 import INTERVAL
from fedinfer.inference.serve.telemetry import Calls, VersionFigures
from fedinfer.inference.serve.tensors import MOST_ROWS, TEXTS
from fedinfer.manifest import COVERAGE, LABEL, PROBABILITIES, VALUE
from fedinfer.schema import Schema
from fedinfer.tensors import TensorSpec
from fedinfer.types import Json

EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "model_repository", "statistics")
PLATFORM = "onnxruntime_onnx"


def model_metadata(name: str, version: int, schema: Schema) -> Json:
    """Metadata of the active model; the columns and labels stand in the parameters of its tensors.

    Args:
        name: of the model.
        version: of the model.
        schema: of the model.
    """
    return {
        "name": name,
        "versions": [str(version)],
        "platform": PLATFORM,
        "inputs": _described_inputs(schema),
        "outputs": _described_outputs(schema),
    }


def model_config(name: str, schema: Schema) -> Json:
    """Configuration of the model, as Triton's clients read it: sizes of one row, without the batch.

    Args:
        name: of the model.
        schema: of the model.
    """
    return {
        "name": name,
        "platform": PLATFORM,
        "backend": "onnxruntime",
        "max_batch_size": MOST_ROWS,
        "version_policy": {"latest": {"num_versions": 1}},
        "input": [_configured(tensor) for tensor in _described_inputs(schema)],
        "output": [_configured(output) for output in _described_outputs(schema)],
    }


def repository_index(name: str, version: int, *, only_ready: bool) -> list[Json]:
    """The one model, and whether it is ready.

    Args:
        name: of the model.
        version: that serves; 0: it was withdrawn.
        only_ready: leave out a model that is not.
    """
    if version:
        return [{"name": name, "version": str(version), "state": "READY", "reason": ""}]
    withdrawn = {"name": name, "version": "", "state": "UNAVAILABLE", "reason": "withdrawn"}
    return [] if only_ready else [withdrawn]


def model_statistics(name: str, figures: VersionFigures, last_milliseconds: int) -> Json:
    """Counts and times of one version since this process began.

    Args:
        name: of the model.
        figures: of the version.
        last_milliseconds: since 1970, of its last answer; 0: none.
    """
    calls = {kind: _duration(figures.calls.get(kind, Calls())) for kind in _KINDS}
    return {
        "name": name,
        "version": str(figures.version),
        "last_inference": last_milliseconds,
        "inference_count": figures.predictions,
        "execution_count": figures.executions,
        "inference_stats": calls,
        "batch_stats": [],
    }


_KINDS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")


def _duration(calls: Calls) -> Json:
    return {"count": calls.count, "ns": round(calls.seconds * 1e9)}


DATATYPES = {"bool": "BOOL", "float16": "FP16", "float32": "FP32", "float64": "FP64"} | {
    f"{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}
"""Names of numpy's dtypes in the protocol."""


def _described(tensor: TensorSpec, datatype: str) -> Json:
    facts: Json = {"range": [tensor.low, tensor.high]} | ({"feeds": tensor.feeds} if tensor.feeds else {})
    facts |= {"names": list(tensor.names)} if tensor.names else {}
    return {"name": tensor.name, "datatype": datatype, "shape": [-1, *tensor.shape], "parameters": facts}


def _described_inputs(schema: Schema) -> list[Json]:
    if schema.inputs:
        return [_described(tensor, DATATYPES[tensor.dtype]) for tensor in schema.inputs]
    parameters = {"columns": [column.name for column in schema.columns]}
    datatype, width = ("FP32", schema.width) if schema.text is None else (TEXTS, 1)
    return [{"name": INPUT, "datatype": datatype, "shape": [-1, width], "parameters": parameters}]


def _described_outputs(schema: Schema) -> list[Json]:
    if schema.label_range is None:
        return [
            {"name": LABEL, "datatype": TEXTS, "shape": [-1], "parameters": {"labels": list(schema.labels)}},
            {"name": PROBABILITIES, "datatype": "FP32", "shape": [-1, schema.classes]},
        ]
    if schema.answers:
        return [_described(tensor, "FP32") for tensor in schema.answers]
    facts = {"range": [*schema.label_range], "unit": schema.label_unit}
    return [
        {"name": VALUE, "datatype": "FP32", "shape": [-1], "parameters": facts},
        {"name": INTERVAL, "datatype": "FP64", "shape": [-1, 2], "parameters": {"coverage": COVERAGE}},
    ]


def _configured(tensor: Json) -> Json:
    datatype = "STRING" if tensor["datatype"] == TEXTS else tensor["datatype"]
    return {"name": tensor["name"], "data_type": f"TYPE_{datatype}", "dims": tensor["shape"][1:]}
