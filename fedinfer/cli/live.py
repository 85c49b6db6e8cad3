"""The live view of a run: what happens now, in one screen, fed by events."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from fedinfer.cli.output import stderr
from fedinfer.ports import Clock, Listener
from fedinfer.privacy import at_most, exactly
from fedinfer.report import metric_words, plural

RECENT = 8


class RunView:
    """Turns events into a screen.

    Args:
        folder: named in the title.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._facts: dict[str, str] = {}
        self.recent: list[tuple[str, str]] = []
        self._title = "fedinfer"
        self._budget = ""
        self._task, self._metric = "", "metric"
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=stderr,
        )
        self._steps = self._progress.add_task("steps", total=None)

    def __rich__(self) -> RenderableType:
        """One panel: facts on top, what happened last below, progress at the bottom."""
        facts = Table.grid(padding=(0, 2))
        facts.add_column(style="bold")
        facts.add_column()
        for name, value in self._facts.items():
            facts.add_row(name, Text(value))
        recent = Table.grid(padding=(0, 2))
        recent.add_column(style="cyan", no_wrap=True)
        recent.add_column()
        for what, text in self.recent[-RECENT:]:
            recent.add_row(what, Text(text))
        return Panel(
            Group(facts, Text(""), recent, Text(""), self._progress), title=self._title, subtitle=str(self._folder)
        )

    def take(self, name: str, fields: dict[str, Any]) -> None:
        """One event.

        Args:
            name: of the event; unknown ones are ignored.
            fields: of the event.
        """
        handler = getattr(self, f"_on_{name}", None)
        if handler is not None:
            handler(fields)

    def _say(self, what: str, text: str) -> None:
        self.recent.append((what, text))

    def _on_started(self, fields: dict[str, Any]) -> None:
        privacy, sums = fields["privacy"], fields["secure_aggregation"]
        self._title = f"{fields['scenario']}: {fields['population']} devices, seed {fields['seed']}"
        self._progress.update(self._steps, total=fields["rounds"] + fields["windows"], description="rounds and windows")
        self._task = fields["task"]["metric"]
        self._metric = metric_words(self._task)
        self._budget = f" of {exactly(privacy['budget'])}" if privacy["private"] else ""
        self._facts["privacy"] = (
            f"per {privacy['unit']}, trust {privacy['trust']}, budget epsilon {exactly(privacy['budget'])} at delta "
            f"{at_most(privacy['delta'], 6)}"
        )
        self._facts["aggregation"] = f"{sums['mode']}, at least {sums['threshold']} survivors, {sums['bits']} bits"
        for warning in fields["warnings"]:
            self._say("warning", warning)

    def _on_pretrained(self, fields: dict[str, Any]) -> None:
        value = fields["metrics"].get(self._task)
        self._say("pretrain", f"{fields['rows']} public rows, {self._metric} {_figure(value)}")

    def _on_continued(self, fields: dict[str, Any]) -> None:
        value = fields["metrics"].get(self._task)
        self._say("weights", f"of {fields['start']}, {self._metric} {_figure(value)}")

    def _on_unjudged(self, fields: dict[str, Any]) -> None:
        self._say("warning", fields["reason"])

    def _on_round(self, fields: dict[str, Any]) -> None:
        self._progress.advance(self._steps)
        self._facts["epsilon spent"] = f"{at_most(fields['epsilon'])}{self._budget}"
        self._facts["now"] = "training"
        loss = "" if fields["loss"] is None else f", loss {_figure(fields['loss'])}"
        self._facts["metric"] = f"{self._metric} {_figure(fields['metric'])}{loss}"
        text = f"{fields['survivors']} of {fields['cohort']} survived, {self._metric} {_figure(fields['metric'])}"
        if fields["status"] == "aborted":
            text = f"aborted: {fields['detail']}"
        self._say(f"round {fields['round']}", f"{text}, epsilon {at_most(fields['epsilon'])} ({fields['reason']})")

    def _on_built(self, fields: dict[str, Any]) -> None:
        self._say(
            f"model v{fields['version']}",
            f"{fields['recipe']}, {fields['quantized_bytes']} bytes (float {fields['float_bytes']}), "
            f"{metric_words(fields['metric'])} "
            f"{fields['quantized_metric']:.3f} (float {fields['float_metric']:.3f})"
            f"{_compression(fields.get('slimming'))}",
        )

    def _on_phase(self, fields: dict[str, Any]) -> None:
        self._facts["now"] = fields["phase"]
        self._say("now", fields["phase"])

    def _on_gate(self, fields: dict[str, Any]) -> None:
        means = ", ".join(f"{name} {figure['mean']:.2f}" for name, figure in fields["figures"].items())
        self._say(f"wave {fields['wave']}", f"decided by {fields['judged']}: {means or fields['detail']}")

    def _on_wave(self, fields: dict[str, Any]) -> None:
        self._say(f"wave {fields['wave']}", f"{fields['installed']} installed, {fields['failed']} failed")

    def _on_pushed(self, fields: dict[str, Any]) -> None:
        self._facts["now"] = "devices answer rows"
        self._facts["model"] = f"v{fields['version']} on {fields['devices_active']} devices"

    def _on_window(self, fields: dict[str, Any]) -> None:
        self._progress.advance(self._steps)
        self._facts["drift"] = f"window {fields['window']}: {fields['state']}"
        if fields.get("epsilon") is not None:
            self._facts["epsilon spent"] = f"{at_most(fields['epsilon'])}{self._budget}"
        if fields.get("latency_us") is not None:
            self._facts["inference"] = f"{fields['latency_us']:.0f} us per row (median)"
        self._say(
            f"window {fields['window']}",
            f"{plural(fields['reporters'], 'report')}, {self._metric} on devices {_figure(fields['metric'])}",
        )

    def _on_alarm(self, fields: dict[str, Any]) -> None:
        self._say("ALARM", f"window {fields['window']}, {fields['channel']}, p {fields['p_value']:.2g}")

    def _on_triggered(self, fields: dict[str, Any]) -> None:
        task = self._progress.tasks[0]
        self._progress.update(self._steps, total=(task.total or 0) + fields["rounds"] + fields["windows"])
        self._say("new rounds", f"{fields['rounds']} rounds: {fields['reason']}")

    def _on_rolled_back(self, fields: dict[str, Any]) -> None:
        self._say("roll-back", f"to version {fields['to']} on {fields['devices']} devices")

    def _on_reused(self, fields: dict[str, Any]) -> None:
        self._facts["model"] = f"v{fields['version']} on {fields['devices_active']} devices"
        self._say("reuse", f"version {fields['reused']} serves again as {fields['version']}")

    def _on_not_joined(self, fields: dict[str, Any]) -> None:
        self._say("left out", f"{fields['device']}: {fields['reason']}")

    def _on_withdrawn(self, fields: dict[str, Any]) -> None:
        self._say("withdrawn", f"version {fields['version']} on {fields['devices']} devices, they have no model now")

    def _on_stopped(self, fields: dict[str, Any]) -> None:
        self._say("stopped", fields["message"])


