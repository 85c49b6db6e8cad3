"""Attacks on a serving device, over real sockets: no client moves its model, shuts others out, or gets in unasked."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import time
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fedinfer.artifact.build import build_from_core
from fedinfer.artifact.evaluate.measure import Evidence
from fedinfer.artifact.export.estimators import export_estimator
from fedinfer.artifact.export.graph import OutputHead
from fedinfer.artifact.release.repository import Repository as SignedRepository
from fedinfer.artifact.release.signing import generate_keys, save_keys
from fedinfer.config import ArtifactSection
from fedinfer.errors import ConfigError, GateFailed
from fedinfer.inference.install.slots import Slots
from fedinfer.inference.install.tuf_channel import folder_fetch
from fedinfer.inference.install.updater import Updater, UpdateSettings
from fedinfer.inference.predict.session import SessionCache
from fedinfer.inference.serve.access import access_of, exposure, read_token
from fedinfer.inference.serve.answering import MOST_BODY_BYTES
from fedinfer.inference.serve.app import make_app
from fedinfer.inference.serve.limits import Rates, Seats, ServiceLimits, client_of
from fedinfer.inference.serve.service import Service
from fedinfer.inference.serve.socket import SocketServer, bind
from fedinfer.inference.serve.telemetry import Telemetry
from fedinfer.inference.serve.tls import tls_context
from fedinfer.system import FrozenClock, SystemClock, SystemEntropy
from tests.unit.artifact.workshop import PRIVACY, START, vector_schema
from tests.unit.inference.device_world import NOW, Repository, make_manifest, make_model, make_rows, make_updater

PATIENCE = 30
"""Seconds after which a test gives up; nothing is asserted about less."""
TOKEN = b"correct-horse-battery-staple"
ROW = json.dumps({"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [50, 120, 1, 1]}]})
INFER = "/v2/models/triage/infer"
LIVE = "/v2/health/live"


@pytest.fixture
def service(tmp_path):
    repository = Repository()
    repository.publish(1)
    make_updater(tmp_path, repository).install(repository.fetch, NOW)
    return Service(Slots(tmp_path / "slots"), SessionCache(2), SystemClock(), Telemetry(), most_failures=5)


@pytest.fixture
def app(service):
    return make_app(service, "triage", "1.2.3", lambda: 7.0)


@contextmanager
def served(app, host="127.0.0.1", allow=(), token=b"", tls=None, **limits):
    listening = bind(host, 0)
    server = SocketServer(app, listening, access_of(host, allow, token), SystemClock(), ServiceLimits(**limits), tls)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        listening.close()


def ask(port, path=LIVE, body=None, source="127.0.0.1", **headers):
    """Status, headers and document of one request on a connection of its own."""
    to = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE, source_address=(source, 0))
    with closing(to) as connection:
        connection.request(
            "GET" if body is None else "POST", path, body, {k.replace("_", "-"): v for k, v in headers.items()}
        )
        with connection.getresponse() as reply:
            return reply.status, reply.headers, json.loads(reply.read())


def status(port, path=LIVE, body=None, source="127.0.0.1", **headers):
    return ask(port, path, body, source, **headers)[0]


def is_closed(client):
    try:
        return client.recv(100) == b""
    except ConnectionResetError:
        return True


# --- the slot of the model ---


@pytest.fixture(scope="module")
def estimator_store(tmp_path_factory):
    """Two versions of a real scikit-learn model, installed as a device installs them."""
    folder = tmp_path_factory.mktemp("estimator")
    rng = np.random.default_rng(0)
    x = rng.normal(0, 0.1, (900, 6)).astype(np.float32)
    y = (x[:, 0] - x[:, 1] + x[:, 2] > 0).astype(int)
    schema = vector_schema(6, 2)
    core = export_estimator(
        make_pipeline(StandardScaler(), LogisticRegression(C=100)).fit(x[:600], y[:600]), schema, x[600:]
    )
    repository = SignedRepository(
        folder / "repository",
        generate_keys(SystemEntropy()),
        SystemClock(),
        lambda keys: save_keys(keys, folder / "keys"),
    )
    slots = Slots(folder / "slots")
    root = repository.trusted_root()
    for version in (1, 2):
        built = build_from_core(
            core.model, OutputHead(schema, 1.0, "audit", version, 0, 0.0),
            Evidence(x[600:], y[600:], x[:200], x[:200]), ArtifactSection(), FrozenClock(START),
        )  # fmt: skip
        repository.publish(built.manifest(PRIVACY, datetime.now(UTC).isoformat()), built.targets())
        settings = UpdateSettings(1e6, 3600.0, "", None, ())
        updater = Updater(slots, root, folder / "metadata", settings, SystemClock(), SessionCache(4))
        updater.install(folder_fetch(folder / "repository"), SystemClock().now())
    return folder


def test_rows_on_which_a_sound_model_overflows_do_not_roll_a_device_back(estimator_store):
    """Five POSTs took version 2 out of service and had it refused on that device for good."""
    slots, telemetry = Slots(estimator_store / "slots"), Telemetry()
    before = slots.pointer()
    service = Service(slots, SessionCache(4), SystemClock(), telemetry, most_failures=5)
    body = {"inputs": [{"name": "input", "shape": [1, 6], "datatype": "FP32", "data": [3e38, 3e38, 3e38, 0, 0, 0]}]}
    with served(make_app(service, "audit", "1", lambda: None)) as port:
        for _ in range(20):
            code, _, document = ask(port, "/v2/models/audit/infer", json.dumps(body))
            assert (code, "NaN" in document["error"]) == (500, True)
    assert (before.active.version, before.previous.version, before.withdrawn) == (2, 1, ())
    assert slots.pointer() == before
    assert service.version == 2
    assert telemetry.figures()[0].errors == {"GateFailed": 20}


def broken(slots, version):
    """A version that answers NaN to everything, put there by hand: a model that breaks after its install."""
    manifest = make_manifest(version, {"float": make_model(seed=version)})
    files = {"model.onnx": make_model(seed=version, body="nan"), "manifest.json": manifest.to_bytes()}
    slots.swap(slots.stage(version, "float", files))


def test_a_model_that_fails_on_its_own_rows_beside_one_that_does_not_goes(tmp_path, service):
    slots = Slots(tmp_path / "slots")
    broken(slots, 2)
    service.reload()
    for _ in range(5):
        with pytest.raises(GateFailed):
            service.predict(make_rows(count=1))
    assert service.version == 1
    assert slots.pointer().withdrawn == (2,)


def test_where_the_version_before_fails_as_well_nothing_moves(tmp_path, service, caplog):
    """Then memory or processor are at fault, which a client can bring about; and going back would be no cure."""
    slots = Slots(tmp_path / "slots")
    broken(slots, 2)
    broken(slots, 3)
    service.reload()
    for _ in range(20):
        with pytest.raises(GateFailed):
            service.predict(make_rows(count=1))
    assert service.version == 3
    assert slots.pointer().withdrawn == ()
    assert caplog.text.count("no previous version that passes its own") == 1


def test_a_model_that_was_ill_for_a_moment_stays(tmp_path, service, monkeypatch):
    """Its check fails as for want of memory, the version before passes its own, and so does the check after that."""
    slots, checks = Slots(tmp_path / "slots"), iter(["no memory", ""])
    broken(slots, 2)
    service.reload()
    monkeypatch.setattr("fedinfer.inference.serve.service.ailment", lambda installed: next(checks))
    for _ in range(5):
        with pytest.raises(GateFailed):
            service.predict(make_rows(count=1))
    assert (service.version, slots.pointer().withdrawn) == (2, ())
    assert next(checks, None) is None


# --- who may ask ---


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil.example", "", "[::2]", "0.0.0.0"],
)
def test_a_page_that_has_its_own_name_resolve_to_this_device_is_not_answered(app, host):
    with served(app) as port:
        assert status(port, INFER, ROW, Host=host) == 421


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1:99", "[::1]:7", "device.example:8443", "localhost."]
)
def test_names_of_loopback_and_those_that_the_owner_gave_are_answered(app, host):
    with served(app, allow=["device.example"]) as port:
        assert status(port, INFER, ROW, Host=host) == 200


def test_two_host_headers_or_none_are_refused(app):
    for head in (b"Host: localhost\r\nHost: localhost\r\n", b""):
        with served(app) as port, socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
            client.sendall(b"GET /v2 HTTP/1.0\r\n" + head + b"\r\n")
            assert b" 400 " in client.recv(1000).splitlines()[0]


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("https://evil.example", 403), ("null", 403), ("http://localhost:1", 403), ("http://[", 403), ("", 403),
        ("http://localhost:{port}", 200), ("https://app.example", 200),
    ],
)  # fmt: skip
def test_only_pages_of_this_server_or_of_allowed_hosts_may_ask(app, origin, expected):
    with served(app, allow=["app.example"]) as port:
        code = status(
            port, INFER, ROW, Host=f"localhost:{port}", Origin=origin.format(port=port), Content_Type="text/plain"
        )
        assert code == expected


def test_without_the_token_nothing_but_health_is_answered(app):
    with served(app, token=TOKEN) as port:
        for path in (LIVE, "/v2/health/ready"):
            assert status(port, path) == 200
        for path in (
            "/v2",
            "/metrics",
            "/v2/models/triage",
            "/v2/models/triage/ready",
            "/v2/health/live/",
            "//v2/health/live",
        ):
            code, headers, _ = ask(port, path)
            assert (code, headers["WWW-Authenticate"]) == (401, "Bearer"), path
        for value in (
            "",
            "Bearer",
            "Bearer wrong",
            f"Basic {TOKEN.decode()}",
            f"Bearer {TOKEN.decode()}x",
            TOKEN.decode(),
        ):
            assert status(port, INFER, ROW, Authorization=value) == 401
        assert status(port, INFER, ROW, Authorization=f"Bearer {TOKEN.decode()}") == 200
        assert status(port, INFER, ROW, Authorization=f"bearer  {TOKEN.decode()}") == 200
        assert status(port, LIVE, Host="evil.example") == 421


def test_the_token_is_compared_in_constant_time_and_stands_in_no_repr(monkeypatch):
    compared = []
    from fedinfer.inference.serve import access

    monkeypatch.setattr(access.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or a == b)
    wanted = access_of("127.0.0.1", (), TOKEN)
    headers = [(b"host", b"localhost"), (b"authorization", b"Bearer x")]
    assert access.refusal(wanted, "/v2", headers, "127.0.0.1").status == 401
    assert [len(one) for pair in compared for one in pair] == [32, 32]
    assert "digest" not in repr(wanted)


def test_a_token_file_that_others_may_read_or_that_holds_no_token_is_refused(tmp_path):
    path = tmp_path / "token"
    path.write_bytes(TOKEN + b"\n")
    path.chmod(0o600)
    assert read_token(path) == TOKEN
    for mode in (0o640, 0o604, 0o660, 0o620):
        path.chmod(mode)
        with pytest.raises(ConfigError, match="others may read it"):
            read_token(path)
    path.chmod(0o600)
    for content in (b"", b"short", b"two words, that is no token", b"\xff" * 32, b"x" * 5000):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="16 to 4096 printable ASCII"):
            read_token(path)
    with pytest.raises(ConfigError, match="No such file"):
        read_token(tmp_path / "absent")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1"])
def test_on_loopback_nothing_is_warned_of(address):
    assert exposure(address, has_token=False, has_tls=False) == []


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.168.1.7", "fe80::1%eth0", "203.0.113.5"])
def test_on_any_other_address_what_is_missing_is_said(address):
    both = exposure(address, has_token=False, has_tls=False)
    assert "whoever reaches" in both[0]
    assert "unencrypted" in both[1]
    assert len(exposure(address, has_token=True, has_tls=False)) == 1
    assert exposure(address, has_token=True, has_tls=True) == []


# --- how much ---


@contextmanager
def idle(port, count, source="127.0.0.1", data=b""):
    with ExitStack() as stack:
        clients = []
        for _ in range(count):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE, (source, 0)))
            client.sendall(data)
            clients.append(client)
        yield clients


@pytest.mark.parametrize("source", ["127.0.0.1", "127.0.0.9"])
def test_512_idle_sockets_do_not_stop_the_health_check_or_anybody_else(app, source):
    """They held all 512 places until their time was over, and the probe was turned away ten times out of ten."""
    head = b"POST / HTTP/1.1\r\n"
    with served(app, request_seconds=9 * PATIENCE) as port, idle(port, 512, source, head) as clients:
        assert [status(port) for _ in range(10)] == [200] * 10
        assert [status(port, INFER, ROW) for _ in range(10)] == [200] * 10
        assert all(is_closed(client) for client in clients[: 512 - ServiceLimits.per_client]), "64 for one client"


def test_idle_sockets_of_many_clients_do_not_stop_the_health_check(app):
    with ExitStack() as stack:
        port = stack.enter_context(served(app, request_seconds=PATIENCE))
        for number in range(2, 12):
            stack.enter_context(idle(port, 60, f"127.0.0.{number}"))
        assert [status(port) for _ in range(10)] == [200] * 10


def blocking(started, release):
    """An application that works until it is told to stop; only health is answered at once."""

    async def application(scope, receive, send):
        import asyncio

        if scope["type"] == "lifespan":
            return
        started.append(scope["path"])
        while scope["path"] != LIVE and not release.is_set():
            await asyncio.sleep(0.01)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})

    return application


def test_places_are_kept_for_health_checks_when_all_others_are_at_work():
    started, release = [], threading.Event()
    with served(blocking(started, release), connections=8, per_client=4, reserved=2) as port, ExitStack() as stack:
        stack.callback(release.set)
        for source in ("127.0.0.1", "127.0.0.2"):
            stack.enter_context(idle(port, 4, source, b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n"))
        wait_until(lambda: len(started) == 8)
        for source in ("127.0.0.1", "127.0.0.2", "127.0.0.3"):
            assert status(port, source=source) == 200
            assert status(port, "/v2", source=source) == 503


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        time.sleep(0.01)
        assert time.monotonic() < deadline, "it did not come to that"


def test_a_client_that_asks_too_often_is_told_when_to_come_back_and_others_are_served(app):
    with served(app, per_second=1.0) as port:
        assert status(port, "/v2") == 200
        code, headers, document = ask(port, "/v2", X_Forwarded_For="203.0.113.9")
        assert (code, headers["Retry-After"]) == (429, "1")
        assert "1 requests per second" in document["error"]
        assert status(port, "/v2", source="127.0.0.2") == 200
        assert [status(port) for _ in range(5)] == [200] * 5


def test_a_body_is_refused_by_its_announced_length_before_it_is_read(app):
    head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {MOST_BODY_BYTES + 1}\r\n\r\n"
    with (
        served(app, request_seconds=PATIENCE) as port,
        socket.create_connection(("127.0.0.1", port), PATIENCE) as client,
    ):
        client.sendall(head.encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 413 ")
        assert is_closed(client) or is_closed(client)


@pytest.mark.parametrize("pieces", [1, 64])
def test_a_head_without_end_is_refused(app, pieces):
    """In one piece it is whole, and refused by its size; in many it is refused before it is whole."""
    end = b"\r\n\r\n" if pieces == 1 else b""
    with served(app, header_bytes=8192) as port, socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        try:
            client.sendall(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nX: ")
            for _ in range(pieces):
                client.sendall(b"x" * (16384 // pieces))
            client.sendall(end)
            found = client.recv(1000)
        except ConnectionError:
            found = b"HTTP/1.1 431 "  # closed while it still sent
        assert found.startswith(b"HTTP/1.1 431 ")


def test_a_client_that_does_not_read_its_answer_is_cut_off():
    """Its buffers hold a few megabytes; what is sent beyond them goes nowhere, because the connection is gone."""
    sent = []

    async def talkative(scope, receive, send):
        if scope["type"] == "lifespan":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(200):
            await send({"type": "http.response.body", "body": b"x" * 2**20, "more_body": True})
            sent.append(1)

    with served(talkative, request_seconds=0.3) as port, idle(port, 1) as (client,):
        client.sendall(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_until(lambda: len(sent) == 200)


# --- TLS ---


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder, key = tmp_path_factory.mktemp("tls"), ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(7).not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=9))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(built.public_bytes(pem))
    plain = serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    locked = serialization.BestAvailableEncryption(b"secret")
    (folder / "locked.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, locked))
    for path in folder.iterdir():
        path.chmod(0o600)
    return folder


def test_over_tls_an_old_version_and_plain_http_are_refused(app, certificate):
    context = tls_context(certificate / "cert.pem", certificate / "key.pem")
    trusting = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
    with served(app, tls=context, token=TOKEN) as port:
        with closing(http.client.HTTPSConnection("localhost", port, timeout=PATIENCE, context=trusting)) as connection:
            connection.request("POST", INFER, ROW, {"Authorization": f"Bearer {TOKEN.decode()}"})
            assert connection.getresponse().status == 200
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            status(port)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_sockets_that_never_agree_on_tls_are_cut_and_stop_nobody(app, certificate):
    trusting = ssl.create_default_context(cafile=str(certificate / "cert.pem"))

    def probe(port):
        with closing(http.client.HTTPSConnection("localhost", port, timeout=PATIENCE, context=trusting)) as connection:
            connection.request("GET", LIVE)
            return connection.getresponse().status

    context = tls_context(certificate / "cert.pem", certificate / "key.pem")
    with served(app, tls=context, request_seconds=PATIENCE) as port, idle(port, 512):
        assert [probe(port) for _ in range(5)] == [200] * 5
    with served(app, tls=context, request_seconds=0.3) as port, idle(port, 20) as clients:
        assert all(is_closed(client) for client in clients)
        assert probe(port) == 200


def test_a_key_that_cannot_be_used_or_that_everybody_may_read_is_an_error(certificate, tmp_path):
    cert, key = certificate / "cert.pem", certificate / "key.pem"
    for bad_cert, bad_key in (
        (cert, certificate / "locked.pem"),
        (cert, tmp_path / "absent"),
        (key, key),
        (cert, cert),
    ):
        with pytest.raises(ConfigError):
            tls_context(bad_cert, bad_key)
    loose = tmp_path / "loose.pem"
    loose.write_bytes(key.read_bytes())
    loose.chmod(0o644)
    with pytest.raises(ConfigError, match="everybody may read it"):
        tls_context(cert, loose)


# --- the bookkeeping, without sockets ---


def test_the_oldest_idle_connection_of_the_greediest_client_gives_way():
    cut, seats = [], Seats(ServiceLimits(connections=5, per_client=3, reserved=1))
    take = lambda client, port: seats.take((client, port), lambda: cut.append((client, port)))  # noqa: E731 - a short name
    assert all([take("1.1.1.1", 1), take("2.2.2.2", 1), take("2.2.2.2", 2), take("3.3.3.3", 1), take("2.2.2.2", 3)])
    assert take("2.2.2.2", 4)  # beyond its own limit: its own oldest goes
    assert take("4.4.4.4", 1)  # beyond the limit of all: again who has most
    assert cut == [("2.2.2.2", 1), ("2.2.2.2", 2)]
    seats.touch(("2.2.2.2", 3))
    assert take("2.2.2.2", 5)
    assert cut[2:] == [("2.2.2.2", 4)]
    for port in (3, 5):
        seats.leave(("2.2.2.2", port))
        seats.leave(("2.2.2.2", port))
    assert len(seats) == 3
    assert take("2.2.2.2", 6)
    assert len(cut) == 3


def test_who_is_at_work_is_never_cut_and_reserved_places_are_few():
    cut, seats = [], Seats(ServiceLimits(connections=2, per_client=2, reserved=1))
    for number in range(2):
        address = (f"1.1.1.{number}", 1)
        assert seats.take(address, lambda: cut.append("no"))
        seats.attach(address, lambda: True, lambda: cut.append("no"))
    assert seats.take(("9.9.9.9", 1), lambda: cut.append(1))
    assert seats.is_reserved(("9.9.9.9", 1))
    assert seats.take(("9.9.9.9", 2), lambda: cut.append(2))
    assert cut == [1]
    seats.attach(("9.9.9.9", 2), lambda: True, lambda: cut.append("no"))
    assert not seats.take(("9.9.9.9", 3), lambda: cut.append(3))
    seats.leave(("1.1.1.0", 1))
    assert seats.take(("9.9.9.9", 4), lambda: cut.append(4))
    assert not seats.is_reserved(("9.9.9.9", 4))
    assert cut == [1]


def test_a_rate_is_kept_per_client_and_is_forgotten_for_few():
    rates = Rates(2.0)
    assert [rates.wait("a", 0.0) for _ in range(3)] == [0, 0, 1]
    assert rates.wait("b", 0.0) == 0
    assert [rates.wait("a", 0.5), rates.wait("a", 0.5)] == [0, 1]
    slow = Rates(0.1)
    assert [slow.wait("a", 0.0), slow.wait("a", 1.0), slow.wait("a", 10.0)] == [0, 9, 0]
    for number in range(10_000):
        rates.wait(str(number), 1.0)
    assert len(rates._buckets) <= 4096


@pytest.mark.parametrize(
    ("host", "client"),
    [
        ("203.0.113.5", "203.0.113.5"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"), ("fe80::1%eth0", "fe80::/64"),
        ("", ""), ("unix", "unix"),
    ],
)  # fmt: skip
def test_a_client_is_an_address_or_an_ipv6_network(host, client):
    assert client_of(host) == client


def test_ipv4_addresses_in_ipv6_form_are_clients_of_their_own():
    assert client_of("::ffff:1.2.3.4") != client_of("::ffff:1.2.3.5")
