"""What a model takes, what it answers, and what its owner says about both: the content of `model.toml`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from fedinfer.artifact.imported.audio import Audio
from fedinfer.artifact.imported.detections import Detections
from fedinfer.artifact.imported.image import Image
from fedinfer.artifact.imported.vocabulary import Vocabulary
from fedinfer.errors import ConfigError
from fedinfer.metrics import EVEN
from fedinfer.tensors import MOST_VALUES

MOST_CONSTANTS = 2**20
"""Values of all constant inputs together: they are made anew for every run of the graph."""


class ModelTask(StrEnum):
    """What the answers of a model are."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"
    SCORES = "scores"
    TENSORS = "tensors"


def task_of(text: str) -> ModelTask | None:
    """The task of a word.

    Args:
        text: of the owner; empty: nothing is said.

    Raises:
        ConfigError: no such task.
    """
    if text and text not in set(ModelTask):
        raise ConfigError(f"task {text[:40]}: not one of {', '.join(ModelTask)}")
    return ModelTask(text) if text else None


class Use(StrEnum):
    """What an output of the graph becomes."""

    PROBABILITIES = "probabilities"  # one per class
    LOGITS = "logits"  # one per class, before the softmax
    PROBABILITY = "probability"  # of the second of two classes
    LOGIT = "logit"  # of the second of two classes, before the sigmoid
    CLASS = "class"  # the number of the class
    VALUE = "value"  # numbers as they are


@dataclass(frozen=True, slots=True)
class InputSpec:
    """An input of the graph.

    Args:
        name, dtype: in the graph.
        shape: sizes for one row, without the axis of rows; of a constant all sizes.
        axis: which axis of the graph's input counts rows; None: none does, the input is a constant.
        low, high: public range of its values.
        columns: names of its values, as columns of a table; empty: it is a tensor.
        categories: of an input of texts, in the order of their indices.
        constant: value that it always has; None: rows bring it.
        image: raw pixels that it is made of; None: rows bring it as it is.
        audio: raw samples that it is made of; None: rows bring it as it is.
        vocabulary: words that its token numbers stand for; None: rows bring it as it is.
        watch: statistics of its values that a watch for drift counts beside the answers, of
            `fedinfer.tensors.STATISTICS`.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    axis: int | None
    low: float = 0.0
    high: float = 1.0
    columns: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    constant: float | None = None
    image: Image | None = None
    audio: Audio | None = None
    vocabulary: Vocabulary | None = None
    watch: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_port("input", self.name, self.shape, self.axis)

    @property
    def size(self) -> int:
        """Values of one row."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """An output of the graph that is answered.

    Args:
        name, dtype: in the graph.
        shape: sizes for one row, without the axis of rows.
        axis: which axis counts rows.
        use: what it becomes.
        low, high: public range of its values, for VALUE.
        feeds: input that it becomes with the next row of a stream; empty: none.
        names: of its values, for scores.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    axis: int
    use: Use
    low: float = 0.0
    high: float = 1.0
    feeds: str = ""
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_port("output", self.name, self.shape, self.axis)

    @property
    def size(self) -> int:
        """Values of one row."""
        return math.prod(self.shape)


def _check_port(what: str, name: str, shape: tuple[int, ...], axis: int | None) -> None:
    if math.prod(shape) > MOST_VALUES:
        raise ConfigError(
            f"{what} {ascii(name)[:60]} of shape {list(shape)} has {math.prod(shape)} values, at most {MOST_VALUES}"
        )
    if axis is not None and not 0 <= axis <= len(shape):
        raise ConfigError(f"{what} {ascii(name)[:60]}: axis {axis} of a graph's {len(shape) + 1}")


@dataclass(frozen=True, slots=True)
class Deciding:
    """How classes are answered, after the model has given each a probability.

    Args:
        top: so many classes are listed, the likeliest first; 0: none are.
        threshold: of two classes: the second one is answered from this probability on, in (0, 1); 0.5: the likeliest.
        abstain_below: nothing is decided where the largest probability is smaller, in [0, 1); 0: always decided.
    """

    top: int = 0
    threshold: float = EVEN
    abstain_below: float = 0.0

    def __post_init__(self) -> None:
        if self.top < 0 or not 0 < self.threshold < 1 or not 0 <= self.abstain_below < 1:
            raise ConfigError(
                f"top {self.top}, threshold {self.threshold:g} and abstain_below {self.abstain_below:g}: "
                "top is not negative, threshold between 0 and 1, abstain_below from 0 to below 1"
            )

    def check(self, labels: int) -> None:
        """Whether it fits a model.

        Args:
            labels: classes that it tells apart; 0: it answers no classes.

        Raises:
            ConfigError: it does not.
        """
        if self == Deciding():
            return
        if self.top > labels or (self.threshold != EVEN and labels != 2) or not labels:
            raise ConfigError(
                f"top {self.top}, threshold {self.threshold:g} and abstain_below {self.abstain_below:g} do not fit a "
                f"model of {labels} classes",
                hint="they are for classifications: top lists at most every class, threshold is for two",
            )


@dataclass(frozen=True, slots=True)
class Declaration:
    """A whole `model.toml`.

    Args:
        name: of the task: 1 to 64 of a-z, 0-9, _ and -.
        task: what the answers are.
        label: column of labelled tables that holds the label.
        labels: class names; only for a classification.
        one_row: the graph takes one row at a time.
        missing: numbers of a table may be missing; the graph then gets NaN.
        sha256: of the model file that this describes.
        inputs, outputs: in the order of the graph.
        deciding: how classes are answered.
        detections: which boxes of an object detector are answered; None: it is none.
    """

    name: str
    task: ModelTask
    label: str
    labels: tuple[str, ...]
    one_row: bool
    missing: bool
    sha256: str
    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    deciding: Deciding = Deciding()
    detections: Detections | None = None

    def __post_init__(self) -> None:
        for what, count, most in (
            ("all inputs", sum(spec.size for spec in self.inputs), MOST_VALUES),
            ("all outputs", sum(spec.size for spec in self.outputs), MOST_VALUES),
            ("constants", sum(spec.size for spec in self.inputs if spec.constant is not None), MOST_CONSTANTS),
        ):
            if count > most:
                raise ConfigError(f"{what} have {count} values together, at most {most}")
