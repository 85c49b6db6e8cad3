"""`fedinfer preflight`: each thing that would fail is found, named, and said what to do about."""

from __future__ import annotations

import json
import re
import shutil
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from fedinfer.deployment.authority import keep_node
from fedinfer.site.checks import Checked
from fedinfer.site.preflight_device import check_device
from fedinfer.site.preflight_server import check_server
from fedinfer.site.server import open_server
from fedinfer.system import SystemClock
from tests.unit.site.a_site import command


def now() -> datetime:
    return SystemClock().now()


def wrong(findings: list[Checked]) -> dict[str, str]:
    assert all(finding.found for finding in findings)
    return {finding.name: f"{finding.found} {finding.hint}" for finding in findings if not finding.ok}


def of_server(site: Path, days: float = 0) -> dict[str, str]:
    return wrong(check_server(open_server(site / "site"), now() + timedelta(days=days)))


def of_device(site: Path, days: float = 0) -> dict[str, str]:
    return wrong(check_device(site / "store", now() + timedelta(days=days)))


def change(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def two_devices(site: Path) -> None:
    keep_node(site / "site/server", "hospital1", (site / "store/node.key.pub").read_bytes())


def test_a_site_that_is_ready_has_nothing_wrong(site: Path) -> None:
    assert set(of_server(site)) == {"devices"}
    assert "devices" in command("preflight", site / "site", code=1).output
    two_devices(site)
    assert of_server(site) == {}
    assert "nothing would fail" in command("preflight", site / "site").output


def test_a_certificate_without_an_address_is_found_and_renewed(site: Path) -> None:
    two_devices(site)
    change(site / "site/server/site.toml", '["localhost"]', '["localhost", "fl.example.org"]')
    assert "not for fl.example.org" in of_server(site)["certificate"]
    command("server", "certificate", site / "site", "--passphrase-file", site / "offline.pass")
    assert of_server(site) == {}


@pytest.mark.parametrize(
    ("days", "names"),
    [
        (-2, {"certificate's dates", "TLS authority's dates", "revocation list"}),
        (31, {"revocation list"}),
        (366, {"certificate's dates", "root metadata", "revocation list"}),
    ],
)
def test_dates_are_checked(site: Path, days: float, names: set[str]) -> None:
    two_devices(site)
    assert set(of_server(site, days)) == names


def test_keys_addresses_and_tables_are_checked(site: Path) -> None:
    server = site / "site/server"
    (server / "keys.pass").write_text("wrong passphrase\n")
    (server / "server.key").write_bytes((site / "store/node.key").read_bytes())
    change(server / "site.toml", '"heart"', '"hart"')
    change(server / "site.toml", 'fleet = "127.0.0.1', 'fleet = "192.0.2.7')
    found = of_server(site)
    assert {"signing keys", "certificate", "scenario", "fleet address"} <= set(found)
    shutil.copyfile(site / "site/offline/root/root.0.key", server / "keys/root.0.key")
    assert "root keys" in of_server(site)["signing keys"]


def test_a_public_table_that_does_not_fit_is_found(site: Path) -> None:
    change(site / "site/server/site.toml", 'public_data = ""', 'public_data = "public.csv"')
    (site / "site/server/public.csv").write_text("age,other\n3,4\n")
    assert "public rows" in of_server(site)


@contextmanager
def answering(site: Path, skew_seconds: float = 0) -> Iterator[None]:
    """Something with the server's certificate on its fleet port."""

    class Head(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(404)
            self.end_headers()

        def date_time_string(self, timestamp: float | None = None) -> str:
            return super().date_time_string((now() + timedelta(seconds=skew_seconds)).timestamp())

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    port = int(open_server(site / "site").plan.superlink.rpartition(":")[2])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(site / "site/server/server.pem", site / "site/server/server.key")
    with HTTPServer(("127.0.0.1", port), Head) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def test_a_device_that_is_ready_has_nothing_wrong(site: Path) -> None:
    with answering(site):
        assert of_device(site) == {}
    assert re.search("server .*refused", command("preflight", site / "store", code=1).output)


def test_a_clock_that_is_an_hour_off_is_found(site: Path) -> None:
    with answering(site, -3600):
        assert re.search(r"\+36[01]\d s", of_device(site)["clock"])


def test_a_server_with_another_certificate_is_found(site: Path) -> None:
    command("server", "init", site / "other")
    text = (site / "site/site.toml").read_text()
    (site / "other/site.toml").write_text(text)
    command("server", "init", site / "other", "--passphrase-file", site / "offline.pass")
    for name in ("server.pem", "server.key"):
        shutil.copyfile(site / "other/server" / name, site / "site/server" / name)
    with answering(site):
        assert "certificate" in of_device(site)["server"].replace("signature", "certificate")


def test_what_is_wrong_with_the_device_itself_is_found(site: Path) -> None:
    (site / "store/node.key").chmod(0o644)
    change(site / "rows.csv", "chol", "cholesterol")
    settings = json.loads((site / "store/device.json").read_text())
    (site / "store/device.json").write_text(json.dumps({**settings, "tasks": ["other"]}))
    found = of_device(site, days=366)
    assert {"node key", "tasks", "table", "enrolment"} <= set(found)
    assert "chol" in found["table"]


def test_a_store_that_joined_nothing_is_said(site: Path) -> None:
    (site / "store/card").unlink()
    assert "knows no site" in of_device(site)["store"]
    (site / "store/certificate").unlink()
    assert "fedinfer device join" in of_device(site)["store"]
