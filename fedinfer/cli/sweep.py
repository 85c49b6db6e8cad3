"""`fedinfer sweep`: many runs of one scenario, their table and page."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from fedinfer.cli.output import JsonOption, a_number, errors_to_exit, print_json, stderr, stdout
from fedinfer.cli.run import QUIET_ENVIRONMENT
from fedinfer.cli.tracking import ExperimentOption, MlflowOption, TensorboardOption, track
from fedinfer.config import load_scenario
from fedinfer.errors import ConfigError
from fedinfer.privacy import at_most
from fedinfer.system import SystemClock
from fedinfer.types import Json

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedinfer.sweeps import Axis, Sweep, Tick

SAYING_EVERY = 10
"""Without a terminal so many lines, at most, tell how far it is."""


class TunedRows(StrEnum):
    """Whose rows train and judge."""

    OWN = "own"
    PUBLIC = "public"
    SYNTHETIC = "synthetic"


def sweep(
    scenario: Annotated[str, typer.Argument(help="built-in name (see `fedinfer scenarios`) or TOML file")],
    epsilon: Annotated[str | None, typer.Option(help="budgets, for instance 0.5,1,2,inf; inf: no privacy")] = None,
    unit: Annotated[str | None, typer.Option(help="units of privacy: example,device")] = None,
    trust: Annotated[str | None, typer.Option(help="who adds the noise: local,distributed,central")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="runs of every setting, with seeds from scenario.seed on")] = 3,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="section.key=a,b,c makes any key an axis, section.key=a sets it for all runs"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="folder; default sweeps/<scenario>. What is there already is not run again")
    ] = None,
    jobs: Annotated[int, typer.Option(min=0, help="processes at a time; 0: one per core")] = 0,
    rows: Annotated[
        TunedRows,
        typer.Option(help="rows that train and judge: the scenario's own, its public ones, or made from the schema"),
    ] = TunedRows.OWN,
    target: Annotated[
        float | None, typer.Option(callback=a_number, help="recommend the least epsilon that reaches this figure")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(callback=a_number, help="recommend the best setting with at most this epsilon")
    ] = None,
    private_selection: Annotated[
        float | None,
        typer.Option(
            callback=a_number,
            help="expected number of runs: release the best setting alone, by its figure on public rows; charged for",
        ),
    ] = None,
    core_watts: Annotated[float, typer.Option(min=0.1, help="power of a busy core, W, to estimate energy")] = 10.0,
    keep_models: Annotated[bool, typer.Option("--keep-models", help="keep models and devices of every run")] = False,
    mlflow: MlflowOption = None,
    experiment: ExperimentOption = "fedinfer",
    tensorboard: TensorboardOption = None,
    json: JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress, only the result")] = False,
) -> None:
    """Run every combination of privacy budgets and other values: a table, a page, a recommended setting."""
    with errors_to_exit("interrupted; the same command goes on where it was"):
        os.environ.update(QUIET_ENVIRONMENT)
        from fedinfer.sweeps import (
            SweepRows,
            SweepSettings,
            Wish,
            run_sweep,
            runs_of,
            select_privately,
            write_pictures,
            write_tables,
        )

        fixed, axes = _axes(epsilon, unit, trust, overrides or ())
        base = load_scenario(scenario, fixed)
        first, folder = base.scenario.seed, out or Path("sweeps") / base.scenario.name
        settings = SweepSettings(
            axes,
            tuple(range(first, first + seeds)),
            jobs=jobs,
            rows=SweepRows(rows),
            wish=Wish(target, budget),
            core_watts=core_watts,
            keep_models=keep_models,
        )
        if private_selection is not None:
            with _progress(not (json or quiet)) as tick:
                chosen = select_privately(base, settings, private_selection, folder, SystemClock(), tick)
            print_json(chosen) if json else _explain_selection(chosen, folder)
            return
        with _progress(not (json or quiet)) as tick:
            found = run_sweep(base, settings, folder, SystemClock(), tick)
        document = found.to_json()
        write_tables(folder, found.rows, found.document["figures"])
        write_pictures(folder, document)
        if mlflow is not None or tensorboard is not None:
            track(runs_of(found, folder), mlflow, experiment, tensorboard)
    if json:
        print_json({**document, "results": list(found.rows)})
    else:
        _explain(found, folder)


def _axes(
    epsilon: str | None, unit: str | None, trust: str | None, overrides: Sequence[str]
) -> tuple[list[str], tuple[Axis, ...]]:
    """Overrides with one value, for all runs, and axes."""
    from fedinfer.sweeps import axis_of, check_axes, named_axes

    short = {"epsilon": epsilon, "unit": unit, "trust": trust}
    given = {name: axis_of(f"{name}={text}").values for name, text in short.items() if text is not None}
    odd = next(
        (value for value in given.get("epsilon", ()) if not isinstance(value, int | float) or not value > 0), None
    )
    if odd is not None:
        raise ConfigError(f"--epsilon: {odd!r} is no number above 0", hint="for instance --epsilon 0.5,1,2,inf")
    fixed, axes = [], [*named_axes(given)]
    for text in overrides:
        axis = axis_of(text)
        if len(axis.values) > 1:
            axes.append(axis)
        else:
            fixed.append(text)
    check_axes(axes)
    return fixed, tuple(axes)


@contextmanager
def _progress(show: bool) -> Iterator[Callable[[Tick], None]]:
    """Tells how far a sweep is: a bar in a terminal, a few lines elsewhere."""
    if not show:
        yield lambda tick: None
    elif stderr.is_terminal:
        bar = Progress(
            TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), console=stderr
        )
        with bar:
            task = bar.add_task("", total=None)
            yield lambda tick: bar.update(task, completed=tick.done, total=tick.total, description=_left(tick))
    else:
        yield _say_progress


def _say_progress(tick: Tick) -> None:
    step = max(tick.total // SAYING_EVERY, 1)
    if tick.done == tick.cached or tick.done % step == 0 or tick.done == tick.total:
        line = f"{tick.done} of {tick.total} runs, {_left(tick)}"
        stderr.print(line, markup=False, highlight=False, soft_wrap=True)


def _left(tick: Tick) -> str:
    parts = [f"{tick.cached} taken from the folder"] if tick.cached else []
    if tick.refused:
        parts.append(f"{tick.refused} could not run")
    if tick.done < tick.total:
        parts.append(
            "time left unknown yet" if tick.seconds_left is None else f"about {_duration(tick.seconds_left)} left"
        )
    return ", ".join(parts) or "done"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole} s" if whole < 90 else f"{whole // 60} min {whole % 60} s"


def _explain(found: Sweep, folder: Path) -> None:
    from fedinfer.report import honest, metric_words

    document = found.document
    names = document["columns"]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for title in (*names, "seeds", metric_words(document["metric"]), "worst", "spent"):
        table.add_column(title, no_wrap=True)
    table.add_column("", overflow="fold")
    for each in found.settings:
        table.add_row(*_line(each.to_json(), names))
    stdout.print(table, markup=False, highlight=False)
    for advice in found.advice:
        _say(f"recommended, unit {advice.unit}: {advice.reason}")
    for line in honest(document):
        _say(line)
    _say(f"{folder}/sweep.html, results.csv, plots/")


def _explain_selection(chosen: Json, folder: Path) -> None:
    setting = ", ".join(f"{name} {value}" for name, value in chosen["setting"].items())
    _say(
        f"chosen: {setting}, {'no score' if chosen['score'] is None else format(chosen['score'], '.3f')} on public rows"
    )
    if chosen["refused"]:
        _say(f"{len(chosen['refused'])} settings could not run; selection.json says why")
    _say(chosen["said"])
    _say(f"{folder}/selection.json, selected/")


def _line(setting: Json, names: Sequence[str]) -> list[str]:
    cells = [f"{setting[name]:g}" if isinstance(setting[name], int | float) else str(setting[name]) for name in names]
    cells.append(f"{setting['runs']} of {setting['asked']}")
    mean, worst, spent = setting["utility"], setting["worst_group"], setting["epsilon_spent"]
    error = (setting["utility_high"] - setting["utility_low"]) / 2 if mean is not None else 0.0
    cells.append("" if mean is None else f"{mean:.3f} \u00b1 {error:.3f}" if setting["runs"] > 1 else f"{mean:.3f}")
    cells.append("" if worst is None else f"{worst:.3f}")
    cells.append("" if spent is None else at_most(spent))
    reasons = setting["reasons"]
    cells.append(_short(reasons[0]) if reasons else "")
    return cells


def _short(reason: str) -> str:
    first = reason.split(":", 1)[0]
    return first if len(first) <= 60 else f"{first[:57]}..."


def _say(text: str) -> None:
    stdout.print(text, markup=False, highlight=False, soft_wrap=True)
