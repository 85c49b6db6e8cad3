"""What a person can give wrongly to the commands of a site: each is told what, where, and what to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedinfer.errors import ConfigError
from fedinfer.site.plan import TEMPLATE, read_plan
from fedinfer.site.server import open_server
from fedinfer.site.watch import read_events
from tests.unit.site.a_site import command

WRONG = [
    ("name", '"a b"', "name: letters, digits and hyphens"),
    ("name", "3", "name: must be a valid string"),
    ("addresses", "[]", "addresses is empty"),
    ("addresses", '"localhost"', "addresses must be a list"),
    ("addresses", '["bad name"]', "addresses.0: a DNS name or an IP address, without a port"),
    ("addresses", '["*"]', "addresses.0: a DNS name or an IP address"),
    ("addresses", '["fl.example.org:9500"]', "addresses.0: a DNS name or an IP address"),
    ("fleet", '"0.0.0.0"', "fleet: HOST:PORT"),
    ("fleet", '"0.0.0.0:9501"', "fleet and control have one port, 9501"),
    ("devices", '["a", "a"]', "a name stands twice"),
    ("devices", '["a/\u00e9"]', "devices.0: a device's name is"),
    ("min_devices", "5", "4 devices are listed, run.min_devices is 5"),
    ("min_survivors", "5", "budget.min_survivors 5: no run would ever start"),
    ("epsilon", "nan", "budget.epsilon: must be a finite number"),
]


def plan_with(folder: Path, text: str) -> Path:
    path = folder / "site.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(("key", "value", "said"), WRONG, ids=lambda value: str(value)[:30])
def test_a_wrong_value_of_a_site_is_told_in_words(tmp_path: Path, key: str, value: str, said: str) -> None:
    text, count = re.subn(rf"(?m)^{key} = .*$", f"{key} = {value}", TEMPLATE)
    assert count == 1
    with pytest.raises(ConfigError) as caught:
        read_plan(plan_with(tmp_path, text))
    assert said in str(caught.value)
    assert "Input" not in str(caught.value)
    assert "Value error" not in str(caught.value)


def test_a_missing_and_an_unknown_key_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="addresses is missing; fleet is missing") as caught:
        read_plan(plan_with(tmp_path, 'name = "a"\n'))
    assert "server init" in caught.value.hint
    with pytest.raises(ConfigError, match=r"unknown key budget\.what"):
        read_plan(plan_with(tmp_path, f"{TEMPLATE}\nwhat = 3\n"))


@pytest.mark.parametrize("address", ["::1", "10.0.0.1", "fl.example.org", "localhost", "a-b"])
def test_an_address_that_devices_can_reach_is_taken(tmp_path: Path, address: str) -> None:
    text = TEMPLATE.replace('["localhost"]', f'["{address}"]')
    assert read_plan(plan_with(tmp_path, text)).addresses == (address,)


def test_any_number_of_devices_may_come_where_none_is_listed(tmp_path: Path) -> None:
    text = re.sub(r"(?m)^devices = .*$", "devices = []", TEMPLATE).replace("min_devices = 4", "min_devices = 40")
    assert read_plan(plan_with(tmp_path, text)).run.min_devices == 40


def test_a_file_in_place_of_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "site").write_text("")
    assert "is a file" in command("server", "init", tmp_path / "site", code=2).output
    assert "neither a site nor the store of a device" in command("preflight", tmp_path, code=2).output


def test_a_request_without_a_table_or_for_a_store_that_is_there_makes_nothing(site: Path) -> None:
    words = ("device", "request", "--device", "x", "--epsilon", "1", "--min-survivors", "3", "--out", site / "new")
    said = command(*words, "--store", site / "other", "--data", site / "none.csv", code=2).output
    assert "none.csv: no such file" in said
    assert not (site / "other").exists()
    table = site / "t.csv"
    table.write_text("a\n1\n")
    assert "device renew" in command(*words, "--store", site / "store", "--data", table, code=2).output


def test_a_store_that_waits_for_its_approval_says_so(site: Path) -> None:
    table, store = site / "t.csv", site / "waiting"
    table.write_text("a\n1\n")
    words = ("--device", "x", "--epsilon", "1", "--min-survivors", "3", "--out", site / "new", "--data", table)
    command("device", "request", "--store", store, *words)
    assert "joined no site yet" in command("device", "up", "--store", store, code=2).output
    assert "fedinfer device join FILE" in command("device", "status", "--store", store).output


def test_an_owner_with_another_fingerprint_is_not_approved(site: Path) -> None:
    table = site / "t.csv"
    table.write_text("a\n1\n")
    words = ("--device", "hospital1", "--epsilon", "1", "--min-survivors", "3", "--out", site / "new", "--data", table)
    command("device", "request", "--store", site / "another", *words)
    approve = ("server", "approve", site / "new", "--site", site / "site", "--out", site / "a")
    said = command(*approve, "--passphrase-file", site / "offline.pass", code=2, said="n\n").output
    assert "not approved: the owner of" in said


def test_lines_that_are_no_events_are_left_out(site: Path) -> None:
    server = open_server(site / "site")
    (server.run / "events.jsonl").write_text('{"a": 1}\n[1]\n3\n{"event": "x", "time": "t", "run_id": "r"}\n{"half')
    assert [event["event"] for event in read_events(server)] == ["x"]
    assert "run r: x" in command("server", "status", site / "site").output


def test_the_watch_tells_wrong_keys_and_seconds_before_it_waits(site: Path) -> None:
    words = ("server", "watch", site / "site/server/run", "--once", "--passphrase-file", site / "site/server/keys.pass")
    command(*words, "--keys", site / "site/server/keys")  # before the first run: nothing to do
    assert command(*words, "--keys", site / "nokeys", code=2).output
    command(*words, "--keys", site / "site/server/keys", "--every", "nan", code=2)
    assert "no such folder" in command("server", "watch", site / "norun", "--keys", site, code=2).output
