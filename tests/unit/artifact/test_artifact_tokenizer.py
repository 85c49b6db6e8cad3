"""The tokenizer inside the graph is the tokenizer of training, whatever somebody writes; and nothing else changes."""

import json
import resource

import numpy as np
import onnx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fedinfer.artifact.build import build_from_core
from fedinfer.artifact.evaluate import measure
from fedinfer.artifact.evaluate.measure import Evidence
from fedinfer.artifact.export.graph import LOGITS, OutputHead, core_of, finish, head_of, load, open_session, run
from fedinfer.artifact.export.tokenizer import Prefixes, tokenizer_parts
from fedinfer.artifact.quantize.calibration import synthetic_rows
from fedinfer.artifact.quantize.quantize import quantized_nodes
from fedinfer.artifact.quantize.schemes import family_of
from fedinfer.config import ArtifactSection
from fedinfer.errors import ConfigError, GateFailed
from fedinfer.manifest import INPUT, Manifest
from fedinfer.schema import BREAKS, MARKS, Text
from fedinfer.system import FrozenClock, simulation_rng
from fedinfer.text import AWKWARD, MOST_CHARACTERS, column_of, texts_of, tokens
from fedinfer.types import GraphFamily
from tests.unit.artifact.text_model import COLUMN, SCHEMA, text_file, token_core
from tests.unit.artifact.workshop import PRIVACY, START

ODD = (" ", "GOOD", "\0", "\u00a0", "\u0130", "\u00df", "E\u0301", "~", "'")
PIECES = st.sampled_from([*COLUMN.vocabulary, *MARKS, *BREAKS, *ODD])
TEXTS = st.one_of(st.text(), st.lists(PIECES, max_size=60).map("".join), st.text(" .a", max_size=300))


def tokenizer(column: Text):
    """A session that answers the token numbers alone."""
    nodes, constants = tokenizer_parts(onnx, column, INPUT, "tokens", Prefixes("n/", "t_"))
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes, "tokenizer", [info(INPUT, onnx.TensorProto.STRING, ["batch", 1])],
        [info("tokens", onnx.TensorProto.FLOAT, ["batch", column.length])], constants,
    )  # fmt: skip
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("ai.onnx.ml", 4)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return open_session(model.SerializeToString())


SESSIONS = {length: tokenizer(Text("note", length, COLUMN.vocabulary)) for length in (1, 3, 8)}


@given(st.lists(TEXTS, min_size=1, max_size=4), st.sampled_from(sorted(SESSIONS)))
@example([*AWKWARD], 8)
@example(["", ""], 3)
@example(["\0"], 1)
def test_the_graph_gives_the_tokens_of_training(texts: list[str], length: int) -> None:
    found = SESSIONS[length].run(None, {INPUT: column_of(texts)})[0]
    np.testing.assert_array_equal(found, tokens(texts, Text("note", length, COLUMN.vocabulary)))


def test_awkward_texts_one_by_one() -> None:
    for text in AWKWARD:
        np.testing.assert_array_equal(SESSIONS[8].run(None, {INPUT: column_of([text])})[0], tokens([text], COLUMN))


