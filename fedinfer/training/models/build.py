"""Models by name: `prepare` (no parameters) then `core` (all parameters). Raw rows in, logits or one number out.

Rules:
* `forward` takes float32 (n, schema.width) as it comes from the device and returns logits (n, classes), or (n, 1) for a
  numeric label scaled to [-1, 1].
* The start weights follow from (section, schema, seed) alone; the global torch generator is left as it was.
* GroupNorm, never BatchNorm: per-example gradients and federated averages need examples that do not see each other.
* The head is the last module of `core` that owns parameters; its parameters are the tail of the flat vector.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedinfer.config import ModelKind, ModelSection
from fedinfer.errors import ConfigError
from fedinfer.ports import GraphWriter
from fedinfer.schema import Schema
from fedinfer.training.engines.gradient_engine import GradientEngine
from fedinfer.training.engines.seeding import seeded
from fedinfer.training.models.additive import AdditivePrepare, build_additive
from fedinfer.training.models.graphs import GraphPlace, NotWritten, write
from fedinfer.training.models.preprocess import (
    FieldPrepare,
    PixelPrepare,
    RawPrepare,
    SeriesPrepare,
    TablePrepare,
    TokenPrepare,
    fair_scale,
)
from fedinfer.training.models.sequence import build_bag, build_gru, build_recommender, build_tcn, build_transformer
from fedinfer.types import GraphFamily

MAX_PARAMETERS = 50_000_000
RAW_ROWS = "raw_rows"
"""Attribute of a factory's module: true where it takes rows as they are, as a model that was trained elsewhere does."""
_FOR_NUMBERS = "use kind = 'linear', 'additive' or 'mlp'"
_FOR_CLASSES = "use kind = 'logistic', or give the label's public range: [data] label_range = [low, high]"


class Model(nn.Module):
    """A whole graph: raw rows (n, width) to logits (n, classes).

    Args:
        prepare: module without parameters, raw rows to what `core` takes.
        core: module with the parameters, to logits.
        own: whether the core comes from a user's factory.
    """

    def __init__(self, prepare: nn.Module, core: nn.Module, own: bool = False) -> None:
        super().__init__()
        self.prepare, self.core, self.own = prepare, core, own

    def forward(self, rows: Tensor) -> Tensor:
        """Map (n, width) to (n, classes).

        Args:
            rows: (n, width) float32, NaN for missing.

        Returns:
            Logits (n, classes) float32.
        """
        logits: Tensor = self.core(self.prepare(rows))
        return logits

    def write_graph(self, graph: GraphWriter, rows: str) -> str | None:
        """Write the ONNX graph of this model, with its weights.

        Args:
            graph: gets the nodes; unfinished where None is returned.
            rows: name of the input, float32 (n, width).

        Returns:
            Name of the logits; None for a user's own core, or one whose modules have no writer: it has to be traced.
        """
        if self.own:
            return None
        try:
            prepared, rank = write(self.prepare, GraphPlace(graph, "prepare", 2), rows)
            return write(self.core, GraphPlace(graph, "core", rank), prepared)[0]
        except NotWritten:
            return None


@dataclass(frozen=True, slots=True)
class KindEntry:
    """Everything that is particular to one model kind.

    Args:
        build: the graph for a section and a schema.
        prepares: which modules may come before its core.
        engine: who computes its per-example gradients when a host asks for BATCHED: OPACUS costs three to ten times
            more, so a kind does not fall back to it unsaid.
        family: how its exported graph is quantized.
        classes, numbers: whether it predicts classes, and numbers.
    """

    build: Callable[[ModelSection, Schema], Model]
    prepares: tuple[type[nn.Module], ...]
    engine: GradientEngine
    family: GraphFamily
    classes: bool = True
    numbers: bool = True


def build_model(section: ModelSection, schema: Schema, seed: int) -> Model:
    """Build a model with deterministic start weights.

    Args:
        section: kind and hidden sizes, or a factory "package.module:callable" that is called with the schema and
            returns the core: it gets (n, features) for a table, (n, channels, height, width) for an image and
            (n, length) token numbers for a text; rows as they are, (n, width), where its attribute `raw_rows` is true.
        schema: what a row looks like.
        seed: seed of the start weights.

    Raises:
        ConfigError: the kind does not fit the schema, or the factory cannot be used.
    """
    _check_text(section, schema)
    _check_label(section, schema)
    with seeded(seed):
        model = (
            _from_factory(section.factory, schema) if section.factory else _entry(section.kind).build(section, schema)
        )
    _check(model, section)
    model.eval()
    return model


