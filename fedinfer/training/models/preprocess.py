"""The first part of every model graph: raw rows to numbers a network can learn from. No parameters, only public facts.

Rules:
* A row is float32 (width,), NaN where a value is missing; nothing outside the public ranges gets through.
* Numeric columns are clamped to their range and scaled to [-1, 1], in even steps between their breaks; a missing one
  becomes 0 and sets its indicator.
* Categorical columns become one-hot; anything that is not an index of a category counts as missing.
* Pixels are clamped to [0, pixel_max] and scaled to [0, 1]; a missing one becomes 0.
* A module that was trained elsewhere prepares rows itself: they are filled, clamped, and stay as they are.
* Tokens are whole numbers up to the last of the vocabulary; 0 is padding, a missing or odd value counts as padding.
"""

from __future__ import annotations

import math
from typing import assert_never

import torch
from torch import Tensor, nn

from fedinfer.errors import ConfigError
from fedinfer.schema import Categorical, Column, Numeric, Schema, Text
from fedinfer.training.models.stretch import Stretch


class RawPrepare(nn.Module):
    """(n, width) raw to the same, within the public ranges; a missing number is the middle of its range.

    Args:
        schema: of any rows; a missing category is the first, a missing token none, a missing pixel black.
    """

    low: Tensor
    high: Tensor
    filled: Tensor

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        ranges = [_ends(column) for column in schema.columns] or [(0.0, schema.pixel_max)]
        low, high = (torch.tensor(ends) for ends in zip(*ranges, strict=True))
        numeric = torch.tensor([isinstance(column, Numeric) for column in schema.columns] or [False])
        constants(self, low=low, high=high, filled=torch.where(numeric, (low + high) / 2, 0.0))

    def forward(self, rows: Tensor) -> Tensor:
        """Rows without a missing value, within their ranges.

        Args:
            rows: (n, width) float32, NaN for missing.

        Returns:
            (n, width) float32.
        """
        return torch.where(torch.isnan(rows), self.filled, torch.minimum(torch.maximum(rows, self.low), self.high))


def _ends(column: Column) -> tuple[float, float]:
    match column:
        case Numeric():
            return column.low, column.high
        case Categorical():
            return 0.0, len(column.categories) - 1.0
        case Text():
            return 0.0, float(column.last)
        case _:
            assert_never(column)


