"""What would fail after rounds that were paid for fails before the first of them, with nothing spent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fedinfer.config import Scenario
from fedinfer.coordinator import rehearsal
from fedinfer.coordinator.rehearsal import rehearse
from fedinfer.errors import ConfigError
from fedinfer.simulation.engine import prepare_local
from fedinfer.system import SystemClock
from fedinfer.training import GradientEngine, load_trainer
from tests.protocol.fleet import SCHEMA, settings

HERE = __name__
WIDTH = 6
"""Three columns and their missing-value indicators."""


class NoExport(nn.Module):
    """Learns, and does what no exporter can write down."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answers: torch.Tensor = self.linear(x)
        return answers + torch.special.bessel_j0(x[:, :2]).detach()


class Endless(nn.Module):
    """Gives answers that are not finite on rows other than zero."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answers: torch.Tensor = self.linear(x) + 1 / (x.abs().sum(1, keepdim=True) < 0.5)
        return answers


class Buffered(nn.Module):
    """A layer with weights that owns a buffer: rows could see each other."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(WIDTH, 2))
        self.register_buffer("seen", torch.ones(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight + self.get_buffer("seen")


class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.linear = nn.LSTM(1, 3, batch_first=True), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answers: torch.Tensor = self.linear(self.lstm(x.unsqueeze(-1))[0][:, -1])
        return answers


def no_export(schema: Any) -> nn.Module:
    return NoExport()


def endless(schema: Any) -> nn.Module:
    return Endless()


def buffered(schema: Any) -> nn.Module:
    return Buffered()


def lstm(schema: Any) -> nn.Module:
    return Lstm()


@pytest.fixture(autouse=True)
def nothing_rehearsed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    passed: set[str] = set()
    monkeypatch.setattr(rehearsal, "_passed", passed)
    return passed


def rehearsed(scenario: Scenario, engine: GradientEngine = GradientEngine.BATCHED) -> None:
    trainer = load_trainer(scenario.model, SCHEMA, scenario.training, 1)
    rehearse(scenario, SCHEMA, trainer, engine, SystemClock())


@pytest.mark.parametrize(
    ("factory", "stage"),
    [
        ("endless", "fails"),
        ("buffered", "a training step fails"),
    ],
)
@pytest.mark.parametrize("engine", [GradientEngine.BATCHED, GradientEngine.PER_EXAMPLE])
def test_what_cannot_work_is_a_configuration_error(factory: str, stage: str, engine: GradientEngine) -> None:
    with pytest.raises(ConfigError, match=f"{stage}.*no budget was spent"):
        rehearsed(settings(f'model.factory = "{HERE}:{factory}"'), engine)


@pytest.mark.slow
def test_what_cannot_be_exported_is_found_and_said_in_few_words() -> None:
    with pytest.raises(
        ConfigError, match=r"export, quantization or its gates fails: .*; no budget was spent"
    ) as caught:
        rehearsed(settings(f'model.factory = "{HERE}:no_export"'))
    assert len(str(caught.value)) < 1000


def test_a_file_that_devices_would_not_take_is_found(nothing_rehearsed: set[str]) -> None:
    with pytest.raises(ConfigError, match=r"export, quantization or its gates fails: GateFailed"):
        rehearsed(settings("artifact.max_bytes = 100"))
    assert not nothing_rehearsed


@pytest.mark.parametrize("extra", ["", 'privacy.unit = "device"', 'privacy.trust = "local"'])
def test_what_works_passes_and_is_rehearsed_once(extra: str, nothing_rehearsed: set[str]) -> None:
    rehearsed(settings(extra))
    assert len(nothing_rehearsed) == 1
    rehearse(settings(extra), SCHEMA, None, GradientEngine.BATCHED, SystemClock())  # type: ignore[arg-type]  # not used
    rehearsed(settings(extra), GradientEngine.PER_EXAMPLE)
    assert len(nothing_rehearsed) == 2


@pytest.mark.slow
def test_a_recurrent_model_of_the_user_passes() -> None:
    rehearsed(settings(f'model.factory = "{HERE}:lstm"'))


def test_a_run_that_cannot_work_stops_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.protocol.fleet import write_table

    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "rows.csv", 1, 400)
    scenario = settings("artifact.max_bytes = 100\ndata.partition.devices = 8", tmp_path)
    with pytest.raises(ConfigError, match="no budget was spent"):
        prepare_local(scenario)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]
