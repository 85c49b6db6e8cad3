"""A pruned file beside the plain one: what is pushed, what is told, and what the gates refuse."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from fedinfer.artifact.build import build_from_core
from fedinfer.artifact.choice import choose, download_bytes
from fedinfer.artifact.export.graph import OutputHead, load, run
from fedinfer.artifact.inspection import describe_manifest, describe_model
from fedinfer.artifact.quantize.compression import sparsity
from fedinfer.artifact.quantize.quantize import apply, prepare
from fedinfer.artifact.quantize.schemes import INT8_RECIPES, Method, rounds_inputs
from fedinfer.artifact.release.delta import compress
from fedinfer.config import ArtifactSection
from fedinfer.manifest import Manifest
from fedinfer.system import FrozenClock
from fedinfer.types import GraphFamily
from tests.unit.artifact.workshop import PRIVACY, START, dense_core, evidence_for, vector_schema

SIZES = (12, 64, 64, 5)
ENDING = OutputHead(vector_schema(12, 5), 1.0, "demo", 7)
CORE = dense_core(SIZES, scale=2.0)
EVIDENCE = evidence_for(CORE, 12)
CLOCK = FrozenClock(START)
OPEN = ArtifactSection(pruning=0.5, min_agreement=0.0, max_metric_drop=1.0, max_calibration_gap=1.0)


def pruned(share: float) -> onnx.ModelProto:
    core = onnx.ModelProto()
    core.CopyFrom(CORE)
    for tensor in core.graph.initializer:
        value = numpy_helper.to_array(tensor).copy()
        if value.ndim == 2:
            flat = value.reshape(-1)
            flat[np.argsort(np.abs(flat))[: round(share * flat.size)]] = 0.0
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return core


def plain(settings: ArtifactSection):
    return build_from_core(CORE, ENDING, EVIDENCE, settings, CLOCK)


def chosen(settings: ArtifactSection, share: float, core: onnx.ModelProto | None = None):
    make = partial(build_from_core, core or pruned(share), ENDING, EVIDENCE, settings, CLOCK)
    return choose(plain(settings), make, settings, CLOCK)


def test_a_pruned_file_that_passes_is_pushed_and_smaller_to_download():
    built = chosen(OPEN, 0.5)
    reported = built.slimming
    assert reported.pushed
    assert reported.reason == ""
    assert (
        reported.zstd_bytes
        == len(compress(built.files["int8"]))
        < reported.plain_zstd_bytes
        == download_bytes(plain(OPEN))
    )
    assert reported.sparsity == pytest.approx(0.5, abs=0.02)
    assert reported.metric == built.chosen.metric
    assert built.chosen.bytes == pytest.approx(plain(OPEN).chosen.bytes, rel=0.02)  # zeros are stored like any number


def test_more_pruning_is_a_smaller_download():
    downloads = [chosen(OPEN, share).slimming.zstd_bytes for share in (0.3, 0.5, 0.8)]
    assert downloads == sorted(downloads, reverse=True)
    assert downloads[2] < 0.8 * downloads[0]


def test_it_is_judged_against_the_unpruned_float_model():
    built, reference = chosen(OPEN, 0.8), plain(OPEN)
    assert built.float_metric == reference.float_metric
    assert built.float_bytes == reference.float_bytes
    logits = [run(core.SerializeToString(), EVIDENCE.held_x, "logits").argmax(axis=1) for core in (CORE, pruned(0.8))]
    slim_float = next(figures for figures in built.tried if figures.recipe == "slim float")
    assert slim_float.agreement == pytest.approx((logits[0] == logits[1]).mean())
    accuracy = (logits[1] == EVIDENCE.held_y).mean()
    assert slim_float.metric_drop == pytest.approx(reference.float_metric - accuracy)


def test_refused_by_the_gates_the_plain_file_stays_and_the_record_says_so():
    strict = ArtifactSection(pruning=0.95)
    built, reference = chosen(strict, 0.95), plain(strict)
    assert built.files == reference.files
    assert built.chosen == reference.chosen
    assert not built.slimming.pushed
    assert "metric drops by" in built.slimming.reason
    assert built.slimming.metric is None
    assert built.float_metric - built.chosen.metric <= strict.max_metric_drop
    numbers = built.manifest(PRIVACY, START.isoformat()).metrics
    assert numbers["slimming_pushed"] == 0
    assert "slimming_sparsity" not in numbers


def test_a_file_that_gains_nothing_is_not_pushed():
    built = chosen(OPEN, 0.0, CORE)
    assert not built.slimming.pushed
    assert built.slimming.reason.startswith("no gain: download of ")


def test_broken_weights_fall_back_too():
    core = pruned(0.5)
    broken = numpy_helper.to_array(core.graph.initializer[0]).copy()
    broken[0, 0] = np.inf
    core.graph.initializer[0].CopyFrom(numpy_helper.from_array(broken, core.graph.initializer[0].name))
    built = chosen(OPEN, 0.5, core)
    assert built.files == plain(OPEN).files
    assert "not finite" in built.slimming.reason


def test_manifest_and_inspect_tell_costs_and_gains():
    built = chosen(OPEN, 0.8)
    manifest = Manifest.from_bytes(built.manifest(PRIVACY, START.isoformat()).to_bytes())
    reported = describe_manifest(manifest)["metrics"]
    assert reported["slimming_pushed"] == 1
    assert reported["slimming_pruning"] == 0.5  # what was asked for
    assert reported["slimming_zstd_bytes"] < reported["slimming_plain_zstd_bytes"]
    assert {"slimming_metric", "slimming_plain_metric", "slimming_seconds", "slimming_qat_steps"} <= set(reported)
    described = describe_model(built.files["int8"])
    assert described["sparsity"] == reported["slimming_sparsity"]
    assert described["zstd_bytes"] == reported["slimming_zstd_bytes"]
    assert describe_model(plain(OPEN).files["int8"])["sparsity"] < 0.05


@pytest.mark.parametrize("recipe", INT8_RECIPES[GraphFamily.DENSE], ids=lambda recipe: recipe.name)
def test_what_was_pruned_is_zero_in_every_int8_file(recipe):
    core = pruned(0.5)
    file = apply(recipe, prepare(core), EVIDENCE.calibration_x)
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in file.graph.initializer}
    for tensor in core.graph.initializer:
        if len(tensor.dims) != 2:
            continue
        stored = next(value for name, value in values.items() if name.startswith(tensor.name) and value.ndim == 2)
        zeros = numpy_helper.to_array(tensor) == 0
        if recipe.method is Method.DYNAMIC:
            zeros = zeros.T  # it turns Gemm into a product with the transposed weight
        assert (stored == zero_of(values, tensor.name, stored))[zeros].all()
    assert 0.5 <= sparsity(file) <= 0.55


def zero_of(values, name, stored):
    """The stored zero points of a weight, beside its rows; 0 where the weights are symmetric."""
    points = next((value for key, value in values.items() if key.startswith(f"{name}_zero_point")), np.zeros(1))
    if stored.dtype == np.int8:
        assert not points.any()
        return 0
    return points.reshape(-1, 1) if points.size > 1 else points


def test_sparsity_of_a_file_without_weights_is_zero():
    model = load(plain(OPEN).files["float"])
    del model.graph.initializer[:]
    assert sparsity(model) == 0.0


def test_fine_tuning_imitates_the_recipe_that_will_be_used():
    assert rounds_inputs("static-qdq-s8s8", GraphFamily.DENSE)
    assert rounds_inputs("dynamic-s8", GraphFamily.DENSE)
    assert not rounds_inputs("int8-weights", GraphFamily.DENSE)
    assert rounds_inputs("float", GraphFamily.CONVOLUTION)
    assert not rounds_inputs("fp16-weights", GraphFamily.RECURRENT)
    assert not rounds_inputs("float", GraphFamily.OTHER)
