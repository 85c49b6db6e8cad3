"""A window reads the same predictions from a confined process as in its own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np

from fedinfer.device.host import Host
from fedinfer.device.inference import _predicted
from fedinfer.inference.predict.predictor import Predictor
from fedinfer.model_file.sandbox import Isolation
from fedinfer.system import SystemClock
from fedinfer.types import Unit
from tests.unit.inference.device_world import SCHEMA, make_model, make_rows


def _host(isolation: Isolation) -> Host:
    scenario = SimpleNamespace(privacy=SimpleNamespace(unit=Unit.EXAMPLE))
    task = SimpleNamespace(schema=SCHEMA, scenario=scenario)
    policy = SimpleNamespace(isolation=isolation)
    return cast(Host, SimpleNamespace(policy=policy, clock=SystemClock(), joined=lambda: task))


def test_a_window_in_a_process_of_its_own_reads_the_same_predictions() -> None:
    predictor, rows = Predictor.open(make_model(), SCHEMA), make_rows(count=8)
    classes, probabilities = _predicted(_host(Isolation.NONE), predictor, rows)
    alone, of_alone = _predicted(_host(Isolation.PROCESS), predictor, rows)
    np.testing.assert_array_equal(alone, classes)
    np.testing.assert_allclose(of_alone, probabilities, atol=1e-6)
    np.testing.assert_allclose(of_alone.sum(axis=1), 1, atol=1e-5)
