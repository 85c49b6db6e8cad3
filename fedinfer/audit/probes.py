"""Questions that an audit puts to the training engine alone: does it clip, and does it draw its rows anew?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedinfer.audit.checks import Check, clipping_check, fresh_sample_check
from fedinfer.system import simulation_rng
from fedinfer.training import Data, GradientEngine, PrivateSteps, RandomSource, Trainer
from fedinfer.types import DeviceId, FloatVector

Floats = npt.NDArray[np.float64]

MOST_PROBED = 64
"""DistinctRows that are told apart by their gradients."""
TIGHT = 100.0
"""Clipping is asked for at a norm so much smaller than the smallest gradient that every row must be cut."""
SLACK = 1e-3
"""Rounding in single precision; the mechanism allows for as much."""
STILL = 1e-7
"""Steps so small that the gradients of a row do not change between them."""
_RANK = 1e-3


@dataclass(frozen=True, slots=True)
class DistinctRows:
    """DistinctRows of one device whose gradients at some weights are independent directions.

    Args:
        x: raw rows (n, width) float32.
        y: their labels (n,).
        gradients: (n, d) float64, clipped.
    """

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.int64]
    gradients: Floats


@dataclass(frozen=True, slots=True)
class EngineProbe:
    """The engine of a run, and what it is asked with.

    Args:
        trainer: of the run.
        engine: of the run.
        weights: float32 (size,).
        norm: clipping norm of one row.
        source: randomness of a device by round, as the run makes it.
        level: of every check.
    """

    trainer: Trainer
    engine: GradientEngine
    weights: FloatVector
    norm: float
    source: Callable[[str, DeviceId], RandomSource]
    level: float

    def clipping(self, data: Data) -> Check:
        """Whether one row moves the sum by the clipping norm at most, asked with a norm that cuts every row.

        Args:
            data: rows of some devices.
        """
        lengths = np.linalg.norm(self._alone(data, 1e6 * self.norm), axis=1)
        acts = lengths[lengths > 0]
        norm = float(acts.min()) / TIGHT if acts.size else self.norm
        cut = np.linalg.norm(self._alone(data, norm), axis=1)
        return clipping_check(
            "clipping of rows",
            f"the gradient of each of {len(cut)} rows by itself, clipped to a hundredth of the smallest of them",
            cut if acts.size else np.zeros(1),
            norm,
            SLACK,
            self.level,
        )

    def samples(self, device: DeviceId, data: Data, rate: float, rounds: Sequence[str]) -> Check | None:
        """Whether a device draws its rows anew in every round.

        Args:
            device: whose rows.
            data: its rows.
            rate: stated probability of a row.
            rounds: ids of at least two rounds.

        Returns:
            None where every row is in every sample, or no two rows can be told apart.
        """
        rows = self._distinct(data)
        if rate >= 1 or rows is None or len(rounds) < 2:
            return None
        sums = [
            self.trainer.gradient_sums(
                self.weights, [(rows.x, rows.y)], rate, self.norm, [self.source(name, device)], self.engine
            )[0]
            for name in rounds
        ]
        counts = _times(rows, np.array(sums)).sum(axis=0)
        return fresh_sample_check(
            "rows of every round",
            f"which of {len(counts)} rows of {device} are in the sums of {len(rounds)} rounds",
            counts,
            len(rounds),
            rate,
            self.level,
        )

    def steps(
        self, still: Trainer, device: DeviceId, data: Data, private: PrivateSteps, rounds: Sequence[str]
    ) -> Check | None:
        """Whether a device draws its rows anew in every step of DP-SGD.

        Args:
            still: the same model with learning rate `STILL`.
            device: whose rows.
            data: its rows.
            private: steps and rate of a round.
            rounds: ids of rounds.

        Returns:
            None where there is one step, every row is in every sample, or no two rows can be told apart.
        """
        rows = self._distinct(data)
        if private.rate >= 1 or private.steps < 2 or rows is None:
            return None
        silent = PrivateSteps(private.steps, private.rate, private.clipping_norm, 0.0)
        moved = [
            still.private_updates(self.weights, [(rows.x, rows.y)], silent, [self.source(name, device)], self.engine)[0]
            for name in rounds
        ]
        sums = np.array(moved, np.float64) * (-max(1.0, private.rate * len(rows.y)) / STILL)
        return fresh_sample_check(
            "rows of every step",
            f"how often each of {len(rows.y)} rows of {device} is in the {private.steps} steps of a round",
            _times(rows, sums).ravel(),
            private.steps,
            private.rate,
            self.level,
        )

    def _alone(self, data: Data, norm: float) -> Floats:
        """(rows, d) gradient of every row as a device of its own."""
        singles = [(x[i : i + 1], y[i : i + 1]) for x, y in data for i in range(len(y))][:MOST_PROBED]
        rngs = [simulation_rng(0)] * len(singles)  # nothing is drawn at rate 1
        return np.asarray(self.trainer.gradient_sums(self.weights, singles, 1.0, norm, rngs, self.engine), np.float64)

    def _distinct(self, data: Data) -> DistinctRows | None:
        from scipy.linalg import qr

        x, y = (np.concatenate(part)[:MOST_PROBED] for part in zip(*data, strict=True))
        gradients = self._alone([(x, y)], self.norm)
        _, factor, order = qr(gradients.T, mode="economic", pivoting=True)
        sizes = np.abs(np.diag(factor))
        kept = np.sort(order[: int((sizes > _RANK * max(float(sizes.max(initial=0.0)), 1e-300)).sum())])
        return DistinctRows(x[kept], y[kept], gradients[kept]) if kept.size >= 2 else None


def _times(rows: DistinctRows, sums: Floats) -> npt.NDArray[np.int64]:
    """(sums, rows) how often each row is in each sum: the whole numbers nearest to the least-squares solution."""
    solved = np.linalg.lstsq(rows.gradients.T, sums.T, rcond=None)[0].T
    times: npt.NDArray[np.int64] = np.clip(np.rint(solved), 0, None).astype(np.int64)
    return times
