"""A dress rehearsal before the first charge: train, export, quantize, judge and predict once, on rows of nobody.

Rows and labels are drawn from the schema. What cannot work with them could not work with anybody's, and would be found
after rounds that were paid for: a layer that no engine can train privately, an operator that cannot be exported, a file
larger than devices take, an answer that is not finite. How good a model is, is not looked at.
"""

from __future__ import annotations

import hashlib
import json
from functools import partial
from typing import TYPE_CHECKING, assert_never

import numpy as np
import numpy.typing as npt

from fedinfer.artifact import Evidence, Judging, OutputHead, Templates, build_artifact, synthetic_rows
from fedinfer.config import Scenario
from fedinfer.coordinator.plan.sum_settings import noise_model_of
from fedinfer.errors import ConfigError, FedInferError, MissingExtra, StoreError
from fedinfer.metrics import EVEN, Metric
from fedinfer.ports import Clock
from fedinfer.printable import shown
from fedinfer.privacy import Work
from fedinfer.schema import Schema
from fedinfer.system import simulation_rng
from fedinfer.training import GradientEngine, PrivateSteps
from fedinfer.types import FloatVector

if TYPE_CHECKING:
    from fedinfer.training import Trainer

ROWS = 64
MOST_SHOWN = 600
"""Characters of an error; exporters write pages."""
MOST_REMEMBERED = 256
_passed: set[str] = set()
"""What this process has rehearsed: many runs of one task need it once."""


def rehearse(scenario: Scenario, schema: Schema, trainer: Trainer, engine: GradientEngine, clock: Clock) -> None:
    """Do once, with made-up rows, what a run does with real ones.

    Args:
        scenario: of the run.
        schema: of its rows.
        trainer: of its model.
        engine: by which its devices compute gradients.
        clock: measures latency.

    Raises:
        ConfigError: a step fails, which it would with any rows.
        MissingExtra: a package is not installed.
    """
    known = _digest(scenario, schema, engine)
    if known in _passed:
        return
    rng = simulation_rng(scenario.scenario.seed, "rehearsal")
    x, y = synthetic_rows(schema, ROWS, rng), made_up_labels(schema, ROWS)
    weights = _stage("a training step", partial(_trained, scenario, trainer, engine, x, y))
    _stage("export, quantization or its gates", partial(_built, scenario, schema, trainer, weights, x, y, clock))
    if len(_passed) < MOST_REMEMBERED:
        _passed.add(known)


def made_up_labels(schema: Schema, rows: int) -> npt.NDArray[np.int64] | npt.NDArray[np.float64]:
    """Labels of nobody: every class in turn, or values spread over the range.

    Args:
        schema: names the classes, or the range of a number.
        rows: how many.
    """
    if schema.label_range is None:
        return np.arange(rows, dtype=np.int64) % schema.classes
    return np.linspace(*schema.label_range, rows)


def _stage(what: str, work: partial[FloatVector]) -> FloatVector:
    try:
        return work()
    except MissingExtra:
        raise
    except OSError as error:
        raise StoreError(
            f"the rehearsal cannot write its temporary files: {error}", hint="check free space, or set TMPDIR"
        ) from error
    except Exception as error:  # a model of somebody else's may raise anything
        hint = error.hint if isinstance(error, FedInferError) else "see [model]"
        said = shown(f"{type(error).__name__}: {error}", MOST_SHOWN)
        raise ConfigError(f"rehearsed on made-up rows, {what} fails: {said}; no budget was spent", hint=hint) from error


def _trained(
    scenario: Scenario,
    trainer: Trainer,
    engine: GradientEngine,
    x: npt.NDArray[np.float32],
    y: npt.NDArray[np.int64] | npt.NDArray[np.float64],
) -> FloatVector:
    """Weights after a step of one device that has these rows."""
    start, rngs = trainer.initial(), [simulation_rng(scenario.scenario.seed, "rehearsed device")]
    few, norm, work = [(x[:8], y[:8])], scenario.privacy.clipping_norm, noise_model_of(scenario).work
    match work:
        case Work.GRADIENT_SUMS:
            moved = -trainer.gradient_sums(start, few, 1.0, norm, rngs, engine).astype(np.float32) / np.float32(8)
        case Work.PRIVATE_STEPS:
            moved = trainer.private_updates(start, few, PrivateSteps(1, 1.0, norm, 1.0), rngs, engine)
        case Work.UPDATES:
            moved = trainer.updates(start, few, rngs)
        case _:
            assert_never(work)
    if not np.isfinite(moved).all() or not moved.any():
        raise ConfigError("the rows move no weight", hint="is every output of [model] finite, and does it learn?")
    return trainer.replace(start, trainer.tuned(start) + 0.01 * moved[0] / max(float(np.abs(moved[0]).max()), 1e-6))


def _built(
    scenario: Scenario,
    schema: Schema,
    trainer: Trainer,
    weights: FloatVector,
    x: npt.NDArray[np.float32],
    y: npt.NDArray[np.int64] | npt.NDArray[np.float64],
    clock: Clock,
) -> FloatVector:
    """Answers of the file that would be pushed."""
    section = scenario.artifact
    wide = section.model_copy(update={"max_metric_drop": 1.0, "max_calibration_gap": 1.0, "min_agreement": 0.0})
    head = OutputHead(schema, 1.0, scenario.scenario.name, 1, section.top, section.abstain_below, terms=trainer.terms)
    asked = scenario.training.threshold
    evidence, judging = Evidence(x, y, x, x, y), Judging(_metric(schema), EVEN if asked == "private" else asked)
    built = build_artifact(trainer.module(weights), head, evidence, wide, Templates(), clock, None, judging)
    answers = built.answers(x)
    if not np.isfinite(answers).all():
        raise ConfigError("an answer of the finished file is not finite")
    return answers


def _metric(schema: Schema) -> Metric:
    return Metric.ACCURACY if schema.label_range is None else Metric.RMSE


def _digest(scenario: Scenario, schema: Schema, engine: GradientEngine) -> str:
    """Everything that a rehearsal depends on."""
    sections = [
        getattr(scenario, name).model_dump(mode="json") for name in ("model", "training", "privacy", "artifact")
    ]
    described = json.dumps([sections, schema.to_json(), str(engine)], sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()
