"""`fedinfer preflight`: what would fail on this side of a site, and why, before anything starts."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fedinfer.cli.output import JsonOption, errors_to_exit, print_json, stdout
from fedinfer.errors import ConfigError
from fedinfer.system import SystemClock


def preflight(
    folder: Annotated[Path, typer.Argument(help="a site, the server's half of one, or the store of a device")],
    as_json: JsonOption = False,
) -> None:
    """Say what would fail on a server or a device, and why, before anything starts. Exit code 1: something would."""
    with errors_to_exit():
        from fedinfer.site import SERVER, check_device, check_server, open_server

        now = SystemClock().now()
        is_device = (folder / "device.json").exists()
        if not is_device and not any((folder / part / "server.pem").exists() for part in ("", SERVER)):
            raise ConfigError(
                f"{folder} is neither a site nor the store of a device",
                hint="fedinfer server init DIR makes a site, fedinfer device request a store",
            )
        findings = check_device(folder, now) if is_device else check_server(open_server(folder), now)
    failed = [finding for finding in findings if not finding.ok]
    if as_json:
        print_json({"ok": not failed, "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            mark = "ok" if finding.ok else "NO"
            stdout.print(f"{mark}  {finding.name:24s} {finding.found}", markup=False, highlight=False, soft_wrap=True)
            if finding.hint:
                stdout.print(f"    hint: {finding.hint}", markup=False, highlight=False, soft_wrap=True)
        stdout.print(
            f"{len(failed)} of {len(findings)} checks failed" if failed else "nothing would fail", highlight=False
        )
    raise typer.Exit(1 if failed else 0)
