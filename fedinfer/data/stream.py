"""What a device meets after training: windows of rows it has never trained on."""

from __future__ import annotations

import numpy as np

from fedinfer.data.table import DeviceData, Labels, Rows
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
        chosen = np.arange(min(rows, count)) + (window - 1) * min(rows, count)
        chosen = chosen % max(count, 1)
    else:
        chosen = simulation_rng(seed, "stream", window).permutation(count)[:rows]
    return data.test_x[chosen], data.test_y[chosen]
