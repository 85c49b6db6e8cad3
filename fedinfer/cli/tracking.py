"""Options that send runs to trackers; `sweep` and `compare` share them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedinfer.system import SystemClock

if TYPE_CHECKING:
    from fedinfer.sweeps import Exported

MlflowOption = Annotated[str | None, typer.Option(help="log every run to this MLflow server or store (extra mlflow)")]
ExperimentOption = Annotated[str, typer.Option(help="name of the MLflow experiment")]
TensorboardOption = Annotated[
    Path | None, typer.Option(help="write event files for TensorBoard into this folder (extra tensorboard)")
]


def track(runs: Sequence[Exported], mlflow: str | None, experiment: str, tensorboard: Path | None) -> None:
    """Send runs where they are wanted.

    Args:
        runs: at least one.
        mlflow: address of a server or store; None: not wanted.
        experiment: name of the MLflow experiment.
        tensorboard: folder; None: not wanted.

    Raises:
        FedInferError: server or folder refuse.
        ModuleNotFoundError: an extra is missing.
    """
    from fedinfer.sweeps import to_mlflow, to_tensorboard

    if mlflow is not None:
        to_mlflow(runs, mlflow, experiment, SystemClock())
    if tensorboard is not None:
        to_tensorboard(runs, tensorboard, SystemClock())
