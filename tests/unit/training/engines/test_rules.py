"""What every engine's result goes through."""

import numpy as np

from fedinfer.training.engines.rules import finite_rows


def test_rows_that_are_not_finite_become_zero_and_large_ones_stay():
    rows = np.ones((5, 4), np.float32)
    rows[1, 2], rows[2, 0], rows[3] = np.nan, np.inf, 3e38
    rows[4, :2] = np.inf, -np.inf
    found = finite_rows(rows.copy())
    np.testing.assert_array_equal(found[[0, 3]], rows[[0, 3]])
    assert not found[[1, 2, 4]].any()
