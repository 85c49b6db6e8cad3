"""The sections about a model in the field: artifact, rollout, drift, and how simulated devices behave."""

from __future__ import annotations

from enum import StrEnum
from itertools import pairwise
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from fedinfer.config.fields import (
    Count,
    Finite,
    Fraction,
    Natural,
    NonNegative,
    OpenFraction,
    Positive,
    PositiveFraction,
    Probability,
    Section,
)


class ArtifactSection(Section):
    """[artifact]: the model file that devices get, and the gates it must pass."""

    quantization: Literal["int8", "float"] = Field(default="int8", description="Number format of the weights.")
    max_metric_drop: Fraction = Field(default=0.02, description="Largest loss of the metric against the float model.")
    max_bytes: Count = Field(default=50_000_000, description="Largest file that a device accepts, bytes.")
    min_agreement: Fraction = Field(
        default=0.95, description="Least part of rows with the same class as the float model."
    )
    max_calibration_gap: Fraction = Field(
        default=0.05, description="Largest rise of the expected calibration error against the float model."
    )
    max_latency_us: NonNegative = Field(
        default=0.0, description="Slowest single prediction on the machine that builds, microseconds; 0: no limit."
    )
    pruning: Probability = Field(
        default=0.0,
        description="Share of the weights of each matrix and convolution that become zero before quantization, the "
        "smallest first: the compressed download shrinks. Only the pushed file changes, training goes on with all "
        "weights.",
    )
    qat_steps: Natural = Field(
        default=0,
        description="Steps of fine-tuning that imitate int8 rounding, on public rows alone, anew for every pushed "
        "file; what was pruned stays zero. 0: none.",
    )
    top: Natural = Field(default=0, description="Classes listed in the output `top`, best first; 0: no such output.")
    abstain_below: Fraction = Field(
        default=0.0, description="Answer `abstain` when the largest probability is below this; 0: never."
    )

    @field_validator("qat_steps")
    @classmethod
    def _fine_tuning_needs_int8(cls, steps: int, info: ValidationInfo) -> int:
        if steps and info.data.get("quantization") == "float":
            raise ValueError(f"qat_steps = {steps} imitates int8 rounding: quantization must be 'int8', is 'float'")
        return steps


class RolloutSection(Section):
    """[rollout]: how a new model reaches the fleet."""

    waves: tuple[PositiveFraction, ...] = Field(
        default=(0.25, 1.0),
        min_length=1,
        description="Part of the fleet that has the model after each wave; ends at 1.0.",
    )
    min_judged: Count = Field(default=1, description="Fewest devices whose report decides about the next wave.")
    max_failure_rate: Fraction = Field(default=0.2, description="Largest part of failed installs before a roll-back.")
    canary_epsilon: NonNegative = Field(
        default=0.0,
        description="Part of the budget that all private canary evaluations of freshly installed models share, over "
        "all waves of all possible pushes; 0: none, acknowledged installs alone decide. Small fleets cannot afford it.",
    )
    max_error_rate: OpenFraction = Field(
        default=0.2, description="Largest part of a device's rows on which the new model may fail, mean of the wave."
    )
    max_latency_us: Positive = Field(
        default=10_000.0, description="A device is slow when 95 % of its predictions are not faster than this."
    )
    max_slow_rate: OpenFraction = Field(
        default=0.2, description="Largest part of slow devices in a wave (unit `example`: of slow rows)."
    )
    min_agreement: Probability = Field(
        default=0.0,
        description="Least agreement with the previous model on the device's rows; 0: reported, decides nothing. After "
        "drift the new model is meant to disagree.",
    )
    max_confidence_shift: PositiveFraction = Field(
        default=1.0, description="Largest mean change of the confidence against the previous model; 1: no limit."
    )
    min_metric: Probability = Field(
        default=0.0,
        description="Least part of right answers where devices have labels; 0: reported, decides nothing. With unit "
        "`device`, where `training.metric` or a rare class in `training.prior` asks for another figure than accuracy "
        "or log loss: the mean over the classes of a device's rows.",
    )
    unjudgeable: Literal["refuse", "acknowledge", "hold"] = Field(
        default="refuse",
        description="When the plan shows that canary evaluations can decide nothing (small waves, much noise): "
        "`refuse` the run before it starts; `acknowledge`: leave them out, acknowledged installs alone decide, with a "
        "warning; `hold`: evaluate all the same, see `on_hold`.",
    )
    on_hold: Literal["stop", "proceed"] = Field(
        default="stop",
        description="When the figures decide nothing (few devices, much noise): `stop` the run, the wave keeps the "
        "model and nobody else gets it; or `proceed` under this setting's name, which the audit log keeps.",
    )
    wait_seconds: NonNegative = Field(
        default=86_400.0,
        description="Deployments whose server has operators: longest wait of a held or paused rollout for an order.",
    )
    max_public_drop: NonNegative = Field(
        default=0.0,
        description="A later run's version is not signed when its metric on labelled public rows is worse than that of "
        "the version that devices run by more than this. After an alarm nothing is compared: public rows may be of the "
        "time before.",
    )
    keep_versions: Count = Field(
        default=5,
        description="Newest versions that the repository keeps after a push, beside the one before and those that "
        "devices still report. A device that was away for longer gets the whole newest file instead of a patch.",
    )

    @field_validator("waves")
    @classmethod
    def _waves_grow_to_one(cls, waves: tuple[float, ...]) -> tuple[float, ...]:
        if waves[-1] != 1.0 or any(a >= b for a, b in pairwise(waves)):
            raise ValueError("waves must grow and end at 1.0")
        return waves


