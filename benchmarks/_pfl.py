"""pfl-research (package pfl 0.6.0) on the workload of _mlp.py, in one process; a program for an environment of its own.

pfl wants dp-accounting < 0.6 and Flower wants more, so it cannot be installed beside the product: torch, numpy, scipy
and, with --no-deps, pfl==0.6.0 "dp-accounting>=0.4,<0.6" "multiprocess>=0.70.15,<0.71" "prv-accountant>=0.2,<0.3"
absl-py attrs dm-tree dill.

    python benchmarks/_pfl.py COHORT
"""

from __future__ import annotations

import json
import sys

import torch
from _mlp import BATCH, CLIP, NOISE, RATE, ROUNDS, USERS, Mark, draw, laps, network, now
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByUser
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from pfl.privacy import CentrallyAppliedPrivacyMechanism, GaussianMechanism
from torch import nn
from torch.nn.functional import cross_entropy


class Net(nn.Module):
    """The methods that pfl calls."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        self.train()
        return cross_entropy(self(x), y)

    def metrics(self, x: torch.Tensor, y: torch.Tensor, eval: bool = True) -> dict:
        with torch.no_grad():
            return {"accuracy": Weighted(int((self(x).argmax(-1) == y).sum()), len(y))}


class Clock(TrainingProcessCallback):
    """Marks before the first round and after each."""

    def __init__(self) -> None:
        self.marks: list[Mark] = []

    def on_train_begin(self, *, model: object) -> Metrics:
        self.marks.append(now())
        return Metrics()

    def after_central_iteration(self, aggregate_metrics: object, model: object, *, central_iteration: int) -> tuple:
        self.marks.append(now())
        return False, Metrics()


def main(cohort: int) -> None:
    torch.set_num_threads(1)
    x, y = (torch.from_numpy(part) for part in draw(USERS))
    net, clock = Net(), Clock()
    sampler = get_user_sampler("minimize_reuse", list(range(USERS)))
    dataset = FederatedDataset(lambda user: Dataset((x[user], y[user]), user_id=str(user)), sampler)
    noise = CentrallyAppliedPrivacyMechanism(GaussianMechanism(CLIP, NOISE))
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=ROUNDS, evaluation_frequency=10**9, train_cohort_size=cohort, val_cohort_size=0
        ),
        backend=SimulatedBackend(dataset, dataset, postprocessors=[WeightByUser(), noise]),
        model=PyTorchModel(net, torch.optim.SGD, torch.optim.SGD(net.parameters(), lr=1.0)),
        model_train_params=NNTrainHyperParams(local_num_epochs=1, local_learning_rate=RATE, local_batch_size=BATCH),
        model_eval_params=NNEvalHyperParams(local_batch_size=None),
        callbacks=[clock],
    )
    print(json.dumps(laps(clock.marks)))


if __name__ == "__main__":
    main(int(sys.argv[1]))
