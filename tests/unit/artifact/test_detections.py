"""Boxes of an object detector: by hand, by onnxruntime's operator and in numpy, through a core, and refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedinfer.artifact import ModelTask, Wishes, import_model
from fedinfer.artifact.export.graph import OutputHead, finish, run
from fedinfer.artifact.imported.adapt import adapt, schema_of
from fedinfer.artifact.imported.declaration import Declaration, InputSpec, OutputSpec, Use
from fedinfer.artifact.imported.detections import Detections, detected, detections_from, detections_values, sizes_of
from fedinfer.artifact.imported.facts import read_facts
from fedinfer.artifact.imported.model_toml import from_toml, to_toml
from fedinfer.artifact.imported.outside import parse
from fedinfer.errors import ConfigError
from fedinfer.manifest import VALUE
from fedinfer.system import SystemClock, simulation_rng
from tests.unit.artifact import foreign_models as foreign

STEP = Detections("boxes", "scores", most=4, overlap=0.5, least=0.3)
K, CLASSES = 6, 2


def detector(first: bool, opset: int, batch: object = "n") -> bytes:
    """A row holds the boxes (6, 4), then the scores (6, 2) or (2, 6)."""
    shape = [CLASSES, K] if first else [K, CLASSES]
    return foreign.model_bytes(
        [
            ("Slice", ["x", "a", "b", "one"], ["left"]), ("Slice", ["x", "b", "c", "one"], ["right"]),
            ("Reshape", ["left", "box_shape"], ["boxes"]), ("Reshape", ["right", "score_shape"], ["scores"]),
        ],
        [("x", foreign.F, [batch, 36])],
        [("boxes", foreign.F, [batch, K, 4]), ("scores", foreign.F, [batch, *shape])],
        {
            "a": np.array([0]), "b": np.array([24]), "c": np.array([36]), "one": np.array([1]),
            "box_shape": np.array([-1, K, 4]), "score_shape": np.array([-1, *shape]),
        },
        opset,
    )  # fmt: skip


def declared(step: Detections, first: bool = False, one_row: bool = False) -> Declaration:
    shape = (CLASSES, K) if first else (K, CLASSES)
    return Declaration(
        "m", ModelTask.TENSORS, "label", (), one_row, False, "", (InputSpec("x", "float32", (36,), 0, 0.0, 100.0),),
        (
            OutputSpec("boxes", "float32", (K, 4), 0, Use.VALUE, 0.0, 100.0),
            OutputSpec("scores", "float32", shape, 0, Use.VALUE, 0.0, 1.0),
        ),
        detections=step,
    )  # fmt: skip


def test_the_surest_of_overlapping_boxes_of_a_class_stays_and_places_left_over_are_zero():
    boxes = np.array([[[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60], [0, 0, 4, 10]]], float)
    scores = np.array([[[0.9, 0.1], [0.8, 0.6], [0.2, 0.7], [0.5, 0.0]]])
    kept, told, classes = detected(STEP, boxes, scores)
    # the second box overlaps the first by 9/11 and goes for class 0, not for class 1; the fourth overlaps by 0.4
    assert told.tolist() == [[0.9, 0.7, 0.6, 0.5]]
    assert classes.tolist() == [[0, 1, 1, 0]]
    assert kept[0, :, 0].tolist() == [0, 50, 1, 0]
    few = detected(replace(STEP, least=0.65), boxes, scores)
    assert [part[0, 2:].tolist() for part in few[1:]] == [[0, 0], [0, 0]]
    wide = detected(replace(STEP, overlap=0.3), boxes, scores)
    assert wide[1].tolist() == [[0.9, 0.7, 0.6, 0]]


def test_of_equal_scores_the_first_class_and_then_the_first_box_comes_first():
    boxes = np.array(
        [[[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10], [80, 0, 90, 10], [0, 50, 9, 60]]]
    )
    scores = np.tile([0.5, 0.5], (1, K, 1))
    by_hand = detected(STEP, boxes.astype(float), scores)
    assert by_hand[0][0, :, 0].tolist() == [0, 20, 40, 60]
    assert by_hand[2].tolist() == [[0, 0, 0, 0]]
    found = declared(STEP)
    row = np.concatenate([boxes.reshape(1, -1), scores.reshape(1, -1)], axis=1).astype(np.float32)
    said = run(finish(adapt(parse(detector(False, 17)), found), OutputHead(schema_of(found), 1.0, "m", 1)), row, VALUE)
    np.testing.assert_allclose(said[0], np.concatenate([part.ravel() for part in by_hand]), atol=1e-4)


@pytest.mark.parametrize("form", ["corners", "centre"])
@pytest.mark.parametrize(("first", "opset", "one_row"), [(False, 11, False), (True, 17, False), (False, 18, True)])
def test_the_graph_answers_what_numpy_does(form, first, opset, one_row):
    step, rng = replace(STEP, form=form), simulation_rng("boxes", form, first, opset)
    found = declared(step, first, one_row)
    boxes = np.concatenate([rng.uniform(0, 30, (40, K, 2)), rng.uniform(30, 60, (40, K, 2))], axis=2)
    scores = rng.uniform(0, 1, (40, *found.outputs[1].shape)) ** 4  # some rows have fewer sure boxes than places
    rows = np.concatenate([boxes.reshape(40, -1), scores.reshape(40, -1)], axis=1).astype(np.float32)
    schema = schema_of(found)
    assert [(tensor.name, tensor.shape) for tensor in schema.answers] == [
        ("boxes", (4, 4)), ("scores", (4,)), ("classes", (4,)),
    ]  # fmt: skip
    core = adapt(parse(detector(first, opset, 1 if one_row else "n")), found)
    said = run(finish(core, OutputHead(schema, 1.0, "m", 1)), rows, VALUE)
    parts = detected(step, rows[:, :24].reshape(40, K, 4), rows[:, 24:].reshape(40, *scores.shape[1:]))
    np.testing.assert_allclose(said, np.concatenate([part.reshape(40, -1) for part in parts], axis=1), atol=1e-4)
    assert 0 < (parts[1] > 0).mean() < 1


def test_a_detector_is_imported_and_its_step_comes_back_from_model_toml():
    data = detector(False, 17)
    found = import_model(
        data, read_facts(parse(data)), "m", "label", Wishes(ranges={"x": (0, 1)}, detections=STEP), {}, SystemClock(),
        simulation_rng("m"),
    )  # fmt: skip
    assert found.parity < 1e-5
    assert found.declaration.task is ModelTask.TENSORS
    assert from_toml(to_toml(found.declaration), "model.toml").detections == STEP
    words = {name: str(value) for name, value in detections_values(STEP).items()}
    assert detections_from(words, "--detections") == STEP


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"most": 0}, "most 0 is 1 to 1000"), ({"overlap": 2}, "overlap 2 in"),
        ({"form": "polar"}, "form polar one of"),
        ({"scores": "boxes"}, "the same output boxes"), ({"least": "few"}, "overlap and least are numbers"),
        ({"colour": 1}, "detections has no 'colour'"), ({"overlap": 10**400}, "too large to convert"),
    ],
)  # fmt: skip
def test_a_step_that_cannot_be_is_refused(values, said):
    with pytest.raises(ConfigError, match=said):
        detections_from(detections_values(STEP) | values, "x")


def test_outputs_that_are_no_boxes_are_refused():
    with pytest.raises(ConfigError, match="detections lacks scores, most"):
        detections_from({"boxes": "b"}, "x")
    with pytest.raises(ConfigError, match="most 13 of 6 boxes of 2 classes"):
        schema_of(declared(replace(STEP, most=13)))
    with pytest.raises(ConfigError, match="4194304 boxes of 2 classes are more than 4194304 places"):
        sizes_of(STEP, (2**22, 4), (2, 2**22))
    with pytest.raises(ConfigError, match="there is no output gone"):
        schema_of(declared(replace(STEP, boxes="gone")))
    with pytest.raises(ConfigError, match=r"scores of shape \[6, 2\]") as caught:
        schema_of(declared(replace(STEP, boxes="scores", scores="boxes")))
    assert "(k, 4)" in caught.value.hint
    with pytest.raises(ConfigError, match="detections of a model with task scores"):
        schema_of(replace(declared(STEP), task=ModelTask.SCORES))
