"""A bar for programs and notebooks: how many rounds and windows of a run are over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fedinfer.ports import Listener
from fedinfer.types import Json


@contextmanager
def progress_bar() -> Iterator[Listener]:
    """A bar that listens to the events of a run; rich draws it in terminals and in notebooks.

    Yields:
        Takes every event.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task("planning", total=None)

        def listen(name: str, fields: Json) -> None:
            match name:
                case "started":
                    bar.update(task, total=fields["rounds"] + fields["windows"], description=fields["scenario"])
                case "round":
                    bar.update(task, advance=1, description=f"round {fields['round']}")
                case "window":
                    bar.update(task, advance=1, description=f"window {fields['window']}")
                case "triggered":
                    total = (bar.tasks[task].total or 0) + fields["rounds"] + fields["windows"]
                    bar.update(task, total=total, description="learning again")
                case "built":
                    bar.update(task, description=f"pushing version {fields['version']}")
                case _:
                    pass

        yield listen


@contextmanager
def counting_bar() -> Iterator[Callable[[Any], None]]:
    """A bar for many runs.

    Yields:
        Takes a `fedinfer.sweeps.Tick`, or anything else with `done` and `total`.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task("runs", total=None)
        yield lambda tick: bar.update(task, completed=tick.done, total=tick.total)
