"""`fedinfer server console`: what goes on on a server, as web pages, and orders to its rollouts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedinfer.cli.output import errors_to_exit, stderr
from fedinfer.cli.secrets import PassphraseFile, secrets
from fedinfer.errors import ConfigError
from fedinfer.system import SystemClock, SystemEntropy


def console(
    run: Annotated[Path, typer.Argument(help="run folder of the server")],
    viewer_token_file: Annotated[Path, typer.Option(help="token of who may look; a file that only you read")],
    operator_token_file: Annotated[Path | None, typer.Option(help="token of who may also give orders")] = None,
    key: Annotated[
        Path | None, typer.Option("--key", help="folder of the operator who signs orders given here")
    ] = None,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one")] = 8350,
    allow_host: Annotated[list[str] | None, typer.Option("--allow-host", help="answer to this Host; repeat")] = None,
    tls_cert: Annotated[Path | None, typer.Option("--tls-cert", help="certificate chain (PEM)")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="its private key (PEM)")] = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Show devices, rounds, rollouts, drift, ledger and log on a web page; operators give orders there."""
    with errors_to_exit():
        from fedinfer.cli.serving import tls_of
        from fedinfer.console import ConsoleSettings, Tokens, make_console
        from fedinfer.deployment import open_operator
        from fedinfer.inference import SocketServer, access_of, bind, exposure, read_token

        if not run.is_dir():
            raise ConfigError(f"{run}: no such folder", hint="give the run folder of a server")
        if (key is None) != (operator_token_file is None):
            raise ConfigError("orders need both --operator-token-file and --key, or give neither")
        tokens = Tokens(read_token(viewer_token_file), read_token(operator_token_file) if operator_token_file else b"")
        who = None if key is None else open_operator(key, secrets(passphrase_file))
        tls, clock, servers = tls_of(tls_cert, tls_key), SystemClock(), list[SocketServer]()
        settings = ConsoleSettings(
            folder=run,
            tokens=tokens,
            signer="" if who is None else who.name,
            sign=bytes if who is None else who.sign,
            secure=tls is not None,
            stopping=lambda: any(server.should_exit for server in servers),
        )
        web, listening = make_console(settings, clock, SystemEntropy()), bind(host, port)
        servers.append(SocketServer(web, listening, access_of(host, allow_host or (), b""), clock, tls=tls))
        address = listening.getsockname()
        shown = f"[{host}]" if ":" in host else host
        stderr.print(f"console on {'http' if tls is None else 'https'}://{shown}:{address[1]}/")
        for warning in exposure(str(address[0]), has_token=True, has_tls=tls is not None):
            stderr.print(f"warning: {warning}", markup=False, soft_wrap=True)
        with listening:
            servers[0].run()
