"""Words to token numbers inside a graph: the rule of `fedinfer.text` in standard ONNX operators.

Only `graph.finish` calls this: cores work on token numbers, so that quantization never sees a string.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fedinfer.schema import MARKS, Text

LOCALE = "C"
"""Every C++ library has it, and it maps A to Z only. The default, en_US.UTF-8, fails to load where it is missing."""


@dataclass(frozen=True, slots=True)
class Prefixes:
    """How the names begin that a tokenizer adds to a graph: of nodes, and of tensors."""

    node: str
    tensor: str


def tokenizer_parts(
    onnx: Any, column: Text, source: str, target: str, prefixes: Prefixes
) -> tuple[list[Any], list[Any]]:
    """Nodes and constants from texts to token numbers.

    Args:
        onnx: the onnx package.
        column: length and vocabulary.
        source: name of the input, string (batch, 1) with batch >= 1.
        target: name of the result, float32 (batch, length).
        prefixes: of all names but these two.

    Returns:
        (nodes in order, constants). Opset 20 and opset 4 of ai.onnx.ml.
    """
    return _Chain(onnx, prefixes).of(column, source, target)


class _Chain:
    """Nodes that follow each other."""

    def __init__(self, onnx: Any, prefixes: Prefixes) -> None:
        self._onnx, self._node, self._tensor = onnx, prefixes.node, prefixes.tensor
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def of(self, column: Text, source: str, target: str) -> tuple[list[Any], list[Any]]:
        """See `tokenizer_parts`."""
        # A piece that is only a mark goes last, so that a batch of empty texts has a piece too.
        ended = self._add("StringConcat", [source, self._text(" .")])
        flat = self._add("Reshape", [ended, self._whole(-1)])
        lower = self._add("StringNormalizer", [flat], case_change_action="LOWER", locale=LOCALE)
        # maxsplit bounds what a long text costs; the last piece is the rest of the text and falls away.
        pieces = self._first(self._add("StringSplit", [lower], counted=True, maxsplit=column.length), column.length)
        for mark in MARKS:
            with_mark = self._add("StringConcat", [pieces, self._text(mark)])  # so that there are two parts for certain
            parts = self._add("StringSplit", [with_mark], counted=True, delimiter=mark, maxsplit=1)
            pieces = self._add("Gather", [parts, self._number(0)], axis=2)
        numbers = self._add(
            "LabelEncoder", [pieces], domain="ai.onnx.ml", keys_strings=["", *column.vocabulary],
            values_int64s=[0, *range(2, column.last + 1)], default_int64=1,
        )  # fmt: skip
        filled = self._add("Pad", [numbers, self._whole(0, 0, 0, column.length)])
        whole = self._first(filled, column.length)
        self._add("Cast", [whole], target, to=self._onnx.TensorProto.FLOAT)
        return self.nodes, self.constants

    def _first(self, name: str, count: int) -> str:
        return self._add("Slice", [name, self._whole(0), self._whole(count), self._whole(1)])

    def _add(self, kind: str, inputs: list[str], output: str = "", counted: bool = False, **attributes: Any) -> str:
        output = output or f"{self._tensor}text_{len(self.nodes)}"
        outputs = [output, f"{output}_count"] if counted else [output]
        name = f"{self._node}text_{len(self.nodes)}"
        self.nodes.append(self._onnx.helper.make_node(kind, inputs, outputs, name=name, **attributes))
        return output

    def _whole(self, *values: int) -> str:
        return self._constant(np.array(values, np.int64))

    def _number(self, value: int) -> str:
        return self._constant(np.array(value, np.int64))

    def _text(self, value: str) -> str:
        return self._constant(np.array([value], object))

    def _constant(self, value: Any) -> str:
        name = f"{self._tensor}text_constant_{len(self.constants)}"
        self.constants.append(self._onnx.numpy_helper.from_array(value, name))
        return name
