"""A scenario: read from TOML (or Flower's flat run config), validated once, then frozen.

`load_scenario` is the only entry point for files. Sections and keys are documented in docs/reference/scenario.md.
"""

from fedinfer.config.class_weights import class_factors, class_gain, resolve_weights, weighted
from fedinfer.config.factory import import_factory
from fedinfer.config.fields import Section
from fedinfer.config.flat import from_flat, to_flat
from fedinfer.config.fleet import FleetClockSection, FleetDeviceSection, FleetSection
from fedinfer.config.load import FILE_IN_FOLDER, load_builtin, load_scenario, override, parse_scenario, scenario_names
from fedinfer.config.operating import (
    Accelerator,
    ArtifactSection,
    DriftSection,
    InjectSection,
    ReportSection,
    RolloutSection,
    SimulationSection,
)
from fedinfer.config.rows import DataSection, PartitionSection, SyntheticSection
from fedinfer.config.sections import (
    Correlation,
    ModelKind,
    ModelSection,
    NumberLoss,
    PrivacySection,
    Robust,
    Scenario,
    ScenarioSection,
    SecureAggregationSection,
    ServerOptimizer,
    TrainingSection,
    Tune,
)

__all__ = [
    "FILE_IN_FOLDER",
    "Accelerator",
    "ArtifactSection",
    "Correlation",
    "DataSection",
    "DriftSection",
    "FleetClockSection",
    "FleetDeviceSection",
    "FleetSection",
    "InjectSection",
    "ModelKind",
    "ModelSection",
    "NumberLoss",
    "PartitionSection",
    "PrivacySection",
    "ReportSection",
    "Robust",
    "RolloutSection",
    "Scenario",
    "ScenarioSection",
    "Section",
    "SecureAggregationSection",
    "ServerOptimizer",
    "SimulationSection",
    "SyntheticSection",
    "TrainingSection",
    "Tune",
    "class_factors",
    "class_gain",
    "from_flat",
    "import_factory",
    "load_builtin",
    "load_scenario",
    "override",
    "parse_scenario",
    "resolve_weights",
    "scenario_names",
    "to_flat",
    "weighted",
]
