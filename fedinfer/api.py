"""What a program or a notebook calls: load a scenario, run it, read the run, predict with its model.

    import fedinfer
    run = fedinfer.run("heart", **{"training.rounds": 5})
    run.rounds                      # a pandas DataFrame where pandas is installed
    run.model().predict_one(row)    # the int8 file that the devices run

Everything here is also a command; the docstrings name it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedinfer.config import Scenario, load_scenario, override
from fedinfer.errors import ConfigError, FedInferError, NoModel
from fedinfer.ports import Clock, Listener
from fedinfer.system import SystemClock
from fedinfer.types import Json

if TYPE_CHECKING:
    from fedinfer.device import RecordedPredictor
    from fedinfer.inference import Installed, Predictor
    from fedinfer.report import Chart
    from fedinfer.sweeps import Tick

__all__ = ["Device", "Run", "load_scenario", "open_device", "open_run", "resume", "run", "sweep"]


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run: its folder, and what run.json says.

    Args:
        folder: run folder; docs/reference/run-folder.md says what is in it.
        record: run.json, schema 1.
    """

    folder: Path
    record: Json

    @property
    def metrics(self) -> Json:
        """Figures of the last weights on held-out rows, by name; in a deployment on public rows."""
        return dict(self.record["metrics"])

    @property
    def epsilon(self) -> float:
        """Spent, at `record["privacy"]["delta"]`; infinite without privacy."""
        return float(self.record["privacy"]["epsilon"])

    @property
    def rounds(self) -> Any:
        """One row a training round: a pandas DataFrame, or a list of dicts without pandas."""
        return _table(self.record["rounds"])

    @property
    def windows(self) -> Any:
        """One row an inference window, as `rounds`."""
        return _table(self.record["drift"]["timeline"])

    @property
    def models(self) -> Any:
        """One row a version, as `rounds`."""
        return _table(self.record["models"])

    def report(self) -> Path:
        """Write report.html, which opens without a network, and return its path (`fedinfer report`)."""
        from fedinfer.report import write_report

        return write_report(self.folder)

    def plot(self, width: float = 900.0) -> Chart:
        """Metric, epsilon, drift and versions over the steps of the run, as in the report.

        Args:
            width: of the drawing, pixels.
        """
        from fedinfer.report import Chart, loop_of

        return Chart(str(loop_of(self.folder, width)))

    def model(self, device: str | None = None) -> Predictor:
        """The model that a device of this simulation runs now.

        Args:
            device: its name; None: the first that runs the newest version.

        Raises:
            NoModel: no device of the run has one.
        """
        return self.device(device).predictor

    def device(self, device: str | None = None) -> Device:
        """One simulated device.

        Args:
            device: its name; None: the first that runs the newest version.

        Raises:
            NoModel: no device of the run has a model.
        """
        names = [device] if device is not None else sorted(path.name for path in (self.folder / "devices").glob("*/"))
        found = [opened for name in names if (opened := _opened(self.folder / "devices" / name)) is not None]
        if not found:
            raise NoModel(f"{self.folder}: no device of this run has a model", hint="look at run.models and run.record")
        return max(found, key=lambda each: each.version)

    def to_mlflow(self, uri: str = "", experiment: str = "fedinfer") -> None:
        """Log the run to MLflow (`fedinfer compare --mlflow`): parameters, figures, one step per round, run.json.

        Args:
            uri: of the tracking server or store; empty: what MLFLOW_TRACKING_URI says.
            experiment: name; made when it is missing.

        Raises:
            TransportError: the server or store refuses.
        """
        from fedinfer.sweeps import exported, to_mlflow

        to_mlflow([exported(self.folder)], uri, experiment, SystemClock())

    def to_tensorboard(self, folder: Path | str) -> None:
        """Write event files for TensorBoard (`fedinfer compare --tensorboard`).

        Args:
            folder: what `tensorboard --logdir` gets; the run gets a folder of its own in it.

        Raises:
            StoreError: the folder cannot be written.
        """
        from fedinfer.sweeps import exported, to_tensorboard

        to_tensorboard([exported(self.folder)], Path(folder), SystemClock())

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in self._headlines())
        title = escape(f"{self.record['scenario']}: {self.record['description']}")
        return f"<table><caption>{title}</caption>{rows}</table>"

    def __repr__(self) -> str:
        facts = ", ".join(f"{name} {value}" for name, value in self._headlines())
        return f"Run({self.record['scenario']}: {facts}; {self.folder})"

    def _headlines(self) -> list[tuple[str, str]]:
        from fedinfer.privacy import at_most, exactly

        privacy, name = self.record["privacy"], self.record.get("task", {}).get("metric", "accuracy")
        figure = self.metrics.get(name)
        return [
            ("status", str(self.record["status"])),
            (name, "unknown" if figure is None else f"{figure:.4g}" if name == "rmse" else f"{figure:.3f}"),
            (
                "epsilon",
                f"{at_most(self.epsilon)} of {exactly(privacy['budget'])} at delta {at_most(privacy['delta'], 6)}",
            ),
            ("rounds", str(len(self.record["rounds"]))),
            ("versions", str(len(self.record["models"]))),
            ("alarms", str(len(self.record["drift"]["alarms"]))),
        ]


