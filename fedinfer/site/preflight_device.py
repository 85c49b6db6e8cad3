"""What would fail on a device that joined a site, found before its agent is started."""

from __future__ import annotations

import json
import socket
import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from cryptography import x509

from fedinfer.config import from_flat
from fedinfer.data import load_own, public_schema
from fedinfer.deployment import CERTIFICATE, NODE_KEY, TLS_AUTHORITY, DeviceStore, SiteCard, open_device
from fedinfer.errors import ConfigError, TransportError
from fedinfer.privacy import exactly
from fedinfer.secagg import read_certificate
from fedinfer.site.checks import Checked, checked, disk, lasting, packages
from fedinfer.site.devices import site_of
from fedinfer.system import child_seed, simulation_rng

CONNECT_SECONDS = 10.0
MOST_SKEW_SECONDS = 300.0
"""Certificates count from an hour before they are signed, so this is early enough to be said."""
_ASK = "HEAD / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"


def check_device(store: Path, now: datetime) -> list[Checked]:
    """Check a device.

    Args:
        store: its folder.
        now: aware time.

    Returns:
        What was found, in the order in which it would fail.
    """
    if not (store / CERTIFICATE).exists():
        return [Checked("store", False, f"{store} has joined no site yet", "fedinfer device join FILE --store STORE")]
    try:
        device, card = open_device(store), site_of(store)
    except Exception as error:  # whatever is wrong with the store, the rest cannot be looked at
        return [Checked("store", False, str(error), getattr(error, "hint", ""))]
    return [
        Checked("store", True, f"device {device.device} of site {card.site}"),
        packages("flwr", "torch", extra="train"),
        disk(store),
        _enrolled(device, now),
        checked("node key", lambda: _node_key(store)),
        checked("tasks", lambda: _tasks(device, card)),
        checked("budget", lambda: _budget(device, card)),
        checked("table", lambda: _table(device, card)),
        *_server(card, store / TLS_AUTHORITY, now),
    ]


def _enrolled(device: DeviceStore, now: datetime) -> Checked:
    enrolment = read_certificate(device.authority, device.certificate)
    begin, end = (datetime.fromtimestamp(at, UTC) for at in (enrolment.not_before, enrolment.not_after))
    return lasting("enrolment", begin, end, now, "fedinfer device renew, then approve and join")


def _node_key(store: Path) -> str:
    mode = (store / NODE_KEY).stat().st_mode & 0o777
    if mode & 0o077:
        raise ConfigError(f"{store / NODE_KEY} has mode {mode:o}: others may read it", hint="chmod 600")
    return "there, for its owner alone"


def _tasks(device: DeviceStore, card: SiteCard) -> str:
    if not {card.task, "*"} & device.tasks:
        raise ConfigError(
            f"the site runs {card.task!r}, the owner agreed to {', '.join(sorted(device.tasks)) or 'nothing'}",
            hint=f'add it to "tasks" in {device.folder / "device.json"}',
        )
    return card.task


def _budget(device: DeviceStore, card: SiteCard) -> str:
    mine, floor = device.budget.epsilon, device.floors.min_survivors
    said = f"epsilon {exactly(mine)} (proposed: {exactly(card.epsilon)}), sums of {floor} devices or more"
    if floor > card.min_survivors:
        return f"{said}; the site plans with {card.min_survivors}, so smaller rounds go on without this device"
    return said


def _table(device: DeviceStore, card: SiteCard) -> str:
    """As the device itself will read it; nothing of it leaves."""
    scenario = from_flat(json.loads(card.scenario))
    rng = simulation_rng(child_seed("held out", device.device))
    data = load_own(scenario, public_schema(scenario), device.data, rng)
    return f"{len(data.train_y)} rows to train on, {len(data.test_y)} held out"


def _server(card: SiteCard, authority: Path, now: datetime) -> list[Checked]:
    """Name, connection, certificate and clock of the server, as far as it gets."""
    host, _, port = card.superlink.rpartition(":")
    host = host.strip("[]")
    found = [checked("TLS authority", lambda: _authority(authority, now))]
    try:
        said = _ask(host, int(port), authority)
    except ssl.SSLCertVerificationError as error:
        hint = "the site's operator runs `fedinfer preflight`; is the clock of this machine right?"
        return [*found, Checked("server", False, f"{card.superlink}: {error.verify_message}", hint)]
    except OSError as error:
        hint = "is it up, and does the network let this device through?"
        return [*found, Checked("server", False, f"{card.superlink}: {error}", hint)]
    return [*found, Checked("server", True, f"{card.superlink} answers"), checked("clock", lambda: _clock(said, now))]


def _authority(path: Path, now: datetime) -> str:
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    if now >= certificate.not_valid_after_utc:
        raise ConfigError(f"{path} ended {certificate.not_valid_after_utc:%Y-%m-%d}", hint="ask for another approval")
    return f"until {certificate.not_valid_after_utc:%Y-%m-%d}"


def _ask(host: str, port: int, authority: Path) -> bytes:
    """The head of an answer of the server."""
    context = ssl.create_default_context(cafile=str(authority))
    with (
        socket.create_connection((host, port), timeout=CONNECT_SECONDS) as connection,
        context.wrap_socket(connection, server_hostname=host) as secure,
    ):
        secure.sendall(_ASK.format(host=host).encode())
        return secure.recv(4096)


def _clock(head: bytes, now: datetime) -> str:
    dates = [line.partition(b":")[2] for line in head.split(b"\r\n") if line.lower().startswith(b"date:")]
    if not dates:
        return "the server does not say the time"
    skew = (now - parsedate_to_datetime(dates[0].decode().strip())).total_seconds()
    if abs(skew) > MOST_SKEW_SECONDS:
        raise TransportError(f"this clock differs from the server's by {skew:+.0f} s", hint="set both by NTP")
    return f"{skew:+.0f} s from the server's"
