"""Scenarios from names, files, parents and overrides."""

from pathlib import Path

import pytest

from fedinfer.config import ModelKind, Scenario, load_scenario, parse_scenario, scenario_names
from fedinfer.errors import ConfigError
from fedinfer.types import Trust, Unit


def write(folder: Path, text: str, name: str = "scenario.toml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_every_built_in_loads_and_says_what_it_is() -> None:
    assert {"credit", "digits", "heart", "ratings", "reviews", "watch"} <= set(scenario_names())
    for name in scenario_names():
        scenario = load_scenario(name)
        assert scenario.scenario.name == name
        assert scenario.scenario.description
        assert scenario.data.ranges_confirmed


def test_the_built_ins_say_what_they_promise() -> None:
    heart, digits = load_scenario("heart"), load_scenario("digits")
    assert (heart.privacy.unit, heart.privacy.trust) == (Unit.EXAMPLE, Trust.DISTRIBUTED)
    assert (heart.privacy.epsilon, heart.privacy.delta) == (1.0, 1e-5)
    assert (digits.privacy.unit, digits.data.partition.devices) == (Unit.DEVICE, 200)
    assert digits.privacy.epsilon <= 8
    assert digits.drift.inject is not None
    assert (digits.drift.inject.kind, digits.drift.inject.amount) == ("rotate", 30)


def test_an_empty_file_has_all_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    assert load_scenario(str(path)) == Scenario(base=tmp_path)


def test_a_folder_means_its_scenario_toml(tmp_path: Path) -> None:
    write(tmp_path, '[scenario]\nname = "mine"')
    assert load_scenario(str(tmp_path)).scenario.name == "mine"


def test_a_relative_table_starts_from_the_folder_of_the_toml_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "base", '[data]\nsource = "csv"\npath = "../tables/a.csv"\nlabel = "y"', "parent.toml")
    child = write(tmp_path / "child", 'extends = "../base/parent.toml"\n[training]\nrounds = 3')
    monkeypatch.chdir("/")
    scenario = load_scenario(str(child))
    assert scenario.data.path == str(tmp_path / "tables" / "a.csv")
    assert scenario.base == tmp_path / "child"


def test_an_override_path_starts_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scenario = load_scenario("heart", ["data.source=csv", "data.path=own.csv"])
    assert scenario.data.path == str(tmp_path / "own.csv")


def test_a_child_is_laid_over_its_parents_key_by_key(tmp_path: Path) -> None:
    write(tmp_path, 'extends = "heart"\n[data.ranges]\nage = [0, 120]\n[training]\nrounds = 7', "middle.toml")
    path = write(tmp_path, 'extends = "middle.toml"\n[privacy]\nepsilon = 4')
    child, heart = load_scenario(str(path)), load_scenario("heart")
    assert child.data.ranges == {**heart.data.ranges, "age": (0.0, 120.0)}
    assert list(child.data.ranges) == list(heart.data.ranges)
    assert child.training == heart.training.model_copy(update={"rounds": 7})
    assert child.privacy == heart.privacy.model_copy(update={"epsilon": 4.0})
    assert child.data.categories == heart.data.categories


def test_extends_in_a_circle_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, 'extends = "b.toml"', "a.toml")
    write(tmp_path, 'extends = "a.toml"', "b.toml")
    with pytest.raises(ConfigError, match=r"circle: a\.toml -> b\.toml -> a\.toml"):
        load_scenario(str(tmp_path / "a.toml"))


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("training.rounds=3", lambda s: s.training.rounds == 3),
        ("training.rounds = 3", lambda s: s.training.rounds == 3),
        ("privacy.epsilon=2", lambda s: s.privacy.epsilon == 2.0),
        ("privacy.unit=device", lambda s: s.privacy.unit is Unit.DEVICE),
        ('privacy.unit="device"', lambda s: s.privacy.unit is Unit.DEVICE),
        ("model.kind=mlp", lambda s: s.model.kind is ModelKind.MLP),
        ("model.hidden=[64, 32]", lambda s: s.model.hidden == (64, 32)),
        ("training.pretrain=true", lambda s: s.training.pretrain is True),
        ('data.ranges."age"=[1, 2]', lambda s: s.data.ranges["age"] == (1.0, 2.0)),
        ("drift.inject.kind=shift", lambda s: s.drift.inject.kind == "shift"),
        ("drift.inject={kind='label', at_window=2}", lambda s: s.drift.inject.at_window == 2),
        ("scenario.description=a=b", lambda s: s.scenario.description == "a=b"),
    ],
)
def test_overrides_are_toml_values_and_bare_words_are_text(text: str, read) -> None:
    assert read(load_scenario("heart", [text]))


