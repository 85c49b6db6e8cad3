"""What a name means, what options `validate` shares with `run`, and messages that show what would do."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedinfer.cli.main import app
from fedinfer.cli.output import shortened
from fedinfer.config import load_builtin, load_scenario
from fedinfer.errors import ConfigError
from fedinfer.report import plural
from fedinfer.simulation.population import _noise


def called(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, " ".join(result.output.split())


def test_a_folder_wins_over_a_built_in_of_its_name_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "credit").mkdir()
    assert load_scenario("credit").data.name == "credit"  # a folder without a scenario is none
    (tmp_path / "credit" / "scenario.toml").write_text('extends = "heart"\n[training]\nrounds = 7\n')
    scenario = load_scenario("credit")
    assert (scenario.data.name, scenario.training.rounds) == ("heart", 7)
    assert "the built-in scenario of that name was not used" in scenario.notices[0]
    assert load_builtin("credit").data.name == "credit"


def test_init_refuses_the_name_of_a_built_in(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("x,y\n1,a\n2,b\n")
    code, text = called("init", str(tmp_path / "credit"), "--csv", str(tmp_path / "t.csv"), "--label", "y")
    assert code != 0
    assert "is the name of a built-in scenario" in text
    assert not (tmp_path / "credit").exists()


@pytest.mark.parametrize(
    ("override", "example"),
    [
        ("data.drop=[tenure]", "--set data.drop='[\"tenure\"]'"),
        ("training.rounds=two", "--set training.rounds=3"),
        ("data.ranges=3", "--set data.ranges='{ COLUMN = [0, 1] }'"),
        ("drift.enabled=maybe", "--set drift.enabled=true"),
    ],
)
def test_an_option_of_the_wrong_kind_is_answered_with_an_example(override: str, example: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_scenario("heart", [override])
    assert example in str(raised.value)


def test_validate_takes_what_run_takes() -> None:
    code, text = called("validate", "credit", "--rounds", "3", "--seed", "9", "--devices", "12", "--json")
    assert code == 0, text
    found = json.loads(text)
    assert (found["training"]["rounds"], found["seed"], found["data"]["devices"]) == (3, 9, 12)
    assert called("validate", "heart", "--devices", "9")[0] != 0


def test_noise_of_distributed_trust_works_at_its_defaults_and_takes_a_scenario() -> None:
    asked = (
        "privacy",
        "noise",
        "--epsilon",
        "1",
        "--delta",
        "1e-5",
        "--rounds",
        "20",
        "--trust",
        "distributed",
        "--json",
    )
    code, text = called(*asked)
    assert code == 0, text
    own = json.loads(called(*asked, "--scenario", "heart")[1])
    assert 10 < json.loads(text)["noise_multiplier"] < 30
    assert own["noise_multiplier"] == pytest.approx(json.loads(text)["noise_multiplier"], rel=0.05)


def test_plurals_and_long_warnings() -> None:
    assert [plural(1, "alarm", "0"), plural(0, "alarm", "0"), plural(0, "alarm")] == [
        "1 alarm",
        "0 alarms",
        "no alarms",
    ]
    assert [plural(2, "class"), plural(1200, "category")] == ["2 classes", "1,200 categories"]
    long = "Ranges were read off the data: " + ", ".join(f"x{number} (range)" for number in range(60)) + ". Beware."
    assert len(shortened(long)) < 300
    assert shortened(long).endswith("(--verbose shows all). Beware.")
    assert shortened("short") == "short"


def test_reports_of_different_tables_do_not_share_their_noise() -> None:
    from types import SimpleNamespace

    import numpy as np

    from fedinfer.messages import Purpose

    def first(value: float, purpose: Purpose) -> list[int]:
        data = SimpleNamespace(test_x=np.full((2, 2), value, np.float32), test_y=np.zeros(2, np.int64))
        noise = _noise(1, SimpleNamespace(devices={"d0": data}))  # type: ignore[arg-type]
        stream = noise(SimpleNamespace(purpose=purpose, round_id="window-0004"), "d0", "share")  # type: ignore[arg-type]
        return stream.words(8).tolist()  # type: ignore[attr-defined]

    assert first(1.0, Purpose.DRIFT) != first(2.0, Purpose.DRIFT)
    assert first(1.0, Purpose.DRIFT) == first(1.0, Purpose.DRIFT)
    assert first(1.0, Purpose.TRAIN) == first(2.0, Purpose.TRAIN)
