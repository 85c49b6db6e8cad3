"""The modules that prepare a row, in ONNX: each function says what the `forward` of its module says in torch.

`source` is the name of float32 (n, width) as it comes from the device, NaN for missing; the name of the module's output
is returned. Constants are computed by torch where the module computes them, so that both round the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from fedinfer.errors import ConfigError
from fedinfer.ports import GraphWriter
from fedinfer.training.models.additive import AdditivePrepare
from fedinfer.training.models.preprocess import (
    FLAT,
    LENGTH,
    FieldPrepare,
    PixelPrepare,
    SeriesPrepare,
    TablePrepare,
    TokenPrepare,
)
from fedinfer.training.models.stretch import Stretch

FLOAT = 1  # onnx.TensorProto.FLOAT


def table(module: TablePrepare, graph: GraphWriter, source: str) -> str:
    """Write `TablePrepare`.

    Args:
        module: to write.
        graph: gets its nodes.
        source: name of the rows.
    """
    parts: list[str] = []
    if module.numbers:
        values = _gather(graph, source, module.numeric_at)
        missing = graph.add("IsNaN", values)
        parts += [_scaled(graph, values, missing, module), graph.add("Cast", missing, to=FLOAT)]
    if module.categories:
        known = _known(graph, _gather(graph, source, module.category_at), module.last)
        chosen = graph.add("Equal", _gather(graph, source, module.pair_at), _floats(graph, module.pair_code))
        parts += [graph.add("Cast", chosen, to=FLOAT), graph.add("Cast", graph.add("Not", known), to=FLOAT)]
    return _times(graph, graph.add("Concat", *parts, axis=1), module.scale)


def pixels(module: PixelPrepare, graph: GraphWriter, source: str) -> str:
    """Write `PixelPrepare`; arguments as in `table`."""
    present = graph.add("Where", graph.add("IsNaN", source), number(graph, 0.0), source)
    inside = graph.add("Clip", present, number(graph, 0.0), number(graph, module.pixel_max))
    scaled = graph.add("Div", inside, number(graph, module.pixel_max))
    if module.standardized:
        centred = graph.add("Sub", scaled, graph.add("ReduceMean", scaled, ints(graph, 1), keepdims=1))
        squares = graph.add("ReduceSum", graph.add("Mul", centred, centred), ints(graph, 1), keepdims=1)
        length = graph.add("Max", graph.add("Sqrt", squares), number(graph, FLAT))
        scaled = graph.add("Div", graph.add("Mul", centred, number(graph, LENGTH)), length)
    return graph.add("Reshape", scaled, ints(graph, -1, *module.shape))


def series(module: SeriesPrepare, graph: GraphWriter, source: str) -> str:
    """Write `SeriesPrepare`; arguments as in `table`."""
    scaled = _scaled(graph, source, graph.add("IsNaN", source), module)
    return graph.add("Reshape", scaled, ints(graph, -1, *module.shape))


def tokens(module: TokenPrepare, graph: GraphWriter, source: str) -> str:
    """Write `TokenPrepare`; arguments as in `table`."""
    found = graph.add("Add", source, number(graph, module.offset)) if module.offset else source
    valid = _known(graph, found, module.largest)
    return graph.add("Where", valid, found, number(graph, 0.0))


def fields(module: FieldPrepare, graph: GraphWriter, source: str) -> str:
    """Write `FieldPrepare`; arguments as in `table`."""
    values = _gather(graph, source, module.field_at)
    known = _known(graph, values, module.last)
    rows = graph.add("Where", known, graph.add("Add", values, number(graph, 1.0)), number(graph, 0.0))
    rows = graph.add("Add", rows, _floats(graph, module.first))
    if not module.numbers:
        return rows
    values = _gather(graph, source, module.numeric_at)
    scaled = _scaled(graph, values, graph.add("IsNaN", values), module)
    return graph.add("Concat", rows, scaled, axis=1)


def additive(module: AdditivePrepare, graph: GraphWriter, source: str) -> str:
    """Write `AdditivePrepare`; arguments as in `table`.

    Raises:
        ConfigError: a pair names a column that is neither a number nor a category.
    """
    parts: list[str] = []
    placed = missing = ""
    if module.numeric:
        placed, missing = _placed(module, graph, source)
        bent = graph.add("MatMul", _hats(graph, placed, missing, module.knots), _floats(graph, module.basis))
        flag = graph.add("Unsqueeze", missing, ints(graph, 2))
        parts.append(_flat(graph, graph.add("Concat", bent, flag, axis=2)))
    levels = _levels(module, graph, source) if module.listed else []
    parts += levels

    def coarse(name: str) -> str:
        if name in module.listed:
            return levels[module.listed[name]]
        if name not in module.numeric:
            raise ConfigError(f"column {name!r} is no number")
        at = module.numeric[name]
        own = [columns(graph, value, at, at + 1) for value in (placed, missing)]
        return graph.add("Squeeze", _hats(graph, own[0], own[1], module.pair_knots), ints(graph, 1))

    for one, other in module.pairs:
        first = graph.add("Unsqueeze", coarse(one), ints(graph, 2))
        second = graph.add("Unsqueeze", coarse(other), ints(graph, 1))
        parts.append(_flat(graph, graph.add("Mul", first, second)))
    return _times(graph, graph.add("Concat", *parts, axis=1), module.factor)


def array(value: Tensor) -> npt.NDArray[Any]:
    """A tensor as an array.

    Args:
        value: on any device.
    """
    return np.asarray(value.detach().cpu().numpy())


def number(graph: GraphWriter, value: float) -> str:
    """A float32 constant without dimensions.

    Args:
        graph: gets it.
        value: of it.
    """
    return graph.constant(np.array(value, np.float32))


def ints(graph: GraphWriter, *values: int) -> str:
    """An int64 constant (count,): axes, or a shape.

    Args:
        graph: gets it.
        values: of it.
    """
    return graph.constant(np.array(values, np.int64))


def columns(graph: GraphWriter, source: str, start: int, end: int) -> str:
    """Columns `start` to `end` - 1 of (n, width).

    Args:
        graph: gets the node.
        source: name of the matrix.
        start: first column, >= 0.
        end: the column after the last; one that is past the width is the width.
    """
    return part(graph, source, 1, start, end)


def part(graph: GraphWriter, source: str, axis: int, start: int, end: int) -> str:
    """As `columns`, along any axis."""
    return graph.add("Slice", source, ints(graph, start), ints(graph, end), ints(graph, axis))


def _scaled(graph: GraphWriter, values: str, missing: str, module: TablePrepare | SeriesPrepare | FieldPrepare) -> str:
    lowest, width = _floats(graph, module.low), module.high - module.low
    even = _stretched(graph, _clamped(graph, values, module.low, module.high), module.stretch)
    moved = graph.add("Mul", graph.add("Sub", even, lowest), _floats(graph, 2.0 / width))
    return graph.add("Where", missing, number(graph, 0.0), graph.add("Sub", moved, number(graph, 1.0)))


def _clamped(graph: GraphWriter, values: str, low: Tensor, high: Tensor) -> str:
    return graph.add("Min", graph.add("Max", values, _floats(graph, low)), _floats(graph, high))


def _stretched(graph: GraphWriter, values: str, module: Stretch) -> str:
    if not module.needed:
        return values
    last = ints(graph, 2)
    from_start = graph.add("Sub", graph.add("Unsqueeze", values, last), _floats(graph, module.start))
    risen = graph.add("Relu", graph.add("Mul", from_start, _floats(graph, module.slope)))
    inside = graph.add("Min", risen, _floats(graph, module.step))
    return graph.add("Add", _floats(graph, module.low), graph.add("ReduceSum", inside, last, keepdims=0))


def _known(graph: GraphWriter, values: str, last: Tensor | float) -> str:
    """Which values are whole numbers in [0, last]."""
    most = _floats(graph, last) if isinstance(last, Tensor) else number(graph, last)
    bounds = graph.add("GreaterOrEqual", values, number(graph, 0.0)), graph.add("LessOrEqual", values, most)
    return graph.add("And", graph.add("And", *bounds), graph.add("Equal", values, graph.add("Floor", values)))


def _placed(module: AdditivePrepare, graph: GraphWriter, source: str) -> tuple[str, str]:
    values = _gather(graph, source, module.numeric_at)
    missing = graph.add("IsNaN", values)
    if module.stretch.needed:
        values = _stretched(graph, _clamped(graph, values, module.low, module.high), module.stretch)
    moved = graph.add("Mul", graph.add("Sub", values, _floats(graph, module.low)), _floats(graph, module.scale))
    zero = number(graph, 0.0)
    placed = graph.add("Where", missing, zero, graph.add("Clip", moved, zero, number(graph, 1.0)))
    return placed, graph.add("Cast", missing, to=FLOAT)


def _hats(graph: GraphWriter, placed: str, missing: str, knots: int) -> str:
    """(n, columns) to (n, columns, knots), see `additive.hats`."""
    one, last = number(graph, 1.0), ints(graph, 2)
    at = graph.add("Mul", graph.add("Unsqueeze", placed, last), number(graph, knots - 1.0))
    distance = graph.add("Abs", graph.add("Sub", at, _counted(graph, knots)))
    weight = graph.add("Relu", graph.add("Sub", one, distance))
    return graph.add("Mul", weight, graph.add("Unsqueeze", graph.add("Sub", one, missing), last))


def _levels(module: AdditivePrepare, graph: GraphWriter, source: str) -> list[str]:
    values = _gather(graph, source, module.category_at)
    known = _known(graph, values, module.last)
    codes = graph.add("Where", known, values, _floats(graph, module.last + 1.0))
    return [
        graph.add("Cast", graph.add("Equal", columns(graph, codes, at, at + 1), _counted(graph, count + 1)), to=FLOAT)
        for at, count in enumerate(module.levels)
    ]


def _counted(graph: GraphWriter, count: int) -> str:
    return graph.constant(np.arange(count, dtype=np.float32))


def _gather(graph: GraphWriter, source: str, at: Tensor) -> str:
    return graph.add("Gather", source, graph.constant(array(at)), axis=1)


def _floats(graph: GraphWriter, value: Tensor) -> str:
    return graph.constant(array(value).astype(np.float32))


def _flat(graph: GraphWriter, source: str) -> str:
    return graph.add("Flatten", source, axis=1)


def _times(graph: GraphWriter, source: str, factor: float) -> str:
    return source if factor == 1.0 else graph.add("Mul", source, number(graph, factor))
