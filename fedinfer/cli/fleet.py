"""`fedinfer fleet`: a virtual fleet of up to millions of devices, trained under a virtual clock."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, assert_never

import typer
from rich.progress import BarColumn, Progress, TextColumn

from fedinfer.cli.choice import DevicesOption, RoundsOption, SeedOption, SetOption, chosen_scenario
from fedinfer.cli.live import announced
from fedinfer.cli.output import INTERRUPTED, JsonOption, errors_to_exit, print_json, stderr, stdout
from fedinfer.cli.run import QUIET_ENVIRONMENT, Engine, check_alone
from fedinfer.config import Scenario
from fedinfer.errors import ConfigError
from fedinfer.ports import Clock, Listener
from fedinfer.privacy import at_most
from fedinfer.report import virtual_time, write_fleet
from fedinfer.system import SystemClock
from fedinfer.types import Json

if TYPE_CHECKING:
    from fedinfer.fleet import Workers
    from fedinfer.simulation import FleetPlace

RUN_ID = "fleet"


def fleet(
    scenario: Annotated[str, typer.Argument(help="built-in name (see `fedinfer scenarios`) or TOML file")] = "",
    engine: Annotated[Engine, typer.Option(help="where devices train: this process, or actors on Ray")] = Engine.LOCAL,
    address: Annotated[str, typer.Option(help="of an existing Ray cluster; without it one is started here")] = "",
    devices: DevicesOption = None,
    rounds: RoundsOption = None,
    seed: SeedOption = None,
    overrides: SetOption = None,
    out: Annotated[Path | None, typer.Option(help="folder of the run; default runs/<scenario>-<time>")] = None,
    resume: Annotated[Path | None, typer.Option(help="folder of a run that was interrupted: go on with it")] = None,
    json: JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no live view, only the summary")] = False,
) -> None:
    """Train on a virtual fleet: availability, dropouts, batteries and time are simulated; millions of devices."""
    with errors_to_exit():
        os.environ.update(QUIET_ENVIRONMENT)
        if address and engine != Engine.RAY:
            raise ConfigError(f"--address {address} without --engine ray", hint="--engine ray")
        show = not (json or quiet)
        if resume is not None:
            check_alone("fleet", scenario, overrides, devices, rounds, seed, out)
            record, folder = _resume(resume, engine, address, show=show)
        else:
            if not scenario:
                raise ConfigError("no scenario is named", hint="fedinfer fleet FILE, or fedinfer fleet --resume DIR")
            chosen = chosen_scenario(scenario, overrides or (), devices, rounds, seed)
            record, folder = _run(chosen, engine, address, out, show=show)
        if json:
            print_json(record)
        else:
            _explain(record, folder)


def _run(scenario: Scenario, engine: Engine, address: str, out: Path | None, *, show: bool) -> tuple[Json, Path]:
    clock = SystemClock()
    with announced("drawing the fleet and planning the noise", show=show):
        from fedinfer.fleet import prepare_fleet
        from fedinfer.simulation import begin_fleet, new_folder

        prepared = prepare_fleet(scenario)
    folder = new_folder(out, scenario.scenario.name, clock)
    with _place(scenario, folder, clock, engine, address, show=show) as place:
        return begin_fleet(prepared, place), folder


def _resume(folder: Path, engine: Engine, address: str, *, show: bool) -> tuple[Json, Path]:
    """As `_run`, from where another process left; it may have made its sums elsewhere."""
    with announced("reading what was kept of the run", show=show):
        from fedinfer.simulation import begun_fleet, resume_fleet

        scenario = begun_fleet(folder)
    with _place(scenario, folder, SystemClock(), engine, address, show=show) as place:
        return resume_fleet(scenario, place), folder


@contextmanager
def _place(
    scenario: Scenario, folder: Path, clock: Clock, engine: Engine, address: str, *, show: bool
) -> Iterator[FleetPlace]:
    """Who makes the sums, and who hears of it; Ctrl-C says how to go on."""
    from fedinfer.simulation import EventLog, FleetPlace, ray_benches

    log = EventLog(folder, clock, RUN_ID)
    engines: AbstractContextManager[Workers | None]
    match engine:
        case Engine.RAY:
            engines = ray_benches(scenario, address)
        case Engine.LOCAL:
            engines = nullcontext()
        case _:
            assert_never(engine)
    with engines as workers, _live(scenario.training.rounds, show=show) as watch:

        def emit(name: str, fields: Json) -> None:
            log(name, fields)
            watch(name, fields)

        try:
            yield FleetPlace(folder, clock, workers, emit, partial(write_fleet, folder))
        except KeyboardInterrupt:
            stderr.print(f"interrupted; go on with: fedinfer fleet --resume {folder}", markup=False, soft_wrap=True)
            raise typer.Exit(INTERRUPTED) from None


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
        f"privacy  epsilon <= {at_most(privacy['planned_epsilon'])} at delta {at_most(plan['delta'], 6)} for a "
        f"device in {plan['participations']} sums; nobody spent more than {at_most(privacy['most_spent_epsilon'])}"
    )
