"""ONNX graphs of model kinds, written module by module instead of traced: milliseconds, and no exporter is imported.

Rules:
* `WRITERS` has one entry per module that a kind is built of; it says in ONNX what `forward` says in torch;
* parameters keep the names of the module's state_dict;
* a module without an entry is traced by torch.onnx.export, and so is every factory of a user: a hook, or a forward of
  its own, would not be seen here. That each kind is written, and written right: tests/unit/artifact.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from fedinfer.ports import GraphWriter
from fedinfer.training.models import row_graphs
from fedinfer.training.models.additive import AdditivePrepare, TermSum
from fedinfer.training.models.preprocess import FieldPrepare, PixelPrepare, SeriesPrepare, TablePrepare, TokenPrepare
from fedinfer.training.models.row_graphs import array, ints, number
from fedinfer.training.models.sequence import FieldEmbedding, NativeRecurrent, TokenAverage, TokenEncoder

FLOAT, INT64 = row_graphs.FLOAT, 7  # onnx.TensorProto.INT64


class NotWritten(LookupError):
    """A module has no entry in WRITERS; the message names its class."""


@dataclass(frozen=True, slots=True)
class GraphPlace:
    """Where a module stands in a graph.

    Args:
        graph: what its nodes are added to.
        path: its name in the model, "" for the model itself.
        rank: dimensions of its input, the batch included.
    """

    graph: GraphWriter
    path: str
    rank: int

    def weight(self, name: str, value: Tensor) -> str:
        """Write a parameter of the module and return its name in the graph.

        Args:
            name: of the parameter in the module.
            value: of the parameter.
        """
        return self.graph.weight(f"{self.path}.{name}", array(value))

    def inner(self, module: nn.Module, name: str, source: str) -> str:
        """Write a module inside this one, with an input of the same rank, and return the name of its output.

        Args:
            module: to write.
            name: of the inner module.
            source: name of its input.
        """
        return write(module, GraphPlace(self.graph, f"{self.path}.{name}", self.rank), source)[0]


Writer = Callable[[Any, GraphPlace, str], tuple[str, int]]
"""(module, place, name of its input) to the name of its output and that output's rank."""


def write(module: nn.Module, place: GraphPlace, source: str) -> tuple[str, int]:
    """Add the nodes of a module to a graph.

    Args:
        module: of a class in WRITERS.
        place: where it stands.
        source: name of its input.

    Returns:
        Name of its output, and the output's rank.

    Raises:
        NotWritten: for a module of another class.
    """
    if type(module) not in WRITERS:
        raise NotWritten(type(module).__name__)
    return WRITERS[type(module)](module, place, source)


def _sequential(module: nn.Sequential, place: GraphPlace, source: str) -> tuple[str, int]:
    rank = place.rank
    for name, child in module.named_children():
        source, rank = write(child, GraphPlace(place.graph, f"{place.path}.{name}", rank), source)
    return source, rank


def _linear(module: nn.Linear, place: GraphPlace, source: str) -> tuple[str, int]:
    graph, weight = place.graph, place.weight("weight", module.weight)
    bias = place.weight("bias", module.bias)
    if place.rank == 2:
        return graph.add("Gemm", source, weight, bias, transB=1), 2
    product = graph.add("MatMul", source, graph.add("Transpose", weight, perm=[1, 0]))
    return graph.add("Add", product, bias), place.rank


def _convolution(module: nn.Conv1d | nn.Conv2d, place: GraphPlace, source: str) -> tuple[str, int]:
    inputs = source, place.weight("weight", module.weight), *_bias(module, place)
    padding = [int(size) for size in module.padding]
    convolved = place.graph.add(
        "Conv", *inputs, kernel_shape=list(module.kernel_size), strides=list(module.stride), pads=padding * 2,
        dilations=list(module.dilation), group=module.groups,
    )  # fmt: skip
    return convolved, place.rank


def _bias(module: nn.Conv1d | nn.Conv2d, place: GraphPlace) -> tuple[str, ...]:
    return () if module.bias is None else (place.weight("bias", module.bias),)


