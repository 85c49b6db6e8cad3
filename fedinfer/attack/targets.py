"""Whom an attack guesses: rows, or whole devices, as the scenario protects one or the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

import numpy as np
import numpy.typing as npt

from fedinfer.attack.rounds import AttackedRun, with_rows
from fedinfer.data import Federation
from fedinfer.errors import ConfigError
from fedinfer.system import simulation_rng
from fedinfer.training import GradientEngine, Trainer
from fedinfer.types import Unit

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

MOST_TARGETS = 2_000
"""Units that are guessed; all of them take part."""
MOST_NUMBERS = 20_000_000
"""Gradients, rows times dimension, that are held at once."""
LEAST_TARGETS = 20
FAR = 1e6
"""A clipping norm that clips nothing."""


@dataclass(frozen=True, slots=True)
class Targets:
    """All units of a federation, and the rows of those that are guessed.

    Args:
        federation: whole.
        unit_of: (rows,) number of the unit that each training row belongs to, rows in the order of the devices.
        guessed: numbers of the units that are guessed, ascending.
        x, y: their rows and labels.
        owner: (their rows,) place in `guessed` of the unit that a row belongs to.
    """

    federation: Federation
    unit_of: npt.NDArray[np.int64]
    guessed: npt.NDArray[np.int64]
    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.int64]
    owner: npt.NDArray[np.int64]

    @property
    def count(self) -> int:
        """Number of all units."""
        return int(self.unit_of[-1]) + 1

    def chosen(self, coins: Flags) -> Federation:
        """The federation with the units whose coin says "in".

        Args:
            coins: (count,).
        """
        kept, at = {}, 0
        for device, data in self.federation.devices.items():
            rows = len(data.train_y)
            kept[device] = coins[self.unit_of[at : at + rows]]
            at += rows
        return with_rows(self.federation, kept)

    def fit(self, trainer: Trainer, seen: AttackedRun) -> Floats:
        """How well the last model knows each unit: mean logit of the right class, or minus the error of a number.

        Args:
            trainer: of the model.
            seen: of a run.

        Returns:
            float64 (guessed,).
        """
        answers = trainer.predict(seen.weights[-1], self.x).astype(np.float64)
        if self.y.dtype.kind == "f":
            return self._means(-np.abs(answers[:, 0] - self.y))
        right = np.clip(answers[np.arange(len(self.y)), self.y], 1e-12, 1 - 1e-12)
        return self._means(np.log(right / (1 - right)))

    def match(self, trainer: Trainer, seen: AttackedRun) -> Floats:
        """How much of each unit's own gradient is in what the rounds released: sum of inner products.

        Args:
            trainer: of the model.
            seen: of a run.

        Returns:
            float64 (guessed,).
        """
        total = np.zeros(len(self.y))
        for weights, released in zip(seen.weights, seen.released, strict=False):
            total += self.gradients(trainer, weights) @ released
        return self._means(total)

    def gradients(self, trainer: Trainer, weights: npt.NDArray[np.float32]) -> Floats:
        """The gradient of every row of the guessed units, unclipped.

        Args:
            trainer: of the model.
            weights: float32 (size,).

        Returns:
            float64 (rows, d).
        """
        singles = [(self.x[i : i + 1], self.y[i : i + 1]) for i in range(len(self.y))]
        rngs = [simulation_rng(0)] * len(singles)  # nothing is drawn at rate 1
        return np.asarray(trainer.gradient_sums(weights, singles, 1.0, FAR, rngs, GradientEngine.BATCHED), np.float64)

    def _means(self, values: Floats) -> Floats:
        sums = np.bincount(self.owner, values, self.guessed.size)
        result: Floats = sums / np.maximum(np.bincount(self.owner, minlength=self.guessed.size), 1)
        return result


def targets_of(federation: Federation, unit: Unit, dimension: int, rng: np.random.Generator) -> Targets:
    """Choose whom to guess.

    Args:
        federation: whole.
        unit: what the scenario protects.
        dimension: of a gradient.
        rng: draws the guessed units where there are too many.

    Raises:
        ConfigError: fewer than `LEAST_TARGETS` units.
    """
    counts = [len(data.train_y) for data in federation.devices.values()]
    match unit:
        case Unit.EXAMPLE | Unit.NONE:
            unit_of = np.arange(sum(counts))
        case Unit.DEVICE:
            unit_of = np.repeat(np.arange(len(counts)), counts)
        case _:
            assert_never(unit)
    units = int(unit_of[-1]) + 1
    if units < LEAST_TARGETS:
        raise ConfigError(f"{units} units of privacy: at least {LEAST_TARGETS} are needed to count finds")
    per_unit = -(-unit_of.size // units)
    most = max(LEAST_TARGETS, min(MOST_TARGETS, MOST_NUMBERS // (dimension * per_unit)))
    guessed = np.sort(rng.permutation(units)[:most])
    rows = np.flatnonzero(np.isin(unit_of, guessed))
    x = np.concatenate([data.train_x for data in federation.devices.values()])[rows]
    y = np.concatenate([data.train_y for data in federation.devices.values()])[rows]
    return Targets(federation, unit_of, guessed, x, y, np.searchsorted(guessed, unit_of[rows]))
