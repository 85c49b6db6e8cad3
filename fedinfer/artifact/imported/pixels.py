"""Raw pixels to what a vision model takes, as graph parts and once more in numpy, so that one is checked by the other.

Order: raw (height, width, channels) in [0, 255], the middle of it, linear resize to the size of the model, divided by
255, minus mean, divided by std, channels where the model has them. Resize is ONNX "Resize" with mode "linear" and
half-pixel centres: no smoothing, so an image that is much larger than the model's is better scaled by the program that
has it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.artifact.imported.declaration import InputSpec
from fedinfer.artifact.imported.image import MOST_EDGE, Image
from fedinfer.errors import ConfigError
from fedinfer.tensors import TensorSpec, channels_first

_NUDGE = 1e-6
"""By so much a scale is too large: a size is the floor of a product of floats."""
Node = Callable[..., str]
Constant = Callable[[npt.NDArray[Any]], str]


def raw_tensor(spec: InputSpec, image: Image) -> TensorSpec:
    """The raw pixels that rows bring.

    Args:
        spec: of the input, of two or three sizes.
        image: of the raw pixels.

    Raises:
        ConfigError: the input is no image, or mean and std do not fit its channels.
    """
    height, width, channels = _sizes(spec)
    if max(height, width) > MOST_EDGE:  # an edge of the one and an edge of the other make a picture on the way
        raise ConfigError(f"input {spec.name} of shape {spec.shape}: edges have 1 to {MOST_EDGE} pixels")
    if any(len(numbers) not in (1, channels) for numbers in (image.mean, image.std)):
        raise ConfigError(f"input {spec.name}: mean and std have one number, or {channels}")
    shape = (image.height, image.width, channels) if len(spec.shape) == 3 else (image.height, image.width)
    return TensorSpec(spec.name, "uint8", shape, 0, 255)


def add_pixels(spec: InputSpec, image: Image, values: str, node: Node, constant: Constant, batch: int) -> str:
    """Graph parts from the values of one image in a row to the model's input, (batch, *its shape) in float32.

    Args:
        spec: of the input.
        image: of the raw pixels.
        values: name of the values, (batch, pixels).
        node: appends a node and gives the name of its output.
        constant: appends a constant and gives its name.
        batch: first size of a Reshape.
    """
    height, width, channels = _sizes(spec)
    shape = np.array([batch, image.height, image.width, channels], np.int64)
    values = node("Transpose", [node("Reshape", [values, constant(shape)])], perm=[0, 3, 1, 2])
    top, left, kept_height, kept_width = image.window
    if image.crop:
        bounds = ([top, left], [top + kept_height, left + kept_width], [2, 3])
        values = node("Slice", [values, *(constant(np.array(part, np.int64)) for part in bounds)])
    if (height, width) != (kept_height, kept_width):
        scales = np.array([1, 1, height / kept_height + _NUDGE, width / kept_width + _NUDGE], np.float32)
        nothing = constant(np.empty(0, np.float32))
        values = node(
            "Resize", [values, nothing, constant(scales)], mode="linear", coordinate_transformation_mode="half_pixel"
        )
    factor, offset = _scaling(image, channels)
    values = node("Sub", [node("Mul", [values, constant(factor)]), constant(offset)])
    if not channels_first(spec.shape):
        values = node("Transpose", [values], perm=[0, 2, 3, 1])
    return node("Reshape", [values, constant(np.array([batch, *spec.shape], np.int64))])


def prepared(spec: InputSpec, image: Image, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The same in numpy.

    Args:
        spec: of the input.
        image: of the raw pixels.
        rows: float32 (n, pixels).

    Returns:
        float32 (n, *shape of the input).
    """
    height, width, channels = _sizes(spec)
    pixels = np.moveaxis(rows.reshape(len(rows), image.height, image.width, channels), -1, 1).astype(np.float64)
    top, left, kept_height, kept_width = image.window
    pixels = pixels[:, :, top : top + kept_height, left : left + kept_width]
    pixels = _resized(_resized(pixels, 2, height), 3, width)
    factor, offset = _scaling(image, channels)
    pixels = pixels * factor - offset
    if not channels_first(spec.shape):
        pixels = np.moveaxis(pixels, 1, -1)
    return pixels.reshape(len(rows), *spec.shape).astype(np.float32)


def _sizes(spec: InputSpec) -> tuple[int, int, int]:
    """Height, width and channels of what the model takes."""
    if len(spec.shape) == 2:
        return spec.shape[0], spec.shape[1], 1
    if len(spec.shape) != 3 or spec.shape[0 if channels_first(spec.shape) else -1] not in (1, 3):
        raise ConfigError(f"input {spec.name} of shape {spec.shape} is no image of 1 or 3 channels")
    first = channels_first(spec.shape)
    height, width = spec.shape[1:] if first else spec.shape[:2]
    return height, width, spec.shape[0] if first else spec.shape[-1]


def _scaling(image: Image, channels: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """(x / 255 - mean) / std as x * factor - offset, each (1, channels, 1, 1)."""
    mean, std = (np.broadcast_to(np.array(part), (channels,)) for part in (image.mean, image.std))
    shape = (1, channels, 1, 1)
    return (1 / (255 * std)).astype(np.float32).reshape(shape), (mean / std).astype(np.float32).reshape(shape)


def _resized(pixels: npt.NDArray[np.float64], axis: int, size: int) -> npt.NDArray[np.float64]:
    """Linear along one axis, half-pixel centres, the edge repeated (ONNX operator "Resize", half_pixel)."""
    before = pixels.shape[axis]
    if before == size:
        return pixels
    at = np.clip((np.arange(size) + 0.5) * before / size - 0.5, 0, before - 1)
    low = np.floor(at).astype(np.int64)
    part = (at - low).reshape([-1 if place == axis else 1 for place in range(pixels.ndim)])
    first, second = np.take(pixels, low, axis), np.take(pixels, np.minimum(low + 1, before - 1), axis)
    return np.asarray(first * (1 - part) + second * part)
