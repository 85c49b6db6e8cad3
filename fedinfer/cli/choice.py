"""Which scenario a command means: its name or file, and the options on top of it. `run` and `validate` share them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from fedinfer.config import Scenario, load_scenario
from fedinfer.errors import ConfigError

DevicesOption = Annotated[int | None, typer.Option(help="number of simulated devices (data.partition.devices)")]
RoundsOption = Annotated[int | None, typer.Option(help="planned rounds (training.rounds)")]
SeedOption = Annotated[int | None, typer.Option(help="seed of everything random (scenario.seed)")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="section.key=value, may be repeated")]


def chosen_scenario(
    name: str, overrides: Sequence[str], devices: int | None, rounds: int | None, seed: int | None
) -> Scenario:
    """The scenario with all options; what the short options say wins.

    Args:
        name: of a built-in, or a file or folder.
        overrides: texts section.key=value.
        devices: number of simulated devices; None: not given.
        rounds: planned rounds; None: not given.
        seed: of everything random; None: not given.

    Raises:
        ConfigError: as `load_scenario`, or a number of devices where a column names them.
    """
    short = {"data.partition.devices": devices, "training.rounds": rounds, "scenario.seed": seed}
    scenario = load_scenario(
        name, [*overrides, *(f"{key}={value}" for key, value in short.items() if value is not None)]
    )
    if devices is not None and scenario.data.device:
        raise ConfigError(
            f"--devices {devices}: the column {scenario.data.device!r} names the devices ([data] device)",
            hint="leave --devices out, or use a scenario whose rows are distributed by [data.partition]",
        )
    return scenario


def check_found(found: int, devices: int | None) -> None:
    """Built-in data may name its own devices: then no other number can be asked for.

    Args:
        found: devices of the data.
        devices: what was asked for; None: nothing.

    Raises:
        ConfigError: another number was asked for.
    """
    if devices is not None and devices != found:
        raise ConfigError(
            f"--devices {devices}: the data itself names its {found} devices", hint=f"leave --devices out: {found} run"
        )
