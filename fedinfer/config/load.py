"""From a name or a file to a validated scenario."""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fedinfer.config.layers import Layers, parse_override, read_toml
from fedinfer.config.problems import describe
from fedinfer.config.sections import Scenario
from fedinfer.errors import ConfigError

FILE_IN_FOLDER = "scenario.toml"
LONGEST_CHAIN = 8
_FILES = ("path", "vocabulary")


def load_scenario(name_or_path: str, overrides: Sequence[str] = ()) -> Scenario:
    """Load a TOML file (or a folder with scenario.toml) by path, or a built-in scenario by name.

    Args:
        name_or_path: for instance "heart" or "pilot/scenario.toml". A file may say `extends = "heart"` or
            `extends = "../base.toml"`: that one is read first and this one laid over it, key by key.
        overrides: texts `section.key=value` laid on top; the value is TOML, a bare word is text. A relative
            `data.path` or `data.vocabulary` starts here from the current folder, as in a shell.

    Returns:
        The scenario. Relative `data.path` and `data.vocabulary` are resolved from the folder of the file that has them.

    Raises:
        ConfigError: names file, key, value and rule of everything that is wrong.
    """
    path = find_scenario(name_or_path)
    layers = _named_twice(_read_chain(path, ()), name_or_path, path)
    for text in overrides:
        layers = layers.over(_placed(parse_override(text), Path.cwd(), f"--set {text}"), f"--set {text}")
    return validate(replace(layers, values={**layers.values, "base": str(path.parent)}), str(name_or_path))


def _named_twice(layers: Layers, name: str, path: Path) -> Layers:
    if name not in scenario_names() or path == _builtin(name):
        return layers
    notice = f"{name}: read from {path}; the built-in scenario of that name was not used"
    return replace(layers, notices=(*layers.notices, notice))


def override(scenario: Scenario, values: Mapping[str, Any]) -> Scenario:
    """A loaded scenario with other values.

    Args:
        scenario: stays as it is.
        values: by key, for instance {"training.rounds": 5}.

    Raises:
        ConfigError: an unknown key or a value that its rule refuses, with all problems.
    """
    if not values:
        return scenario
    layers = Layers(notices=scenario.notices)
    layers = layers.over(scenario.model_dump(mode="json", exclude_unset=True), scenario.scenario.name)
    for key, value in values.items():
        *sections, name = key.split(".")
        nested: dict[str, Any] = {name: value}
        for section in reversed(sections):
            nested = {section: nested}
        layers = layers.over(nested, key)
    return validate(layers, scenario.scenario.name)


def parse_scenario(text: str, folder: Path, source: str, overrides: Sequence[str] = ()) -> Scenario:
    """Read a scenario from TOML text that is not a file yet; without `extends`.

    Args:
        text: TOML.
        folder: where relative paths start.
        source: name for messages.
        overrides: texts `section.key=value` laid on top.

    Raises:
        ConfigError: as in `load_scenario`.
    """
    try:
        values = _placed(tomllib.loads(text), folder, source)
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is a plain ValueError
        raise ConfigError(f"{source}: not valid TOML: {error}") from error
    layers = Layers().over({**values, "base": str(folder)}, source)
    for item in overrides:
        layers = layers.over(_placed(parse_override(item), folder, f"--set {item}"), f"--set {item}")
    return validate(layers, source)


def validate(layers: Layers, source: str) -> Scenario:
    """Check the merged values once, strictly: no text where a number belongs.

    Args:
        layers: merged values; the folder of the scenario is under the key `base`.
        source: name for messages about values that nobody set.

    Returns:
        The scenario, with the notices of the layers.

    Raises:
        ConfigError: lists all problems.
    """
    try:
        scenario = Scenario.model_validate_json(json.dumps(layers.values, default=str), strict=True)
    except ValidationError as error:
        lines = [describe(problem, layers, source) for problem in error.errors(include_url=False)]
        raise ConfigError("\n".join(lines), hint="all keys: docs/reference/scenario.md") from error
    return scenario.noticed(layers.notices)


def scenario_names() -> tuple[str, ...]:
    """Names of the built-in scenarios, sorted."""
    return tuple(sorted(path.stem for path in _folder().glob("*.toml")))


def find_scenario(name_or_path: str) -> Path:
    """The TOML file that a name or path means.

    Args:
        name_or_path: a TOML file, a folder with scenario.toml, or the name of a built-in. A file or folder wins over a
            built-in of the same name.

    Raises:
        ConfigError: there is none; names the nearest built-in.
    """
    path = Path(name_or_path)
    if path.is_dir():
        path = path / FILE_IN_FOLDER
    if path.is_file():
        return path.resolve()
    if name_or_path in scenario_names():
        return _builtin(name_or_path)
    near = difflib.get_close_matches(name_or_path, scenario_names(), n=1)
    guess = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(
        f"{name_or_path}: no such scenario file or built-in", hint=f"{guess}built-in: {', '.join(scenario_names())}"
    )


def load_builtin(name: str) -> Scenario:
    """Load a built-in scenario, whatever lies in the current folder.

    Args:
        name: one of `scenario_names`.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in scenario_names():
        raise ConfigError(f"{name}: no such built-in", hint=f"built-in: {', '.join(scenario_names())}")
    path = _builtin(name)
    layers = _read_chain(path, ())
    return validate(replace(layers, values={**layers.values, "base": str(path.parent)}), name)


def _builtin(name: str) -> Path:
    return _folder() / f"{name}.toml"


def _folder() -> Path:
    return Path(str(resources.files("fedinfer"))) / "scenarios"


def _read_chain(path: Path, seen: tuple[Path, ...]) -> Layers:
    """Read a file and, below it, what it extends."""
    if path in seen or len(seen) >= LONGEST_CHAIN:
        raise ConfigError(f"{path}: extends goes in a circle: {' -> '.join(p.name for p in (*seen, path))}")
    values = _placed(read_toml(path), path.parent, str(path))
    parent = values.pop("extends", None)
    if parent is None:
        return Layers().over(values, str(path))
    if not isinstance(parent, str):
        raise ConfigError(f"{path}: extends = {parent!r}: must be a scenario name or a path in quotes")
    return _read_chain(_parent_path(path, parent), (*seen, path)).over(values, str(path))


def _parent_path(path: Path, parent: str) -> Path:
    beside = os.path.normpath(path.parent / parent)
    if parent in scenario_names() and not Path(beside).exists():
        return _builtin(parent)
    try:
        return find_scenario(beside)
    except ConfigError as error:
        raise ConfigError(f"{path}: extends = {parent!r}: {error}", hint=error.hint) from error


def _placed(values: Mapping[str, Any], folder: Path, source: str) -> dict[str, Any]:
    """The values with absolute paths to table and vocabulary."""
    if "base" in values:
        raise ConfigError(f"{source}: unknown key base", hint="relative paths start from the folder of the TOML")
    data = values.get("data")
    if not isinstance(data, Mapping):
        return dict(values)
    named = {key: data[key] for key in _FILES if isinstance(data.get(key), str) and data[key]}
    return {**values, "data": {**data} | {key: os.path.normpath(folder / name) for key, name in named.items()}}
