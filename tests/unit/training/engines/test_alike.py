"""Which devices of a step are computed as one stack, and how far a batch is padded."""

from __future__ import annotations

import numpy as np

from fedinfer.training.engines.alike import groups, laid_out, padded_width, slice_of


def test_a_batch_grows_by_a_quarter_at_most_and_a_full_one_not_at_all() -> None:
    for length in range(1, 500):
        width = padded_width(length, 37)
        assert length <= width <= 1.25 * length
        assert padded_width(width, 37) == width
    assert padded_width(37, 37) == 37
    assert len({padded_width(length, 0) for length in range(1, 1025)}) == 8 + 4 * 7


def test_groups_hold_every_device_with_rows_once_and_only_what_is_alike() -> None:
    picks = [np.arange(length) for length in (9, 10, 10, 0, 3, 9, 10)]
    offsets = [0, 9, 19, 29, 29, 32, 41]
    found = list(groups(picks, offsets, 10))
    kept = {
        tuple(range(7))[group.devices] if isinstance(group.devices, slice) else tuple(group.devices) for group in found
    }
    assert kept == {(0, 5), (1, 2, 6), (4,)}
    for group in found:
        devices = range(7)[group.devices] if isinstance(group.devices, slice) else group.devices
        for row, device in enumerate(devices):
            rows = group.at[row] if group.present is None else group.at[row][group.present[row] > 0]
            np.testing.assert_array_equal(rows.numpy(), picks[device] + offsets[device])
            if group.share is not None:
                np.testing.assert_allclose(float(group.share[row].sum()), 1.0, rtol=1e-6)


def test_a_group_does_not_depend_on_its_company() -> None:
    picks = [np.arange(length) for length in (9, 12, 9, 11)]
    offsets = [0, 9, 21, 30]
    together = {
        device: (group.at.shape[1], group.present is None)
        for group in groups(picks, offsets, 12)
        for device in (range(4)[group.devices] if isinstance(group.devices, slice) else group.devices)
    }
    for device, pick in enumerate(picks):
        (alone,) = groups([pick], [0], 12)
        assert (alone.at.shape[1], alone.present is None) == together[device]


def test_steps_of_equal_work_are_laid_out_at_once() -> None:
    at, share = laid_out([np.array([2, 0, 1]), np.array([1, 2, 0])], [0, 3], [(2, 1)] * 2, [2, 1])
    assert (at.tolist(), share) == ([[2, 0, 1], [4, 5, 3]], None)
    at, share = laid_out([np.append(np.arange(2), np.arange(9))], [5], [(2, 9)], [2, 10])
    assert at.tolist() == [[5, 6, 5, 6, 7, 8, 9, 10, 11, 12, 13, 0]]
    assert share is not None
    np.testing.assert_allclose(share[0], [0.5] * 2 + [1 / 9] * 9 + [0.0], rtol=1e-6)


def test_only_neighbours_in_order_are_a_slice() -> None:
    assert slice_of([3, 4, 5]) == slice(3, 6)
    assert slice_of([7]) == slice(7, 8)
    assert slice_of([4, 3, 5]) == [4, 3, 5]
    assert slice_of([3, 5]) == [3, 5]
