"""The last gate before a model serves: does it answer here what it answered where it was built, and quickly enough?

A model that was never run here runs first in a confined process (`confined_check`): it gets the public check rows
there, without files, network or more memory than allowed. Then it runs as it will serve.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedinfer.errors import DataError, GateFailed, Refusal
from fedinfer.inference.install.opening import naming_of
from fedinfer.inference.predict.answers import Naming
from fedinfer.inference.predict.predictor import MOST_CHECK_SECONDS, Predictor, Rows
from fedinfer.inference.predict.reader import Reader, reader_of
from fedinfer.inference.predict.rows import FloatArray
from fedinfer.inference.predict.session import INPUT, LABEL
from fedinfer.manifest import Manifest, Variant, answer_name
from fedinfer.model_file import RUN_LIMITS, Question, RunLimits, check_model, run_confined
from fedinfer.ports import Clock
from fedinfer.schema import Schema

MOST_LATENCY_US = 100_000.0
"""Bound on the median time of one prediction where nobody set another, microseconds."""
TIMED_PREDICTIONS = 15
"""Single predictions timed by the self-check; an odd number, so that the median is one of them."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What the self-check measured.

    Args:
        largest_difference: of any probability to the expected one, in [0, 1]; of a value as a part of its range.
        latency_us: median time of one prediction in microseconds, by the caller's clock.
    """

    largest_difference: float
    latency_us: float


def check_matrix(predictor: Predictor, manifest: Manifest) -> Rows:
    """The check rows of a manifest as `Predictor.predict_matrix` takes them.

    Args:
        predictor: its reader checks them.
        manifest: with the check rows.

    Returns:
        float32 (k, width), or texts, object (k, 1).

    Raises:
        GateFailed: when one breaks the schema.
    """
    return _checked_rows(predictor.reader, manifest)


def confined_check(
    model: bytes, manifest: Manifest, variant: Variant, clock: Clock, limits: RunLimits = RUN_LIMITS
) -> None:
    """Run the check rows of a manifest in a confined process.

    Args:
        model: the file, never run here before.
        manifest: with the check rows.
        variant: with the expected answers.
        clock: for time limits.
        limits: of memory and time.

    Raises:
        GateFailed: it breaks a rule for model files, does not load or run there, takes too long or too much memory, or
            answers otherwise than expected.
    """
    checked, rows = check_model(model), _checked_rows(reader_of(manifest.schema), manifest)
    others = (LABEL,) if LABEL in checked.outputs else ()
    schema, what = manifest.schema, f"version {manifest.version} ({variant.name})"
    question = Question(INPUT, answer_name(schema), schema.outputs, rows, alone=False, others=others)
    (run,) = run_confined(checked, question, clock, limits)
    if run.probabilities is None:
        raise GateFailed(f"{what}: the model fails on the check rows while it is confined", Refusal.CONFINED)
    _compare(run.probabilities, schema, naming_of(manifest), variant, what)


def difference_of(raw: FloatArray, schema: Schema, variant: Variant) -> float:
    """The largest difference of an answer to the expected one: of a probability, or as a part of the label's range.

    Args:
        raw: answers of the graph to the check rows, float32 (rows, outputs).
        schema: says what an answer is.
        variant: with the expected answers.

    Returns:
        >= 0; NaN when an answer is NaN.
    """
    low, high = schema.ranges()
    return float((np.abs(raw - variant.answers(schema.outputs)) / (high - low)).max())


def _compare(raw: FloatArray, schema: Schema, naming: Naming, variant: Variant, what: str) -> float:
    """The largest difference to the expected answers."""
    difference = difference_of(raw, schema, variant)
    if not difference <= variant.tolerance:  # so written, NaN is refused too
        answer = "a probability" if naming.bounds is None else "a value, as a part of its range,"
        raise GateFailed(
            f"{what}: {answer} differs by {difference:.3g}, tolerance {variant.tolerance:.3g}", Refusal.ANSWERS
        )
    if naming.bounds is not None:
        return difference
    wrong = np.nonzero(naming.decide(raw) != np.array(variant.labels))[0]
    if wrong.size:
        raise GateFailed(
            f"{what}: {wrong.size} of {len(raw)} check rows get another class, first row {wrong[0]}",
            Refusal.ANSWERS,
        )
    return difference


def _checked_rows(reader: Reader, manifest: Manifest) -> Rows:
    try:
        return reader.matrix(manifest.check_matrix())
    except DataError as error:
        raise GateFailed(
            f"version {manifest.version}: a check row breaks the schema: {error}", Refusal.CHECK_ROWS
        ) from error


def self_check(
    predictor: Predictor, manifest: Manifest, variant: Variant, clock: Clock, most_latency_us: float
) -> CheckResult:
    """Run the check rows of a manifest.

    Args:
        predictor: the model under test.
        manifest: with the check rows.
        variant: with the expected answers.
        clock: for durations.
        most_latency_us: bound on the median time of one prediction, microseconds, > 0.

    Raises:
        GateFailed: wrong class, probability outside the tolerance, NaN, wrong label text, too slow, or not done
            after `MOST_CHECK_SECONDS`.
    """
    with predictor.at_most(MOST_CHECK_SECONDS):
        return _self_check(predictor, manifest, variant, clock, most_latency_us)


def _self_check(
    predictor: Predictor, manifest: Manifest, variant: Variant, clock: Clock, most_latency_us: float
) -> CheckResult:
    matrix = check_matrix(predictor, manifest)
    answers = predictor.predict_matrix(matrix)
    what = f"version {manifest.version} ({variant.name})"
    difference = _compare(answers.raw, predictor.schema, predictor.naming, variant, what)
    texts = predictor.graph_labels(matrix)
    if texts and texts != list(answers.labels):
        raise GateFailed(
            f"{what}: the graph's labels differ from the manifest's, for instance {texts[0][:60]!r}", Refusal.ANSWERS
        )
    latency_us = median_latency_us(predictor, matrix, clock)
    if latency_us > most_latency_us:
        raise GateFailed(
            f"{what}: {latency_us:.0f} us per prediction, bound {most_latency_us:.0f} us", Refusal.TOO_SLOW
        )
    return CheckResult(difference, latency_us)


def median_latency_us(predictor: Predictor, matrix: Rows, clock: Clock) -> float:
    """Median time of `TIMED_PREDICTIONS` single predictions, microseconds.

    Args:
        predictor: the model.
        matrix: checked rows, float32 (n, width) or texts (n, 1), n >= 1; used in turn.
        clock: for durations.

    Raises:
        GateFailed: when the model fails or answers NaN or infinity.
    """
    times = []
    for number in range(TIMED_PREDICTIONS):
        row = matrix[number % len(matrix)]
        start = clock.seconds()
        predictor.predict_one(row)
        times.append(clock.seconds() - start)
    return 1e6 * sorted(times)[TIMED_PREDICTIONS // 2]
