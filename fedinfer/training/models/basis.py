"""The public basis of the functions of an additive model; see `fedinfer.training.models.additive`. No torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def bending(knots: int) -> Floats:
    """Values at the knots of each coordinate, float64 (knots, knots - 1): a line, then waves; see the module.

    Args:
        knots: K >= 2.

    Returns:
        Columns sum to zero; the first is the line from -1 to 1, column j (from 1) has largest absolute value 1 / j.
    """
    line = np.linspace(-1.0, 1.0, knots)
    at = (np.arange(knots) + 0.5) / knots
    waves = np.cos(np.pi * np.outer(at, np.arange(2, knots)))
    raw = np.column_stack([np.ones(knots), line, waves])
    basis = np.linalg.qr(raw)[0][:, 1:]
    basis *= np.where((basis * raw[:, 1:]).sum(axis=0) < 0, -1.0, 1.0)  # the sign of QR is a matter of taste
    return np.asarray(basis / (np.abs(basis).max(axis=0) * np.arange(1, knots)))
