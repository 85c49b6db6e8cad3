"""Torch modules and exported programs through torch's exporter."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from fedinfer.artifact.conversion.converted import LEAST_ROWS, Converted, Model, Rows, Values, columns_of, refused
from fedinfer.artifact.export.graph import quiet
from fedinfer.artifact.export.torch import bare
from fedinfer.artifact.imported.propose import Wishes
from fedinfer.errors import ConfigError, DataError, MissingExtra

_EXAMPLE = 4  # rows that are traced; a batch of 1 would be fixed
_HINT = "torch.export must trace it with a free batch: no branches on values"


def from_torch(model: Model, rows: Rows) -> Converted:
    """Convert a module, in evaluation, or a program of `torch.export`.

    Args:
        model: torch.nn.Module or ExportedProgram. It takes tensors with the axis of rows first and answers a tensor, a
            tuple of tensors, or tensors by name. The axis of rows of a program must be free.
        rows: public rows: an array (n, *shape) for one input, arrays by name of the parameter for several, or columns
            of a table that are the numbers of one input; n >= 8.

    Raises:
        ConfigError: torch cannot trace it, or it answers something else.
        DataError: rows that it does not take.
        MissingExtra: torch is not installed.
    """
    torch = torch_module()
    program = isinstance(model, torch.export.ExportedProgram)
    module = model.module() if program else model
    was_training = model.training if not program else False
    try:
        if not program:
            model.eval()
        return _converted(torch, model, module, program, rows)
    finally:
        if not program:
            model.train(was_training)


def torch_module() -> Any:
    """The package torch.

    Raises:
        MissingExtra: when it is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("torch is not installed", hint="pip install 'fedinfer[train]'") from error
    return torch


def _converted(torch: Any, model: Model, module: Any, program: bool, rows: Rows) -> Converted:
    names = _parameters(model, module, program)
    feeds, columns = _feeds(names, rows)
    tensors = [torch.from_numpy(np.ascontiguousarray(values)) for values in feeds.values()]
    try:
        with torch.no_grad():
            answers = _named(torch, module(*tensors))
        with quiet():
            graph = _export(
                torch, model, program, [tensor[:_EXAMPLE] for tensor in tensors], list(feeds), list(answers)
            )
    except Exception as error:  # of dozens of classes
        raise refused(type(model).__name__, error, _HINT) from error
    if len(feeds) != len(graph.graph.input):
        raise ConfigError(f"{len(graph.graph.input)} inputs of the graph, {len(feeds)} are given")
    data = bytes(bare(graph).SerializeToString())
    return Converted(data, feeds, answers, None, "", replace(Wishes(), columns=columns))


def _parameters(model: Model, module: Any, program: bool) -> list[str]:
    if program:
        return list(model.graph_signature.user_inputs)
    return [name for name in inspect.signature(module.forward).parameters if name not in ("args", "kwargs")]


def _feeds(names: list[str], rows: Rows) -> tuple[dict[str, Values], tuple[str, ...]]:
    columns, named = columns_of(rows), tuple[str, ...]()
    if columns and set(columns) <= set(names):
        feeds = {name: columns[name] for name in names if name in columns}
    elif columns:
        feeds, named = {names[0]: np.column_stack(list(columns.values()))}, tuple(columns)
    else:
        feeds = {names[0]: np.asarray(rows)}
    for name, values in feeds.items():
        if values.dtype.kind not in "fiub" or values.ndim < 1 or len(values) < LEAST_ROWS:
            raise DataError(f"example rows for {name}: {values.dtype} {values.shape}; {LEAST_ROWS} rows of numbers")
    floats = {
        name: values.astype(np.float32) if values.dtype == np.float64 else values for name, values in feeds.items()
    }
    return floats, named


def _named(torch: Any, answer: Any) -> dict[str, Values]:
    if isinstance(answer, torch.Tensor):
        found = {"output": answer}
    elif isinstance(answer, Mapping):
        found = {str(name): value for name, value in answer.items() if isinstance(value, torch.Tensor)}
    elif isinstance(answer, tuple | list):
        found = {f"output_{place}": value for place, value in enumerate(answer)}
    else:
        raise ConfigError(f"it answers {type(answer).__name__}, not tensors")
    return {name: value.detach().numpy() for name, value in found.items()}


def _export(torch: Any, model: Model, program: bool, example: list[Any], inputs: list[str], outputs: list[str]) -> Any:
    if program:
        done = torch.onnx.export(model, dynamo=True, input_names=inputs, output_names=outputs, verbose=False)
    else:
        batch = torch.export.Dim("batch", min=1)
        done = torch.onnx.export(
            model, tuple(example), dynamo=True, verbose=False, external_data=False, input_names=inputs,
            output_names=outputs, dynamic_shapes=tuple({0: batch} for _ in example),
        )  # fmt: skip
    return done.model_proto
