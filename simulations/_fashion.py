"""Fashion-MNIST as devices: 70,000 pictures of clothes (Xiao, Rasul and Vollgraf 2017, MIT licence).

Nothing is downloaded: the files come from Debian's package dataset-fashion-mnist, or from a folder in FASHION_MNIST.
"""

import gzip
import os
import struct
from pathlib import Path

import numpy as np

from fedinfer.data import DeviceData, Federation
from fedinfer.errors import ConfigError
from fedinfer.schema import Schema

FOLDER = "/usr/share/datasets/fashion-mnist"
CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
SCHEMA = Schema((), "clothes", CLASSES, shape=(1, 28, 28), pixel_max=255.0)


def pictures(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (n, 784) float32 in [0, 255], and classes (n,) int64.

    Args:
        part: `train` or `t10k`.

    Raises:
        ConfigError: the files are not there.
    """
    folder = Path(os.environ.get("FASHION_MNIST", FOLDER))
    try:
        x = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())
        y = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    except OSError as error:
        raise ConfigError(
            f"Fashion-MNIST: {error}", hint="apt-get install dataset-fashion-mnist, or FASHION_MNIST=FOLDER"
        ) from error
    (count,) = struct.unpack(">I", x[4:8])
    rows = np.frombuffer(x, np.uint8, offset=16).reshape(count, 784).astype(np.float32)
    return rows, np.frombuffer(y, np.uint8, offset=8).astype(np.int64)


def federation(parts: list[np.ndarray]) -> Federation:
    """The training pictures dealt to devices; all test pictures judge, and each device holds out one of them.

    Args:
        parts: numbers of the training pictures of each device.
    """
    x, y = pictures("train")
    test_x, test_y = pictures("t10k")
    devices = {
        f"device-{number:04d}": DeviceData(x[own], y[own], test_x[number : number + 1], test_y[number : number + 1])
        for number, own in enumerate(parts)
    }
    nothing = np.empty((0, 784), np.float32), np.empty(0, np.int64)
    return Federation(SCHEMA, devices, nothing, (test_x, test_y))
