"""What the commands of `fedinfer artifact` do with the folder of an imported model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedinfer.cli.labelled import has_label, read_labelled, read_model_rows
from fedinfer.config import ArtifactSection
from fedinfer.manifest import Privacy
from fedinfer.system import SystemClock, simulation_rng
from fedinfer.types import Json

if TYPE_CHECKING:
    from fedinfer.artifact import Built, Imported
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
    """Build an imported model: the quantization that passes the gates, or the model as it is.

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
        ConfigError, GateFailed, ArtifactRejected: as `load_imported` and `build_from_core`.
    """
    from fedinfer.artifact import load_imported, save_build

    imported = load_imported(folder, SystemClock(), simulation_rng("import"))
    built = build_imported(imported, rows, calibration, settings, version)
    save_build(out, built, privacy, SystemClock().now().isoformat(timespec="seconds"))
    figures = {"folder": str(out), **built.to_json(), "outputs": output_errors(imported, built, calibration)}
    note = "" if built.chosen.name == "int8" else _why_not(imported, built, settings)
    return {"note": note, **figures} if note else figures


def build_imported(
    imported: Imported, rows: Path | None, calibration: Path | None, settings: ArtifactSection, version: int
) -> Built:
    """As `quantize_imported`, without writing anything.

    Args:
        imported: the model.
        rows: held-out rows; None: none.
        calibration: public rows; None: drawn.
        settings: limits and the wanted quantization.
        version: number of the build, >= 1.

    Raises:
        GateFailed: not even the model as it is keeps the limits.
        DataError: rows that are not of the model.
    """
    from dataclasses import replace

    from fedinfer.artifact import Evidence, build_from_core

    schema = imported.schema
    nothing = (np.empty((0, schema.width), np.float32), np.empty(0, np.int64))
    held_x, held_y = read_labelled(rows, schema) if rows and not schema.answers else nothing
    public = read_model_rows(calibration, schema) if calibration else nothing[0]
    drawn = public if len(public) >= 2 else _drawn(imported)
    evidence = Evidence(held_x, held_y, np.ascontiguousarray(drawn[:SYNTHETIC_ROWS]), public)
    if imported.facts.quantized:
        settings = settings.model_copy(update={"quantization": "float"})
    built = build_from_core(imported.core, imported.head(version), evidence, settings, SystemClock())
    return replace(built, way="imported")


def prepare_imported(
    folder: Path, rows: Path, overrides: Sequence[str], devices: int | None, seed: int | None
) -> Prepared:
    """A simulation of an imported model on the rows of a file.

    Args:
        folder: of the imported model.
        rows: file of rows, with a label column (or an array of that name) where labels are known.
        overrides: texts `section.key=value`.
        devices: simulated; None: 50.
        seed: of everything random; None: that of the scenario.

    Raises:
        ConfigError, DataError, GateFailed: the folder, the rows or an override is wrong.
    """
    from fedinfer.artifact import load_imported
    from fedinfer.simulation import given_scenario, prepare_given

    clock = SystemClock()
    imported = load_imported(folder, clock, simulation_rng("import"))
    seeds = [] if seed is None else [f"scenario.seed={seed}"]
    scenario = given_scenario(imported.declaration.name, devices, [*overrides, *seeds])
    x, y = _rows_and_labels(rows, imported)
    return prepare_given(imported, x, y, scenario, clock)


def _rows_and_labels(path: Path, imported: Imported) -> tuple[Any, Any]:
    """Rows, and their labels where the file has any; tensors have none."""
    schema = imported.schema
    if not schema.answers and has_label(path, schema):
        return read_labelled(path, schema)
    return read_model_rows(path, schema), None


def output_errors(imported: Imported, built: Built, calibration: Path | None) -> list[Json]:
    """How far the chosen file is off for each answered tensor, as a part of its range.

    Args:
        imported: the model.
        built: its build.
        calibration: public rows; None: drawn ones.

    Returns:
        For each tensor its name, root mean square and largest error against the model as it is; empty for classes and
        one number, whose agreement is in the figures.
    """
    from fedinfer.artifact import finish

    schema = imported.schema
    if not schema.answers:
        return []
    from fedinfer.inference import Predictor
    from fedinfer.tensors import places

    rows = read_model_rows(calibration, schema) if calibration else _drawn(imported)
    as_is = Predictor.open(finish(imported.core, built.head)).predict_matrix(rows).raw
    chosen = Predictor.open(built.files[built.chosen.name]).predict_matrix(rows).raw
    low, high = schema.ranges()
    off = np.abs(chosen.astype(np.float64) - as_is) / (high - low)
    return [
        {"name": name, "rms_error": float(np.sqrt((off[:, at] ** 2).mean())), "largest_error": float(off[:, at].max())}
        for name, at in places(schema.answers).items()
    ]


def _drawn(imported: Imported) -> Any:
    from fedinfer.artifact import synthetic_rows

    count = max(LEAST_ROWS, min(SYNTHETIC_ROWS, ROW_VALUES // imported.schema.width))
    return synthetic_rows(imported.schema, count, simulation_rng("calibration"))


def _why_not(imported: Imported, built: Built, settings: ArtifactSection) -> str:
    if imported.facts.quantized:
        return "the model works on 8-bit integers already and is pushed as it is"
    if settings.quantization == "float":
        return ""
    reasons = [f"{figures.recipe}: {', '.join(figures.failures)}" for figures in built.tried if figures.failures]
    what = "as it is" if built.chosen.name == "float" else "with 16-bit weights"
    return f"not quantized to 8 bits, pushed {what}: " + ("; ".join(reasons) or "no scheme is known for its operators")
