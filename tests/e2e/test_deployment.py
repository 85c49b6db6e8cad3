"""A real SuperLink and four SuperNodes on loopback: TLS, node authentication, enrolled identities, one node killed."""

from __future__ import annotations

import csv
import datetime
import ipaddress
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fedinfer.deployment.store import create_authority, enrol_device
from fedinfer.flower.processes import environment, free_port, program, running, stop_strays, tail, wait_for_port
from fedinfer.privacy.accounting.ledger import LEDGER_MIGRATIONS, Budget, Ledger
from fedinfer.store import open_store
from fedinfer.system import SystemClock, SystemEntropy
from fedinfer.types import Relation

pytestmark = pytest.mark.e2e
REPOSITORY = Path(__file__).resolve().parents[2]
HOSPITALS = ("Cleveland", "Hungary", "Switzerland", "VA Long Beach")
DEADLINE = 30
PATIENCE = 280.0


@dataclass
class Pilot:
    """Files of one deployment."""

    folder: Path
    port: int

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def variables(self) -> dict[str, str]:
        path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
        return {**environment(self.home), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}

    def flwr(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [program("flwr"), *words]
        return subprocess.run(
            command, env=self.variables(), cwd=self.folder, capture_output=True, text=True, check=False, timeout=120
        )

    def events(self) -> list[dict[str, object]]:
        file = self.run / "events.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def certificate(subject: str, key: ec.EllipticCurvePrivateKey, issuer: x509.Name, signer, is_ca: bool) -> bytes:
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


def wait_for_event(pilot: Pilot, name: str, count: int, log: Path) -> list[dict[str, object]]:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = [event for event in pilot.events() if event["event"] == name]
        ended = [event for event in pilot.events() if event["event"] in ("failed", "stopped")]
        assert not ended, (ended, tail(log))
        if len(found) >= count:
            return found
        time.sleep(0.5)
    raise AssertionError(f"{count} x {name!r} did not come: {pilot.events()[-3:]} {tail(log, 4000)}")


@pytest.mark.slow
def test_four_hospitals_with_tls_authentication_and_a_killed_node(tmp_path: Path) -> None:
    clock, pilot = SystemClock(), Pilot(tmp_path, free_port())
    pilot.home.mkdir()
    pilot.run.mkdir()
    write_tls(tmp_path)
    split_table(tmp_path)
    authority = create_authority(tmp_path / "authority.key", SystemEntropy())
    (tmp_path / "authority.pub").write_bytes(authority.public_bytes)
    (pilot.home / "config.toml").write_text(
        f'[superlink.pilot]\naddress = "127.0.0.1:{pilot.port}"\nroot-certificates = "{tmp_path / "ca.crt"}"\n'
    )
    log = tmp_path / "superlink.log"
    superlink = [
        program("flower-superlink"), "--host", "127.0.0.1", "--port", str(pilot.port),
        "--ssl-ca-certfile", str(tmp_path / "ca.crt"), "--ssl-certfile", str(tmp_path / "server.pem"),
        "--ssl-keyfile", str(tmp_path / "server.key"), "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
    ]  # fmt: skip
    with ExitStack() as stack:
        stack.callback(stop_strays, pilot.home)
        server = stack.enter_context(running(superlink, tmp_path, pilot.variables(), log))
        wait_for_port(pilot.port, server, log, clock)
        nodes = []
        for number in range(len(HOSPITALS)):
            store = tmp_path / f"device{number}"
            enrol_device(
                store, f"hospital{number}", tmp_path / f"hospital{number}.csv", Budget(5.0, 1e-5), 3, authority,
                SystemEntropy(),
            )  # fmt: skip
            key = tmp_path / f"node{number}"
            write_node_key(key)
            registered = pilot.flwr("supernode", "register", str(key.with_suffix(".pub")), "pilot")
            assert registered.returncode == 0, registered.stdout + registered.stderr
            command = [
                program("flower-supernode"), "--superlink", f"127.0.0.1:{pilot.port}",
                "--root-certificates", str(tmp_path / "ca.crt"), "--auth-supernode-private-key", str(key),
                "--node-config", f'store="{store}"', "--host", "127.0.0.1", "--port", str(free_port()),
                "--ssl-certfile", str(tmp_path / "server.pem"), "--ssl-keyfile", str(tmp_path / "server.key"),
                "--ssl-ca-certfile", str(tmp_path / "ca.crt"),
            ]  # fmt: skip
            node_log = tmp_path / f"node{number}.log"
            nodes.append(stack.enter_context(running(command, tmp_path, pilot.variables(), node_log)))
        overrides = f"training.rounds=2;training.deadline_seconds={DEADLINE};drift.enabled=false;fleet.dropout=0.0"
        values = {
            "scenario": "heart", "overrides": overrides, "run-dir": str(pilot.run), "deployment": True,
            "authority": str(tmp_path / "authority.pub"), "public-data": str(tmp_path / "public.csv"), "min-devices": 4,
        }  # fmt: skip
        (tmp_path / "run.toml").write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()))
        started = pilot.flwr("run", str(REPOSITORY), "pilot", "--run-config", str(tmp_path / "run.toml"))
        assert started.returncode == 0, started.stdout + started.stderr

        wait_for_event(pilot, "round", 1, log)
        os.killpg(nodes[3].pid, signal.SIGKILL)
        wait_for_event(pilot, "finished", 1, log)

    record = json.loads((pilot.run / "run.json").read_text())
    assert record["status"] == "completed"
    assert record["engine"] == "deployment"
    assert record["secure_aggregation"]["mode"] == "protocol"
    assert [row["survivors"] for row in record["rounds"]] == [4, 3]
    assert all(row["status"] == "released" for row in record["rounds"])
    assert record["models"][0]["devices_active"] == 3
    check_predictions(tmp_path)
    check_ledgers(tmp_path)


def check_predictions(folder: Path) -> None:
    """The pushed model answers on a device's own rows, through the command line."""
    command = [
        sys.executable, "-c", "from fedinfer.cli.main import main; main()", "device", "predict", "--store",
        str(folder / "device0"), str(folder / "hospital0.csv"), "--json",
    ]  # fmt: skip
    variables = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    answer = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=60)
    assert answer.returncode == 0, answer.stderr
    with (folder / "hospital0.csv").open() as file:
        rows = list(csv.DictReader(file))
    text = answer.stdout
    assert text.count('"label"') == len(rows)


def check_ledgers(folder: Path) -> None:
    """Every device wrote its spend before the data was touched; the killed one paid only for what it took part in."""
    for number, rounds in enumerate((2, 2, 2, 1)):
        connection = open_store(folder / f"device{number}" / "device.sqlite", "privacy", LEDGER_MIGRATIONS)
        ledger = Ledger(connection, Relation.ADD_REMOVE)
        entries = ledger.entries(f"hospital{number}")
        assert len(entries) == rounds
        assert all(entry.committed_at for entry in entries)
        connection.close()
