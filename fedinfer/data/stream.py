"""What a device meets after training: windows of rows it has never trained on, and what it knows once they are over."""

from __future__ import annotations

import numpy as np

from fedinfer.data.table import DeviceData, Indices, Labels, Rows
from fedinfer.system import simulation_rng


def stream_window(data: DeviceData, window: int, rows: int, seed: int) -> tuple[Rows, Labels]:
    """The rows of one window of inference, drawn from the device's own held-out rows.

    Inside a window no row comes twice; different windows are drawn anew, so rows come again over time. Rows in the
    order of time come in that order, and from the start again after the last. A device with
    fewer held-out rows than `rows` shows all of them; one with none shows an empty window.

    Args:
        data: the device.
        window: number of the window.
        rows: rows wanted, >= 0.
        seed: one per run and device, for instance child_seed(run seed, device).

    Returns:
        (x, y) of min(rows, held-out rows) rows; copies, in random order or in that of time.
    """
    count = len(data.test_y)
    if data.in_order:
        chosen = _in_turn(count, window, rows)
    else:
        chosen = simulation_rng(seed, "stream", window).permutation(count)[:rows]
    return data.test_x[chosen], data.test_y[chosen]


def collected(data: DeviceData, window: int, rows: int) -> tuple[Rows, Labels]:
    """The newest labelled rows of a device in the order of time, as many as it had for training at first.

    Args:
        data: the device, in order.
        window: number of the last window that is over, from 1; 0: before the first.
        rows: rows of a window, >= 0.

    Returns:
        (x, y) of as many rows as `data.train_y`.
    """
    size, met = len(data.train_y), min(window * rows, len(data.test_y))
    x, y = (np.concatenate(pair) for pair in ((data.train_x, data.test_x[:met]), (data.train_y, data.test_y[:met])))
    return x[len(y) - size :], y[len(y) - size :]


def upcoming(data: DeviceData, window: int, rows: int) -> tuple[Rows, Labels]:
    """The rows that a device in the order of time meets next: those of the window that follows.

    Args:
        data: the device, in order.
        window: number of the last window that is over, from 1; 0: before the first.
        rows: rows of a window, >= 0.

    Returns:
        (x, y) of min(rows, held-out rows) rows; from the start again after the last.
    """
    chosen = _in_turn(len(data.test_y), window + 1, rows)
    return data.test_x[chosen], data.test_y[chosen]


def _in_turn(count: int, window: int, rows: int) -> Indices:
    size = min(rows, count)
    places: Indices = (np.arange(size) + (window - 1) * size) % max(count, 1)
    return places
