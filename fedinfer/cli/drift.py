"""`fedinfer drift`: what a watch would see, before anybody spends."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from fedinfer.cli.choice import SetOption, chosen_scenario
from fedinfer.cli.output import JsonOption, errors_to_exit, print_document, print_json, stdout
from fedinfer.coordinator import Population, answer_suggestion, planned_watch
from fedinfer.data import load
from fedinfer.drift import POWER, SHIFT, Forecast, MonitorPlan, enough, forecast, report_channels, report_norm
from fedinfer.errors import ConfigError
from fedinfer.privacy import GaussianEvent, Repeated, account, at_most, calibrate, exactly, relation_of
from fedinfer.types import Json, Unit

app = typer.Typer(no_args_is_help=True, help="Drift: what a watch would see, and answers to what it suggests.")

BRACKET = (0.02, 1e5)
CLASSES, DELTA = 10, 1e-6


@dataclass(frozen=True, slots=True)
class _Watch:
    """A plan with its noise.

    Args:
        plan: of the monitor.
        devices: that report in a window.
        rows: of a device's window.
        noise_std: of the sum of one window, per bin.
        noise_multiplier: that a report is charged for.
        epsilon, delta: of all reports together; inf without noise.
        reports: how many there are.
    """

    plan: MonitorPlan
    devices: int
    rows: int
    noise_std: float
    noise_multiplier: float
    epsilon: float
    delta: float
    reports: int

    @property
    def size(self) -> float:
        return self.devices * self.plan.unit.counted(self.rows)


@app.command()
def plan(
    scenario: Annotated[str, typer.Argument(help="built-in scenario or TOML file; or give --devices, --epsilon")] = "",
    devices: Annotated[int, typer.Option("--devices", min=0, help="devices that report in a window")] = 0,
    epsilon: Annotated[float, typer.Option("--epsilon", help="of all reports together, > 0; inf: no noise")] = 0.0,
    shift: Annotated[float, typer.Option("--shift", help="size of the change, standard deviations, in (0, 3]")] = SHIFT,
    windows: Annotated[int, typer.Option("--windows", min=1, help="watched windows (without a scenario)")] = 12,
    reference: Annotated[int, typer.Option("--reference", min=1, help="reference windows (without a scenario)")] = 5,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Power, delay and false alarms of a watch, for stated changes, and what to change. Nothing is spent."""
    with errors_to_exit():
        if not 0.0 < shift <= 3.0:
            raise ConfigError(f"--shift {shift:g}: must be in (0, 3] standard deviations")
        watch = _of_scenario(scenario, overrides) if scenario else _of_figures(devices, epsilon, windows, reference)
        told, quiet = forecast(watch.plan, watch.size, watch.noise_std, shift)
        content = _content(watch, told, quiet, shift)
    if as_json:
        print_json(content)
        return
    _show(content)


@app.command()
def approve(
    folder: Annotated[Path, typer.Argument(help="run folder of a run with drift.mode = suggest")],
    decline: Annotated[bool, typer.Option("--decline", help="do not train; the watch cools down and goes on")] = False,
    as_json: JsonOption = False,
) -> None:
    """Answer a round of training that a running watch suggests; it is carried out after the next window."""
    with errors_to_exit():
        suggested = answer_suggestion(folder, approved=not decline)
    print_document({"approved": not decline, **suggested}, as_json)


def _of_scenario(name: str, overrides: list[str] | None) -> _Watch:
    scenario = chosen_scenario(name, overrides or (), None, None, None)
    federation = load(scenario)
    rows = [len(data.train_y) for data in federation.devices.values()]
    schema = federation.schema
    population = Population(len(rows), sum(rows), min(rows), 1, schema.classes, schema=schema)
    watched = planned_watch(scenario, population)
    return _Watch(
        watched.plan, len(rows), scenario.drift.window, watched.noise_std, watched.noise_multiplier, watched.epsilon,
        scenario.privacy.delta, watched.reports,
    )  # fmt: skip


