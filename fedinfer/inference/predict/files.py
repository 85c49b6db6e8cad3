"""Rows in files that are no tables: numpy arrays, JSON lines, images, sounds, and folders of them.

Rules:
* nothing of a file is run: arrays without objects, JSON, and for images and sounds their own formats;
* a file that would be larger than `MOST_BYTES`, as it is or unpacked, is refused before it is read;
* an image or a sound is the only tensor of its model, raw: whole pixels (height, width, channels), samples in [-1, 1].
"""

from __future__ import annotations

import json
import wave
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.errors import DataError, MissingExtra
from fedinfer.inference.predict.reader import reader_of
from fedinfer.schema import Schema
from fedinfer.tensors import TensorSpec, channels_first

MOST_BYTES = 2**30
MOST_PIXELS = 2**26
IMAGES = (".png", ".jpg", ".jpeg", ".bmp")
_KINDS = {".npy", ".npz", ".jsonl", ".wav", *IMAGES}
Matrix = npt.NDArray[Any]


def rows_in_file(path: Path, schema: Schema) -> Matrix | None:
    """Checked rows of a file or a folder; None for a table, which others read.

    Args:
        path: of the file; a folder stands for its files in the order of their names.
        schema: of the model.

    Returns:
        (n, width) as `Predictor.predict_matrix` takes it.

    Raises:
        DataError: names file, tensor, value and rule.
        MissingExtra: images need the extra `image`.
    """
    if path.is_dir():
        parts = [rows_in_file(item, schema) for item in row_files(path)]
        return np.concatenate([part for part in parts if part is not None])
    if path.suffix.lower() not in _KINDS:
        return None
    reader = reader_of(schema)
    try:
        return reader.matrix(_read(path, schema))
    except DataError as error:
        raise DataError(f"{path}: {error}", hint=error.hint) from error


def labelled_arrays(path: Path, schema: Schema) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any]]:
    """Rows and labels of an .npz file: an array per tensor, or `rows`, and one called as the label of the schema.

    Args:
        path: of the file.
        schema: of the model.

    Returns:
        Inputs float32 (n, width), and class numbers int64 (n,) or values float64 (n,).

    Raises:
        DataError: the arrays do not fit the schema.
    """
    arrays = _arrays(path)
    if schema.label not in arrays:
        raise DataError(f"{path}: no array is called {schema.label}", hint=f"it has {', '.join(arrays)[:200]}")
    labels = np.ravel(arrays.pop(schema.label))
    x = reader_of(schema).matrix(_only(arrays))
    if len(labels) != len(x):
        raise DataError(f"{path}: {len(labels)} labels for {len(x)} rows")
    if labels.dtype.kind in "US":
        places = {name: place for place, name in enumerate(schema.labels)}
        unknown = next((str(label) for label in labels if str(label) not in places), None)
        if unknown is not None:
            raise DataError(f"{path}: {unknown[:60]!r} is no label")
        return x, np.array([places[str(label)] for label in labels], np.int64)
    return x, labels.astype(np.int64 if schema.label_range is None else np.float64)


def rows_kind(path: Path) -> bool:
    """Whether `rows_in_file` reads a file of this name.

    Args:
        path: of the file.
    """
    return path.suffix.lower() in _KINDS


def array_names(path: Path) -> tuple[str, ...]:
    """Names of the arrays of an .npz file.

    Args:
        path: of the file.

    Raises:
        DataError: it is none.
    """
    return tuple(_arrays(path))


def row_files(path: Path) -> list[Path]:
    """The files that a path stands for: itself, or those of rows in a folder, in the order of their names.

    Args:
        path: of a file or folder.

    Raises:
        DataError: a folder without such a file.
    """
    if not path.is_dir():
        return [path]
    found = sorted(item for item in path.iterdir() if item.is_file() and item.suffix.lower() in _KINDS)
    if not found:
        raise DataError(f"{path}: no file of rows", hint=f"kinds are {', '.join(sorted(_KINDS))}")
    return found


