"""Rules of a scenario that need its data."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.config import Scenario, import_factory, resolve_weights
from fedinfer.data.drifted import drifting_devices, places
from fedinfer.data.table import Federation
from fedinfer.errors import ConfigError
from fedinfer.metrics import EVEN, judged_by
from fedinfer.schema import Schema, Text
from fedinfer.types import Unit


def check_against_data(scenario: Scenario, federation: Federation) -> None:
    """Check what no single key can say; call it before a run writes anything.

    Args:
        scenario: what was asked for.
        federation: its data.

    Raises:
        ConfigError: delta >= 1 / number of units, cohort > population, pre-training, `qat_steps` or a threshold to be
            chosen without public rows, injected drift or groups that do not fit the columns, a metric or class shares
            that do not fit the label, or a model factory that cannot be imported.
    """
    _check_delta(scenario, federation)
    cohort, population = scenario.training.cohort, len(federation.devices)
    if cohort > population:
        raise ConfigError(
            f"[training] cohort = {cohort}: the population has {population} devices",
            hint=f"training.cohort = 0 asks all {population}; or {cohort} devices or more",
        )
    if scenario.training.pretrain and not len(federation.public[1]):
        raise ConfigError(
            f"[training] pretrain = true: there are no public rows, [data] public_fraction = "
            f"{scenario.data.public_fraction}",
            hint="set public_fraction, or pretrain = false",
        )
    check_qat_rows(scenario, len(federation.public[1]))
    check_judging(scenario, federation.schema, federation.public[1])
    if scenario.model.factory:
        import_factory(scenario.model.factory, scenario.base)
    _check_inject(scenario, federation)


def check_qat_rows(scenario: Scenario, public_rows: int) -> None:
    """Fine-tuning for int8 uses public rows and nothing else.

    Args:
        scenario: with `artifact.qat_steps`.
        public_rows: number of rows that the server may hold, >= 0.

    Raises:
        ConfigError: fine-tuning is asked for and there are no public rows.
    """
    steps = scenario.artifact.qat_steps
    if steps and not public_rows:
        raise ConfigError(
            f"[artifact] qat_steps = {steps}: there are no public rows, and rows of devices are never used for it",
            hint="set [data] public_fraction (deployment: give public rows), or qat_steps = 0; pruning needs no rows",
        )


def check_judging(scenario: Scenario, schema: Schema, public_y: npt.NDArray[Any]) -> None:
    """Metric, class shares, threshold and groups fit the table.

    Args:
        scenario: with its [training] and [report] sections.
        schema: names columns and classes.
        public_y: labels of the rows that the server may hold; may be empty.

    Raises:
        ConfigError: naming the key, and what would fit.
    """
    training = scenario.training
    judged_by(training.metric or None, (), schema.classes)
    resolve_weights(training, schema.labels, public_y)
    if training.prior and set(training.prior) != set(schema.labels):
        raise ConfigError(
            f"[training] prior names the classes {sorted(training.prior)}, the label has {list(schema.labels)}",
            hint="give the share of each class by its name",
        )
    if training.threshold != EVEN and schema.classes != 2:
        raise ConfigError(
            f"[training] threshold = {training.threshold!r}: the label has {schema.classes} classes, not two",
            hint="leave it out: the likeliest class is answered",
        )
    if training.threshold == "public" and len(np.unique(public_y)) < 2:
        raise ConfigError(
            f"[training] threshold = 'public': the {len(public_y)} public rows do not hold both classes",
            hint="set data.public_fraction (deployment: give public rows), for instance 0.1, or a number as threshold",
        )
    names = [column.name for column in schema.columns if not isinstance(column, Text)]
    missing = [name for name in scenario.report.groups if name not in names]
    if missing:
        raise ConfigError(
            f"[report] groups = {list(scenario.report.groups)}: {missing[0]!r} is no input column",
            hint=f"columns: {', '.join(names) or 'none: these rows have no named columns'}",
        )


def units(scenario: Scenario, federation: Federation) -> int:
    """Number of privacy units: devices, or all rows that devices hold (held-out rows appear in drift reports).

    Args:
        scenario: with `privacy.unit`; `none` counts rows.
        federation: its data.
    """
    if scenario.privacy.unit is Unit.DEVICE:
        return len(federation.devices)
    return sum(len(data.train_y) + len(data.test_y) for data in federation.devices.values())


def _check_delta(scenario: Scenario, federation: Federation) -> None:
    """With delta >= 1/n a mechanism that publishes one unit in plaintext passes (Dwork & Roth 2014, section 2.3)."""
    unit, delta = scenario.privacy.unit, scenario.privacy.delta
    count = units(scenario, federation)
    if unit is not Unit.NONE and delta >= 1 / count:
        raise ConfigError(
            f"[privacy] delta = {delta}: must be below 1/n = {1 / count:.3g} for n = {count} units ({unit})",
            hint=f"for instance delta = {0.1 / count:.0e}",
        )


def _check_inject(scenario: Scenario, federation: Federation) -> None:
    inject = scenario.drift.inject
    if inject is not None:
        drifting_devices(tuple(federation.devices), inject, scenario.scenario.seed)
    if inject is None or inject.kind in ("none", "label"):
        return
    schema = federation.schema
    if schema.text is not None:
        raise ConfigError(f"[drift.inject] kind = {inject.kind!r}: the rows are texts", hint="use kind = 'label'")
    if inject.kind == "rotate" and (not schema.shape or schema.columns):
        raise ConfigError("[drift.inject] kind = 'rotate': the rows are no images", hint="use shift, scale or noise")
    if inject.kind != "rotate":
        places(schema, inject)
