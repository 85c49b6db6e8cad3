"""The declared steps from raw pixels to what a vision model takes."""

from __future__ import annotations

from dataclasses import dataclass

from fedinfer.errors import ConfigError

MOST_EDGE = 4096
"""Pixels of an edge of an image."""


@dataclass(frozen=True, slots=True)
class Image:
    """Whole raw pixels in place of what the graph takes: cropped, resized, divided by 255, normalised, put in order.

    Args:
        height, width: of the raw pixels, which lie (height, width, channels).
        mean, std: of each channel, after the division; one for all or one for each.
        crop: height and width of the middle that is kept, before the resize; empty: all.
    """

    height: int
    width: int
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    crop: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not (1 <= self.height <= MOST_EDGE and 1 <= self.width <= MOST_EDGE):
            raise ConfigError(f"an image of {self.height} x {self.width} pixels; edges have 1 to {MOST_EDGE}")
        if self.crop and not (1 <= self.crop[0] <= self.height and 1 <= self.crop[1] <= self.width):
            raise ConfigError(f"a crop of {list(self.crop)} out of {self.height} x {self.width} pixels")
        numbers = (*self.mean, *self.std)
        if not (self.mean and self.std and all(abs(value) < 1e6 for value in numbers)) or min(self.std) <= 0:
            raise ConfigError(f"mean {list(self.mean)} and std {list(self.std)}: numbers, std above 0")

    @property
    def window(self) -> tuple[int, int, int, int]:
        """First row and column of the middle that is kept, and its height and width."""
        height, width = self.crop or (self.height, self.width)
        return (self.height - height) // 2, (self.width - width) // 2, height, width
