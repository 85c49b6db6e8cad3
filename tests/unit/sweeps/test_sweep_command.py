"""What the command refuses, and how it says how far it is."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from fedinfer.cli.main import app
from fedinfer.cli.sweep import _left
from fedinfer.sweeps import Tick


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epsilon", "0,1"], "0 is no number above 0"),
        (["--epsilon", "one"], "'one' is no number above 0"),
        (["--epsilon", "1,1.0"], "given twice"),
        (["--epsilon", "1", "--set", "privacy.epsilon=2,3"], "privacy.epsilon is given twice"),
        (["--set", "scenario.seed=1,2"], "cannot be an axis"),
        (["--set", "training.rounds"], "expected section.key=a,b,c"),
        (["--set", "training.sounds=5"], "sounds"),
        (
            ["--epsilon", "1", "--rows", "synthetic", "--private-selection", "5"],
            "private selection is for private rows",
        ),
    ],
)
def test_what_means_nothing_is_refused_before_anything_is_written(
    words: list[str], message: str, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["sweep", "heart", *words])
    assert done.exit_code == 2
    assert message in done.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("tick", "words"),
    [
        (Tick(0, 10, 0, 0, None), "time left unknown yet"),
        (Tick(4, 10, 2, 1, 61.2), "2 taken from the folder, 1 could not run, about 61 s left"),
        (Tick(4, 10, 0, 0, 200.0), "about 3 min 20 s left"),
        (Tick(10, 10, 0, 0, 0.0), "done"),
    ],
)
def test_progress_says_what_is_left(tick: Tick, words: str) -> None:
    assert _left(tick) == words