@dataclass(frozen=True, slots=True)
class Device:
    """The store of a device, opened to predict.

    Args:
        folder: the store.
        installed: its active model.
    """

    folder: Path
    installed: Installed

    @property
    def predictor(self) -> Predictor:
        """Takes rows, arrays, data frames or CSV text."""
        return self.installed.predictor

    @property
    def version(self) -> int:
        """Of the active model."""
        return self.installed.info.version

    def recorded(self) -> RecordedPredictor:
        """A predictor whose answers are counted in the store, for drift; close it, or use it in a `with`.

        Raises:
            StoreError: the store cannot be written.
        """
        from fedinfer.device import PredictionLog, RecordedPredictor, Recorder

        return RecordedPredictor(self.installed, Recorder(PredictionLog.open(self.folder, SystemClock())))

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>"

    def __repr__(self) -> str:
        return f"Device({self.folder}, version {self.version} ({self.installed.info.variant}))"


def run(
    scenario: Scenario | Path | str,
    *,
    out: Path | str | None = None,
    progress: bool = True,
    **overrides: Any,
) -> Run:
    """Run a whole scenario with simulated devices in this process (`fedinfer run`).

    Args:
        scenario: name of a built-in one, a TOML file, a folder with scenario.toml, or one that was loaded.
        out: run folder, absent or empty; None: runs/<scenario>-<time>.
        progress: show a bar, in a terminal or a notebook.
        **overrides: values by key, as `**{"training.rounds": 5}` or `training__rounds=5`.

    Returns:
        The run.

    Raises:
        ConfigError: something is wrong with scenario or data; nothing was written.
        FedInferError: the run ended early; what was done is in the folder that its last note names.
    """
    from fedinfer.simulation import new_folder, prepare_local, run_local

    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    loaded = _loaded(scenario, overrides)
    prepared, clock = prepare_local(loaded), SystemClock()
    folder = new_folder(None if out is None else Path(out), loaded.scenario.name, clock)
    return _followed(folder, clock, progress, lambda emit: run_local(prepared, folder, clock, emit))


def resume(folder: Path | str, *, progress: bool = True) -> Run:
    """Go on with a run that was interrupted, after its last finished step (`fedinfer run --resume`).

    The result is that of a run that was never interrupted, apart from times.

    Args:
        folder: of the run.
        progress: show a bar, in a terminal or a notebook.

    Returns:
        The run.

    Raises:
        ConfigError: there is nothing to go on with, the table has changed, or another process works on the folder.
        FedInferError: the run ended early; what was done is in the folder that its last note names.
    """
    from fedinfer.simulation import prepare_again, resume_local

    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    path, clock = Path(folder), SystemClock()
    prepared, _ = prepare_again(path)
    return _followed(path, clock, progress, lambda emit: resume_local(prepared, path, clock, emit))


