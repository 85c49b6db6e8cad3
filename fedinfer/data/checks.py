"""Rules of a scenario that need its data."""

from __future__ import annotations

from fedinfer.config import Scenario, import_factory
from fedinfer.data.drifted import places
from fedinfer.data.table import Federation
from fedinfer.errors import ConfigError
from fedinfer.types import Unit


def check_against_data(scenario: Scenario, federation: Federation) -> None:
    """Check what no single key can say; call it before a run writes anything.

    Args:
        scenario: what was asked for.
        federation: its data.

    Raises:
        ConfigError: delta >= 1 / number of units, cohort > population, pre-training or `qat_steps` without public
            rows, injected drift that does not fit the columns, or a model factory that cannot be imported.
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
            f"[privacy] delta = {delta:g}: must be below 1/n = {1 / count:.3g} for n = {count} units ({unit})",
            hint=f"for instance delta = {0.1 / count:.0e}",
        )


def _check_inject(scenario: Scenario, federation: Federation) -> None:
    inject = scenario.drift.inject
    if inject is None or inject.kind in ("none", "label"):
        return
    schema = federation.schema
    if schema.text is not None:
        raise ConfigError(f"[drift.inject] kind = {inject.kind!r}: the rows are texts", hint="use kind = 'label'")
    if inject.kind == "rotate" and (not schema.shape or schema.columns):
        raise ConfigError("[drift.inject] kind = 'rotate': the rows are no images", hint="use shift, scale or noise")
    if inject.kind != "rotate":
        places(schema, inject)
