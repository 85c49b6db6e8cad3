"""A scenario as Flower's run config: one level of dotted keys with text, numbers and booleans only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedinfer.config.layers import Layers
from fedinfer.config.load import load_scenario, validate
from fedinfer.config.problems import section_of
from fedinfer.config.sections import Scenario
from fedinfer.errors import ConfigError

FlatValue = str | int | float | bool
BASE_KEY = "scenario"


def to_flat(scenario: Scenario) -> dict[str, FlatValue]:
    """Write a scenario as dotted keys. Lists and tables become JSON text; keys without a value are left out.

    Notices are left out too: a device reads this, and they are for whoever wrote the scenario.

    Args:
        scenario: is read back by `from_flat` as it was.
    """
    return _flattened(scenario.model_dump(mode="json"), ())


def from_flat(flat: Mapping[str, FlatValue]) -> Scenario:
    """Read what `to_flat` wrote, or a run config by hand.

    Args:
        flat: dotted keys. The key `scenario` may name a built-in or a file; the other keys are laid over it.

    Raises:
        ConfigError: names key, value and rule of everything that is wrong.
    """
    layers = Layers()
    if BASE_KEY in flat:
        start = load_scenario(str(flat[BASE_KEY]))
        layers = Layers(notices=start.notices).over(
            start.model_dump(mode="json", exclude_none=True), str(flat[BASE_KEY])
        )
    for key, value in flat.items():
        if key != BASE_KEY:
            layers = layers.over(_nested(key, value), "run config")
    return validate(layers, "run config")


def _flattened(values: Mapping[str, Any], prefix: tuple[str, ...]) -> dict[str, FlatValue]:
    flat: dict[str, FlatValue] = {}
    for key, value in values.items():
        path = (*prefix, key)
        if isinstance(value, Mapping) and section_of(path) is not None:
            flat |= _flattened(value, path)
        elif isinstance(value, Mapping | list):
            flat[".".join(path)] = json.dumps(value)
        elif isinstance(value, str | int | float | bool):
            flat[".".join(path)] = value
    return flat


def _nested(key: str, value: FlatValue) -> dict[str, Any]:
    path = key.split(".")
    nested: Any = _parsed(tuple(path), value)
    for name in reversed(path):
        nested = {name: nested}
    return dict(nested)


def _parsed(path: tuple[str, ...], value: FlatValue) -> Any:
    """JSON text of lists and tables back to lists and tables; everything else as it is."""
    if not isinstance(value, str) or _holds_text(path):
        return value
    if value[:1] not in ("[", "{"):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise ConfigError(f"run config: key {'.'.join(path)} = {value!r}: not a JSON list or table: {error}") from error


def _holds_text(path: tuple[str, ...]) -> bool:
    section = section_of(path[:-1])
    field = section.model_fields.get(path[-1]) if section else None
    return field is not None and field.annotation in (str, Path)
