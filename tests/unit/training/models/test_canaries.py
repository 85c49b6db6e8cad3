"""Weights that no row can move: which they are, that rows leave them alone, and that they move a declared row only."""

from __future__ import annotations

import numpy as np
import pytest

from fedinfer.config import ModelKind, ModelSection, TrainingSection
from fedinfer.schema import CANARY, Categorical, Numeric, Schema
from fedinfer.training import canary_weights, load_trainer
from fedinfer.training.engines.gradient_engine import GradientEngine

LEVELS = tuple(f"{CANARY}{number}" for number in range(1, 4))
COLUMNS = (Numeric("age", 0.0, 90.0), Categorical("sex", ("f", "m", *LEVELS)), Categorical("cp", ("a", "b")))
SCHEMA = Schema(COLUMNS, "y", ("no", "yes"))
SECTIONS = [
    ModelSection(),
    ModelSection(kind=ModelKind.ADDITIVE, pairs=(("sex", "age"), ("cp", "sex"))),
]


def trainer(section: ModelSection, schema: Schema = SCHEMA) -> object:
    return load_trainer(section, schema, TrainingSection(), 1)


def moved(section: ModelSection, rows: list[list[float]]) -> np.ndarray:
    """Canary weights after a step along the gradient of some rows, from random weights elsewhere."""
    found = trainer(section)
    x, y = np.array(rows, np.float32), np.arange(len(rows)) % 2
    sums = found.gradient_sums(found.initial(), [(x, y)], 1.0, 1e3, [np.random.default_rng(1)], GradientEngine.BATCHED)
    return canary_weights(found.module(sums[0].astype(np.float32), native=False), SCHEMA)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: str(section.kind))
def test_no_row_without_a_level_moves_its_weight_and_one_with_it_does(section: ModelSection) -> None:
    nan = float("nan")
    usual = [[20.0, 0, 1], [50.0, 1, 0], [nan, nan, nan], [90.0, 0, nan], [1e9, 1, 7]]
    assert moved(section, usual).size >= 2 * len(LEVELS)
    assert not moved(section, usual).any()
    assert np.count_nonzero(moved(section, [*usual, [nan, 3, nan]])) >= 2


def test_only_models_that_are_one_linear_map_have_such_weights() -> None:
    mlp = ModelSection(kind=ModelKind.MLP)
    assert canary_weights(trainer(mlp).module(trainer(mlp).initial(), native=False), SCHEMA).size == 0
    plain = Schema(COLUMNS[::2], "y", ("no", "yes"))
    found = trainer(ModelSection(), plain)
    assert canary_weights(found.module(found.initial(), native=False), plain).size == 0
