"""Runs where researchers look: an MLflow tracking server, or event files for TensorBoard. Both packages are extras."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedinfer.errors import ConfigError, StoreError, TransportError
from fedinfer.ports import Clock
from fedinfer.sweeps.compare import SETTINGS, read_run, row_of_run
from fedinfer.types import Json

MOST_AT_ONCE = 1000
"""Metrics in one request to MLflow, by its REST API."""
NO_TELEMETRY = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
"""Read by MLflow when it is imported: nothing phones home."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A run as trackers know it.

    Args:
        name: of the run.
        folder: with run.json.
        parameters: what was chosen.
        figures: of the whole run, finite.
        steps: finite figures by round; rounds from 1.
    """

    name: str
    folder: Path
    parameters: Mapping[str, str | float]
    figures: Mapping[str, float]
    steps: tuple[tuple[int, Mapping[str, float]], ...]


def exported(folder: Path, name: str = "", more: Mapping[str, Any] | None = None) -> Exported:
    """A run from its folder.

    Args:
        folder: with run.json.
        name: of the run; empty: that of the folder.
        more: further parameters, as the settings of a sweep.

    Raises:
        ConfigError: no run.json of this schema.
    """
    record = read_run(folder)
    row = row_of_run(str(folder), record)
    parameters = {key: _parameter(row[key]) for key in SETTINGS if key != "run"}
    parameters |= {key: _parameter(value) for key, value in (more or {}).items()}
    figures = dict(_finite({key: value for key, value in row.items() if key not in SETTINGS}))
    return Exported(name or folder.name, folder, parameters, figures, tuple(_steps(record)))


def to_mlflow(runs: Sequence[Exported], uri: str, experiment: str, clock: Clock) -> None:
    """Log runs to MLflow: parameters, figures, one step per round, and run.json as an artifact.

    Args:
        runs: at least one.
        uri: of the tracking server or store, as MLflow takes it; empty: what MLFLOW_TRACKING_URI says.
        experiment: name; made when it is missing.
        clock: stamps every metric.

    Raises:
        ModuleNotFoundError: MLflow is not installed (extra `mlflow`).
        TransportError: the server or store refuses.
    """
    for name, value in NO_TELEMETRY.items():
        os.environ.setdefault(name, value)
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        client = mlflow.MlflowClient(tracking_uri=uri or None)
        known = client.get_experiment_by_name(experiment)
        place = known.experiment_id if known is not None else client.create_experiment(experiment)
        for run in runs:
            _log_one(client, place, run, round(clock.now().timestamp() * 1000))
    except (MlflowException, OSError) as error:
        raise TransportError(f"MLflow at {uri or 'its default store'}: {error}", hint="check the address") from error


def _log_one(client: Any, experiment: str, run: Exported, milliseconds: int) -> None:
    from mlflow.entities import Metric, Param

    made = client.create_run(experiment, run_name=run.name)
    number = made.info.run_id
    last = run.steps[-1][0] if run.steps else 0
    metrics = [Metric(name, value, milliseconds, last) for name, value in run.figures.items()]
    for step, figures in run.steps:
        metrics += [Metric(f"round/{name}", value, milliseconds, step) for name, value in figures.items()]
    client.log_batch(number, params=[Param(name, str(value)) for name, value in run.parameters.items()])
    for start in range(0, len(metrics), MOST_AT_ONCE):
        client.log_batch(number, metrics=metrics[start : start + MOST_AT_ONCE])
    client.log_artifact(number, str(run.folder / "run.json"))
    client.set_terminated(number)


def to_tensorboard(runs: Sequence[Exported], folder: Path, clock: Clock) -> None:
    """Write event files, one folder per run: scalars by round, and its parameters for the tab HPARAMS.

    Args:
        runs: at least one, with different names.
        folder: what `tensorboard --logdir` gets.
        clock: stamps every event.

    Raises:
        ModuleNotFoundError: TensorBoard is not installed (extra `tensorboard`).
        ConfigError: two runs have one name.
        StoreError: the folder cannot be written.
    """
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    names = [run.name for run in runs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"two runs are called {twice}", hint="rename their folders")
    try:
        for run in runs:
            writer = EventFileWriter(str(folder / run.name))
            for event in _events(run, clock.now().timestamp()):
                writer.add_event(event)
            writer.close()
    except OSError as error:
        raise StoreError(f"{folder}: {error}", hint="choose another folder") from error


def _events(run: Exported, seconds: float) -> Iterator[Any]:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import summary_v2

    def scalars(step: int, figures: Mapping[str, float], prefix: str) -> Any:
        values = [Summary.Value(tag=f"{prefix}/{name}", simple_value=value) for name, value in figures.items()]
        return Event(wall_time=seconds, step=step, summary=Summary(value=values))

    started = summary_v2.hparams_pb(dict(run.parameters), trial_id=run.name, start_time_secs=seconds)
    yield Event(wall_time=seconds, summary=started)
    for step, figures in run.steps:
        yield scalars(step, figures, "round")
    yield scalars(run.steps[-1][0] if run.steps else 0, run.figures, "run")


def _steps(record: Json) -> Iterator[tuple[int, Mapping[str, float]]]:
    for row in record["rounds"]:
        own = {key: value for key, value in row.items() if key not in ("round", "metrics")}
        yield int(row["round"]), dict(_finite(own | dict(row.get("metrics") or {})))


def _finite(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield name, float(value)


def _parameter(value: Any) -> str | float:
    """Infinity as a text: trackers refuse it as a number."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return value
    return value if isinstance(value, str) else json.dumps(value, default=str)
