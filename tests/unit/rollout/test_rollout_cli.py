import json
import os
import sqlite3

import pytest
from typer.testing import CliRunner

from fedinfer.cli.rollout import app
from fedinfer.errors import ConfigError, LogTampered
from fedinfer.rollout.controller import Approval
from fedinfer.rollout.plan import read_devices, read_plan
from fedinfer.rollout.state import RolloutStore

PLAN = """
rollout = "spring"
version = "7"
previous = "6"
approval = "first_wave"
min_judged = 2
wrong_pass_rate = 0.01
wrong_stop_rate = 0.01
looks = 3

[[waves]]
fraction = 0.25
where = {region = "north"}
[[waves]]
fraction = 1

[[gates]]
figure = "install_failure"
bound = "at_most"
passes_at = 0.2
fails_at = 0.2
low = 0
high = 1.0
scope = "wave"
"""
DEVICES = "device,region\n" + "".join(f"d{i},{'north' if i % 2 else 'south'}\n" for i in range(16))


@pytest.fixture
def files(tmp_path):
    (tmp_path / "plan.toml").write_text(PLAN)
    (tmp_path / "devices.csv").write_text(DEVICES)
    return tmp_path


def call(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def as_json(*arguments):
    return json.loads(call(*arguments, "--json").stdout)


def begun(files):
    return as_json("start", files / "s.sqlite", files / "plan.toml", files / "devices.csv", "--by", "ann")


def test_a_plan_file_says_it_all(files):
    plan = read_plan(files / "plan.toml")
    assert (plan.rollout, plan.version, plan.previous, plan.approval) == ("spring", "7", "6", Approval.FIRST_WAVE)
    assert [(wave.fraction, wave.where) for wave in plan.waves] == [(0.25, {"region": "north"}), (1.0, {})]
    assert read_devices(files / "devices.csv")["d1"] == {"region": "north"}


def test_the_life_of_a_rollout_by_command(files):
    state = files / "s.sqlite"
    assert begun(files)["phase"] == "ready"
    assert as_json("approve", state, "--reason", "looks fine", "--by", "ann")["todo"] == [{"task": "push", "wave": 1}]
    assert as_json("pause", state)["phase"] == "paused"
    assert as_json("resume", state, "spring")["phase"] == "pushing"
    assert as_json("abort", state, "-r", "stop")["phase"] == "aborted"
    assert as_json("rollback", state)["phase"] == "rolling_back"
    facts = as_json("status", state)
    assert facts["phase"] == "rolling_back"
    log = as_json("log", state)
    assert [entry["body"].get("order") for entry in log["entries"]] == [
        None, "approve", "pause", "resume", "abort", "rollback",
    ]  # fmt: skip
    assert log["entries"][1]["body"]["why"] == "looks fine"
    assert log["head"] == facts["log_head"]
    assert as_json("verify-log", state, "--head", log["head"]) == {"entries": 6, "head": log["head"], "valid": True}


def test_people_get_sentences(files):
    begun(files)
    text = call("status", files / "s.sqlite").stdout
    assert "rollout spring: version 7 (before: 6)" in text
    assert "phase   ready, wave 1 of 2" in text
    assert "1 entries, unbroken" in call("verify-log", files / "s.sqlite").stdout
    call("approve", files / "s.sqlite", "--reason", "ok")
    assert "gate    hold: install_failure" in call("status", files / "s.sqlite").stdout


def test_a_printed_log_is_verified_too_and_tampering_exits_with_1(files):
    begun(files)
    head = as_json("status", files / "s.sqlite")["log_head"]
    printed = call("log", files / "s.sqlite").stdout
    (files / "log.jsonl").write_text(printed)
    call("verify-log", files / "log.jsonl", "--head", head)
    (files / "log.jsonl").write_text(printed.replace("ann", "eve"))
    call("verify-log", files / "log.jsonl", code=1)
    call("verify-log", files / "log.jsonl", "--head", "nonsense", code=1)


def test_bad_orders_and_missing_files_exit_with_2(files):
    begun(files)
    state = files / "s.sqlite"
    call("resume", state, code=2)
    call("start", state, files / "plan.toml", files / "devices.csv", code=2)
    call("status", state, "autumn", code=2)
    call("approve", state, code=2)  # a reason is asked for
    for command in ("status", "pause", "abort", "log", "verify-log"):
        call(command, files / "absent.sqlite", code=2)
        assert not (files / "absent.sqlite").exists()
    (files / "text.sqlite").write_text("hello" * 300)
    call("status", files / "text.sqlite", code=2)


def test_an_empty_database_has_no_newest_rollout(files):
    RolloutStore(files / "empty.sqlite").close()
    call("status", files / "empty.sqlite", code=2)
    assert as_json("verify-log", files / "empty.sqlite")["entries"] == 0


def test_nothing_is_written_when_a_file_is_missing(files):
    call("start", files / "s.sqlite", files / "plan.toml", files / "absent.csv", code=2)
    assert not (files / "s.sqlite").exists()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('version = "7"', "", "key 'version' is missing"),
        ("looks = 3", "looks = true", "looks = True has the wrong type"),
        ("looks = 3", "looks = 3\nspeed = 1", "unknown key 'speed'"),
        ('approval = "first_wave"', 'approval = "never"', "approval = 'never' must be one of none, first_wave"),
        ("fraction = 1\n", 'fraction = "all"\n', "fraction = 'all' must be a number"),
        ("fraction = 1\n", "fraction = 2\n", "must be in (0, 1]"),
        ('{region = "north"}', "{region = 3}", "waves[0].where"),
        ("passes_at = 0.2", "passes_at = 0.9", "fails_at 0.2 is better than passes_at 0.9"),
        ('bound = "at_most"', 'bound = "below"', "gates[0]: bound"),
        ("[[waves]]", "[waves]]", "not TOML"),
    ],
)
def test_a_wrong_plan_is_refused_with_its_key(files, old, new, words):
    path = files / "plan.toml"
    path.write_text(PLAN.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        read_plan(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_waves_must_be_tables(files):
    (files / "plan.toml").write_text("waves = [1]\ngates = []\n")
    with pytest.raises(ConfigError, match=r"waves\[0\] must be a table"):
        read_plan(files / "plan.toml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name\nd1\n", "no column 'device'"), ("device\nd1\nd1\n", "line 3"), ("device,x\nd1\n", "line 2"),
        ("device\nd1,5\n", "line 2"), ("device\n", "no device"), ("", "no column"), ("device,x\n,1\n", "line 2"),
    ],
)  # fmt: skip
def test_a_wrong_device_list_is_refused_with_its_line(tmp_path, text, words):
    (tmp_path / "devices.csv").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_devices(tmp_path / "devices.csv")
    assert words in str(caught.value)


