"""Every model kind writes its own ONNX graph: the answers of torch on awkward rows, and nothing is traced."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedinfer.artifact.export.graph import OutputHead, finish, load, run
from fedinfer.artifact.export.torch import CoreOrigin, Templates, _export, export_core, state_of, torch_logits
from fedinfer.artifact.quantize.calibration import synthetic_rows
from fedinfer.artifact.quantize.quantize import apply, prepare, quantized_nodes
from fedinfer.artifact.quantize.schemes import INT8_RECIPES, Scheme, family_of
from fedinfer.config import ModelKind, ModelSection
from fedinfer.errors import ArtifactRejected
from fedinfer.schema import Categorical, Numeric, Schema
from fedinfer.system import simulation_rng
from fedinfer.training.models.build import Model, build_model
from fedinfer.training.models.parts import make_native
from tests.unit.training.factories import BY_KIND, DIGITS, NUMBER, SHOP, TABLE

NUMBERS = Schema((Numeric("a", 0.0, 0.3), Numeric("b", -1e4, 1e6), Numeric("c", 20, 45)), "ill", ("no", "yes"))
CROWDED = Schema(
    (
        Numeric("a", 0.0, 3e5, breaks=(3e3, 6e3, 1e4)),
        Numeric("b", -1e4, 1e6),
        Numeric("c", 20, 45, breaks=(44.0,)),
        Categorical("x", ("p", "q")),
    ),
    "ill",
    ("no", "yes"),
)
CROWDED_NUMBERS = Schema(CROWDED.columns[:3], "ill", ("no", "yes"))
LEVELS = Schema((Categorical("x", ("p", "q")), Categorical("y", ("r", "s", "t"))), "ill", ("no", "yes", "maybe"))
WORDS = Schema(tuple(Categorical(f"w{at}", tuple("abcde")) for at in range(6)), "spam", ("ham", "spam"))
ONE_CHANNEL = Schema(tuple(Numeric(f"r{at}", -2.0, 3.0) for at in range(9)), "move", ("a", "b"))
SOUND = Schema((), "state", ("rest", "walk"), (3, 1, 16), 255.0)
PAIRS = (("age", "bp"), ("sex", "age"))
WIDE = Schema((*TABLE.columns, Categorical("ward", ("n", "s"))), TABLE.label, TABLE.labels)

CASES: dict[str, tuple[ModelSection, Schema]] = {
    **{str(kind): (ModelSection(kind=kind, hidden=(6,)), BY_KIND[kind]) for kind in ModelKind},
    "numbers only": (ModelSection(kind=ModelKind.LOGISTIC), NUMBERS),
    "columns with breaks": (ModelSection(kind=ModelKind.LOGISTIC), CROWDED),
    "curves over breaks": (ModelSection(kind=ModelKind.ADDITIVE, pairs=(("a", "x"), ("a", "c"))), CROWDED),
    "series with breaks": (ModelSection(kind=ModelKind.GRU, hidden=(5,)), CROWDED_NUMBERS),
    "fields with breaks": (ModelSection(kind=ModelKind.RECOMMENDER, hidden=(4,)), CROWDED),
    "levels only": (ModelSection(kind=ModelKind.LOGISTIC), LEVELS),
    "no hidden layer": (ModelSection(kind=ModelKind.MLP, hidden=()), TABLE),
    "pixels in a row": (ModelSection(kind=ModelKind.MLP, hidden=(7, 5)), DIGITS),
    "standardized pixels": (ModelSection(kind=ModelKind.LOGISTIC, pixels="standardized"), DIGITS),
    "standardized images": (ModelSection(kind=ModelKind.CNN, hidden=(8, 6), pixels="standardized"), DIGITS),
    "three convolutions": (ModelSection(kind=ModelKind.CNN, hidden=(8, 6, 5)), DIGITS),
    "series of pixels": (ModelSection(kind=ModelKind.TCN, hidden=(8, 5)), SOUND),
    "series of one channel": (ModelSection(kind=ModelKind.GRU, hidden=(5,)), ONE_CHANNEL),
    "words in columns": (ModelSection(kind=ModelKind.BAG, hidden=(5, 4)), WORDS),
    "attention over columns": (ModelSection(kind=ModelKind.TRANSFORMER, hidden=(8, 4)), WORDS),
    "additive regression": (ModelSection(kind=ModelKind.ADDITIVE, knots=5), NUMBER),
    "additive numbers": (ModelSection(kind=ModelKind.ADDITIVE), NUMBERS),
    "additive levels": (ModelSection(kind=ModelKind.ADDITIVE, pairs=(("x", "y"),)), LEVELS),
    "additive pairs": (ModelSection(kind=ModelKind.ADDITIVE, pairs=(*PAIRS, ("ward", "sex"))), WIDE),
    "one field": (ModelSection(kind=ModelKind.RECOMMENDER, hidden=(4,)), Schema(SHOP.columns[:1], "like", SHOP.labels)),
    "fields only": (ModelSection(kind=ModelKind.RECOMMENDER, hidden=(4, 3)), LEVELS),
}
EVERY = pytest.mark.parametrize("case", CASES)


def model_of(case: str) -> Model:
    """The model of a case as a trainer gives it to the export, with weights away from where training starts."""
    section, schema = CASES[case]
    model = build_model(section, schema, 1)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    make_native(model)
    return model


def rows_of(schema: Schema, count: int = 40) -> np.ndarray:
    """Ordinary rows, and what a device may send: nothing, numbers out of every range, categories that do not exist."""
    x = synthetic_rows(schema, count, simulation_rng("rows", schema.label))
    for at, value in enumerate((np.nan, np.inf, -np.inf, 1e9, -1e9, 0.5, -1.0, 2.0**24, 0.0)):
        x[at] = value
    x[9, ::2] = np.nan
    return x


@EVERY
def test_a_written_graph_answers_as_torch_does(case: str) -> None:
    _, schema = CASES[case]
    model, x = model_of(case), rows_of(schema)
    core = export_core(model, schema, x, Templates())
    assert core.way is CoreOrigin.WRITTEN
    file, expected = core.model.SerializeToString(), torch_logits(model, x, schema.outputs)
    for batch in (len(x), 1):
        np.testing.assert_allclose(run(file, x, "logits", batch=batch), expected, rtol=1e-5, atol=2e-6)
    assert np.ptp(expected, axis=0).min() > 1e-3, "rows that all get one answer show nothing"


@EVERY
def test_it_has_the_names_and_shapes_that_others_rely_on(case: str) -> None:
    _, schema = CASES[case]
    model = model_of(case)
    core = export_core(model, schema, rows_of(schema), Templates()).model
    weights = {tensor.name: list(tensor.dims) for tensor in core.graph.initializer if "constant" not in tensor.name}
    assert weights == {name: list(value.shape) for name, value in state_of(model).items()}
    assert shape_of(core.graph.input) == ("input", ["batch", schema.width])
    assert shape_of(core.graph.output) == ("logits", ["batch", schema.outputs])
    assert (core.ir_version, [(item.domain, item.version) for item in core.opset_import]) == (10, [("", 20)])
    assert all(node.name for node in core.graph.node), "a scheme leaves out nodes by name"
    load(finish(core, OutputHead(schema, 1.5, "demo", 1)))  # keeps the rules that a device checks


@EVERY
def test_equal_weights_give_equal_bytes(case: str) -> None:
    _, schema = CASES[case]
    files = [export_core(model_of(case), schema, rows_of(schema), Templates()).model for _ in range(2)]
    assert files[0].SerializeToString(deterministic=True) == files[1].SerializeToString(deterministic=True)


def test_a_core_of_a_user_is_not_written() -> None:
    section = ModelSection(factory="tests.unit.artifact.test_written_graphs:factory")
    model = build_model(section, TABLE, 1)
    assert model.write_graph(Unused(), "input") is None


def test_a_module_without_a_writer_is_not_guessed() -> None:
    known = build_model(ModelSection(kind=ModelKind.LOGISTIC), TABLE, 1)

    class Doubled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2.0 * super().forward(x)

    other = Model(known.prepare, nn.Sequential(Doubled(8, 2)))
    assert other.write_graph(Taking(), "input") is None
    assert Model(known.prepare, nn.Sequential(nn.AdaptiveAvgPool1d(2))).write_graph(Taking(), "input") is None


def factory(schema: Schema) -> nn.Module:
    """A user's core that is built of known modules only."""
    return nn.Sequential(nn.Linear(8, schema.outputs))