def _group_norm(module: nn.GroupNorm, place: GraphPlace, source: str) -> tuple[str, int]:
    """A row of its own for each group; GroupNormalization is an operator only from set 21 on."""
    graph, groups = place.graph, module.num_groups
    rows = graph.add("Reshape", source, ints(graph, 0, groups, -1))
    ones, zeros = (graph.constant(np.full(groups, value, np.float32)) for value in (1.0, 0.0))
    normed = graph.add("InstanceNormalization", rows, ones, zeros, epsilon=module.eps)
    normed = graph.add("Reshape", normed, graph.add("Shape", source))
    axes = ints(graph, *range(1, place.rank - 1))
    weight, bias = (
        graph.add("Unsqueeze", place.weight(name, value), axes)
        for name, value in (("weight", module.weight), ("bias", module.bias))
    )
    return graph.add("Add", graph.add("Mul", normed, weight), bias), place.rank


def _layer_norm(module: nn.LayerNorm, place: GraphPlace, source: str) -> tuple[str, int]:
    inputs = source, place.weight("weight", module.weight), place.weight("bias", module.bias)
    return place.graph.add("LayerNormalization", *inputs, axis=-1, epsilon=module.eps), place.rank


def _mean_pool(module: nn.AdaptiveAvgPool1d, place: GraphPlace, source: str) -> tuple[str, int]:
    if module.output_size != 1:
        raise NotWritten(f"AdaptiveAvgPool1d({module.output_size})")
    return place.graph.add("ReduceMean", source, ints(place.graph, 2), keepdims=1), place.rank


def _term_sum(module: TermSum, place: GraphPlace, source: str) -> tuple[str, int]:
    """The sum of terms stays a node of its own, for `artifact.export.heads` finds the terms by it."""
    graph, parts, at = place.graph, [], 0
    for number_of, ((size, count), block) in enumerate(zip(module.runs, module.blocks, strict=True)):
        own = row_graphs.columns(graph, source, at, at + size * count)
        own = graph.add("Reshape", own, ints(graph, -1, count, size))
        own = graph.add("Transpose", own, perm=[1, 0, 2])
        parts.append(graph.add("MatMul", own, place.weight(f"blocks.{number_of}", block)))
        at += size * count
    terms = graph.add("Concat", *parts, axis=0)
    total = graph.add("ReduceSum", terms, ints(graph, 0), keepdims=0)
    return graph.add("Add", total, place.weight("bias", module.bias)), 2


def _recurrent(module: NativeRecurrent, place: GraphPlace, source: str) -> tuple[str, int]:
    """The gates of torch are (reset, update, new), those of ONNX (update, reset, new)."""
    graph, gru, size = place.graph, module.gru, module.gru.hidden_size
    own = dict(gru.named_parameters())

    def gates(name: str) -> str:
        weight = place.weight(f"gru.{name}", own[name])
        parts = [row_graphs.part(graph, weight, 0, at * size, (at + 1) * size) for at in (1, 0, 2)]
        return graph.add("Concat", *parts, axis=0)

    first = ints(graph, 0)
    weights = [graph.add("Unsqueeze", gates(name), first) for name in ("weight_ih_l0", "weight_hh_l0")]
    both = graph.add("Concat", gates("bias_ih_l0"), gates("bias_hh_l0"), axis=0)
    inputs = graph.add("Transpose", source, perm=[2, 0, 1]), *weights, graph.add("Unsqueeze", both, first)
    state = graph.add("GRU", *inputs, place=1, hidden_size=size, linear_before_reset=1)
    return graph.add("Squeeze", state, first), 2


def _average(module: TokenAverage, place: GraphPlace, source: str) -> tuple[str, int]:
    graph = place.graph
    present = graph.add("Unsqueeze", _present(graph, source), ints(graph, 2))
    return _mean(graph, _embedded(module.table, place, source), present), 2


def _encoder(module: TokenEncoder, place: GraphPlace, source: str) -> tuple[str, int]:
    graph, inside = place.graph, GraphPlace(place.graph, place.path, 3)
    present = _present(graph, source)
    h = graph.add("Add", _embedded(module.table, place, source), graph.constant(array(module.places)))
    mixed = _attention(module, inside, inside.inner(module.norm_attention, "norm_attention", h), present)
    h = graph.add("Add", h, inside.inner(module.mix, "mix", mixed))
    wide = inside.inner(module.widen, "widen", inside.inner(module.norm_feed, "norm_feed", h))
    h = graph.add("Add", h, inside.inner(module.narrow, "narrow", graph.add("Relu", wide)))
    h = inside.inner(module.norm_out, "norm_out", h)
    return _mean(graph, h, graph.add("Unsqueeze", present, ints(graph, 2))), 2


