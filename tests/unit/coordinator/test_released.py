"""From one run to the next: what it starts from, and that no worse version follows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from fedinfer.artifact import ChosenFile
from fedinfer.coordinator import released
from fedinfer.coordinator.context import Server
from fedinfer.coordinator.released import check_not_worse, mark_released, released_version, save_version, start_of
from fedinfer.errors import ConfigError, GateFailed
from fedinfer.metrics import Metric
from fedinfer.schema import Numeric, Schema
from tests.protocol.fleet import SCHEMA, settings

ROWS = np.zeros((8, 3), np.float32), np.array([0, 1] * 4)
OTHER = Schema((Numeric("z", 0, 1),), "y", ("no", "yes"))


@dataclass(frozen=True)
class Answers:
    """A model file that is right on so many of eight rows."""

    right: int
    schema: Schema = SCHEMA
    threshold: float = 0.5

    def answers(self, x: Any) -> Any:
        said = np.where(np.arange(len(x)) < self.right, ROWS[1], 1 - ROWS[1])
        return np.eye(2, dtype=np.float32)[said]


def server(folder: Path, extra: str = "", rows: Any = ROWS, *, simulated: bool = False) -> Server:
    (folder / "checkpoints").mkdir(exist_ok=True)
    facts = SimpleNamespace(
        scenario=settings(extra),
        schema=SCHEMA,
        folder=folder,
        trainer=SimpleNamespace(size=5),
        public=(ROWS[0][:0], ROWS[1][:0]),
        judged=lambda window: rows,
        judged_by=SimpleNamespace(metric=Metric.ACCURACY),
        simulated=simulated,
        repository=SimpleNamespace(versions=lambda: (1, 2), model_files=lambda v: {}, manifest=lambda version: version),
    )
    return cast(Server, facts)


@pytest.fixture
def active(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Version 1 is right on six of eight rows, version 2 on four; what was compared."""
    asked: list[int] = []

    def of(manifest: int, files: Any) -> Answers:
        asked.append(manifest)
        return Answers({1: 6, 2: 4}[manifest])

    monkeypatch.setattr(ChosenFile, "of", of)
    return asked


def test_a_new_folder_starts_fresh_and_a_later_run_from_the_version_that_everybody_got(tmp_path: Path) -> None:
    own = server(tmp_path)
    assert start_of(own) == released.Start("fresh", None)
    for version in (1, 2):
        save_version(own, version, "initial", np.full(5, version, np.float32))
    assert start_of(own).source == "fresh", "version 2 was signed, and nobody got it"
    mark_released(tmp_path, 1)
    assert released_version(tmp_path) == 1
    start = start_of(own)
    assert (start.source, cast(Any, start.weights).tolist()) == ("version 1", [1.0] * 5)
    assert start_of(server(tmp_path, 'training.start = "fresh"')).weights is None


def test_a_file_is_named_and_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    own, file = server(tmp_path), tmp_path / "checkpoints" / "v3.npz"
    save_version(own, 3, "initial", np.ones(5, np.float32))
    start = start_of(server(tmp_path, f'training.start = "{file}"'))
    assert (start.source, len(cast(Any, start.weights))) == (str(file), 5)
    for other in ('training.start = "{}"\nmodel.kind = "mlp"', 'training.start = "{}.absent"'):
        with pytest.raises(ConfigError, match=r"another model or schema|is not a checkpoint"):
            start_of(server(tmp_path, other.format(file)))
    save_version(own, 3, "initial", np.ones(4, np.float32))
    with pytest.raises(ConfigError, match="another model or schema"):
        start_of(server(tmp_path, f'training.start = "{file}"'))


def test_a_worse_version_is_refused_with_both_figures(tmp_path: Path, active: list[int]) -> None:
    own = server(tmp_path)
    mark_released(tmp_path, 1)
    with pytest.raises(GateFailed, match=r"worse than version 1.* 8 public rows: accuracy 0\.625, now 0\.75"):
        check_not_worse(own, 2, cast(ChosenFile, Answers(5)))
    assert check_not_worse(own, 2, cast(ChosenFile, Answers(6))) == ""
    assert active == [1, 1]


def test_without_a_released_version_the_newest_one_is_compared(tmp_path: Path, active: list[int]) -> None:
    assert check_not_worse(server(tmp_path), 2, cast(ChosenFile, Answers(5))) == ""
    assert active == [2]


def test_a_loss_that_is_allowed_passes(tmp_path: Path, active: list[int]) -> None:
    allowed = server(tmp_path, "rollout.max_public_drop = 0.2")
    mark_released(tmp_path, 1)
    assert check_not_worse(allowed, 2, cast(ChosenFile, Answers(5))) == ""


def test_what_cannot_be_judged_is_said(tmp_path: Path, active: list[int]) -> None:
    nothing = (ROWS[0][:0], ROWS[1][:0])
    for own, new in (
        (server(tmp_path, rows=nothing), Answers(0)),
        (server(tmp_path), Answers(0, OTHER)),
        (server(tmp_path, simulated=True), Answers(0)),
    ):
        assert "nobody judged whether" in check_not_worse(own, 2, cast(ChosenFile, new))
