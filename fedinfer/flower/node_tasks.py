"""Client tasks of a SuperNode with `--isolation process`, taken over its Runtime API.

Flower's `flower-superexec` starts a Python process per message and loads the app bundle that the run brought. Here one
process asks for the messages itself and answers with an app of its own; the bundle is received and dropped. The
functions of flwr used here are internal: see `tests/unit/flower/test_node_adapter.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from flwr.app import Context, Message
from flwr.common.constant import SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest, SendTaskHeartbeatRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime import run_clientapp
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from fedinfer.errors import TransportError
from fedinfer.flower.prompt_grid import retry_soon

COMPONENT = "flwr-clientapp"
ACQUIRE = "/flwr.proto.Runtime/AcquireTask"


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What the SuperLink says of the run that a message belongs to.

    Args:
        publisher, app: of the app bundle, as its pyproject.toml names them.
        config: what the starter of the run set; defaults inside the bundle are not read.
        is_client_app: false for Flower's agent apps.
    """

    publisher: str
    app: str
    config: dict[str, Any]
    is_client_app: bool


Handler = Callable[[Message, Context, RunFacts], Message]


@dataclass(frozen=True, slots=True)
class RuntimeApi:
    """Where the node's Runtime API answers, and what opens it.

    Args:
        address: HOST:PORT on the loopback interface.
        root_certificate: file with the certificate that its TLS certificate is checked against.
        secret: SuperExec secret; without it the node hands out no task.
    """

    address: str
    root_certificate: Path
    secret: bytes


class NodeTasks:
    """Takes tasks from one node, one after the other.

    Args:
        api: of the node.
        node_config: what every context carries in place of the node's own configuration.
    """

    def __init__(self, api: RuntimeApi, node_config: dict[str, Any]) -> None:
        retry_soon(run_clientapp, "pull_and_inflate_object_from_tree")
        self._api = api
        self._node_config = node_config
        secret = SuperExecAuthHttpInterceptor(master_secret=api.secret, protected_methods=[ACQUIRE])
        self._asking = self._client(secret)

    def close(self) -> None:
        """Close the connection."""
        self._asking.close()

    def answer_next(self, handle: Handler) -> bool:
        """Answer one message, if one waits.

        Args:
            handle: makes the reply from message, context and the facts of its run.

        Returns:
            Whether one was there.

        Raises:
            TransportError: the node does not answer, or a message stays without an answer: it waits for one for ever,
                so it has to be started again.
        """
        try:
            kinds = [TaskType.CLIENT_APP, TaskType.AGENT_APP]
            got = self._asking.AcquireTask(AcquireTaskRequest(supported_task_types=kinds))
            if not (got.HasField("task") and got.token):
                return False
            self._answer(handle, got.token, got.task.type == TaskType.CLIENT_APP)
        except (httpx.HTTPError, RuntimeError, ValueError) as error:
            raise TransportError(f"the node's Runtime API: {type(error).__name__}: {error}") from error
        return True

    def _answer(self, handle: Handler, token: str, is_client_app: bool) -> None:
        client = self._client(RuntimeTokenHttpInterceptor(token))
        heartbeat = HeartbeatSender(lambda: _beat(client))
        heartbeat.start()
        try:
            message, received, run, _bundle = pull_task_input(client)
            publisher, _, app = run.fab_id.partition("/")
            facts = RunFacts(publisher, app, dict(received.run_config), is_client_app)
            context = Context(
                run_id=received.run_id,
                node_id=received.node_id,
                node_config=dict(self._node_config),
                state=received.state,
                run_config=received.run_config,
                series_id=received.series_id,
            )
            push_message(client, handle(message, context, facts), context)
            push_task_output(client=client, context=received, sub_status=SubStatus.COMPLETED, details="")
        finally:
            if heartbeat.is_running:
                heartbeat.stop()
            client.close()

    def _client(self, *more: Any) -> RuntimeHttpClient:
        return RuntimeHttpClient.from_server_address(
            server_address=self._api.address,
            insecure=False,
            root_certificates=self._api.root_certificate.read_bytes(),
            interceptors=[RuntimeVersionHttpInterceptor(component_name=COMPONENT), *more],
        )


def _beat(client: RuntimeHttpClient) -> bool:
    """Keep a task alive while it is worked on. Flower's own function interrupts the process when the task is gone."""
    try:
        client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
    except (httpx.HTTPError, RuntimeError):
        return False
    return True
