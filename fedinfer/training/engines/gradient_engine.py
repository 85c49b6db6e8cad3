"""Who computes per-example gradients: the host says so, not the type of its random source."""

from __future__ import annotations

from enum import StrEnum


class GradientEngine(StrEnum):
    """How the clipped gradients of private training are computed; all three give the same numbers up to rounding.

    A matrix product rounds a row differently in batches of different size, and weights can be chosen such that this
    reverses the row's gradient. In one batch, a row that comes or goes would move the sum by more than its own
    clipped gradient (Casacuberta et al. 2022, "Widespread Underestimation of Sensitivity in Differentially Private
    Libraries and How to Fix It", CCS). A real device therefore takes PER_EXAMPLE. A simulation sends no such weights to
    itself, and is faster in batches.
    """

    PER_EXAMPLE = "per_example"
    """Every row by itself, sums exact to the bit: see `per_example`."""
    BATCHED = "batched"
    """Many devices in one batched step: see `batched`. Models with layers it does not know are left to OPACUS, and so
    is a step in which a gradient overflows."""
    OPACUS = "opacus"
    """One device after another, its rows in batches: see `opacus`. Takes any torch module."""