def _entry(kind: ModelKind) -> KindEntry:
    if kind not in KINDS:
        raise ConfigError(f"model.kind = '{kind}' has no entry in KINDS", hint="fedinfer/training/models/build.py")
    return KINDS[kind]


def _check_text(section: ModelSection, schema: Schema) -> None:
    """Token numbers have no order: nothing but an embedding can read them."""
    if schema.text is None or section.factory or TokenPrepare in _entry(section.kind).prepares:
        return
    able = " or ".join(f"'{kind}'" for kind, entry in KINDS.items() if TokenPrepare in entry.prepares)
    raise ConfigError(f"model.kind = '{section.kind}' cannot read texts", hint=f"use kind = {able}")


def _check_label(section: ModelSection, schema: Schema) -> None:
    """The two names of one linear map tell what its answers are."""
    if section.factory:
        return
    if schema.label_range is not None and not _entry(section.kind).numbers:
        raise ConfigError(f"model.kind = '{section.kind}' predicts a class, the label is a number", hint=_FOR_NUMBERS)
    if schema.label_range is None and not _entry(section.kind).classes:
        raise ConfigError(f"model.kind = '{section.kind}' predicts a number, the label is a class", hint=_FOR_CLASSES)


def _logistic(section: ModelSection, schema: Schema) -> Model:
    """Zero start: the problem is convex and zero needs no luck."""
    prepare, features = _flat_prepare(section, schema)
    head = nn.Linear(features, schema.outputs)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return Model(prepare, nn.Sequential(head))


def _linear(section: ModelSection, schema: Schema) -> Model:
    """As logistic, on features whose norm does not grow with the number of columns; see `fair_scale`."""
    if not schema.columns:
        return _logistic(section, schema)
    prepare = TablePrepare(schema, fair_scale(len(schema.columns)))
    head = nn.Linear(prepare.features, schema.outputs)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return Model(prepare, nn.Sequential(head))


def _mlp(section: ModelSection, schema: Schema) -> Model:
    prepare, width = _flat_prepare(section, schema)
    layers: list[nn.Module] = []
    for size in section.hidden:
        layers += [nn.Linear(width, size), nn.ReLU()]
        width = size
    return Model(prepare, nn.Sequential(*layers, nn.Linear(width, schema.outputs)))


