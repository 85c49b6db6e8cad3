"""Small virtual fleets for tests."""

from __future__ import annotations

from fedinfer.config import Scenario, from_flat
from fedinfer.config.flat import FlatValue
from fedinfer.fleet import prepare_fleet, run_fleet
from fedinfer.types import Json

SMALL: dict[str, FlatValue] = {
    "scenario.name": "virtual",
    "data.source": "synthetic",
    "data.partition.devices": 2_000,
    "data.synthetic.features": 8,
    "data.synthetic.rows": 20,
    "training.rounds": 6,
    "training.cohort": 40,
    "training.learning_rate": 0.5,
    "privacy.unit": "device",
    "privacy.trust": "central",
    "privacy.epsilon": 8.0,
    "privacy.delta": 1e-5,
    "fleet.clock.buffer": 20,
    "fleet.device.available": 0.5,
}


def scenario(**others: FlatValue) -> Scenario:
    """SMALL with other values; `a__b` stands for the key `a.b`."""
    return from_flat(SMALL | {key.replace("__", "."): value for key, value in others.items()})


def run(found: Scenario) -> Json:
    """The record of a run."""
    return run_fleet(prepare_fleet(found), None, lambda *_: None)
