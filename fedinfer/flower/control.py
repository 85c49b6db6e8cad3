"""What an operator asks of a running SuperLink: which devices may connect, which are there, and to start a run.

Flower's own command `flwr` does the same with one process per question; this is one connection. The control API asks
nobody who he is, see `fedinfer.flower.superlink`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx
from flwr.cli.build import build_fab_from_disk
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from fedinfer.errors import TransportError

ONLINE, RUNNING = "online", "running"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RegisteredNode:
    """A node that may connect.

    Args:
        node: Flower's number.
        public_key: PEM.
        online: whether the SuperLink has heard of it lately.
        last_seen: when it heard last, aware; None: never.
    """

    node: int
    public_key: bytes
    online: bool
    last_seen: datetime | None


class Control:
    """A connection to a SuperLink's control API.

    Args:
        client: of Flower.
    """

    def __init__(self, client: ControlHttpClient) -> None:
        self._client = client

    def nodes(self) -> list[RegisteredNode]:
        """Every node that may connect.

        Raises:
            TransportError: the SuperLink does not answer.
        """
        answer = _asked(lambda: self._client.ListNodes(ListNodesRequest()))
        return [_node(info) for info in answer.nodes_info if info.status != "unregistered"]

    def register(self, public_key: bytes, name: str) -> None:
        """Let a node connect.

        Args:
            public_key: PEM.
            name: of its device, for `flwr supernode list`.

        Raises:
            TransportError: the SuperLink does not answer, or refuses: a key is registered once.
        """
        _asked(lambda: self._client.RegisterNode(RegisterNodeRequest(public_key=public_key, name=name)))

    def unregister(self, node: int) -> None:
        """Let a node connect no more.

        Args:
            node: Flower's number.

        Raises:
            TransportError: the SuperLink does not answer.
        """
        _asked(lambda: self._client.UnregisterNode(UnregisterNodeRequest(node_id=node)))

    def running(self, app: str) -> list[int]:
        """Runs that count as going on; the newest ones are looked at.

        A run whose server's app was killed is among them until the SuperLink has missed it for a minute.

        Args:
            app: whose runs: publisher/name.

        Returns:
            Flower's numbers of the runs.

        Raises:
            TransportError: the SuperLink does not answer.
        """
        runs = _asked(lambda: self._client.ListRuns(ListRunsRequest())).run_dict
        return [number for number, run in runs.items() if run.fab_id == app and run.status.status == RUNNING]

    def stop_run(self, run: int) -> None:
        """End a run: its devices forget what they have of its messages.

        Args:
            run: Flower's number of it.

        Raises:
            TransportError: the SuperLink does not answer, or the run is over.
        """
        _asked(lambda: self._client.StopRun(StopRunRequest(run_id=run)))

    def start_run(self, app: Path, config: Mapping[str, str | int | bool]) -> int:
        """Start a run.

        Args:
            app: folder of the app: pyproject.toml and what it names.
            config: of the run.

        Returns:
            Flower's number of the run.

        Raises:
            TransportError: the SuperLink does not answer, or does not take the app.
        """
        bundle = build_fab_from_disk(app)
        fab = Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})
        asked = StartRunRequest(fab=fab_to_proto(fab), override_config=user_config_to_proto(dict(config)))
        return int(_asked(lambda: self._client.StartRun(asked)).run_id)


@contextmanager
def connect(address: str, authority: Path) -> Iterator[Control]:
    """Connect to a control API.

    Args:
        address: HOST:PORT.
        authority: file with the certificate that signed the SuperLink's.
    """
    client = ControlHttpClient.from_server_address(
        server_address=address,
        insecure=False,
        root_certificates=authority.read_bytes(),
        interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
    )
    try:
        yield Control(client)
    finally:
        client.close()


def _asked(ask: Callable[[], T]) -> T:
    try:
        return ask()
    except (httpx.HTTPError, RuntimeError, ValueError) as error:
        hint = "is the server up? fedinfer server status DIR"
        raise TransportError(f"the SuperLink's control API: {type(error).__name__}: {error}", hint=hint) from error


def _node(info: Any) -> RegisteredNode:
    seen = max(info.last_activated_at, info.last_deactivated_at)
    heard = info.online_until - info.heartbeat_interval
    last = datetime.fromtimestamp(heard, UTC) if info.online_until and info.heartbeat_interval else None
    if last is None and seen:
        last = datetime.fromisoformat(seen)
    return RegisteredNode(info.node_id, info.public_key, info.status == ONLINE, last)
