"""Numeric columns of many small values and few large ones: public breaks are moved to even steps, inside the graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fedinfer.schema import Numeric


class Stretch(nn.Module):
    """(n, columns) to (n, columns): the same range, with the edges of each column (`Numeric.edges`) evenly spaced.

    A column of k steps becomes a sum of k clamped lines, which is `Numeric.place` times the width of the range.

    Args:
        columns: in the order of the values.
    """

    low: Tensor
    start: Tensor
    slope: Tensor
    step: Tensor

    def __init__(self, columns: Sequence[Numeric]) -> None:
        super().__init__()
        self.needed = any(column.breaks for column in columns)
        most = max((len(column.edges) - 1 for column in columns), default=0)
        lines = torch.zeros(3, len(columns), most, dtype=torch.float64)  # a missing line is zero everywhere
        for place, column in enumerate(columns):
            edges = torch.tensor(column.edges, dtype=torch.float64)
            step = (column.high - column.low) / (len(edges) - 1)
            lines[0, place, : len(edges) - 1] = edges[:-1]
            lines[1, place, : len(edges) - 1] = step / edges.diff()
            lines[2, place, : len(edges) - 1] = step
        low = torch.tensor([column.low for column in columns], dtype=torch.float64)
        for name, tensor in (("low", low), ("start", lines[0]), ("slope", lines[1]), ("step", lines[2])):
            self.register_buffer(name, tensor.to(torch.float32), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """Values with even steps.

        Args:
            values: (n, columns) float32, clamped to the ranges; NaN gives NaN.
        """
        if not self.needed:
            return values
        risen = (values.unsqueeze(2) - self.start) * self.slope
        return self.low + torch.minimum(torch.clamp(risen, min=0.0), self.step).sum(2)
