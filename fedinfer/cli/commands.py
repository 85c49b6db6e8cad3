"""The table of commands: what `fedinfer --help` lists, and where each is. A command is imported when it is called.

So help needs no numpy, and `device predict` on a small device imports what it predicts with, not what trains.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import click
import typer
from typer.core import TyperCommand, TyperGroup


@dataclass(frozen=True, slots=True)
class CommandEntry:
    """A command that is not imported yet.

    Args:
        place: "module:name" of its function, or of the Typer of a group of commands.
        summary: the first sentence of its help.
    """

    place: str
    summary: str


COMMANDS = {
    "run": CommandEntry(
        "fedinfer.cli.run:run",
        "Train privately, push a signed int8 model, infer on every device, watch for drift: one whole run.",
    ),
    "fleet": CommandEntry(
        "fedinfer.cli.fleet:fleet",
        "Train on a virtual fleet: availability, dropouts, batteries and time are simulated; millions of devices.",
    ),
    "scenarios": CommandEntry("fedinfer.cli.scenarios:scenarios", "List the built-in scenarios."),
    "init": CommandEntry("fedinfer.cli.init:init", "Write a commented, working scenario for your own table."),
    "profile": CommandEntry(
        "fedinfer.cli.profile:profile",
        "Show a table: types, missing cells, distributions, devices. For its owner: it shows cells.",
    ),
    "validate": CommandEntry(
        "fedinfer.cli.validate:validate",
        "Say what a scenario would do, or what is wrong with it. Nothing is written.",
    ),
    "report": CommandEntry(
        "fedinfer.cli.report:report",
        "Write report.html, one self-contained page, from run.json, events.jsonl and the ledger of a run folder.",
    ),
    "sweep": CommandEntry(
        "fedinfer.cli.sweep:sweep",
        "Run every combination of privacy budgets and other values: a table, a page, a recommended setting.",
    ),
    "compare": CommandEntry(
        "fedinfer.cli.compare:compare",
        "Show finished runs side by side, and what makes them not comparable.",
    ),
    "audit": CommandEntry(
        "fedinfer.cli.audit:audit",
        "Run a scenario with known vectors: test its noise, samples, clipping and ledgers, bound epsilon by canaries.",
    ),
    "attack": CommandEntry(
        "fedinfer.cli.attack:attack",
        "Membership inference and gradient inversion: what an attacker gets, beside what the claim allows.",
    ),
    "superlink": CommandEntry(
        "fedinfer.cli.superlink:superlink",
        "Run Flower's SuperLink; only its fleet API answers on the address of the devices.",
    ),
    "doctor": CommandEntry(
        "fedinfer.cli.doctor:doctor",
        "Say what is installed, what would not work, and why. Exit code 0 when the base install works.",
    ),
    "version": CommandEntry("fedinfer.cli.version:version", "Print the version."),
    "privacy": CommandEntry("fedinfer.cli.privacy:app", "Privacy: calibrate noise, account for it, read ledgers."),
    "artifact": CommandEntry("fedinfer.cli.artifact:app", "Export, quantize, sign, inspect and verify models."),
    "device": CommandEntry("fedinfer.cli.device:app", "The model on this device."),
    "server": CommandEntry("fedinfer.cli.server:app", "A site: make it, approve devices, start it, watch it."),
    "preflight": CommandEntry(
        "fedinfer.cli.preflight:preflight",
        "Say what would fail on a server or a device, and why, before anything starts. Exit code 1: something would.",
    ),
    "pilot": CommandEntry(
        "fedinfer.cli.pilot:pilot",
        "Bring a whole real deployment up here (SuperLink, agents, TLS, keys), run heart on it, and take it down.",
    ),
    "rollout": CommandEntry("fedinfer.cli.rollout:app", "Give a model to the fleet in waves, stop it, roll it back."),
    "drift": CommandEntry("fedinfer.cli.drift:app", "Drift: what a watch would see, and answers to what it suggests."),
}


class CommandTable(TyperGroup):
    """The commands of `COMMANDS`, imported one by one."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {name: TyperCommand(name, help=entry.summary) for name, entry in COMMANDS.items()}

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command itself.

        Args:
            ctx: of the group.
            cmd_name: as it was typed.

        Returns:
            None for a name that is no command.
        """
        return load_command(cmd_name) if cmd_name in COMMANDS else None

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As of any group, by the table alone.

        Args:
            ctx: of the group.
            formatter: gets the text where rich is not used.
        """
        listed = TyperGroup(
            name=self.name, commands=dict(self.commands), params=self.params, help=self.help, callback=self.callback
        )
        listed.format_help(ctx, formatter)


def load_command(name: str) -> click.Command:
    """Import a command.

    Args:
        name: in `COMMANDS`.
    """
    module, _, attribute = COMMANDS[name].place.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    if isinstance(found, typer.Typer):
        command: click.Command = typer.main.get_group(found)
    else:
        alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        alone.command()(found)
        command = typer.main.get_command(alone)
    command.name = name
    return command
