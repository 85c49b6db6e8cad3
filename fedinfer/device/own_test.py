"""A device's own test of its windows, behind the channel `flags`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from fedinfer.device.counted import layout_of
from fedinfer.device.flag_store import FlagReferences
from fedinfer.device.host import Host
from fedinfer.device.prediction_window import PredictionWindow
from fedinfer.drift import judge_window, local_channels, named, pack_reference, unpack_reference
from fedinfer.schema import Schema
from fedinfer.types import DeviceId


def raised(
    host: Host, device: DeviceId, schema: Schema, version: int, counts: Sequence[npt.NDArray[Any]], rows: int
) -> bool:
    """The device's own test of a window; its reference is kept between windows and never leaves.

    Args:
        host: keeps the reference.
        device: one of the host's.
        schema: of the task.
        version: of the model that answered.
        counts: of the local channels, in order.
        rows: in the window.
    """
    channels, kept = local_channels(schema), host.references.get(device)
    before = unpack_reference(kept, channels) if kept is not None else None
    after, flag = judge_window(channels, before, version, counts, rows)
    host.references.put(device, pack_reference(after))
    return flag


def unusual_channels(references: FlagReferences, device: DeviceId, schema: Schema) -> tuple[str, ...]:
    """What has been unusual on a device in its last windows, by name; for its owner, nothing of it leaves.

    Args:
        references: of the device.
        device: whose.
        schema: of the task.
    """
    channels, kept = local_channels(schema), references.get(device)
    reference = None if kept is None else unpack_reference(kept, channels)
    return () if reference is None else named(channels, reference)


def window_flag(host: Host, device: DeviceId, schema: Schema, windows: Sequence[PredictionWindow]) -> bool:
    """The flag of the last of some windows of real predictions; those before it are judged as well.

    Args:
        host: keeps the reference.
        device: one of the host's.
        schema: of the task.
        windows: closed and of one version, oldest first, each judged once.
    """
    layout, flag = layout_of(local_channels(schema)), False
    for window in windows:
        counts = window.histograms(layout)
        flag = counts is not None and raised(host, device, schema, window.version, counts, window.rows)
    return flag