class Unused:
    """A graph that nothing may be written to."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


class Taking:
    """A graph that takes anything."""

    def add(self, operator: str, *inputs: str, place: int = 0, **attributes: Any) -> str:
        return operator

    def constant(self, value: np.ndarray) -> str:
        return "constant"

    def weight(self, name: str, value: np.ndarray) -> str:
        return name


def shape_of(values: Any) -> tuple[str, list[Any]]:
    (value,) = values
    return value.name, [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(ModelKind))
def test_a_written_graph_equals_the_traced_one(kind: ModelKind) -> None:
    """Answers to float rounding, input, output and names; quantized, as many nodes become integers."""
    _, schema = CASES[kind]
    model, x = model_of(kind), rows_of(schema)
    written, traced = export_core(model, schema, x, Templates()).model, _export(model, x)
    close(written, traced, x, 1e-6)
    for mine, theirs in ((written.graph.input, traced.graph.input), (written.graph.output, traced.graph.output)):
        assert shape_of(mine) == shape_of(theirs)
    known = {tensor.name for tensor in traced.graph.initializer}
    assert set(state_of(model)) <= known & {tensor.name for tensor in written.graph.initializer}
    assert (written.ir_version, written.opset_import) == (traced.ir_version, traced.opset_import)
    one, other = prepare(written), prepare(traced)
    assert len(one.graph.node) <= len(other.graph.node)
    assert family_of(one) is family_of(other)
    calibration = synthetic_rows(schema, 64, simulation_rng("calibration"))
    for recipe in INT8_RECIPES[family_of(one)]:
        mine, theirs = (quantized(recipe, core, calibration) for core in (one, other))
        assert (mine is None) == (theirs is None), recipe.name
        if mine is not None and theirs is not None:
            assert quantized_nodes(mine) == quantized_nodes(theirs), recipe.name
            close(mine, theirs, x[9:], 1e-3)


def close(one: Any, other: Any, x: np.ndarray, tolerance: float) -> None:
    found, expected = (run(core.SerializeToString(), x, "logits") for core in (one, other))
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def quantized(recipe: Scheme, core: Any, calibration: np.ndarray) -> Any:
    """A core by a scheme, or None where onnxruntime cannot apply it to this kind of graph."""
    try:
        return apply(recipe, core, calibration)
    except ArtifactRejected:
        return None