def _compression(reported: dict[str, Any] | None) -> str:
    """What pruning and fine-tuning did; nothing when they were not asked for."""
    if reported is None:
        return ""
    if not reported["pushed"]:
        return f"; the plain file stays: {reported['reason']}"
    return f"; download {reported['zstd_bytes']} bytes instead of {reported['plain_zstd_bytes']}"


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


@contextmanager
def announced(text: str, *, show: bool) -> Iterator[None]:
    """Say what is going on while it is going on: a line that turns on a terminal, a plain line elsewhere.

    Args:
        text: what, in a few words.
        show: whether to say anything.
    """
    if show and stderr.is_terminal:
        with stderr.status(text):
            yield
        return
    if show:
        stderr.print(f"          {text}", markup=False, highlight=False)
    yield


@contextmanager
def live_view(folder: Path, clock: Clock, *, show: bool) -> Iterator[Listener]:
    """A listener that draws on stderr; without `show`, or without a terminal, one line per event or nothing.

    Args:
        folder: of the run, to show.
        clock: for the seconds in front of each line.
        show: whether to draw anything at all.
    """
    view = RunView(folder)
    if not show:
        yield lambda _name, _fields: None
    elif stderr.is_terminal:
        with Live(view, console=stderr, refresh_per_second=4):
            yield view.take
    else:
        started = clock.seconds()

        def lines(name: str, fields: dict[str, Any]) -> None:
            before = len(view.recent)
            view.take(name, fields)
            for what, text in view.recent[before:]:
                line = f"{clock.seconds() - started:7.1f} s  {what:<12} {text}"
                stderr.print(line, markup=False, highlight=False, soft_wrap=True)

        yield lines
