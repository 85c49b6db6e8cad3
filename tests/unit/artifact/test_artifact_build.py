"""Building: the first good recipe is chosen, bad ones are passed over with reasons, what is published is checked."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from fedinfer.artifact.build import build_from_core
from fedinfer.artifact.evaluate import measure
from fedinfer.artifact.evaluate import self_check_rows as selfcheck
from fedinfer.artifact.evaluate.measure import Evidence
from fedinfer.artifact.evaluate.metrics import calibration_error, softmax
from fedinfer.artifact.export.graph import OutputHead, run
from fedinfer.config import ArtifactSection
from fedinfer.errors import DataError, GateFailed
from fedinfer.manifest import Manifest
from fedinfer.system import FrozenClock, SystemClock, simulation_rng
from fedinfer.types import GraphFamily
from tests.unit.artifact.workshop import PRIVACY, START, dense_core, evidence_for, vector_schema

SCHEMA = vector_schema(12, 5)
ENDING = OutputHead(SCHEMA, 1.0, "demo", 7)
CORE = dense_core((12, 64, 64, 5), scale=2.0)
EVIDENCE = evidence_for(CORE, 12)
CLOCK = FrozenClock(START)


def build(settings: ArtifactSection, core=CORE, evidence=EVIDENCE):
    return build_from_core(core, ENDING, evidence, settings, CLOCK)


@pytest.fixture(scope="module")
def built():
    return build(ArtifactSection())


def test_int8_is_chosen_when_it_passes(built):
    assert built.family is GraphFamily.DENSE
    assert built.chosen.name == "int8"
    assert [variant.name for variant in built.variants] == ["int8", "fp16", "float"]
    assert built.chosen.bytes < built.float_bytes
    assert built.chosen.agreement >= 0.95
    assert built.tried[0].recipe == "float"
    assert [figures.passed for figures in built.tried] == [True] * 3


def test_figures_are_those_of_the_published_bytes(built):
    for variant in built.variants:
        file = built.files[variant.name]
        assert hashlib.sha256(file).hexdigest() == variant.sha256
        p = run(file, EVIDENCE.held_x, "probabilities")
        assert variant.metric == pytest.approx((p.argmax(axis=1) == EVIDENCE.held_y).mean())
        np.testing.assert_allclose(run(file, built.check, "probabilities"), variant.probabilities, atol=1e-6)
        assert tuple(run(file, built.check, "probabilities").argmax(axis=1)) == variant.labels


def test_check_rows_are_calibration_rows_never_held_out_ones(built):
    calibration = {row.tobytes() for row in EVIDENCE.calibration_x}
    held = {row.tobytes() for row in EVIDENCE.held_x}
    assert {row.tobytes() for row in built.check} <= calibration
    assert held.isdisjoint(row.tobytes() for row in built.check)


def test_manifest_describes_what_was_built(built):
    manifest = built.manifest(PRIVACY, START.isoformat(), "a" * 64)
    again = Manifest.from_bytes(manifest.to_bytes())
    assert again.variants == built.variants
    assert again.version == 7
    assert again.reference.rows == len(EVIDENCE.reference_x)
    assert sum(again.reference.classes) == pytest.approx(1.0)
    assert set(built.targets()) == {"model/7.onnx", "model/7.fp16.onnx", "model/7.float.onnx"}
    figures = built.to_json()
    assert figures["quantized_bytes"] == built.chosen.bytes
    assert figures["recipe"] == built.chosen.recipe
    assert len(figures["tried"]) == 3


def test_same_input_gives_the_same_bytes(built):
    again = build(ArtifactSection())
    assert again.files == built.files
    assert again.manifest(PRIVACY, "now").to_bytes() == built.manifest(PRIVACY, "now").to_bytes()


def test_float_alone_when_the_scenario_asks_for_it():
    built = build(ArtifactSection(quantization="float"))
    assert [variant.name for variant in built.variants] == ["float"]
    assert built.variants[0].path == "model/7.onnx"


def collapsing_core() -> onnx.ModelProto:
    """One huge activation beside tiny ones that decide: every integer activation loses the answer."""
    rng = np.random.default_rng(3)
    first = np.concatenate([1e4 * np.eye(1, 12), rng.normal(0, 0.05, (16, 12))]).astype(np.float32)
    second = np.concatenate([np.zeros((5, 1)), rng.normal(0, 1, (5, 16))], axis=1).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["input", "a"], ["h"], name="first"),
        helper.make_node("MatMul", ["h", "b"], ["logits"], name="second"),
    ]
    weights = [numpy_helper.from_array(np.ascontiguousarray(w.T), n) for w, n in ((first, "a"), (second, "b"))]
    graph = helper.make_graph(
        nodes, "collapsing",
        [helper.make_tensor_value_info("input", 1, ["batch", 12])],
        [helper.make_tensor_value_info("logits", 1, ["batch", 5])], weights,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_int8_collapse_is_passed_over_with_its_reasons():
    core = collapsing_core()
    built = build(ArtifactSection(), core, evidence_for(core, 12))
    failed = {figures.recipe: figures.failures for figures in built.tried if not figures.passed}
    assert {"static-qdq-s8s8", "static-qdq-u8u8", "dynamic-s8"} <= set(failed)
    assert all(any("agreement" in reason for reason in reasons) for reasons in list(failed.values())[:2])
    assert built.chosen.recipe == "int8-weights"
    assert built.chosen.agreement > 0.95


def test_fp16_then_float_when_no_int8_passes(monkeypatch):
    settings = ArtifactSection(min_agreement=1.0, max_metric_drop=0.0)
    core = collapsing_core()
    evidence = evidence_for(core, 12, rows=2000)
    built = build(settings, core, evidence)
    assert built.chosen.name in ("fp16", "float")
    assert not any(figures.passed for figures in built.tried if figures.variant == "int8")


def test_float_over_its_limits_is_refused_with_all_figures():
    with pytest.raises(GateFailed, match=r"no variant passes: float: bytes \d+, limit 10; static"):
        build(ArtifactSection(max_bytes=10))


def test_tiny_models_are_reported_honestly():
    """Five weights: int8 costs more bytes than it saves; the figures say so."""
    core = dense_core((12, 2))
    head = replace(ENDING, schema=vector_schema(12, 2))
    built = build_from_core(core, head, evidence_for(core, 12), ArtifactSection(), CLOCK)
    assert built.chosen.name == "int8"
    assert built.chosen.bytes > built.float_bytes
    passed = [figures.bytes for figures in built.tried if figures.passed and figures.variant == "int8"]
    assert built.chosen.bytes == min(passed)


def test_without_labels_the_float_model_is_the_yardstick():
    evidence = replace(EVIDENCE, held_x=EVIDENCE.held_x[:0], held_y=EVIDENCE.held_y[:0])
    built = build(ArtifactSection(), evidence=evidence)
    assert built.metric_kind == "agreement"
    assert built.float_metric == 1.0
    assert built.tried[0].temperature == pytest.approx(1.0, abs=1e-3)
    assert built.chosen.metric == built.chosen.agreement


@pytest.mark.parametrize(("right_first", "expected"), [(True, 1.0), (False, 0.8)])
def test_calibration_is_judged_on_rows_that_the_temperature_never_saw(right_first, expected):
    """Every second label agrees with the model, the others never: the temperature follows one half, the error shows
    the other. Fitted to right answers it is sure (confidence 1) and always wrong; fitted to wrong ones it is unsure
    (confidence 1/5) and always right. Judged on the rows of the fit, both would look well calibrated."""
    answers = run(CORE.SerializeToString(), EVIDENCE.held_x, "logits").argmax(axis=1)
    agrees = (np.arange(len(answers)) % 2 == 0) == right_first
    labels = np.where(agrees, answers, (answers + 1) % 5).astype(np.int64)
    loose = ArtifactSection(quantization="float", max_calibration_gap=1.0)
    built = build(loose, evidence=replace(EVIDENCE, held_y=labels))
    assert built.tried[0].calibration_error == pytest.approx(expected, abs=0.1)


def test_few_labels_are_used_for_the_metric_but_not_for_the_temperature():
    evidence = replace(EVIDENCE, held_x=EVIDENCE.held_x[:19], held_y=EVIDENCE.held_y[:19])
    built = build(ArtifactSection(), evidence=evidence)
    assert built.metric_kind == "accuracy"
    assert built.tried[0].temperature == pytest.approx(1.0, abs=1e-3)


def test_temperature_makes_an_overconfident_model_honest():
    """Labels drawn from the model's own probabilities at temperature 3: it is told to be less sure, by that much."""
    rng = simulation_rng("overconfident")
    core = dense_core((12, 64, 64, 5), scale=3.0)
    x = rng.uniform(-1, 1, (4000, 12)).astype(np.float32)
    p = softmax(run(core.SerializeToString(), x, "logits"), 3.0)
    y = (rng.random((4000, 1)) > p.cumsum(axis=1)).sum(axis=1)
    built = build(ArtifactSection(min_agreement=0.9), core, replace(EVIDENCE, held_x=x, held_y=y))
    for figures in built.tried:
        assert figures.temperature == pytest.approx(3.0, rel=0.1)
        assert figures.calibration_error < 0.03
    raw = softmax(run(core.SerializeToString(), x, "logits"))
    assert calibration_error(raw, y) > 0.05


