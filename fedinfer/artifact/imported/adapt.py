"""From a graph with its own inputs and outputs to a core: one float32 row in, float logits out.

Before the graph a row is cut into its inputs, after it the answers are put side by side. Every name of the graph is
replaced: no text of somebody else reaches a log or a page by way of a node, and none can be taken for one of ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from fedinfer.artifact.export.graph import LOGITS, OnnxModel, onnx_module
from fedinfer.artifact.imported.declaration import Declaration, InputSpec, ModelTask, OutputSpec, Use
from fedinfer.artifact.imported.detections import CLASSES, add_detections, detected_tensors, sizes_of
from fedinfer.artifact.imported.facts import OLDEST
from fedinfer.artifact.imported.parts import Parts, rename
from fedinfer.artifact.imported.steps import add_steps, made, made_of_raw, raw_of, with_steps_known
from fedinfer.artifact.imported.vocabulary import text_column
from fedinfer.errors import ConfigError
from fedinfer.manifest import INPUT
from fedinfer.schema import Categorical, Column, Numeric, Schema, Text
from fedinfer.tensors import FLOATING, TensorSpec, places

LEAST_PROBABILITY = 1e-7
"""A smaller probability has the logit of this one."""
SURE = 20.0
"""Logit of the class that a graph names without a probability; the others have 0."""
MOST_COLUMNS = 1024


def schema_of(found: Declaration) -> Schema:
    """What a row and an answer look like.

    Args:
        found: of the model.

    Raises:
        ConfigError: when the parts do not fit together.
    """
    found.deciding.check(len(found.labels))
    if found.detections is not None and found.task is not ModelTask.TENSORS:
        raise ConfigError(f"detections of a model with task {found.task}", hint='task = "tensors"')
    columns = _columns(found)
    inputs = () if columns else tuple(_tensor(spec) for spec in _asked(found))
    match found.task:
        case ModelTask.CLASSIFICATION:
            if len(found.labels) < 2:
                raise ConfigError(f"{len(found.labels)} labels; a classification has at least two")
            return Schema(columns, found.label, found.labels, inputs=inputs, complete=not found.missing)
        case ModelTask.REGRESSION:
            if len(found.outputs) != 1:
                raise ConfigError(f"a regression answers one output, not {len(found.outputs)}")
            bounds = (found.outputs[0].low, found.outputs[0].high)
            return Schema(columns, found.label, (), label_range=bounds, inputs=inputs, complete=not found.missing)
        case ModelTask.SCORES | ModelTask.TENSORS:
            answers = _answers(found)
            lows, highs = [tensor.low for tensor in answers], [tensor.high for tensor in answers]
            bounds = (min(lows), max(highs))
            return Schema(
                columns, found.label, (), label_range=bounds, inputs=inputs, answers=answers,
                complete=not found.missing,
            )  # fmt: skip
        case _:
            assert_never(found.task)


def _answers(found: Declaration) -> tuple[TensorSpec, ...]:
    """The tensors that are answered: detections in place of their two outputs, then the others as they are."""
    told = {
        spec.name: TensorSpec(spec.name, spec.dtype, spec.shape, spec.low, spec.high, spec.feeds, spec.names)
        for spec in found.outputs
    }
    if found.detections is None:
        return tuple(told.values())
    absent = [name for name in (found.detections.boxes, found.detections.scores) if name not in told]
    if absent:
        raise ConfigError(f"detections: there is no output {absent[0]}")
    first = detected_tensors(found.detections, told.pop(found.detections.boxes), told.pop(found.detections.scores))
    return (*first, *told.values())


def row_tensors(found: Declaration) -> list[TensorSpec]:
    """The inputs of the graph that rows bring, side by side; a category is its number.

    Args:
        found: of the model.
    """
    return [_tensor(spec) for spec in _asked(found)]


def row_parts(found: Declaration) -> dict[str, slice]:
    """Where each input of the graph lies in a row; constants lie nowhere.

    Args:
        found: of the model.
    """
    return places(row_tensors(found))


def feeds_of(found: Declaration, rows: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[Any]]:
    """What the graph itself takes for some rows.

    Args:
        found: of the model.
        rows: float32 (n, width).

    Returns:
        By input, with the axis of rows where the graph has it.
    """
    parts, feeds = row_parts(found), {}
    for spec in found.inputs:
        if spec.constant is not None:
            feeds[spec.name] = np.full(spec.shape, spec.constant, spec.dtype)
            continue
        if made_of_raw(spec):
            values = made(spec, rows[:, parts[spec.name]])
            feeds[spec.name] = np.moveaxis(values.astype(spec.dtype), 0, spec.axis or 0)
            continue
        values = rows[:, parts[spec.name]].reshape(len(rows), *spec.shape)
        if spec.categories:
            names = np.array([*spec.categories, ""], object)
            values = names[np.where(np.isnan(values), len(spec.categories), values).astype(np.int64)]
        else:
            values = values.astype(spec.dtype)
        feeds[spec.name] = np.moveaxis(values, 0, spec.axis or 0)
    return feeds


def adapt(model: OnnxModel, found: Declaration) -> OnnxModel:
    """The core of a model.

    Args:
        model: onnx.ModelProto, checked; it becomes the core, because two of them may be a lot of memory.
        found: its declaration.

    Returns:
        onnx.ModelProto with input "input" (float32 (batch, width), batch 1 where the graph takes one row at a time) and
        output "logits" (float32 (batch, outputs)).

    Raises:
        ConfigError: the declaration names what the graph does not have.
    """
    onnx, schema = onnx_module(), schema_of(found)
    core = with_steps_known(model, found.inputs)
    names = rename(core)
    parts = Parts(onnx, core, names, 1 if found.one_row else -1)
    _front(parts, found)
    _back(parts, found)
    graph = core.graph
    if not any(item.domain in ("", "ai.onnx") for item in core.opset_import):
        core.opset_import.append(onnx.helper.make_opsetid("", OLDEST))
    batch = 1 if found.one_row else "batch"
    for ports, name, size in ((graph.input, INPUT, schema.width), (graph.output, LOGITS, schema.outputs)):
        del ports[:]
        ports.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [batch, size]))
    return core


def _asked(found: Declaration) -> list[InputSpec]:
    return [spec for spec in found.inputs if spec.constant is None]


def _tensor(spec: InputSpec) -> TensorSpec:
    if spec.categories:
        return TensorSpec(spec.name, "int64", spec.shape, 0.0, float(max(len(spec.categories) - 1, 1)))
    if made_of_raw(spec):
        return raw_of(spec)
    return TensorSpec(spec.name, spec.dtype, spec.shape, spec.low, spec.high)


def _columns(found: Declaration) -> tuple[Column, ...]:
    """Columns of a table, where the rows are one: a vector of real numbers, or one value per input. Else none."""
    asked, fed = _asked(found), any(spec.feeds for spec in found.outputs)
    if any(spec.vocabulary is not None for spec in asked):
        return _text(asked, fed)
    real = all(spec.dtype in FLOATING for spec in asked)
    vector = len(asked) == 1 and len(asked[0].shape) == 1 and asked[0].size <= MOST_COLUMNS and real
    single = all(spec.size == 1 for spec in asked) and (real or any(spec.categories for spec in asked))
    if fed or not (vector or single):
        if any(spec.categories for spec in asked):
            raise ConfigError("categories are columns of a table: every other input is one value then")
        return ()
    return tuple(column for spec in asked for column in _of_input(spec))


def _text(asked: list[InputSpec], fed: bool) -> tuple[Text]:
    """The only column of a model of texts."""
    [spec, *others] = asked
    if others or fed or spec.vocabulary is None:
        raise ConfigError("a text is all that a row is: every other input is a constant", hint="--constant INPUT=VALUE")
    return (text_column(spec.name, spec.shape, spec.vocabulary),)


def _of_input(spec: InputSpec) -> Iterator[Numeric | Categorical]:
    if spec.categories:
        yield Categorical(spec.name, spec.categories)
        return
    names = spec.columns or ((spec.name,) if spec.size == 1 else tuple(f"{spec.name}_{i}" for i in range(spec.size)))
    if len(names) != spec.size:
        raise ConfigError(f"{len(names)} columns for {spec.size} values of input {spec.name}")
    yield from (Numeric(name, spec.low, spec.high) for name in names)


def _front(parts: Parts, found: Declaration) -> None:
    at, asked = row_parts(found), _asked(found)
    for spec in found.inputs:
        name = parts.names.get(spec.name)
        if name is None or not any(item.name == name for item in parts.core.graph.input):
            raise ConfigError(f"the graph has no input {spec.name}")
        if spec.constant is not None:
            parts.constant(np.full(spec.shape, spec.constant, spec.dtype), name)
            continue
        whole = len(asked) == 1
        _cut(parts, spec, at[spec.name], whole, name)
    for node in reversed(parts.front):
        parts.core.graph.node.insert(0, node)


def _cut(parts: Parts, spec: InputSpec, place: slice, whole: bool, name: str) -> None:
    """The values of one input out of a row."""
    values = INPUT
    if not whole:
        ends = [parts.constant(np.array([end], np.int64)) for end in (place.start, place.stop, 1)]
        values = parts.node("Slice", [values, *ends], first=True)
    if made_of_raw(spec):
        values = add_steps(spec, values, partial(parts.node, first=True), parts.constant, parts.batch)
    elif len(spec.shape) != 1:
        shape = parts.constant(np.array([parts.batch, *spec.shape], np.int64))
        values = parts.node("Reshape", [values, shape], first=True)
    if spec.axis:
        order = list(range(1, len(spec.shape) + 1))
        order.insert(spec.axis, 0)
        values = parts.node("Transpose", [values], first=True, perm=order)
    if spec.categories:
        _look_up(parts, values, spec.categories, name)
    elif spec.dtype != "float32":
        parts.node("Cast", [values], name, first=True, to=parts.kind(spec.dtype))
    else:
        parts.node("Identity", [values], name, first=True)


def _look_up(parts: Parts, values: str, categories: tuple[str, ...], name: str) -> None:
    """Texts for indices; a missing one is the empty text."""
    texts = parts.constant(np.array([*categories, ""], object))
    missing = parts.node("IsNaN", [values], first=True)
    beyond = parts.constant(np.array(len(categories), np.float32))
    index = parts.node("Where", [missing, beyond, values], first=True)
    index = parts.node("Cast", [index], first=True, to=parts.onnx.TensorProto.INT64)
    parts.node("Gather", [texts, index], name, first=True, axis=0)


def _back(parts: Parts, found: Declaration) -> None:
    for spec in found.outputs:
        if spec.name not in parts.names:
            raise ConfigError(f"the graph has no output {spec.name}")
    if found.task is ModelTask.CLASSIFICATION:
        if len(found.outputs) != 1:
            raise ConfigError(f"a classification answers one output, not {len(found.outputs)}")
        _logits(parts, found.outputs[0], len(found.labels))
        return
    if any(spec.use is not Use.VALUE for spec in found.outputs):
        raise ConfigError(f"outputs of {found.task} have use = 'value'")
    made = _detected(parts, found) if found.detections is not None else {}
    specs = {spec.name: spec for spec in found.outputs}
    scaled = [
        _scaled(parts, made.get(tensor.name) or _flat(parts, specs[tensor.name]), tensor) for tensor in _answers(found)
    ]
    if len(scaled) == 1:
        parts.node("Identity", scaled, LOGITS)
    else:
        parts.node("Concat", scaled, LOGITS, axis=1)


def _detected(parts: Parts, found: Declaration) -> dict[str, str]:
    """Names of the values that detections make, by the tensors that are answered."""
    step, specs = found.detections, {spec.name: spec for spec in found.outputs}
    assert step is not None  # noqa: S101  # the caller asks only then
    boxes, scores = specs[step.boxes], specs[step.scores]
    sizes = sizes_of(step, boxes.shape, scores.shape)
    flat = _flat(parts, boxes), _flat(parts, scores)
    names = add_detections(step, *flat, sizes, parts.batch, parts.nodes, parts.constant)
    return dict(zip((step.boxes, step.scores, CLASSES), names, strict=True))


def _scaled(parts: Parts, values: str, spec: TensorSpec) -> str:
    """Values side by side, so that their range is [-1, 1]."""
    middle = parts.constant(np.array((spec.high + spec.low) / 2, np.float32))
    half = parts.constant(np.array((spec.high - spec.low) / 2, np.float32))
    return parts.node("Div", [parts.node("Sub", [values, middle]), half])


def _flat(parts: Parts, spec: OutputSpec, name: str = "") -> str:
    """The values of one output, float32 (batch, size)."""
    values = name or parts.names[spec.name]
    if spec.dtype != "float32":
        values = parts.node("Cast", [values], to=parts.onnx.TensorProto.FLOAT)
    if spec.axis:
        order = [spec.axis, *(axis for axis in range(len(spec.shape) + 1) if axis != spec.axis)]
        values = parts.node("Transpose", [values], perm=order)
    shape = parts.constant(np.array([parts.batch, spec.size], np.int64))
    return parts.node("Reshape", [values, shape])


def _logits(parts: Parts, spec: OutputSpec, classes: int) -> None:
    wanted = {Use.PROBABILITIES: classes, Use.LOGITS: classes}.get(spec.use, 1)
    if spec.size != wanted or spec.use is Use.VALUE or (wanted == 1 and spec.use is not Use.CLASS and classes != 2):
        raise ConfigError(f"output {spec.name}: {spec.size} values as {spec.use} of {classes} classes")
    match spec.use:
        case Use.LOGITS:
            parts.node("Identity", [_flat(parts, spec)], LOGITS)
        case Use.PROBABILITIES:
            before = _before_softmax(parts, spec)
            if before:
                parts.node("Identity", [_flat(parts, spec, before)], LOGITS)
            else:
                _log(parts, _flat(parts, spec))
        case Use.PROBABILITY:
            values = _flat(parts, spec)
            other = parts.node("Sub", [parts.constant(np.array(1, np.float32)), values])
            _log(parts, parts.node("Concat", [other, values], axis=1))
        case Use.LOGIT:
            values = _flat(parts, spec)
            nothing = parts.node("Mul", [parts.constant(np.array(0, np.float32)), values])
            parts.node("Concat", [nothing, values], LOGITS, axis=1)
        case Use.CLASS:
            numbers = parts.constant(np.arange(classes, dtype=np.float32).reshape(1, -1))
            chosen = parts.node("Cast", [parts.node("Equal", [_flat(parts, spec), numbers])], to=1)
            parts.node("Mul", [chosen, parts.constant(np.array(SURE, np.float32))], LOGITS)
        case Use.VALUE:
            raise ConfigError("a value is no class")
        case _:
            assert_never(spec.use)


def _log(parts: Parts, values: str) -> None:
    least = parts.constant(np.array(LEAST_PROBABILITY, np.float32))
    parts.node("Log", [parts.node("Clip", [values, least])], LOGITS)


def _before_softmax(parts: Parts, spec: OutputSpec) -> str:
    """What a softmax over the classes reads, where it makes the output; empty where something else does."""
    name = parts.names[spec.name]
    node = next((node for node in parts.core.graph.node if name in node.output), None)
    if node is None or node.op_type != "Softmax" or spec.axis or spec.dtype != "float32" or len(spec.shape) != 1:
        return ""
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), -1)
    return str(node.input[0]) if axis in (-1, 1) else ""