def _read(path: Path, schema: Schema) -> Any:
    kind = path.suffix.lower()
    if _size(path) > MOST_BYTES:
        raise DataError(f"more than {MOST_BYTES} bytes")
    if kind in (".npy", ".npz"):
        return _only(_arrays(path))
    if kind == ".jsonl":
        return list(_json_lines(path))
    tensor = _alone(schema, kind)
    return _sound(path, tensor) if kind == ".wav" else _image(path, tensor)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(error.strerror or "cannot be read") from error


def _only(arrays: dict[str, Matrix]) -> Any:
    """A matrix of whole rows where the file has nothing but that."""
    return next(iter(arrays.values())) if set(arrays) in ({"rows"}, {""}) else arrays


def _arrays(path: Path) -> dict[str, Matrix]:
    try:
        with open(path, "rb") as file:
            if path.suffix.lower() == ".npz":
                with zipfile.ZipFile(file) as packed:
                    if sum(item.file_size for item in packed.infolist()) > MOST_BYTES:
                        raise DataError(f"more than {MOST_BYTES} bytes unpacked")
            file.seek(0)
            found = np.load(file, allow_pickle=False)
            return {"": found} if isinstance(found, np.ndarray) else {name: found[name] for name in found.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, MemoryError) as error:
        raise DataError(f"no numpy file of plain arrays: {str(error)[:80]}") from error


def _json_lines(path: Path) -> Iterator[Any]:
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    try:
                        yield json.loads(line)
                    except (ValueError, RecursionError) as error:
                        raise DataError(f"line {number} is not JSON: {str(error)[:80]}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {str(error)[:80]}") from error


def _alone(schema: Schema, kind: str) -> TensorSpec:
    fed = {answer.feeds for answer in schema.answers}
    asked = [tensor for tensor in schema.inputs if tensor.name not in fed]
    if len(asked) != 1:
        raise DataError(f"a {kind} file is one tensor; this model takes {len(asked) or 'columns'}")
    return asked[0]


def _image(path: Path, tensor: TensorSpec) -> Matrix:
    """Whole pixels, (1, height, width, channels) or (1, channels, height, width), as the model has them."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtra("images need the package Pillow", hint="pip install 'fedinfer[image]'") from error
    sizes = tensor.shape
    if len(sizes) not in (2, 3):
        raise DataError(f"an image has 2 or 3 sizes, input {tensor.name} has {len(sizes)}")
    first = channels_first(sizes)
    channels = 1 if len(sizes) == 2 else sizes[0] if first else sizes[-1]
    height, width = sizes[-2:] if first else sizes[:2]
    try:
        with Image.open(path) as image:
            if image.width * image.height > MOST_PIXELS:
                raise DataError(f"{image.width} x {image.height} pixels, at most {MOST_PIXELS}")
            if (image.height, image.width) != (height, width):
                raise DataError(f"{image.width} x {image.height} pixels, the model takes {width} x {height}")
            pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"), np.float32)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"no image: {str(error)[:80]}") from error
    pixels = pixels.reshape(height, width, channels)
    return (np.moveaxis(pixels, -1, 0) if first else pixels).reshape(1, -1)


def _sound(path: Path, tensor: TensorSpec) -> Matrix:
    """Frames of samples in [-1, 1], (frames, samples of the tensor); what is left at the end is filled with silence."""
    try:
        with wave.open(str(path), "rb") as file:
            if file.getsampwidth() != 2 or file.getnchannels() != 1:
                raise DataError(f"{file.getnchannels()} channels of {8 * file.getsampwidth()} bits; read is one of 16")
            data = file.readframes(file.getnframes())
    except (OSError, EOFError, wave.Error) as error:
        raise DataError(f"no sound: {str(error)[:80]}") from error
    samples = np.frombuffer(data[: len(data) // 2 * 2], "<i2").astype(np.float32) / 32768
    count = -(-len(samples) // tensor.size)
    return np.pad(samples, (0, count * tensor.size - len(samples))).reshape(count, tensor.size)
