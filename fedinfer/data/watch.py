"""Smartwatch series: seven shoulder exercises of ten people, six channels at 50 Hz (Burns et al. 2018).

Burns, Leung, Hardisty, Whyne, Henry, McLachlin: "Shoulder physiotherapy exercise recognition", arXiv 1802.01489.
The series come with the package seglearn (BSD licence). Its file is a pickle, which could run code, so it is never
unpickled as it is: the file must be the known one, byte for byte, and only arrays are built from it.
"""

from __future__ import annotations

import hashlib
import io
import pickle  # noqa: TID251  # someone else's file; only `_Arrays` below reads it
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.data.table import Table
from fedinfer.errors import DataError, MissingExtra
from fedinfer.schema import Numeric, Schema

FILE_SHA256 = "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"
SAMPLES, MEAN_OF = 150, 3
"""Samples in a window (3 s at 50 Hz), and how many of them are averaged to one reading."""
LENGTH = SAMPLES // MEAN_OF
CHANNELS = {"ax": 4.0, "ay": 4.0, "az": 4.0, "wx": 10.0, "wy": 10.0, "wz": 10.0}
"""Public half range of each channel: acceleration in g, turning rate in rad/s; readings outside are clamped."""
LABELS = ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
"""Pendulum, abduction, forward elevation, internal and external rotation, trapezius extension, upright row."""
SCHEMA = Schema(
    tuple(Numeric(f"{name}_{at:02d}", -half, half) for name, half in CHANNELS.items() for at in range(LENGTH)),
    "exercise",
    LABELS,
    shape=(len(CHANNELS), 1, LENGTH),
)


def watch_table() -> tuple[Schema, Table]:
    """Windows of 3 s that do not overlap, channel by channel, 50 readings each; the wearer is the device.

    The rest of a series that is shorter than a window is left out.

    Raises:
        MissingExtra: seglearn is not installed.
        DataError: its file is not the known one.
    """
    series, exercise, subject = _read(_file())
    pieces = [windows(samples) for samples in series]
    counts = [len(piece) for piece in pieces]
    wearer = tuple(f"subject-{number:02d}" for number in np.repeat(subject, counts).tolist())
    return SCHEMA, Table(np.concatenate(pieces), np.repeat(exercise, counts).astype(np.int64), wearer)


def windows(samples: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Cut a series (n, channels) into rows (n // SAMPLES, channels * LENGTH).

    Args:
        samples: float64 (n, channels); what is left over at the end is not used.

    Returns:
        float32; each value is the mean of `MEAN_OF` samples.
    """
    count = len(samples) // SAMPLES
    channels = samples.shape[1]
    parts = samples[: count * SAMPLES].reshape(count, LENGTH, MEAN_OF, channels).mean(axis=2)
    return np.ascontiguousarray(parts.transpose(0, 2, 1), np.float32).reshape(count, channels * LENGTH)


def _file() -> Path:
    spec = find_spec("seglearn")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra("watch needs the package seglearn", hint="pip install 'fedinfer[data]'")
    return Path(spec.submodule_search_locations[0]) / "data" / "watch_dataset.npy"


def _read(path: Path) -> tuple[list[Any], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(series, exercise, subject) of the file.

    Raises:
        DataError: there is no such file, or it is another one.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}", hint="pip install --force-reinstall seglearn==1.2.5") from error
    found = hashlib.sha256(content).hexdigest()
    if found != FILE_SHA256:
        raise DataError(f"{path}: SHA-256 {found}, expected {FILE_SHA256}", hint="pip install seglearn==1.2.5")
    stream = io.BytesIO(content)
    np.lib.format.read_magic(stream)
    np.lib.format.read_array_header_1_0(stream)
    data = _Arrays(stream).load().item()
    return list(data["X"]), data["y"], data["subject"]


class _Arrays(pickle.Unpickler):
    """Builds numpy arrays and refuses every other name."""

    _ALLOWED = frozenset(
        {("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise DataError(f"watch: the file asks for {module}.{name}, which is no array")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)
