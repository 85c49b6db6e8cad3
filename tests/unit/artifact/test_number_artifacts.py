"""Files whose answer is a number, and files whose answer is a sum of terms: built, gated, signed, read on a device."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedinfer.artifact.build import Built, build_artifact
from fedinfer.artifact.evaluate import numbers
from fedinfer.artifact.evaluate.measure import Evidence
from fedinfer.artifact.export.graph import OutputHead, core_of, finish, head_of, load
from fedinfer.artifact.export.torch import Templates, export_core
from fedinfer.artifact.quantize.quantize import prepare
from fedinfer.artifact.quantize.schemes import family_of
from fedinfer.config import ArtifactSection, ModelSection, TrainingSection
from fedinfer.errors import ArtifactRejected, ConfigError, DataError, GateFailed
from fedinfer.inference.install.opening import open_variant
from fedinfer.inference.install.self_check import confined_check, self_check
from fedinfer.inference.predict.explain import explain, reference_row
from fedinfer.inference.predict.predictor import Predictor
from fedinfer.inference.predict.session import SessionCache
from fedinfer.inference.serve.descriptions import model_metadata
from fedinfer.inference.serve.protocol_v2 import read_request, reply
from fedinfer.manifest import Manifest
from fedinfer.system import FrozenClock, SystemClock, simulation_rng
from fedinfer.training import load_trainer
from fedinfer.types import GraphFamily
from tests.unit.artifact.workshop import PRIVACY, START
from tests.unit.training import factories
from tests.unit.training.factories import NUMBER, TABLE

CLOCK = FrozenClock(START)
PAIRS = (("age", "sex"),)
CASES = {"linear": NUMBER, "mlp": NUMBER, "additive": NUMBER, "glass": TABLE}


def rows(schema, count: int, seed: int):
    """Rows as a device takes them: an unseen category is missing."""
    x, y = factories.rows(schema, count, seed)
    x[(x[:, 2] < 0) | (x[:, 2] > 2), 2] = np.nan
    return x, y


def trainer_of(case: str):
    kind = "additive" if case == "glass" else case
    pairs = PAIRS if kind == "additive" else ()
    return load_trainer(ModelSection(kind=kind, hidden=(16,), pairs=pairs), CASES[case], TrainingSection(), 1)


@cache
def build_of(case: str, quantization: str = "int8", labelled: bool = True) -> Built:
    schema, trainer = CASES[case], trainer_of(case)
    rng = np.random.default_rng(3)
    weights = trainer.initial() + rng.normal(0, 0.4, trainer.size).astype(np.float32)
    held_x, held_y = rows(schema, 300, 5)
    if schema is NUMBER:
        held_y = trainer.predict(weights, held_x)[:, 0].astype(np.float64) + rng.normal(0, 6.0, 300)
    public_x, _ = rows(schema, 200, 6)
    public_y = trainer.predict(weights, public_x)[:, 0] + rng.normal(0, 6.0, 200)
    evidence = Evidence(held_x, held_y, public_x, public_x, public_y if labelled and schema is NUMBER else np.empty(0))
    head = OutputHead(schema, 1.0, "demo", 4, terms=trainer.terms)
    limits = ArtifactSection(quantization=quantization)
    return build_artifact(trainer.module(weights), head, evidence, limits, Templates(), CLOCK)


@pytest.fixture(scope="module", params=list(CASES))
def case(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def built(case: str) -> Built:
    return build_of(case)


def opened(built: Built) -> tuple[Predictor, Manifest]:
    manifest = Manifest.from_bytes(built.manifest(PRIVACY, START.isoformat()).to_bytes())
    return open_variant(built.files[manifest.chosen.name], manifest, SessionCache(2)), manifest


def test_the_manifest_says_what_is_answered(built: Built, case: str) -> None:
    manifest = opened(built)[1]
    if CASES[case] is TABLE:
        assert manifest.kind == "classification"
        assert "kind" not in manifest.to_json()
        assert "values" not in manifest.to_json()["variants"][0]
        return
    assert manifest.kind == manifest.to_json()["kind"] == "regression"
    assert (manifest.labels, manifest.chosen.labels, manifest.chosen.probabilities) == ((), (), ())
    assert manifest.schema.label_range == (100.0, 300.0)
    assert len(manifest.chosen.values) == len(manifest.check_rows)
    assert built.metric_kind == "rmse"
    assert 4.0 < manifest.float_metric < 9.0, "noise of 6 kW was put on the labels"
    assert manifest.reference.edges[0] == 100.0
    assert manifest.reference.edges[-1] == 300.0
    assert sum(manifest.reference.confidence) == pytest.approx(1.0)


def test_a_device_checks_and_answers_as_the_server_did(built: Built, case: str) -> None:
    predictor, manifest = opened(built)
    found = self_check(predictor, manifest, manifest.chosen, CLOCK, 1e6)
    assert found.largest_difference <= manifest.chosen.tolerance
    confined_check(built.files[manifest.chosen.name], manifest, manifest.chosen, SystemClock())
    x, _ = rows(CASES[case], 50, 8)
    answers = predictor.predict(x)
    alone = [predictor.predict_one(row) for row in x]
    np.testing.assert_allclose(np.stack([each.raw for each in alone]), answers.raw, rtol=1e-4, atol=1e-5)
    if CASES[case] is NUMBER:
        assert 100.0 <= answers.values.min() <= answers.values.max() <= 300.0
        assert alone[0].value == pytest.approx(float(answers.labels[0]), rel=1e-4)
        with pytest.raises(DataError, match=r"a number, not classes"):
            _ = answers.probabilities
    else:
        with pytest.raises(DataError, match="classes, not a number"):
            _ = answers.values


def test_int8_is_judged_in_the_labels_unit(built: Built, case: str) -> None:
    for figures in built.tried:
        if CASES[case] is NUMBER and figures.bytes:
            drop = (figures.metric - built.float_metric) / 200.0
            assert figures.metric_drop == pytest.approx(drop, abs=1e-9)
            assert figures.temperature == 1.0
    assert built.chosen.agreement >= 0.95


def test_a_file_that_is_off_by_more_than_the_limit_is_refused() -> None:
    evidence = Evidence(*rows(NUMBER, 60, 1), rows(NUMBER, 60, 2)[0], rows(NUMBER, 1, 2)[0])
    trainer = trainer_of("linear")
    head = OutputHead(NUMBER, 1.0, "demo", 1)
    strict = ArtifactSection(max_bytes=1)
    with pytest.raises(GateFailed, match="no variant passes"):
        build_artifact(trainer.module(trainer.initial()), head, evidence, strict, Templates(), CLOCK)
    with pytest.raises(DataError, match="label is not finite"):
        replace(evidence, held_y=np.full(60, np.nan)).check(NUMBER)


def test_the_interval_covers_new_rows(built: Built, case: str) -> None:
    """Residuals are N(0, 6): nine in ten lie within 9.9."""
    if CASES[case] is TABLE:
        assert built.interval == 0.0
        return
    predictor, manifest = opened(built)
    assert 8.0 < manifest.interval < 12.5
    low, high = predictor.predict(rows(NUMBER, 30, 9)[0]).intervals.T
    assert ((100.0 <= low) & (low < high) & (high <= 300.0)).all()


def test_without_public_labels_the_interval_is_the_whole_range() -> None:
    built = build_of("linear", labelled=False)
    predictor, manifest = opened(built)
    assert manifest.interval == 0.0
    assert (predictor.predict(rows(NUMBER, 3, 9)[0]).intervals == [100.0, 300.0]).all()


@given(st.integers(20, 300), st.integers(0, 50))
@settings(max_examples=20, deadline=None)
def test_split_conformal_coverage(count: int, seed: int) -> None:
    """On exchangeable rows the interval covers at least 90 %, on average over draws."""
    rng = np.random.default_rng((count, seed))
    covered = []
    for _ in range(60):
        residuals = rng.standard_cauchy(count + 40)
        half = numbers.interval_of(np.zeros(count), residuals[:count], NUMBER)
        covered.append((np.abs(residuals[count:]) <= half).mean())
    assert np.mean(covered) > 0.87


def test_contributions_add_up_to_the_answer(built: Built, case: str) -> None:
    predictor, _ = opened(built)
    x, _ = rows(CASES[case], 40, 11)
    if not predictor.terms:
        with pytest.raises(DataError, match="no sum of terms"):
            predictor.contributions(x)
        return
    parts = predictor.contributions(x).astype(np.float64)
    total, answers = parts.sum(axis=1), predictor.predict(x)
    assert parts.shape == (40, 5, CASES[case].outputs)
    if CASES[case] is NUMBER:
        np.testing.assert_allclose(total[:, 0].clip(100, 300), answers.values, rtol=1e-4)
    else:
        share = np.exp(total - total.max(axis=1, keepdims=True))
        np.testing.assert_allclose(share / share.sum(axis=1, keepdims=True), answers.raw, atol=1e-5)


def test_the_explanation_is_exact_and_needs_one_run(built: Built, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor, manifest = opened(built)
    x, _ = rows(CASES[case], 20, 12)
    if not predictor.terms:
        changes = explain(predictor, x, reference_row(manifest))
        assert changes.intercepts is None
        assert np.abs(changes.attributions).max() <= 200.0
        return
    answers = predictor.predict(x)
    monkeypatch.setattr(Predictor, "predict_matrix", None)  # occlusion would ask it
    reasons = explain(predictor, x, reference_row(manifest))
    total = reasons.attributions.sum(axis=1) + reasons.intercepts
    assert reasons.columns == ("age", "bp", "sex", "age x sex")
    if CASES[case] is NUMBER:
        np.testing.assert_allclose(total.clip(100, 300), answers.values, rtol=1e-4)
    else:
        odds = np.log(answers.raw.max(axis=1) / answers.raw.min(axis=1))
        np.testing.assert_allclose(total, odds, atol=1e-3)


def test_the_graph_stays_small_and_gathers_nothing_but_columns(built: Built, case: str) -> None:
    model = load(built.files["float"])
    assert len(built.files["float"]) < 16_000
    if case in ("additive", "glass"):
        assert built.family is GraphFamily.ADDITIVE
        assert {figures.recipe for figures in built.tried} == {"float", "int8-weights", "fp16-weights"}
        assert "GatherElements" not in {node.op_type for node in model.graph.node}
        assert head_of(model).terms == (("age",), ("bp",), ("sex",), ("age", "sex"))
    core = core_of(model)
    again = finish(core, replace(head_of(model), temperature=built.variants[-1].temperature))
    x, _ = rows(CASES[case], 9, 3)
    np.testing.assert_allclose(
        Predictor.open(again).predict(x).raw, Predictor.open(built.files["float"]).predict(x).raw, atol=1e-6
    )


def test_terms_of_a_model_that_is_no_sum_are_refused() -> None:
    trainer = trainer_of("mlp")
    core = export_core(trainer.module(trainer.initial()), NUMBER, rows(NUMBER, 8, 1)[0], Templates()).model
    assert family_of(prepare(core)) is GraphFamily.DENSE
    with pytest.raises(ConfigError, match="no sum of the terms"):
        finish(core, OutputHead(NUMBER, 1.0, "demo", 1, terms=(("age",),)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "classification"}, "kind 'classification'"),
        ({"interval": 1e6}, "interval 1000000.0 is outside the label's range"),
        ({"interval": -1.0}, "interval -1.0"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(change: dict, words: str) -> None:
    document = json.loads(build_of("linear", "float").manifest(PRIVACY, START.isoformat()).to_bytes())
    with pytest.raises(ArtifactRejected, match=words):
        Manifest.from_json(document | change)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"values": [1e6] * 16}, "value outside"),
        ({"values": [150.0]}, "not 16 answers"),
        ({"labels": [0]}, "classes of a label that is a number"),
    ],
)
def test_expected_values_are_bounded(change: dict, words: str) -> None:
    document = json.loads(build_of("linear", "float").manifest(PRIVACY, START.isoformat()).to_bytes())
    document["variants"][0] |= change
    with pytest.raises(ArtifactRejected, match=words):
        Manifest.from_json(document)


def test_another_value_on_a_check_row_stops_the_install() -> None:
    built = build_of("linear", "float")
    predictor, manifest = opened(built)
    moved = replace(manifest.chosen, values=(manifest.chosen.values[0] - 2.0, *manifest.chosen.values[1:]))
    with pytest.raises(GateFailed, match=r"a value, as a part of its range, differs by 0\.01"):
        self_check(predictor, manifest, moved, CLOCK, 1e6)


def test_over_http_a_number_has_its_unit_and_interval() -> None:
    predictor, _ = opened(build_of("linear", "float"))
    described = model_metadata("m", 1, NUMBER)["outputs"]
    assert [output["name"] for output in described] == ["value", "interval"]
    assert described[0]["parameters"] == {"range": [100.0, 300.0], "unit": "kW"}
    body = {"inputs": [{"name": "input", "shape": [2, 3], "datatype": "FP32", "data": [30, 0.1, 1, 60, -0.5, 2]}]}
    request = read_request(body, NUMBER)
    document, _ = reply(request, "m", 1, predictor.predict(request.rows))
    value, interval = document["outputs"]
    assert value["shape"] == [2]
    assert interval["shape"] == [2, 2]
    assert interval["data"][0] <= value["data"][0] <= interval["data"][1]
    with pytest.raises(DataError, match="probabilities"):
        read_request(body | {"outputs": [{"name": "probabilities"}]}, NUMBER)


def test_synthetic_rows_suffice_without_any_held_out_row() -> None:
    from fedinfer.artifact.quantize.calibration import synthetic_rows

    trainer = trainer_of("additive")
    x = synthetic_rows(NUMBER, 64, simulation_rng("c"))
    nothing = np.empty((0, 3), np.float32)
    evidence = Evidence(nothing, np.empty(0), x, nothing)
    weights = trainer.initial() + np.float32(0.1)
    head = OutputHead(NUMBER, 1.0, "demo", 1, terms=trainer.terms)
    built = build_artifact(trainer.module(weights), head, evidence, ArtifactSection(), Templates(), CLOCK)
    assert built.metric_kind == "agreement"
    assert built.float_metric == 1.0


def test_the_command_line_writes_values_and_all_summands() -> None:
    from fedinfer.cli.answers import answer_fields, answer_lines, reasoned_lines, with_summands

    predictor, manifest = opened(build_of("additive"))
    x, _ = rows(NUMBER, 3, 12)
    answers, reasons = predictor.predict(x), explain(predictor, x, reference_row(manifest))
    assert answer_fields(answers.naming) == ("row", "value", "low", "high")
    assert [line["value"] for line in answer_lines(answers)] == [float(text) for text in answers.labels]
    lines = with_summands(list(reasoned_lines(answers, reasons)), reasons)
    for line in lines:
        total = sum(line["contributions"].values()) + line["intercept"]
        assert np.clip(total, 100, 300) == pytest.approx(line["value"], rel=1e-4)
        assert line["low"] <= line["value"] <= line["high"]
        assert len(line["reasons"].split(" ")) >= 3
