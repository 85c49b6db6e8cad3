"""`fedinfer fleet`: a virtual fleet of up to millions of devices, trained under a virtual clock."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, assert_never

import typer
from rich.progress import BarColumn, Progress, TextColumn

from fedinfer.cli.choice import DevicesOption, RoundsOption, SeedOption, SetOption, chosen_scenario
from fedinfer.cli.live import announced
from fedinfer.cli.output import JsonOption, errors_to_exit, print_json, stderr, stdout
from fedinfer.cli.run import QUIET_ENVIRONMENT, Engine
from fedinfer.config import Scenario
from fedinfer.errors import ConfigError
from fedinfer.ports import Listener
from fedinfer.privacy import at_most
from fedinfer.report import virtual_time, write_fleet
from fedinfer.system import SystemClock
from fedinfer.types import Json

RUN_ID = "fleet"


def fleet(
    scenario: Annotated[str, typer.Argument(help="built-in name (see `fedinfer scenarios`) or TOML file")],
    engine: Annotated[Engine, typer.Option(help="where devices train: this process, or actors on Ray")] = Engine.LOCAL,
    address: Annotated[str, typer.Option(help="of an existing Ray cluster; without it one is started here")] = "",
    devices: DevicesOption = None,
    rounds: RoundsOption = None,
    seed: SeedOption = None,
    overrides: SetOption = None,
    out: Annotated[Path | None, typer.Option(help="folder of the run; default runs/<scenario>-<time>")] = None,
    json: JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no live view, only the summary")] = False,
) -> None:
    """Train on a virtual fleet: availability, dropouts, batteries and time are simulated; millions of devices."""
    with errors_to_exit():
        os.environ.update(QUIET_ENVIRONMENT)
        if address and engine != Engine.RAY:
            raise ConfigError(f"--address {address} without --engine ray", hint="--engine ray")
        chosen = chosen_scenario(scenario, overrides or (), devices, rounds, seed)
        record, folder = _run(chosen, engine, address, out, show=not (json or quiet))
        if json:
            print_json(record)
        else:
            _explain(record, folder)


def _run(scenario: Scenario, engine: Engine, address: str, out: Path | None, *, show: bool) -> tuple[Json, Path]:
    clock = SystemClock()
    with announced("drawing the fleet and planning the noise", show=show):
        from fedinfer.fleet import Workers, prepare_fleet, run_fleet
        from fedinfer.simulation import EventLog, new_folder, ray_benches

        prepared = prepare_fleet(scenario)
    folder = new_folder(out, scenario.scenario.name, clock)
    log = EventLog(folder, clock, RUN_ID)
    place: AbstractContextManager[Workers | None]
    match engine:
        case Engine.RAY:
            place = ray_benches(scenario, address)
        case Engine.LOCAL:
            place = nullcontext()
        case _:
            assert_never(engine)
    with place as workers, _live(scenario.training.rounds, show=show) as watch:

        def emit(name: str, fields: Json) -> None:
            log(name, fields)
            watch(name, fields)

        record = run_fleet(prepared, workers, emit)
    write_fleet(folder, record)
    return record, folder


@contextmanager
def _live(releases: int, *, show: bool) -> Iterator[Listener]:
    """One line on a terminal: how far the run is, in releases and in virtual time."""
    if not (show and stderr.is_terminal):
        yield lambda *_: None
        return
    columns = (TextColumn("{task.completed} of {task.total} sums"), BarColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=stderr, transient=True) as progress:
        task = progress.add_task("", total=releases)

        def watch(name: str, fields: Json) -> None:
            if name == "released":
                words = (
                    f"{virtual_time(fields['seconds'])} virtual, metric {fields['metric']:.3f}, "
                    f"{(fields['down_bytes'] + fields['up_bytes']) / 1e6:.0f} MB, {fields['watt_hours']:.1f} Wh"
                )
                progress.update(task, completed=fields["release"], description=words)

        yield watch


def _explain(record: Json, folder: Path) -> None:
    plan, totals, part, metric = record["plan"], record["totals"], record["participation"], record["metric"]
    ends = ", ".join(f"{count} {words}" for words, count in sorted(totals["outcomes"].items(), key=lambda x: -x[1]))
    lines = [
        f"{plan['releases']} {plan['rounds']} sums of {plan['answers']} from {plan['devices']} devices in "
        f"{virtual_time(record['seconds'])} of virtual time",
        f"{metric['name']}  {metric['start']:.3f} -> {metric['end']:.3f}",
        *_target_line(record),
        f"jobs     {totals['asked']} begun; {ends}",
        f"traffic  {totals['down_bytes'] / 1e6:.1f} MB down, {totals['up_bytes'] / 1e6:.1f} MB up",
        f"energy   {totals['watt_hours']:.2f} Wh, {totals['wasted_watt_hours']:.2f} Wh of it for nothing",
        f"devices  {100 * part['reached']:.2f} % in a sum, at most {part['most']} times (Gini {part['gini']:.3f})",
        _privacy_line(record),
        *record["warnings"],
        str(folder / "fleet.html"),
    ]
    for line in lines:
        stdout.print(line, markup=False, highlight=False, soft_wrap=True)


def _target_line(record: Json) -> list[str]:
    target = record["target"]
    if target is None:
        return []
    if target["seconds"] is None:
        return [f"target   {target['metric']:g} was not reached"]
    traffic = (target["down_bytes"] + target["up_bytes"]) / 1e6
    when = f"{virtual_time(target['seconds'])}, sum {target['release']}"
    return [f"target   {target['metric']:g} after {when}, {traffic:.1f} MB, {target['watt_hours']:.2f} Wh"]


def _privacy_line(record: Json) -> str:
    plan, privacy = record["plan"], record["privacy"]
    if plan["unit"] == "none":
        return "privacy  none: no noise (unit none)"
    return (
        f"privacy  epsilon <= {at_most(privacy['planned_epsilon'])} at delta {plan['delta']:g} for a device in "
        f"{plan['participations']} sums; nobody spent more than {at_most(privacy['most_spent_epsilon'])}"
    )
