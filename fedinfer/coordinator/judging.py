"""What a published model is worth: the file that devices run, on the rows that this side may judge by.

In a simulation these are the held-out rows of all devices, which no real server has; in a deployment public rows. Every
record says which. Nothing that is found out here moves a weight, a threshold or a decision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, assert_never

import numpy as np
import numpy.typing as npt

from fedinfer.config import Scenario
from fedinfer.coordinator.context import Progress, Rows, Server, Witness
from fedinfer.drift import CONFIDENCE, ConfidenceCalibration, Outputs, calibrate_confidence, report_channels
from fedinfer.metrics import (
    EVEN,
    Answers,
    JudgedBy,
    Metric,
    attribute_of,
    best_threshold,
    judge,
    judge_numbers,
    judged_by,
    number_score,
    number_scores,
    owners,
    part_of,
    part_of_numbers,
    residuals,
)
from fedinfer.schema import Categorical, Numeric, Schema, Text
from fedinfer.types import DeviceId, Json

if TYPE_CHECKING:
    from fedinfer.artifact import Built, ChosenFile

QUARTERS = 4
MOST_DEVICES = 1000
"""Figures of single devices are kept up to so many; above it a table of them is no help."""
MOST_CALIBRATION_ROWS = 5000
MOST_POOLED_NUMBERS = 40_000
"""Parameters up to which the pooled model is trained: seconds on one core."""


def judgement_basis(scenario: Scenario, schema: Schema, judged: Rows) -> JudgedBy:
    """By which figure a run judges, and why.

    Args:
        scenario: may ask for one, or state the class shares.
        schema: names the classes.
        judged: rows with labels that this side judges by; may be empty.
    """
    prior = scenario.training.prior
    counts = np.bincount(judged[1].astype(np.int64), minlength=schema.classes) if schema.classes else np.empty(0)
    shares = [prior[name] for name in schema.labels] if prior else list(counts / counts.sum()) if counts.sum() else []
    return judged_by(scenario.training.metric or None, shares, schema.classes)


def judge_model(server: Server, progress: Progress, built: Built) -> Json:
    """Judge the chosen file of a version.

    Args:
        server: wiring of the run.
        progress: of the run.
        built: the version.

    Returns:
        For run.json; empty where no labelled row may be judged by, or the file does not answer in finite numbers,
        which no figure can be made of.
    """
    x, y = server.judged(progress.window)
    said = built.answers(x) if len(y) else np.empty(0)
    if not len(y) or not np.isfinite(said).all():
        return {}
    on = "held-out rows of all simulated devices" if server.simulated else "public rows of the server"
    start = {"version": progress.version, "on": on, "simulation_knowledge": server.simulated}
    metric, rng = server.judged_by.metric, server.generator(f"judgement {progress.version}")
    if metric.of_numbers:
        own = partial(_own_numbers, metric, said[:, 0], y)
        found_numbers = judge_numbers(metric, said[:, 0], y, rng) | {"residuals": residuals(said[:, 0], y)}
        return start | found_numbers | {"devices": _of_devices(server.witness, progress.window, own)}
    threshold = None if built.head.threshold == EVEN else built.head.threshold
    answers = Answers.of(said, y, threshold)
    found = judge(metric, answers, threshold, rng)
    return {
        **start,
        **found.to_json(server.schema.labels),
        "devices": _of_devices(
            server.witness,
            progress.window,
            lambda device, rows: part_of(device, answers.part(rows), metric).to_json(),
        ),
        "groups": [
            attribute_of(name, answers, members(server.schema, name, x), metric).to_json()
            for name in server.scenario.report.groups
        ],
    }


def confidence_calibration(schema: Schema, judged: Rows, file: ChosenFile) -> ConfidenceCalibration | None:
    """How often a published file's answers of each confidence are right, on the first rows that are judged by.

    Args:
        schema: names the classes.
        judged: rows with labels that this side judges by; may be empty.
        file: of the version.

    Returns:
        None for numbers, without labelled rows, and for a file that does not answer in finite numbers.
    """
    x, y = judged
    if not len(y) or not schema.classes:
        return None
    said = file.answers(x[:MOST_CALIBRATION_ROWS])
    if not np.isfinite(said).all():
        return None
    answers = Answers.of(said, y[: len(said)], None if file.threshold == EVEN else file.threshold)
    channel = next(each for each in report_channels(schema.classes) if each.name == CONFIDENCE)
    return calibrate_confidence(channel, Outputs(answers.chosen, answers.probabilities), answers.y)


def _own_numbers(
    metric: Metric, predicted: npt.NDArray[Any], y: npt.NDArray[Any], device: DeviceId, rows: slice
) -> Json:
    return part_of_numbers(device, metric, predicted[rows], y[rows])


def _of_devices(witness: Witness | None, window: int, figures: Callable[[DeviceId, slice], Json]) -> list[Json]:
    """Figures per device; a deployment does not know whose rows are whose."""
    counts = {} if witness is None else witness.held_out(window)
    if not 0 < len(counts) <= MOST_DEVICES:
        return []
    places = owners(list(counts), list(counts.values()))
    return [figures(device, rows) for device, rows in places.items()]


def members(schema: Schema, name: str, x: npt.NDArray[Any]) -> Mapping[str, npt.NDArray[np.bool_]]:
    """Which rows belong to each group of a column.

    Args:
        schema: describes the column.
        name: of an input column.
        x: raw rows, float32 (n, width).

    Returns:
        By category, or by quarter of the public range (of the steps between its breaks, where it has some); the last
        group are rows without a value.
    """
    place = next(number for number, column in enumerate(schema.columns) if column.name == name)
    column, values = schema.columns[place], x[:, place]
    missing = np.isnan(values)
    match column:
        case Categorical():
            found = {category: values == number for number, category in enumerate(column.categories)}
        case Numeric():
            edges = column.at(np.linspace(0.0, 1.0, QUARTERS + 1))
            quarter = np.searchsorted(edges[1:-1], np.where(missing, column.low, values), side="right")
            names = [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
            found = {text: (quarter == number) & ~missing for number, text in enumerate(names)}
        case Text():
            found = {}
        case _:
            assert_never(column)
    return {**found, "missing": missing}


def window_score(witness: Witness | None, metric: Metric, progress: Progress) -> float | None:
    """The metric of the task on all devices' rows of a window; only a simulation knows their labels.

    Args:
        witness: of a simulation.
        metric: of the task.
        progress: of the run; its newest version is judged.

    Returns:
        None where it is not known or not defined.
    """
    if witness is None or progress.newest is None:
        return None
    x, y = witness.stream(progress.window)
    if not len(y):
        return None
    said = progress.newest.answers(x)
    if metric.of_numbers:
        return number_score(metric, said[:, 0], y)
    threshold = None if progress.newest.threshold == EVEN else progress.newest.threshold
    return Answers.of(said, y, threshold).score(metric)


def pooled_figures(server: Server, progress: Progress) -> Json:
    """The same model trained on all training rows in one place, without noise: how much privacy and distance cost.

    Args:
        server: wiring of the run.
        progress: of the run; nothing of it is changed.

    Returns:
        For run.json; empty where it is not wanted, not known or would take long.
    """
    wanted = server.scenario.report.pooled and server.trainer.size <= MOST_POOLED_NUMBERS
    if server.witness is None or not wanted:
        return {}
    from fedinfer.training import PooledTask, pooled_weights

    started, (x, y) = server.clock.seconds(), server.judged(progress.window)
    task = PooledTask(server.schema, server.scenario.training)
    train_x, train_y = server.witness.training(progress.window)
    weights = pooled_weights(server.trainer, task, train_x, train_y, server.generator("pooled"))
    predicted = server.trainer.predict(weights, x)
    start = {"rows": len(train_y), "seconds": server.clock.seconds() - started}
    if server.judged_by.metric.of_numbers:
        scores = number_scores(predicted[:, 0], y)
        return {"value": scores.get(str(server.judged_by.metric)), "scores": scores, **start}
    asked, public = server.scenario.training.threshold, server.public
    threshold = None if asked == EVEN else asked
    if isinstance(threshold, str):  # the pooled model knows the rows of all: what a private choice asks of them
        seen_x, seen_y = public if threshold == "public" else (train_x, train_y)
        threshold = best_threshold(server.judged_by.metric, server.trainer.predict(weights, seen_x), seen_y)
    answers = Answers.of(predicted, y, threshold)
    return {"value": answers.score(server.judged_by.metric), "scores": answers.scores(), **start}
