"""Gradient inversion: rows recovered from what somebody sees of a round, beside the rows that were there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedinfer.attack.rounds import observe, without_privacy
from fedinfer.config import Scenario
from fedinfer.data import Federation
from fedinfer.ports import Clock
from fedinfer.system import simulation_rng
from fedinfer.training import GradientEngine, Trainer, first_inputs, recovered
from fedinfer.types import Json

Floats = npt.NDArray[np.float64]

ROWS = 100
"""Single rows that are recovered."""
SHOWN = 3
FAR = 1e6
"""A clipping norm that clips nothing."""
LEAST_SPREAD = 1e-6
NO_NOTE = ""
NOT_LINEAR = (
    "The first layer that is trained is not linear with a bias: the exact recovery of rows from gradients does not "
    "apply, and it was not tried by optimization."
)


@dataclass(frozen=True, slots=True)
class Inversion:
    """What comes out of one view.

    Args:
        view: who sees what.
        likeness: mean correlation of what is recovered with the nearest real row, over the inputs of the first layer
            in units of their spread around their means; random numbers have one above 0, because the nearest of all
            rows is taken.
        shown: pairs of a real row and what was recovered, (inputs,) each.
    """

    view: str
    likeness: float
    shown: tuple[tuple[Floats, Floats], ...]

    def to_json(self) -> Json:
        """All figures."""
        pairs = [{"row": _rounded(row), "recovered": _rounded(found)} for row, found in self.shown]
        return {"view": self.view, "likeness": self.likeness, "shown": pairs}


def invert(
    scenario: Scenario, federation: Federation, trainer: Trainer, clock: Clock, show_rows: bool
) -> tuple[tuple[Inversion, ...], str]:
    """Recover rows from three views, and from the mean row, which needs no attack.

    Args:
        scenario: with its privacy.
        federation: its data.
        trainer: of the model.
        clock: time.
        show_rows: keep a few rows beside what was recovered.

    Returns:
        One entry per view, and a note; no entries for models whose first layer is of another kind.
    """
    x = np.concatenate([data.train_x for data in federation.devices.values()])
    y = np.concatenate([data.train_y for data in federation.devices.values()])
    inputs, start = first_inputs(trainer, x), trainer.initial()
    rng = simulation_rng(scenario.scenario.seed, "attack", "rows")
    chosen = np.sort(rng.permutation(len(y))[:ROWS])
    if recovered(trainer, np.ones(trainer.dimension)) is None:
        return (), NOT_LINEAR
    devices = [(data.train_x, data.train_y) for data in federation.devices.values()]
    released = observe(scenario, federation, clock).released
    open_sums = observe(without_privacy(scenario), federation, clock).released
    views = (
        ("one row's gradient, unprotected", _gradients(trainer, start, [(x[i : i + 1], y[i : i + 1]) for i in chosen])),
        ("one device's sum, unprotected", _gradients(trainer, start, devices[:ROWS])),
        ("the sum of a round, without noise", np.array(open_sums)),
        ("what the rounds release, with privacy", np.array(released)),
    )
    found = [_inversion(name, trainer, gradients, inputs, SHOWN if show_rows else 0) for name, gradients in views]
    noise = simulation_rng(scenario.scenario.seed, "attack", "noise").standard_normal((ROWS, inputs.shape[1]))
    spread, mean = inputs.std(axis=0), inputs.mean(axis=0)
    likeness = float(np.mean([_likeness(row * spread + mean, inputs).max() for row in noise]))
    return (*found, Inversion("nothing: random numbers", likeness, ())), NO_NOTE


def _gradients(
    trainer: Trainer,
    weights: npt.NDArray[np.float32],
    data: list[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]],
) -> Floats:
    rngs = [simulation_rng(0)] * len(data)  # nothing is drawn at rate 1
    return np.asarray(trainer.gradient_sums(weights, data, 1.0, FAR, rngs, GradientEngine.BATCHED), np.float64)


def _inversion(view: str, trainer: Trainer, gradients: Floats, inputs: Floats, shown: int) -> Inversion:
    likenesses, pairs = [], []
    for gradient in gradients:
        row = recovered(trainer, gradient)
        if row is None:
            continue
        alike = _likeness(row, inputs)
        likenesses.append(float(alike.max()))
        pairs.append((inputs[int(alike.argmax())], row))
    return Inversion(view, float(np.mean(likenesses)), tuple(pairs[:shown]))


def _likeness(row: Floats, rows: Floats) -> Floats:
    """Correlation of a row with each of many in what tells rows apart: inputs minus their means, over their spread."""
    varies = rows.std(axis=0) > LEAST_SPREAD  # an input that is the same everywhere tells nobody apart
    rows, row = rows[:, varies], row[varies]
    mean, spread = rows.mean(axis=0), rows.std(axis=0)
    a, b = (row - mean) / spread, (rows - mean) / spread
    result: Floats = (b @ a) / np.maximum(np.linalg.norm(a) * np.linalg.norm(b, axis=1), 1e-300)
    return result


def _rounded(row: Floats) -> list[float]:
    return [round(float(value), 4) for value in np.clip(row, -1e6, 1e6)]
