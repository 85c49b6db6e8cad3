"""Checkpoints: named numpy arrays and a JSON header in one .npz file. No code in it, no torch needed to read it.

Rules:
* The file is complete or absent: it is written beside its place, synced, then renamed.
* Reading never runs code: allow_pickle is off and the header is JSON.
* Equal contents give equal bytes.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.errors import ConfigError, StoreError
from fedinfer.private_files import only_owner
from fedinfer.types import Json

CHECKPOINT_VERSION = 1

_HEADER = "header_json"

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a file holds.

    Args:
        arrays: by name.
        header: a JSON object: model section, schema, round, optimizer kind, ...
    """

    arrays: Arrays
    header: Json


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, replacing an older file of that name.

    Args:
        path: of the file; its folder must exist. The file is readable by its owner alone.
        checkpoint: arrays of any plain dtype, and a header that JSON can hold.

    Raises:
        ValueError: the header holds NaN or infinity.
        TypeError: the header holds what JSON cannot.
        ConfigError: an array holds Python objects, or a name is reserved.
        StoreError: the file cannot be written.
    """
    for name, array in checkpoint.arrays.items():
        if array.dtype.hasobject or name == _HEADER:
            raise ConfigError(f"checkpoint array {name!r} of type {array.dtype} cannot be stored")
    text = json.dumps({"version": CHECKPOINT_VERSION, "header": checkpoint.header}, sort_keys=True, allow_nan=False)
    header = np.frombuffer(text.encode(), dtype=np.uint8)
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb", opener=only_owner) as file:
            np.savez(file, allow_pickle=False, **{_HEADER: header}, **dict(sorted(checkpoint.arrays.items())))
            file.flush()
            os.fsync(file.fileno())  # else a crash could leave the new name with no contents
        partial.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise StoreError(f"checkpoint {path} cannot be written: {error}") from error


def _sync_folder(folder: Path) -> None:
    """The new name is durable only when the folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: of the file.

    Returns:
        Arrays as they were stored, dtype and shape included, and the header.

    Raises:
        ConfigError: the file is absent, damaged, or of another version.
    """
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            document = json.loads(bytes(file[_HEADER]))
            arrays = {name: file[name] for name in file.files if name != _HEADER}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path} is not a checkpoint: {error}") from error
    if not isinstance(document, dict) or document.get("version") != CHECKPOINT_VERSION:
        raise ConfigError(f"{path}: this program reads checkpoints of version {CHECKPOINT_VERSION}")
    return Checkpoint(arrays, document["header"])
