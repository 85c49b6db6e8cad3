"""Rows that are drawn from the seed, one device at a time: a million devices cost what those cost that train.

The population has one rule W from inputs to label; device k has W + `model_shift` E_k and inputs around
`input_shift` v_k, like the synthetic data of Li et al. 2020, *Federated optimization in heterogeneous networks*,
section 5.1. There each device's rule has its own mean; here they share W, so there is a common model to learn, and 0
makes all devices alike. Everything of a device follows from (run seed, number of the device).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.config import Scenario, SyntheticSection
from fedinfer.data.table import Rows, Table, Targets
from fedinfer.errors import ConfigError
from fedinfer.schema import Numeric, Schema
from fedinfer.system import simulation_rng
from fedinfer.types import DeviceId

LIMIT = 4.0
"""Public range of every column, [-LIMIT, LIMIT]; values beyond are clamped."""
FEWEST, MOST = 2, 100_000
"""Rows of a device: one to train with, one to hold out."""
MOST_ROWS = 5_000_000
"""Of all devices together, where they exist all the time."""
SECONDS_PER_DAY = 86_400.0

Wide = npt.NDArray[np.float64]


def synthetic_schema(section: SyntheticSection) -> Schema:
    """Columns `x0`, `x1`, ... and the label.

    Args:
        section: of the scenario.
    """
    columns = tuple(Numeric(f"x{number}", -LIMIT, LIMIT) for number in range(section.features))
    if section.task == "regression":
        return Schema(columns, "y", (), label_range=(-1.0, 1.0))
    return Schema(columns, "y", tuple(f"class {number}" for number in range(section.classes)))


class SyntheticRows:
    """The rows of any device of the population.

    Args:
        section: of the scenario.
        devices: how many there are, >= 1.
        seed: of the run.
    """

    def __init__(self, section: SyntheticSection, devices: int, seed: int) -> None:
        self._section, self._seed = section, seed
        self.schema = synthetic_schema(section)
        drawn = simulation_rng(seed, "synthetic", "rows").standard_normal(devices, dtype=np.float32)
        sizes = np.rint(section.rows * np.exp(section.rows_spread * drawn))
        self.sizes = np.clip(sizes, FEWEST, MOST).astype(np.int32)
        """Rows of each device, (devices,) int32."""
        rng = simulation_rng(seed, "synthetic", "rule")
        outputs = self.schema.outputs
        self._rules = [rng.standard_normal((section.features, outputs)) for _ in range(2)]

    def rows(self, device: int, seconds: float) -> tuple[Rows, Targets]:
        """All rows of a device, as the world is at a time.

        Args:
            device: number of the device, 0-based.
            seconds: of the virtual clock, >= 0.

        Returns:
            (n, features) float32 and labels (n,): int64, or float64 for a number.
        """
        section, count = self._section, int(self.sizes[device])
        rng = simulation_rng(self._seed, "synthetic", "device", device)
        middle = section.input_shift * rng.standard_normal(section.features)
        x = np.clip(middle + rng.standard_normal((count, section.features)), -LIMIT, LIMIT).astype(np.float32)
        rule = self._rule(seconds) + section.model_shift * rng.standard_normal(self._rules[0].shape)
        return x, self._labels(x @ rule, rng)

    def read(self) -> dict[str, npt.NDArray[Any]]:
        """As `Held.read`: nothing, rows follow from the scenario alone."""
        return {}

    def _rule(self, seconds: float) -> Wide:
        """The common rule: it turns by a quarter towards another one in `drift_days`, and then stays there."""
        if not self._section.drift_days:
            return self._rules[0]
        share = min(seconds / (self._section.drift_days * SECONDS_PER_DAY), 1.0)
        angle = share * math.pi / 2
        turned: Wide = math.cos(angle) * self._rules[0] + math.sin(angle) * self._rules[1]
        return turned

    def _labels(self, scores: Wide, rng: np.random.Generator) -> Targets:
        section, count = self._section, len(scores)
        if section.task == "regression":
            # tanh keeps the label in its public range; the root makes its argument's spread 1 whatever the width.
            exact = np.tanh(scores[:, 0] / math.sqrt(section.features))
            return np.clip(exact + section.noise * rng.standard_normal(count), -1.0, 1.0)
        at_random = rng.random(count) < section.noise
        other = rng.integers(0, section.classes, count)
        return np.where(at_random, other, scores.argmax(axis=1)).astype(np.int64)


def synthetic_table(scenario: Scenario) -> tuple[Schema, Table, tuple[str, ...]]:
    """The rows of all devices at once, for runs whose devices exist all the time.

    Args:
        scenario: with source `synthetic`.

    Returns:
        (schema, table, warnings).

    Raises:
        ConfigError: so many rows do not belong into memory at once.
    """
    data = scenario.data
    drawn = SyntheticRows(data.synthetic, data.partition.devices, scenario.scenario.seed)
    rows = int(drawn.sizes.sum(dtype=np.int64))
    if rows > MOST_ROWS:
        raise ConfigError(
            f"[data.partition] devices = {data.partition.devices}: {rows} rows, at most {MOST_ROWS} are held at once",
            hint="`fedinfer fleet` draws the rows of a device when it trains; or fewer --devices",
        )
    pairs = [drawn.rows(device, 0.0) for device in range(data.partition.devices)]
    width = len(str(data.partition.devices - 1))
    holders = tuple(
        DeviceId(f"device-{number:0{width}d}") for number, (_, y) in enumerate(pairs) for _ in range(len(y))
    )
    table = Table(np.concatenate([x for x, _ in pairs]), np.concatenate([y for _, y in pairs]), holders)
    drift = f"[data.synthetic] drift_days = {data.synthetic.drift_days:g} needs a clock: rows are those of the start."
    return drawn.schema, table, (drift,) if data.synthetic.drift_days else ()