class InjectSection(Section):
    """[drift.inject]: change the data distribution of a simulation from a stated window on."""

    kind: Literal["none", "rotate", "shift", "scale", "noise", "label", "prior", "missing", "stuck"] = Field(
        default="none",
        description="`rotate` images; `shift`, `scale` or add `noise` to numeric columns or pixels; move `label` "
        "numbers by one (the inputs stay the same, their meaning changes); `prior`: rows of the upper half of the "
        "classes (or values) become rarer, their inputs stay alike; cells of columns go `missing`; a numeric "
        "column is `stuck` at the low end of its range in a part of the rows, as with a broken sensor; `none`: a quiet "
        "run.",
    )
    shape: Literal["abrupt", "gradual", "recurring"] = Field(
        default="abrupt",
        description="`abrupt`: the whole change at once; `gradual`: it grows evenly over `over` windows; `recurring`: "
        "`over` windows with it and `over` without it in turn.",
    )
    over: Count = Field(default=3, description="Windows of `gradual` and `recurring`.")
    at_window: Count = Field(
        default=5, description="First window of the changed distribution, numbered as in the report."
    )
    fraction: Fraction = Field(default=1.0, description="Part of the devices whose data change.")
    devices: tuple[str, ...] = Field(
        default=(), description="These devices change instead (a region, a version of a sensor); empty: by `fraction`."
    )
    amount: Finite | None = Field(
        default=None,
        description="How much: `rotate` degrees (default 30), `shift` part of the public range (0.25), `scale` factor "
        "about the middle of the range (1.5), `noise` sd as part of the range (0.2), `label` part of the rows (1), "
        "`prior` part of the upper rows that are replaced (0.8), "
        "`missing` and `stuck` part of the cells (0.3).",
    )
    column: str = Field(
        default="", description="Only this column (tables), a numeric one unless cells go missing; empty: all."
    )


