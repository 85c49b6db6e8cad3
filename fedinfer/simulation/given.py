"""A simulation of a model that was trained elsewhere: the rows of a file over devices, rollout, windows, a watch.

Nothing is trained. Where the rows have no label, what the model as it is answers to them stands in for it: the metric
is then the agreement with that, also after the rows have changed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.artifact import (
    Built,
    Evidence,
    Imported,
    Judging,
    OutputHead,
    answers_of,
    build_imported,
    finish,
    weights_of,
)
from fedinfer.config import ArtifactSection, Scenario, parse_scenario
from fedinfer.coordinator import GivenModel
from fedinfer.data import DeviceData, Federation, check_against_data
from fedinfer.drift import report_names
from fedinfer.errors import ConfigError, DataError
from fedinfer.ports import Clock
from fedinfer.schema import Schema
from fedinfer.simulation.coordinate import plan_simulation
from fedinfer.simulation.engine import Prepared
from fedinfer.system import simulation_rng
from fedinfer.types import DeviceId, FloatVector

DEVICES = 50
LEAST_ROWS = 3
"""Rows of a device: one that stands for training rows, and some to infer on."""
FEWEST_PUBLIC, MOST_PUBLIC = 2, 256
"""Public rows of an import by which ranges inside the model are measured; with fewer they are drawn."""
UNLABELLED = (
    "the rows have no label: what the imported model answered to them stands in for it, and the metric is agreement "
    "with that"
)
UNTRAINED = "the model was trained elsewhere: nothing is known of the privacy of the rows it was trained on"
_SCENARIO = """
[scenario]
name = "{name}"
description = "imported model on {devices} simulated devices: rollout, inference and drift, no training"

[data]
source = "builtin"

[data.partition]
devices = {devices}

[training]
rounds = 0

[privacy]
unit = "device"
trust = "distributed"
epsilon = 8.0
delta = 1e-5
clipping_norm = 1.0

[secure_aggregation]
mode = "ideal" # "protocol" gives the same integers with keys and masks

[drift]
windows = 10
window = 20
epsilon = 6.0
rounds = 0
max_triggers = 0

[drift.inject]
kind = "shift"
at_window = 6
amount = 0.5

[report]
pooled = false
"""


def given_scenario(name: str, devices: int | None, overrides: Sequence[str]) -> Scenario:
    """The scenario of such a run.

    Args:
        name: of the task.
        devices: simulated; None: DEVICES.
        overrides: texts `section.key=value`, laid on top; those of `settings_of` come first.

    Raises:
        ConfigError: an unknown key, a value that its rule refuses, or rounds of training.
    """
    text = _SCENARIO.format(name=name, devices=devices or DEVICES)
    scenario = parse_scenario(text, Path.cwd(), name, overrides)
    if scenario.most_rounds:
        raise ConfigError("a model that was trained elsewhere has no rounds", hint="leave --rounds out")
    return scenario


def settings_of(imported: Imported) -> list[str]:
    """What `model.toml` says of a run: the statistics of rows that are watched, and how classes are answered.

    Args:
        imported: the model.

    Returns:
        Overrides `section.key=value` of the scenario.
    """
    deciding, channels = imported.declaration.deciding, list(report_names(imported.schema, imported.watched))
    return [
        f"drift.channels={json.dumps(channels)}",
        f"artifact.top={deciding.top}",
        f"artifact.abstain_below={deciding.abstain_below}",
        f"training.threshold={deciding.threshold}",
    ]


def prepare_given(
    imported: Imported, x: FloatVector, y: npt.NDArray[Any] | None, scenario: Scenario, clock: Clock
) -> Prepared:
    """Deal the rows of a file to simulated devices, and plan the run.

    Args:
        imported: the model.
        x: rows, float32 (n, width).
        y: their labels, (n,); None: not known.
        scenario: of `given_scenario`.
        clock: measures latency.

    Raises:
        DataError: too few rows for the devices.
        ConfigError: the plan is not possible.
    """
    warnings = (UNTRAINED, *((UNLABELLED,) if y is None else ()))
    labels = _stand_in(imported, x) if y is None else y
    federation = _federation(imported.schema, x, labels, scenario, warnings)
    check_against_data(scenario, federation)
    plan_simulation(scenario, federation, 1, "local", given=True)
    build = partial(_build, imported, scenario.artifact, clock)
    return Prepared(scenario, federation, GivenModel(build, weights_of(imported.core)))


def _build(
    imported: Imported, section: ArtifactSection, clock: Clock, head: OutputHead, evidence: Evidence, judging: Judging
) -> Built:
    evidence, quantized = _calibrated(evidence, imported.public), imported.facts.quantized
    return build_imported(imported.core, head, quantized, evidence, section, clock, judging).built


def _calibrated(evidence: Evidence, public: FloatVector) -> Evidence:
    """With the public rows of the import where there are any: what is drawn from ranges is noise to most models."""
    if len(public) < FEWEST_PUBLIC:
        return evidence
    return replace(evidence, calibration_x=np.ascontiguousarray(public[:MOST_PUBLIC]))


def _stand_in(imported: Imported, x: FloatVector) -> npt.NDArray[Any]:
    """Answers of the model as it is: class numbers int64, or the first value of each row float64."""
    said = answers_of(finish(imported.core, imported.head(1)), x, imported.schema)
    if imported.schema.label_range is None:
        return np.asarray(said.argmax(axis=1))
    return said[:, 0].astype(np.float64)


def _federation(
    schema: Schema, x: FloatVector, y: npt.NDArray[Any], scenario: Scenario, warnings: tuple[str, ...]
) -> Federation:
    count = scenario.data.partition.devices
    if len(x) < LEAST_ROWS * count:
        raise DataError(
            f"{len(x)} rows for {count} devices; each needs {LEAST_ROWS}", hint=f"--devices {len(x) // LEAST_ROWS}"
        )
    order = simulation_rng(scenario.scenario.seed, "data", "partition").permutation(len(x))
    digits = len(str(count - 1))
    devices = {
        DeviceId(f"device-{number:0{digits}d}"): DeviceData(x[part[:1]], y[part[:1]], x[part[1:]], y[part[1:]])
        for number, part in enumerate(np.array_split(order, count))
    }
    held = list(devices.values())
    test = np.concatenate([data.test_x for data in held]), np.concatenate([data.test_y for data in held])
    return Federation(schema, devices, (x[:0], y[:0]), test, warnings)