def sweep(
    scenario: Scenario | Path | str,
    axes: Mapping[str, Sequence[Any]],
    *,
    seeds: int = 3,
    out: Path | str | None = None,
    jobs: int = 0,
    rows: str = "own",
    progress: bool = True,
    **overrides: Any,
) -> Any:
    """Run every combination of values and return its table (`fedinfer sweep`); the folder has page and plots too.

    Args:
        scenario: as for `run`.
        axes: values by key, as `{"privacy.epsilon": [1, 2, math.inf], "privacy.trust": ["local", "central"]}`; the
            short names `epsilon`, `unit` and `trust` do as well.
        seeds: runs of every setting, >= 1, with seeds from `scenario.seed` on.
        out: folder; what an earlier sweep left there is not run again. None: sweeps/<scenario>.
        jobs: processes at a time; 0: one per core.
        rows: "own", "public" or "synthetic": whose rows train and judge.
        progress: show a bar, in a terminal or a notebook.
        **overrides: values for all runs, as for `run`.

    Returns:
        One row per cell, settings that could not run included: a pandas DataFrame, or a list of dicts without pandas.

    Raises:
        ConfigError: axes, scenario or folder are wrong.
        StoreError: the folder cannot be written.
    """
    from fedinfer.sweeps import SweepSettings, frame, named_axes, rows_of, run_sweep, write_pictures, write_tables

    base = _loaded(scenario, overrides)
    folder = Path("sweeps") / base.scenario.name if out is None else Path(out)
    chosen = range(base.scenario.seed, base.scenario.seed + seeds)
    settings = SweepSettings(named_axes(axes), tuple(chosen), jobs=jobs, rows=rows_of(rows))
    with _counter(progress) as tick:
        found = run_sweep(base, settings, folder, SystemClock(), tick)
    write_tables(folder, found.rows, found.document["figures"])
    write_pictures(folder, found.to_json())
    return frame(found.rows, found.document["figures"])


def open_run(folder: Path | str) -> Run:
    """A run that is over, from its folder.

    Args:
        folder: of the run, with run.json.

    Raises:
        ConfigError: no run.json in it, or it is malformed.
    """
    path = Path(folder)
    try:
        return Run(path, json.loads((path / "run.json").read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path / 'run.json'}: {error}", hint="give the folder of a finished run") from error


def open_device(store: Path | str) -> Device:
    """The store of a device, real or simulated (`fedinfer device`).

    Args:
        store: folder that holds slots/.

    Raises:
        NoModel: nothing is installed there.
        ArtifactRejected: what is installed is damaged.
    """
    from fedinfer.inference import SessionCache, Slots, open_installed

    folder = Path(store)
    if not (folder / "slots").is_dir():
        raise NoModel(f"{folder}: no model was ever installed here", hint="give the folder that holds slots/")
    return Device(folder, open_installed(Slots(folder / "slots"), SessionCache(2)))


def _followed(folder: Path, clock: Clock, progress: bool, go: Callable[[Listener], Json]) -> Run:
    from fedinfer.simulation import RUN_ID, EventLog

    log = EventLog(folder, clock, RUN_ID)
    with _bar(progress) as bar:

        def emit(name: str, fields: Json) -> None:
            log(name, fields)
            bar(name, fields)

        try:
            go(emit)
        except FedInferError as error:
            error.add_note(f"what was done so far is in {folder}")
            raise
    return open_run(folder)


def _opened(store: Path) -> Device | None:
    try:
        return open_device(store)
    except NoModel:
        return None


def _loaded(scenario: Scenario | Path | str, overrides: Mapping[str, Any]) -> Scenario:
    keys = {key.replace("__", "."): value for key, value in overrides.items()}
    if isinstance(scenario, Scenario):
        return override(scenario, keys)
    return override(load_scenario(str(scenario)), keys)


def _table(rows: list[Json]) -> Any:
    try:
        import pandas
    except ImportError:
        return rows
    return pandas.DataFrame(rows)


def _counter(wanted: bool) -> AbstractContextManager[Callable[[Tick], None]]:
    from fedinfer.report import counting_bar

    return counting_bar() if wanted else nullcontext(lambda tick: None)


def _bar(wanted: bool) -> AbstractContextManager[Listener]:
    from fedinfer.report import progress_bar

    return progress_bar() if wanted else nullcontext(lambda name, fields: None)
