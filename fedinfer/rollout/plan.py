"""The two files an operator writes: a plan (TOML) and the list of devices (CSV).

    rollout = "2026-w48"            [[waves]]                      [[gates]]
    version = "7"                   fraction = 0.05                figure = "error"
    previous = "6"                  where = {region = "north"}     bound = "at_most"
    approval = "first_wave"         [[waves]]                      passes_at = 0.12
    min_judged = 50                 fraction = 1.0                 fails_at = 0.15
    wrong_pass_rate = 0.01                                         low = 0.0
    wrong_stop_rate = 0.01                                         high = 1.0
    looks = 3                                                      scope = "fleet"

The devices file has a column `device`; every other column is an attribute.
"""

from __future__ import annotations

import csv
import io
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from fedinfer.errors import ConfigError
from fedinfer.printable import LONGEST_NAME, NAME_RULE, is_device_name, shown
from fedinfer.rollout.controller import Approval, RolloutState, begin
from fedinfer.rollout.gates import Bound, Gate, GateScope, GateSettings
from fedinfer.rollout.waves import Attributes, Wave
from fedinfer.types import DeviceId

T = TypeVar("T")
_PLAN = {
    "rollout", "version", "previous", "approval", "min_judged", "wrong_pass_rate", "wrong_stop_rate", "looks",
    "waves", "gates",
}  # fmt: skip
_WAVE = {"fraction", "where"}
_GATE = {"figure", "bound", "passes_at", "fails_at", "low", "high", "scope"}


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """A checked plan file; `begin` makes a rollout of a fleet from it.

    Args:
        rollout: name.
        version, previous: model to give and model to go back to ("" when there is none).
        approval: when a person has to agree.
        gates: conditions of every wave.
        waves: in order.
    """

    rollout: str
    version: str
    previous: str
    approval: Approval
    gates: GateSettings
    waves: tuple[Wave, ...]

    def begin(self, fleet: Mapping[DeviceId, Attributes]) -> RolloutState:
        """As `controller.begin`, for the fleet of the devices file."""
        return begin(self.rollout, self.version, self.previous, fleet, self.waves, self.gates, self.approval)


def read_plan(path: Path) -> RolloutPlan:
    """Read a plan file.

    Args:
        path: a TOML file in UTF-8, as the head of this module shows.

    Raises:
        ConfigError: naming file, key, value and rule; also when the file cannot be read.
    """
    try:
        table = tomllib.loads(_read(path))
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is a plain ValueError
        raise ConfigError(f"{path}: not TOML: {error}") from error
    try:
        return _plan(table)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}", hint=error.hint) from error


def read_devices(path: Path) -> dict[DeviceId, dict[str, str]]:
    """Read the device list: device to attributes.

    Args:
        path: a CSV file in UTF-8 with a column `device`.

    Returns:
        Attributes by device; at least one device.

    Raises:
        ConfigError: naming file, line and rule; also when the file cannot be read.
    """
    reader = csv.DictReader(io.StringIO(_read(path)), strict=True)
    try:
        names, rows = list(reader.fieldnames or ()), list(reader)
    except csv.Error as error:
        raise ConfigError(f"{path}, line {reader.line_num}: not CSV: {error}") from error
    if "device" not in names:
        raise ConfigError(f"{path}: no column 'device' among {names}")
    if len(set(names)) != len(names):
        raise ConfigError(f"{path}: a column stands twice among {names}")
    return _devices(path, rows)


def _devices(path: Path, rows: Sequence[dict[str, str]]) -> dict[DeviceId, dict[str, str]]:
    devices: dict[DeviceId, dict[str, str]] = {}
    for line, row in enumerate(rows, 2):
        device = row.pop("device")
        if not device or device in devices or None in row or None in row.values():
            raise ConfigError(f"{path}, line {line}: device {device!r} is empty, repeated or malformed")
        if not is_device_name(device):
            raise ConfigError(f"{path}, line {line}: device {shown(device, LONGEST_NAME)!r}: {NAME_RULE}")
        devices[device] = row
    if not devices:
        raise ConfigError(f"{path}: no device")
    return devices


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # spreadsheets and some editors write a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def _plan(table: dict[str, Any]) -> RolloutPlan:
    _known(table, _PLAN, "the plan")
    waves = [_wave(entry, f"waves[{index}]") for index, entry in enumerate(_rows(table, "waves"))]
    gates = [_gate(entry, f"gates[{index}]") for index, entry in enumerate(_rows(table, "gates"))]
    return RolloutPlan(
        rollout=_take(table, "rollout", str, "the plan"),
        version=_take(table, "version", str, "the plan"),
        previous=_take(table, "previous", str, "the plan"),
        approval=_choice(table, "approval", Approval, "the plan"),
        gates=GateSettings(
            gates=tuple(gates),
            min_judged=_take(table, "min_judged", int, "the plan"),
            wrong_pass_rate=_number(table, "wrong_pass_rate", "the plan"),
            wrong_stop_rate=_number(table, "wrong_stop_rate", "the plan"),
            evaluations=_take(table, "looks", int, "the plan"),
        ),
        waves=tuple(waves),
    )


def _wave(entry: Any, where: str) -> Wave:
    _known(entry, _WAVE, where)
    wanted = entry.get("where", {})
    if not isinstance(wanted, dict) or not all(isinstance(value, str) for value in wanted.values()):
        raise ConfigError(f"{where}.where = {wanted!r}: must be a table of texts")
    return Wave(_number(entry, "fraction", where), wanted)


def _gate(entry: Any, where: str) -> Gate:
    _known(entry, _GATE, where)
    return Gate(
        figure=_take(entry, "figure", str, where),
        bound=_choice(entry, "bound", Bound, where),
        passes_at=_number(entry, "passes_at", where),
        fails_at=_number(entry, "fails_at", where),
        low=_number(entry, "low", where),
        high=_number(entry, "high", where),
        scope=_choice(entry, "scope", GateScope, where),
    )


def _known(table: Any, keys: set[str], where: str) -> None:
    if not isinstance(table, dict):
        raise ConfigError(f"{where} must be a table")
    for key in table:
        if key not in keys:
            raise ConfigError(f"{where}: unknown key {key!r}", hint=f"known keys: {', '.join(sorted(keys))}")


def _rows(table: dict[str, Any], key: str) -> list[Any]:
    rows: list[Any] = _take(table, key, list, "the plan")
    return rows


def _take(table: dict[str, Any], key: str, kind: type[T], where: str) -> T:
    if key not in table:
        raise ConfigError(f"{where}: key {key!r} is missing")
    value = table[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ConfigError(f"{where}: {key} = {value!r} has the wrong type")
    return value


def _number(table: dict[str, Any], key: str, where: str) -> float:
    value = table.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e300:
        raise ConfigError(f"{where}: {key} = {value!r} must be a number")
    return float(value)


def _choice(table: dict[str, Any], key: str, choices: type[StrEnum], where: str) -> Any:
    value = _take(table, key, str, where)
    if value not in set(choices):
        raise ConfigError(f"{where}: {key} = {value!r} must be one of {', '.join(choices)}")
    return choices(value)
