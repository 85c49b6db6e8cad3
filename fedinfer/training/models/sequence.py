"""Models for sensor series, text and recommendations.

How a row describes a sequence with the schema as it is:
* series (`tcn`, `gru`): one numeric column per reading, channel by channel, and shape (channels, 1, length); without
  columns the readings lie in [0, pixel_max]; shape () means one channel.
* text (`bag`, `transformer`): a text column; rows hold token numbers of `fedinfer.text` and 0 is no word; or one
  categorical column per place whose categories are the vocabulary.
* recommendations: categorical columns (user, item, ...) and any number of numeric ones.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softmax

from fedinfer.config import ModelSection
from fedinfer.errors import ConfigError
from fedinfer.schema import Categorical, Schema
from fedinfer.training.models.preprocess import FieldPrepare, PixelPrepare, SeriesPrepare, TokenPrepare

Parts = tuple[nn.Module, nn.Module]


class Recurrent(nn.Module):
    """A gated recurrent unit (Cho et al. 2014, in torch's form) whose last state is the output.

    Written with two linear layers so that per-example gradients exist; `native` gives the same function as one
    torch.nn.GRU, which exports to a single operator.
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.input = nn.Linear(channels, 3 * size)
        self.state = nn.Linear(size, 3 * size)

    def forward(self, series: Tensor) -> Tensor:
        """The state after the last reading; it starts at zero.

        Args:
            series: (n, channels, length) float32.

        Returns:
            (n, size) float32.
        """
        steps = self.input(series.transpose(1, 2))
        state = torch.zeros(series.shape[0], self.size, dtype=series.dtype)
        for step in steps.unbind(1):
            reset_in, update_in, new_in = step.chunk(3, dim=1)
            reset_state, update_state, new_state = self.state(state).chunk(3, dim=1)
            update = torch.sigmoid(update_in + update_state)
            fresh = torch.tanh(new_in + torch.sigmoid(reset_in + reset_state) * new_state)
            state = fresh + update * (state - fresh)
        return state

    def native(self) -> NativeRecurrent:
        """The same function with the same weights as one operator."""
        return NativeRecurrent(self)


class NativeRecurrent(nn.Module):
    """`Recurrent` for export and fast evaluation: same weights, one GRU operator."""

    def __init__(self, source: Recurrent) -> None:
        super().__init__()
        self.gru = nn.GRU(source.input.in_features, source.size, batch_first=True)
        with torch.no_grad():
            own = dict(self.gru.named_parameters())
            own["weight_ih_l0"].copy_(source.input.weight)
            own["bias_ih_l0"].copy_(source.input.bias)
            own["weight_hh_l0"].copy_(source.state.weight)
            own["bias_hh_l0"].copy_(source.state.bias)

    def forward(self, series: Tensor) -> Tensor:
        """As `Recurrent.forward`."""
        state: Tensor = self.gru(series.transpose(1, 2))[1]
        return state[0]


class TokenAverage(nn.Module):
    """Mean of the embeddings of all tokens that are not padding."""

    def __init__(self, vocabulary: int, size: int) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary, size)

    def forward(self, tokens: Tensor) -> Tensor:
        """The mean over tokens that are not padding; zeros for a text of padding only.

        Args:
            tokens: (n, length) whole numbers as float32, 0 for padding.

        Returns:
            (n, size) float32.
        """
        present = (tokens > 0).to(tokens.dtype).unsqueeze(2)
        total: Tensor = (self.table(tokens.to(torch.int64)) * present).sum(dim=1)
        return total / torch.clamp(present.sum(dim=1), min=1.0)


