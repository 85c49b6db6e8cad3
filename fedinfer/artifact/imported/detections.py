"""The declared step from the boxes of an object detector to the few that it answers: non-maximum suppression.

Of the boxes of one class that overlap, the surest stays (Felzenszwalb et al. 2010, section 5.2; ONNX operator
"NonMaxSuppression"). Once as graph parts and once in numpy, so that one is checked by the other. Answered are, the
surest first, the boxes as the model gave them, their scores and their classes; places that are left over are 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.errors import ConfigError
from fedinfer.tensors import TensorSpec

CLASSES = "classes"
"""Name of the answer that holds the numbers of classes."""
FORMS = ("corners", "centre")
MOST = 1000
MOST_PLACES = 2**22
"""Boxes times classes: 25,200 boxes of 80 classes are half of it."""
Values = npt.NDArray[Any]
Node = Callable[..., list[str]]
"""Appends a node with so many outputs, and gives their names."""
Constant = Callable[[Values], str]


@dataclass(frozen=True, slots=True)
class Detections:
    """Which outputs hold boxes, and which boxes are answered.

    Args:
        boxes: output of k boxes, (k, 4).
        scores: output of their scores, (k, classes) or (classes, k).
        most: boxes that are answered.
        overlap: intersection over union above which the weaker of two boxes of a class goes, in [0, 1].
        least: a box counts where its score is above this, in [0, 1).
        form: of a box: "corners", two opposite ones, or "centre", its place, width and height.
    """

    boxes: str
    scores: str
    most: int
    overlap: float = 0.5
    least: float = 0.25
    form: str = "corners"

    def __post_init__(self) -> None:
        if not (1 <= self.most <= MOST and 0 <= self.overlap <= 1 and 0 <= self.least < 1 and self.form in FORMS):
            raise ConfigError(
                f"detections: most {self.most} is 1 to {MOST}, overlap {self.overlap:g} in [0, 1], "
                f"least {self.least:g} in [0, 1), form {self.form[:40]} one of {', '.join(FORMS)}"
            )
        if self.boxes == self.scores:
            raise ConfigError(f"detections: boxes and scores are the same output {self.boxes[:40]}")


def detections_from(values: Mapping[str, Any], where: str) -> Detections:
    """The step of a table or of words.

    Args:
        values: by name of the arguments of `Detections`; numbers, or texts of numbers.
        where: for messages.

    Raises:
        ConfigError: an unknown or missing name, a wrong type, or a rule that is broken.
    """
    known = {item.name: str(item.type) for item in fields(Detections)}
    unknown = next((name for name in values if name not in known), None)
    absent = [name for name in ("boxes", "scores", "most") if name not in values]
    if unknown is not None or absent:
        what = f"has no {ascii(unknown)[:40]}" if unknown is not None else f"lacks {', '.join(absent)}"
        raise ConfigError(f"{where}: detections {what}", hint=f"it has {', '.join(known)}")
    kinds: dict[str, Callable[[Any], Any]] = {"int": lambda value: int(str(value)), "float": float, "str": str}
    try:
        return Detections(**{name: kinds[known[name]](value) for name, value in values.items()})
    except (ValueError, TypeError, OverflowError) as error:
        why = f"most is whole, overlap and least are numbers: {str(error)[:80]}"
        raise ConfigError(f"{where}: detections: {why}") from error


def detections_values(found: Detections) -> dict[str, Any]:
    """What `detections_from` reads back.

    Args:
        found: to write.
    """
    return asdict(found)


def sizes_of(found: Detections, boxes: tuple[int, ...], scores: tuple[int, ...]) -> tuple[int, int, bool]:
    """Boxes and classes of a model, and whether scores begin with the classes.

    Args:
        found: the step.
        boxes: sizes of the output of boxes for one row.
        scores: sizes of that of scores.

    Raises:
        ConfigError: they are not those of boxes and their scores, or have fewer places than are answered.
    """
    if len(boxes) != 2 or boxes[1] != 4 or len(scores) != 2 or boxes[0] not in scores:
        raise ConfigError(
            f"detections: outputs {found.boxes} of shape {list(boxes)} and {found.scores} of shape {list(scores)}",
            hint="(k, 4) and (k, classes) or (classes, k) for each row are read",
        )
    count, last = boxes[0], scores[0] == boxes[0]
    classes = scores[1] if last else scores[0]
    if count * classes > MOST_PLACES:
        raise ConfigError(f"detections: {count} boxes of {classes} classes are more than {MOST_PLACES} places")
    if found.most > count * classes:
        raise ConfigError(f"detections: most {found.most} of {count} boxes of {classes} classes")
    return count, classes, not last


def detected_tensors(found: Detections, boxes: TensorSpec, scores: TensorSpec) -> tuple[TensorSpec, ...]:
    """What is answered in place of the two outputs.

    Args:
        found: the step.
        boxes: the output of boxes.
        scores: that of their scores.

    Raises:
        ConfigError: as `sizes_of`.
    """
    _, classes, _ = sizes_of(found, boxes.shape, scores.shape)
    return (
        TensorSpec(boxes.name, "float32", (found.most, 4), boxes.low, boxes.high),
        TensorSpec(scores.name, "float32", (found.most,), scores.low, scores.high),
        TensorSpec(CLASSES, "int64", (found.most,), 0.0, float(max(classes - 1, 1))),
    )


def add_detections(
    found: Detections, boxes: str, scores: str, sizes: tuple[int, int, bool], batch: int, node: Node, constant: Constant
) -> tuple[str, str, str]:
    """Graph parts from boxes and scores to what is answered, in operators of set 11.

    Args:
        found: the step.
        boxes: name of their values side by side, float32 (batch, k * 4).
        scores: name of theirs, (batch, k * classes), in the order of the output.
        sizes: of `sizes_of`.
        batch: first size of a Reshape.
        node: appends a node.
        constant: appends a constant.

    Returns:
        Names of boxes (batch, most * 4), scores and classes (batch, most), all float32.
    """
    count, classes, first = sizes

    def shaped(values: str, *shape: int) -> str:
        return node("Reshape", [values, constant(np.array([batch, *shape], np.int64))])[0]

    boxes = shaped(boxes, count, 4)
    scores = (
        shaped(scores, classes, count)
        if first
        else node("Transpose", [shaped(scores, count, classes)], perm=[0, 2, 1])[0]
    )
    limits = [constant(np.array([found.most], np.int64))]
    limits += [constant(np.array([value], np.float32)) for value in (found.overlap, found.least)]
    centre = int(found.form == "centre")
    [kept] = node("NonMaxSuppression", [boxes, scores, *limits], center_point_box=centre)
    column = node("Gather", [kept, constant(np.array(0, np.int64))], axis=1)[0]
    ones = node("Cast", node("Equal", [column, column]), to=1)[0]
    nothing = node("Mul", [scores, constant(np.array(0, np.float32))])[0]
    weighed = node("Mul", [scores, node("ScatterND", [nothing, kept, ones])[0]])[0]
    values, places = node("TopK", [shaped(weighed, classes * count), limits[0]], outputs=2, axis=-1)
    there = node("Cast", node("Greater", [values, constant(np.array(0, np.float32))]), to=1)[0]
    many = constant(np.array(count, np.int64))
    chosen = node("Cast", node("Div", [places, many]), to=1)[0]
    row = shaped(node("Mod", [places, many])[0], found.most, 1)
    rows = node("Concat", [row] * 4, axis=2)[0]
    picked = node("Mul", [node("GatherElements", [boxes, rows], axis=1)[0], shaped(there, found.most, 1)])[0]
    return shaped(picked, found.most * 4), values, node("Mul", [chosen, there])[0]


def detected(found: Detections, boxes: Values, scores: Values) -> tuple[Values, Values, Values]:
    """The same in numpy.

    Args:
        found: the step.
        boxes: (n, k, 4).
        scores: (n, k, classes) or (n, classes, k).

    Returns:
        Boxes (n, most, 4), scores and classes (n, most), float64.
    """
    count, classes, first = sizes_of(found, boxes.shape[1:], scores.shape[1:])
    scores = scores if first else np.moveaxis(scores, 2, 1)
    answered = np.zeros((len(boxes), found.most, 6))
    for row, (each, told) in enumerate(zip(boxes.astype(np.float64), scores.astype(np.float64), strict=True)):
        areas = _corners(each, found.form)
        kept = [
            (told[kind, place], kind, place) for kind in range(classes) for place in _kept(found, areas, told[kind])
        ]
        best = sorted(kept, key=lambda item: (-item[0], item[1] * count + item[2]))[: found.most]
        for at, (score, kind, place) in enumerate(best):
            answered[row, at] = [*each[place], score, kind]
    return answered[:, :, :4], answered[:, :, 4], answered[:, :, 5]


def _kept(found: Detections, areas: Values, scores: Values) -> list[int]:
    """Places of the boxes of one class that stay, the surest first."""
    stay: list[int] = []
    left = np.argsort(-scores, kind="stable")
    left = left[scores[left] > found.least]
    while len(left) and len(stay) < found.most:
        first, left = left[0], left[1:]
        stay.append(int(first))
        left = left[_overlaps(areas[first], areas[left]) <= found.overlap]
    return stay


def _corners(boxes: Values, form: str) -> Values:
    """(k, 4): two least and two largest coordinates."""
    first, second = boxes[:, :2], boxes[:, 2:]
    if form == "centre":
        first, second = first - second / 2, first + second / 2
    return np.concatenate([np.minimum(first, second), np.maximum(first, second)], axis=1)


def _overlaps(one: Values, others: Values) -> Values:
    """Intersection over union of a box (4,) with each of others (k, 4)."""
    sides = np.minimum(one[2:], others[:, 2:]) - np.maximum(one[:2], others[:, :2])
    apart, common = sides.min(axis=1) <= 0, sides.prod(axis=1)
    areas = np.prod(one[2:] - one[:2]) + np.prod(others[:, 2:] - others[:, :2], axis=1)
    return np.asarray(np.divide(common, areas - common, out=np.zeros_like(common), where=~apart))
