"""Names that every package uses. One word per thing; docs/glossary.md explains each."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, TypeAlias, assert_never

import numpy as np
import numpy.typing as npt

DeviceId: TypeAlias = str
FloatVector: TypeAlias = npt.NDArray[np.float32]
"""A flat update or model, shape (d,)."""
WideVector: TypeAlias = npt.NDArray[np.float64]
"""Floats in double precision; sums whose rounding would count."""
AnyFloats: TypeAlias = FloatVector | WideVector
"""Either of both."""
RingVector: TypeAlias = npt.NDArray[np.uint32]
"""Integers mod 2^bits held in wrapping 32-bit words, shape (d,)."""
Json: TypeAlias = dict[str, Any]


class Unit(StrEnum):
    """What one unit of privacy protects."""

    EXAMPLE = "example"
    DEVICE = "device"
    NONE = "none"

    def counted(self, rows: int) -> int:
        """Units of privacy in one device's report: each of its rows, or the one device.

        Args:
            rows: that the report covers, >= 0.
        """
        match self:
            case Unit.EXAMPLE:
                return rows
            case Unit.DEVICE | Unit.NONE:
                return 1
            case _:
                assert_never(self)

    def sampling_rate(self, rate: float) -> float:
        """The rate that accounting may use: the server sees which devices take part, so they get no amplification.

        Args:
            rate: chance of one example to be drawn in a step, in (0, 1].

        Returns:
            `rate` for examples, else 1.
        """
        match self:
            case Unit.EXAMPLE:
                return rate
            case Unit.DEVICE | Unit.NONE:
                return 1.0
            case _:
                assert_never(self)


class Trust(StrEnum):
    """Who is trusted to add noise."""

    LOCAL = "local"
    DISTRIBUTED = "distributed"
    CENTRAL = "central"


class AggregationMode(StrEnum):
    """How updates are summed. `off` is unsafe and named so in every report."""

    PROTOCOL = "protocol"
    IDEAL = "ideal"
    OFF = "off"


class Relation(StrEnum):
    """When two data sets are neighbours."""

    ADD_REMOVE = "add-or-remove-one"
    ZERO_OUT = "zero-out-one"
    REPLACE_ONE = "replace-one"


class Sampling(StrEnum):
    """How the records of one step were chosen, as far as accounting may use it."""

    NONE = "none"
    POISSON = "poisson"


class GraphFamily(StrEnum):
    """Kinds of model graph that are quantized in different ways."""

    DENSE = "dense"
    ADDITIVE = "additive"
    CONVOLUTION = "convolution"
    RECURRENT = "recurrent"
    EMBEDDING = "embedding"
    ATTENTION = "attention"
    OTHER = "other"  # no weight that onnxruntime can quantize, for instance trees
