"""`fedinfer superlink`: the server's end of the line, with one address for devices and one for who may start runs."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated

import typer

from fedinfer.cli.output import errors_to_exit, stderr
from fedinfer.errors import ConfigError

LOOPBACK = "127.0.0.1:9501"


def superlink(
    database: Annotated[Path, typer.Option("--database", help="file that remembers registered nodes and runs")],
    ca: Annotated[Path, typer.Option("--ca", help="authority of the TLS certificate")],
    certificate: Annotated[Path, typer.Option("--certificate", help="TLS certificate for both addresses")],
    key: Annotated[Path, typer.Option("--key", help="private key of the certificate")],
    fleet: Annotated[str, typer.Option("--fleet", help="HOST:PORT for devices: the fleet API alone")],
    control: Annotated[str, typer.Option("--control", help="HOST:PORT for who may start runs")] = LOOPBACK,
) -> None:
    """Run Flower's SuperLink; only its fleet API answers on the address of the devices."""
    with errors_to_exit():
        from fedinfer.flower import SuperLinkSettings, address, run_superlink

        for path in (ca, certificate, key):
            if not path.is_file():
                raise ConfigError(f"{path}: no such file")
        settings = SuperLinkSettings(address(fleet), address(control), database, ca, certificate, key)
        if not _is_loopback(settings.control.host):
            stderr.print(
                f"warning: whoever reaches {control} may start runs, and with them any program on this server; "
                "keep it on the loopback interface",
                soft_wrap=True,
            )
        run_superlink(settings)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
