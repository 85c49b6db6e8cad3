"""LocalGrid is a Flower Grid: unmodified Flower apps run on it, and nothing depends on messages staying in memory."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from fedinfer.device.dispatch import DeviceResponder
from fedinfer.flower.client_app import CohortClientApp
from fedinfer.simulation.coordinate import run_simulation
from fedinfer.simulation.grid import FIRST_NODE, LocalGrid
from fedinfer.simulation.population import Processes, simulated_host
from fedinfer.system import SystemClock
from fedinfer.types import Json
from tests.protocol.fleet import federation, settings
from tests.scenarios.runs import differences, without_times

NODES = 5


def plain_app() -> ClientApp:
    """A ClientApp as in Flower's documentation: it knows nothing of fedinfer."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        mine = int(context.node_config["partition-id"])
        start = message.content["arrays"].to_numpy_ndarrays()[0]
        arrays = ArrayRecord([start + mine])
        metrics = MetricRecord({"num-examples": mine + 1, "loss": float(mine)})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        mine = message.content["arrays"].to_numpy_ndarrays()[0]
        metrics = MetricRecord({"num-examples": 1, "mean": float(mine.mean())})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    @app.query()
    def count(message: Message, context: Context) -> Message:
        seen = context.state.get("seen", ConfigRecord({"times": 0}))
        context.state["seen"] = ConfigRecord({"times": int(seen["times"]) + 1})
        if context.run_config.get("fail") and context.node_config["partition-id"] == 2:
            raise ValueError("a bug in the client")
        return Message(RecordDict({"seen": context.state["seen"]}), reply_to=message)

    return app


def ask_all(grid: LocalGrid) -> list[Message]:
    messages = [Message(RecordDict(), dst_node_id=node, message_type="query") for node in grid.get_node_ids()]
    return list(grid.send_and_receive(messages))


def test_an_unmodified_flower_app_trains_with_fedavg() -> None:
    results: list[Any] = []
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = FedAvg(fraction_train=1.0, fraction_evaluate=1.0, min_available_nodes=NODES)
        start = ArrayRecord([np.zeros(3, np.float32)])
        results.append(strategy.start(grid=grid, initial_arrays=start, num_rounds=2))

    app(LocalGrid(plain_app(), NODES, {}), Context(1, 1, {}, RecordDict(), {}))
    weights = np.arange(NODES) + 1
    mean = float(np.average(np.arange(NODES), weights=weights))  # what FedAvg adds to the weights in a round
    np.testing.assert_allclose(results[0].arrays.to_numpy_ndarrays()[0], np.full(3, 2 * mean), rtol=1e-6)
    assert results[0].evaluate_metrics_clientapp[2]["mean"] == pytest.approx(2 * mean)


def test_nodes_know_their_number_and_keep_their_state() -> None:
    grid = LocalGrid(plain_app(), NODES, {})
    assert list(grid.get_node_ids()) == list(range(FIRST_NODE, FIRST_NODE + NODES))
    ask_all(grid)
    assert [reply.content["seen"]["times"] for reply in ask_all(grid)] == [2] * NODES


def test_an_error_in_a_client_becomes_flowers_error_and_stays_with_its_node() -> None:
    replies = ask_all(LocalGrid(plain_app(), NODES, {"fail": True}))
    assert [reply.has_error() for reply in replies] == [False, False, True, False, False]
    assert "a bug in the client" in replies[2].error.reason
    assert [reply.metadata.src_node_id for reply in replies] == [FIRST_NODE + i for i in range(NODES)]


def test_pushed_messages_wait_for_their_pull_and_are_handed_out_once() -> None:
    grid = LocalGrid(plain_app(), NODES, {})
    messages = [grid.create_message(RecordDict(), "query", node, "group") for node in grid.get_node_ids()]
    numbers = list(grid.push_messages(messages))
    assert len(set(numbers)) == NODES
    assert len(list(grid.pull_messages(numbers[:2]))) == 2
    left = list(grid.pull_messages(numbers))
    assert [reply.metadata.reply_to_message_id for reply in left] == numbers[2:]
    assert list(grid.pull_messages(numbers)) == []