def _cnn(section: ModelSection, schema: Schema) -> Model:
    if not schema.shape or schema.columns:
        raise ConfigError("model.kind = 'cnn' needs images, this schema describes a table", hint="use kind = 'mlp'")
    channels, height, width = schema.shape
    layers: list[nn.Module] = []
    for size in section.hidden:
        stride = 2 if min(height, width) >= 8 else 1
        layers += [nn.Conv2d(channels, size, 3, stride, 1), nn.GroupNorm(math.gcd(size, 4), size), nn.ReLU()]
        channels, height, width = size, -(-height // stride), -(-width // stride)
    layers += [nn.Flatten(), nn.Linear(channels * height * width, schema.outputs)]
    return Model(_pixels(section, schema, schema.shape), nn.Sequential(*layers))


def _flat_prepare(section: ModelSection, schema: Schema) -> tuple[nn.Module, int]:
    """Prepared rows as one vector, and its length."""
    if schema.columns:
        table = TablePrepare(schema)
        return table, table.features
    return _pixels(section, schema, (schema.width,)), schema.width


def _pixels(section: ModelSection, schema: Schema, shape: tuple[int, ...]) -> PixelPrepare:
    return PixelPrepare(schema.pixel_max, shape, section.pixels == "standardized")


def _sequence(build: Callable[[ModelSection, Schema], tuple[nn.Module, nn.Module]]) -> Callable[..., Model]:
    return lambda section, schema: Model(*build(section, schema))


_FLAT, _SERIES, _TOKENS = (TablePrepare, PixelPrepare), (SeriesPrepare, PixelPrepare), (TokenPrepare,)
KINDS: dict[ModelKind, KindEntry] = {
    ModelKind.LOGISTIC: KindEntry(_logistic, _FLAT, GradientEngine.BATCHED, GraphFamily.DENSE, numbers=False),
    ModelKind.LINEAR: KindEntry(_linear, _FLAT, GradientEngine.BATCHED, GraphFamily.DENSE, classes=False),
    ModelKind.ADDITIVE: KindEntry(
        _sequence(build_additive), (AdditivePrepare,), GradientEngine.BATCHED, GraphFamily.ADDITIVE
    ),
    ModelKind.MLP: KindEntry(_mlp, _FLAT, GradientEngine.BATCHED, GraphFamily.DENSE),
    ModelKind.CNN: KindEntry(_cnn, (PixelPrepare,), GradientEngine.BATCHED, GraphFamily.CONVOLUTION),
    ModelKind.TCN: KindEntry(_sequence(build_tcn), _SERIES, GradientEngine.BATCHED, GraphFamily.CONVOLUTION),
    ModelKind.GRU: KindEntry(_sequence(build_gru), _SERIES, GradientEngine.OPACUS, GraphFamily.RECURRENT),
    ModelKind.BAG: KindEntry(_sequence(build_bag), _TOKENS, GradientEngine.OPACUS, GraphFamily.EMBEDDING),
    ModelKind.TRANSFORMER: KindEntry(
        _sequence(build_transformer), _TOKENS, GradientEngine.OPACUS, GraphFamily.ATTENTION
    ),
    ModelKind.RECOMMENDER: KindEntry(
        _sequence(build_recommender), (FieldPrepare,), GradientEngine.OPACUS, GraphFamily.EMBEDDING
    ),
}
"""The table of kinds: a new one is an enum member and an entry here. What else has to know it (data of tests,
docs/model-kinds.md, benchmarks/artifact.py, simulations/model_kinds.py): tests/unit/training/models/test_kinds.py."""


def _from_factory(path: str, schema: Schema) -> Model:
    factory = _load(path)
    try:
        core = factory(schema)
    except Exception as error:  # user code may raise anything; it becomes one readable error
        raise ConfigError(f"model.factory = {path!r} failed: {error!r}") from error
    if not isinstance(core, nn.Module):
        raise ConfigError(f"model.factory = {path!r} returned {type(core).__name__}, a torch.nn.Module is needed")
    prepare = RawPrepare(schema) if getattr(core, RAW_ROWS, False) else _factory_prepare(schema)
    return Model(prepare, core, own=True)


def _factory_prepare(schema: Schema) -> nn.Module:
    if schema.text is not None:
        return TokenPrepare(schema.text.last, 0)
    return TablePrepare(schema) if schema.columns else PixelPrepare(schema.pixel_max, schema.shape)


def _load(path: str) -> Callable[[Schema], Any]:
    """Import "package.module:callable".

    Raises:
        ConfigError: names the key and what is wrong with it.
    """
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # importing user code may raise anything
        raise ConfigError(f"model.factory = {path!r} cannot be imported: {error}") from error
    factory = getattr(module, name, None)
    if not callable(factory):
        raise ConfigError(f"model.factory = {path!r}: module {module_name} has no callable {name!r}")
    checked: Callable[[Schema], Any] = factory
    return checked


def _check(model: Model, section: ModelSection) -> None:
    """Refuse what cannot be trained federated."""
    if section.pixels == "standardized" and not getattr(model.prepare, "standardized", False):
        raise ConfigError(
            "model.pixels = 'standardized': there is no image to standardize",
            hint="it is for images of kinds 'logistic', 'mlp' and 'cnn'",
        )
    key = "factory" if section.factory else "kind"
    for module in model.core.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ConfigError(f"model.{key}: BatchNorm mixes examples", hint="use torch.nn.GroupNorm")
    count = sum(parameter.numel() for parameter in model.core.parameters())
    if not 0 < count <= MAX_PARAMETERS:
        raise ConfigError(f"model.{key}: {count} parameters, allowed are 1 to {MAX_PARAMETERS}")
    if any(parameter.dtype != torch.float32 for parameter in model.core.parameters()):
        raise ConfigError(f"model.{key}: every parameter must be float32")