class TokenEncoder(nn.Module):
    """One block of a transformer encoder (pre-norm) over embedded tokens, then their mean.

    Attention weights of padding are multiplied by zero and the rest is rescaled: a large negative bias would ruin the
    int8 range of the scores. Positions are the fixed sines of Vaswani et al. 2017, section 3.5.
    """

    def __init__(self, vocabulary: int, length: int, size: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, size
        self.table = nn.Embedding(vocabulary, size)
        self.norm_attention, self.norm_feed, self.norm_out = nn.LayerNorm(size), nn.LayerNorm(size), nn.LayerNorm(size)
        self.query, self.key, self.value = nn.Linear(size, size), nn.Linear(size, size), nn.Linear(size, size)
        self.mix, self.widen, self.narrow = nn.Linear(size, size), nn.Linear(size, 2 * size), nn.Linear(2 * size, size)
        self.places = _sines(length, size)  # a plain constant, not a weight

    def forward(self, tokens: Tensor) -> Tensor:
        """The mean of the encoded tokens that are not padding; zeros for a text of padding only.

        Args:
            tokens: (n, length) whole numbers as float32, 0 for padding.

        Returns:
            (n, size) float32.
        """
        present = (tokens > 0).to(tokens.dtype)
        h: Tensor = self.table(tokens.to(torch.int64)) + self.places
        h = h + self.mix(self._attend(self.norm_attention(h), present))
        h = h + self.narrow(torch.relu(self.widen(self.norm_feed(h))))
        weight = present.unsqueeze(2)
        total: Tensor = (self.norm_out(h) * weight).sum(dim=1)
        return total / torch.clamp(weight.sum(dim=1), min=1.0)

    def _attend(self, h: Tensor, present: Tensor) -> Tensor:
        """Scaled dot-product attention, (n, length, size) to the same."""
        query, key, value = self._split(self.query(h)), self._split(self.key(h)), self._split(self.value(h))
        scores = query @ key.transpose(2, 3) / math.sqrt(self.size / self.heads)
        weights = softmax(scores, dim=3) * present[:, None, None, :]
        weights = weights / torch.clamp(
            weights.sum(dim=3, keepdim=True), min=1e-6
        )  # a text of padding only gives zeros
        return (weights @ value).transpose(1, 2).reshape(h.shape)

    def _split(self, h: Tensor) -> Tensor:
        """(n, length, size) to (n, heads, length, size / heads)."""
        return h.reshape(h.shape[0], h.shape[1], self.heads, -1).transpose(1, 2)


class FieldEmbedding(nn.Module):
    """Embeddings of all fields side by side, their pairwise products (two fields), then the numeric columns."""

    def __init__(self, rows: int, fields: int, size: int) -> None:
        super().__init__()
        self.fields = fields
        self.table = nn.Embedding(rows, size)
        nn.init.normal_(self.table.weight, std=0.1)

    def forward(self, prepared: Tensor) -> Tensor:
        """Embeddings, products and numbers side by side.

        Args:
            prepared: (n, fields + numbers) from `FieldPrepare`.

        Returns:
            (n, features) float32.
        """
        embedded = self.table(prepared[:, : self.fields].to(torch.int64))
        parts = [embedded.flatten(1), prepared[:, self.fields :]]
        if self.fields > 1:  # the product of the first two, user and item, is what matrix factorisation uses
            parts.append(embedded[:, 0] * embedded[:, 1])
        return torch.cat(parts, dim=1)


def build_tcn(section: ModelSection, schema: Schema) -> Parts:
    """A 1-D convolutional network with GroupNorm.

    Args:
        section: hidden = channels of its blocks, one convolution each.
        schema: of a series: shape (channels, 1, length) or () for one channel.

    Returns:
        Preparation and core.

    Raises:
        ConfigError: the schema is no series.
    """
    prepare, channels, length = _series(schema, "tcn")
    layers: list[nn.Module] = []
    for size in section.hidden:
        stride = 2 if length >= 8 else 1
        layers += [nn.Conv1d(channels, size, 5, stride, 2), nn.GroupNorm(math.gcd(size, 4), size), nn.ReLU()]
        channels, length = size, -(-length // stride)
    layers += [nn.AdaptiveAvgPool1d(1), nn.Flatten()]
    return prepare, nn.Sequential(*layers, nn.Linear(channels, schema.outputs))


def build_gru(section: ModelSection, schema: Schema) -> Parts:
    """A gated recurrent unit and a linear head.

    Args:
        section: hidden[0] = units.
        schema: of a series: shape (channels, 1, length) or () for one channel.

    Returns:
        Preparation and core.

    Raises:
        ConfigError: the schema is no series, or no hidden size is given.
    """
    prepare, channels, _ = _series(schema, "gru")
    size = _first(section)
    return prepare, nn.Sequential(Recurrent(channels, size), nn.Linear(size, schema.outputs))


def build_bag(section: ModelSection, schema: Schema) -> Parts:
    """The mean of embeddings, then linear layers.

    Args:
        section: hidden[0] = numbers of an embedding; the rest = sizes of the layers.
        schema: of a text.

    Returns:
        Preparation and core.

    Raises:
        ConfigError: the schema is no text, or no hidden size is given.
    """
    prepare, vocabulary, _ = _tokens(schema, "bag")
    width = _first(section)
    layers: list[nn.Module] = [TokenAverage(vocabulary, width)]
    return prepare, nn.Sequential(*layers, *_dense(width, section.hidden[1:], schema.outputs))


def build_transformer(section: ModelSection, schema: Schema) -> Parts:
    """A one-block encoder, then linear layers.

    Args:
        section: hidden[0] = width of the encoder; the rest = sizes of the layers.
        schema: of a text.

    Returns:
        Preparation and core.

    Raises:
        ConfigError: the schema is no text, or no hidden size is given.
    """
    prepare, vocabulary, length = _tokens(schema, "transformer")
    width = _first(section)
    encoder = TokenEncoder(vocabulary, length, width, math.gcd(width, 4))
    return prepare, nn.Sequential(encoder, *_dense(width, section.hidden[1:], schema.outputs))


def build_recommender(section: ModelSection, schema: Schema) -> Parts:
    """Field embeddings, then linear layers.

    Args:
        section: hidden[0] = numbers of an embedding; the rest = sizes of the layers.
        schema: with at least one categorical column.

    Returns:
        Preparation and core.

    Raises:
        ConfigError: there is no categorical column, or no hidden size is given.
    """
    prepare = FieldPrepare(schema)
    if not prepare.fields:
        raise ConfigError("model.kind = 'recommender' needs a categorical column", hint="use kind = 'mlp'")
    size = _first(section)
    width = prepare.fields * size + (size if prepare.fields > 1 else 0) + prepare.numbers
    embedding = FieldEmbedding(prepare.rows, prepare.fields, size)
    return prepare, nn.Sequential(embedding, *_dense(width, section.hidden[1:], schema.outputs))


def _dense(width: int, hidden: tuple[int, ...], classes: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(width, size), nn.ReLU()]
        width = size
    return [*layers, nn.Linear(width, classes)]


def _first(section: ModelSection) -> int:
    if not section.hidden:
        raise ConfigError(f"model.hidden: kind = '{section.kind}' needs at least one size")
    return section.hidden[0]


def _series(schema: Schema, kind: str) -> tuple[nn.Module, int, int]:
    """Prepare module, channels and length of a series."""
    if schema.shape:
        channels, height, length = schema.shape
    else:
        channels, height, length = 1, 1, len(schema.columns)
    if height != 1 or length < 1:
        raise ConfigError(f"model.kind = '{kind}' needs shape (channels, 1, length), got {schema.shape}")
    if not schema.columns:
        return PixelPrepare(schema.pixel_max, (channels, length)), channels, length
    if channels * length != len(schema.columns):
        raise ConfigError(f"shape {schema.shape} needs {channels * length} columns, got {len(schema.columns)}")
    return SeriesPrepare(schema, channels, length), channels, length


def _tokens(schema: Schema, kind: str) -> tuple[nn.Module, int, int]:
    """Prepare module, vocabulary size with padding, and length of a text."""
    if schema.text is not None:
        return TokenPrepare(schema.text.last, 0), schema.text.last + 1, schema.text.length
    words = [len(c.categories) for c in schema.columns if isinstance(c, Categorical)]
    if len(words) != len(schema.columns) or len(set(words)) != 1:
        raise ConfigError(
            f"model.kind = '{kind}' needs a text column, or categorical columns of one vocabulary",
            hint='[data] text = "COLUMN" names a column of free text',
        )
    return TokenPrepare(words[0], 1), words[0] + 1, len(words)


def _sines(length: int, size: int) -> Tensor:
    """(length, size): sine and cosine of position / 10000^(2 i / size)."""
    place = torch.arange(length, dtype=torch.float32).unsqueeze(1)
    rate = torch.pow(10000.0, -torch.arange(0, size, 2, dtype=torch.float32) / size)
    waves = torch.zeros(length, size)
    waves[:, 0::2] = torch.sin(place * rate)
    waves[:, 1::2] = torch.cos(place * rate[: size // 2])
    return waves
