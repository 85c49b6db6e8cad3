"""Named inputs with categories as text give the answers of the row they stand for."""

from __future__ import annotations

import numpy as np
import pytest

from fedinfer.artifact.calibration import synthetic_rows
from fedinfer.artifact.graph import Ending, finish, load, open_session, run
from fedinfer.artifact.text_inputs import with_text_inputs
from fedinfer.errors import ConfigError
from fedinfer.schema import Schema
from fedinfer.system import simulation_rng
from tests.unit.artifact.workshop import TABLE, dense_core

CORE = dense_core((3, 8, 3))
FILE = finish(CORE, Ending(TABLE, 1.0, "demo", 1))


def feed(rows: np.ndarray) -> dict[str, np.ndarray]:
    wards = [["north", "south", "7"][int(ward)] if ward == ward else "elsewhere" for ward in rows[:, 2]]
    return {"age": rows[:, :1], "pressure": rows[:, 1:2], "ward": np.array(wards, dtype=object)[:, None]}


def test_text_and_numbers_give_the_same_answers():
    rows = synthetic_rows(TABLE, 60, simulation_rng("text"))
    rows[:, :2] = np.nan_to_num(rows[:, :2])
    session = open_session(with_text_inputs(load(FILE), TABLE).SerializeToString())
    assert [(i.name, i.type) for i in session.get_inputs()] == [
        ("age", "tensor(float)"), ("pressure", "tensor(float)"), ("ward", "tensor(string)"),
    ]  # fmt: skip
    found = session.run(["probabilities"], feed(rows))[0]
    np.testing.assert_array_equal(found, run(FILE, rows, "probabilities"))
    np.testing.assert_array_equal(session.run(["label"], feed(rows[:1]))[0], run(FILE, rows[:1], "label"))


def test_missing_and_unseen_categories_become_nan():
    named = with_text_inputs(CORE, TABLE)
    rows = np.array([[1.0, 100.0, np.nan]], np.float32)
    assert np.isnan(open_session(named.SerializeToString()).run(["logits"], feed(rows))[0]).all()


def test_the_given_graph_is_left_alone():
    before = CORE.SerializeToString()
    with_text_inputs(CORE, TABLE)
    assert CORE.SerializeToString() == before


def test_images_have_no_named_columns():
    with pytest.raises(ConfigError, match="need a table"):
        with_text_inputs(CORE, Schema((), "digit", ("a", "b"), (1, 2, 2), 1.0))