def _attention(module: TokenEncoder, place: GraphPlace, h: str, present: str) -> str:
    graph, length = place.graph, module.places.shape[0]

    def heads(layer: nn.Module, name: str, perm: list[int]) -> str:
        split = graph.add("Reshape", place.inner(layer, name, h), ints(graph, 0, length, module.heads, -1))
        return graph.add("Transpose", split, perm=perm)

    scores = graph.add("MatMul", heads(module.query, "query", [0, 2, 1, 3]), heads(module.key, "key", [0, 2, 3, 1]))
    scores = graph.add("Div", scores, number(graph, math.sqrt(module.size / module.heads)))
    weights = graph.add("Softmax", scores, axis=3)
    weights = graph.add("Mul", weights, graph.add("Unsqueeze", present, ints(graph, 1, 2)))
    total = graph.add("Max", graph.add("ReduceSum", weights, ints(graph, 3), keepdims=1), number(graph, 1e-6))
    mixed = graph.add("MatMul", graph.add("Div", weights, total), heads(module.value, "value", [0, 2, 1, 3]))
    return graph.add("Reshape", graph.add("Transpose", mixed, perm=[0, 2, 1, 3]), ints(graph, 0, length, module.size))


def _fields(module: FieldEmbedding, place: GraphPlace, source: str) -> tuple[str, int]:
    graph, size = place.graph, module.table.embedding_dim
    embedded = _embedded(module.table, place, row_graphs.columns(graph, source, 0, module.fields))
    rest = row_graphs.columns(graph, source, module.fields, np.iinfo(np.int64).max)
    parts = [graph.add("Reshape", embedded, ints(graph, -1, module.fields * size)), rest]
    if module.fields > 1:
        pair = [graph.add("Gather", embedded, graph.constant(np.array(at, np.int64)), axis=1) for at in (0, 1)]
        parts.append(graph.add("Mul", *pair))
    return graph.add("Concat", *parts, axis=1), 2


def _embedded(table: nn.Embedding, place: GraphPlace, source: str) -> str:
    rows = place.graph.add("Cast", source, to=INT64)
    return place.graph.add("Gather", place.weight("table.weight", table.weight), rows, axis=0)


def _present(graph: GraphWriter, tokens: str) -> str:
    return graph.add("Cast", graph.add("Greater", tokens, number(graph, 0.0)), to=FLOAT)


def _mean(graph: GraphWriter, values: str, present: str) -> str:
    """Mean over the second dimension of (n, length, size) of what `present`, (n, length, 1), marks with 1."""
    second = ints(graph, 1)
    total = graph.add("ReduceSum", graph.add("Mul", values, present), second, keepdims=0)
    count = graph.add("ReduceSum", present, second, keepdims=0)
    return graph.add("Div", total, graph.add("Max", count, number(graph, 1.0)))


WRITERS: dict[type[nn.Module], Writer] = {
    nn.Sequential: _sequential,
    nn.Linear: _linear,
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
    nn.AdaptiveAvgPool1d: _mean_pool,
    nn.ReLU: lambda _, place, source: (place.graph.add("Relu", source), place.rank),
    nn.Flatten: lambda _, place, source: (place.graph.add("Flatten", source, axis=1), 2),
    TermSum: _term_sum,
    NativeRecurrent: _recurrent,
    TokenAverage: _average,
    TokenEncoder: _encoder,
    FieldEmbedding: _fields,
    TablePrepare: lambda module, place, source: (row_graphs.table(module, place.graph, source), 2),
    PixelPrepare: lambda module, place, source: (
        row_graphs.pixels(module, place.graph, source),
        1 + len(module.shape),
    ),
    SeriesPrepare: lambda module, place, source: (row_graphs.series(module, place.graph, source), 3),
    TokenPrepare: lambda module, place, source: (row_graphs.tokens(module, place.graph, source), 2),
    FieldPrepare: lambda module, place, source: (row_graphs.fields(module, place.graph, source), 2),
    AdditivePrepare: lambda module, place, source: (row_graphs.additive(module, place.graph, source), 2),
}
