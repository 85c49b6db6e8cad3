"""`fedinfer device label` and `device windows`: what a device predicts in the field, and what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from fedinfer.cli.labelled import labels_of, read_rows_file
from fedinfer.cli.output import JsonOption, a_number, errors_to_exit, print_json, stdout
from fedinfer.device import PredictionLog, PredictionWindow, Recorder, WindowRule, figures_of
from fedinfer.errors import ConfigError, DataError, NoModel
from fedinfer.inference import Installed, SessionCache, Slots, open_installed
from fedinfer.reading import RawTable
from fedinfer.system import SystemClock
from fedinfer.types import Json

REQUEST = "request"
"""Column that names the request a label belongs to."""
HOUR_SECONDS = 3600.0
Store = Annotated[Path, typer.Option("--store", help="folder of this device's model")]


def label(
    store: Store,
    file: Annotated[
        Path, typer.Argument(help="table with the label column, and the input columns or a column `request`")
    ],
    as_json: JsonOption = False,
) -> None:
    """Take labels that came later: of the rows in the file, or of requests that were answered with an id.

    They count in the window that is open now, where a run watches errors.
    """
    with errors_to_exit():
        installed, log = _installed(store), PredictionLog.open(store, SystemClock())
        found = _labelled(installed, Recorder(log), read_rows_file(file, installed.manifest.schema))
    if as_json:
        print_json(found)
        return
    for key, value in found.items():
        stdout.print(f"{key.replace('_', ' '):28s} {value}", markup=False, highlight=False)


def windows(
    store: Store,
    rows: Annotated[int | None, typer.Option("--rows", min=1, help="close windows at so many predictions")] = None,
    hours: Annotated[
        float | None, typer.Option("--hours", callback=a_number, help="close a window after so many hours")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Counts of what this device predicted, window by window, and what labels say; they stay on the device."""
    with errors_to_exit():
        if not (store / "slots").is_dir():
            raise ConfigError(f"{store}: no device store", hint="fedinfer device install --store DIR ...")
        log = PredictionLog.open(store, SystemClock())
        before = log.rule()
        seconds = before.seconds if hours is None else hours * HOUR_SECONDS
        rule = WindowRule(before.rows if rows is None else rows, seconds)
        if rule != before:
            log.set_rule(rule)
        found, labelled, unusual = log.windows(), _figures(store, log), _unusual(store)
    if as_json:
        rule_json = {"rows": rule.rows, "hours": rule.seconds / HOUR_SECONDS}
        listed = [_window_json(each) for each in found]
        print_json({"rule": rule_json, "windows": listed, "labelled": labelled, "unusual": list(unusual)})
        return
    stdout.print(f"a window closes at {rule.rows} predictions or after {rule.seconds / HOUR_SECONDS:g} hours")
    for each in found:
        state = "open" if each.closed is None else "reported" if each.reported else "closed"
        counts = ", ".join(f"{name} {_counts(values)}" for name, values in each.counts.items())
        with_labels = f" and labels of {each.labelled}" if each.labelled else ""
        head = f"{each.number} (version {each.version}, {state}): {each.rows} rows{with_labels}"
        stdout.print(f"{head}, {counts}", markup=False, highlight=False)
    for version, figures in labelled.items():
        facts = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items())
        stdout.print(f"labels of version {version}: {facts}", highlight=False)
    if unusual:
        names = ", ".join(unusual)
        stdout.print(
            f"unusual, compared with the first windows of this version: {names}", markup=False, highlight=False
        )


def _labelled(installed: Installed, recorder: Recorder, table: RawTable) -> Json:
    schema, predictor = installed.manifest.schema, installed.predictor
    if REQUEST not in table.columns or REQUEST in [column.name for column in schema.columns]:
        answers, truth = predictor.predict(table), labels_of(table, schema)
        return recorder.label_rows(installed.info.version, answers, truth, schema).to_json()
    truth, requests = labels_of(table, schema), np.array(table.columns[REQUEST], object)
    names = schema.labels
    figures: Json = {}
    for request in dict.fromkeys(requests.tolist()):
        own = truth[requests == request].tolist()
        labels = own if schema.label_range is not None else [names[place] for place in own]
        figures = recorder.label(request, labels, schema, predictor.naming).to_json()
    if not figures:
        raise DataError(f"{table.name} has no rows")
    return figures


def _installed(store: Path) -> Installed:
    if not (store / "slots").is_dir():
        raise ConfigError(f"{store}: no device store", hint="fedinfer device install --store DIR ...")
    return open_installed(Slots(store / "slots"), SessionCache(1))


def _figures(store: Path, log: PredictionLog) -> Json:
    """What labels say about each version, for a store that still has a model."""
    try:
        schema = _installed(store).manifest.schema
    except NoModel:
        return {}
    return {str(version): figures_of(sums, schema).to_json() for version, sums in log.labels().items()}


def _unusual(store: Path) -> tuple[str, ...]:
    """What the device's own test names, for a store that still has a model."""
    try:
        schema = _installed(store).manifest.schema
    except NoModel:
        return ()
    from fedinfer.deployment import unusual_inputs

    return unusual_inputs(store, schema)


def _window_json(window: PredictionWindow) -> Json:
    return {
        "number": window.number,
        "version": window.version,
        "rows": window.rows,
        "opened": window.opened,
        "closed": window.closed,
        "reported": window.reported,
        "labelled": window.labelled,
        "counts": {name: values.tolist() for name, values in window.counts.items()},
    }


def _counts(values: np.ndarray) -> str:
    return " ".join(f"{value:g}" for value in values)
