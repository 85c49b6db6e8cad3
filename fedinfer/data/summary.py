"""What a scenario would do, before it does it."""

from __future__ import annotations

import math

import numpy as np

from fedinfer.config import Scenario
from fedinfer.data.checks import units
from fedinfer.data.table import Federation, Targets
from fedinfer.schema import Schema
from fedinfer.types import Json, Unit

FEW_ROWS = 2


def summarize(scenario: Scenario, federation: Federation) -> Json:
    """Rows, devices, classes and budget as a JSON object.

    Args:
        scenario: what was asked for.
        federation: its data.
    """
    return {
        "scenario": scenario.scenario.name,
        "seed": scenario.scenario.seed,
        "data": _data(scenario, federation),
        "model": scenario.model.factory or scenario.model.kind.value,
        "training": {
            "rounds": scenario.training.rounds,
            "cohort": scenario.training.cohort or len(federation.devices),
            "rounds_per_alarm": scenario.drift.rounds if scenario.drift.enabled else 0,
        },
        "privacy": _privacy(scenario, federation),
        "secure_aggregation": scenario.secure_aggregation.mode.value,
        "warnings": [*federation.warnings, *remarks(scenario, federation)],
    }


def remarks(scenario: Scenario, federation: Federation) -> tuple[str, ...]:
    """What is allowed and probably not meant.

    Args:
        scenario: what was asked for.
        federation: its data.

    Returns:
        One sentence each; empty when there is nothing to say.
    """
    found = []
    small = [device for device, data in federation.devices.items() if len(data.train_y) < FEW_ROWS]
    if small:
        several = f"{len(small)} devices have a single training row, the first is {small[0]!r}"
        found.append(several if len(small) > 1 else f"Device {small[0]!r} has a single training row")
    silent = sum(not len(data.test_y) for data in federation.devices.values())
    if silent:
        who = (
            f"{silent} devices have no held-out row: they predict"
            if silent > 1
            else "One device has no held-out row: it predicts"
        )
        found.append(f"{who} nothing in this simulation")
    inject, windows = scenario.drift.inject, scenario.drift.windows
    if inject is not None and inject.kind != "none" and inject.at_window > windows:
        found.append(f"[drift.inject] at_window = {inject.at_window} lies after the last of {windows} windows")
    return tuple(found)


def _data(scenario: Scenario, federation: Federation) -> Json:
    schema, devices = federation.schema, federation.devices
    sizes = [len(data.train_y) + len(data.test_y) for data in devices.values()]
    labels = np.concatenate([federation.public[1], federation.test[1], *(d.train_y for d in devices.values())])
    return {
        "source": scenario.data.path or scenario.data.name,
        "rows": len(labels),
        "public_rows": len(federation.public[1]),
        "train_rows": sum(len(data.train_y) for data in devices.values()),
        "test_rows": len(federation.test[1]),
        "devices": len(devices),
        "rows_per_device": {"least": min(sizes), "median": float(np.median(sizes)), "most": max(sizes)},
        "inputs": _inputs(schema),
        "classes": _classes(schema, labels),
        **_number(schema, labels),
        "ranges_confirmed": schema.confirmed,
    }


def _inputs(schema: Schema) -> str:
    if schema.text is not None:
        return f"text, first {schema.text.length} words, vocabulary of {len(schema.text.vocabulary)}"
    return f"image {'x'.join(map(str, schema.shape))}" if schema.shape else f"{schema.width} columns"


def _classes(schema: Schema, labels: Targets) -> dict[str, int]:
    if schema.label_range is not None:
        return {}
    counts = np.bincount(labels, minlength=schema.classes)
    return {name: int(count) for name, count in zip(schema.labels, counts, strict=True)}


def _number(schema: Schema, labels: Targets) -> Json:
    """What a numeric label looks like in this simulation; nothing for classes."""
    if schema.label_range is None:
        return {}
    at = np.quantile(labels, (0.0, 0.25, 0.5, 0.75, 1.0))
    found = dict(zip(("least", "quarter", "median", "three_quarters", "most"), map(float, at), strict=True))
    return {"label": {"range": [*schema.label_range], "unit": schema.label_unit, **found}}


def _privacy(scenario: Scenario, federation: Federation) -> Json:
    privacy, drift = scenario.privacy, scenario.drift
    return {
        "unit": privacy.unit.value,
        "units": units(scenario, federation),
        "trust": privacy.trust.value,
        "epsilon_budget": privacy.epsilon if privacy.unit is not Unit.NONE else math.inf,
        "delta": privacy.delta,
        "epsilon_for_drift": drift.epsilon if drift.enabled else 0.0,
        "drift_windows": drift.windows if drift.enabled else 0,
    }
