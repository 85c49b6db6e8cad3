"""torch to ONNX: artifacts of every kind; cores of users are traced once, then their weights swapped; refusals."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from fedinfer.artifact.build import build_artifact
from fedinfer.artifact.evaluate.measure import Evidence
from fedinfer.artifact.export.graph import OutputHead, run
from fedinfer.artifact.export.torch import (
    CoreOrigin,
    Templates,
    WrongTemplate,
    architecture_hash,
    export_core,
    parity,
    state_of,
    swap_weights,
    torch_logits,
)
from fedinfer.artifact.quantize.calibration import synthetic_rows
from fedinfer.config import ArtifactSection, ModelKind, ModelSection
from fedinfer.errors import ConfigError, GateFailed
from fedinfer.schema import Categorical, Numeric, Schema, Text
from fedinfer.system import FrozenClock, simulation_rng
from fedinfer.training.models.build import build_model
from tests.unit.artifact.workshop import PRIVACY, START, TABLE

pytestmark = pytest.mark.slow  # tracing takes a second or more

TEXT = Schema((Text("note", 12, tuple(f"w{i}" for i in range(98))),), "topic", ("a", "b", "c"))
SERIES = Schema((), "state", ("rest", "walk"), (3, 1, 16), 1.0)
IMAGE = Schema((), "digit", tuple("0123456789"), (1, 8, 8), 16.0)
SHOP = Schema(
    (Categorical("user", tuple("abcdefgh")), Categorical("item", tuple("uvwxyz")), Numeric("age", 0.0, 99.0)),
    "bought",
    ("no", "yes"),
)
KINDS = {
    ModelKind.LOGISTIC: (TABLE, (8,)),
    ModelKind.MLP: (TABLE, (16,)),
    ModelKind.CNN: (IMAGE, (8,)),
    ModelKind.TCN: (SERIES, (32,)),
    ModelKind.GRU: (SERIES, (24,)),
    ModelKind.TRANSFORMER: (TEXT, (16,)),
    ModelKind.BAG: (TEXT, (8,)),
    ModelKind.RECOMMENDER: (SHOP, (8,)),
}


def module_of(kind: ModelKind, seed: int) -> nn.Module:
    schema, hidden = KINDS[kind]
    model = build_model(ModelSection(kind=kind, hidden=hidden), schema, seed)
    for name, child in list(model.core.named_children()):
        if hasattr(child, "native"):
            setattr(model.core, name, child.native())
    with torch.no_grad():  # a logistic model starts at zero
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def rows_of(schema: Schema, rows: int = 40) -> np.ndarray:
    x = synthetic_rows(schema, rows, simulation_rng("rows", schema.label))
    x[0] = np.nan
    x[1] = 1e9
    x[2] = -1e9
    return x


class Perceptron(nn.Module):
    """A core of a user, for rows of TABLE."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layers = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, x):
        return self.layers(torch.clamp(torch.nan_to_num(x), -300.0, 300.0) / 100.0)


@pytest.fixture(scope="module")
def templates():
    """One trace for the whole file."""
    return Templates()


@pytest.fixture(scope="module")
def exported(templates):
    return export_core(Perceptron(1), TABLE, rows_of(TABLE), templates)


