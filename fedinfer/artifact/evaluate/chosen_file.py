"""The file of a version that is pushed: what it answers, and how answers are decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedinfer.artifact.export.graph import run
from fedinfer.manifest import Manifest, answer_name
from fedinfer.schema import Schema
from fedinfer.text import raw_rows


@dataclass(frozen=True, slots=True)
class ChosenFile:
    """The model file of a version that is pushed, and what is needed to decide by its answers.

    Args:
        file: ONNX, byte for byte.
        schema: of its rows and labels.
        threshold: from which probability on the second class is the answer, see `OutputHead`.
    """

    file: bytes
    schema: Schema
    threshold: float

    @classmethod
    def of(cls, manifest: Manifest, files: Mapping[str, bytes]) -> ChosenFile:
        """The chosen file of a published version.

        Args:
            manifest: of the version.
            files: model files by name of the variant.
        """
        return cls(files[manifest.chosen.name], manifest.schema, manifest.threshold)

    def answers(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """What the file answers: see `answers_of`.

        Args:
            x: rows as training has them, float32 (n, width); n >= 1.

        Raises:
            ArtifactRejected: when onnxruntime cannot run the file.
        """
        return answers_of(self.file, x, self.schema)


def answers_of(file: bytes, x: npt.NDArray[np.float32], schema: Schema) -> npt.NDArray[np.float32]:
    """What an ONNX file answers.

    Args:
        file: finished.
        x: rows as training has them, float32 (n, width).
        schema: of its rows and labels.

    Returns:
        float32 (n, outputs): probabilities, or values in the label's unit.

    Raises:
        ArtifactRejected: when onnxruntime cannot run the file.
    """
    rows = raw_rows(schema, x)
    return run(file, rows, answer_name(schema)) if len(rows) else np.empty((0, schema.outputs), np.float32)
