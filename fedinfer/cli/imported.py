"""What the commands of `fedinfer artifact` do with the folder of an imported model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedinfer.cli.labelled import has_label, read_labelled, read_model_rows
from fedinfer.config import ArtifactSection
from fedinfer.manifest import Privacy
from fedinfer.system import SystemClock, simulation_rng
from fedinfer.types import Json

if TYPE_CHECKING:
    from fedinfer.artifact import Evidence, Imported
    from fedinfer.simulation import Prepared

SYNTHETIC_ROWS, LEAST_ROWS = 256, 16
ROW_VALUES = 2**22
"""Values of all drawn rows together, where that leaves enough of them."""


def is_imported_folder(path: Path) -> bool:
    """Whether a path is a folder that `fedinfer artifact import` wrote.

    Args:
        path: that somebody named.
    """
    from fedinfer.artifact import is_imported

    return is_imported(path)


def describe_folder(path: Path) -> Json:
    """What an imported model is, after it was tried again.

    Args:
        path: its folder.

    Raises:
        ConfigError, GateFailed, ArtifactRejected: as `load_imported`.
    """
    from fedinfer.artifact import describe_imported, load_imported

    return describe_imported(load_imported(path, SystemClock(), simulation_rng("import")))


def quantize_imported(
    folder: Path, out: Path, rows: Path | None, calibration: Path | None, settings: ArtifactSection,
    privacy: Privacy, version: int,
) -> Json:  # fmt: skip
    """Build an imported model, confined: the quantization that passes the gates, or the model as it is.

    Args:
        folder: of the imported model.
        out: folder for the build.
        rows: held-out rows, with labels where the answers are classes or one number; None: none.
        calibration: public rows; None: drawn from the public ranges.
        settings: limits and the wanted quantization.
        privacy: what is said of the training data.
        version: number of the build, >= 1.

    Returns:
        Figures of the build; `note` says why the model was not quantized, where it was not.

    Raises:
        ConfigError, GateFailed, ArtifactRejected: as `load_imported` and `build_confined`.
        DataError: rows that are not of the model.
    """
    from fedinfer.artifact import build_confined, load_imported, save_version

    clock = SystemClock()
    imported = load_imported(folder, clock, simulation_rng("import"))
    built = build_confined(imported, version, _evidence(imported, rows, calibration), settings, privacy, clock)
    save_version(out, built.manifest, built.files, built.figures)
    figures = {"folder": str(out), **built.figures, "outputs": built.outputs}
    return {"note": built.note, **figures} if built.note else figures


def _evidence(imported: Imported, rows: Path | None, calibration: Path | None) -> Evidence:
    """Rows to judge with: those of the files, else drawn ones."""
    from fedinfer.artifact import Evidence

    schema = imported.schema
    nothing = (np.empty((0, schema.width), np.float32), np.empty(0, np.int64))
    held_x, held_y = read_labelled(rows, schema) if rows and not schema.answers else nothing
    public = read_model_rows(calibration, schema) if calibration else nothing[0]
    drawn = public if len(public) >= 2 else _drawn(imported)
    return Evidence(held_x, held_y, np.ascontiguousarray(drawn[:SYNTHETIC_ROWS]), public)


def prepare_imported(
    folder: Path, rows: Path, calibration: Path | None, overrides: Sequence[str], devices: int | None, seed: int | None
) -> Prepared:
    """A simulation of an imported model on the rows of a file.

    Args:
        folder: of the imported model.
        rows: file of rows, with a label column (or an array of that name) where labels are known.
        calibration: public rows by which it is quantized; None: drawn from the public ranges.
        overrides: texts `section.key=value`.
        devices: simulated; None: 50.
        seed: of everything random; None: that of the scenario.

    Raises:
        ConfigError, DataError, GateFailed: the folder, the rows or an override is wrong.
    """
    from fedinfer.artifact import load_imported
    from fedinfer.simulation import given_scenario, prepare_given, settings_of

    clock = SystemClock()
    imported = load_imported(folder, clock, simulation_rng("import"))
    seeds = [] if seed is None else [f"scenario.seed={seed}"]
    scenario = given_scenario(imported.declaration.name, devices, [*settings_of(imported), *overrides, *seeds])
    x, y = _rows_and_labels(rows, imported)
    if calibration is not None:
        imported = replace(imported, public=read_model_rows(calibration, imported.schema))
    return prepare_given(imported, x, y, scenario, clock)


def _rows_and_labels(path: Path, imported: Imported) -> tuple[Any, Any]:
    """Rows, and their labels where the file has any; tensors have none."""
    schema = imported.schema
    if not schema.answers and has_label(path, schema):
        return read_labelled(path, schema)
    return read_model_rows(path, schema), None


def _drawn(imported: Imported) -> Any:
    from fedinfer.artifact import synthetic_rows

    count = max(LEAST_ROWS, min(SYNTHETIC_ROWS, ROW_VALUES // imported.schema.width))
    return synthetic_rows(imported.schema, count, simulation_rng("calibration"))
