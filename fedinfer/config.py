"""A scenario: read from TOML (or Flower's flat run config), validated once, then frozen.

`load_scenario` is the only door. Sections and keys are documented with their defaults in docs/reference/scenario.md.
A scenario may start with `extends = "name"`: the named built-in or file is read first and this one laid over it.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from fedinfer.types import AggregationMode, Trust, Unit

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
OpenFraction = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Base of all sections: unknown keys are refused, values cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


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


class ScenarioSection(Section):
    """[scenario]."""

    name: str = "unnamed"
    seed: int = 1
    description: str = ""


class PartitionSection(Section):
    """[data.partition]: only without data.device."""

    devices: Count = 10
    scheme: Literal["iid", "dirichlet", "shards"] = "iid"
    alpha: Positive = 0.5


class DataSection(Section):
    """[data]."""

    source: Literal["csv", "builtin"] = "builtin"
    name: str = ""
    path: str = ""
    label: str = ""
    device: str = ""
    drop: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    ranges: dict[str, tuple[float, float]] = {}
    ranges_confirmed: bool = True
    test_fraction: OpenFraction = 0.3
    public_fraction: Fraction = 0.0
    partition: PartitionSection = PartitionSection()


class ModelSection(Section):
    """[model]."""

    kind: ModelKind = ModelKind.LOGISTIC
    hidden: tuple[Count, ...] = (32,)
    factory: str = ""


class TrainingSection(Section):
    """[training]."""

    pretrain: bool = False
    pretrain_epochs: Count = 20
    tune: Tune = Tune.ALL
    rounds: Annotated[int, Field(ge=0)] = 10
    cohort: Annotated[int, Field(ge=0)] = 0
    local_epochs: Count = 1
    local_steps: Annotated[int, Field(ge=0)] = 0
    batch_size: Count = 32
    sampling_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    learning_rate: Positive = 0.1
    momentum: Fraction = 0.0
    proximal: Annotated[float, Field(ge=0)] = 0.0
    server_optimizer: ServerOptimizer = ServerOptimizer.FEDAVG
    server_learning_rate: Positive = 1.0
    server_momentum: Fraction = 0.9
    deadline_seconds: Positive = 3600.0


class PrivacySection(Section):
    """[privacy]."""

    unit: Unit = Unit.EXAMPLE
    trust: Trust = Trust.DISTRIBUTED
    epsilon: Positive = 1.0
    delta: OpenFraction = 1e-5
    clipping_norm: Positive = 1.0
    mechanism: Literal["skellam", "discrete_gaussian"] = "skellam"
    device_epsilon: Annotated[float, Field(ge=0)] = 0.0
    local_steps: Annotated[int, Field(ge=0)] = 0


class SecureAggregationSection(Section):
    """[secure_aggregation]."""

    mode: AggregationMode = AggregationMode.PROTOCOL
    dropout_rate: Annotated[float, Field(ge=0, lt=0.9)] = 0.1
    corruption_rate: Annotated[float, Field(ge=0, lt=0.9)] = 0.1
    server_model: Literal["semi_honest", "semi_malicious"] = "semi_malicious"
    bits: Annotated[int, Field(ge=0, le=32)] = 0
    group_size: Annotated[int, Field(ge=0)] = 0


class ArtifactSection(Section):
    """[artifact]."""

    quantization: Literal["int8", "float"] = "int8"
    max_metric_drop: Fraction = 0.02
    max_bytes: Count = 50_000_000
    min_agreement: Fraction = 0.95


class RolloutSection(Section):
    """[rollout]."""

    waves: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (0.25, 1.0)
    min_judged: Count = 1
    max_failure_rate: Fraction = 0.2


class InjectSection(Section):
    """[drift.inject]: change the world of a simulation at a stated window."""

    kind: Literal["rotate", "shift", "scale", "noise", "label"] = "rotate"
    at_window: Count = 5
    fraction: Fraction = 1.0
    amount: float = 0.0
    column: str = ""


class DriftSection(Section):
    """[drift]."""

    enabled: bool = True
    windows: Annotated[int, Field(ge=0)] = 6
    window: Count = 20
    epsilon: Positive = 0.3
    false_alarm_rate: OpenFraction = 0.05
    rounds: Annotated[int, Field(ge=0)] = 5
    max_triggers: Annotated[int, Field(ge=0)] = 1
    after_windows: Annotated[int, Field(ge=0)] = 2
    inject: InjectSection | None = None


class FleetSection(Section):
    """[fleet]: how simulated devices behave."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    late_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Scenario(Section):
    """Everything a run needs, validated. `base` is the folder relative paths start from."""

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
