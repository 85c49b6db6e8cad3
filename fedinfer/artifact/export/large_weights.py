"""Copies and writes a graph without copying its large weights: of a model of 200 MB every copy counts.

A serialized message is its fields one after the other, in any order, each with a tag and, where it is a message, its
length (protobuf.dev, "Encoding"). So the graph is written without its large weights, and they are put behind it.
"""

from __future__ import annotations

import io
from typing import Any, TypeAlias

OnnxModel: TypeAlias = Any
LARGE = 2**20
"""Bytes from which a weight is not copied."""
_GRAPH, _INITIALIZER = 7 << 3 | 2, 5 << 3 | 2  # tags of ModelProto.graph and GraphProto.initializer


def copy_small(model: OnnxModel) -> tuple[OnnxModel, list[Any]]:
    """A copy of a model without its large weights, and those.

    Args:
        model: onnx.ModelProto; not changed.

    Returns:
        The copy, and the weights of the model itself, in their order.
    """
    copied, large = type(model)(), []
    for name, value in _fields(model):
        if name != "graph":
            _put(copied, name, value)
    for name, value in _fields(model.graph):
        if name != "initializer":
            _put(copied.graph, name, value)
    for tensor in model.graph.initializer:
        if tensor.ByteSize() >= LARGE:
            large.append(tensor)
        else:
            copied.graph.initializer.append(tensor)
    return copied, large


def written(model: OnnxModel, large: list[Any]) -> bytes:
    """A model and the weights that it lacks, serialized.

    Args:
        model: onnx.ModelProto; its graph is taken out of it where there are weights.
        large: weights to put into its graph.
    """
    if not large:
        return bytes(model.SerializeToString(deterministic=True))
    graph = model.graph.SerializeToString(deterministic=True)
    model.ClearField("graph")
    sizes = [tensor.ByteSize() for tensor in large]
    length = len(graph) + sum(1 + len(_varint(size)) + size for size in sizes)
    file = io.BytesIO()
    file.write(model.SerializeToString(deterministic=True))
    file.write(bytes([_GRAPH]) + _varint(length) + graph)
    for tensor, size in zip(large, sizes, strict=True):
        file.write(bytes([_INITIALIZER]) + _varint(size))
        file.write(tensor.SerializeToString(deterministic=True))
    return file.getvalue()


def _fields(message: Any) -> list[tuple[str, Any]]:
    return [(field.name, value) for field, value in message.ListFields()]


def _put(message: Any, name: str, value: Any) -> None:
    if hasattr(value, "extend"):
        getattr(message, name).extend(value)
    elif hasattr(value, "CopyFrom"):
        getattr(message, name).CopyFrom(value)
    else:
        setattr(message, name, value)


def _varint(number: int) -> bytes:
    """Seven bits a byte, the low ones first (protobuf.dev, "Encoding", "Base 128 Varints")."""
    parts = []
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])
