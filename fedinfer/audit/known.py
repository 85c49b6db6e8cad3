"""Vectors that the auditor knows: what devices should have sent, computed apart from the product."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from fedinfer.audit.canaries import LOUD, clipped
from fedinfer.audit.opening import Audited
from fedinfer.config import PrivacySection
from fedinfer.coordinator import SumSettings
from fedinfer.drift import chosen_channels
from fedinfer.system import simulation_rng
from fedinfer.types import DeviceId, Unit

Floats = npt.NDArray[np.float64]


def prepared_vectors(
    privacy: PrivacySection, sent: Mapping[DeviceId, Floats], devices: Sequence[DeviceId], norm: float
) -> dict[DeviceId, Floats]:
    """What the devices should put into the sum of a round.

    Args:
        privacy: section of the scenario.
        sent: what each computed, before the clipping of updates.
        devices: whose vectors are wanted.
        norm: clipping norm of the round.

    Returns:
        float64 per device: sums of clipped gradients as they are; updates clipped to the norm; with adaptive clipping
        over the norm, with the bit that says whether nothing was cut (Andrew et al. 2021, section 2.1).
    """
    match privacy.unit:
        case Unit.EXAMPLE | Unit.NONE:
            return {device: sent[device] for device in devices}
        case Unit.DEVICE:
            rows = np.array([sent[device] for device in devices], np.float64)
            cut = clipped(rows, norm)
            if privacy.clipping == "adaptive":
                whole = np.linalg.norm(rows, axis=1, keepdims=True) <= norm
                cut = np.hstack([cut / norm, np.where(whole, 1.0, -1.0) * privacy.clipping_weight])
            return dict(zip(devices, cut, strict=True))


def known_reports(
    audit: Audited, settings: SumSettings, window: int, devices: Sequence[DeviceId]
) -> dict[DeviceId, Floats]:
    """Give every device a sketch of a window, and say what it should report.

    Where a whole device is protected the sketch is longer than a report may be: the device has to cut it.

    Args:
        audit: its devices keep the sketches.
        settings: of the sum of reports.
        window: number, from 1.
        devices: that are asked.

    Returns:
        float64 (width of a report,) per device.
    """
    scenario, width = audit.server.scenario, settings.mechanism.dimension
    rng = simulation_rng(scenario.scenario.seed, "audit", "window", str(window))
    match scenario.privacy.unit:
        case Unit.DEVICE:
            rows = rng.standard_normal((len(devices), width))
            rows *= LOUD * settings.norm / np.linalg.norm(rows, axis=1, keepdims=True)
            due = clipped(rows.astype(np.float32), settings.norm)
        case Unit.EXAMPLE | Unit.NONE:
            rows = rng.integers(0, 10, (len(devices), width)).astype(np.float64)
            due = rows
    task = audit.host.joined()
    channels = chosen_channels(task.schema, task.scenario.drift.channels)
    layout = tuple((channel.name, channel.bins) for channel in channels)
    for device, row in zip(devices, rows, strict=True):
        audit.host.sketches.put(device, window, row.astype(np.float32), layout)
    return dict(zip(devices, due, strict=True))
