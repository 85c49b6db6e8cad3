"""The entry point `fedinfer`: every command, nothing else."""

from __future__ import annotations

import os
import sys

import typer

from fedinfer.cli import artifact, device, privacy, rollout, server
from fedinfer.cli.audit import audit
from fedinfer.cli.doctor import doctor
from fedinfer.cli.init import init
from fedinfer.cli.output import stderr
from fedinfer.cli.profile import profile
from fedinfer.cli.report import report
from fedinfer.cli.run import run
from fedinfer.cli.scenarios import scenarios
from fedinfer.cli.superlink import superlink
from fedinfer.cli.validate import validate
from fedinfer.cli.version import version

INTERRUPTED = 130

app = typer.Typer(
    name="fedinfer",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train privately, aggregate securely, push a signed int8 model, infer on the device, watch for drift.",
)
for command in (run, scenarios, init, profile, validate, report, audit, superlink, doctor, version):
    app.command()(command)
for name, group in (
    ("privacy", privacy.app),
    ("artifact", artifact.app),
    ("device", device.app),
    ("server", server.app),
    ("rollout", rollout.app),
):
    app.add_typer(group, name=name)


def main() -> None:
    """Run the command line. A closed pipe and Ctrl-C end quietly."""
    try:
        app(standalone_mode=True)
    except KeyboardInterrupt:
        stderr.print("interrupted")
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