def test_latency_is_measured_with_a_real_clock():
    assert build_from_core(CORE, ENDING, EVIDENCE, ArtifactSection(), SystemClock()).chosen.latency_us > 0


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"held_x": EVIDENCE.held_x.astype(np.float64)}, "held_x: float64"),
        ({"held_x": EVIDENCE.held_x[:, :3]}, r"expected float32 \(n, 12\)"),
        ({"held_y": EVIDENCE.held_y[:-1]}, "400 held-out rows, labels"),
        ({"held_y": EVIDENCE.held_y + 5}, "outside"),
        ({"calibration_x": EVIDENCE.calibration_x[:1]}, "1 calibration rows"),
        ({"reference_x": EVIDENCE.reference_x[0]}, "reference_x"),
    ],
)
def test_wrong_rows_are_named(change, rule):
    with pytest.raises(DataError, match=rule):
        build(ArtifactSection(), evidence=replace(EVIDENCE, **change))


def test_logits_that_are_not_finite_stop_the_build():
    core = onnx.ModelProto()
    core.CopyFrom(CORE)
    bias = next(t for t in core.graph.initializer if t.name == "b2")
    bias.CopyFrom(numpy_helper.from_array(np.full(5, np.nan, np.float32), "b2"))
    with pytest.raises(GateFailed, match="not finite"):
        build(ArtifactSection(), core)


