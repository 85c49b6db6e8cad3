"""The SuperLink's address for devices answers the fleet API and nothing else, whatever a request calls itself."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from flwr.superlink.cli.flower_superlink import _parse_args_run_superlink
from typer.testing import CliRunner

from fedinfer.cli.main import app
from fedinfer.errors import ConfigError
from fedinfer.flower.superlink import Address, FleetOnly, SuperLinkSettings, address, run_superlink, superlink_arguments

CONTROL, FLEET = 9501, 9500


def asked(kind: str, path: str, server: tuple[str, int] | None) -> tuple[list[str], list[dict[str, Any]]]:
    reached: list[str] = []
    sent: list[dict[str, Any]] = []

    async def inner(scope: Any, _receive: Any, _send: Any) -> None:
        reached.append(scope["type"])

    async def send(message: Any) -> None:
        sent.append(dict(message))

    async def receive() -> dict[str, Any]:
        return {}

    scope = {"type": kind, "path": path, "server": server, "headers": [(b"host", b"127.0.0.1:9501")]}
    asyncio.run(FleetOnly(inner, CONTROL)(scope, receive, send))
    return reached, sent


@pytest.mark.parametrize(
    "path",
    ["/v1/control/start-run", "/v1/runtime/acquire-task", "/", "/docs", "/health", "/v1/fleet", "//v1/fleet/x",
     "/V1/FLEET/x", "/v1/control/..;/fleet/", "v1/fleet/", ""],
)  # fmt: skip
def test_devices_reach_nothing_with_which_a_run_is_started(path: str) -> None:
    for server in (("203.0.113.1", FLEET), None):
        reached, sent = asked("http", path, server)
        assert reached == []
        assert sent[0]["status"] == 404


def test_devices_reach_the_fleet_api() -> None:
    assert asked("http", "/v1/fleet/pull-messages", ("203.0.113.1", FLEET)) == (["http"], [])


def test_a_socket_that_stays_open_is_no_way_round() -> None:
    assert asked("websocket", "/v1/fleet/x", ("203.0.113.1", FLEET)) == ([], [{"type": "websocket.close"}])


def test_the_control_address_answers_everything_and_the_app_starts_and_stops() -> None:
    assert asked("http", "/v1/control/start-run", ("127.0.0.1", CONTROL)) == (["http"], [])
    assert asked("lifespan", "", None) == (["lifespan"], [])


def settings(folder: Path, control: Address) -> SuperLinkSettings:
    names = ("superlink.sqlite", "ca.crt", "server.pem", "server.key")
    return SuperLinkSettings(Address("127.0.0.1", FLEET), control, *(folder / name for name in names))


def test_flower_understands_the_arguments_keeps_its_state_and_lets_known_nodes_in_only(tmp_path: Path) -> None:
    given = superlink_arguments(settings(tmp_path, Address("127.0.0.1", CONTROL)))
    known = _parse_args_run_superlink().parse_args(given)
    assert known.database == str(tmp_path / "superlink.sqlite")
    assert (known.host, known.port, known.insecure) == ("127.0.0.1", CONTROL, False)
    assert known.enable_supernode_auth
    assert not known.runtime_dependency_install


def test_one_port_for_both_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="both addresses have port 9500"):
        run_superlink(settings(tmp_path, Address("127.0.0.2", FLEET)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0.0.0.0:9500", Address("0.0.0.0", 9500)), ("[::1]:9501", Address("::1", 9501)), ("a.b:1", Address("a.b", 1))],
)
def test_an_address_is_host_and_port(text: str, expected: Address) -> None:
    assert address(text) == expected


@pytest.mark.parametrize("text", ["", "9500", ":9500", "host:", "host:0", "host:65536", "host:-1", "host:x"])
def test_anything_else_is_no_address(text: str) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        address(text)


@pytest.mark.parametrize(("control", "warns"), [("127.0.0.1:9500", False), ("0.0.0.0:9500", True), ("a.b:9500", True)])
def test_an_address_for_runs_that_is_not_loopback_is_warned_of(tmp_path: Path, control: str, warns: bool) -> None:
    options = ["superlink", "--fleet", "127.0.0.1:9500", "--control", control, "--database", str(tmp_path / "db")]
    for name in ("ca", "certificate", "key"):
        (tmp_path / name).write_text("")
        options += [f"--{name}", str(tmp_path / name)]
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 2  # one port for both
    assert ("may start runs" in done.stderr) is warns
