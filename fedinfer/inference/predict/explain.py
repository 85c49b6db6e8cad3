"""Which columns carried a decision: occlusion against a reference row, on the device, in batches.

The attribution of column j is the drop of the predicted class's probability when the row's value of j is replaced by
the reference's: p(c | x) - p(c | x with x_j := r_j), in [-1, 1]. Positive = the value spoke for the class. Occlusion is
the one-at-a-time case of removal-based explanation (Covert, Lundberg, Lee 2021, "Explaining by Removing", section 4);
it is exact for what it says, and does not share out the effect of columns that act only together. In a text the words
take the place of columns: one after the other is replaced by no word; in an image patches do, in a series spans of
time (`patches`). Of a number the attribution is the change of the value, in its unit; of scores and tensors, that of
the one that lies highest in its range.

An additive model needs no replacing: the graph says what each of its terms adds, and the terms with the intercept add
up to the answer. Of classes that is the margin of the answered class: its logit minus the mean logit of the others, for
two classes the log-odds. Of a number it is the value in its unit, before it is clipped to its range.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedinfer.errors import DataError
from fedinfer.inference.predict.patches import patches_of
from fedinfer.inference.predict.predictor import Predictor, Rows
from fedinfer.inference.predict.rows import FloatArray
from fedinfer.manifest import Manifest
from fedinfer.schema import Categorical, Text
from fedinfer.text import NOTHING, column_of, pieces

MOST_ROWS, MOST_VALUES = 65_536, 2**22
"""Rows, and values of images and tensors, given to the model in one run, which bounds the memory."""


@dataclass(frozen=True, slots=True)
class Explanations:
    """Attributions of many rows.

    Args:
        columns: names of the columns; of a text "word 1", "word 2" and so on; of images and tensors, of their patches.
        classes: explained class number of each row, int64 (rows,); 0 for numbers; of scores and tensors the place of
            the explained value.
        attributions: float32 (rows, columns): differences of probabilities, each in [-1, 1]; of numbers differences of
            values; of an additive model summands. 0 behind the end of a text.
        words: the words of each text as they are written; empty for tables.
        intercepts: of an additive model, (rows,) float32: attributions and intercept of a row add up to its margin or
            value; None for other models, whose attributions do not add up.
    """

    columns: tuple[str, ...]
    classes: npt.NDArray[np.int64]
    attributions: FloatArray
    words: tuple[tuple[str, ...], ...] = ()
    intercepts: FloatArray | None = None

    def strongest(self, row: int, count: int) -> tuple[tuple[str, float], ...]:
        """The columns or words with the largest absolute attribution of one row, strongest first.

        Args:
            row: its number.
            count: how many; fewer where the row has fewer columns or words.

        Returns:
            (name, attribution) of each.
        """
        names = self.words[row] if self.words else self.columns
        values = self.attributions[row, : len(names)]
        order = np.argsort(-np.abs(values), kind="stable")[:count]
        return tuple((names[place], float(values[place])) for place in order)


def reference_row(manifest: Manifest) -> Rows:
    """A typical row from the manifest's check rows, which are public or synthetic.

    Numeric columns take the median, categorical ones the most frequent index; a column without any value is NaN. For a
    text the reference is what stands for no word.

    Args:
        manifest: with schema and check rows.

    Returns:
        float32 (width,); for a text object (1,).
    """
    if manifest.schema.text is not None:
        return column_of([NOTHING]).reshape(1)
    rows = manifest.check_matrix()
    reference = np.full(manifest.schema.width, np.nan, np.float32)
    columns = manifest.schema.columns or (None,) * manifest.schema.width
    for place, column in enumerate(columns):
        values = rows[:, place][~np.isnan(rows[:, place])]
        if values.size and isinstance(column, Categorical):
            reference[place] = np.bincount(values.astype(np.int64)).argmax()
        elif values.size:
            reference[place] = np.median(values)
    return reference


def explain(predictor: Predictor, matrix: Rows, reference: Rows) -> Explanations:
    """Explain the class that is answered for every row.

    Args:
        predictor: the model.
        matrix: rows checked by `predictor.reader.matrix`, float32 (n, width) or texts (n, 1).
        reference: float32 (width,), NaN = missing, or for texts (1,); see `reference_row`.

    Raises:
        DataError: a reference of another width.
        GateFailed: when the model fails or answers NaN or infinity.
    """
    if predictor.terms:
        return _explain_terms(predictor, matrix)
    if predictor.schema.text is not None:
        return _explain_texts(predictor, matrix, str(reference[0]), predictor.schema.text)
    width = predictor.schema.width
    if reference.shape != (width,):
        raise DataError(f"reference of shape {reference.shape}, expected ({width},)")
    if not predictor.schema.columns:
        return _explain_patches(predictor, matrix, reference)
    classes = np.empty(len(matrix), np.int64)
    attributions = np.empty((len(matrix), width), np.float32)
    step = max(1, MOST_ROWS // (width + 1))
    for start in range(0, len(matrix), step):
        part = slice(start, start + step)
        classes[part], attributions[part] = _explain_part(predictor, matrix[part], reference)
    return Explanations(predictor.reader.names, classes, attributions)


def _explain_terms(predictor: Predictor, matrix: FloatArray) -> Explanations:
    names, outputs = tuple(" x ".join(columns) for columns in predictor.terms), predictor.schema.outputs
    classes, sums = np.zeros(len(matrix), np.int64), np.empty((len(matrix), len(names) + 1), np.float32)
    step = max(1, MOST_ROWS // (len(names) + 1))
    for start in range(0, len(matrix), step):
        part = slice(start, start + step)
        found = predictor.contributions(matrix[part])
        classes[part] = found.sum(axis=1).argmax(axis=1)
        own = np.take_along_axis(found, classes[part, None, None], axis=2)[:, :, 0]
        others = (found.sum(axis=2) - own) / (outputs - 1) if outputs > 1 else 0.0
        sums[part] = own - others
    return Explanations(names, classes, sums[:, :-1], intercepts=sums[:, -1])


def _explain_texts(predictor: Predictor, matrix: Rows, nothing: str, column: Text) -> Explanations:
    words = tuple(tuple(pieces(text, column.length)) for text in matrix[:, 0])
    classes, attributions = np.empty(len(words), np.int64), np.zeros((len(words), column.length), np.float32)
    for row, found in enumerate(words):
        changed = [" ".join((*found[:place], nothing, *found[place + 1 :])) for place in range(len(found))]
        answers = predictor.predict_matrix(column_of([" ".join(found), *changed])).raw
        classes[row] = predictor.naming.decide(answers[:1])[0]
        attributions[row, : len(found)] = answers[0, classes[row]] - answers[1:, classes[row]]
    names = tuple(f"word {place}" for place in range(1, column.length + 1))
    return Explanations(names, classes, attributions, words)


def _explain_patches(predictor: Predictor, matrix: FloatArray, reference: FloatArray) -> Explanations:
    patches = patches_of(predictor.schema)
    classes, attributions = np.empty(len(matrix), np.int64), np.empty((len(matrix), len(patches)), np.float32)
    step = max(1, min(MOST_ROWS, MOST_VALUES // matrix.shape[1]) - 1)
    for row, values in enumerate(matrix):
        before = predictor.predict_matrix(values[None]).raw
        classes[row] = place = _explained(predictor, before)
        for start in range(0, len(patches), step):
            part = patches[start : start + step]
            changed = np.repeat(values[None], len(part), axis=0)
            for copy, patch in zip(changed, part, strict=True):
                copy[patch.places] = reference[patch.places]
            after = predictor.predict_matrix(changed).raw[:, place]
            attributions[row, start : start + len(part)] = before[0, place] - after
    return Explanations(tuple(patch.name for patch in patches), classes, attributions)


def _explained(predictor: Predictor, answer: FloatArray) -> int:
    """Which value of an answer (1, outputs) is explained."""
    schema = predictor.schema
    if not schema.answers:
        return 0 if schema.label_range is not None else int(predictor.naming.decide(answer)[0])
    low, high = schema.ranges()
    told = np.concatenate([np.full(tensor.size, not tensor.feeds) for tensor in schema.answers])
    return int(np.where(told, (answer[0] - low) / (high - low), -np.inf).argmax())


def _explain_part(
    predictor: Predictor, matrix: FloatArray, reference: FloatArray
) -> tuple[npt.NDArray[np.int64], FloatArray]:
    count, width = matrix.shape
    changed = np.repeat(matrix, width + 1, axis=0).reshape(count, width + 1, width)
    places = np.arange(width)
    changed[:, places + 1, places] = reference  # copy 0 stays as it is
    answers = predictor.predict_matrix(changed.reshape(-1, width)).raw.reshape(count, width + 1, -1)
    classes = predictor.naming.decide(answers[:, 0])
    of_class = np.take_along_axis(answers, classes[:, None, None], axis=2)[:, :, 0]
    return classes, of_class[:, :1] - of_class[:, 1:]
