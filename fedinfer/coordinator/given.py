"""A run of a model that was trained elsewhere: no rounds, the same push, windows and watch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fedinfer.manifest import Privacy
from fedinfer.types import FloatVector

if TYPE_CHECKING:
    from fedinfer.artifact import Built, Evidence, Judging, OutputHead

    Build: TypeAlias = Callable[[OutputHead, Evidence, Judging], Built]

KIND = "imported"
"""Kind of the model in the record of such a run."""
PRIVACY = Privacy("inf", "1", "trained elsewhere: nothing is known here of the rows it was trained on")
_NEVER = 1 << 62


@dataclass(frozen=True, slots=True)
class GivenModel:
    """What a run is given instead of weights; it stands where a trainer does, and trains nothing.

    Args:
        build: makes the files of a version and judges them by the gates.
        dimension: weights of the model, for the record.
    """

    build: Build
    dimension: int
    size: int = _NEVER
    terms: tuple[tuple[str, ...], ...] = ()

    def initial(self) -> FloatVector:
        """No weights, float32 (0,)."""
        return np.empty(0, np.float32)
