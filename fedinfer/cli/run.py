"""`fedinfer run`: one command from a scenario to a finished run folder."""

from __future__ import annotations

import logging
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, assert_never

import typer

from fedinfer.cli.choice import DevicesOption, RoundsOption, SeedOption, SetOption, check_found, chosen_scenario
from fedinfer.cli.live import announced, live_view
from fedinfer.cli.output import JsonOption, VerboseOption, errors_to_exit, print_json, stderr
from fedinfer.cli.summary import print_summary
from fedinfer.config import Scenario
from fedinfer.errors import FedInferError, StoreError
from fedinfer.ports import Listener
from fedinfer.system import SystemClock
from fedinfer.types import Json

QUIET_ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Read by Flower and Ray when they are imported: nothing phones home."""


class Engine(StrEnum):
    """Where simulated devices run."""

    LOCAL = "local"
    RAY = "ray"


def run(
    scenario: Annotated[str, typer.Argument(help="built-in name (see `fedinfer scenarios`) or TOML file")],
    engine: Annotated[Engine, typer.Option(help="this process, or Flower's simulation on Ray")] = Engine.LOCAL,
    devices: DevicesOption = None,
    rounds: RoundsOption = None,
    seed: SeedOption = None,
    overrides: SetOption = None,
    out: Annotated[Path | None, typer.Option(help="run folder; default runs/<scenario>-<time>")] = None,
    json: JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no live view, only the summary")] = False,
    verbose: VerboseOption = False,
) -> None:
    """Train privately, push a signed int8 model, infer on every device, watch for drift: one whole run."""
    with errors_to_exit():
        loaded = chosen_scenario(scenario, overrides or (), devices, rounds, seed)
        record, folder, failure = _run(loaded, engine, out, devices, show=not (json or quiet))
        if json:
            print_json(record)
        else:
            print_summary(record, folder, verbose=verbose)
        if failure is not None:
            raise failure


def _run(
    scenario: Scenario, engine: Engine, out: Path | None, devices: int | None, *, show: bool
) -> tuple[Json, Path, FedInferError | None]:
    """Run and write the report; a run that stopped early has a record and a report too."""
    os.environ.update(QUIET_ENVIRONMENT)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    clock = SystemClock()
    with announced("reading the table and planning the run", show=show):
        from fedinfer.report import write_report
        from fedinfer.simulation import EventLog, new_folder, prepare_local, run_local

        prepared = prepare_local(scenario)
    check_found(len(prepared.federation.devices), devices)
    folder = new_folder(out, scenario.scenario.name, clock)
    failure: FedInferError | None = None
    with live_view(folder, clock, show=show) as watch:
        emit = _both(EventLog(folder, clock), watch)
        try:
            match engine:
                case Engine.RAY:
                    from fedinfer.simulation import run_ray

                    run_ray(scenario, prepared.federation, folder, clock, watch)
                case Engine.LOCAL:
                    run_local(prepared, folder, clock, emit)
                case _:
                    assert_never(engine)
        except FedInferError as error:
            failure = error
        except KeyboardInterrupt:
            stderr.print(f"interrupted; what was done so far is in {folder}", markup=False, soft_wrap=True)
            raise
    record = _record(folder, failure)
    write_report(folder)
    return record, folder, failure


def _record(folder: Path, failure: FedInferError | None) -> Json:
    """run.json of a finished run.

    Raises:
        FedInferError: the failure itself, when it came before there was anything to record.
    """
    import json

    try:
        record: Json = json.loads((folder / "run.json").read_text())
    except (OSError, ValueError) as error:
        if failure is not None:
            raise failure from error
        raise StoreError(f"{folder / 'run.json'}: {error}") from error
    return record


def _both(log: Listener, watch: Listener) -> Listener:
    def emit(name: str, fields: Json) -> None:
        log(name, fields)
        watch(name, fields)

    return emit
