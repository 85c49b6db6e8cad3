"""What a device says for the choice of a decision threshold: its held-out rows, counted by class and log odds.

Nothing of it leaves the device but the histogram of fedinfer.metrics.private_threshold, in a private sum. Where rows
are protected each is predicted by itself, so that one row moves one count whatever the model does with a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, assert_never

import numpy as np

from fedinfer.device.host import Host
from fedinfer.errors import Misbehaviour
from fedinfer.messages import ThresholdWork
from fedinfer.metrics import HISTOGRAM_WIDTH, MOST_COUNTED, check_edges, histogram_of, log_odds
from fedinfer.types import DeviceId, FloatVector, Unit

if TYPE_CHECKING:
    from fedinfer.training import Trainer


def score_histograms(
    host: Host, trainer: Trainer, unit: Unit, work: ThresholdWork, devices: Sequence[DeviceId]
) -> FloatVector:
    """Count the devices' held-out rows.

    Args:
        host: wiring of this process; it has joined the run.
        trainer: of the task.
        unit: what the sum protects.
        work: weights, edges and window.
        devices: of this process.

    Returns:
        float32, shape (devices, HISTOGRAM_WIDTH), without noise: counts, for unit `device` over the device's rows;
        zeros of a device without held-out rows.

    Raises:
        BadMessage: the edges are none.
        Misbehaviour: the label does not have two classes.
        ConfigError: weights that are not finite, or of another length.
    """
    check_edges(work.edges)
    if host.joined().schema.classes != 2:
        raise Misbehaviour(f"a threshold for {host.joined().schema.classes} classes")
    return np.stack([_histogram(host, trainer, unit, work, device) for device in devices])


def _histogram(host: Host, trainer: Trainer, unit: Unit, work: ThresholdWork, device: DeviceId) -> FloatVector:
    x, y = host.rows.unseen(device, work.window)
    x, y = x[:MOST_COUNTED], y[:MOST_COUNTED].astype(np.int64)
    if not len(y):
        return np.zeros(HISTOGRAM_WIDTH, np.float32)
    match unit:
        case Unit.EXAMPLE:
            said = np.concatenate([trainer.predict(work.weights, x[row : row + 1]) for row in range(len(y))])
            return histogram_of(log_odds(said), y, work.edges)
        case Unit.DEVICE | Unit.NONE:
            counts = histogram_of(log_odds(trainer.predict(work.weights, x)), y, work.edges)
            return (counts / np.float32(len(y))).astype(np.float32)
        case _:
            assert_never(unit)
