"""What a prediction is: one answer, or many held as one array until they are read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedinfer.inference.predict.rows import FloatArray


@dataclass(frozen=True, slots=True)
class Naming:
    """How class numbers become text.

    Args:
        labels: class names in the order of the class numbers.
        abstain_below: in [0, 1]; a row whose largest probability is below it gets no class name. 0 = every row does.
        abstain_label: the text it gets instead.
    """

    labels: tuple[str, ...]
    abstain_below: float = 0.0
    abstain_label: str = "abstain"

    def of(self, class_number: int, confidence: float) -> str:
        """The text for one row.

        Args:
            class_number: of the most probable class.
            confidence: its probability, a float32 value, as in the graph.
        """
        return self.abstain_label if confidence < self.abstain_below else self.labels[class_number]


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer for one row.

    Args:
        label: class name, or the abstain label.
        confidence: the largest probability, in [0, 1].
        probabilities: float32 (classes,).
    """

    label: str
    confidence: float
    probabilities: FloatArray


@dataclass(frozen=True, slots=True)
class Predictions:
    """The answers for many rows. Everything but the probabilities is worked out when asked for.

    Args:
        probabilities: float32 (rows, classes).
        naming: how class numbers become text.
    """

    probabilities: FloatArray
    naming: Naming

    def __len__(self) -> int:
        return len(self.probabilities)

    @property
    def classes(self) -> npt.NDArray[np.int64]:
        """Most probable class number of each row, int64 (rows,); the first one of equals."""
        best: npt.NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return best

    @property
    def confidences(self) -> FloatArray:
        """Largest probability of each row, float32 (rows,)."""
        return np.take_along_axis(self.probabilities, self.classes[:, None], axis=1)[:, 0]

    @property
    def labels(self) -> npt.NDArray[np.str_]:
        """Class name or abstain label of each row, (rows,)."""
        names = np.array(self.naming.labels)[self.classes]
        if self.naming.abstain_below > 0:
            names = np.where(self.confidences < self.naming.abstain_below, self.naming.abstain_label, names)
        return names

    def top(self, count: int) -> npt.NDArray[np.int64]:
        """The most probable class numbers of each row, best first; of equal ones the smaller number first.

        Args:
            count: how many, >= 1; all classes where there are fewer.

        Returns:
            int64 (rows, count).
        """
        return np.argsort(-self.probabilities, axis=1, kind="stable")[:, :count]
