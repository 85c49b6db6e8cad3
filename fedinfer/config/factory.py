"""Your own model: `[model] factory = "package.module:callable"`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedinfer.errors import ConfigError


def import_factory(name: str, folder: Path) -> Callable[..., Any]:
    """Import a model factory.

    Args:
        name: "package.module:callable".
        folder: the scenario's folder; it joins the end of the module search path, so that a module beside the TOML is
            found, now and by whoever imports it later.

    Raises:
        ConfigError: the module cannot be imported, or has no such callable.
    """
    module_name, _, attribute = name.partition(":")
    place = str(folder.resolve())
    if place not in sys.path:
        sys.path.append(place)
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:  # importing a user's module may raise anything
        raise ConfigError(
            f"[model] factory = {name!r}: cannot be imported: {type(error).__name__}: {error}",
            hint=f"searched the installed packages and {folder.resolve()}",
        ) from error
    if not callable(factory):
        raise ConfigError(f"[model] factory = {name!r}: {attribute} is a {type(factory).__name__}, not a callable")
    checked: Callable[..., Any] = factory
    return checked