def test_the_last_override_wins() -> None:
    assert load_scenario("heart", ["training.rounds=3", "training.rounds=4"]).training.rounds == 4


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.round=3", ["unknown key [training] round", "did you mean 'rounds'"]),
        ("trainin.rounds=3", ["unknown section [trainin]", "did you mean 'training'"]),
        ("training.epsilon=3", ["unknown key [training] epsilon", "belongs to [privacy]"]),
        ("drift.inject.knd='shift'", ["unknown key [drift.inject] knd", "did you mean 'kind'"]),
        ("data.partition.device=3", ["unknown key [data.partition] device", "did you mean 'devices'"]),
        ("training.rounds=abc", ["[training] rounds = 'abc'", "integer"]),
        ("training.rounds='3'", ["[training] rounds = '3'", "integer"]),
        ("training.rounds=2.5", ["[training] rounds = 2.5", "integer"]),
        ("training.rounds=true", ["[training] rounds = True", "integer"]),
        ("training.pretrain=1", ["[training] pretrain = 1", "boolean"]),
        ("training.rounds=-1", ["[training] rounds = -1", "greater than or equal to 0"]),
        ("scenario.name=3", ["[scenario] name = 3", "string"]),
        ("scenario.name='My task'", ["[scenario] name = 'My task'", "pattern"]),
        ("scenario.name=''", ["[scenario] name = ''", "pattern"]),
        ("privacy.epsilon=0", ["[privacy] epsilon = 0", "greater than 0"]),
        ("privacy.epsilon=-1.5", ["[privacy] epsilon = -1.5", "greater than 0"]),
        ("privacy.epsilon=nan", ["[privacy] epsilon = nan"]),
        ("privacy.epsilon=inf", ["[privacy] epsilon = inf", "finite"]),
        ("privacy.delta=1", ["[privacy] delta = 1", "less than 1"]),
        ("privacy.unit=person", ["[privacy] unit = 'person'", "'example', 'device' or 'none'"]),
        ("rollout.waves=[0.5, 0.2]", ["[rollout] waves = [0.5, 0.2]", "grow and end at 1.0"]),
        ("rollout.waves=[]", ["[rollout] waves = []"]),
        ("data.ranges.age=[5, 5]", ["[data] ranges", "'age' is empty"]),
        ("data.ranges.age=[5]", ["[data] ranges.age"]),
        ("data.ranges.sex=[0, 1]", ["'sex' has a range and categories"]),
        ("data.categories.sex=['F', 'F']", ["[data] categories", "'sex'", "different names"]),
        ("data.labels=['a']", ["[data] labels = ['a']", "two or more different"]),
        ("data.labels=['a', 'a']", ["two or more different"]),
        ("data.labels=['a', 'b', 'c']", ["label_above makes two classes", "has 3"]),
        ("data.device=num", ["label 'num' cannot be the device column"]),
        ("data.source=csv", ["source = 'csv' needs path (is '')"]),
        ("model.factory=module", ["[model] factory = 'module'", "pattern"]),
        ("training=3", ["section [training] = 3"]),
        ("base='/'", ["base"]),
        ("training.rounds", ["--set 'training.rounds'", "section.key=value"]),
        ("a b.c=3", ["'a b.c' is not a key"]),
    ],
)
def test_a_wrong_value_names_option_key_value_and_rule(override: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_scenario("heart", [override])
    assert caught.value.exit_code == 2
    for word in [*words, "--set"]:
        assert word in str(caught.value)


def test_a_wrong_value_names_the_file_it_came_from(tmp_path: Path) -> None:
    parent = write(tmp_path, "[training]\nrouds = 3", "parent.toml")
    child = write(tmp_path, f'extends = "{parent}"\n[privacy]\nepsilon = -1')
    with pytest.raises(ConfigError) as caught:
        load_scenario(str(child))
    lines = str(caught.value).splitlines()
    assert f"{parent}: unknown key [training] rouds; did you mean 'rounds'?" in lines
    assert f"{child}: key [privacy] epsilon = -1: must be greater than 0" in lines


def test_long_values_are_cut_in_messages(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_scenario(f'[training]\nrounds = "{"x" * 5000}"', tmp_path, "here")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[training\nrounds = 3", ["not valid TOML", "line 1"]),
        (b"[training]\nrounds = three", ["not valid TOML", "line 2"]),
        (b"[training]\nrounds = 1\nrounds = 2", ["not valid TOML", "Cannot overwrite"]),
        ('name = "Zürich"'.encode("latin-1"), ["byte 9 is not UTF-8"]),
        (b"extends = 3", ["extends = 3", "quotes"]),
        (b'extends = "nowhere.toml"', ["extends = 'nowhere.toml'", "no such scenario"]),
        (b'base = "x"', ["unknown key base"]),
        (b'data = "x"', ["section [data] = 'x'"]),
        (b"[training]\ndeadline_seconds = 2024-01-01", ["[training] deadline_seconds = '2024-01-01'"]),
    ],
)
def test_a_malformed_file_is_named_with_the_place(tmp_path: Path, content: bytes, words: list[str]) -> None:
    path = tmp_path / "scenario.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_scenario(str(path))
    for word in [*words, str(path)]:
        assert word in str(caught.value)


def test_a_missing_scenario_names_the_nearest_built_in() -> None:
    with pytest.raises(ConfigError, match="hart: no such scenario") as caught:
        load_scenario("hart")
    assert "did you mean 'heart'" in caught.value.hint
    assert ", ".join(scenario_names()) in caught.value.hint


def test_text_that_is_no_file_yet_is_checked_like_a_file(tmp_path: Path) -> None:
    text = '[data]\nsource = "csv"\npath = "a.csv"\nlabel = "y"'
    path = write(tmp_path, text)
    assert parse_scenario(text, tmp_path, "draft") == load_scenario(str(path))
    with pytest.raises(ConfigError, match="draft: not valid TOML"):
        parse_scenario("[", tmp_path, "draft")
    with pytest.raises(ConfigError, match=r"draft: key \[training\] rounds = -1"):
        parse_scenario("[training]\nrounds = -1", tmp_path, "draft")


def test_a_scenario_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_scenario("heart").training.rounds = 3


def test_canary_levels_are_added_once_to_the_first_list_and_need_one() -> None:
    scenario = load_scenario("heart", ["data.canary_levels=3"])
    levels = ("canary 1", "canary 2", "canary 3")
    assert scenario.data.categories["sex"] == ("Female", "Male", *levels)
    assert scenario.data.categories["fbs"] == ("FALSE", "TRUE")
    again = Scenario.model_validate_json(scenario.model_dump_json())
    assert again.data == scenario.data
    assert again.data.canary_levels == 3
    with pytest.raises(ConfigError, match="canary_levels"):
        load_scenario("digits", ["data.canary_levels=3"])
