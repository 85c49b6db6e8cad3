"""Additive models: a function of each column, added up (Hastie and Tibshirani 1986; glass-box: Lou et al. 2012).

The function of a numeric column is piecewise linear on K public knots, evenly spaced over its public range (over the
steps between its public breaks, where it has some). Hat
functions h_1 .. h_K interpolate between knots; what is trained are K - 1 coordinates of the values at the knots in a
fixed public basis, so the model is linear in its weights and trains like logistic or linear regression:

* the first coordinate is the straight line from -1 to 1: with the others at zero the model is the linear one;
* the others bend it, in order of their waves (discrete cosines, made orthogonal to constant and line). Coordinate j
  bends by at most 1 / j: a fixed, public smoothness prior, because rough functions need larger weights and each weight
  carries the same noise (as in ridge regression on scaled features, Eilers and Marx 1996, section 3).

A missing number sets its indicator and adds nothing else. A category is a level of its own, missing and unseen ones are
one more. A pair of columns is the product of their (coarser) hats or levels, on a public list. Of a regression all
features carry one factor more, see `preprocess.fair_scale`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn

from fedinfer.config import ModelSection
from fedinfer.errors import ConfigError
from fedinfer.schema import Categorical, Numeric, Schema
from fedinfer.training.models.basis import bending
from fedinfer.training.models.preprocess import constants, fair_scale
from fedinfer.training.models.stretch import Stretch


@dataclass(frozen=True, slots=True)
class Term:
    """One summand of the model.

    Args:
        columns: names, one or two.
        size: features that belong to it.
    """

    columns: tuple[str, ...]
    size: int


def terms_of(section: ModelSection, schema: Schema) -> tuple[Term, ...]:
    """The summands of a model in the order of its features: numbers, categories, pairs.

    Args:
        section: knots and pairs.
        schema: of a table.

    Raises:
        ConfigError: a pair names a column that is no input, or one twice.
    """
    levels = {c.name: len(c.categories) + 1 for c in schema.columns if isinstance(c, Categorical)}
    numeric = [c.name for c in schema.columns if isinstance(c, Numeric)]
    _check_pairs(section.pairs, {*levels, *numeric})
    single = [Term((name,), section.knots) for name in numeric]
    listed = [Term((name,), size) for name, size in levels.items()]
    coarse = {**levels, **dict.fromkeys(numeric, section.pair_knots)}
    paired = [Term((a, b), coarse[a] * coarse[b]) for a, b in section.pairs]
    return (*single, *listed, *paired)


def _check_pairs(pairs: Sequence[tuple[str, str]], known: set[str]) -> None:
    for pair in pairs:
        unknown = next((name for name in pair if name not in known), None)
        if unknown is not None or pair[0] == pair[1]:
            what = f"no input column {unknown!r}" if unknown is not None else "needs two different columns"
            raise ConfigError(
                f"[model] pairs: {list(pair)}: {what}", hint='pairs = [["age", "dose"]], of input columns'
            )
    if len({frozenset(pair) for pair in pairs}) != len(pairs):
        raise ConfigError("[model] pairs lists a pair twice")


class AdditivePrepare(nn.Module):
    """(n, width) raw to (n, `features`): per term its basis functions.

    Args:
        section: knots and pairs.
        schema: a schema with numeric and categorical columns.
    """

    numeric_at: Tensor
    low: Tensor
    high: Tensor
    scale: Tensor
    basis: Tensor
    category_at: Tensor
    last: Tensor

    def __init__(self, section: ModelSection, schema: Schema) -> None:
        super().__init__()
        if not schema.columns or schema.text is not None or schema.shape:
            raise ConfigError("model.kind = 'additive' is for tables with numbers and categories")
        self.terms = terms_of(section, schema)
        self.features = sum(term.size for term in self.terms)
        # The cross-entropy saturates, and features cut by the clipping norm carry more signal; squares do not.
        self.factor = 1.0 if schema.label_range is None else fair_scale(len(self.terms))
        numeric = [(i, c) for i, c in enumerate(schema.columns) if isinstance(c, Numeric)]
        listed = [(i, c) for i, c in enumerate(schema.columns) if isinstance(c, Categorical)]
        self.knots, self.pair_knots = section.knots, section.pair_knots
        self.numeric = {c.name: place for place, (_, c) in enumerate(numeric)}
        self.stretch = Stretch([c for _, c in numeric])
        self.levels = [len(c.categories) for _, c in listed]
        self.listed = {c.name: place for place, (_, c) in enumerate(listed)}
        self.pairs = section.pairs
        constants(
            self,
            numeric_at=torch.tensor([i for i, _ in numeric], dtype=torch.int64),
            low=torch.tensor([c.low for _, c in numeric]),
            high=torch.tensor([c.high for _, c in numeric]),
            scale=torch.tensor([1.0 / (c.high - c.low) for _, c in numeric]),
            basis=torch.tensor(bending(section.knots), dtype=torch.float32),
            category_at=torch.tensor([i for i, _ in listed], dtype=torch.int64),
            last=torch.tensor([len(c.categories) - 1.0 for _, c in listed]),
        )

    def forward(self, rows: Tensor) -> Tensor:
        """Basis functions of every term.

        Args:
            rows: (n, width) float32, NaN for missing.

        Returns:
            (n, features) float32.
        """
        parts: list[Tensor] = []
        placed = missing = None
        if self.numeric:
            placed, missing = self._placed(rows)
            bent = torch.matmul(hats(placed, missing, self.knots), self.basis)
            parts.append(torch.cat([bent, missing.unsqueeze(2)], dim=2).flatten(1))
        levels = self._levels(rows) if self.listed else []
        parts += levels
        for pair in self.pairs:
            first, second = (self._coarse(name, placed, missing, levels) for name in pair)
            parts.append((first.unsqueeze(2) * second.unsqueeze(1)).flatten(1))
        features = torch.cat(parts, dim=1)
        return features if self.factor == 1.0 else features * self.factor

    def _placed(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Where numbers lie in their range, in [0, 1], 0 for missing ones, and the missing flags."""
        values = rows.index_select(1, self.numeric_at)
        missing = torch.isnan(values)
        if self.stretch.needed:
            values = self.stretch(torch.minimum(torch.maximum(values, self.low), self.high))
        placed = torch.clamp((values - self.low) * self.scale, 0.0, 1.0)
        return torch.where(missing, torch.zeros_like(placed), placed), missing.to(rows.dtype)

    def _levels(self, rows: Tensor) -> list[Tensor]:
        """One-hot categories of each column, the last one for missing and unseen."""
        values = rows.index_select(1, self.category_at)
        known = (values >= 0) & (values <= self.last) & (values == torch.floor(values))
        codes = torch.where(known, values, self.last + 1.0)
        return [
            torch.eq(codes[:, place : place + 1], torch.arange(count + 1, dtype=rows.dtype)).to(rows.dtype)
            for place, count in enumerate(self.levels)
        ]

    def _coarse(self, name: str, placed: Tensor | None, missing: Tensor | None, levels: list[Tensor]) -> Tensor:
        if name in self.listed:
            return levels[self.listed[name]]
        at = self.numeric[name]
        if placed is None or missing is None:
            raise ConfigError(f"column {name!r} is no number")
        return hats(placed[:, at : at + 1], missing[:, at : at + 1], self.pair_knots)[:, 0]


