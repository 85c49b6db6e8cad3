"""What one device was sent."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class TransferMode(StrEnum):
    """How the model came to a device."""

    WHOLE = "whole"
    """The whole file, compressed or not."""
    PATCH = "patch"
    BOTH = "both"
    """A patch that the device could not use, then the whole file."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What one device was sent.

    Args:
        way: of the model.
        model_bytes: of the model file or patch, both for TransferMode.BOTH.
        bytes: of the messages, signed metadata included.
    """

    way: TransferMode
    model_bytes: int
    bytes: int
