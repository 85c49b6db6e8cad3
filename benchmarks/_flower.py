"""Flower's Ray simulation on the workload of _mlp.py, one actor per core.

Seconds of the processor are those of this process and of all that it started: Ray's and the actors'.

python benchmarks/_flower.py COHORT
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import psutil
import torch
from _mlp import BATCH, CLIP, NOISE, RATE, ROWS, Mark, draw, laps, network
from torch.nn.functional import cross_entropy

for name, value in (
    ("FLWR_TELEMETRY_ENABLED", "0"),
    ("FLWR_DISABLE_UPDATE_CHECK", "1"),
    ("RAY_USAGE_STATS_ENABLED", "0"),
):
    os.environ.setdefault(name, value)
HERE = str(Path(__file__).resolve().parent)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [HERE, os.environ.get("PYTHONPATH", "")]))  # for Ray's workers

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict  # noqa: E402  # after the variables it reads
from flwr.clientapp import ClientApp  # noqa: E402
from flwr.serverapp import Grid, ServerApp  # noqa: E402
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg  # noqa: E402
from flwr.simulation import run_simulation  # noqa: E402

NODES, ROUNDS = 200, 4
client_app, server_app = ClientApp(), ServerApp()
cache: dict[str, tuple] = {}
marks: list[Mark] = []


def busy() -> float:
    """Processor seconds of this process and its descendants."""
    own = psutil.Process()
    used = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return sum(times.user + times.system for times in used)


@client_app.train()
def train(message: Message, context: Context) -> Message:
    torch.set_num_threads(1)
    if not cache:
        cache["data"] = tuple(torch.from_numpy(part) for part in draw(NODES))
    user = int(context.node_config["partition-id"])
    x, y = (part[user] for part in cache["data"])
    net = network()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE)
    for at in range(0, ROWS, BATCH):
        optimizer.zero_grad()
        cross_entropy(net(x[at : at + BATCH]), y[at : at + BATCH]).backward()
        optimizer.step()
    content = {"arrays": ArrayRecord(net.state_dict()), "metrics": MetricRecord({"num-examples": ROWS})}
    return Message(RecordDict(content), reply_to=message)


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    cohort = int(sys.argv[1])
    plain = FedAvg(
        fraction_train=cohort / NODES, fraction_evaluate=0.0, min_train_nodes=cohort, min_available_nodes=NODES
    )
    strategy = DifferentialPrivacyServerSideFixedClipping(
        plain, noise_multiplier=NOISE, clipping_norm=CLIP, num_sampled_clients=cohort
    )

    def tick(_: int, arrays: ArrayRecord) -> None:  # before the first round and after each
        marks.append((time.perf_counter(), busy()))

    strategy.start(grid=grid, initial_arrays=ArrayRecord(network().state_dict()), num_rounds=ROUNDS, evaluate_fn=tick)


if __name__ == "__main__":
    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    ray = {"num_cpus": os.cpu_count(), "include_dashboard": False, "log_to_driver": False}
    run_simulation(server_app, client_app, num_supernodes=NODES, backend_config={**resources, "init_args": ray})
    print(json.dumps(laps(marks)))