def test_a_file_that_changed_after_it_was_measured_is_refused(built):
    variant, file = built.chosen, built.files[built.chosen.name]
    with pytest.raises(GateFailed, match="changed after it was measured"):
        selfcheck.check_finished(variant, file + b"\0", built.check, SCHEMA, "abstain")
    wrong = replace(variant, labels=tuple((label + 1) % 5 for label in variant.labels))
    with pytest.raises(GateFailed, match="row 0 says"):
        selfcheck.check_finished(wrong, file, built.check, SCHEMA, "abstain")


def test_abstention_and_top_survive_the_build():
    head = replace(ENDING, abstain_below=0.6, abstain_label="unsure", top=2)
    built = build_from_core(CORE, head, EVIDENCE, ArtifactSection(), CLOCK)
    labels = list(run(built.files["int8"], EVIDENCE.held_x, "label"))
    best = run(built.files["int8"], EVIDENCE.held_x, "probabilities").max(axis=1)
    assert [label == "unsure" for label in labels] == list(best < np.float32(0.6))
    manifest = built.manifest(PRIVACY, START.isoformat())
    assert (manifest.abstain_below, manifest.abstain_label, manifest.top) == (0.6, "unsure", 2)


def test_evidence_without_held_out_rows_is_judged_on_calibration_rows():
    empty = Evidence(EVIDENCE.held_x[:0], EVIDENCE.held_y[:0], EVIDENCE.calibration_x, EVIDENCE.held_x[:0])
    assert empty.judged_x is EVIDENCE.calibration_x
    assert not empty.labelled
    assert measure.Evidence is Evidence
