"""Additive models: hats against scikit-learn and numpy, terms that add up, shapes and their noise."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedinfer.config import ModelSection, ServerOptimizer, TrainingSection
from fedinfer.errors import ConfigError
from fedinfer.schema import Categorical, Numeric, Schema
from fedinfer.training import GradientEngine, OptimizerSettings, apply, init_optimizer, load_trainer
from fedinfer.training.models.additive import AdditivePrepare, TermSum, hats
from fedinfer.training.models.basis import bending
from fedinfer.training.models.shapes import weight_deviation
from tests.unit.training.factories import NUMBER, TABLE, rows

PAIRS = (("age", "sex"), ("age", "bp"))
SECTION = ModelSection(kind="additive", pairs=PAIRS)
KNOTS = st.integers(2, 20)


def trained(schema, section=SECTION, seed=1):
    trainer = load_trainer(section, schema, TrainingSection(), 1)
    return trainer, np.random.default_rng(seed).normal(0, 0.5, trainer.size).astype(np.float32)


@given(KNOTS, st.lists(st.floats(0, 1, width=32), min_size=1, max_size=10))
def test_hats_are_a_partition_of_unity_and_interpolate(knots, placed):
    at = torch.tensor(placed).reshape(-1, 1)
    found = hats(at, torch.zeros_like(at), knots)[:, 0]
    np.testing.assert_allclose(found.sum(dim=1), 1.0, atol=1e-5)
    assert bool((found >= 0).all())
    assert bool(((found > 0).sum(dim=1) <= 2).all())
    values = np.random.default_rng(knots).normal(size=knots)
    expected = np.interp(placed, np.linspace(0, 1, knots), values)
    np.testing.assert_allclose(found.numpy() @ values, expected, atol=1e-4)


@pytest.mark.parametrize("knots", [2, 3, 8, 17])
def test_hats_are_linear_b_splines(knots):
    """scikit-learn's splines of degree 1 on the same knots, constant outside."""
    from sklearn.preprocessing import SplineTransformer

    spline = SplineTransformer(n_knots=knots, degree=1, knots="uniform", extrapolation="constant")
    spline.fit(np.array([[20.0], [90.0]]))
    x = np.linspace(10, 110, 41)[:, None]
    schema = Schema((Numeric("age", 20, 90),), "y", ("a", "b"))
    placed, missing = AdditivePrepare(ModelSection(knots=knots), schema)._placed(torch.tensor(x, dtype=torch.float32))
    np.testing.assert_allclose(hats(placed, missing, knots)[:, 0], spline.transform(x), atol=1e-5)


@given(KNOTS)
def test_the_basis_is_every_function_on_the_knots_but_the_constant(knots):
    basis = bending(knots)
    np.testing.assert_allclose(basis[:, 0], np.linspace(-1, 1, knots), atol=1e-12)
    np.testing.assert_allclose(basis.sum(axis=0), 0.0, atol=1e-9)
    np.testing.assert_allclose(np.abs(basis).max(axis=0), 1 / np.arange(1, knots), atol=1e-9)
    gram = basis.T @ basis
    np.testing.assert_allclose(gram - np.diag(np.diag(gram)), 0.0, atol=1e-9)
    assert np.linalg.matrix_rank(np.column_stack([np.ones(knots), basis])) == knots


def test_with_one_coordinate_it_is_the_logistic_model():
    schema = Schema((Numeric("a", 0, 4), Numeric("b", -2, 2)), "y", ("n", "p"))
    x = np.random.default_rng(1).uniform(-3, 5, (30, 2)).astype(np.float32)
    plain = load_trainer(ModelSection(), schema, TrainingSection(), 1)
    bent = load_trainer(ModelSection(kind="additive", knots=5), schema, TrainingSection(), 1)
    head = np.array([[0.3, -0.7, 0, 0], [1.1, 0.2, 0, 0]], np.float32)  # a, b, their missing flags
    curve = np.zeros((2, 10), np.float32)
    curve[:, [0, 5]] = head[:, :2]
    bias = np.array([0.1, -0.4], np.float32)
    np.testing.assert_allclose(
        bent.predict(np.concatenate([curve.ravel(), bias]), x),
        plain.predict(np.concatenate([head.ravel(), bias]), x),
        atol=1e-6,
    )


