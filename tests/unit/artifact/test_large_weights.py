"""Large weights are written without being copied, and the file is the same model."""

from __future__ import annotations

import tracemalloc

import numpy as np
import onnx
import pytest

from fedinfer.artifact.export import large_weights
from fedinfer.artifact.export.large_weights import copy_small, written
from fedinfer.model_file import check_model, open_checked
from tests.unit.artifact import foreign_models as foreign


def same(one, other):
    """Whether two models are the same but for the order of their weights."""
    for model in (one, other):
        kept = sorted(model.graph.initializer, key=lambda tensor: tensor.name)
        copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
        del model.graph.initializer[:]
        model.graph.initializer.extend(copies)
    return one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True)


@pytest.mark.parametrize("least", [1, 70, 300, 2**20])
@pytest.mark.parametrize(
    "data", [foreign.policy(), foreign.stream(), foreign.wards()], ids=["policy", "state", "texts"]
)
def test_a_model_comes_back_whole_however_few_weights_are_large(monkeypatch, data, least):
    monkeypatch.setattr(large_weights, "LARGE", least)
    model = onnx.load_model_from_string(data)
    copied, large = copy_small(model)
    assert model.SerializeToString() == onnx.load_model_from_string(data).SerializeToString()
    assert all(tensor.ByteSize() >= least for tensor in large)
    file = written(copied, large)
    check_model(file)
    assert same(onnx.load_model_from_string(file), model)


def test_without_large_weights_the_bytes_are_those_of_protobuf():
    model = onnx.load_model_from_string(foreign.policy())
    assert written(*copy_small(model)) == model.SerializeToString(deterministic=True)


def test_a_large_model_runs_and_is_not_copied_twice():
    data = foreign.model_bytes(
        [("MatMul", ["x", "w"], ["h"]), ("MatMul", ["h", "v"], ["y"])],
        [("x", foreign.F, ["n", 1024])], [("y", foreign.F, ["n", 2])],
        {"w": foreign.weights(1024, 1024), "v": foreign.weights(1024, 2)},
    )  # fmt: skip
    model = onnx.load_model_from_string(data)
    tracemalloc.start()
    file = written(*copy_small(model))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.5 * len(data)  # the file, and one weight at a time, which is nearly all of this file
    rows = np.ones((3, 1024), np.float32)
    said, expected = (open_checked(check_model(each)).run(None, {"x": rows})[0] for each in (file, data))
    np.testing.assert_array_equal(said, expected)
