"""One deployment on loopback for tests and benchmarks: TLS, keys, four hospitals, a SuperLink, agents, runs."""

from __future__ import annotations

import csv
import datetime
import ipaddress
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fedinfer.flower.processes import environment, free_port, program, running, stop_strays, tail, wait_for_port
from fedinfer.privacy.accounting.ledger import Budget
from fedinfer.system import SystemClock
from tests.e2e.site_keys import SiteKeys

REPOSITORY = Path(__file__).resolve().parents[2]
HOSPITALS = ("Cleveland", "Hungary", "Switzerland", "VA Long Beach")
PATIENCE = 280.0
FEDINFER = (sys.executable, "-c", "from fedinfer.cli.main import main; main()")


@dataclass
class Pilot:
    """Files and addresses of one deployment. `fleet` is the port for devices, `control` the one for runs."""

    folder: Path
    fleet: int
    control: int
    keys: SiteKeys

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def superlink_log(self) -> Path:
        return self.folder / "superlink.log"

    def store(self, number: int) -> Path:
        return self.folder / f"device{number}"

    def node_log(self, number: int) -> Path:
        return self.folder / f"node{number}.log"

    def variables(self) -> dict[str, str]:
        path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
        return {**environment(self.home), "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}

    def flwr(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [program("flwr"), *words]
        return subprocess.run(
            command, env=self.variables(), cwd=self.folder, capture_output=True, text=True, check=False, timeout=120
        )

    def start(self, app: Path, values: dict[str, Any] | None = None, name: str = "run") -> None:
        """Start a run of an app with a run config."""
        words = ["run", str(app), "pilot"]
        if values:
            config = self.folder / f"{name}.toml"
            config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()))
            words += ["--run-config", str(config)]
        started = self.flwr(*words)
        assert started.returncode == 0, started.stdout + started.stderr

    def values(self, run: Path, overrides: str) -> dict[str, Any]:
        """Run config of the heart task."""
        return {
            "scenario": "heart", "overrides": f"drift.enabled=false;fleet.dropout=0.0;{overrides}",
            "run-dir": str(run), "deployment": True, "public-data": str(self.folder / "public.csv"),
            "min-devices": len(HOSPITALS), **self.keys.run_config(),
        }  # fmt: skip

    def agent_command(self, number: int, poll: float = 0.1) -> list[str]:
        return [
            *FEDINFER, "device", "agent", "--store", str(self.store(number)),
            "--superlink", f"127.0.0.1:{self.fleet}", "--root-certificates", str(self.folder / "ca.crt"),
            "--auth", str(self.folder / f"node{number}.key"), "--poll", str(poll),
        ]  # fmt: skip

    def superlink_command(self) -> list[str]:
        return [
            *FEDINFER, "superlink", "--fleet", f"127.0.0.1:{self.fleet}", "--control", f"127.0.0.1:{self.control}",
            "--database", str(self.folder / "superlink.sqlite"), "--ca", str(self.folder / "ca.crt"),
            "--certificate", str(self.folder / "server.pem"), "--key", str(self.folder / "server.key"),
        ]  # fmt: skip


@contextmanager
def pilot(folder: Path, superlink: list[str] | None = None) -> Iterator[Pilot]:
    """A deployment with four enrolled and registered devices and a running SuperLink; agents are started by the user.

    Args:
        folder: empty.
        superlink: another command for the SuperLink; `{fleet}` in its words is the only port then.
    """
    fleet, control = free_port(), free_port()
    made = Pilot(folder, fleet, control if superlink is None else fleet, SiteKeys(folder))
    for path in (made.home, made.run):
        path.mkdir()
    write_tls(folder)
    split_table(folder)
    (made.home / "config.toml").write_text(
        f'[superlink.pilot]\naddress = "127.0.0.1:{made.control}"\nroot-certificates = "{folder / "ca.crt"}"\n'
    )
    enrol(made)
    words = made.superlink_command() if superlink is None else [word.format(fleet=fleet) for word in superlink]
    try:
        with running(words, folder, made.variables(), made.superlink_log) as server:
            wait_for_port(made.control, server, made.superlink_log, SystemClock())
            for number in range(len(HOSPITALS)):
                key = folder / f"node{number}.key"
                write_node_key(key)
                registered = made.flwr("supernode", "register", str(key.with_suffix(".pub")), "pilot")
                assert registered.returncode == 0, registered.stdout + registered.stderr
            yield made
    finally:
        stop_strays(made.home)


def enrol(made: Pilot) -> None:
    """Make the stores; every owner agrees to the heart task."""
    for number in range(len(HOSPITALS)):
        table = made.folder / f"hospital{number}.csv"
        made.keys.enrol(made.store(number), f"hospital{number}", table, Budget(5.0, 1e-5), 3)
        agree(made.store(number), tasks=["heart"])


def agree(store: Path, **agreed: list[str]) -> None:
    """Write what the owner of a device agrees to."""
    file = store / "device.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **agreed}))


def events(run: Path) -> list[dict[str, Any]]:
    file = run / "events.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def wait_for_event(
    made: Pilot, name: str, count: int, run: Path | None = None, patience: float = PATIENCE
) -> list[dict[str, Any]]:
    """Wait until a run has told so many events of a name."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        reported = events(run or made.run)
        found = [event for event in reported if event["event"] == name]
        if len(found) >= count:
            return found
        ended = [event for event in reported if event["event"] in ("failed", "stopped")]
        assert not ended, (ended, tail(made.superlink_log))
        time.sleep(0.2)
    raise AssertionError(f"{count} x {name!r} did not come: {events(run or made.run)[-3:]} {tail(made.superlink_log)}")


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def certificate(subject: str, key: ec.EllipticCurvePrivateKey, issuer: x509.Name, signer: Any, is_ca: bool) -> bytes:
    now = datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    alternatives = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    usage = x509.KeyUsage(
        digital_signature=True, key_cert_sign=is_ca, crl_sign=is_ca, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    signed = builder.add_extension(usage, critical=True).sign(signer, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM)


def write_tls(folder: Path) -> None:
    ca, server = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
    (folder / "ca.crt").write_bytes(certificate("test CA", ca, issuer, ca, True))
    (folder / "server.pem").write_bytes(certificate("localhost", server, issuer, ca, False))
    (folder / "server.key").write_bytes(private_pem(server))


def write_node_key(path: Path) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    path.with_suffix(".pub").write_bytes(public)


def split_table(folder: Path) -> None:
    """One CSV per hospital, and every tenth row as the server's public table."""
    table = resources.files("fedinfer") / "data" / "tables" / "heart_disease_uci.csv"
    rows = list(csv.DictReader(table.read_text().splitlines()))
    for number, hospital in enumerate(HOSPITALS):
        mine = [row for i, row in enumerate(rows) if row["dataset"] == hospital and i % 10]
        write_csv(folder / f"hospital{number}.csv", mine)
    write_csv(folder / "public.csv", rows[::10])


def write_csv(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
