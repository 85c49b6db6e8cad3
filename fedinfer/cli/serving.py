"""What `fedinfer device serve` does: bind, say where, serve, and follow models that other processes install."""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedinfer import __version__
from fedinfer.cli.output import stderr
from fedinfer.device import SERVED_ROWS, WRITE_SECONDS, Recorder, recorder_of
from fedinfer.errors import ConfigError, FedInferError
from fedinfer.inference import (
    Access,
    ObservationBuffer,
    Service,
    ServiceLimits,
    SessionCache,
    Slots,
    Telemetry,
    exposure,
    seconds_since_refresh,
    tls_context,
)
from fedinfer.system import SystemClock
from fedinfer.types import Json

if TYPE_CHECKING:
    from fedinfer.inference import HttpExchange, SocketServer, TakeLabels

"""How often a serving process checks for a model that another process installed."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Which model is served.

    Args:
        slots: of the device's store.
        store: folder of the device: what is trusted of the repository, and counts of predictions.
        name: of the model in URLs; empty: its task.
        most_failures: failures in a row after which the model is checked on its own rows, >= 1.
    """

    slots: Slots
    store: Path
    name: str
    most_failures: int


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where it is served, and to whom.

    Args:
        host: address to listen on.
        port: TCP port; 0: any free one.
        access: who is answered.
        limits: on connections and requests of one client.
        tls: None: plain HTTP.
        access_log: write a line for every request on standard error.
    """

    host: str
    port: int
    access: Access
    limits: ServiceLimits
    tls: ssl.SSLContext | None
    access_log: bool = False


def serve_model(source: ModelSource, endpoint: Endpoint, *, has_token: bool) -> None:
    """Serve until the process is stopped.

    Args:
        source: which model.
        endpoint: where, and to whom.
        has_token: whether clients need one, for the warnings about what is exposed.

    Raises:
        MissingExtra: fastapi or uvicorn is not installed.
        NoModel: nothing is installed.
        ConfigError: the address cannot be used.
    """
    from fedinfer.inference import SocketServer, bind, make_app

    clock, host, tls = SystemClock(), endpoint.host, endpoint.tls
    recorder = recorder_of(source.store, clock)
    buffer = ObservationBuffer(SERVED_ROWS, recorder) if recorder is not None else None
    service = Service(source.slots, SessionCache(4), clock, Telemetry(), source.most_failures, buffer)
    name = source.name or service.current.manifest.task
    metadata = source.store / "metadata"
    take_labels = _labels(service, recorder, buffer)
    web = make_app(service, name, __version__, lambda: seconds_since_refresh(metadata, clock.now()), take_labels)
    listening = bind(host, endpoint.port)
    note = _note(service.telemetry, endpoint)
    server = SocketServer(web, listening, endpoint.access, clock, endpoint.limits, tls, note)
    scheme, address = "http" if tls is None else "https", listening.getsockname()
    where = f"{scheme}://{f'[{host}]' if ':' in host else host}:{address[1]}/v2/models/{name}"
    stderr.print(f"model {name} version {service.current.info.version} on {where}")
    for warning in exposure(str(address[0]), has_token=has_token, has_tls=tls is not None):
        stderr.print(f"warning: {warning}", markup=False, soft_wrap=True)
    with listening:
        _until_stopped(server, service, buffer)


def _note(telemetry: Telemetry, endpoint: Endpoint) -> Callable[[HttpExchange], None]:
    """What is done with every exchange: it is counted, and written down where the owner wants that."""
    if not endpoint.access_log:
        return lambda exchange: telemetry.replied(exchange.status)
    from fedinfer.inference import log_exchange

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

    def note(exchange: HttpExchange) -> None:
        telemetry.replied(exchange.status)
        log_exchange(exchange)

    return note


def tls_of(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """TLS settings from two options.

    Args:
        certificate: PEM chain; None: no TLS.
        key: PEM private key, not encrypted.

    Raises:
        ConfigError: one without the other, or they cannot be used.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise ConfigError("one of --tls-cert and --tls-key is missing", hint="give both, or none")
    return tls_context(certificate, key)


def _labels(service: Service, recorder: Recorder | None, buffer: ObservationBuffer | None) -> TakeLabels | None:
    """What takes labels over HTTP; None where nothing is counted."""
    if recorder is None or buffer is None:
        return None

    def take(request: str, labels: Sequence[object]) -> Json:
        buffer.flush()  # the answers may not be written yet
        current = service.current
        return recorder.label(request, labels, current.manifest.schema, current.predictor.naming).to_json()

    return take


def _until_stopped(server: SocketServer, service: Service, buffer: ObservationBuffer | None) -> None:
    """Serve, and follow what other processes install."""
    stop = threading.Event()
    threading.Thread(target=_follow, args=(service, stop, buffer), daemon=True).start()
    try:
        server.run()
    finally:
        stop.set()
        if buffer is not None:
            buffer.flush()


def _follow(service: Service, stop: threading.Event, buffer: ObservationBuffer | None = None) -> None:
    """Take over what another process installs, and write what was counted.

    A model that cannot be opened is reported and not taken.
    """
    reported = ""
    while not stop.wait(WRITE_SECONDS):
        if buffer is not None:
            buffer.flush()
        try:
            if service.reload():
                now = f"version {service.version}" if service.version else "nothing: the model was withdrawn"
                stderr.print(f"now serving {now}")
            reported = ""
        except FedInferError as error:
            if str(error) != reported:  # once, not every second until somebody repairs the store
                stderr.print(str(error), markup=False, soft_wrap=True)
            reported = str(error)
