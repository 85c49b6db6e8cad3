"""From a model object to an imported model, compared with its source on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from fedinfer.artifact.conversion.boosting import from_lightgbm, from_xgboost
from fedinfer.artifact.conversion.converted import Converted, Model, Rows, Values
from fedinfer.artifact.conversion.estimators import from_sklearn
from fedinfer.artifact.conversion.networks import from_torch
from fedinfer.artifact.conversion.policies import from_sb3
from fedinfer.artifact.imported.declaration import task_of
from fedinfer.artifact.imported.facts import read_facts
from fedinfer.artifact.imported.folder import Imported, import_model, save_imported
from fedinfer.artifact.imported.outside import parse
from fedinfer.artifact.imported.propose import Wishes
from fedinfer.errors import ConfigError, GateFailed
from fedinfer.model_file import check_model, open_checked
from fedinfer.ports import Clock
from fedinfer.system import SystemClock, simulation_rng

CONVERTERS: dict[str, Callable[[Model, Rows], Converted]] = {
    "stable_baselines3": from_sb3,
    "sb3_contrib": from_sb3,
    "xgboost": from_xgboost,
    "lightgbm": from_lightgbm,
    "torch": from_torch,
    "sklearn": from_sklearn,
    "imblearn": from_sklearn,
}
"""By the package of a model's class or of a class above it; XGBoost and LightGBM inherit from scikit-learn."""
CLOSE = 1e-3
"""A row agrees when no answer is off by more: of a probability, or as a part of the largest answer, 1 at least."""
LEAST_AGREEMENT = 0.99
_BATCH = 256


def convert(
    model: Model,
    rows: Rows,
    folder: Path | str,
    *,
    name: str = "model",
    label: str = "label",
    task: str = "",
    labels: Sequence[str] = (),
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> Imported:
    """Convert a model, and write it as `fedinfer artifact import` writes one (`fedinfer artifact convert`).

    Args:
        model: as `imported_from` takes it.
        rows: public rows as `imported_from` takes them.
        folder: to write, model.onnx and model.toml.
        name: of the task: 1 to 64 of a-z, 0-9, _ and -.
        label: column of labelled tables that holds the label.
        task: "classification", "regression", "scores" or "tensors"; empty: what the model says of itself.
        labels: names of classes or scores; empty: those of the model.
        ranges: public ranges by input, output or column; None: those of the rows.

    Returns:
        The imported model.

    Raises:
        ConfigError, DataError, GateFailed, MissingExtra: as `imported_from`.
        StoreError: the folder cannot be written.
    """
    wishes = Wishes(task=task_of(task), labels=tuple(labels), ranges=ranges or {})
    imported = imported_from(model, rows, name, label, wishes, SystemClock(), simulation_rng("import"))
    save_imported(Path(folder), imported)
    return imported


def imported_from(
    model: Model, rows: Rows, name: str, label: str, wishes: Wishes, clock: Clock, rng: np.random.Generator
) -> Imported:
    """Convert a model of another library, compare it with its source, and import it.

    Args:
        model: fitted estimator or pipeline of scikit-learn, model of XGBoost or LightGBM, torch module or program of
            torch.export, algorithm of Stable-Baselines3.
        rows: public rows as the model takes them, at least 8: an array, a DataFrame, or arrays by name. Ranges come
            from them, and they are the rows of calibration.
        name: of the task.
        label: column of labelled tables that holds the label.
        wishes: what its owner says; it goes before what the model says of itself.
        clock: for time limits.
        rng: for rows that are drawn.

    Returns:
        The imported model, its `parity` the largest difference of its core to the graph.

    Raises:
        ConfigError, DataError: a model, or rows, that cannot be converted; what neither the model nor the owner says.
        GateFailed: the graph answers otherwise than the model on more than 1 % of the rows, or breaks a rule.
        MissingExtra: the library that converts is not installed.
    """
    found = converter_of(model)(model, rows)
    compare(found)
    facts = read_facts(parse(found.data), found.data)
    return import_model(found.data, facts, name, label, _merged(found.wishes, wishes), found.feeds, clock, rng)


def converter_of(model: Model) -> Callable[[Model, Rows], Converted]:
    """What converts a model.

    Args:
        model: any object.

    Raises:
        ConfigError: nothing does.
    """
    for kind in type(model).__mro__:
        package = kind.__module__.partition(".")[0]
        if package in CONVERTERS:
            return CONVERTERS[package]
    where = f"{type(model).__module__}.{type(model).__qualname__}"
    raise ConfigError(
        f"{where[:120]} is no model that is converted",
        hint="models of scikit-learn, XGBoost, LightGBM, torch and Stable-Baselines3; pgmpy: artifact.from_pgmpy",
    )


def compare(found: Converted) -> float:
    """Run the graph on the example rows and compare it with what its source answers.

    Args:
        found: graph, rows and answers.

    Returns:
        The largest difference of an answer; ties between classes may be decided otherwise on up to 1 % of the rows.

    Raises:
        GateFailed: less agreement than LEAST_AGREEMENT, or the graph does not run.
    """
    answers = _run(found)
    count = len(next(iter(found.feeds.values())))
    agrees, worst = np.ones(count, bool), 0.0
    for output, expected in found.expected.items():
        said = answers[output].reshape(count, -1).astype(np.float64)
        wanted = expected.reshape(count, -1).astype(np.float64)
        if said.shape != wanted.shape:
            raise GateFailed(f"the graph answers {said.shape} values, the model {wanted.shape}")
        scale = max(1.0, float(np.abs(wanted).max()))
        off = np.abs(said - wanted).max(axis=1) / scale
        agrees &= off <= CLOSE
        worst = max(worst, float(off.max()))
    if found.decided is not None:
        said = answers[found.output]
        agrees &= (said if said.ndim == 1 else said.argmax(axis=-1)).ravel() == found.decided
    if agrees.mean() < LEAST_AGREEMENT:
        raise GateFailed(
            f"the graph agrees with the model on {agrees.mean():.3f} of {count} rows, {LEAST_AGREEMENT:g} are needed; "
            f"off by {worst:.3g}",
            hint="a device computes in float32: columns whose digits float32 cannot hold need an offset taken off",
        )
    return worst


def _run(found: Converted) -> dict[str, Values]:
    """All outputs for all rows; the graph is one that was just written here, of a model that runs here."""
    session = open_checked(check_model(found.data))
    names, count = [item.name for item in session.get_outputs()], len(next(iter(found.feeds.values())))
    parts = []
    for start in range(0, count, _BATCH):
        feeds = {name: values[start : start + _BATCH] for name, values in found.feeds.items()}
        try:
            parts.append(session.run(names, feeds))
        except Exception as error:  # onnxruntime has a dozen classes
            raise GateFailed(f"the converted graph does not run: {str(error)[:200]}") from error
    return {name: np.concatenate([part[place] for part in parts]) for place, name in enumerate(names)}


def _merged(said: Wishes, wished: Wishes) -> Wishes:
    """What the model says of itself, under what its owner says."""
    empty = Wishes()
    changes = {
        item.name: getattr(wished, item.name)
        for item in fields(Wishes)
        if getattr(wished, item.name) != getattr(empty, item.name)
    }
    if said.ranges and wished.ranges:
        changes["ranges"] = {**said.ranges, **wished.ranges}
    return replace(said, **changes)
