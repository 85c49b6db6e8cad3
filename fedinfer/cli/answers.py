"""Answers of a model as lines of CSV or JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from fedinfer.cli.spreadsheet import csv_text
from fedinfer.tensors import TensorSpec, total
from fedinfer.types import Json

if TYPE_CHECKING:
    from fedinfer.inference import Explanations, Naming, Predictions

MOST_FIELDS = 64
"""Values of answered tensors that get a field of their own; with more, a tensor is one field."""
REASONS = 3
"""Columns named as reasons beside a prediction."""


def answer_fields(naming: Naming) -> tuple[str, ...]:
    """Names of the fields of a line, in order.

    Args:
        naming: says whether the model answers a number or tensors, and whether its interval is known.
    """
    if naming.bounds is None:
        return ("row", "label", "confidence")
    if naming.tensors:
        told = _told(naming)
        single = total(told) <= MOST_FIELDS
        return ("row", *(name for tensor in told for name in (tensor.value_names() if single else (tensor.name,))))
    return ("row", "value", "low", "high") if naming.interval else ("row", "value")


def answer_lines(answers: Predictions, *, nested: bool = False) -> Iterator[Json]:
    """One object per row.

    Args:
        answers: classes, numbers in the label's unit, or tensors; state is left out.
        nested: of tensors: by name as nested lists, for JSON; else field by field.
    """
    if answers.naming.tensors:
        yield from _tensor_lines(answers, nested)
        return
    if answers.naming.bounds is None:
        for row, (label, confidence) in enumerate(zip(answers.labels, answers.confidences, strict=True)):
            yield {"row": row, "label": str(label), "confidence": round(float(confidence), 6)}
        return
    for row, (text, ends) in enumerate(zip(answers.labels, answers.intervals.tolist(), strict=True)):
        line: Json = {"row": row, "value": float(text)}
        yield (
            line | {"low": float(f"{ends[0]:.7g}"), "high": float(f"{ends[1]:.7g}")}
            if answers.naming.interval
            else line
        )


def reasoned_lines(answers: Predictions, reasons: Explanations | None, *, nested: bool = False) -> Iterator[Json]:
    """Lines with the columns that moved an answer most.

    Args:
        answers: as `answer_lines` takes them.
        reasons: of the same rows; None: no line has any.
        nested: as in `answer_lines`.
    """
    form = "+.3f" if answers.naming.bounds is None else "+.4g"
    for row, line in enumerate(answer_lines(answers, nested=nested)):
        if reasons is not None:
            line["reasons"] = " ".join(f"{name}:{value:{form}}" for name, value in reasons.strongest(row, REASONS))
        yield line


def with_summands(lines: list[Json], reasons: Explanations | None) -> list[Json]:
    """The lines with everything that an additive model added up; other models have no such list.

    Args:
        lines: one per row.
        reasons: of the same rows.
    """
    if reasons is None or reasons.intercepts is None:
        return lines
    rows = zip(lines, reasons.attributions.tolist(), reasons.intercepts.tolist(), strict=True)
    return [
        {**line, "contributions": dict(zip(reasons.columns, own, strict=True)), "intercept": rest}
        for line, own, rest in rows
    ]


def answers_csv(answers: Predictions, reasons: Explanations | None) -> str:
    """A table with a header, safe for spreadsheets.

    Args:
        answers: as `answer_lines` takes them.
        reasons: of the same rows; None: there is no such column.
    """
    fields = [*answer_fields(answers.naming), *(["reasons"] if reasons is not None else [])]
    return csv_text(fields, reasoned_lines(answers, reasons))


def _told(naming: Naming) -> list[TensorSpec]:
    return [tensor for tensor in naming.tensors if not tensor.feeds]


def _tensor_lines(answers: Predictions, nested: bool) -> Iterator[Json]:
    told, found = _told(answers.naming), answers.tensors
    single = total(told) <= MOST_FIELDS
    for row in range(len(answers)):
        line: Json = {"row": row}
        for tensor in told:
            own = found[tensor.name][row]
            values = [float(f"{value:.7g}") for value in own.ravel().tolist()]
            if nested:
                line[tensor.name] = own.astype(np.float64).round(7).tolist()
            elif single:
                line |= dict(zip(tensor.value_names(), values, strict=True))
            else:
                line[tensor.name] = " ".join(f"{value:.7g}" for value in values)
        yield line
