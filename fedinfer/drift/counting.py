"""What channels of inputs share: the rows that came with the answers, and even bins."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.drift.channels import Counts, Floats, Outputs
from fedinfer.errors import DataError


def rows_of(outputs: Outputs) -> npt.NDArray[np.floating[Any]]:
    """The rows that came with the answers, (n, width).

    Args:
        outputs: of a batch.

    Raises:
        DataError: they did not come.
    """
    if outputs.inputs is None or len(outputs.inputs) != len(outputs.labels):
        raise DataError("a drift channel looks at inputs, and the rows did not come with the answers")
    return outputs.inputs


def on_even_bins(shares: Floats, bins: int) -> Counts:
    """Counts on even bins of [0, 1], (bins,); values outside count in the end bins.

    Args:
        shares: (n,), no NaN.
        bins: >= 1.
    """
    places = np.clip(shares * bins, 0, bins - 1).astype(np.int64)
    return np.bincount(places, minlength=bins).astype(np.float64)
