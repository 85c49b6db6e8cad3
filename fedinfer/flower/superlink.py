"""Flower's SuperLink with two addresses: the fleet API alone for devices, everything else for the operator.

Flower serves its three APIs on one port, and its control API asks nobody who he is: who reaches that port may start
runs, with any program for the server and a say in what devices are asked. Its runtime API hands tasks of the server's
app to whoever asks. Both stay on the control address here. Uses internals of flwr like `fedinfer.flower.node`.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from fedinfer.errors import ConfigError
from fedinfer.inference import bind

FLEET = "/v1/fleet/"
"""Where Flower's fleet API begins; it checks the signature of a registered node on every request."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen.

    Args:
        host: name or address.
        port: TCP port, 1 to 65535.
    """

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class SuperLinkSettings:
    """What the operator of a server says.

    Args:
        fleet: for devices.
        control: for whoever may start runs, and for the server's own app.
        database: file in which Flower keeps registered nodes and runs.
        authority: file with the certificate that signed the next one.
        certificate: TLS certificate for both addresses.
        key: its private key.
    """

    fleet: Address
    control: Address
    database: Path
    authority: Path
    certificate: Path
    key: Path


class FleetOnly:
    """Passes everything that comes in on the control port; on any other port the fleet API alone.

    Args:
        app: the SuperLink's.
        control_port: TCP port on which everything is allowed.
    """

    def __init__(self, app: Application, control_port: int) -> None:
        self._app = app
        self._control_port = control_port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification, version 3."""
        if scope["type"] == "lifespan" or self._is_allowed(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
        else:
            await send({"type": "websocket.close"})

    def _is_allowed(self, scope: Scope) -> bool:
        server = scope.get("server")  # of the socket that took the connection, not of a header
        is_control = server is not None and server[1] == self._control_port
        return is_control or (scope["type"] == "http" and str(scope["path"]).startswith(FLEET))


def superlink_arguments(settings: SuperLinkSettings) -> list[str]:
    """Arguments of `flower-superlink`: TLS, known nodes only, nothing installed, nothing forgotten at a restart.

    Args:
        settings: of the operator.
    """
    return [
        "--host", settings.control.host, "--port", str(settings.control.port),
        "--ssl-ca-certfile", str(settings.authority), "--ssl-certfile", str(settings.certificate),
        "--ssl-keyfile", str(settings.key), "--database", str(settings.database),
        "--enable-supernode-auth", "--disable-runtime-dependency-installation",
    ]  # fmt: skip


def run_superlink(settings: SuperLinkSettings) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        settings: of the operator.

    Raises:
        ConfigError: both addresses have one port, or one of them is not free.
    """
    if settings.fleet.port == settings.control.port:
        raise ConfigError(f"both addresses have port {settings.control.port}", hint="choose two ports")
    from flwr.supercore.http_logging import get_uvicorn_log_config
    from flwr.supercore.logger import console_handler, update_console_handler
    from flwr.superlink.cli import flower_superlink
    from flwr.superlink.main import create_app

    update_console_handler(timestamps=True, colored=False)
    control = bind(settings.control.host, settings.control.port)
    fleet = bind(settings.fleet.host, settings.fleet.port)
    internals: Any = sys.modules[flower_superlink.__module__]
    sys.argv = ["flower-superlink", *superlink_arguments(settings)]
    app = create_app(internals._parse_superlink_lifespan_config(), internals.SuperLinkLifespan)
    config = uvicorn.Config(
        FleetOnly(app, settings.control.port),
        log_config=get_uvicorn_log_config(console_handler.level),
        ssl_certfile=settings.certificate,
        ssl_keyfile=settings.key,
        workers=1,
        access_log=False,  # a line for each of a device's questions, many a second
    )
    uvicorn.Server(config).run(sockets=[control, fleet])


def address(text: str) -> Address:
    """Read HOST:PORT; an IPv6 host stands in brackets.

    Args:
        text: as an operator writes it.

    Raises:
        ConfigError: it is not one, or the port is outside 1..65535.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"{text!r} is no HOST:PORT")
    return Address(host.removeprefix("[").removesuffix("]"), int(port))