def _of_figures(devices: int, epsilon: float, windows: int, reference: int) -> _Watch:
    if devices < 2 or not epsilon > 0:
        raise ConfigError(
            f"{devices} devices at epsilon {exactly(epsilon)} make no watch",
            hint="name a scenario, or give --devices (2 or more) and --epsilon (above 0)",
        )
    channels, reports = report_channels(CLASSES), reference + windows
    weight = 0.6 if windows < 20 else 0.2
    watched = MonitorPlan(channels, Unit.DEVICE, reference, windows, 0.05, 0.2, weight)
    z = 0.0
    if math.isfinite(epsilon):
        z = calibrate(
            lambda noise: (Repeated(GaussianEvent(noise), reports),), epsilon, DELTA, relation_of(Unit.DEVICE), BRACKET
        )
    return _Watch(watched, devices, 1, z * report_norm(Unit.DEVICE, channels), z, epsilon, DELTA, reports)


def _content(watch: _Watch, told: tuple[Forecast, ...], quiet: float, shift: float) -> Json:
    return {
        "devices": watch.devices,
        "reports": watch.reports,
        "reference_windows": watch.plan.reference_windows,
        "watched_windows": watch.plan.windows,
        "epsilon": watch.epsilon if math.isfinite(watch.epsilon) else None,
        "delta": watch.delta,
        "noise_std": watch.noise_std,
        "false_alarm_rate": watch.plan.false_alarm_rate,
        "false_alarm_rate_simulated": quiet,
        "shift": shift,
        "channels": [
            {
                "channel": each.channel,
                "change": each.change,
                "seen": [{"windows": window, "probability": chance} for window, chance in each.seen],
                "median_delay": each.delay if math.isfinite(each.delay) else None,
            }
            for each in told
        ],
        "advice": _advice(watch, shift),
    }


def _advice(watch: _Watch, shift: float) -> str:
    more, less = enough(watch.plan, watch.size, watch.noise_std, shift)
    if more == 1.0:
        return f"every stated change is seen by the last window with probability {POWER:g}"
    ways = []
    if math.isfinite(more):
        ways.append(f"{math.ceil(watch.devices * more)} devices")
    if less > 0.0 and watch.noise_std > 0.0:
        event = Repeated(GaussianEvent(watch.noise_multiplier * less), watch.reports)
        epsilon = account((event,), watch.delta, relation_of(watch.plan.unit)).epsilon
        ways.append(f"epsilon {at_most(epsilon, 2)} for all reports")
    ways += ["fewer channels"] if len(watch.plan.channels) > 2 else []
    ways += ["a larger change is all that can be asked for"] if not ways else []
    return f"not every stated change is seen with probability {POWER:g}: about " + ", or ".join(ways) + " would do it"


def _show(content: Json) -> None:
    epsilon = content["epsilon"]
    spent = "no noise" if epsilon is None else f"epsilon {at_most(epsilon)} at delta {at_most(content['delta'], 6)}"
    stdout.print(
        f"{content['devices']} devices, {content['reference_windows']} reference and {content['watched_windows']} "
        f"watched windows, {spent} for all {content['reports']} reports; noise of a sum: standard deviation "
        f"{content['noise_std']:.3g}.",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    stdout.print(
        f"A quiet run raises any alarm with probability at most {content['false_alarm_rate']:g} "
        f"(simulated: {content['false_alarm_rate_simulated']:.3f}).",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    table = Table(box=None, pad_edge=False)
    for heading in ("channel", "change", "seen after so many windows", "median delay"):
        table.add_column(heading)
    for row in content["channels"]:
        seen = ", ".join(f"{each['windows']}: {each['probability']:.2f}" for each in row["seen"])
        delay = "-" if row["median_delay"] is None else f"{row['median_delay']:g}"
        table.add_row(escape(row["channel"]), escape(row["change"]), seen, delay)
    stdout.print(table)
    stdout.print(escape(content["advice"]) + ".", highlight=False, soft_wrap=True)
