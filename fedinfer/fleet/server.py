"""The server of a virtual fleet: it releases sums, steps its optimizer, judges the model and says what happened."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from fedinfer.config import Scenario
from fedinfer.data import LazyRows
from fedinfer.fleet.budget import SumBudget
from fedinfer.fleet.draws import Devices, Floats
from fedinfer.fleet.jobs import JobSize
from fedinfer.fleet.selection import Registry
from fedinfer.fleet.sums import Chunk, Workers, open_sum
from fedinfer.fleet.tally import Tally
from fedinfer.metrics import Metric
from fedinfer.ports import Listener
from fedinfer.system import simulation_rng
from fedinfer.training import OptimizerSettings, OptimizerState, apply
from fedinfer.types import FloatVector, Json

if TYPE_CHECKING:
    from fedinfer.training import Trainer

JUDGES = 200
"""Devices whose held-out rows judge the model; their rows are drawn once where the world does not change."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """What does not change in a run.

    Args:
        scenario: of the run.
        rows: its population.
        trainer: the model.
        budget: noise, and how often a device may take part.
        work: of one job.
        optimizer: of the server.
        metric: by which the model is judged.
        workers: make the sums.
        emit: receives every event.
    """

    scenario: Scenario
    rows: LazyRows
    trainer: Trainer
    budget: SumBudget
    work: JobSize
    optimizer: OptimizerSettings
    metric: Metric
    workers: Workers
    emit: Listener


@dataclass(slots=True)
class VirtualServer:
    """State of a run.

    Args:
        fixed: what does not change.
        registry: devices.
        weights: of the model, (size,) float32.
        state: of the optimizer.
        now: virtual seconds.
        tally: totals.
        releases: one record per released sum.
        failed: rounds that ended without a sum.
        start: the metric before the first sum.
        reached_target: record of the first sum with the wanted metric.
    """

    fixed: Fixed
    registry: Registry
    weights: FloatVector
    state: OptimizerState
    now: float = 0.0
    tally: Tally = field(default_factory=Tally)
    releases: list[Json] = field(default_factory=list)
    failed: int = 0
    start: float = math.nan
    reached_target: Json | None = None
    _judging: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def seed(self) -> int:
        """Of the run."""
        return self.fixed.scenario.scenario.seed

    def release(self, chunks: Sequence[Chunk], divisor: int, staleness: Floats) -> None:
        """Sum the answers, step the optimizer with their mean, charge the devices, judge the model.

        Args:
            chunks: every device that is in the sum, once.
            divisor: public number by which the sum is divided.
            staleness: versions by which each answer is old, (k,).
        """
        fixed, number = self.fixed, len(self.releases)
        devices: Devices = np.concatenate([chunk.devices for chunk in chunks])
        total = open_sum(fixed.workers.sums(chunks), fixed.budget, self.seed, number)
        tuned = fixed.trainer.tuned(self.weights)
        self.state, tuned = apply(self.state, tuned, total / np.float32(divisor), fixed.optimizer)
        self.weights = fixed.trainer.replace(self.weights, tuned)
        self.registry.participations[devices] += 1
        found = self.judge()
        record: Json = {
            "release": number + 1,
            "seconds": self.now,
            "answers": len(devices),
            "staleness": float(staleness.mean()),
            "most_staleness": int(staleness.max()),
            "metric": found,
            "asked": self.tally.asked,
            "down_bytes": self.tally.down_bytes,
            "up_bytes": self.tally.up_bytes,
            "watt_hours": self.tally.watt_hours,
        }
        self.releases.append(record)
        self._note_target(record)
        fixed.emit("released", record)

    def judge(self) -> float:
        """The metric on held-out rows of some devices, as the world is now."""
        fixed = self.fixed
        if self._judging is None or fixed.scenario.data.synthetic.drift_days:
            rng = simulation_rng(self.seed, "fleet", "judges")
            judges = rng.choice(fixed.rows.devices, min(JUDGES, fixed.rows.devices), replace=False)
            self._judging = fixed.rows.test(judges.tolist(), self.now)
        return float(fixed.trainer.evaluate(self.weights, *self._judging)[str(fixed.metric)])

    def _note_target(self, record: Json) -> None:
        target, better = self.fixed.scenario.fleet.clock.target, self.fixed.metric.higher_is_better
        if (
            target
            and self.reached_target is None
            and (record["metric"] >= target if better else record["metric"] <= target)
        ):
            self.reached_target = record