def hats(placed: Tensor, missing: Tensor, knots: int) -> Tensor:
    """Hat functions on evenly spaced knots: weights of a linear interpolation.

    Args:
        placed: (n, columns) in [0, 1].
        missing: (n, columns), 1 where a value is missing: its hats are all zero.
        knots: K >= 2.

    Returns:
        (n, columns, K), each in [0, 1], of sum 1 where a value is present.
    """
    distance = torch.abs(placed.unsqueeze(2) * (knots - 1.0) - torch.arange(knots, dtype=placed.dtype))
    return torch.clamp(1.0 - distance, min=0.0) * (1.0 - missing).unsqueeze(2)


class TermSum(nn.Module):
    """The same sum with what each term adds as a value of its own: what is exported.

    Neighbouring terms of one size share a product.

    Args:
        linear: (features) -> outputs, trained.
        terms: of the features.
    """

    def __init__(self, linear: nn.Linear, terms: Sequence[Term]) -> None:
        super().__init__()
        self.runs = [(size, len(list(group))) for size, group in groupby(term.size for term in terms)]
        self.blocks, at = nn.ParameterList(), 0
        for size, count in self.runs:
            block = linear.weight.detach()[:, at : at + size * count].T.reshape(count, size, -1)
            self.blocks.append(nn.Parameter(block.clone()))
            at += size * count
        self.bias = nn.Parameter(linear.bias.detach().clone())

    def contributions(self, features: Tensor) -> Tensor:
        """What each term adds to each output, (terms, n, outputs).

        Args:
            features: (n, features).
        """
        parts, at = [], 0
        for (size, count), block in zip(self.runs, self.blocks, strict=True):
            own = features[:, at : at + size * count].reshape(-1, count, size).transpose(0, 1)
            parts.append(torch.matmul(own, block))
            at += size * count
        return torch.cat(parts, dim=0)

    def forward(self, features: Tensor) -> Tensor:
        """Sum of the terms and the intercept, (n, outputs).

        Args:
            features: (n, features).
        """
        return self.contributions(features).sum(0) + self.bias


def build_additive(section: ModelSection, schema: Schema) -> tuple[nn.Module, nn.Module]:
    """Prepare and core of an additive model; it starts at zero, the problem is convex.

    Args:
        section: knots and pairs.
        schema: of a table.

    Raises:
        ConfigError: the rows are no table, or a pair names a column that is no input.
    """
    prepare = AdditivePrepare(section, schema)
    head = nn.Linear(prepare.features, schema.outputs)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return prepare, nn.Sequential(head)
