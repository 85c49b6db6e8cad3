"""What a cell's result depends on, as one key: the whole scenario, the bytes of its files, and the code that runs."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
from functools import cache
from pathlib import Path

from fedinfer.config import Scenario, to_flat
from fedinfer.flower import build_id

COMPUTING = ("numpy", "onnxruntime", "scikit-learn", "torch")
"""Packages whose release may change figures."""
FILES = ("data.path", "data.vocabulary")
FACTORIES = ("data.factory", "model.factory")
BASE = "base"


@cache
def code_version() -> str:
    """Fedinfer's version with a hash of its sources, and the releases of what computes."""
    return "; ".join((build_id(), *(f"{name} {_release(name)}" for name in COMPUTING)))


def content_key(scenario: Scenario, rows: str) -> str:
    """32 hexadecimal digits: equal keys, equal figures.

    Args:
        scenario: of a cell, with all overrides.
        rows: whose rows train (`fedinfer.sweeps.rows`).
    """
    flat = dict(to_flat(scenario))
    flat.pop(BASE, None)
    digests = [_digest(Path(str(flat[key]))) for key in FILES if flat.get(key)]
    digests += [_source(str(flat[key])) for key in FACTORIES if flat.get(key)]
    text = json.dumps([flat, digests, rows, code_version()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _release(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _digest(path: Path) -> str:
    """Of a file's bytes; a missing one is met again, in words, by whoever reads it."""
    try:
        size, time = path.stat().st_size, path.stat().st_mtime_ns
    except OSError:
        return "absent"
    return _file_digest(path, size, time)


@cache
def _file_digest(path: Path, size: int, time: int) -> str:
    del size, time  # part of the cache's key: a table of gigabytes is read once, unless it changes
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _source(place: str) -> str:
    """Of the file that holds a factory ("package.module:callable"); its imports are not followed."""
    try:
        spec = importlib.util.find_spec(place.partition(":")[0])
    except (ImportError, ValueError):
        return "absent"
    return _digest(Path(spec.origin)) if spec is not None and spec.origin else "absent"
