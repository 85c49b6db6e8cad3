"""Nested tables that become a scenario: reading them, merging them, and which file or option set which value."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedinfer.config.retired import renewed
from fedinfer.errors import ConfigError

KeyPath = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Layers:
    """Values laid over each other, for each leaf the file or option that it came from, and notices of old keys.

    Args:
        values: nested tables as TOML reads them.
        origins: file or option by the path of each leaf.
        notices: what a writer of old keys should read.
    """

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[KeyPath, str] = field(default_factory=dict)
    notices: tuple[str, ...] = ()

    def over(self, values: Mapping[str, Any], origin: str) -> Layers:
        """These layers with `values` on top; tables are merged key by key, everything else is replaced.

        Args:
            values: nested tables.
            origin: file or option that they come from, for messages.

        Raises:
            ConfigError: `values` has a retired key beside the one that it became.
        """
        current, notices = renewed(values, origin)
        origins = self.origins | {path: origin for path in leaves(current)}
        return Layers(_merged(self.values, current), origins, tuple(dict.fromkeys((*self.notices, *notices))))

    def origin(self, path: KeyPath, default: str) -> str:
        """Where the value at `path`, or the keys below it, came from.

        Args:
            path: keys from the outermost section inwards.
            default: what to say when nobody set it.
        """
        while path:
            if path in self.origins:
                return self.origins[path]
            below = dict.fromkeys(origin for leaf, origin in self.origins.items() if leaf[: len(path)] == path)
            if below:
                return ", ".join(below)
            path = path[:-1]
        return default


def leaves(values: Mapping[str, Any], prefix: KeyPath = ()) -> Iterator[KeyPath]:
    """Paths of all values that are not tables.

    Args:
        values: nested tables.
        prefix: keys that lead to them.
    """
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, (*prefix, key))
        else:
            yield (*prefix, key)


def _merged(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(low)
    for key, value in high.items():
        below = result.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        result[key] = _merged(below, value) if both else value  # type: ignore[arg-type]  # `both` is a check of types
    return result


def read_toml(path: Path) -> dict[str, Any]:
    """Read one TOML file.

    Args:
        path: UTF-8 text.

    Raises:
        ConfigError: missing, unreadable, not UTF-8 or malformed; names the file and the place.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8", hint="save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:  # as in `parse_scenario`
        raise ConfigError(f"{path}: not valid TOML: {error}", hint='text values need quotes: key = "value"') from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def parse_override(text: str) -> dict[str, Any]:
    """Read one `section.key=value`: the value is TOML; a bare word is taken as text.

    Args:
        text: as given to `--set`.

    Raises:
        ConfigError: no `=`, or a key that is not TOML.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text!r}: expected section.key=value", hint="for instance --set training.rounds=5")
    for line in (f"{key} = {value}", f"{key} = {json.dumps(value.strip())}"):
        try:
            return tomllib.loads(line)
        except (ValueError, RecursionError):
            continue
    raise ConfigError(f"--set {text!r}: {key!r} is not a key", hint='quote unusual names: data.ranges."my col"=[0, 1]')
