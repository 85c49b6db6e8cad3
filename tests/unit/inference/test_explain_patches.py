"""Explanations of images and tensors: which values belong together, and what taking them away does to the answer."""

from __future__ import annotations

import numpy as np
import pytest

from fedinfer.artifact.export.graph import OutputHead, finish
from fedinfer.artifact.imported.adapt import adapt, schema_of
from fedinfer.artifact.imported.declaration import Declaration, InputSpec, ModelTask, OutputSpec, Use
from fedinfer.artifact.imported.outside import parse
from fedinfer.inference.predict import explain as module
from fedinfer.inference.predict.explain import explain
from fedinfer.inference.predict.patches import patches_of
from fedinfer.inference.predict.predictor import Predictor
from fedinfer.schema import Schema
from fedinfer.tensors import TensorSpec
from tests.unit.artifact import foreign_models as foreign

F = foreign.F


def schema(*inputs: TensorSpec, answers: tuple[TensorSpec, ...] = ()) -> Schema:
    return Schema((), "label", () if answers else ("a", "b"), inputs=inputs, answers=answers,
                  label_range=(0.0, 1.0) if answers else None)  # fmt: skip


@pytest.mark.parametrize(
    ("found", "count", "first", "size"),
    [
        (Schema((), "l", ("a", "b"), shape=(1, 8, 8), pixel_max=16), 49, "image[0:1,0:1]", 1),
        (schema(TensorSpec("x", "uint8", (14, 21, 3), 0, 255)), 49, "x[0:2,0:3]", 18),
        (schema(TensorSpec("x", "float32", (3, 14, 21), 0, 1)), 49, "x[0:2,0:3]", 18),
        (schema(TensorSpec("x", "uint8", (14, 21), 0, 255)), 49, "x[0:2,0:3]", 6),
        (schema(TensorSpec("x", "float32", (4, 5), 0, 1)), 5, "x[:,0:1]", 4),
        (schema(TensorSpec("x", "float32", (32,), 0, 1)), 16, "x[0:2]", 2),
        (schema(TensorSpec("x", "float32", (32,), 0, 1), TensorSpec("t", "int64", (), 0, 9)), 17, "x[0:2]", 2),
    ],
    ids=["built in", "channels last", "channels first", "grey", "series", "vector", "two inputs"],
)
def test_patches_part_a_row(found, count, first, size):
    patches = patches_of(found)
    assert (len(patches), patches[0].name, len(patches[0].places)) == (count, first, size)
    together = np.sort(np.concatenate([patch.places for patch in patches]))
    np.testing.assert_array_equal(together, np.arange(found.width))
    assert len({patch.name for patch in patches}) == count


def test_state_is_no_part_of_an_explanation():
    state = TensorSpec("hN", "float32", (4,), 0, 1, feeds="h")
    answers = (TensorSpec("p", "float32", (1,), 0, 1), state)
    found = schema(TensorSpec("x", "float32", (3,), 0, 1), TensorSpec("h", "float32", (4,), -1, 1), answers=answers)
    assert {patch.name for patch in patches_of(found)} == {"x[0:1]", "x[1:2]", "x[2:3]"}


def predictor(task: ModelTask, *, use: Use, shape: tuple[int, ...], weights: np.ndarray, labels: tuple[str, ...]):
    """A linear model of one tensor."""
    outputs = weights.shape[1]
    data = foreign.model_bytes(
        [("Flatten", ["x"], ["f"]), ("MatMul", ["f", "w"], ["y"])],
        [("x", F, ["n", *shape])], [("y", F, ["n", outputs])], {"w": weights.astype(np.float32)},
    )  # fmt: skip
    declared = Declaration(
        "m", task, "label", labels, False, False, "", (InputSpec("x", "float32", shape, 0, 0, 1),),
        (OutputSpec("y", "float32", (outputs,), 0, use, -4, 4),),
    )  # fmt: skip
    return Predictor.open(finish(adapt(parse(data), declared), OutputHead(schema_of(declared), 1.0, "m", 1)))


def test_the_patch_that_carries_the_class_is_found(monkeypatch):
    weights = np.zeros((3, 14, 14))
    weights[:, 4:6, 10:12] = 1  # one patch of the grid speaks for the second class
    found = predictor(
        ModelTask.CLASSIFICATION, use=Use.LOGITS, shape=(3, 14, 14), labels=("a", "b"),
        weights=np.stack([np.zeros(588), weights.ravel()], axis=1),
    )  # fmt: skip
    rows = np.stack([np.full(588, 0.5), np.full(588, 0.25)]).astype(np.float32)
    reasons = explain(found, rows, np.zeros(588, np.float32))
    np.testing.assert_array_equal(reasons.classes, [1, 1])
    name, value = reasons.strongest(0, 1)[0]
    assert name == "x[4:6,10:12]"
    assert value == pytest.approx(1 / (1 + np.exp(-6.0)) - 0.5, abs=1e-5)
    assert np.count_nonzero(np.abs(reasons.attributions[0]) > 1e-6) == 1
    monkeypatch.setattr(module, "MOST_VALUES", 588 * 5)
    np.testing.assert_allclose(explain(found, rows, np.zeros(588, np.float32)).attributions, reasons.attributions)


def test_of_scores_the_highest_is_explained_in_its_unit():
    weights = np.zeros((32, 2))
    weights[6, 0], weights[30, 1] = 1, 3
    found = predictor(ModelTask.SCORES, use=Use.VALUE, shape=(32, 1), weights=weights, labels=())
    reasons = explain(found, np.ones((1, 32), np.float32), np.zeros(32, np.float32))
    assert reasons.classes[0] == 1
    assert reasons.strongest(0, 1) == (("x[30:32]", pytest.approx(3.0, abs=1e-5)),)
