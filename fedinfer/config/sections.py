"""The sections of a scenario: every key with its type, default, bounds and meaning.

docs/reference/scenario.md is made from this module. Rules that need the data are in fedinfer.data.checks.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from fedinfer.config.fields import (
    Count,
    Loss,
    Natural,
    NonNegative,
    OpenFraction,
    Positive,
    PositiveFraction,
    Probability,
    Section,
    Seed,
)
from fedinfer.config.fleet import FleetSection
from fedinfer.config.operating import (
    ArtifactSection,
    DriftSection,
    ReportSection,
    RolloutSection,
    SimulationSection,
)
from fedinfer.config.rows import DataSection
from fedinfer.metrics import Metric
from fedinfer.types import AggregationMode, Trust, Unit


class ModelKind(StrEnum):
    """Model architectures that ship with fedinfer."""

    LOGISTIC = "logistic"
    LINEAR = "linear"
    ADDITIVE = "additive"
    MLP = "mlp"
    CNN = "cnn"
    TCN = "tcn"
    GRU = "gru"
    TRANSFORMER = "transformer"
    BAG = "bag"
    RECOMMENDER = "recommender"


class NumberLoss(StrEnum):
    """What a regression minimises, on the label scaled to [-1, 1]."""

    HUBER = "huber"
    SQUARED = "squared"


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


class Correlation(StrEnum):
    """How the noise of different rounds is correlated."""

    NONE = "none"
    BANDED = "banded"
    BLT = "blt"


class ScenarioSection(Section):
    """[scenario]: the name and the seed."""

    name: str = Field(
        default="unnamed",
        pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$",
        description="Name of the task in reports, models and ledgers: 1 to 64 of `a-z`, `0-9`, `_`, `-`.",
    )
    seed: Seed = Field(
        default=1, description="Everything random in a simulation follows from it; a deployment ignores it."
    )
    description: str = Field(default="", description="One sentence for `fedinfer scenarios`.")


class ModelSection(Section):
    """[model]: what is trained."""

    kind: ModelKind = Field(default=ModelKind.LOGISTIC, description="Architecture that ships with fedinfer.")
    hidden: tuple[Count, ...] = Field(
        default=(32,), description="Sizes of the hidden layers (`mlp`, and the head of others)."
    )
    pixels: Literal["scaled", "standardized"] = Field(
        default="scaled",
        description="Images of kinds `logistic`, `mlp` and `cnn`: `scaled` to [0, 1], or `standardized`: each image "
        "less its mean, scaled to length 4, so that brightness and contrast do not count and all images weigh alike.",
    )
    knots: Annotated[int, Field(ge=2, le=64)] = Field(
        default=8, description="`additive`: knots of the function of a numeric column, evenly spaced over its range."
    )
    pairs: tuple[tuple[str, str], ...] = Field(
        default=(),
        description='`additive`: public list of pairs of columns that act together, `[["a", "b"]]`; each gets a grid '
        "of `pair_knots` knots per numeric column.",
    )
    pair_knots: Annotated[int, Field(ge=2, le=16)] = Field(
        default=4, description="`additive`: knots of a numeric column of a pair."
    )
    factory: str = Field(
        default="",
        pattern=r"^$|^[\w.]+:\w+$",
        description='Your own model, "package.module:callable"; replaces `kind`.',
    )


class TrainingSection(Section):
    """[training]: how rounds are made."""

    start: Annotated[str, Field(min_length=1)] = Field(
        default="latest",
        description="Weights that a run begins with. `latest`: of the version that the whole fleet got last from this "
        "run folder; in a new folder fresh ones. `fresh`: the model's own, or pre-trained ones. Else a file of the "
        "server, `checkpoints/vN.npz` of a run.",
    )
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
    loss: NumberLoss = Field(
        default=NumberLoss.HUBER,
        description="Numeric label, scaled to [-1, 1]: `huber` (errors over a tenth of the range count linearly) or "
        "`squared`. Classes always use the cross-entropy.",
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
        description="`norm_bounded_mean`: largest L2 norm of one group's mean; 0: the round's clipping norm.",
    )
    deadline_seconds: Positive = Field(
        default=3600.0, description="Longest wait for the devices in one stage of a round."
    )
    evaluate_every: Count = Field(
        default=1,
        description="Rounds from one set of figures on held-out rows to the next. Where rounds are short, figures take "
        "a good part of their time. The last of the planned rounds, and of those after an alarm, always has them.",
    )
    metric: Metric | Literal[""] = Field(
        default="",
        description="Figure by which rounds, gates, drift figures and reports judge. Empty: it follows the data, which "
        "is `average_precision` where one of two classes holds less than 20 % of the rows, else `accuracy`, and "
        "`rmse` where the label is a number.",
    )
    threshold: Annotated[float, Field(gt=0, lt=1)] | Literal["public", "private"] = Field(
        default=0.5,
        description="Two classes: the second one is answered from this probability on. 0.5: the likeliest class. "
        "`public`: chosen on the public rows for `metric`; F1 stands for `average_precision`, balanced accuracy for "
        "`auc`. `private`: chosen by a private histogram of the devices' held-out rows.",
    )
    threshold_epsilon: NonNegative = Field(
        default=0.0,
        description="Part of the budget that all private choices of a threshold share, one for every version that can "
        "be published. With unit `example` it is of the budget of held-out rows, which training leaves alone.",
    )
    class_weights: Literal["none", "balanced"] | dict[str, Positive] = Field(
        default="none",
        description="How much a row counts in the loss, by its class. `balanced`: every class as much as any other, by "
        "`prior` or the shares on public rows, never those on devices. `class_weights.CLASS = 5.0`: stated. Gradients "
        "are clipped after weighting, so privacy does not depend on it; probabilities then speak of balanced classes.",
    )
    prior: dict[str, OpenFraction] = Field(
        default={},
        description="`prior.CLASS = 0.01`: public share of every class, known from elsewhere and never counted on "
        'devices; they sum to 1. The default of `metric` and `class_weights = "balanced"` follow it.',
    )

    @field_validator("prior")
    @classmethod
    def _prior_sums_to_one(cls, prior: dict[str, float]) -> dict[str, float]:
        if prior and abs(sum(prior.values()) - 1.0) > 1e-6:
            raise ValueError(f"shares sum to {sum(prior.values()):g}, must sum to 1")
        return prior


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
    clipping: Literal["fixed", "adaptive"] = Field(
        default="fixed",
        description="`adaptive`: `clipping_norm` is where the norm starts; it then follows a quantile of the devices' "
        "update norms, learned in private inside the same sums (Andrew et al. 2021). Only for unit `device`.",
    )
    clipping_quantile: OpenFraction = Field(
        default=0.5, description="`adaptive`: part of the devices whose updates shall not be clipped."
    )
    clipping_rate: PositiveFraction = Field(
        default=0.2, description="`adaptive`: step of the norm; a round changes it by at most this factor of e."
    )
    clipping_weight: PositiveFraction = Field(
        default=0.25,
        description="`adaptive`: size of a device's extra coordinate, which says whether it was clipped, beside an "
        "update of norm 1. At 0.25 updates carry 3 % more noise, and the part of n devices that were not clipped is "
        "known up to 2.1 noise multipliers / n.",
    )
    mechanism: Literal["skellam", "discrete_gaussian"] = Field(
        default="skellam", description="Integer noise under secure aggregation (trust `distributed`)."
    )
    correlation: Correlation = Field(
        default=Correlation.NONE,
        description="Noise of the training rounds. `none`: independent. `banded`: noise of a round cancels part of the "
        "noise of rounds before it, for many rounds; needs trust `central`, `robust` `mean`, no sampling. `blt`: the "
        "same with a few per cent more noise, and a memory of at most four vectors for any number of rounds.",
    )
    device_epsilon: NonNegative = Field(
        default=0.0, description="Budget that a device enforces for itself; 0: `epsilon`."
    )
    local_steps: Natural = Field(
        default=0, description="DP-SGD steps of a device in a round (trust `local`); 0: one epoch."
    )

    @model_validator(mode="after")
    def _adaptive_only_for_devices(self) -> PrivacySection:
        if self.clipping == "adaptive" and self.unit is not Unit.DEVICE:
            raise ValueError(
                f"clipping = 'adaptive' with unit = {str(self.unit)!r}: a device reports whether its whole update was "
                "clipped, so it needs unit = 'device'; else use clipping = 'fixed'"
            )
        return self


class SecureAggregationSection(Section):
    """[secure_aggregation]: how updates are summed."""

    mode: AggregationMode = Field(
        default=AggregationMode.PROTOCOL,
        description="`protocol`: real keys, masks and shares. `ideal`: the same integers, summed in plaintext, for "
        "large simulations. `off`: unsafe, no protection of single updates.",
    )
    dropout_rate: Loss = Field(default=0.1, description="Largest part of a cohort that may drop out without an abort.")
    corruption_rate: Loss = Field(
        default=0.1,
        description="Largest part of a cohort that may work for the attacker: of n devices, the next whole number "
        "above. A real device counts at least on its owner's own rate; 0 counts on nobody and is for simulations.",
    )
    group_size: Annotated[int, Field(ge=0, le=10_000)] = Field(
        default=0,
        description="Larger cohorts are put at random into groups of at most this size, each with a private sum of its "
        "own; 0: 500. Below 100 the minimum aggregation size is small and noise is large.",
    )


class Scenario(Section):
    """Everything a run needs, validated. `base` is the folder of the TOML.

    Notices of retired keys are no part of a scenario: they are not dumped, and so not sent to devices.
    """

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
    simulation: SimulationSection = SimulationSection()
    report: ReportSection = ReportSection()
    base: Path = Path()
    _notices: tuple[str, ...] = PrivateAttr(default=())

    @property
    def notices(self) -> tuple[str, ...]:
        """What whoever wrote the scenario should know about the keys in it, for people."""
        return self._notices

    def noticed(self, notices: tuple[str, ...]) -> Scenario:
        """This scenario with other notices.

        Args:
            notices: one sentence each, for people.
        """
        scenario = self.model_copy()
        scenario._notices = notices
        return scenario

    @property
    def most_rounds(self) -> int:
        """Training rounds of a run in which drift triggers as often as it may."""
        triggered = self.drift.max_triggers * self.drift.rounds if self.drift.enabled else 0
        return self.training.rounds + triggered
