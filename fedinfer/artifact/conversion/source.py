"""Finds a model by a text: an object of a module, or a file. Loading most files runs code that is in them.

A booster's own text format (XGBoost .json and .ubj, LightGBM .txt) is data. A pickle, a joblib file and a program of
torch.export are programs: whoever made one can do on this machine what its user can.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedinfer.artifact.conversion.converted import Model
from fedinfer.artifact.conversion.networks import torch_module
from fedinfer.errors import ConfigError, MissingExtra

_DATA = (".json", ".ubj", ".txt")
_CODE = (".pkl", ".pickle", ".joblib", ".pt2")
_METHODS = ("predict", "forward", "module")
"""A model has one of these; anything else that can be called makes a model."""


def load_source(text: str, *, trusted: bool) -> Model:
    """The model that a text names.

    Args:
        text: `module:object`, imported from the working directory too; an object that can be called and is no model is
            called. Or a file: .json and .ubj of XGBoost, .txt of LightGBM; .pkl, .pickle, .joblib and .pt2 where they
            are trusted.
        trusted: run code that a file may hold.

    Raises:
        ConfigError: it cannot be found or loaded, or it is a file that may hold code and is not trusted.
        MissingExtra: the library that reads it is not installed.
    """
    path = Path(text)
    if path.suffix in (*_DATA, *_CODE):
        return _from_file(path, trusted)
    if ":" not in text:
        raise ConfigError(
            f"{text[:120]}: neither a file that is known nor module:object", hint=f"files: {', '.join(_DATA + _CODE)}"
        )
    return _from_module(text)


def _from_file(path: Path, trusted: bool) -> Model:
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    if path.suffix in _CODE and not trusted:
        raise ConfigError(
            f"{path} is a pickle: loading it runs whatever program its maker put in",
            hint="--unsafe-load when you made it; else ask for an ONNX file and use `fedinfer artifact import`",
        )
    try:
        return _reader(path.suffix)(str(path))
    except ImportError as error:
        raise MissingExtra(f"{path}: {error}", hint="install the library that made the file") from error
    except Exception as error:  # whatever a library, or the program in the file, raises
        first = (str(error).strip().splitlines() or [""])[0][:200]
        raise ConfigError(f"{path}: cannot be loaded: {type(error).__name__}: {ascii(first)[1:-1]}") from error


def _reader(suffix: str) -> Callable[[str], Any]:
    if suffix in (".json", ".ubj"):
        return lambda path: importlib.import_module("xgboost").Booster(model_file=path)
    if suffix == ".txt":
        return lambda path: importlib.import_module("lightgbm").Booster(model_file=path)
    if suffix == ".pt2":
        return lambda path: torch_module().export.load(path)
    return lambda path: importlib.import_module("joblib").load(path)


def _from_module(text: str) -> Model:
    module, _, attribute = text.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
        is_model = any(hasattr(found, method) for method in _METHODS)
        return found if is_model or not callable(found) else found()
    except Exception as error:  # it is the user's program
        first = (str(error).strip().splitlines() or [""])[0][:200]
        raise ConfigError(
            f"{text[:120]}: {type(error).__name__}: {first}", hint="module:object, as Python imports it"
        ) from error
