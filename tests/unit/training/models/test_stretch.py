"""Columns with breaks: even steps between them, in the graph of every kind and in what the report draws."""

import numpy as np
import onnxruntime as ort
import pytest
import torch

from fedinfer.config import ModelSection, TrainingSection
from fedinfer.errors import ConfigError
from fedinfer.schema import Categorical, Numeric, Schema
from fedinfer.training import OptimizerSettings, load_trainer
from fedinfer.training.models.additive import AdditivePrepare
from fedinfer.training.models.preprocess import FieldPrepare, SeriesPrepare, TablePrepare
from fedinfer.training.models.stretch import Stretch

INCOME = Numeric("income", 0, 100_000, breaks=(1000, 3000, 10_000))
AGE = Numeric("age", 18, 80)
DEBT = Numeric("debt", -5, 5, breaks=(4.5,))
SCHEMA = Schema((INCOME, AGE, Categorical("c", ("a", "b")), DEBT), "y", ("n", "p"))
VALUES = np.array(
    [[-9, 18, 0, -9], [0, 80, 1, -5], [500, 49, 0, 4], [1000, 18, 0, 4.5], [2000, 18, 1, 4.75], [1e6, 99, 0, 9]],
    np.float32,
)


def test_each_step_between_edges_is_as_wide_as_any_other() -> None:
    assert INCOME.place([-1, 0, 500, 1000, 2000, 10_000, 100_000, 2e9]).tolist() == [
        0,
        0,
        0.125,
        0.25,
        0.375,
        0.75,
        1,
        1,
    ]
    assert np.allclose(INCOME.at(INCOME.place([0, 77, 1000, 5000, 99_000])), [0, 77, 1000, 5000, 99_000])
    assert np.isnan(INCOME.place(np.nan))


def test_the_graph_places_values_as_the_schema_does() -> None:
    """numpy's interpolation is the reference of the sum of clamped lines."""
    columns = (INCOME, AGE, DEBT)
    values = np.random.default_rng(1).uniform(0, 1, (500, 3)).astype(np.float32)
    raw = np.column_stack([column.at(values[:, place]) for place, column in enumerate(columns)]).astype(np.float32)
    found = Stretch(columns)(torch.from_numpy(raw)).numpy()
    for place, column in enumerate(columns):
        wanted = column.low + (column.high - column.low) * column.place(raw[:, place])
        np.testing.assert_allclose(found[:, place], wanted, rtol=1e-5, atol=2e-3 if column is INCOME else 1e-4)


def test_without_breaks_nothing_is_computed() -> None:
    values = torch.tensor([[30.5], [float("nan")]])
    assert Stretch((AGE,))(values) is values


def test_logistic_models_see_even_steps_and_missing_values_stay_missing() -> None:
    rows = torch.from_numpy(VALUES.copy())
    rows[2, 0] = float("nan")
    scaled = TablePrepare(SCHEMA)(rows)
    np.testing.assert_allclose(scaled[:, 0], [-1, -1, 0, -0.5, -0.25, 1], atol=1e-6)
    np.testing.assert_allclose(scaled[:, 2], [-1, -1, 2 * (9 / 19) - 1, 0, 0.5, 1], atol=1e-6)
    assert scaled[2, 3] == 1.0  # the flag of income


def test_recommenders_and_series_see_even_steps() -> None:
    rows = torch.from_numpy(VALUES)
    fields = FieldPrepare(SCHEMA)(rows)
    np.testing.assert_allclose(fields[3, 1:], [-0.5, -1, 0], atol=1e-6)
    series = SeriesPrepare(Schema((INCOME, DEBT), "y", ("n", "p")), 1, 2)(rows[:, [0, 3]])
    np.testing.assert_allclose(series[3, 0], [-0.5, 0], atol=1e-6)


def test_additive_models_put_their_knots_on_even_steps() -> None:
    features = AdditivePrepare(ModelSection(knots=5), Schema((INCOME,), "y", ("n", "p")))
    placed, missing = features._placed(torch.tensor([[0.0], [1000.0], [2000.0], [1e6], [float("nan")]]))
    np.testing.assert_allclose(placed[:, 0], [0, 0.25, 0.375, 1, 0], atol=1e-6)
    assert missing[:, 0].tolist() == [0, 0, 0, 0, 1]


def test_a_curve_is_drawn_at_the_values_of_its_knots() -> None:
    trainer = load_trainer(ModelSection(kind="additive", knots=5), SCHEMA, TrainingSection(), 1)
    optimizer = OptimizerSettings("fedavg", 1.0, 0.0)
    drawn = trainer.shapes(trainer.initial(), optimizer, None, np.random.default_rng(1))
    assert drawn[0]["at"] == [0, 1000, 3000, 10_000, 100_000]
    assert drawn[1]["at"] == [18, 33.5, 49, 64.5, 80]


@pytest.mark.parametrize("kind", ["logistic", "additive"])
def test_an_exported_graph_answers_as_the_model(kind: str, tmp_path) -> None:
    trainer = load_trainer(ModelSection(kind=kind), SCHEMA, TrainingSection(), 1)
    weights = np.random.default_rng(2).normal(0, 1, trainer.size).astype(np.float32)
    module, rows = trainer.module(weights), VALUES.copy()
    rows[0, 0] = rows[1, 3] = np.nan
    torch.onnx.export(module, (torch.from_numpy(rows),), tmp_path / "m.onnx", dynamo=False, input_names=["x"])
    logits = ort.InferenceSession(tmp_path / "m.onnx").run(None, {"x": rows})[0]
    np.testing.assert_allclose(logits, module(torch.from_numpy(rows)).detach(), atol=1e-5)


@pytest.mark.parametrize(
    "breaks", [(5000, 1000), (0.0, 1000), (1000, 100_000), (2000, 2000), (-5,), (1000, 1000 + 1e-9)]
)
def test_breaks_that_do_not_rise_inside_the_range_are_refused(breaks) -> None:
    with pytest.raises(ConfigError, match=r"column income: breaks .* do not rise within"):
        Numeric("income", 0, 100_000, breaks=breaks)


def test_breaks_are_few() -> None:
    with pytest.raises(ConfigError, match="17 breaks, at most 16"):
        Numeric("income", 0, 100, breaks=tuple(range(1, 18)))


def test_a_schema_keeps_its_breaks_and_says_nothing_where_there_are_none() -> None:
    assert Schema.from_json(SCHEMA.to_json()) == SCHEMA
    assert [set(column) - {"name", "confirmed"} for column in SCHEMA.to_json()["columns"]][:2] == [
        {"low", "high", "breaks"},
        {"low", "high"},
    ]
