"""What the monitor remembers between windows: frozen values that encode to JSON and back without loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fedinfer.drift import sequential
from fedinfer.drift.channels import Channel, Floats
from fedinfer.drift.reference import ReferenceSum, empty_reference
from fedinfer.drift.sequential import Ewma
from fedinfer.drift.statistics import degrees_of_freedom
from fedinfer.errors import BadMessage
from fedinfer.types import Json


@dataclass(frozen=True, slots=True)
class ChannelState:
    """Reference and running means of one channel.

    Args:
        reference: what counts as normal; empty right after a push.
        ewma: weighted mean of the differences from it, in contrast space.
        bins: the same per bin, with variances in place of covariances.
        seen: windows since the reference was begun, those of the warm-up included.
    """

    reference: ReferenceSum
    ewma: Ewma
    bins: Ewma
    seen: int = 0


@dataclass(frozen=True, slots=True)
class MonitorState:
    """What the monitor remembers between windows; encodable with fedinfer.wire too.

    Args:
        channels: one state per channel of the plan, in its order.
        last_window: number of the last window that was taken in; -1 for none.
    """

    channels: tuple[ChannelState, ...]
    last_window: int = -1

    def to_json(self) -> Json:
        """A JSON object that `from_json` reads back to an equal state."""
        return {"last_window": self.last_window, "channels": [_channel_json(state) for state in self.channels]}

    @staticmethod
    def from_json(data: Json) -> MonitorState:
        """Inverse of `to_json`.

        Args:
            data: decoded JSON object; untrusted.

        Raises:
            BadMessage: a key is missing, a value has the wrong type or shape, or is not finite.
        """
        try:
            channels = tuple(_read_channel(row) for row in data["channels"])
            return MonitorState(channels, int(data["last_window"]))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise BadMessage(f"state of the drift monitor cannot be read: {error!r}") from error


def fresh(channel: Channel) -> ChannelState:
    """A channel of which nothing is known yet.

    Args:
        channel: of the plan.
    """
    bins = Ewma(np.zeros(channel.bins), np.zeros(channel.bins))
    return ChannelState(empty_reference(channel.bins), sequential.start(degrees_of_freedom(channel)), bins)


def _channel_json(state: ChannelState) -> Json:
    reference = state.reference
    return {
        "reference": {
            "total": reference.total.tolist(),
            "size": reference.size,
            "noise_variance": reference.noise_variance,
            "windows": reference.windows,
            "reporters": dict(reference.reporters),
        },
        "ewma": _ewma_json(state.ewma),
        "bins": _ewma_json(state.bins),
        "seen": state.seen,
    }


def _ewma_json(ewma: Ewma) -> Json:
    return {
        "mean": ewma.mean.tolist(),
        "own": ewma.own.tolist(),
        "reference": ewma.reference,
        "composition": ewma.composition,
        "windows": ewma.windows,
    }


def _read_channel(data: Json) -> ChannelState:
    row = data["reference"]
    total = _numbers(row["total"], 1)
    reporters = {str(device): int(windows) for device, windows in row["reporters"].items()}
    reference = ReferenceSum(total, float(row["size"]), float(row["noise_variance"]), int(row["windows"]), reporters)
    ewma, bins = _read_ewma(data["ewma"], 2), _read_ewma(data["bins"], 1)
    if ewma.own.shape != ewma.mean.shape * 2 or not bins.own.shape == bins.mean.shape == total.shape:
        raise ValueError(f"shapes {ewma.own.shape}, {bins.mean.shape} and {total.shape} do not fit")
    return ChannelState(reference, ewma, bins, int(data["seen"]))


def _read_ewma(data: Json, dimensions: int) -> Ewma:
    return Ewma(
        mean=_numbers(data["mean"], 1),
        own=_numbers(data["own"], dimensions),
        reference=float(data["reference"]),
        composition=float(data["composition"]),
        windows=int(data["windows"]),
    )


def _numbers(values: Any, dimensions: int) -> Floats:
    found = np.array(values, np.float64)
    if found.ndim != dimensions or not np.isfinite(found).all():
        raise ValueError(f"an array of shape {found.shape} with values that are finite: {np.isfinite(found).all()}")
    return found
