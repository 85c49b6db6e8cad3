"""Words to token numbers inside a graph: the rule of `fedinfer.text` in standard ONNX operators.

Only `graph.finish` calls this: cores work on token numbers, so that quantization never sees a string.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fedinfer.schema import BREAKS, MARKS, OPENERS, Text
from fedinfer.text import most_parts

LOCALE = "C"
"""Every C++ library has it, and it maps A to Z only. The default, en_US.UTF-8, fails to load where it is missing."""


@dataclass(frozen=True, slots=True)
class Prefixes:
    """How the names begin that a tokenizer adds to a graph.

    Args:
        node: of nodes, for instance "fedinfer/".
        tensor: of tensors, for instance "fedinfer_".
    """

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
        self._names: dict[tuple[tuple[int, ...], str], str] = {}

    def of(self, column: Text, source: str, target: str) -> tuple[list[Any], list[Any]]:
        """See `tokenizer_parts`."""
        flat = self._add("Reshape", [source, self._whole(-1)])
        for mark in BREAKS:
            flat = self._spaced(flat, mark, most_parts(column.length))
        # A piece that is only a mark goes last, so that a batch of empty texts has a piece too.
        ended = self._add("StringConcat", [flat, self._text(" .")])
        lower = self._add("StringNormalizer", [ended], case_change_action="LOWER", locale=LOCALE)
        # maxsplit bounds what a long text costs; the last piece is the rest of the text and falls away.
        pieces = self._first(self._add("StringSplit", [lower], counted=True, maxsplit=column.length), column.length)
        for mark in OPENERS:
            pieces = self._opened(pieces, mark)
        for mark in MARKS.removeprefix(OPENERS):
            (pieces,) = self._parts(pieces, mark, 1)
        numbers = self._add(
            "LabelEncoder", [pieces], domain="ai.onnx.ml", keys_strings=["", *column.vocabulary],
            values_int64s=[0, *range(2, column.last + 1)], default_int64=1,
        )  # fmt: skip
        filled = self._add("Pad", [numbers, self._whole(0, 0, 0, column.length)])
        whole = self._first(filled, column.length)
        self._add("Cast", [whole], target, to=self._onnx.TensorProto.FLOAT)
        return self.nodes, self.constants

    def _spaced(self, texts: str, mark: str, most: int) -> str:
        """The first `most` parts of n texts between marks, a power of two, joined by spaces: n texts again.

        StringConcat joins two texts. So parts lie in the order of their mirrored binary place: one half of a row joined
        to the other half, place by place, puts neighbours together; so again, until one is left.
        """
        ended = self._add("StringConcat", [texts, self._text(mark * most)])  # so that there are enough parts
        parts = self._add("StringSplit", [ended], counted=True, delimiter=mark, maxsplit=most)
        digits = most.bit_length() - 1
        mirrored = self._whole(*(int(f"{place:0{digits}b}"[::-1], 2) for place in range(most)))
        joined = self._add("StringConcat", [self._add("Gather", [parts, mirrored], axis=1), self._text(" ")])
        while most > 1:
            most //= 2
            halves = [self._cut(joined, start, start + most) for start in (0, most)]
            joined = self._add("StringConcat", halves)
        return self._add("Reshape", [joined, self._whole(-1)])

    def _opened(self, pieces: str, mark: str) -> str:
        """Pieces without a mark at the beginning, up to the next such mark."""
        before, after = self._parts(pieces, mark, 2)
        return self._add("Where", [self._add("Equal", [before, self._text("")]), after, before])

    def _parts(self, pieces: str, mark: str, count: int) -> list[str]:
        """For each piece its first `count` parts between marks."""
        marked = self._add("StringConcat", [pieces, self._text(mark * count)])  # so that there are enough parts
        parts = self._add("StringSplit", [marked], counted=True, delimiter=mark, maxsplit=count)
        return [self._add("Gather", [parts, self._number(place)], axis=2) for place in range(count)]

    def _first(self, name: str, count: int) -> str:
        return self._cut(name, 0, count)

    def _cut(self, name: str, start: int, end: int) -> str:
        return self._add("Slice", [name, self._whole(start), self._whole(end), self._whole(1)])

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
        key = (value.shape, str(value.tolist()))
        if key not in self._names:
            self._names[key] = f"{self._tensor}text_constant_{len(self.constants)}"
            self.constants.append(self._onnx.numpy_helper.from_array(value, self._names[key]))
        return self._names[key]
