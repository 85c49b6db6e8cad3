"""Runs a model of somebody else, confined, on rows that are public or drawn; then its core on the same rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from fedinfer.artifact.evaluate.metrics import softmax
from fedinfer.artifact.imported.adapt import feeds_of, row_parts, row_tensors, schema_of
from fedinfer.artifact.imported.declaration import Declaration, InputSpec, ModelTask, OutputSpec, Use
from fedinfer.artifact.imported.detections import detected
from fedinfer.artifact.quantize.calibration import synthetic_tensors
from fedinfer.errors import ConfigError, GateFailed, Refusal
from fedinfer.manifest import INPUT, answer_name
from fedinfer.model_file import CheckedModel, Question, check_model, run_confined, run_named
from fedinfer.ports import Clock
from fedinfer.text import raw_rows

Arrays = Mapping[str, npt.NDArray[Any]]
Values = npt.NDArray[Any]
MOST_ROWS, LEAST_ROWS = 64, 6
ROW_VALUES = 2**20
"""Values of all trial rows together, where that leaves enough of them."""
TOGETHER = 4
"""Rows of one run: what a graph takes inside may be a thousand times a row, and its memory is limited."""
PARITY = 1e-3
"""Largest difference of a core to its graph: of a probability, or as a part of a range."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What a graph answered.

    Args:
        rows: float32 (n, width).
        seen: by output that has an axis of rows, (n, *shape).
        axes: which axis that is in the graph.
    """

    rows: npt.NDArray[np.float32]
    seen: dict[str, Values]
    axes: dict[str, int]


def trial_rows(found: Declaration, calibration: Arrays, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Rows to try a model on: public ones where there are enough, else drawn from the ranges.

    Args:
        found: of the model; its outputs are not looked at.
        calibration: public rows by input, (k, *shape); may be empty.
        rng: generator.

    Raises:
        ConfigError: calibration rows that are not rows of the model.
    """
    given = calibration_rows(found, calibration)
    width = sum(tensor.size for tensor in row_tensors(found))
    count = max(LEAST_ROWS, min(MOST_ROWS, ROW_VALUES // width))
    return given[:count] if len(given) >= LEAST_ROWS else synthetic_tensors(row_tensors(found), count, rng)


def calibration_rows(found: Declaration, calibration: Arrays) -> npt.NDArray[np.float32]:
    """Arrays by input as rows; state that is absent is zero.

    Args:
        found: of the model.
        calibration: by input, (k, *shape), texts for categories; may be empty.

    Raises:
        ConfigError: an array that is not of an input, or of another shape.
    """
    specs = {spec.name: spec for spec in found.inputs if spec.constant is None}
    unknown = [name for name in calibration if name not in specs]
    if unknown:
        raise ConfigError(
            f"calibration: no input is called {ascii(unknown[0])[:60]}", hint=f"there are {', '.join(specs)}"
        )
    counts = {len(values) for values in calibration.values()}
    if len(counts) > 1:
        raise ConfigError(f"calibration: arrays of {sorted(counts)} rows")
    rows = np.zeros((counts.pop() if counts else 0, sum(tensor.size for tensor in row_tensors(found))), np.float32)
    for name, place in row_parts(found).items():
        if name in calibration:
            rows[:, place] = _cells(specs[name], calibration[name], place.stop - place.start)
    return rows


def try_graph(
    model: CheckedModel, found: Declaration, rows: npt.NDArray[np.float32], states: Mapping[str, str], clock: Clock
) -> Trial:
    """Run a graph with its own inputs, confined.

    Args:
        model: the file.
        found: its inputs; outputs are not looked at.
        rows: float32 (n, width), n >= 6.
        states: input to the output that feeds it, which has its axis of rows where the graph takes one row at a time.
        clock: for time limits.

    Raises:
        GateFailed: it does not load or run there.
    """
    cuts = range(1, len(rows)) if found.one_row else (2, *range(5, len(rows), TOGETHER))
    parts = np.split(rows, list(cuts))
    answers = run_named(model, [feeds_of(found, part) for part in parts], clock)
    fed = {output: spec.axis for spec in found.inputs if (output := states.get(spec.name)) is not None}
    axes: dict[str, int] = {}
    for name, first in answers[0].items():
        shapes = [answer[name].shape for answer in answers]
        axis = _single(first, fed.get(name)) if found.one_row else _moving(shapes)
        if axis is not None and len({np.delete(shape, axis).tobytes() for shape in shapes}) == 1:
            axes[name] = axis
    seen = {
        name: np.concatenate([np.moveaxis(answer[name], axis, 0) for answer in answers]) for name, axis in axes.items()
    }
    return Trial(rows, seen, axes)


def check_core(file: bytes, found: Declaration, trial: Trial, clock: Clock) -> float:
    """Compare a finished file, confined, with the graph that it was made of.

    Args:
        file: finished ONNX file of the core, temperature 1.
        found: the whole declaration.
        trial: what the graph answered.
        clock: for time limits.

    Returns:
        The largest difference, of a probability or as a part of a range.

    Raises:
        GateFailed: an answer that is not finite, or a difference beyond PARITY.
    """
    expected, schema = answers_of(found, trial.seen), schema_of(found)
    bad = int((~np.isfinite(expected)).any(axis=1).sum())
    if bad:
        raise GateFailed(
            f"the model answers NaN or infinity for {bad} of {len(expected)} trial rows", Refusal.NOT_FINITE
        )
    question = Question(INPUT, answer_name(schema), schema.outputs, raw_rows(schema, trial.rows), alone=True)
    runs = run_confined(check_model(file), question, clock)
    failed = sum(run.probabilities is None for run in runs)
    if failed:
        raise GateFailed(f"the core fails on {failed} of {len(runs)} rows while it is confined", Refusal.CONFINED)
    said = np.concatenate([run.probabilities for run in runs if run.probabilities is not None])
    low, high = schema.ranges()
    difference = float((np.abs(said - expected) / (high - low)).max())
    if not difference <= PARITY:
        raise GateFailed(f"the core answers otherwise than the graph: off by {difference:.3g}, at most {PARITY:g}")
    return difference


def answers_of(found: Declaration, seen: Arrays) -> npt.NDArray[np.float64]:
    """What the core must answer, worked out from what the graph answered, (n, outputs).

    Args:
        found: the declaration.
        seen: by output, (n, *shape).

    Raises:
        ConfigError: an output that the graph does not answer row by row, or in another shape than declared.
    """
    absent = [spec.name for spec in found.outputs if spec.name not in seen]
    if absent:
        raise ConfigError(f"output {absent[0]} has no axis of rows, or its size changes")
    flat = [seen[spec.name].reshape(len(seen[spec.name]), -1).astype(np.float64) for spec in found.outputs]
    for spec, values in zip(found.outputs, flat, strict=True):
        if values.shape[1] != spec.size:
            raise ConfigError(f"output {spec.name} answers {values.shape[1]} values in a row, not {spec.size}")
    match found.task:
        case ModelTask.CLASSIFICATION:
            return _probabilities(found.outputs[0], flat[0], len(found.labels))
        case ModelTask.REGRESSION:
            return np.clip(flat[0], found.outputs[0].low, found.outputs[0].high)
        case ModelTask.SCORES | ModelTask.TENSORS:
            return np.concatenate(_detected(found, seen) or flat, axis=1)
        case _:
            assert_never(found.task)


def _detected(found: Declaration, seen: Arrays) -> list[npt.NDArray[np.float64]]:
    """The answers of an object detector, side by side; empty where the model is none."""
    step = found.detections
    if step is None:
        return []
    made = detected(step, seen[step.boxes], seen[step.scores])
    others = [seen[spec.name] for spec in found.outputs if spec.name not in (step.boxes, step.scores)]
    return [values.reshape(len(values), -1).astype(np.float64) for values in (*made, *others)]


def _probabilities(spec: OutputSpec, values: npt.NDArray[np.float64], classes: int) -> npt.NDArray[np.float64]:
    match spec.use:
        case Use.PROBABILITIES:
            return values
        case Use.LOGITS:
            return softmax(values)
        case Use.PROBABILITY:
            return np.concatenate([1 - values, values], axis=1)
        case Use.LOGIT:
            return softmax(np.concatenate([np.zeros_like(values), values], axis=1))
        case Use.CLASS:
            return np.asarray((values == np.arange(classes)).astype(np.float64))
        case Use.VALUE:
            raise ConfigError(f"output {spec.name}: a value is no class")
        case _:
            assert_never(spec.use)


def _cells(spec: InputSpec, values: Values, size: int) -> Values:
    if spec.categories:
        numbers = {category: place for place, category in enumerate(spec.categories)}
        return np.array([[numbers.get(str(value), np.nan)] for value in values.ravel()])
    if values.dtype.kind not in "fiub" or values[0].size != size:
        raise ConfigError(
            f"calibration: input {spec.name} has {values.dtype} {values.shape}, expected {size} values a row"
        )
    return values.reshape(len(values), size)


def _moving(shapes: list[tuple[int, ...]]) -> int | None:
    """The axis that is 2 for two rows and 3 for three; None when there is none."""
    first, second = shapes[0], shapes[1]
    if len(first) != len(second):
        return None
    found = [axis for axis, (two, three) in enumerate(zip(first, second, strict=True)) if (two, three) == (2, 3)]
    return found[0] if found else None


def _single(values: Values, said: int | None) -> int | None:
    """The axis of rows of an answer to one row: that of its state, the first one, or the first of size 1."""
    if said is not None:
        return said
    ones = [axis for axis, size in enumerate(values.shape) if size == 1]
    return ones[0] if ones else None
