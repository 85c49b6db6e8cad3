"""What a build is judged by, and how its answers are decided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedinfer.artifact.evaluate.measure import Evidence, calibrate
from fedinfer.artifact.evaluate.metrics import Floats, softmax
from fedinfer.errors import GateFailed
from fedinfer.metrics import EVEN, Metric, best_threshold
from fedinfer.schema import Schema

LEAST = 1e-6
"""Distance of a threshold from 0 and 1."""


@dataclass(frozen=True, slots=True)
class Judging:
    """By what a model is judged.

    Args:
        metric: gates compare it with the float model's.
        threshold: of two classes: class 1 is answered from this probability on, after calibration; 0.5: the likeliest
            class is; "public": the threshold is chosen on public rows for the metric.
        log_odds: of two classes: class 1 is answered from these log odds of the uncalibrated float model on, as
            calibration makes a probability of them; None: by `threshold`.
    """

    metric: Metric = Metric.ACCURACY
    threshold: float | Literal["public"] = EVEN
    log_odds: float | None = None


def judging_of(schema: Schema) -> Judging:
    """How a model is judged when nobody says otherwise.

    Args:
        schema: says whether the label is a number.
    """
    return Judging() if schema.label_range is None else Judging(Metric.RMSE)


def decision_threshold(judging: Judging, evidence: Evidence, schema: Schema, judged: Floats, public: Floats) -> float:
    """The threshold of a build, one for all its variants: each is calibrated, so that their probabilities compare.

    Args:
        judging: what was asked for.
        evidence: with labelled public rows where it is to be chosen.
        schema: of the model.
        judged: float model's logits of the judged rows, which its temperature is fitted to, (n, classes).
        public: its logits of the public rows, (k, classes).

    Raises:
        GateFailed: it is to be chosen, and the public rows do not hold both classes.
    """
    if judging.log_odds:
        temperature, _ = calibrate(judged, evidence, judged, schema)
        return float(np.clip(1.0 / (1.0 + np.exp(-judging.log_odds / temperature)), LEAST, 1.0 - LEAST))
    if judging.threshold != "public":
        return judging.threshold
    if len(np.unique(evidence.reference_y)) < 2:
        raise GateFailed(
            f"[training] threshold = 'public': the {len(evidence.reference_y)} public rows do not hold both classes",
            hint="raise data.public_fraction, or set training.threshold to a number",
        )
    temperature, _ = calibrate(judged, evidence, judged, schema)
    return best_threshold(judging.metric, softmax(public, temperature), evidence.reference_y)
