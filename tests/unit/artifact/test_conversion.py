"""Models of other Python libraries: every converter against what the library itself answers."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from fedinfer.artifact import ModelTask, Wishes, answers_of, convert, finish, imported_from, is_imported
from fedinfer.artifact.conversion.boosting import from_lightgbm, from_xgboost
from fedinfer.artifact.conversion.convert import compare, converter_of
from fedinfer.artifact.conversion.estimators import from_sklearn
from fedinfer.artifact.imported.facts import read_facts
from fedinfer.artifact.imported.outside import parse
from fedinfer.errors import ConfigError, DataError, GateFailed, MissingExtra
from fedinfer.schema import Categorical, Numeric
from fedinfer.system import SystemClock, simulation_rng

pytest.importorskip("skl2onnx")
linear_model = pytest.importorskip("sklearn.linear_model")
from sklearn import ensemble, naive_bayes, neighbors, neural_network, svm, tree  # noqa: E402
from sklearn.compose import ColumnTransformer  # noqa: E402
from sklearn.impute import SimpleImputer  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import OneHotEncoder, StandardScaler  # noqa: E402

RNG = simulation_rng("conversion")
X = RNG.normal(0, 1, (240, 4)).astype(np.float32).astype(np.float64)
SCORE = X @ [1.0, -2.0, 0.5, 0.0] + 0.3 * RNG.normal(size=240)
TWO, THREE = (SCORE > 0).astype(int), np.digitize(SCORE, [-1, 1])
NUMBER = 3 * SCORE + 1

CLASSIFIERS = [
    linear_model.LogisticRegression(), linear_model.SGDClassifier(loss="log_loss", random_state=0),
    linear_model.RidgeClassifier(), svm.LinearSVC(), svm.SVC(probability=True, random_state=0), svm.SVC(), svm.NuSVC(),
    naive_bayes.GaussianNB(), naive_bayes.BernoulliNB(), neighbors.KNeighborsClassifier(),
    neural_network.MLPClassifier((8,), max_iter=60, random_state=0), tree.DecisionTreeClassifier(max_depth=4),
    ensemble.RandomForestClassifier(8, random_state=0), ensemble.ExtraTreesClassifier(8, random_state=0),
    ensemble.GradientBoostingClassifier(n_estimators=8), ensemble.HistGradientBoostingClassifier(max_iter=8),
    ensemble.AdaBoostClassifier(n_estimators=8), make_pipeline(StandardScaler(), svm.SVC(probability=True)),
    make_pipeline(SimpleImputer(), StandardScaler(), linear_model.LogisticRegression()),
    make_pipeline(StandardScaler(), neighbors.KNeighborsClassifier(3)),
]  # fmt: skip
REGRESSORS = [
    linear_model.LinearRegression(), linear_model.Ridge(), linear_model.Lasso(), svm.SVR(), svm.LinearSVR(),
    neighbors.KNeighborsRegressor(), neural_network.MLPRegressor(hidden_layer_sizes=(8,), max_iter=60, random_state=0),
    tree.DecisionTreeRegressor(max_depth=4), ensemble.RandomForestRegressor(8, random_state=0),
    ensemble.GradientBoostingRegressor(n_estimators=8), ensemble.HistGradientBoostingRegressor(max_iter=8),
    make_pipeline(StandardScaler(), svm.SVR()),
]  # fmt: skip


def quietly(fitted, *data):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a handful of steps does not converge
        return fitted.fit(*data)


def name_of(model):
    return "+".join(type(step).__name__ for _, step in getattr(model, "steps", [("", model)]))


@pytest.mark.parametrize("labels", [TWO, THREE], ids=["two", "three"])
@pytest.mark.parametrize("model", CLASSIFIERS, ids=name_of)
def test_a_classifier_of_scikit_learn_answers_as_its_graph(model, labels):
    found = from_sklearn(quietly(model, X, labels), X)
    assert compare(found) < 1e-5
    read_facts(parse(found.data))
    assert found.wishes.labels == tuple(str(label) for label in sorted(set(labels)))
    if hasattr(model, "predict_proba"):
        np.testing.assert_array_equal(found.expected["probabilities"], model.predict_proba(X))
    else:
        np.testing.assert_array_equal(found.decided, model.predict(X))


@pytest.mark.parametrize("model", REGRESSORS, ids=name_of)
def test_a_regressor_of_scikit_learn_answers_as_its_graph(model):
    found = from_sklearn(quietly(model, X, NUMBER), X)
    assert compare(found) < 1e-5
    read_facts(parse(found.data))
    assert found.wishes.task is ModelTask.REGRESSION


def test_a_graph_that_answers_otherwise_is_refused():
    found = from_sklearn(linear_model.LogisticRegression().fit(X, THREE), X)
    expected = {name: np.roll(values, 1, axis=0) for name, values in found.expected.items()}
    with pytest.raises(GateFailed, match=r"agrees with the model on 0\.\d+ of 240 rows"):
        compare(replace(found, expected=expected))
    found = from_sklearn(svm.SVC().fit(X, TWO), X)
    with pytest.raises(GateFailed, match=r"agrees with the model on 0\.000"):
        compare(replace(found, decided=1 - found.decided))


HOLES = np.where(RNG.random(X.shape) < 0.1, np.nan, X)


@pytest.mark.parametrize("kind", ["histogram", "imputer", "xgboost", "lightgbm"])
def test_a_model_that_knows_missing_numbers_answers_them_on_a_device_too(kind):
    if kind in ("xgboost", "lightgbm"):
        _, model, convert_one = boosted(kind, "Classifier", TWO, HOLES)
    else:
        made = make_pipeline(SimpleImputer(), linear_model.LogisticRegression())
        model = (made if kind == "imputer" else ensemble.HistGradientBoostingClassifier(max_iter=8)).fit(HOLES, TWO)
        convert_one = from_sklearn
    found = convert_one(model, HOLES)
    assert compare(found) < 1e-5
    assert found.wishes.missing
    assert not convert_one(model, X).wishes.missing
    if kind == "imputer":
        imported = imported_from(model, HOLES, "m", "label", Wishes(), SystemClock(), simulation_rng("m"))
        assert not imported.schema.complete


def test_names_of_classes_and_columns_come_from_the_model(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=["age", "bmi", "pulse", "sugar"])
    model = linear_model.LogisticRegression().fit(frame, np.array(["well", "ill"])[TWO])
    imported = convert(model, frame, tmp_path / "m", name="ward")
    assert is_imported(tmp_path / "m")
    assert imported.declaration.labels == ("ill", "well")
    assert [column.name for column in imported.schema.columns] == ["age", "bmi", "pulse", "sugar"]
    file = finish(imported.core, imported.head(1))
    said = answers_of(file, X.astype(np.float32), imported.schema)
    np.testing.assert_allclose(said, model.predict_proba(frame), atol=1e-5)
    with pytest.raises(DataError, match="example rows have the columns"):
        from_sklearn(model, frame[["bmi", "age", "pulse", "sugar"]])


def test_a_pipeline_with_texts_gets_an_input_per_column_and_its_categories():
    pandas = pytest.importorskip("pandas")
    wards = np.array(["north", "south", "west"])[RNG.integers(0, 3, 240)]
    frame = pandas.DataFrame({"ward": wards, "age": X[:, 0], "bmi": X[:, 1]})
    steps = ColumnTransformer(
        [("text", OneHotEncoder(handle_unknown="ignore"), ["ward"]), ("number", StandardScaler(), ["age", "bmi"])]
    )
    model = make_pipeline(steps, linear_model.LogisticRegression()).fit(frame, (wards == "south") ^ (X[:, 0] > 0))
    imported = imported_from(model, frame, "m", "label", Wishes(), SystemClock(), simulation_rng("m"))
    ward, age, _ = imported.schema.columns
    assert ward == Categorical("ward", ("north", "south", "west"))
    assert age == Numeric("age", float(np.float32(X[:, 0].min())), float(np.float32(X[:, 0].max())))
    rows = np.stack([np.searchsorted(ward.categories, wards), X[:, 0], X[:, 1]], axis=1).astype(np.float32)
    said = answers_of(finish(imported.core, imported.head(1)), rows, imported.schema)
    np.testing.assert_allclose(said, model.predict_proba(frame), atol=1e-5)
    frame.loc[3, "ward"] = None
    with pytest.raises(DataError, match="column ward: a text is missing"):
        from_sklearn(model, frame)
    with pytest.raises(DataError, match="takes columns by name"):
        from_sklearn(model, X)


@pytest.mark.parametrize(
    ("model", "rows", "said"),
    [
        (linear_model.LogisticRegression(), X, "LogisticRegression cannot be converted|not fitted"),
        (linear_model.LogisticRegression().fit(X, TWO), X[:3], "8 rows of numbers at least"),
        (linear_model.LogisticRegression().fit(X, TWO), np.full((9, 4), "a"), "this model takes|example rows"),
        (linear_model.LogisticRegression().fit(X, TWO), X[:, :3], "features"),
        (ensemble.StackingClassifier([("a", svm.SVC())]), X, "cannot be converted"),
    ],
    ids=["not fitted", "few", "text", "narrow", "no converter"],
)
def test_what_cannot_be_converted_is_one_line(model, rows, said):
    with pytest.raises(ConfigError, match=said) as caught:
        from_sklearn(model, rows)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("labels", [TWO, THREE], ids=["two", "three"])
@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_boosted_classes_answer_as_their_graph(tmp_path, library, labels):
    module, model, convert_one = boosted(library, "Classifier", labels)
    found = convert_one(model, X)
    assert compare(found) < 1e-5
    np.testing.assert_allclose(next(iter(found.expected.values())), model.predict_proba(X), atol=1e-6)
    path = tmp_path / ("m.json" if library == "xgboost" else "m.txt")
    getattr(model, "booster_", model).save_model(path)
    again = convert_one(module.Booster(model_file=str(path)), X)
    assert again.wishes.labels == found.wishes.labels
    assert compare(again) < 1e-5


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_boosted_numbers_answer_as_their_graph_and_keep_their_columns(library):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=["age", "bmi", "pulse", "sugar"])
    _, model, convert_one = boosted(library, "Regressor", NUMBER, frame)
    found = convert_one(model, frame)
    assert compare(found) < 1e-5
    assert found.wishes.columns == ("age", "bmi", "pulse", "sugar")
    wishes = Wishes(ranges={next(iter(found.expected)): (-20, 20)})
    imported = imported_from(model, frame, "m", "label", wishes, SystemClock(), simulation_rng("m"))
    said = answers_of(finish(imported.core, imported.head(1)), X.astype(np.float32), imported.schema)
    np.testing.assert_allclose(said[:, 0], model.predict(frame), atol=1e-3)


@pytest.mark.parametrize("kind", ["lightgbm", "xgboost", "forest", "histogram", "histogram in a pipeline"])
def test_a_value_at_a_threshold_goes_the_same_way_in_float32(kind):
    tenths = np.tile(np.arange(200.0) / 10, 4).astype(np.float32).astype(np.float64)[:, None]
    number = np.sin(3 * tenths[:, 0])
    between = (np.arange(199.0) / 10 + 0.05).astype(np.float32).astype(np.float64)[:, None]  # where thresholds are
    if kind in ("lightgbm", "xgboost"):
        _, model, convert_one = boosted(kind, "Regressor", number, tenths)
    else:
        histogram = ensemble.HistGradientBoostingRegressor(max_iter=20)
        made = {"forest": ensemble.RandomForestRegressor(5), "histogram": histogram}
        model = made.get(kind, make_pipeline(SimpleImputer(), histogram)).fit(tenths, number)
        convert_one = from_sklearn
    assert compare(convert_one(model, between)) < 1e-5


def boosted(library, kind, labels, rows=X):
    module = pytest.importorskip(library)
    if library == "xgboost":
        return (
            module,
            getattr(module, f"XGB{kind}")(n_estimators=8, max_depth=3, nthread=1).fit(rows, labels),
            from_xgboost,
        )
    made = getattr(module, f"LGBM{kind}")(n_estimators=8, n_jobs=1, verbose=-1)
    return module, made.fit(rows, labels), from_lightgbm


@pytest.mark.parametrize(("package", "extra"), [("skl2onnx", "sklearn"), ("onnxmltools", "boosting")])
def test_a_package_that_is_absent_is_named_with_its_extra(monkeypatch, package, extra):
    model = linear_model.LogisticRegression().fit(X, TWO)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=package) as caught:
        (from_sklearn if extra == "sklearn" else from_lightgbm)(model, X)
    assert f"fedinfer[{extra}]" in caught.value.hint


def test_an_object_that_is_no_model_is_refused():
    with pytest.raises(ConfigError, match=r"builtins\.dict is no model that is converted"):
        converter_of({})