@pytest.mark.parametrize("schema", [TABLE, NUMBER])
@pytest.mark.parametrize("pairs", [(), PAIRS])
def test_the_exported_form_adds_up_to_the_trained_one(schema, pairs):
    trainer, weights = trained(schema, ModelSection(kind="additive", pairs=pairs))
    x = torch.from_numpy(rows(schema, 60, 2)[0])
    model, flat = trainer.module(weights), trainer.module(weights, native=False)
    assert isinstance(model.core, TermSum)
    with torch.no_grad():
        added = model.core.contributions(model.prepare(x))
        torch.testing.assert_close(added.sum(0) + model.core.bias, flat(x), atol=1e-5, rtol=1e-4)
    assert added.shape == (len(trainer.terms), 60, schema.outputs)
    assert trainer.terms == (("age",), ("bp",), ("sex",), *pairs)


def test_a_column_moves_its_own_terms_only():
    trainer, weights = trained(TABLE)
    model = trainer.module(weights)
    x = torch.tensor([[30.0, 0.2, 1.0]])
    for place in range(3):
        other = x.clone()
        other[0, place] = [70.0, -0.4, 2.0][place]
        with torch.no_grad():
            moved = (model.core.contributions(model.prepare(x)) != model.core.contributions(model.prepare(other))).any(
                2
            )
        name = ("age", "bp", "sex")[place]
        assert moved[:, 0].tolist() == [name in term for term in trainer.terms]


def test_missing_numbers_have_a_level_and_no_curve():
    trainer, weights = trained(TABLE, ModelSection(kind="additive"))
    model, nan = trainer.module(weights), float("nan")
    with torch.no_grad():
        features = model.prepare(torch.tensor([[nan, nan, nan], [nan, 0.0, 99.0]]))
    assert features[0, :16].tolist() == [*[0.0] * 7, 1.0] * 2
    assert features[:, 16:].tolist() == [[0, 0, 0, 1.0], [0, 0, 0, 1.0]]


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ((("age", "weight"),), "no input column 'weight'"),
        ((("age", "age"),), "two different columns"),
        ((("age", "bp"), ("bp", "age")), "lists a pair twice"),
    ],
)
def test_pairs_of_nothing_are_refused(pairs, words):
    with pytest.raises(ConfigError, match=words):
        trained(TABLE, ModelSection(kind="additive", pairs=pairs))


def test_images_have_no_columns_to_draw():
    schema = Schema((), "digit", ("0", "1"), (1, 8, 8), 16.0)
    with pytest.raises(ConfigError, match="for tables"):
        trained(schema, ModelSection(kind="additive"))


def test_it_learns_a_wave_that_a_line_cannot():
    rng = np.random.default_rng(3)
    x = rng.uniform(0, 10, (800, 1)).astype(np.float32)
    schema = Schema((Numeric("hour", 0, 10),), "load", (), label_range=(-2.0, 2.0))
    y = np.sin(x[:, 0] * 1.2)
    scores = {}
    for kind in ("linear", "additive"):
        trainer = load_trainer(ModelSection(kind=kind), schema, TrainingSection(pretrain_epochs=60), 1)
        weights = trainer.pretrain(trainer.initial(), x, y, rng)
        scores[kind] = trainer.evaluate(weights, x, y)["r2"]
    assert scores["linear"] < 0.3
    assert scores["additive"] > 0.9


# --- shapes ---

PLAIN = OptimizerSettings(ServerOptimizer.FEDAVG, 0.5, 0.9)