def through_the_wire(message: Message) -> Message:
    """Deflate and inflate with Flower's own serialisation, as between SuperLink and SuperNode."""
    contents = {number: item.deflate() for number, item in get_all_nested_objects(message).items()}
    copied: Message = inflate_object_from_contents(message.object_id, contents)
    copied.metadata.__dict__.update(message.metadata.__dict__)
    return copied


class WiredGrid(LocalGrid):
    """A grid whose messages are bytes for a while, in both directions."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return [through_the_wire(reply) for reply in super().send_and_receive(map(through_the_wire, messages))]


class OneByOneGrid(LocalGrid):
    """A grid that hands every message to the app alone, as every other runtime of Flower does."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return [reply for message in messages for reply in super(OneByOneGrid, self).send_and_receive([message])]


class FlowerCallGrid(LocalGrid):
    """A grid that only knows that a ClientApp can be called: the cohort door stays shut."""

    def _answer(self, messages: Any) -> list[Message]:
        return [self._answer_one(message, self._context(message.metadata.dst_node_id)) for message in messages]


def run_on(kind: type[LocalGrid], folder: Path, extra: str) -> Json:
    folder.mkdir()
    scenario, rows, clock = settings(extra), federation(), SystemClock()
    devices = sorted(rows.devices)
    host = simulated_host(scenario, rows, folder / "devices", clock, Processes.ONE)
    responder = DeviceResponder(host)
    app = CohortClientApp(lambda context: (devices[int(context.node_config["partition-id"])], responder))
    grid = kind(app, len(devices), {})
    run_simulation(grid, scenario, rows, folder, "local", clock, lambda name, fields: None)
    return json.loads((folder / "run.json").read_text())


UNITS = {
    "example": "training.rounds = 2\ndrift.windows = 1",
    "device": """
        training.rounds = 2
        drift.windows = 1
        privacy.unit = "device"
        privacy.epsilon = 40.0
        fleet.dropout = 0.1""",
}


@pytest.fixture(scope="module", params=list(UNITS))
def cohort_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Json]:
    folder = tmp_path_factory.mktemp("cohort") / "run"
    return request.param, without_times(run_on(LocalGrid, folder, UNITS[request.param]))


def test_the_run_did_something(cohort_run: tuple[str, Json]) -> None:
    _, record = cohort_run
    assert record["status"] == "completed"
    assert [row["status"] for row in record["rounds"]] == ["released"] * 2


def test_messages_that_were_bytes_give_the_same_run(cohort_run: tuple[str, Json], tmp_path: Path) -> None:
    unit, expected = cohort_run
    assert differences(without_times(run_on(WiredGrid, tmp_path / "run", UNITS[unit])), expected) == []


@pytest.mark.parametrize("kind", [OneByOneGrid, FlowerCallGrid])
def test_one_by_one_gives_the_run_of_the_cohort(
    cohort_run: tuple[str, Json], tmp_path: Path, kind: type[LocalGrid]
) -> None:
    unit, expected = cohort_run
    assert differences(without_times(run_on(kind, tmp_path / "run", UNITS[unit])), expected) == []


def test_arrays_survive_the_wire_of_the_test_itself() -> None:
    """The wire of this test does carry what it is given: a changed byte would be seen."""
    LocalGrid(plain_app(), 1, {})  # sets the task identity that Message() reads
    array = Array(np.arange(3, dtype=np.float32))
    message = Message(RecordDict({"a": ArrayRecord({"x": array})}), dst_node_id=2, message_type="query")
    copied = through_the_wire(message)
    assert copied is not message
    np.testing.assert_array_equal(copied.content["a"]["x"].numpy(), np.arange(3))
