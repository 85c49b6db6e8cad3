"""What would fail on the server of a site, found before it is started."""

from __future__ import annotations

import socket
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from tuf.api.metadata import Metadata, Root

from fedinfer.artifact import PASSPHRASE, ROOT_METADATA, holds_root_keys, load_keys, secret_from
from fedinfer.config import load_scenario
from fedinfer.data import load_own, public_schema
from fedinfer.deployment import PUBLIC, REVOCATIONS, nodes_of
from fedinfer.errors import ConfigError
from fedinfer.flower import holder
from fedinfer.secagg import read_revocations
from fedinfer.site.checks import Checked, checked, disk, lasting, packages
from fedinfer.site.plan import port_of
from fedinfer.site.server import ServerFolder
from fedinfer.site.tls import OWN_NAMES, is_signed_by, missing_names
from fedinfer.system import simulation_rng

RENEW_TLS = "fedinfer server certificate DIR"
RENEW_LIST = "fedinfer server revoke --site DIR, where the offline folder is; it signs the list again"


def check_server(server: ServerFolder, now: datetime) -> list[Checked]:
    """Check the server of a site.

    Args:
        server: of the site.
        now: aware time.

    Returns:
        What was found, in the order in which it would fail.
    """
    return [
        packages("flwr", "torch", "onnx", "uvicorn", extra="train"),
        disk(server.folder),
        *_certificates(server, now),
        *(_port(server, name, text) for name, text in (("fleet", server.plan.fleet), ("control", server.plan.control))),
        checked("signing keys", lambda: _keys(server)),
        *_dates(server, now),
        checked("scenario", lambda: _scenario(server)),
        checked("public rows", lambda: _public(server)),
        checked("devices", lambda: _devices(server)),
    ]


def _certificates(server: ServerFolder, now: datetime) -> list[Checked]:
    try:
        authority = x509.load_pem_x509_certificate(server.tls_authority.read_bytes())
        own = x509.load_pem_x509_certificate((server.folder / "server.pem").read_bytes())
    except (OSError, ValueError) as error:
        return [Checked("certificate", False, str(error), RENEW_TLS)]
    return [
        checked("certificate", lambda: _pair(server, own, authority), RENEW_TLS),
        lasting("certificate's dates", own.not_valid_before_utc, own.not_valid_after_utc, now, RENEW_TLS),
        lasting(
            "TLS authority's dates", authority.not_valid_before_utc, authority.not_valid_after_utc, now,
            "make a new site; devices join it with new approvals",
        ),
    ]  # fmt: skip


def _pair(server: ServerFolder, own: x509.Certificate, authority: x509.Certificate) -> str:
    wanted = [*server.plan.addresses, *OWN_NAMES]
    missing = missing_names(own, wanted)
    if missing:
        raise ConfigError(f"the certificate is not for {', '.join(missing)}")
    if not is_signed_by(own, authority):
        raise ConfigError("ca.crt did not sign server.pem")
    key = load_pem_private_key((server.folder / "server.key").read_bytes(), None)
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*form) != own.public_key().public_bytes(*form):
        raise ConfigError("server.key is not the key of server.pem")
    return f"for {', '.join(dict.fromkeys(wanted))}"


def _port(server: ServerFolder, name: str, listening: str) -> Checked:
    if holder(server.lock):
        return Checked(f"{name} address", True, f"{listening}, the server is up")
    host = listening.rpartition(":")[0].strip("[]")
    try:
        family = socket.getaddrinfo(host, port_of(listening), type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port_of(listening)))
    except OSError as error:
        reason = f"{listening}: {error.strerror}"
        return Checked(f"{name} address", False, reason, "another program has it, or the host is not this machine's")
    return Checked(f"{name} address", True, f"{listening} is free")


def _keys(server: ServerFolder) -> str:
    folder = server.folder / "keys"
    if holds_root_keys(folder):
        raise ConfigError(f"{folder} holds root keys", hint="move root.*.key to the offline folder")
    keys = load_keys(folder, secret_from({PASSPHRASE: server.folder / "keys.pass"}, {}))
    return f"{', '.join(sorted(keys.signers))} open"


def _dates(server: ServerFolder, now: datetime) -> list[Checked]:
    """Root metadata and revocation list: a run ends when one of them does."""
    try:
        root = Metadata[Root].from_bytes((server.folder / "keys" / ROOT_METADATA).read_bytes()).signed
        listed = read_revocations(
            (server.folder / PUBLIC).read_bytes(), (server.folder / REVOCATIONS).read_bytes()
        )  # fmt: skip
    except Exception as error:  # python-tuf's own, an operating system's, ours
        return [Checked("root metadata and revocation list", False, str(error), "restore them from the offline folder")]
    issued, expires = (datetime.fromtimestamp(at, UTC) for at in (listed.issued, listed.expires))
    return [
        lasting("root metadata", now, root.expires, now, "fedinfer artifact root, then adopt"),
        lasting("revocation list", issued, expires, now, RENEW_LIST),
    ]


def _scenario(server: ServerFolder) -> str:
    scenario = load_scenario(server.scenario, list(server.plan.run.overrides))
    schema = public_schema(scenario)
    return f"{scenario.scenario.name}: {schema.width} inputs"


def _public(server: ServerFolder) -> str:
    path: Path | None = server.public_data
    if path is None:
        return "none: nobody can judge a version before devices have it"
    scenario = load_scenario(server.scenario, list(server.plan.run.overrides))
    data = load_own(scenario, public_schema(scenario), path, simulation_rng(scenario.scenario.seed, "public"))
    return f"{len(data.train_y) + len(data.test_y)} rows"


def _devices(server: ServerFolder) -> str:
    approved, wanted = len(nodes_of(server.folder)), server.plan.run.min_devices
    if approved < wanted:
        raise ConfigError(
            f"{approved} approved, a run waits for {wanted}", hint="fedinfer server approve, or a smaller min_devices"
        )
    return f"{approved} approved, a run waits for {wanted}"