def test_files_that_are_not_text_are_refused(tmp_path):
    (tmp_path / "devices.csv").write_bytes(b"device\n\xff\xfe\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_devices(tmp_path / "devices.csv")


def test_a_byte_order_mark_is_no_part_of_a_name(files):
    for name, text in (("plan.toml", PLAN), ("devices.csv", DEVICES)):
        (files / name).write_text(text, encoding="utf-8-sig")
    call("start", files / "r.sqlite", files / "plan.toml", files / "devices.csv")


@pytest.mark.parametrize("text", ["device,device\na,b\n", 'device\n"a', "device,x\na," + "y" * 200_000])
def test_a_device_list_that_is_no_table_is_refused(tmp_path, text):
    (tmp_path / "devices.csv").write_text(text)
    with pytest.raises(ConfigError, match=r"devices\.csv"):
        read_devices(tmp_path / "devices.csv")


def test_a_user_without_a_name_can_still_abort(files, monkeypatch):
    """A container that runs under a bare number has no entry in the password file."""

    def nobody():
        raise KeyError("getpwuid(): uid not found: 12345")

    begun(files)
    store = files / "s.sqlite"
    monkeypatch.setattr("getpass.getuser", nobody)
    call("abort", store)
    assert f"abort by uid {os.getuid()}" in as_json("status", store)["reason"]


def test_a_changed_state_fails_every_command_but_the_log(files):
    begun(files)
    state = files / "s.sqlite"
    with sqlite3.connect(state) as database:
        database.execute("UPDATE rollout SET state = zeroblob(9)")
    database.close()
    for command in ("verify-log", "status", "abort"):
        assert "LogTampered" in call(command, state, code=LogTampered.exit_code).stderr
    assert '"kind":"start"' in call("log", state).stdout


@pytest.mark.parametrize("line", ["looks = " + "9" * 27, "looks = " + "9" * 5000, "looks = 1001"])
def test_more_looks_than_anybody_takes_are_a_wrong_plan(files, line):
    (files / "plan.toml").write_text(PLAN.replace("looks = 3", line))
    call("start", files / "s.sqlite", files / "plan.toml", files / "devices.csv", code=ConfigError.exit_code)


@pytest.mark.parametrize("device", ["d" * 65, "dä", "d\x1b[31m"])
def test_a_device_name_that_no_secure_sum_takes_is_refused(files, device):
    (files / "devices.csv").write_text(f"device,region\n{device},north\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="1 to 64 printable ASCII characters"):
        read_devices(files / "devices.csv")


def test_names_in_a_plan_cannot_steer_the_terminal(files):
    plan = PLAN.replace('"spring"', r'"a\u001b[31m\nphase   done"')
    (files / "plan.toml").write_text(plan)
    shown = call("start", files / "s.sqlite", files / "plan.toml", files / "devices.csv").stdout
    assert "\x1b" not in shown
    assert r"rollout a\x1b[31m\nphase   done: version 7" in shown


def test_the_longest_name_of_a_device_has_64_printable_characters(tmp_path):
    table = tmp_path / "devices.csv"
    table.write_text(f"device\n{'d' * 64}\n")
    assert list(read_devices(table)) == ["d" * 64]
    for name in ("d" * 65, "d\x1b[2J", "dé"):
        table.write_text(f"device\n{name}\n", encoding="utf-8")
        with pytest.raises(ConfigError, match="1 to 64 printable ASCII"):
            read_devices(table)