class TablePrepare(nn.Module):
    """(n, width) raw to (n, `features`): scaled numbers, their missing flags, one-hot categories, their missing flags.

    Args:
        schema: a schema with columns.
        scale: factor of all features, > 0; see `fair_scale`.
    """

    numeric_at: Tensor
    low: Tensor
    high: Tensor
    category_at: Tensor
    last: Tensor
    pair_at: Tensor
    pair_code: Tensor

    def __init__(self, schema: Schema, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        numeric = [(i, c) for i, c in enumerate(schema.columns) if isinstance(c, Numeric)]
        categorical = [(i, c) for i, c in enumerate(schema.columns) if isinstance(c, Categorical)]
        pairs = [(i, code) for i, c in categorical for code in range(len(c.categories))]
        self.numbers, self.categories = len(numeric), len(categorical)
        self.features = 2 * len(numeric) + len(pairs) + len(categorical)
        self.stretch = Stretch([c for _, c in numeric])
        constants(
            self,
            numeric_at=torch.tensor([i for i, _ in numeric], dtype=torch.int64),
            low=torch.tensor([c.low for _, c in numeric]),
            high=torch.tensor([c.high for _, c in numeric]),
            category_at=torch.tensor([i for i, _ in categorical], dtype=torch.int64),
            last=torch.tensor([len(c.categories) - 1.0 for _, c in categorical]),
            pair_at=torch.tensor([i for i, _ in pairs], dtype=torch.int64),
            pair_code=torch.tensor([float(code) for _, code in pairs]),
        )

    def forward(self, rows: Tensor) -> Tensor:
        """Numbers and categories, each with its missing flags.

        Args:
            rows: (n, width) float32, NaN for missing.

        Returns:
            (n, features) float32: numbers, their flags, one-hot categories, their flags.
        """
        parts: list[Tensor] = []
        if self.numbers:
            scaled, missing = _scale(rows.index_select(1, self.numeric_at), self.low, self.high, self.stretch)
            parts += [scaled, missing]
        if self.categories:
            values = rows.index_select(1, self.category_at)
            known = (values >= 0) & (values <= self.last) & (values == torch.floor(values))
            chosen = torch.eq(rows.index_select(1, self.pair_at), self.pair_code)
            parts += [chosen.to(rows.dtype), 1.0 - known.to(rows.dtype)]
        features = torch.cat(parts, dim=1)
        return features if self.scale == 1.0 else features * self.scale


def fair_scale(terms: int) -> float:
    """1 / sqrt(terms): each column adds about 1 to the squared norm of a row at most, so rows get norms up to about 1.

    Then one step size and one clipping norm mean the same for 3 columns and for 300: the curvature of a regression's
    loss is bounded by the squared norm of a row (Shalev-Shwartz and Ben-David 2014, section 12.1.3).

    Args:
        terms: columns or other summands, >= 1.
    """
    return 1.0 / math.sqrt(max(terms, 1))


LENGTH = 4.0
"""L2 norm of a standardized image, whatever its size: about that of a drawing of 8 x 8 pixels in [0, 1]."""
FLAT = 1e-6
"""An image that differs from its mean by less is one of a single shade, and becomes zeros."""


class PixelPrepare(nn.Module):
    """(n, width) pixels to (n, *shape), in [0, 1] or standardized.

    Args:
        pixel_max: largest pixel value, > 0.
        shape: shape of one prepared row.
        standardized: each row less its own mean, scaled to the norm LENGTH: it depends on that row alone, so the
            gradient of a row still does not depend on other rows.
    """

    def __init__(self, pixel_max: float, shape: tuple[int, ...], standardized: bool = False) -> None:
        super().__init__()
        self.pixel_max, self.shape, self.standardized = pixel_max, shape, standardized

    def forward(self, rows: Tensor) -> Tensor:
        """Pixels scaled to [0, 1], or standardized.

        Args:
            rows: (n, width) float32 in [0, pixel_max], NaN for missing.

        Returns:
            (n, *shape) float32.
        """
        scaled = torch.nan_to_num(rows, nan=0.0).clamp_(0.0, self.pixel_max).div_(self.pixel_max)
        if self.standardized:
            centred = scaled - scaled.mean(dim=1, keepdim=True)
            length = torch.sqrt((centred * centred).sum(dim=1, keepdim=True))
            scaled = centred * LENGTH / torch.clamp(length, min=FLAT)
        return scaled.reshape(-1, *self.shape)


class SeriesPrepare(nn.Module):
    """(n, width) readings with public ranges to (n, channels, length) in [-1, 1]; missing readings become 0.

    Args:
        schema: numeric columns in the order channel by channel, shape (channels, 1, length) or () for one channel.
        channels: of the series, >= 1.
        length: readings of a channel, >= 1.
    """

    low: Tensor
    high: Tensor

    def __init__(self, schema: Schema, channels: int, length: int) -> None:
        super().__init__()
        columns = [c for c in schema.columns if isinstance(c, Numeric)]
        if len(columns) != len(schema.columns):
            raise ConfigError("model.kind: a series takes numeric columns only", hint="use kind = 'mlp' for a table")
        self.shape, self.stretch = (channels, length), Stretch(columns)
        constants(self, low=torch.tensor([c.low for c in columns]), high=torch.tensor([c.high for c in columns]))

    def forward(self, rows: Tensor) -> Tensor:
        """Readings scaled to [-1, 1].

        Args:
            rows: (n, channels * length) float32, NaN for missing.

        Returns:
            (n, channels, length) float32.
        """
        scaled, _ = _scale(rows, self.low, self.high, self.stretch)
        return scaled.reshape(-1, *self.shape)


class TokenPrepare(nn.Module):
    """(n, length) float-coded token numbers, cleaned: whole, in [0, largest], 0 for padding and anything odd.

    Args:
        largest: last token number of the vocabulary.
        offset: added to what is present; 1 when rows hold category indices that start at 0.
    """

    special_rows = (0,)  # of the embedding table: padding

    def __init__(self, largest: int, offset: int) -> None:
        super().__init__()
        self.largest, self.offset = float(largest), float(offset)

    def forward(self, rows: Tensor) -> Tensor:
        """Token numbers that an embedding table can look up.

        Args:
            rows: (n, length) float32.

        Returns:
            (n, length), still float32 (exact up to 2^24).
        """
        tokens = rows + self.offset
        valid = (tokens >= 0) & (tokens <= self.largest) & (tokens == torch.floor(tokens))
        return torch.where(valid, tokens, torch.zeros_like(tokens))


class FieldPrepare(nn.Module):
    """(n, width) to (n, width): category indices become rows of one shared embedding table, numbers are scaled.

    Each categorical column owns `len(categories) + 1` rows of the table, its first one for missing and unseen values.
    The categorical columns come first in the result.
    """

    field_at: Tensor
    last: Tensor
    first: Tensor
    numeric_at: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        categorical = [(i, c) for i, c in enumerate(schema.columns) if isinstance(c, Categorical)]
        numeric = [(i, c) for i, c in enumerate(schema.columns) if isinstance(c, Numeric)]
        sizes = [len(c.categories) + 1 for _, c in categorical]
        self.fields, self.numbers, self.rows = len(categorical), len(numeric), sum(sizes)
        self.stretch = Stretch([c for _, c in numeric])
        self.special_rows = tuple(sum(sizes[:k]) for k in range(len(sizes)))  # missing and unseen, one per column
        constants(
            self,
            field_at=torch.tensor([i for i, _ in categorical], dtype=torch.int64),
            last=torch.tensor([size - 2.0 for size in sizes]),
            first=torch.tensor(self.special_rows, dtype=torch.float32),
            numeric_at=torch.tensor([i for i, _ in numeric], dtype=torch.int64),
            low=torch.tensor([c.low for _, c in numeric]),
            high=torch.tensor([c.high for _, c in numeric]),
        )

    def forward(self, rows: Tensor) -> Tensor:
        """Rows of the embedding table, then scaled numbers.

        Args:
            rows: (n, width) float32, NaN for missing.

        Returns:
            (n, fields + numbers) float32; the first `fields` columns are whole numbers in [0, `rows`).
        """
        values = rows.index_select(1, self.field_at)
        known = (values >= 0) & (values <= self.last) & (values == torch.floor(values))
        table_rows = torch.where(known, values + 1.0, torch.zeros_like(values)) + self.first
        if not self.numbers:
            return table_rows
        scaled, _ = _scale(rows.index_select(1, self.numeric_at), self.low, self.high, self.stretch)
        return torch.cat([table_rows, scaled], dim=1)


def _scale(values: Tensor, low: Tensor, high: Tensor, stretch: Stretch) -> tuple[Tensor, Tensor]:
    """Values scaled to [-1, 1] with 0 for missing, and the missing flags."""
    missing = torch.isnan(values)
    clamped = torch.minimum(torch.maximum(values, low), high)
    scaled = (stretch(clamped) - low) * (2.0 / (high - low)) - 1.0
    return torch.where(missing, torch.zeros_like(scaled), scaled), missing.to(values.dtype)


def constants(module: nn.Module, **tensors: Tensor) -> None:
    """Attach tensors that belong to the graph and not to the weights.

    Args:
        module: gets them as buffers that are not saved.
        tensors: by name.
    """
    for name, tensor in tensors.items():
        module.register_buffer(name, tensor, persistent=False)