@pytest.mark.parametrize("separator", [" ", "\n", "\t", '"', "(", ".", "a ", "a\n", "a\tb c\n", '("'])
def test_a_hostile_text_costs_no_memory(separator: str) -> None:
    """Beside 2,000 short texts; were there a string for every separator and row, this would take gigabytes."""
    texts = [separator * (MOST_CHARACTERS // len(separator)), *["good"] * 2000]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = SESSIONS[8].run(None, {INPUT: column_of(texts)})[0]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # KiB
    np.testing.assert_array_equal(found, tokens(texts, COLUMN))


def test_a_long_column_reads_more_lines() -> None:
    column = Text("note", 70, COLUMN.vocabulary)
    texts = ["good\n" * 69 + "bad", "good\n" * 200, "\n" * 127 + "bad", "\n" * 128 + "bad"]
    found = tokenizer(column).run(None, {INPUT: column_of(texts)})[0]
    np.testing.assert_array_equal(found, tokens(texts, column))
    assert ((found > 0).sum(axis=1) == [70, 70, 1, 0]).all()


def test_a_finished_file_takes_texts_and_answers_as_its_core() -> None:
    file = text_file()
    session = open_session(file)
    (taken,) = session.get_inputs()
    assert (taken.name, taken.type, taken.shape) == (INPUT, "tensor(string)", ["batch", 1])
    texts = ["Not good!", "", "it's bad, BAD", "\U0001f600 caf\u00e9"]
    logits = run(token_core().SerializeToString(), tokens(texts, COLUMN), LOGITS)
    labels, probabilities = session.run(["label", "probabilities"], {INPUT: column_of(texts)})
    np.testing.assert_allclose(
        np.log(probabilities[:, 1] / probabilities[:, 0]), logits[:, 1] - logits[:, 0], atol=1e-4
    )
    assert labels.tolist() == [SCHEMA.labels[k] for k in logits.argmax(axis=1)]


def test_only_standard_operators_are_used() -> None:
    model = load(text_file())
    assert {item.domain for item in model.opset_import} == {"", "ai.onnx.ml"}
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx.ml"}


def test_the_schema_in_the_file_lists_the_vocabulary() -> None:
    model = load(text_file())
    assert head_of(model).schema == SCHEMA
    found = {item.key: item.value for item in model.metadata_props}
    assert json.loads(found["schema"])["columns"][0]["vocabulary"].split(" ") == list(COLUMN.vocabulary)


def test_taking_the_core_out_again_undoes_finish() -> None:
    core = core_of(load(text_file()))
    x = synthetic_rows(SCHEMA, 40, simulation_rng("core"))
    np.testing.assert_array_equal(
        run(core.SerializeToString(), x, LOGITS), run(token_core().SerializeToString(), x, LOGITS)
    )
    assert family_of(core) is GraphFamily.EMBEDDING
    assert finish(core, OutputHead(SCHEMA, 1.0, "notes", 1)) == text_file()


def test_an_operator_set_without_strings_is_refused() -> None:
    with pytest.raises(ConfigError, match="operator set 20"):
        finish(token_core(opset=18), OutputHead(SCHEMA, 1.0, "notes", 1))


def test_synthetic_texts_hold_known_and_unknown_words_and_end_somewhere() -> None:
    x = synthetic_rows(SCHEMA, 2000, simulation_rng("texts"))
    assert set(np.unique(x)) == set(range(COLUMN.last + 1))
    used = (x > 0).sum(axis=1)
    assert (used.min(), used.max()) == (0, 8)
    assert ((x[:, 1:] == 0) >= (x[:, :-1] == 0)).all()


def evidence() -> Evidence:
    x = synthetic_rows(SCHEMA, 300, simulation_rng("evidence"))
    y = run(token_core().SerializeToString(), x, LOGITS).argmax(axis=1)
    return Evidence(x, y, x[:128], x[:50])


def test_a_build_publishes_texts_and_keeps_the_tokenizer_out_of_int8() -> None:
    head = OutputHead(SCHEMA, 1.0, "notes", 1)
    built = build_from_core(token_core(), head, evidence(), ArtifactSection(), FrozenClock(START))
    assert {figures.recipe for figures in built.tried} >= {"float", "static-qdq-s8s8-constant"}
    for variant in built.variants:
        model = load(built.files[variant.name])
        assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.STRING
        text_nodes = [node for node in model.graph.node if node.name.startswith("fedinfer/text_")]
        assert not {node.op_type for node in text_nodes} & {"QuantizeLinear", "DequantizeLinear"}
    quantized = [load(built.files[v.name]) for v in built.variants if v.name == "int8"]
    assert all(quantized_nodes(model) or "Cast" in {n.op_type for n in model.graph.node} for model in quantized)
    manifest = Manifest.from_bytes(built.manifest(PRIVACY, START.isoformat()).to_bytes())
    assert all(isinstance(row[0], str) and len(row) == 1 for row in manifest.check_rows)
    np.testing.assert_array_equal(manifest.check_matrix(), built.check)
    known = {*COLUMN.vocabulary, "~", "."}
    assert {word for (text,) in manifest.check_rows for word in text.split()} <= known


def test_a_tokenizer_that_differs_stops_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "tokens", lambda texts, column: np.roll(tokens(texts, column), 1, 1))
    with pytest.raises(GateFailed, match="tokenizer of the graph differs"):
        build_from_core(
            token_core(), OutputHead(SCHEMA, 1.0, "n", 1), evidence(), ArtifactSection(), FrozenClock(START)
        )


def test_texts_of_synthetic_rows_go_back_and_forth() -> None:
    x = synthetic_rows(SCHEMA, 100, simulation_rng("again"))
    np.testing.assert_array_equal(tokens(texts_of(x, COLUMN), COLUMN), x)
