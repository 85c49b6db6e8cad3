"""Keys of older scenarios are read for one release more, with a notice; they never decide over a key of today."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedinfer.apps import scenario_of
from fedinfer.cli.main import app
from fedinfer.config import from_flat, load_scenario, parse_scenario, to_flat
from fedinfer.config.load import override
from fedinfer.config.problems import section_of
from fedinfer.config.retired import RETIRED
from fedinfer.coordinator.plan.cohort import Population
from fedinfer.coordinator.plan.run_plan import make_plan
from fedinfer.errors import ConfigError

RENAMED = "[rollout] gate_epsilon is now called canary_epsilon"
REMOVED = "[secure_aggregation] server_model was removed and has no effect"


def test_a_renamed_key_means_what_the_new_one_does(tmp_path: Path) -> None:
    old = parse_scenario("[rollout]\ngate_epsilon = 0.5\nmin_judged = 2", tmp_path, "old.toml")
    new = parse_scenario("[rollout]\ncanary_epsilon = 0.5\nmin_judged = 2", tmp_path, "new.toml")
    assert old.model_dump() == new.model_dump()
    assert old.rollout.canary_epsilon == 0.5
    assert new.notices == ()
    (notice,) = old.notices
    assert notice.startswith(RENAMED)


@pytest.mark.parametrize("value", ['"semi_malicious"', '"semi_honest"', "7"])
def test_a_removed_key_has_no_effect(tmp_path: Path, value: str) -> None:
    loaded = parse_scenario(f"[secure_aggregation]\nserver_model = {value}\ndropout_rate = 0.2", tmp_path, "old.toml")
    new = parse_scenario("[secure_aggregation]\ndropout_rate = 0.2", tmp_path, "new.toml")
    assert loaded.model_dump() == new.model_dump()
    (notice,) = loaded.notices
    assert notice.startswith(REMOVED)


def test_what_is_said_later_wins_whatever_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "old.toml").write_text("[rollout]\ngate_epsilon = 0.5")
    (tmp_path / "new.toml").write_text('extends = "old.toml"\n[rollout]\ncanary_epsilon = 0.25')
    (tmp_path / "older.toml").write_text('extends = "new.toml"\n[rollout]\ngate_epsilon = 0.125')
    for name, epsilon in (("old", 0.5), ("new", 0.25), ("older", 0.125)):
        loaded = load_scenario(str(tmp_path / f"{name}.toml"))
        assert loaded.rollout.canary_epsilon == epsilon
        assert len(loaded.notices) == 1
    overridden = load_scenario("digits", ["rollout.gate_epsilon=0.75"])
    assert overridden.rollout.canary_epsilon == 0.75
    assert overridden.notices == loaded.notices


def test_both_names_in_one_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"old\.toml: \[rollout\] has canary_epsilon and gate_epsilon") as caught:
        parse_scenario("[rollout]\ngate_epsilon = 0.5\ncanary_epsilon = 0.5", tmp_path, "old.toml")
    assert caught.value.hint == "leave gate_epsilon out"


def test_the_rule_of_the_new_key_holds_and_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"old\.toml: key \[rollout\] canary_epsilon = -1"):
        parse_scenario("[rollout]\ngate_epsilon = -1", tmp_path, "old.toml")


def test_a_section_that_is_no_table_is_the_same_error_as_ever(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"section \[rollout\] = 3"):
        parse_scenario("rollout = 3", tmp_path, "old.toml")


def test_notices_stay_with_the_person_and_do_not_reach_devices(tmp_path: Path) -> None:
    old = parse_scenario("[rollout]\ngate_epsilon = 0.5", tmp_path, "old.toml")
    flat = to_flat(old)
    assert "called" not in json.dumps(flat)
    assert from_flat(flat).model_dump() == old.model_dump()
    assert from_flat(flat).notices == ()
    assert override(old, {"training.rounds": 3}).notices == old.notices
    assert from_flat({"scenario": "heart", "rollout.gate_epsilon": 0.5}).notices == old.notices


def test_a_run_config_that_names_a_file_with_old_keys_has_its_notices(tmp_path: Path) -> None:
    (tmp_path / "old.toml").write_text("[rollout]\ngate_epsilon = 0.5")
    loaded = from_flat({"scenario": str(tmp_path / "old.toml"), "rollout.canary_epsilon": 0.25})
    assert loaded.rollout.canary_epsilon == 0.25
    assert len(loaded.notices) == 1


def test_the_plan_of_a_run_warns_of_old_keys() -> None:
    old = load_scenario("heart", ["rollout.gate_epsilon=0", "secure_aggregation.server_model=semi_honest"])
    warnings = make_plan(old, Population(4, 644, 80, 54, 2), "local", ()).warnings
    assert old.notices
    assert set(old.notices) <= set(warnings)


def test_the_scenario_of_a_run_on_ray_keeps_its_notices(tmp_path: Path) -> None:
    old = load_scenario("heart", ["rollout.gate_epsilon=0"])
    (tmp_path / "scenario.json").write_text(json.dumps({**to_flat(old), "notices": old.notices}))
    assert scenario_of(f"flat:{tmp_path / 'scenario.json'}", "").notices == old.notices


def test_validate_shows_old_keys() -> None:
    arguments = ["validate", "heart", "--set", "rollout.gate_epsilon=0", "--set", "secure_aggregation.server_model=x"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    assert f"warning: {RENAMED}" in result.stderr
    assert f"warning: {REMOVED}" in result.stderr
    document = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert [RENAMED in warning for warning in document["warnings"]].count(True) == 1


def test_the_table_names_keys_that_are_gone_and_keys_that_are_there() -> None:
    for old in RETIRED:
        section = section_of((old.section,))
        assert section is not None
        assert old.key not in section.model_fields
        assert not old.now or old.now in section.model_fields
