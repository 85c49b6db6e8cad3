"""Chunks hold what fits, in order, and none is much smaller than the others where devices are alike."""

from __future__ import annotations

import pytest
from torch import nn

from fedinfer.training.engines.chunks import chunks
from fedinfer.training.engines.compile import Program, read_program
from fedinfer.training.objective import Objective


def program() -> Program:
    found = read_program(nn.Sequential(nn.Linear(3, 2)), (3,), Objective(None))  # 8 parameters, 5 numbers per example
    assert found is not None
    return found


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (1, [1]), (3, [3]), (4, [2, 2]), (7, [2, 2, 3]), (9, [3, 3, 3])])
def test_devices_that_are_alike_are_cut_evenly(count: int, sizes: list[int]) -> None:
    room = 3 * (2 * 8 + 2 * 4 * 5)
    found = chunks(range(count), [4] * count, program(), room)
    assert [len(chunk) for chunk in found] == sizes
    assert [row for chunk in found for row in chunk] == list(range(count))


def test_devices_that_differ_fill_chunks_one_after_the_other() -> None:
    widths = [10, 1, 1, 1]
    assert chunks([0, 1, 2, 3], widths, program(), 3 * (2 * 8 + 2 * 1 * 5)) == [[0], [1, 2, 3]]
