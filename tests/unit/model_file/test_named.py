"""A graph with its own inputs and outputs, run in a process that is locked in."""

from __future__ import annotations

import numpy as np
import pytest

from fedinfer.errors import GateFailed
from fedinfer.model_file import RunLimits, check_model, run_named
from fedinfer.system import SystemClock
from tests.unit.artifact import foreign_models as foreign


def test_every_run_answers_by_name_texts_among_the_inputs():
    feeds = [
        {"ward": np.array([["north"], ["x"]], object), "age": np.array([[0.0], [2.0]], np.float32)},
        {"ward": np.array([["south"]], object), "age": np.array([[1.0]], np.float32)},
    ]
    answers = run_named(check_model(foreign.wards()), feeds, SystemClock())
    np.testing.assert_allclose(answers[0]["p"], [[1 / (1 + np.exp(-1))], [1 / (1 + np.exp(-2))]], atol=1e-6)
    np.testing.assert_allclose(answers[1]["p"], [[0.5]], atol=1e-6)


def test_a_graph_that_takes_too_much_memory_or_fails_is_one_line():
    large = foreign.model_bytes(
        [("Tile", ["x", "many"], ["y"])], [("x", foreign.F, ["n", 2])], [("y", foreign.F, None)],
        {"many": np.array([2**22, 1], np.int64)},
    )  # fmt: skip
    feed = {"x": np.zeros((16, 2), np.float32)}
    with pytest.raises(GateFailed, match=r"bad_alloc|memory|ended") as caught:
        run_named(check_model(large), [feed], SystemClock(), RunLimits(memory_bytes=2**26))
    assert "\n" not in str(caught.value)
    with pytest.raises(GateFailed, match="fails when it runs"):
        run_named(check_model(foreign.policy()), [{"obs": np.zeros((1, 5), np.float32)}], SystemClock())