@pytest.mark.parametrize("schema", [TABLE, NUMBER])
def test_the_drawn_curves_are_the_model(schema):
    """Curves interpolated by numpy, levels looked up, pairs on their grid, and one constant: that is the answer."""
    trainer, weights = trained(schema)
    shapes = trainer.shapes(weights, PLAIN, None, np.random.default_rng(0))
    rng = np.random.default_rng(5)
    x = np.column_stack([rng.uniform(-10, 120, 40), rng.uniform(-1, 1, 40), rng.integers(0, 3, 40)]).astype(np.float32)
    age, bp, sex, with_sex, with_bp = shapes
    total = sum(np.interp(x[:, at], s["at"], np.array(s["values"])[:, 0]) for at, s in ((0, age), (1, bp)))
    total = total + np.array(sex["values"])[x[:, 2].astype(int), 0]
    with torch.no_grad():
        outputs = trainer.module(weights)(torch.from_numpy(x)).double().numpy()
    known = outputs[:, 1] - outputs[:, 0] if schema is TABLE else 100.0 * outputs[:, 0]
    grid = np.array(with_sex["values"])[:, 0].reshape(4, 4)
    total = total + [np.interp(a, with_sex["at"][0], grid[:, int(s)]) for a, s in x[:, [0, 2]]]
    plane = np.array(with_bp["values"])[:, 0].reshape(4, 4)
    for row, (a, b) in enumerate(x[:, :2]):
        along = [np.interp(b, with_bp["at"][1], plane[k]) for k in range(4)]
        total[row] += np.interp(a, with_bp["at"][0], along)
    np.testing.assert_allclose(np.ptp(known - total), 0.0, atol=2e-3)
    assert all(shape["band"] is None for shape in shapes)


def test_the_band_is_the_spread_of_curves_that_learned_from_noise_alone():
    """Sixty models trained on nothing but the noise of the rounds, with the server's own optimizer."""
    trainer, _ = trained(NUMBER, ModelSection(kind="additive"))
    settings, deviations = OptimizerSettings(ServerOptimizer.FEDAVGM, 0.3, 0.8), [0.02] * 12
    rng = np.random.default_rng(7)
    curves = []
    for _ in range(60):
        weights, state = trainer.initial(), init_optimizer(settings, trainer.dimension)
        for deviation in deviations:
            noise = (deviation * rng.standard_normal(trainer.dimension)).astype(np.float32)
            state, weights = apply(state, weights, noise, settings)
        curves.append(np.array(trainer.shapes(weights, settings, None, rng)[0]["values"])[:, 0])
    band = trainer.shapes(trainer.initial(), settings, deviations, np.random.default_rng(1))[0]["band"]
    np.testing.assert_allclose(np.std(curves, axis=0).mean(), np.mean(band), rtol=0.15)


def test_without_noise_there_is_no_band_to_see():
    assert weight_deviation(PLAIN, [0.0] * 5, np.random.default_rng(0)) == 0.0
    assert weight_deviation(PLAIN, [0.1] * 9, np.random.default_rng(0)) == pytest.approx(0.5 * 0.1 * 3, rel=0.06)


def test_several_classes_get_a_curve_each():
    schema = Schema((Numeric("a", 0, 1), Categorical("b", ("x", "y"))), "c", ("p", "q", "r"))
    trainer, weights = trained(schema, ModelSection(kind="additive"))
    shape = trainer.shapes(weights, PLAIN, [0.1], np.random.default_rng(0))[0]
    assert np.array(shape["values"]).shape == (8, 3)
    np.testing.assert_allclose(np.array(shape["values"]).sum(axis=1), 0.0, atol=1e-6)


def test_other_kinds_have_no_shapes():
    trainer, weights = trained(TABLE, ModelSection())
    assert trainer.terms == ()
    assert trainer.shapes(weights, PLAIN, None, np.random.default_rng(0)) == ()
    assert trainer.engine(GradientEngine.BATCHED) is GradientEngine.BATCHED