class DriftSection(Section):
    """[drift]: watching the fleet."""

    enabled: bool = Field(default=True, description="Whether devices report histograms at all.")
    windows: Natural = Field(
        default=6, description="Windows of inference in the run, before any that follow a retraining."
    )
    window: Count = Field(
        default=20, description="Rows in a window on a device; one with fewer held-out rows uses all."
    )
    reference_windows: Count = Field(
        default=3,
        description="First windows after every push of a model: what later windows are compared with.",
    )
    channels: tuple[str, ...] = Field(
        default=(),
        description="What a report holds: `predicted_class`, `confidence` (a number: `value`), `faults` (missing, "
        "unseen and out-of-range cells), `input:COLUMN`, `length` of texts, `mean:TENSOR`, `spread:TENSOR` and "
        "`ends:TENSOR` (of images without the name), `projection:1`, `errors` and `calibration` of rows whose label is "
        "known, `flags` of devices' own tests. Empty: the answers alone. `auto`: the answers, "
        "and each of faults and flags that raises the expected power; see "
        "[Watch for drift](../how-to/drift.md#channels).",
    )
    epsilon: Positive = Field(
        default=0.3,
        description="Budget that the reports of all windows share. With unit `device` training has the rest; with unit "
        "`example` it may be all of `privacy.epsilon` (more counts as all), because no row of a window is trained on.",
    )
    false_alarm_rate: OpenFraction = Field(default=0.05, description="Probability of any alarm in a quiet run.")
    mode: Literal["auto", "suggest"] = Field(
        default="auto",
        description="Who starts the rounds after an alarm: `auto` the run itself; `suggest` a person, with "
        "`fedinfer drift approve`.",
    )
    rollback_windows: Natural = Field(
        default=0,
        description="An alarm within so many windows after a push that replaced a model withdraws the new version "
        "first, so that devices go back to the one before; 0: never. Must be more than reference_windows, which raise "
        "no alarm.",
    )
    reuse: bool = Field(
        default=False,
        description="After an alarm first bring back an earlier version whose world may have come back (seasons, "
        "shifts), which costs one push and no epsilon; rounds follow where none fits. See "
        "[Worlds that come back](../how-to/drift.md#worlds-that-come-back).",
    )
    rounds: Natural = Field(default=5, description="Rounds that an alarm triggers.")
    settle_windows: Natural = Field(
        default=0,
        description="Windows between an alarm and its rounds, while it lasts: rounds train on the data of their time, "
        "so a change that still grows would be learned halfway.",
    )
    max_triggers: Natural = Field(default=1, description="Most alarms that start rounds in one run.")
    after_windows: Natural = Field(default=2, description="Windows watched after triggered rounds.")
    wait_seconds: NonNegative = Field(
        default=86_400.0,
        description="Deployments: longest wait in a window for devices that have predicted too little to report; then "
        "the others report alone. A simulation never waits.",
    )
    poll_seconds: Positive = Field(default=300.0, description="Pause before such devices are asked again.")
    inject: InjectSection | None = Field(default=None, description="See [drift.inject]; left out: a quiet run.")

    @field_validator("rollback_windows")
    @classmethod
    def _rollback_after_the_reference(cls, windows: int, info: ValidationInfo) -> int:
        learning = info.data.get("reference_windows", 0)
        if 0 < windows <= learning:
            raise ValueError(f"{windows} windows: the first {learning} after a push raise no alarm; set more, or 0")
        return windows

    @field_validator("channels", mode="before")
    @classmethod
    def _one_word_for_auto(cls, channels: object) -> object:
        # A list of JSON is a tuple only to pydantic itself, which strictly refuses what this returns otherwise.
        return (channels,) if channels == "auto" else tuple(channels) if isinstance(channels, list) else channels


class Accelerator(StrEnum):
    """Where simulated devices train."""

    CPU = "cpu"
    CUDA = "cuda"


class SimulationSection(Section):
    """[simulation]: how simulated devices are computed; a real device ignores it."""

    accelerator: Accelerator = Field(
        default=Accelerator.CPU,
        description="Where the devices of a cohort train together. `cuda`: on the first GPU, where every layer of the "
        "model can be batched; other models, encoding and sums stay on the processor. Rounding and, with noise inside "
        "training, the draws of a seed differ from those of `cpu`.",
    )


class ReportSection(Section):
    """[report]: what a run is judged by besides its metric. Nothing here changes a model."""

    groups: tuple[str, ...] = Field(
        default=(),
        description="Input columns whose groups are compared (sex, age band): categories, or quarters of a number's "
        "range.",
    )
    pooled: bool = Field(
        default=True,
        description="Train the same model on all training rows in one place, without noise, for comparison. Only a "
        "simulation can, and only where it takes seconds.",
    )
