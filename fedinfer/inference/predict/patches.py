"""Which values of a row of images or tensors are taken away together when an answer is explained.

Rules:
* an image (uint8 of two sizes, or three sizes with 1 or 3 channels) is cut into at most 7 x 7 patches, all channels;
* any other tensor is cut along its longest axis, the time of a series, into at most 16 spans;
* state of a stream is left alone: it is no input of the moment.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from fedinfer.schema import Schema
from fedinfer.tensors import TensorSpec, channels_first, places

GRID, SPANS = 7, 16


@dataclass(frozen=True, slots=True)
class Patch:
    """Values that belong together.

    Args:
        name: for people: the tensor, and from where to where in it, as Python slices.
        places: of its values in a row, int64.
    """

    name: str
    places: npt.NDArray[np.int64]


def patches_of(schema: Schema) -> tuple[Patch, ...]:
    """The patches of a row.

    Args:
        schema: of a model of images or tensors.
    """
    if schema.shape:
        return tuple(_grid("image", np.arange(schema.width).reshape(schema.shape), first=True))
    state = {tensor.feeds for tensor in schema.answers if tensor.feeds}
    found: list[Patch] = []
    for tensor in schema.inputs:
        if tensor.name not in state:
            at = places(schema.inputs)[tensor.name]
            found += _of_tensor(tensor, np.arange(at.start, at.stop).reshape(tensor.shape))
    return tuple(found)


def _of_tensor(tensor: TensorSpec, numbers: npt.NDArray[np.int64]) -> Iterator[Patch]:
    if not tensor.shape:
        return iter([Patch(tensor.name, numbers.reshape(1))])
    if len(tensor.shape) == 2 and tensor.dtype == "uint8":
        return _grid(tensor.name, numbers[None], first=True)
    first = channels_first(tensor.shape) if len(tensor.shape) == 3 else False
    if len(tensor.shape) == 3 and tensor.shape[0 if first else -1] in (1, 3):
        return _grid(tensor.name, numbers, first=first)
    return _spans(tensor.name, numbers)


def _grid(name: str, numbers: npt.NDArray[np.int64], *, first: bool) -> Iterator[Patch]:
    pixels = numbers if first else np.moveaxis(numbers, -1, 0)
    for top, bottom in _cuts(pixels.shape[1], GRID):
        for left, right in _cuts(pixels.shape[2], GRID):
            yield Patch(f"{name}[{top}:{bottom},{left}:{right}]", pixels[:, top:bottom, left:right].ravel())


def _spans(name: str, numbers: npt.NDArray[np.int64]) -> Iterator[Patch]:
    longest = int(np.argmax(numbers.shape))
    along = np.moveaxis(numbers, longest, 0)
    before = ":," * longest
    for start, end in _cuts(len(along), SPANS):
        yield Patch(f"{name}[{before}{start}:{end}]", along[start:end].ravel())


def _cuts(size: int, most: int) -> list[tuple[int, int]]:
    ends = np.linspace(0, size, min(size, most) + 1).round().astype(int).tolist()
    return list(pairwise(ends))
