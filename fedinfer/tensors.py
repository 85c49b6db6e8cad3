"""Tensors of a model that was made elsewhere: what lies side by side in a row, and in an answer.

A device knows rows and answers of float32 values. A model with several inputs or outputs is folded into that form when
it is imported; the description here says which values belong to which tensor, so that programs can use its own names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedinfer.errors import ConfigError
from fedinfer.types import Json

WHOLE = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
FLOATING = ("float16", "float32", "float64")
LARGEST_WHOLE = 2**24
"""Whole numbers travel as float32, which holds each of them up to here."""
MOST_SIZES = 8
MOST_VALUES = 2**24
"""Values of one tensor for one row."""
MOST_TENSORS = 64
STATISTICS = ("mean", "spread", "ends")
"""What a watch can count of a tensor in each row: its mean, its standard deviation, its share of values at the ends of
the range."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor for one row: the sizes do not count rows.

    Args:
        name: of the input or output.
        dtype: what the graph takes or gives, one of `WHOLE` and `FLOATING`.
        shape: sizes for one row; () for one value.
        low, high: public range of every value. Whole inputs must lie in it; other values are placed by it.
        feeds: of an output: the input that it becomes with the next row of the same stream; empty: none.
        names: of each value, for people; empty: they have numbers.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    low: float
    high: float
    feeds: str = ""
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        what = f"tensor {ascii(self.name)[:60]}"
        if self.dtype not in (*WHOLE, *FLOATING):
            raise ConfigError(f"{what}: dtype {self.dtype[:40]!r}", hint=f"known are {', '.join((*FLOATING, *WHOLE))}")
        if len(self.shape) > MOST_SIZES or not all(size >= 1 for size in self.shape) or self.size > MOST_VALUES:
            raise ConfigError(f"{what}: shape {str(self.shape)[:80]}: sizes from 1, at most {MOST_VALUES} values")
        if not -math.inf < self.low < self.high < math.inf:
            raise ConfigError(f"{what}: range [{self.low}, {self.high}] is empty or not finite")
        if self.whole and max(abs(self.low), abs(self.high)) > LARGEST_WHOLE:
            raise ConfigError(
                f"{what}: whole numbers up to {LARGEST_WHOLE} travel exactly, not [{self.low}, {self.high}]"
            )
        if self.names and (len(self.names) != self.size or len(set(self.names)) != self.size):
            raise ConfigError(f"{what}: {len(self.names)} names for {self.size} values; each has one of its own")

    @property
    def size(self) -> int:
        """Values for one row."""
        return math.prod(self.shape)

    @property
    def whole(self) -> bool:
        """Whether its values are whole numbers."""
        return self.dtype in WHOLE

    def value_names(self) -> tuple[str, ...]:
        """A name for each value: its own, that of the tensor, or that with a number."""
        if self.names:
            return self.names
        return (self.name,) if self.size == 1 else tuple(f"{self.name}[{place}]" for place in range(self.size))

    def to_json(self) -> Json:
        """A JSON object that `from_json` reads back."""
        more = ({"feeds": self.feeds} if self.feeds else {}) | ({"names": list(self.names)} if self.names else {})
        return {"name": self.name, "dtype": self.dtype, "shape": [*self.shape], "range": [self.low, self.high], **more}

    @staticmethod
    def from_json(data: Json) -> TensorSpec:
        """Inverse of `to_json`.

        Args:
            data: decoded JSON object; untrusted. A missing key or a wrong type raises KeyError, TypeError or
                ValueError.

        Raises:
            ConfigError: when a value breaks a rule.
        """
        low, high = data["range"]
        return TensorSpec(
            name=str(data["name"]),
            dtype=str(data["dtype"]),
            shape=tuple(int(size) for size in data["shape"]),
            low=float(low),
            high=float(high),
            feeds=str(data.get("feeds", "")),
            names=tuple(str(name) for name in data.get("names", ())),
        )


def channels_first(shape: Sequence[int]) -> bool:
    """Whether an image of three sizes begins with its channels: 1 or 3 at the beginning and not at the end.

    Args:
        shape: of one image.
    """
    return len(shape) == 3 and shape[0] in (1, 3) and shape[-1] not in (1, 3)


def total(tensors: Sequence[TensorSpec]) -> int:
    """Values of all tensors for one row.

    Args:
        tensors: side by side.
    """
    return sum(tensor.size for tensor in tensors)


def places(tensors: Sequence[TensorSpec]) -> dict[str, slice]:
    """Where each tensor lies in a row or an answer, by name.

    Args:
        tensors: side by side, in order.
    """
    ends = np.cumsum([tensor.size for tensor in tensors]).tolist()
    return {tensor.name: slice(end - tensor.size, end) for tensor, end in zip(tensors, ends, strict=True)}


def bounds(tensors: Sequence[TensorSpec]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Range of every value.

    Args:
        tensors: side by side, in order.

    Returns:
        low and high, float64 (values,) each.
    """
    sizes = [tensor.size for tensor in tensors]
    return (
        np.repeat(np.array([tensor.low for tensor in tensors], np.float64), sizes),
        np.repeat(np.array([tensor.high for tensor in tensors], np.float64), sizes),
    )


def check_tensors(inputs: Sequence[TensorSpec], answers: Sequence[TensorSpec]) -> None:
    """Rules that join several tensors.

    Args:
        inputs: of a row; may be empty.
        answers: of the model; may be empty.

    Raises:
        ConfigError: too many, a name that stands twice, or state that is fed to an input that does not take it.
    """
    for what, tensors in (("inputs", inputs), ("outputs", answers)):
        if len(tensors) > MOST_TENSORS or total(tensors) > MOST_VALUES:
            raise ConfigError(
                f"{len(tensors)} {what} of {total(tensors)} values; at most {MOST_TENSORS}, {MOST_VALUES}"
            )
        if len({tensor.name for tensor in tensors}) != len(tensors):
            raise ConfigError(f"two {what} have the same name")
    takes = {tensor.name: tensor for tensor in inputs}
    fed = [answer for answer in answers if answer.feeds]
    if len({answer.feeds for answer in fed}) != len(fed):
        raise ConfigError("two outputs feed the same input")
    for answer in fed:
        found = takes.get(answer.feeds)
        if found is None or found.shape != answer.shape:
            raise ConfigError(
                f"output {ascii(answer.name)[:60]} of shape {answer.shape} feeds {ascii(answer.feeds)[:60]}, "
                f"{'which is no input' if found is None else f'which has shape {found.shape}'}"
            )
    if fed and len(fed) == len(inputs):
        raise ConfigError("every input is fed by an output: nothing is left to ask with")
