"""The sections of a scenario: every key with its type, default, bounds and meaning.

docs/reference/scenario.md is made from this module. Rules that need the data are in fedinfer.data.checks.
"""

from __future__ import annotations

from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from fedinfer.types import AggregationMode, Trust, Unit

Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]
OpenFraction = Annotated[float, Field(gt=0, lt=1)]
Loss = Annotated[float, Field(ge=0, lt=0.9)]
Probability = Annotated[float, Field(ge=0, lt=1)]

MISSING_TEXT = ("", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null", "None", "?")


class Section(BaseModel):
    """Base of all sections: unknown keys are refused, values cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelKind(StrEnum):
    """Model architectures that ship with fedinfer."""

    LOGISTIC = "logistic"
    MLP = "mlp"
    CNN = "cnn"
    TCN = "tcn"
    GRU = "gru"
    TRANSFORMER = "transformer"
    BAG = "bag"
    RECOMMENDER = "recommender"


class Tune(StrEnum):
    """Which parameters federated rounds change."""

    ALL = "all"
    HEAD = "head"


class ServerOptimizer(StrEnum):
    """How the server applies a released mean update (Reddi et al. 2021)."""

    FEDAVG = "fedavg"
    FEDAVGM = "fedavgm"
    FEDADAM = "fedadam"
    FEDYOGI = "fedyogi"
    FEDADAGRAD = "fedadagrad"


class Robust(StrEnum):
    """How the means of the groups of a round become one update."""

    MEAN = "mean"
    MEDIAN = "median"
    TRIMMED_MEAN = "trimmed_mean"
    NORM_BOUNDED_MEAN = "norm_bounded_mean"


class ScenarioSection(Section):
    """[scenario]: the name and the seed."""

    name: str = Field(
        default="unnamed",
        pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$",
        description="Name of the task in reports, models and ledgers: 1 to 64 of `a-z`, `0-9`, `_`, `-`.",
    )
    seed: Natural = Field(
        default=1, description="Everything random in a simulation follows from it; a deployment ignores it."
    )
    description: str = Field(default="", description="One sentence for `fedinfer scenarios`.")


class PartitionSection(Section):
    """[data.partition]: how rows are dealt to simulated devices; only without `data.device`."""

    devices: Count = Field(default=10, description="Number of devices.")
    scheme: Literal["iid", "dirichlet", "shards"] = Field(
        default="iid",
        description="`iid`: at random. `dirichlet`: each device has its own mix of classes (Hsu et al. 2019). "
        "`shards`: rows sorted by class, two pieces per device (McMahan et al. 2017).",
    )
    alpha: Positive = Field(
        default=0.5, description="Concentration of `dirichlet`; smaller means more different devices."
    )


class DataSection(Section):
    """[data]: where rows come from and what is public about them."""

    source: Literal["csv", "builtin"] = Field(
        default="builtin",
        description="`csv`: the file `path` (CSV, or Parquet with pyarrow). `builtin`: the table `name`.",
    )
    name: str = Field(
        default="",
        description="Built-in data: `heart`, `credit`, `digits`, `watch`, `reviews` or `ratings`. Only with `builtin`.",
    )
    path: str = Field(default="", description="Table file, relative to the TOML that names it. Only with `csv`.")
    delimiter: str = Field(
        default="", max_length=1, description="Character between cells; empty: guessed from two lines."
    )
    label: str = Field(default="", description="Column to predict.")
    label_above: Finite | None = Field(
        default=None,
        description="Two classes of a numeric label: the second when greater than this; `labels` names them.",
    )
    labels: tuple[str, ...] = Field(default=(), description="Public class names in order; empty: found in the data.")
    unlabelled: Literal["refuse", "drop"] = Field(
        default="refuse", description="What happens with rows that have no label."
    )
    device: str = Field(
        default="", description="Column that names the holder of a row; empty: rows are dealt by `partition`."
    )
    drop: tuple[str, ...] = Field(default=(), description="Columns that are not used (identifiers, dates, free text).")
    categorical: tuple[str, ...] = Field(default=(), description="Columns with categories; all others must be numbers.")
    categories: dict[str, tuple[str, ...]] = Field(
        default={}, description="`categories.COL = [..]`: public list of categories; others count as missing."
    )
    ranges: dict[str, tuple[Finite, Finite]] = Field(
        default={},
        description="`ranges.COL = [low, high]`: public range of a numeric column; values outside are clamped.",
    )
    ranges_confirmed: bool = Field(
        default=True, description="False: ranges and categories were read off the data. A deployment refuses to start."
    )
    missing_text: tuple[str, ...] = Field(
        default=MISSING_TEXT, description="Cells that mean `missing` in every column."
    )
    missing_values: dict[str, tuple[Finite, ...]] = Field(
        default={}, description="`missing_values.COL = [..]`: numbers that mean `missing` in that column."
    )
    test_fraction: OpenFraction = Field(
        default=0.3, description="Part of each device's rows that is held out, for the metric and for its stream."
    )
    public_fraction: Probability = Field(
        default=0.0,
        description="Part of all rows that the server may hold (pre-training, calibration); taken out first.",
    )
    partition: PartitionSection = Field(default=PartitionSection(), description="See [data.partition].")

    @field_validator("ranges")
    @classmethod
    def _ranges_not_empty(cls, ranges: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        for column, (low, high) in ranges.items():
            if not low < high:
                raise ValueError(f"range of column {column!r} is empty: low {low} must be below high {high}")
        return ranges

    @field_validator("categories")
    @classmethod
    def _categories_unique(cls, categories: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for column, names in categories.items():
            if not names or len(set(names)) != len(names):
                raise ValueError(f"categories of column {column!r} must be a list of one or more different names")
        return categories

    @field_validator("labels")
    @classmethod
    def _labels_differ(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if labels and (len(labels) < 2 or len(set(labels)) != len(labels)):
            raise ValueError("labels must be two or more different names")
        return labels

    @model_validator(mode="after")
    def _source_is_complete(self) -> DataSection:
        if self.source == "csv" and not (self.path and self.label):
            raise ValueError(f"source = 'csv' needs path (is {self.path!r}) and label (is {self.label!r})")
        both = set(self.ranges) & {*self.categories, *self.categorical}
        if both:
            raise ValueError(f"column {min(both)!r} has a range and categories: a number or a category, not both")
        if self.label_above is not None and len(self.labels) not in (0, 2):
            raise ValueError(f"label_above makes two classes: labels must name both or none, has {len(self.labels)}")
        if self.label and self.label in (self.device, *self.drop):
            raise ValueError(f"label {self.label!r} cannot be the device column or a dropped column")
        return self


class ModelSection(Section):
    """[model]: what is trained."""

    kind: ModelKind = Field(default=ModelKind.LOGISTIC, description="Architecture that ships with fedinfer.")
    hidden: tuple[Count, ...] = Field(
        default=(32,), description="Sizes of the hidden layers (`mlp`, and the head of others)."
    )
    factory: str = Field(
        default="",
        pattern=r"^$|^[\w.]+:\w+$",
        description='Your own model, "package.module:callable"; replaces `kind`.',
    )


class TrainingSection(Section):
    """[training]: how rounds are made."""

    pretrain: bool = Field(
        default=False, description="Start from a model trained on the public rows (`data.public_fraction`)."
    )
    pretrain_epochs: Count = Field(default=20, description="Passes over the public rows.")
    tune: Tune = Field(
        default=Tune.ALL, description="Parameters that rounds change: `all`, or the last layer (`head`)."
    )
    rounds: Natural = Field(default=10, description="Planned rounds, before any that drift triggers.")
    cohort: Natural = Field(default=0, description="Devices asked in a round; 0: all.")
    local_epochs: Count = Field(default=1, description="Passes of a device over its rows in a round.")
    local_steps: Natural = Field(
        default=0, description="Steps of a device in a round, instead of `local_epochs`; 0: epochs."
    )
    batch_size: Count = Field(default=32, description="Rows in a local step.")
    sampling_rate: PositiveFraction = Field(
        default=1.0, description="Unit `example`: probability that a row takes part in a round (Poisson sampling)."
    )
    learning_rate: Positive = Field(default=0.1, description="Step size on the device.")
    momentum: Probability = Field(default=0.0, description="Momentum on the device.")
    proximal: NonNegative = Field(
        default=0.0, description="FedProx pull towards the global model (Li et al. 2020); 0: none."
    )
    server_optimizer: ServerOptimizer = Field(
        default=ServerOptimizer.FEDAVG, description="How the mean update is applied."
    )
    server_learning_rate: Positive = Field(default=1.0, description="Step size on the server.")
    server_momentum: Probability = Field(
        default=0.9, description="First-moment decay of server optimizers that have one."
    )
    robust: Robust = Field(
        default=Robust.MEAN,
        description="How the groups of a round (`secure_aggregation.group_size`) are combined: `mean` of all devices, "
        "or a rule that limits what dishonest devices can do: coordinate-wise `median` or `trimmed_mean` of the "
        "groups' means, or `norm_bounded_mean`. Not for unit `example`.",
    )
    trim: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        default=0.2, description="`trimmed_mean`: part of the groups left out at either end, rounded up."
    )
    norm_bound: NonNegative = Field(
        default=0.0,
        description="`norm_bounded_mean`: largest L2 norm that one group's mean may have; 0: `privacy.clipping_norm`.",
    )
    deadline_seconds: Positive = Field(
        default=3600.0, description="Longest wait for the devices in one stage of a round."
    )


class PrivacySection(Section):
    """[privacy]: what is protected, from whom, and how much may be spent in the whole run."""

    unit: Unit = Field(
        default=Unit.EXAMPLE, description="What one unit of privacy is: a row, a device, or `none` (no noise)."
    )
    trust: Trust = Field(
        default=Trust.DISTRIBUTED,
        description="Who is trusted to add noise: nobody (`local`), enough honest devices (`distributed`), the "
        "server (`central`).",
    )
    epsilon: Positive = Field(default=1.0, description="Budget of the whole run, drift reports included.")
    delta: OpenFraction = Field(default=1e-5, description="Delta of that budget; must be below 1 / number of units.")
    clipping_norm: Positive = Field(default=1.0, description="Largest L2 norm that one unit may add to an update.")
    mechanism: Literal["skellam", "discrete_gaussian"] = Field(
        default="skellam", description="Integer noise under secure aggregation (trust `distributed`)."
    )
    device_epsilon: NonNegative = Field(
        default=0.0, description="Budget that a device enforces for itself; 0: `epsilon`."
    )
    local_steps: Natural = Field(
        default=0, description="DP-SGD steps of a device in a round (trust `local`); 0: one epoch."
    )


class SecureAggregationSection(Section):
    """[secure_aggregation]: how updates are summed."""

    mode: AggregationMode = Field(
        default=AggregationMode.PROTOCOL,
        description="`protocol`: real keys, masks and shares. `ideal`: the same integers, summed in the open, for "
        "large simulations. `off`: unsafe, no protection of single updates.",
    )
    dropout_rate: Loss = Field(default=0.1, description="Largest part of a cohort that may vanish without an abort.")
    corruption_rate: Loss = Field(default=0.1, description="Largest part of a cohort that may work for the attacker.")
    server_model: Literal["semi_honest", "semi_malicious"] = Field(
        default="semi_malicious",
        description="What the server may do: follow the rules and look, or lie about who dropped.",
    )
    bits: int = Field(default=0, ge=0, le=32, description="Bits per coordinate on the wire; 0: chosen from the noise.")
    group_size: Annotated[int, Field(ge=0, le=10_000)] = Field(
        default=0,
        description="Larger cohorts are dealt at random into groups of at most this size, each with a private sum of "
        "its own; 0: 500. Below 100, devices hide among few and noise is large.",
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
    top: Natural = Field(default=0, description="Classes listed in the output `top`, best first; 0: no such output.")
    abstain_below: Fraction = Field(
        default=0.0, description="Answer `abstain` when the largest probability is below this; 0: never."
    )


class RolloutSection(Section):
    """[rollout]: how a new model reaches the fleet."""

    waves: tuple[PositiveFraction, ...] = Field(
        default=(0.25, 1.0),
        min_length=1,
        description="Part of the fleet that has the model after each wave; ends at 1.0.",
    )
    min_judged: Count = Field(default=1, description="Fewest devices whose report decides about the next wave.")
    max_failure_rate: Fraction = Field(default=0.2, description="Largest part of failed installs before a roll-back.")
    gate_epsilon: NonNegative = Field(
        default=0.0,
        description="Part of the budget that all looks at freshly installed models share, over all waves of all "
        "possible pushes; 0: nobody looks, acknowledged installs alone decide. Small fleets cannot afford it.",
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
        description="Least agreement with the previous model on the device's rows; 0: told, not judged. After drift "
        "the new model is meant to disagree.",
    )
    max_confidence_shift: PositiveFraction = Field(
        default=1.0, description="Largest mean change of the confidence against the previous model; 1: not judged."
    )
    min_metric: Probability = Field(
        default=0.0, description="Least part of right answers where devices have labels; 0: told, not judged."
    )
    on_hold: Literal["stop", "proceed"] = Field(
        default="stop",
        description="When the figures decide nothing (few devices, much noise): `stop` the run, the wave keeps the "
        "model and nobody else gets it; or `proceed` under this setting's name, which the audit log keeps.",
    )

    @field_validator("waves")
    @classmethod
    def _waves_grow_to_one(cls, waves: tuple[float, ...]) -> tuple[float, ...]:
        if waves[-1] != 1.0 or any(a >= b for a, b in pairwise(waves)):
            raise ValueError("waves must grow and end at 1.0")
        return waves


class InjectSection(Section):
    """[drift.inject]: change the world of a simulation from a stated window on."""

    kind: Literal["none", "rotate", "shift", "scale", "noise", "label"] = Field(
        default="none",
        description="`rotate` images; `shift`, `scale` or add `noise` to numeric columns or pixels; move `label` "
        "numbers by one (the inputs keep their look, their meaning changes); `none`: a quiet run.",
    )
    at_window: Count = Field(default=5, description="First window of the changed world, numbered as in the report.")
    fraction: Fraction = Field(default=1.0, description="Part of the devices whose world changes.")
    amount: Finite | None = Field(
        default=None,
        description="How much: `rotate` degrees (default 30), `shift` part of the public range (0.25), `scale` factor "
        "about the middle of the range (1.5), `noise` sd as part of the range (0.2), `label` part of the rows (1).",
    )
    column: str = Field(default="", description="Only this numeric column (tables); empty: all.")


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
    epsilon: Positive = Field(default=0.3, description="Part of the budget that the reports of all windows share.")
    false_alarm_rate: OpenFraction = Field(default=0.05, description="Probability of any alarm in a quiet run.")
    rounds: Natural = Field(default=5, description="Rounds that an alarm triggers.")
    max_triggers: Natural = Field(default=1, description="Most alarms that start rounds in one run.")
    after_windows: Natural = Field(default=2, description="Windows watched after triggered rounds.")
    inject: InjectSection | None = Field(default=None, description="See [drift.inject]; left out: a quiet run.")


class FleetSection(Section):
    """[fleet]: how simulated devices behave."""

    dropout: Probability = Field(
        default=0.0, description="Probability that a cohort member vanishes before it sends anything."
    )
    late_dropout: Probability = Field(
        default=0.0, description="Probability that it vanishes after sending its masked update."
    )


class Scenario(Section):
    """Everything a run needs, validated. `base` is the folder of the TOML."""

    scenario: ScenarioSection = ScenarioSection()
    data: DataSection = DataSection()
    model: ModelSection = ModelSection()
    training: TrainingSection = TrainingSection()
    privacy: PrivacySection = PrivacySection()
    secure_aggregation: SecureAggregationSection = SecureAggregationSection()
    artifact: ArtifactSection = ArtifactSection()
    rollout: RolloutSection = RolloutSection()
    drift: DriftSection = DriftSection()
    fleet: FleetSection = FleetSection()
    base: Path = Path()
