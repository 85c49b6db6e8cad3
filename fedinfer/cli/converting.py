"""`fedinfer artifact convert`: a model of another Python library, converted, compared, and described in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from fedinfer.cli.described import print_described
from fedinfer.cli.importing import NUMPY, Ranges, labels_of, model_name, names_of, ranges_of, read_numpy
from fedinfer.cli.output import JsonOption, errors_to_exit
from fedinfer.errors import DataError
from fedinfer.reading import DEFAULT_RULES, plain_numbers, read_file
from fedinfer.system import SystemClock, simulation_rng
from fedinfer.types import Json

if TYPE_CHECKING:
    from fedinfer.artifact import Wishes


def convert_command(
    source: Annotated[str, typer.Argument(help="module:object, or a file of XGBoost, LightGBM or joblib")],
    rows: Annotated[Path, typer.Option(help="public rows as the model takes them: CSV, .npy or .npz; 8 at least")],
    out: Annotated[Path, typer.Option("--out", "-o", help="folder to write: model.toml and model.onnx")],
    name: Annotated[str, typer.Option(help="of the task; default: from the source's name")] = "",
    task: Annotated[str, typer.Option(help="classification, regression, scores or tensors")] = "",
    labels: Annotated[str, typer.Option(help="names of classes or scores: a file with one per line, or A,B,...")] = "",
    label: Annotated[str, typer.Option(help="column of labelled tables that holds the label; no input")] = "label",
    columns: Annotated[str, typer.Option(help="names of the values of the only input: A,B,...")] = "",
    ranges: Ranges = None,
    unsafe_load: Annotated[
        bool, typer.Option("--unsafe-load", help="load a pickle: it may run any program of its maker")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Convert a model of scikit-learn, XGBoost, LightGBM, torch or Stable-Baselines3 and compare it with its source."""
    with errors_to_exit():
        from fedinfer.artifact import Wishes, load_source, task_of

        wishes = Wishes(
            task=task_of(task), labels=labels_of(labels), ranges=ranges_of(ranges), columns=names_of(columns)
        )
        examples = read_examples(rows, label)
        model = load_source(source, trusted=unsafe_load)
        described = _convert(model, examples, out, name or _name_of(source), label, wishes)
    print_described(described, as_json)


def read_examples(path: Path, label: str) -> Any:
    """Example rows of a file: an array, arrays by name, or columns by name; a column of numbers is float64.

    Args:
        path: .npy, .npz or a table.
        label: column that is no input.

    Raises:
        ConfigError, DataError: it cannot be read.
    """
    if path.suffix not in NUMPY:
        table = read_file(path, DEFAULT_RULES)
        return {name: _column(table, name) for name in table.columns if name != label}
    return read_numpy(path)


def _column(table: Any, name: str) -> Any:
    try:
        return plain_numbers(table, name, DEFAULT_RULES)
    except DataError:
        return np.array([str(cell) for cell in table.columns[name]], object)


def _name_of(source: str) -> str:
    return model_name(source if ":" in source else Path(source).stem)


def _convert(model: Any, rows: Any, out: Path, name: str, label: str, wishes: Wishes) -> Json:
    from fedinfer.artifact import describe_imported, imported_from, save_imported

    imported = imported_from(model, rows, name, label, wishes, SystemClock(), simulation_rng("import"))
    save_imported(out, imported)
    return {"folder": str(out), **describe_imported(imported)}
