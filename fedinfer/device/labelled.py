"""What labels that came later say about answers: metric and calibration, from sums that hold no row.

Classes: answers are put into `BINS` bins of even width by the probability of the class that was answered (Naeini,
Cooper, Hauskrecht 2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning", section 2: expected
calibration error), and counted by right and answered class: accuracy praises a model that never finds a rare one.
Numbers: errors, and how many labels lie in the interval that was answered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fedinfer.errors import DataError
from fedinfer.inference import Naming
from fedinfer.metrics import confusion, f1_of, mean_recall, recalls
from fedinfer.reading import LARGEST, Spellings
from fedinfer.schema import Schema
from fedinfer.types import FloatVector, Json

BINS = 10
Sums = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LabelFigures:
    """What labels say about the answers of one version.

    Args:
        rows: with a label.
        metric: name of the figure, `accuracy` or `rmse`.
        value: of the figure; in the unit of the label for numbers.
        calibration: `calibration_error`, or `coverage` of the intervals for numbers.
        calibration_value: in [0, 1].
        found: of classes, from labels whose class was counted: `balanced_accuracy`, `f1` (of the last of two classes,
            else the mean) and `recall NAME` of every class that occurs; empty where nothing is known.
    """

    rows: int
    metric: str
    value: float
    calibration: str
    calibration_value: float
    found: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> Json:
        """For people and programs; without labels the figures are null."""
        value, calibration = (None if math.isnan(x) else round(x, 6) for x in (self.value, self.calibration_value))
        more = {name: round(figure, 6) for name, figure in self.found.items()}
        return {"rows": self.rows, self.metric: value, **more, self.calibration: calibration}


def class_sums(chosen: npt.NDArray[np.int64], raw: FloatVector, truth: npt.NDArray[np.int64]) -> Sums:
    """Sums of some answers and their labels.

    Args:
        chosen: class numbers that were answered, (n,).
        raw: probabilities, (n, classes).
        truth: right class numbers, (n,).

    Returns:
        (3 * BINS + classes^2,): rows, sum of the probabilities of the answered class, right answers, of each bin of
        that probability; then rows by right class and answered class.
    """
    confidence = np.clip(np.take_along_axis(raw, chosen[:, None], axis=1)[:, 0].astype(np.float64), 0.0, 1.0)
    places = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    weights = (np.ones(len(places)), confidence, (chosen == truth).astype(np.float64))
    binned = [np.bincount(places, weight, BINS) for weight in weights]
    return np.concatenate([*binned, confusion(chosen, truth, raw.shape[1]).ravel()])


def number_sums(naming: Naming, raw: FloatVector, truth: npt.NDArray[np.float64]) -> Sums:
    """Sums of some answers and their labels.

    Args:
        naming: of the model.
        raw: values, (n, 1).
        truth: right values, (n,).

    Returns:
        (3,): rows, sum of squared errors, labels within the interval that was answered.
    """
    values, ends = raw[:, 0].astype(np.float64), naming.around(raw[:, 0])
    inside = (ends[:, 0] <= truth) & (truth <= ends[:, 1])
    return np.array([len(values), float(((values - truth) ** 2).sum()), float(inside.sum())])


def figures_of(sums: Sums, schema: Schema) -> LabelFigures:
    """Metric and calibration.

    Args:
        sums: of `class_sums` or `number_sums`; those of earlier releases, without counts by class, too.
        schema: of the model.
    """
    if schema.label_range is not None:
        rows, squares, inside = sums.ravel().tolist()
        known = rows > 0
        value, covered = (math.sqrt(squares / rows), inside / rows) if known else (math.nan, math.nan)
        return LabelFigures(int(rows), "rmse", value, "coverage", covered)
    rows_of, confidence, right = sums[: 3 * BINS].reshape(3, BINS)
    rows = float(rows_of.sum())
    if not rows:
        return LabelFigures(0, "accuracy", math.nan, "calibration_error", math.nan)
    error = float(np.abs(right - confidence).sum() / rows)
    found = _found(np.asarray(sums[3 * BINS :]), int(rows), schema)
    return LabelFigures(int(rows), "accuracy", float(right.sum() / rows), "calibration_error", error, found)


def _found(counts: Sums, rows: int, schema: Schema) -> dict[str, float]:
    """Figures that say what becomes of a rare class; none where some rows were not counted by class."""
    if len(counts) != schema.classes**2 or counts.sum() != rows:
        return {}
    table = counts.astype(np.int64).reshape(schema.classes, schema.classes)
    named = zip(schema.labels, recalls(table).tolist(), strict=True)
    each = {f"recall {name}": value for name, value in named if not math.isnan(value)}
    return {"balanced_accuracy": mean_recall(table), "f1": f1_of(table), **each}


def truth_of(labels: Sequence[object], schema: Schema) -> npt.NDArray[np.int64] | npt.NDArray[np.float64]:
    """Labels as a client writes them.

    Args:
        labels: class names, or numbers that float32 holds where the label is one (their squares can be added up for
            ever); untrusted.
        schema: of the model.

    Returns:
        Class numbers, int64 (n,), or values, float64 (n,).

    Raises:
        DataError: names the place and the rule.
    """
    if schema.label_range is not None:
        wrong = next((place for place, label in enumerate(labels) if not _is_number(label)), None)
        if wrong is not None:
            raise DataError(f"label {wrong} is {str(labels[wrong])[:60]!r}, expected a finite number of float32")
        return np.array(labels, np.float64)
    spellings = Spellings(schema.labels, schema.reading.of_column(schema.label))
    places = [spellings.place(label) if isinstance(label, str) else None for label in labels]
    if None in places:
        place = places.index(None)
        raise DataError(
            f"label {place} is {str(labels[place])[:60]!r}, which is no label",
            hint=f"labels are {', '.join(schema.labels[:20])}",
        )
    return np.array(places, np.int64)


def _is_number(label: object) -> bool:
    return isinstance(label, int | float) and not isinstance(label, bool) and abs(label) <= LARGEST
