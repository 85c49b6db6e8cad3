"""Real sockets on loopback: who does not send a whole request is cut off, everybody else is served."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from contextlib import closing, contextmanager

import pytest

from fedinfer.errors import ConfigError
from fedinfer.inference.install.slots import Slots
from fedinfer.inference.predict.session import SessionCache
from fedinfer.inference.serve.access import access_of
from fedinfer.inference.serve.app import make_app
from fedinfer.inference.serve.limits import ServiceLimits
from fedinfer.inference.serve.service import Service
from fedinfer.inference.serve.socket import SocketServer, bind
from fedinfer.inference.serve.telemetry import Telemetry
from fedinfer.system import SystemClock
from tests.unit.inference.device_world import NOW, Repository, make_updater

PATIENCE = 30
"""Seconds after which a test gives up; nothing is asserted about less."""
HALVES = {
    "nothing": b"",
    "half a head": b"POST /v2/models/triage/infer HTTP/1.1\r\nHost: localhost\r\n",
    "half a body": b"POST /v2/models/triage/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{",
}


@pytest.fixture
def app(tmp_path):
    repository = Repository()
    repository.publish(1)
    make_updater(tmp_path, repository).install(repository.fetch, NOW)
    service = Service(Slots(tmp_path / "slots"), SessionCache(2), SystemClock(), Telemetry(), most_failures=99)
    return make_app(service, "triage", "1.2.3", lambda: 7.0)


@contextmanager
def served(app, **limits):
    listening = bind("127.0.0.1", 0)
    server = SocketServer(app, listening, access_of("127.0.0.1", (), b""), SystemClock(), ServiceLimits(**limits))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        listening.close()


def connect(port, data=b""):
    client = socket.create_connection(("127.0.0.1", port), PATIENCE)
    client.sendall(data)
    return client


def drip(client):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        client.sendall(b"G")
        time.sleep(0.05)


def is_closed(client):
    try:
        return client.recv(100) == b""
    except ConnectionResetError:
        return True


def status(port):
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as connection:
        connection.request("GET", "/v2/models/triage")
        with connection.getresponse() as reply:
            return reply.status


@pytest.mark.parametrize("half", HALVES)
def test_a_request_that_never_ends_is_cut_off(app, half):
    with served(app, request_seconds=0.3) as port, connect(port, HALVES[half]) as client:
        assert is_closed(client)


def test_a_client_that_sends_a_byte_now_and_then_gains_no_time(app):
    with served(app, request_seconds=0.5) as port, connect(port) as client:
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            drip(client)


def test_300_half_sent_requests_are_closed_while_others_are_served(app):
    with served(app, request_seconds=1.0) as port:
        clients = [connect(port, HALVES["half a body"]) for _ in range(300)]
        assert [status(port) for _ in range(5)] == [200] * 5
        assert all(is_closed(client) for client in clients)
        assert status(port) == 200
        for client in clients:
            client.close()


def test_one_connection_may_carry_many_requests_beyond_the_time_of_one(app):
    with served(app, request_seconds=0.4) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        connection.connect()
        kept = connection.sock
        for _ in range(6):
            connection.request("GET", "/v2/health/live")
            answer = connection.getresponse()
            assert (answer.status, bool(answer.read())) == (200, True)
            time.sleep(0.15)
        assert connection.sock is kept
        kept.sendall(HALVES["half a head"])
        assert is_closed(kept)
        connection.close()


def test_a_slow_answer_is_waited_for():
    async def slow(scope, receive, send):
        import asyncio

        if scope["type"] == "lifespan":
            return
        await receive()
        await asyncio.sleep(0.6)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"late"})

    with served(slow, request_seconds=0.2) as port:
        assert status(port) == 200


def test_one_connection_too_many_takes_the_place_of_the_one_that_waits_longest(app):
    with served(app, connections=3) as port:
        first, *others = [connect(port, HALVES["half a head"]) for _ in range(3)]
        assert status(port) == 200
        assert is_closed(first)
        for client in (first, *others):
            client.close()


def test_a_taken_port_is_an_error_of_ours():
    with bind("localhost", 0) as first, pytest.raises(ConfigError, match=r"127\.0\.0\.1"):
        bind("127.0.0.1", first.getsockname()[1])


@pytest.mark.parametrize("host", ["no-such-host.invalid", "203.0.113.1"])
def test_an_address_that_is_not_ours_is_an_error_of_ours(host):
    with pytest.raises(ConfigError, match=host):
        bind(host, 0)
