"""`fedinfer run`: one command from a scenario to a finished run folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias, assert_never

import typer

from fedinfer.cli.choice import DevicesOption, RoundsOption, SeedOption, SetOption, check_found, chosen_scenario
from fedinfer.cli.imported import is_imported_folder, prepare_imported
from fedinfer.cli.live import announced, live_view
from fedinfer.cli.output import INTERRUPTED, JsonOption, VerboseOption, errors_to_exit, print_json, stderr
from fedinfer.cli.summary import print_summary
from fedinfer.errors import ConfigError, FedInferError, StoreError
from fedinfer.ports import Clock, Listener, both
from fedinfer.system import SystemClock
from fedinfer.tracing import RunTrace, provider_of
from fedinfer.types import Json

if TYPE_CHECKING:
    from fedinfer.simulation import Prepared

    Source: TypeAlias = Callable[[], Prepared]

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
    scenario: Annotated[
        str, typer.Argument(help="built-in name (see `fedinfer scenarios`), TOML file, or folder of an imported model")
    ] = "",
    engine: Annotated[Engine, typer.Option(help="this process, or Flower's simulation on Ray")] = Engine.LOCAL,
    devices: DevicesOption = None,
    rounds: RoundsOption = None,
    seed: SeedOption = None,
    overrides: SetOption = None,
    rows: Annotated[
        Path | None, typer.Option(help="rows that devices infer on; only, and always, with an imported model")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="public rows by which an imported model is quantized; default: drawn ones")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="run folder; default runs/<scenario>-<time>")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="folder of a run that was interrupted: go on after its last finished step")
    ] = None,
    json: JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no live view, only the summary")] = False,
    verbose: VerboseOption = False,
) -> None:
    """Train privately, push a signed int8 model, infer on every device, watch for drift: one whole run."""
    with errors_to_exit():
        show = not (json or quiet)
        if resume is not None:
            check_alone("run", scenario, rows, calibration, overrides, devices, rounds, seed, out)
            record, folder, failure = _resume(resume, show=show)
        else:
            if not scenario:
                raise ConfigError("no scenario is named", hint="fedinfer run heart, or fedinfer run --resume DIR")
            source = _source(scenario, rows, calibration, overrides or (), devices, rounds, seed)
            record, folder, failure = _run(source, engine, out, devices, show=show)
        if json:
            print_json(record)
        else:
            print_summary(record, folder, verbose=verbose)
        if failure is not None:
            raise failure


def check_alone(command: str, *given: object) -> None:
    """A resumed run is the run that was begun: nothing of it can be chosen anew.

    Args:
        command: that goes on.
        given: what was asked for besides.

    Raises:
        ConfigError: something was.
    """
    if any(value not in (None, "", []) for value in given):
        raise ConfigError(
            "--resume takes no scenario and no options of one: they are those of the run",
            hint=f"fedinfer {command} --resume DIR",
        )


def _run(
    source: Source, engine: Engine, out: Path | None, devices: int | None, *, show: bool
) -> tuple[Json, Path, FedInferError | None]:
    """One whole run: its record, its folder, and why it stopped early."""
    os.environ.update(QUIET_ENVIRONMENT)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    clock = SystemClock()
    with announced("reading the table and planning the run", show=show):
        from fedinfer.simulation import RUN_ID, EventLog, new_folder, run_local

        prepared = source()
        scenario = prepared.scenario
    check_found(len(prepared.federation.devices), devices)
    folder = new_folder(out, scenario.scenario.name, clock)

    def go(watch: Listener) -> None:
        match engine:
            case Engine.RAY if prepared.given is not None:
                raise ConfigError("an imported model runs on the local engine", hint="leave --engine out")
            case Engine.RAY:
                from fedinfer.simulation import run_ray

                run_ray(scenario, prepared.federation, folder, clock, watch)
            case Engine.LOCAL:
                with _traced(watch, clock) as watched:
                    run_local(prepared, folder, clock, both(EventLog(folder, clock, RUN_ID), watched))
            case _:
                assert_never(engine)

    return _watched(folder, clock, go, show=show)


def _resume(folder: Path, *, show: bool) -> tuple[Json, Path, FedInferError | None]:
    """As `_run`, from where another process left."""
    os.environ.update(QUIET_ENVIRONMENT)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    clock = SystemClock()
    with announced("reading the table and what was kept of the run", show=show):
        from fedinfer.simulation import RUN_ID, EventLog, prepare_again, resume_local, run_ray

        prepared, engine = prepare_again(folder)

    def go(watch: Listener) -> None:
        match Engine(engine):
            case Engine.RAY:
                run_ray(prepared.scenario, prepared.federation, folder, clock, watch)
            case Engine.LOCAL:
                with _traced(watch, clock) as watched:
                    resume_local(prepared, folder, clock, both(EventLog(folder, clock, RUN_ID), watched))
            case other:
                assert_never(other)

    return _watched(folder, clock, go, show=show)


def _watched(
    folder: Path, clock: Clock, go: Callable[[Listener], None], *, show: bool
) -> tuple[Json, Path, FedInferError | None]:
    """Run with the live view and write the report; a run that stopped early has a record and a report too."""
    from fedinfer.report import write_report

    failure: FedInferError | None = None
    with live_view(folder, clock, show=show) as watch:
        try:
            go(watch)
        except FedInferError as error:
            failure = error
        except KeyboardInterrupt:
            stderr.print(f"interrupted; go on with: fedinfer run --resume {folder}", markup=False, soft_wrap=True)
            raise typer.Exit(INTERRUPTED) from None
    record = _record(folder, failure)
    write_report(folder)
    return record, folder, failure


def _source(
    name: str, rows: Path | None, calibration: Path | None, overrides: Sequence[str],
    devices: int | None, rounds: int | None, seed: int | None,
) -> Source:  # fmt: skip
    """What reads the data and plans the run: of a scenario, or of an imported model and the rows of a file."""
    if not is_imported_folder(Path(name)):
        for option, given in (("--rows", rows), ("--calibration", calibration)):
            if given is not None:
                raise ConfigError(f"{option} {given}: the scenario {name} brings its own rows", hint="leave it out")
        loaded = chosen_scenario(name, overrides, devices, rounds, seed)

        def of_scenario() -> Prepared:
            from fedinfer.simulation import prepare_local

            return prepare_local(loaded)

        return of_scenario
    if rows is None or rounds:
        raise ConfigError(
            "an imported model is not trained: it needs rows to infer on, and no rounds", hint="--rows FILE"
        )
    return partial(prepare_imported, Path(name), rows, calibration, overrides, devices, seed)


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


@contextmanager
def _traced(watch: Listener, clock: Clock) -> Iterator[Listener]:
    """Spans beside the live view, where OpenTelemetry's variables ask for them; on Ray the coordinator has its own."""
    if (provider := provider_of(os.environ)) is None:
        yield watch
        return
    from fedinfer.simulation import RUN_ID

    trace = RunTrace(provider, RUN_ID, clock)
    try:
        yield both(watch, trace)
    finally:
        trace.close()
