"""Recipes: what they do to a graph, that nothing done is noticed, and that families get the right ones."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from fedinfer.artifact.export.graph import run
from fedinfer.artifact.quantize.quantize import NothingQuantized, apply, prepare, quantized_nodes
from fedinfer.artifact.quantize.schemes import (
    DYNAMIC,
    FLOAT,
    FP16,
    INT8_RECIPES,
    INT8_WEIGHTS,
    STATIC_CONSTANT,
    STATIC_INNER,
    STATIC_S8,
    STATIC_U8,
    family_of,
)
from fedinfer.errors import ArtifactRejected
from fedinfer.system import simulation_rng
from fedinfer.types import GraphFamily
from tests.unit.artifact.workshop import dense_core, model_of

RNG = simulation_rng("quantize")
X = RNG.uniform(-1, 1, (300, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def prepared():
    return prepare(dense_core((12, 64, 32, 5)))


def logits(model: onnx.ModelProto, x=X) -> np.ndarray:
    return run(model.SerializeToString(), x, "logits")


@pytest.mark.parametrize("recipe", [STATIC_S8, STATIC_U8, DYNAMIC, STATIC_INNER, STATIC_CONSTANT, INT8_WEIGHTS, FP16])
def test_recipe_keeps_the_answers_and_stores_small_weights(prepared, recipe):
    model = apply(recipe, prepared, X)
    found, expected = logits(model), logits(prepared)
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.95
    small = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT16}
    sizes = [int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type in small]
    largest = sorted((64 * 12, 64 * 32, 32 * 5), reverse=True)
    assert sorted(sizes, reverse=True)[:1] == largest[:1]
    assert max((int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type == 1), default=0) <= 64 * 12
    assert len(model.SerializeToString()) < len(prepared.SerializeToString())


def test_float_recipe_changes_nothing(prepared):
    assert apply(FLOAT, prepared, X) is prepared


def test_inner_keeps_both_ends_float(prepared):
    assert quantized_nodes(apply(STATIC_S8, prepared, X)) == 3
    assert quantized_nodes(apply(STATIC_INNER, prepared, X)) == 1


def test_int8_weights_are_off_by_half_a_step_at_most(prepared):
    model = apply(INT8_WEIGHTS, prepared, X)
    tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for tensor in prepared.graph.initializer:
        if len(tensor.dims) < 2:
            continue
        value = numpy_helper.to_array(tensor)
        stored, scale = tensors[f"{tensor.name}_int8"], tensors[f"{tensor.name}_scale"]
        assert stored.dtype == np.int8
        assert np.abs(stored).max() == 127
        assert (np.abs(stored * scale - value) <= scale * 0.501).all()


def test_int8_weights_leave_the_activations_float(prepared):
    """A tiny weight beside a huge activation keeps its effect, whatever onnxruntime fuses."""
    model = apply(INT8_WEIGHTS, prepared, X)
    stretched = X * np.where(np.arange(12) == 0, 1e6, 1).astype(np.float32)
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}

    def layer(x, i):
        return x @ (weights[f"w{i}_int8"] * weights[f"w{i}_scale"]).T + weights[f"b{i}"]

    hidden = np.maximum(layer(np.maximum(layer(stretched, 0), 0), 1), 0)
    np.testing.assert_allclose(logits(model, stretched), layer(hidden, 2), rtol=2e-4, atol=1.0)


def test_static_scales_do_not_depend_on_the_batch_but_dynamic_ones_do(prepared):
    static, dynamic = apply(STATIC_S8, prepared, X), apply(DYNAMIC, prepared, X)
    mixed = np.concatenate([X[:1], 50 * X[1:2]])
    np.testing.assert_array_equal(logits(static, X[:1])[0], logits(static, mixed)[0])
    assert np.abs(logits(dynamic, X[:1])[0] - logits(dynamic, mixed)[0]).max() > 0.05


def test_zero_nodes_quantized_is_noticed():
    """A graph without weights passes every gate unchanged; it must not be called int8."""
    core = model_of([helper.make_node("Identity", ["input"], ["logits"])], [], 3, 3)
    for recipe in (STATIC_S8, DYNAMIC, INT8_WEIGHTS, FP16):
        with pytest.raises(NothingQuantized, match=f"{recipe.name}: 0 nodes quantized"):
            apply(recipe, prepare(core), X[:, :3])


def test_weights_too_large_for_16_bits_are_refused():
    core = dense_core((8, 4))
    weights = numpy_helper.to_array(core.graph.initializer[0]) * 1e6
    core.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights.astype(np.float32), "w0"))
    with pytest.raises(ArtifactRejected, match="does not fit into 16 bits"):
        apply(FP16, prepare(core), X[:, :8])


def test_what_onnxruntime_cannot_do_is_a_typed_error(prepared):
    with pytest.raises(ArtifactRejected, match="static-qdq-s8s8"):
        apply(STATIC_S8, prepared, np.empty((0, 12), np.float32))


def test_inputs_are_left_alone(prepared):
    before = prepared.SerializeToString()
    for recipe in (STATIC_S8, DYNAMIC, INT8_WEIGHTS, FP16):
        apply(recipe, prepared, X)
    assert prepared.SerializeToString() == before


def test_preparing_leaves_the_core_alone_and_keeps_its_answers():
    core = dense_core((12, 6, 3))
    before = core.SerializeToString()
    prepared = prepare(core)
    assert core.SerializeToString() == before
    np.testing.assert_allclose(logits(prepared), logits(core), atol=1e-6)


def test_families_follow_the_operators():
    def nodes(*kinds: str) -> onnx.ModelProto:
        graph = helper.make_graph([helper.make_node(kind, ["table", "y"], ["z"]) for kind in kinds], "g", [], [])
        graph.initializer.append(numpy_helper.from_array(np.zeros((4, 4), np.float32), "table"))
        return helper.make_model(graph)

    assert family_of(nodes("Gemm", "Relu")) is GraphFamily.DENSE
    assert family_of(nodes("Conv", "Gemm")) is GraphFamily.CONVOLUTION
    assert family_of(nodes("GRU", "Gemm")) is GraphFamily.RECURRENT
    assert family_of(nodes("Gather", "MatMul", "Softmax")) is GraphFamily.ATTENTION
    assert family_of(nodes("Gather", "Gemm")) is GraphFamily.EMBEDDING
    assert family_of(nodes("TreeEnsembleClassifier")) is GraphFamily.OTHER
    assert set(INT8_RECIPES) == set(GraphFamily)


def test_attention_products_of_two_activations_stay_float():
    weight = numpy_helper.from_array(RNG.normal(0, 0.5, (12, 12)).astype(np.float32), "w")
    nodes = [
        helper.make_node("MatMul", ["input", "w"], ["k"], name="k"),
        helper.make_node("Transpose", ["k"], ["kt"], name="t", perm=[1, 0]),
        helper.make_node("MatMul", ["k", "kt"], ["scores"], name="scores"),
        helper.make_node("Softmax", ["scores"], ["p"], name="softmax", axis=-1),
        helper.make_node("MatMul", ["p", "k"], ["logits"], name="mixed"),
    ]
    core = prepare(model_of(nodes, [weight], 12, 12))
    assert family_of(core) is GraphFamily.ATTENTION
    model = apply(STATIC_CONSTANT, core, X)
    assert quantized_nodes(model) == 1
