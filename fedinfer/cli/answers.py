"""Answers of a model as lines of CSV or JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fedinfer.types import Json

if TYPE_CHECKING:
    from fedinfer.inference import Naming, Predictions


def answer_fields(naming: Naming) -> tuple[str, ...]:
    """Names of the fields of a line, in order.

    Args:
        naming: says whether the model answers a number, and whether its interval is known.
    """
    if naming.bounds is None:
        return ("row", "label", "confidence")
    return ("row", "value", "low", "high") if naming.interval else ("row", "value")


def answer_lines(answers: Predictions) -> Iterator[Json]:
    """One object per row.

    Args:
        answers: classes, or numbers in the label's unit.
    """
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
