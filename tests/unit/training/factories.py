"""Schemas, data and modules that the training tests share; also the target of `model.factory` in them."""

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, huber_loss

from fedinfer.schema import Categorical, Numeric, Schema, Text
from fedinfer.training import GradientEngine

BATCHED, PER_EXAMPLE = GradientEngine.BATCHED, GradientEngine.PER_EXAMPLE

TABLE = Schema(
    (Numeric("age", 0, 100), Numeric("bp", -1, 1), Categorical("sex", ("f", "m", "x"))), "ill", ("no", "yes")
)
NUMBER = Schema(TABLE.columns, "load", (), label_range=(100.0, 300.0), label_unit="kW")
DIGITS = Schema((), "digit", tuple("0123456789"), (1, 8, 8), 16.0)
SERIES = Schema(tuple(Numeric(f"r{i}", -2, 2) for i in range(36)), "move", ("a", "b", "c"), (3, 1, 12))
TEXT = Schema((Text("mail", 10, tuple(f"w{i}" for i in range(28))),), "spam", ("ham", "spam"))
SHOP = Schema(
    (Categorical("user", tuple("abcdef")), Numeric("hour", 0, 24), Categorical("item", tuple("uvwxyz"))),
    "like",
    ("no", "yes"),
)
BY_KIND = {
    "logistic": TABLE,
    "linear": NUMBER,
    "additive": TABLE,
    "mlp": TABLE,
    "cnn": DIGITS,
    "tcn": SERIES,
    "gru": SERIES,
    "transformer": TEXT,
    "bag": TEXT,
    "recommender": SHOP,
}


def rows(schema, count, seed):
    """Raw rows with missing, unseen and out-of-range values, and labels."""
    rng = np.random.default_rng(seed)
    if schema is TEXT:
        x = rng.integers(0, 30, (count, 10)).astype(np.float32)
    elif schema is DIGITS:
        x = rng.integers(0, 17, (count, 64)).astype(np.float32)
    else:
        x = np.stack([_column(column, count, rng) for column in schema.columns], axis=1).astype(np.float32)
        x[rng.random(x.shape) < 0.1] = np.nan
    if schema.label_range is not None:
        low, high = schema.label_range
        return x, rng.uniform(low - 20, high + 20, count)
    return x, rng.integers(0, schema.classes, count)


def torch_loss(schema, outputs, y, reduction="mean"):
    """The documented loss from torch's own functions; a numeric label is clipped and scaled by hand."""
    if schema.label_range is None:
        return cross_entropy(outputs, torch.from_numpy(y), reduction=reduction)
    low, high = schema.label_range
    scaled = torch.from_numpy(2 * (np.clip(y, low, high) - low) / (high - low) - 1).float()
    return huber_loss(outputs[:, 0], scaled, delta=0.2, reduction=reduction) / 0.2


def _column(column, count, rng):
    if isinstance(column, Categorical):
        return rng.integers(-1, len(column.categories) + 1, count)
    return rng.uniform(column.low - 1, column.high + 1, count)


def generators(count, seed=0):
    """One seeded generator per device."""
    return [np.random.default_rng((seed, device)) for device in range(count)]


def raw_linear(schema):
    """A linear model of rows as they are."""
    core = nn.Sequential(nn.Linear(schema.width, schema.outputs))
    core.raw_rows = True
    return core


def residual(schema):
    """A user's module that the stacked engine does not know."""
    return Residual(2 * 2 + 3 + 1, schema.outputs)


class Residual(nn.Module):
    """x + relu(Wx), then a linear head."""

    def __init__(self, width, classes):
        super().__init__()
        self.body, self.head = nn.Linear(width, width), nn.Linear(width, classes)

    def forward(self, x):
        return self.head(x + torch.relu(self.body(x)))


def with_dropout(schema):
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, schema.outputs))


def with_batch_norm(schema):
    return nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, schema.outputs))


def wrong_outputs(schema):
    return nn.Linear(8, schema.outputs + 1)


def wrong_inputs(schema):
    return nn.Linear(5, schema.outputs)


def not_a_module(schema):
    return 3


def raising(schema):
    raise RuntimeError("no weights today")


NOT_CALLABLE = 1


class Shifted(nn.Module):
    """A layer that owns a weight and a buffer, which Opacus refuses."""

    def __init__(self, classes):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8, classes))
        self.register_buffer("shift", torch.ones(8))

    def forward(self, x):
        return (x + self.shift) @ self.weight


def with_buffer(schema):
    return Shifted(schema.outputs)


class Spare(nn.Module):
    """Owns a parameter that forward does not use."""

    def __init__(self, classes):
        super().__init__()
        self.unused, self.linear = nn.Linear(2, 2), nn.Linear(8, classes)

    def forward(self, x):
        return self.linear(x)


def with_unused(schema):
    return Spare(schema.outputs)


def in_double(schema):
    return nn.Linear(8, schema.outputs).double()


def without_parameters(schema):
    return nn.Identity()


class _Lstm(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.lstm, self.out = nn.LSTM(1, 4, batch_first=True), nn.Linear(4, outputs)

    def forward(self, x):
        return self.out(self.lstm(x.nan_to_num().unsqueeze(-1))[0][:, -1])


class _Attention(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.inner, self.out = nn.Linear(1, 4), nn.Linear(4, outputs)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        cells = self.inner(x.nan_to_num().unsqueeze(-1))
        return self.out(self.attention(cells, cells, cells)[0].mean(1))


def lstm(schema):
    return _Lstm(schema.classes)


def attention(schema):
    return _Attention(schema.classes)


def with_frozen(schema):
    """The first layer's weights stay as they are, in the middle of the flat vector."""
    net = nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, schema.classes))
    net[2].weight.requires_grad_(False)
    return net


def all_frozen(schema):
    return with_frozen(schema).requires_grad_(False)
