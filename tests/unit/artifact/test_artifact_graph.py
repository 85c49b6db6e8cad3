"""Opening files safely, and the ending that every published graph has."""

from __future__ import annotations

import json
import logging
import warnings

import numpy as np
import onnx
import pytest
from onnx import helper

from fedinfer.artifact.export.graph import OutputHead, core_of, finish, head_of, load, open_session, quiet, run
from fedinfer.errors import ArtifactRejected
from fedinfer.manifest import MAX_ARTIFACT_BYTES
from fedinfer.schema import Schema
from fedinfer.system import simulation_rng
from tests.unit.artifact.workshop import dense_core, vector_schema

SCHEMA = vector_schema(5, 4)
CORE = dense_core((5, 8, 4))
X = simulation_rng("graph").uniform(-1, 1, (50, 5)).astype(np.float32)


def logits() -> np.ndarray:
    return run(CORE.SerializeToString(), X, "logits").astype(np.float64)


def softmax(values: np.ndarray) -> np.ndarray:
    exponent = np.exp(values - values.max(axis=1, keepdims=True))
    return exponent / exponent.sum(axis=1, keepdims=True)


def test_probabilities_are_the_softmax_of_the_tempered_logits():
    file = finish(CORE, OutputHead(SCHEMA, 2.5, "demo", 1))
    np.testing.assert_allclose(run(file, X, "probabilities"), softmax(logits() / 2.5), atol=1e-6)


def test_labels_are_names():
    file = finish(CORE, OutputHead(SCHEMA, 2.5, "demo", 1))
    assert list(run(file, X, "label")) == [SCHEMA.labels[k] for k in logits().argmax(axis=1)]


def test_abstains_below_the_confidence():
    file = finish(CORE, OutputHead(SCHEMA, 1.0, "demo", 1, abstain_below=0.5, abstain_label="ask"))
    best = softmax(logits()).max(axis=1)
    expected = [SCHEMA.labels[k] if p >= 0.5 else "ask" for k, p in zip(logits().argmax(axis=1), best, strict=True)]
    assert 0 < expected.count("ask") < 50
    assert list(run(file, X, "label")) == expected


def test_top_lists_the_most_probable_classes_best_first():
    file = finish(CORE, OutputHead(SCHEMA, 1.0, "demo", 1, top=3))
    np.testing.assert_array_equal(run(file, X, "top"), np.argsort(-logits(), axis=1)[:, :3])
    assert [output.name for output in open_session(file).get_outputs()] == ["probabilities", "label", "top"]


@pytest.mark.parametrize("rows", [1, 7, 50])
def test_batch_is_dynamic(rows):
    file = finish(CORE, OutputHead(SCHEMA, 1.0, "demo", 1, top=2, abstain_below=0.5))
    assert open_session(file).run(None, {"input": X[:rows]})[0].shape == (rows, 4)


def test_metadata_carries_schema_task_version_and_producer():
    meta = open_session(finish(CORE, OutputHead(SCHEMA, 1.0, "demo", 12))).get_modelmeta()
    assert Schema.from_json(json.loads(meta.custom_metadata_map["schema"])) == SCHEMA
    assert meta.custom_metadata_map["task"] == "demo"
    assert meta.custom_metadata_map["version"] == "12"
    assert (meta.version, meta.producer_name) == (12, "fedinfer")


def test_same_input_gives_the_same_bytes_and_the_core_is_left_alone():
    before = CORE.SerializeToString()
    head = OutputHead(SCHEMA, 1.5, "demo", 1)
    assert finish(CORE, head) == finish(CORE, head)
    assert CORE.SerializeToString() == before


def test_an_ending_can_be_taken_off_again():
    head = OutputHead(SCHEMA, 2.5, "demo", 9, top=2, abstain_below=0.4)
    finished = load(finish(CORE, head))
    core = core_of(finished)
    np.testing.assert_array_equal(run(core.SerializeToString(), X, "logits"), logits().astype(np.float32))
    assert [output.name for output in core.graph.output] == ["logits"]
    assert finish(core, head) == finish(CORE, head)
    assert head_of(finished) == OutputHead(SCHEMA, 1.0, "demo", 9)


def test_a_graph_without_our_ending_is_refused():
    with pytest.raises(ArtifactRejected, match="has no output head"):
        core_of(CORE)
    with pytest.raises(ArtifactRejected, match="no usable metadata"):
        head_of(CORE)
    broken = load(finish(CORE, OutputHead(SCHEMA, 1.0, "demo", 1)))
    for value in ("[" * 100_000, "{}", "null", '{"columns": 3}'):
        next(item for item in broken.metadata_props if item.key == "schema").value = value
        with pytest.raises(ArtifactRejected, match="no usable metadata"):
            head_of(broken)


def test_label_names_of_any_language():
    schema = Schema(SCHEMA.columns, "y", ("gesund", "mañana", "病気", "💊"))
    file = finish(CORE, OutputHead(schema, 1.0, "demo", 1))
    assert set(run(file, X, "label")) <= set(schema.labels)


@pytest.mark.parametrize("data", [b"", b"\0", b"not onnx at all", b"\x08\x0a\x12", CORE.SerializeToString()[:-40]])
def test_files_that_are_no_model_are_refused(data):
    with pytest.raises(ArtifactRejected):
        load(data)


def test_oversized_file_is_refused_before_it_is_parsed():
    with pytest.raises(ArtifactRejected, match="allowed are 1 to"):
        load(bytes(MAX_ARTIFACT_BYTES + 1))


def test_weights_outside_the_file_are_refused():
    """A model that points at /etc/passwd must not be opened."""
    model = onnx.ModelProto()
    model.CopyFrom(CORE)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    with pytest.raises(ArtifactRejected):
        load(model.SerializeToString())


def test_a_graph_that_cannot_run_is_refused():
    model = onnx.ModelProto()
    model.CopyFrom(CORE)
    model.graph.node[0].CopyFrom(helper.make_node("NoSuchOperator", ["input"], ["h0"]))
    with pytest.raises(ArtifactRejected):
        open_session(model.SerializeToString())


def test_quiet_silences_and_restores(caplog):
    with quiet():
        logging.getLogger("noisy").warning("hidden")
        warnings.warn("hidden too", UserWarning, stacklevel=1)
    logging.getLogger("noisy").warning("seen")
    assert caplog.messages == ["seen"]
