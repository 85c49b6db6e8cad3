"""One decision threshold: chosen once, and the same in graph, manifest, Predictor and self-check."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score

from fedinfer.artifact.build import Built, build_from_core
from fedinfer.artifact.evaluate.judging import Judging
from fedinfer.artifact.evaluate.measure import Evidence
from fedinfer.artifact.export.graph import OutputHead, core_of, finish, load, run
from fedinfer.config import ArtifactSection
from fedinfer.errors import ArtifactRejected, GateFailed
from fedinfer.inference import Predictor, SessionCache
from fedinfer.inference.install.opening import open_variant
from fedinfer.inference.install.self_check import self_check
from fedinfer.manifest import Manifest
from fedinfer.metrics import EVEN, Metric
from fedinfer.system import FrozenClock
from tests.unit.artifact.workshop import PRIVACY, START, dense_core, evidence_for, vector_schema

SCHEMA = vector_schema(4, 2)
CLOCK = FrozenClock(START)
HEAD = OutputHead(SCHEMA, 1.0, "demo", 1)
LENIENT = ArtifactSection(min_agreement=0.0, max_metric_drop=1.0, max_calibration_gap=1.0)


def rare_evidence(rows: int = 1500, seed: int = 4) -> tuple[onnx.ModelProto, Evidence]:
    """A core, and rows of which about one in twelve is of class 1, more often where the core says so."""
    core = dense_core((4, 2), scale=1.5)
    bias = next(tensor for tensor in core.graph.initializer if tensor.name == "b0")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.array([0.0, -3.0], np.float32), "b0"))
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (rows, 4)).astype(np.float32)
    logits = run(core.SerializeToString(), x, "logits")
    likely = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    y = (rng.random(rows) < likely).astype(np.int64)
    half = rows // 2
    return core, Evidence(x[:half], y[:half], x[half : half + 128], x[half:], y[half:])


CORE, EVIDENCE = rare_evidence()


def built(judging: Judging, settings: ArtifactSection = LENIENT) -> Built:
    return build_from_core(CORE, HEAD, EVIDENCE, settings, CLOCK, judging=judging)


@pytest.mark.parametrize("threshold", [0.2, "public"])
def test_graph_manifest_and_predictor_decide_alike(threshold: float | str) -> None:
    made = built(Judging(Metric.AVERAGE_PRECISION, threshold))  # type: ignore[arg-type]  # a literal
    manifest = Manifest.from_bytes(made.manifest(PRIVACY, START.isoformat()).to_bytes())
    file = made.files[made.chosen.name]
    labels = list(run(file, EVIDENCE.held_x, "label"))
    answers = made.answers(EVIDENCE.held_x)[:, 1]
    assert manifest.threshold != EVEN
    assert labels == [SCHEMA.labels[int(p >= np.float32(manifest.threshold))] for p in answers]
    assert len(set(labels)) == 2
    signed, bare = open_variant(file, manifest, SessionCache(2)), Predictor.open(file)
    for predictor in (signed, bare):
        assert list(predictor.predict(EVIDENCE.held_x).labels) == labels
        assert [predictor.predict_one(row).label for row in EVIDENCE.held_x[:40]] == labels[:40]
    self_check(signed, manifest, manifest.chosen, CLOCK, 1e9)


def test_the_confidence_is_that_of_the_answer() -> None:
    made = built(Judging(Metric.F1, 0.1))
    predictor = Predictor.open(made.files[made.chosen.name])
    rows = predictor.predict(EVIDENCE.held_x)
    place = int(np.flatnonzero((rows.classes == 1) & (rows.probabilities[:, 1] < 0.4))[0])
    assert rows.confidences[place] == rows.probabilities[place, 1]
    assert predictor.predict_one(EVIDENCE.held_x[place]).confidence == pytest.approx(rows.confidences[place], abs=1e-6)


def test_a_chosen_threshold_finds_more_of_the_rare_class() -> None:
    even, chosen = built(Judging(Metric.AVERAGE_PRECISION)), built(Judging(Metric.AVERAGE_PRECISION, "public"))
    y = EVIDENCE.held_y
    before, after = (
        f1_score(y, made.answers(EVIDENCE.held_x)[:, 1] >= made.head.threshold, zero_division=0)
        for made in (even, chosen)
    )
    assert after > before


@pytest.mark.parametrize(
    ("metric", "known"),
    [
        (Metric.AVERAGE_PRECISION, lambda y, p, chosen: average_precision_score(y, p)),
        (Metric.BALANCED_ACCURACY, lambda y, p, chosen: balanced_accuracy_score(y, chosen)),
        (Metric.F1, lambda y, p, chosen: f1_score(y, chosen)),
    ],
)
def test_gates_judge_in_the_metric_that_was_asked_for(metric: Metric, known) -> None:
    made = built(Judging(metric, 0.2))
    p = made.answers(EVIDENCE.held_x)[:, 1]
    assert made.metric_kind == str(metric)
    assert made.chosen.metric == pytest.approx(known(EVIDENCE.held_y, p, p >= 0.2), abs=2e-3)
    assert made.to_json()["threshold"] == 0.2


def test_a_loss_that_rises_is_a_drop() -> None:
    made = built(Judging(Metric.LOG_LOSS))
    assert all(f.metric_drop == pytest.approx(f.metric - made.float_metric) for f in made.tried if f.bytes)
    assert made.loss_to(made.chosen.metric + 0.1) == pytest.approx(0.1)


def test_agreement_is_that_of_the_answers() -> None:
    strict = built(Judging(Metric.ACCURACY, 0.05))
    float_file = strict.files.get("float", strict.files[strict.chosen.name])
    of_float = run(float_file, EVIDENCE.held_x, "probabilities")[:, 1] >= 0.05
    of_chosen = strict.answers(EVIDENCE.held_x)[:, 1] >= 0.05
    assert strict.chosen.agreement == pytest.approx((of_float == of_chosen).mean(), abs=0.01)


def test_a_threshold_needs_public_rows_of_both_classes() -> None:
    without = replace(EVIDENCE, reference_x=EVIDENCE.reference_x[:0], reference_y=EVIDENCE.reference_y[:0])
    with pytest.raises(GateFailed, match="do not hold both classes"):
        build_from_core(CORE, HEAD, without, LENIENT, CLOCK, judging=Judging(Metric.F1, "public"))


def test_a_metric_that_is_not_defined_leaves_the_agreement() -> None:
    one_class = replace(EVIDENCE, held_y=np.zeros_like(EVIDENCE.held_y))
    made = build_from_core(CORE, HEAD, one_class, LENIENT, CLOCK, judging=Judging(Metric.AUC))
    assert made.metric_kind == "agreement"


def test_a_file_without_a_threshold_stays_as_it_was() -> None:
    data = finish(CORE, HEAD)
    assert b"threshold" not in data
    assert {node.op_type for node in load(data).graph.node} >= {"ArgMax"}
    decided = finish(CORE, replace(HEAD, threshold=0.2))
    assert core_of(load(decided)).SerializeToString() == core_of(load(data)).SerializeToString()


def test_an_older_manifest_answers_the_likeliest_class() -> None:
    document = json.loads(built(Judging()).manifest(PRIVACY, START.isoformat()).to_bytes())
    del document["threshold"]
    assert Manifest.from_json(document).threshold == EVEN


@pytest.mark.parametrize("threshold", [0.0, 1.0, -1.0, 1e9])
def test_a_threshold_outside_is_refused(threshold: float) -> None:
    document = json.loads(built(Judging()).manifest(PRIVACY, START.isoformat()).to_bytes())
    with pytest.raises(ArtifactRejected, match="threshold"):
        Manifest.from_json(document | {"threshold": threshold})


def test_a_threshold_of_three_classes_is_refused() -> None:
    core = dense_core((4, 3))
    head = OutputHead(vector_schema(4, 3), 1.0, "demo", 1)
    made = build_from_core(core, head, evidence_for(core, 4), LENIENT, CLOCK)
    with pytest.raises(ArtifactRejected, match="3 classes"):
        replace(made.manifest(PRIVACY, START.isoformat()), threshold=0.3).to_bytes()


@pytest.mark.parametrize("text", ["none", "0", "1", "nan", "7"])
def test_a_threshold_in_the_file_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    model = load(finish(CORE, replace(HEAD, threshold=0.2)))
    next(item for item in model.metadata_props if item.key == "threshold").value = text
    with pytest.raises(GateFailed, match="threshold"):
        Predictor.open(model.SerializeToString())


def test_log_odds_chosen_before_calibration_are_those_of_the_float_model() -> None:
    """Whatever the temperature is, the same rows are answered as by the uncalibrated log odds."""
    made = built(Judging(Metric.F1, log_odds=-1.5))
    logits = run(CORE.SerializeToString(), EVIDENCE.held_x, "logits")
    wanted = logits[:, 1] - logits[:, 0] >= -1.5
    said = run(made.files[made.chosen.name], EVIDENCE.held_x, "label") == HEAD.schema.labels[1]
    assert made.head.threshold != pytest.approx(1 / (1 + np.exp(1.5)), abs=1e-3)
    assert (said.ravel() == wanted).mean() > 0.99
    assert built(Judging(Metric.F1, log_odds=0.0)).head.threshold == EVEN