def test_a_traced_core_agrees_with_torch_on_raw_rows(exported):
    """Also for missing values, values far outside the public range, and a batch of one."""
    assert exported.way is CoreOrigin.EXPORTED
    assert exported.parity < 1e-4
    x = rows_of(TABLE, 90)
    expected = torch_logits(Perceptron(1), x, TABLE.classes)
    file = exported.model.SerializeToString()
    np.testing.assert_allclose(run(file, x, "logits"), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(run(file, x, "logits", batch=1), expected, rtol=1e-4, atol=1e-4)


def test_weights_are_swapped_into_the_template(exported, templates):
    trained = Perceptron(2)
    core = export_core(trained, TABLE, rows_of(TABLE), templates)
    assert core.way is CoreOrigin.SWAPPED
    x = rows_of(TABLE, 30)
    file = core.model.SerializeToString()
    np.testing.assert_allclose(run(file, x, "logits"), torch_logits(trained, x, TABLE.classes), rtol=1e-4, atol=1e-4)
    old = run(exported.model.SerializeToString(), x, "logits")
    assert np.abs(old - run(file, x, "logits")).max() > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_becomes_a_gated_int8_artifact(kind):
    schema, _ = KINDS[kind]
    calibration = synthetic_rows(schema, 128, simulation_rng("calibration"))
    held = synthetic_rows(schema, 300, simulation_rng("held"))
    module = module_of(kind, 3)
    y = torch_logits(module, held, schema.classes).argmax(axis=1).astype(np.int64)
    settings = ArtifactSection(min_agreement=0.9, max_metric_drop=0.1)
    built = build_artifact(
        module, OutputHead(schema, 1.0, "demo", 1), Evidence(held, y, calibration, calibration), settings, Templates(),
        FrozenClock(START),
    )  # fmt: skip
    assert built.way == "written"
    assert built.chosen.name == "int8"
    assert built.chosen.bytes < built.float_bytes or kind is ModelKind.LOGISTIC
    assert len(built.manifest(PRIVACY, START.isoformat()).to_bytes()) < 200_000


def test_missing_name_is_refused(exported):
    state = dict(state_of(Perceptron(1)))
    state["layers.9.weight"] = state.pop("layers.0.weight")
    with pytest.raises(WrongTemplate, match=r"no weight 'layers.9.weight'"):
        swap_weights(exported.model, state)


def test_other_shape_and_type_are_refused(exported):
    state = dict(state_of(Perceptron(1)))
    model = exported.model
    with pytest.raises(WrongTemplate, match=r"template \[16, "):
        swap_weights(model, {**state, "layers.0.weight": state["layers.0.weight"].T})
    with pytest.raises(WrongTemplate, match="float64"):
        swap_weights(model, {**state, "layers.0.weight": state["layers.0.weight"].astype(np.float64)})


def test_weights_that_are_not_finite_are_refused(exported):
    state = dict(state_of(Perceptron(1)))
    state["layers.0.bias"][3] = np.nan
    with pytest.raises(WrongTemplate, match=r"layers.0.bias: 1 values are not finite"):
        swap_weights(exported.model, state)


def test_swapping_leaves_the_template_alone(exported):
    before = exported.model.SerializeToString()
    swap_weights(exported.model, state_of(Perceptron(8)))
    assert exported.model.SerializeToString() == before


class Scaled(nn.Module):
    """Has a constant that no name shows: two architectures that look the same."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.layer, self.factor = nn.Linear(3, 3), factor

    def forward(self, x):
        return self.layer(torch.nan_to_num(x)) * self.factor


def test_parity_mismatch_after_a_swap_is_refused():
    templates, x = Templates(), rows_of(TABLE)[3:]
    export_core(Scaled(1.0), TABLE, x, templates)
    assert architecture_hash(Scaled(1.0), TABLE) == architecture_hash(Scaled(2.0), TABLE)
    with pytest.raises(GateFailed, match="swapped: ONNX differs from torch"):
        export_core(Scaled(2.0), TABLE, x, templates)


def test_architecture_hash_sees_shapes_and_schema():
    wider = Schema((*TABLE.columns[:1], Numeric("pressure", 80.0, 300.0), TABLE.columns[2]), TABLE.label, TABLE.labels)
    one, two = module_of(ModelKind.MLP, 1), module_of(ModelKind.MLP, 2)
    assert architecture_hash(one, TABLE) == architecture_hash(two, TABLE)
    assert architecture_hash(one, TABLE) != architecture_hash(one, wider)
    other = build_model(ModelSection(kind=ModelKind.MLP, hidden=(17,)), TABLE, 1)
    assert architecture_hash(one, TABLE) != architecture_hash(other, TABLE)


class Normed(nn.Module):
    """BatchNorm: folded silently by an optimizing export, and it keeps a counter that no graph has."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv1d(1, 4, 2), nn.BatchNorm1d(4), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.norm(self.conv(torch.nan_to_num(x)[:, None, :])).flatten(1))


def test_batch_norm_statistics_are_swapped_too():
    templates = Templates()
    x = np.clip(rows_of(TABLE), -1, 1)
    export_core(Normed(), TABLE, x, templates)
    trained = Normed()
    with torch.no_grad():
        trained.norm.running_mean.add_(0.7)
        trained.norm.running_var.mul_(3.0)
    core = export_core(trained, TABLE, x, templates)
    assert core.way is CoreOrigin.SWAPPED
    assert parity(core.model, x, torch_logits(trained, x, 3)) < 1e-4


class Tied(nn.Module):
    """One tensor under two names: the exporter keeps one of them, so the template cannot be swapped."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.relu(self.first(torch.nan_to_num(x))))


def test_tied_weights_are_either_swapped_rightly_or_exported_anew():
    templates, x = Templates(), np.clip(rows_of(TABLE), -1, 1)
    for seed in (1, 2):
        tied = Tied()
        torch.nn.init.constant_(tied.first.weight, 0.1 * seed)
        core = export_core(tied, TABLE, x, templates)
        assert core.parity < 1e-4


def test_training_mode_is_restored_and_ignored():
    module = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
    module.train()
    x = np.clip(np.nan_to_num(rows_of(TABLE)), -1, 1).astype(np.float32)
    core = export_core(module, TABLE, x, Templates())
    assert module.training
    assert core.parity < 1e-4


def test_module_with_other_outputs_is_refused():
    x = np.nan_to_num(rows_of(TABLE))
    with pytest.raises(ConfigError, match=r"answers \(40, 2\), expected logits \(40, 3\)"):
        export_core(nn.Linear(3, 2), TABLE, x, Templates())


class Branching(nn.Module):
    """Control flow that depends on the data cannot be traced."""

    def forward(self, x):
        return x if float(torch.nan_to_num(x).sum()) > 0 else -x


def test_module_that_cannot_be_traced_is_explained():
    with pytest.raises(ConfigError, match="cannot be exported"):
        export_core(Branching(), TABLE, np.nan_to_num(rows_of(TABLE)), Templates())


def test_nan_logits_never_pass(exported):
    class Nothing(nn.Module):
        def forward(self, x):
            return x * float("nan")

    with pytest.raises(GateFailed, match="differs from torch by inf"):
        export_core(Nothing(), TABLE, rows_of(TABLE), Templates())
    assert isinstance(exported.model, onnx.ModelProto)
