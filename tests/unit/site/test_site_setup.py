"""`server init`, request, approve, join, kit: all or nothing, one file each way, no secret among them."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import stat
import subprocess
import tarfile
import tomllib
from dataclasses import replace
from pathlib import Path

import click
import pytest
import typer
import yaml

from fedinfer.cli.main import app
from fedinfer.deployment.authority import nodes_of
from fedinfer.deployment.card import CARD, SignedCard, read_card, sign_card
from fedinfer.deployment.request import EnrolmentApproval, read_approval
from fedinfer.deployment.store import import_approval, open_device
from fedinfer.errors import ConfigError, Misbehaviour
from fedinfer.secagg.keys import IdentityKey
from fedinfer.site.devices import agent_settings
from fedinfer.site.server import open_server
from fedinfer.system import SystemClock, SystemEntropy
from fedinfer.wire import decode, encode
from tests.unit.site.a_site import DEVICE, command, passphrase_file, request, write_plan


def test_a_device_knows_all_of_its_site_after_one_file_each_way(site: Path) -> None:
    plan = open_server(site / "site").plan
    settings = agent_settings(site / "store", 0.2)
    assert settings.superlink == plan.superlink
    assert settings.root_certificates.read_bytes() == (site / "site/server/ca.crt").read_bytes()
    assert (site / "store/root.json").read_bytes() == (site / "site/server/keys/root.json").read_bytes()
    device = open_device(site / "store")
    assert (device.budget.epsilon, device.floors.min_survivors, device.tasks) == (5.0, 3, {"heart"})
    assert device.authority == (site / "site/server/authority.pub").read_bytes()
    assert nodes_of(site / "site/server") == {DEVICE: (site / "store/node.key.pub").read_bytes().strip()}


def test_nothing_that_travels_or_lies_on_the_server_opens_what_is_offline(site: Path) -> None:
    private = [path for path in (site / "site/offline").rglob("*.key")]
    assert len(private) == 5
    assert all(b"ENCRYPTED" in path.read_bytes() for path in private)
    assert not [path for path in (site / "site/server").rglob("root.*.key")]
    secrets = [(site / "store" / name).read_bytes() for name in ("identity.key", "node.key")]
    travels = [(site / name).read_bytes() for name in ("request", "approval", "site/server/card")]
    assert not [1 for secret in secrets for data in travels if secret in data]
    for name in ("server.key", "keys.pass", "keys/targets.0.key"):
        assert stat.S_IMODE((site / "site/server" / name).stat().st_mode) == 0o600


def test_unit_connection_and_compose_file_start_this_site_where_it_lies(site: Path, made_site: Path) -> None:
    server = site / "site/server"
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(server / "fedinfer-server.service")
    program, *words = unit["Service"]["ExecStart"].split()
    assert Path(program).name == "fedinfer"
    assert words == ["server", "up", str(made_site / "site/server")]
    assert unit["Service"]["ReadWritePaths"] == words[-1]
    connection = tomllib.loads((server / "flower/config.toml").read_text())["superlink"]["pilot"]
    assert connection["address"] == open_server(site / "site").plan.control
    services = yaml.safe_load((server / "compose.yaml").read_text())["services"]
    assert [service["command"][1:3] for service in services.values()] == [
        ["server", "up"], ["server", "watch"], ["server", "console"]
    ]  # fmt: skip
    assert all(service["cap_drop"] == ["ALL"] for service in services.values())


def test_the_units_of_a_site_say_what_their_commands_understand(site: Path, tmp_path: Path) -> None:
    server = site / "site/server"
    token = server / "viewer.token"
    assert (stat.S_IMODE(token.stat().st_mode), len(token.read_text().strip())) == (0o600, 64)
    for name in ("server", "watch", "console"):
        unit = server / f"fedinfer-{name}.service"
        line = next(line for line in unit.read_text().splitlines() if line.startswith("ExecStart="))
        words = line.split()[1:]
        command: click.Command = typer.main.get_command(app)
        while isinstance(command, click.Group):
            found = command.get_command(click.Context(command), words.pop(0))
            assert found is not None
            command = found
        assert command.make_context(name, words).params


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_finds_nothing_against_the_units(site: Path, tmp_path: Path) -> None:
    for unit in (site / "site/server").glob("*.service"):
        text = re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", unit.read_text())  # fedinfer may be installed nowhere
        (tmp_path / unit.name).write_text(text)
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(tmp_path / unit.name)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert [line for line in done.stderr.splitlines() if unit.name in line] == [], done.stderr
        assert done.returncode == 0


def test_another_address_reaches_a_device_with_its_next_approval(site: Path) -> None:
    secret, plan = site / "offline.pass", site / "site/server/site.toml"
    plan.write_text(plan.read_text().replace('["localhost"]', '["fl.example.org", "localhost"]'))
    command("server", "certificate", site / "site", "--passphrase-file", secret)
    assert agent_settings(site / "store", 1).superlink.startswith("localhost:")
    told = command("device", "renew", "--store", site / "store", "--out", site / "r").output
    shown = next(line[12:].strip() for line in told.splitlines() if line.startswith("fingerprint"))
    words = ("--site", site / "site", "--out", site / "a", "--fingerprint", shown, "--passphrase-file", secret)
    command("server", "approve", site / "r", *words)
    command("device", "join", site / "a", "--store", site / "store")
    assert agent_settings(site / "store", 1).superlink.startswith("fl.example.org:")


def test_the_app_of_a_run_has_every_key_of_the_run_config(site: Path) -> None:
    server = open_server(site / "site")
    config = tomllib.loads((server.write_app() / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    ours = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    assert set(config) == set(ours) == set(server.run_config())
    assert {key: type(value) for key, value in config.items()} == {key: type(value) for key, value in ours.items()}


def test_an_own_scenario_and_a_public_table_go_with_the_server(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    write_plan(folder, **{'scenario = "heart"': 'scenario = "own.toml"', 'public_data = ""': 'public_data = "p.csv"'})
    shutil.copyfile("fedinfer/scenarios/heart.toml", folder / "own.toml")
    (folder / "p.csv").write_text("a\n")
    command("server", "init", folder, "--passphrase-file", passphrase_file(tmp_path))
    config = open_server(folder).run_config()
    assert Path(str(config["scenario"])).parent == Path(str(config["public-data"])).parent == folder / "server"


@pytest.mark.parametrize("wrong", [{'public_data = ""': 'public_data = "no.csv"'}, {'"heart"': '"hart"'}])
def test_a_site_is_made_whole_or_not_at_all(tmp_path: Path, wrong: dict[str, str]) -> None:
    write_plan(tmp_path / "site", **wrong)
    command("server", "init", tmp_path / "site", "--passphrase-file", passphrase_file(tmp_path), code=2)
    assert os.listdir(tmp_path / "site") == ["site.toml"]


def test_keys_are_never_overwritten_and_short_passphrases_refused(site: Path) -> None:
    secret = site / "offline.pass"
    assert "never overwritten" in command("server", "init", site / "site", "--passphrase-file", secret, code=2).stderr
    write_plan(site / "other")
    secret.write_text("short\n")
    assert "5 characters" in command("server", "init", site / "other", "--passphrase-file", secret, code=2).stderr


def test_a_device_that_the_site_does_not_list_is_not_approved(site: Path) -> None:
    told = command(
        "device", "request", "--store", site / "s", "--out", site / "r", "--device", "stranger",
        "--data", site / "rows.csv", "--site", site / "site/server/card",
    )  # fmt: skip
    shown = next(line[12:].strip() for line in told.output.splitlines() if line.startswith("fingerprint"))
    words = ("server", "approve", site / "r", "--site", site / "site", "--out", site / "a", "--fingerprint", shown)
    assert "no device of the site" in command(*words, "--passphrase-file", site / "offline.pass", code=2).stderr
    assert not (site / "a").exists()


def test_the_owner_says_less_than_the_site_proposes(site: Path) -> None:
    shutil.rmtree(site / "store")
    request(site, "--epsilon", 1, "--min-survivors", 4, "--task", "other")
    said = json.loads((site / "store/device.json").read_text())
    assert (said["budget"]["epsilon"], said["min_survivors"], said["tasks"]) == (1.0, 4, ["other"])


@pytest.mark.parametrize("name", ["--epsilon", "--delta"])
def test_an_owner_who_says_nothing_at_all_is_not_given_what_the_site_proposes(site: Path, name: str) -> None:
    shutil.rmtree(site / "store")
    told = command(
        "device", "request", "--store", site / "store", "--out", site / "r", "--device", "clinic", name, 0,
        "--data", site / "rows.csv", "--site", site / "site/server/card", code=2,
    )  # fmt: skip
    assert f"budget {'epsilon 0' if name == '--epsilon' else 'epsilon'}" in told.stderr
    assert not (site / "r").exists()


def test_without_a_card_the_owner_must_say_the_budget(site: Path) -> None:
    words = (
        "device",
        "request",
        "--store",
        site / "s",
        "--out",
        site / "r",
        "--device",
        "d",
        "--data",
        site / "rows.csv",
    )
    assert "--epsilon and --min-survivors" in command(*words, code=2).stderr


def test_a_card_of_somebody_else_is_refused_on_its_way(site: Path) -> None:
    """Whoever replaces the approval's card cannot lead the device to another server."""
    approval = read_approval((site / "approval").read_bytes())
    honest = decode(SignedCard, approval.card)
    elsewhere = replace(honest.card, superlink="evil.example.org:9500")
    thief = IdentityKey.generate(SystemEntropy())
    kept = SignedCard(elsewhere, honest.authority, honest.signature)
    for card in (sign_card(elsewhere, thief), encode(kept)):
        forged = encode(EnrolmentApproval(approval.certificate, approval.authority, approval.revocations, card))
        with pytest.raises(Misbehaviour, match="card of the site"):
            import_approval(site / "store", forged, SystemClock().now())
    assert agent_settings(site / "store", 1).superlink == honest.card.superlink
    with pytest.raises(ConfigError, match="no card"):
        read_card(b"FI")


def test_a_revoked_device_connects_no_more(site: Path) -> None:
    command("server", "revoke", DEVICE, "--site", site / "site", "--passphrase-file", site / "offline.pass")
    assert nodes_of(site / "site/server") == {}
    lists = [(site / "site" / name / "revocations").read_bytes() for name in ("server", "offline/authority")]
    assert lists[0] == lists[1]


def test_a_kit_holds_everything_public_and_nothing_else(site: Path) -> None:
    (site / "fedinfer.whl").write_bytes(b"wheel")
    out = site / "kit.tar"
    command("server", "kit", DEVICE, "--site", site / "site", "--out", out, "--package", site / "fedinfer.whl")
    with tarfile.open(out) as archive:
        archive.extractall(site / "kit", filter="data")
    assert (site / "kit" / CARD).read_bytes() == (site / "site/server/card").read_bytes()
    assert os.system(f"cd {site / 'kit'} && sha256sum -c --quiet SHA256SUMS") == 0
    told = (site / "kit/README.txt").read_text()
    assert f"--device {DEVICE} " in told
    assert "--no-index --find-links packages" in told
    assert "no device of the site" in command(
        "server", "kit", "stranger", "--site", site / "site", "--out", out, code=2
    ).stderr  # fmt: skip


def test_status_before_the_first_model_says_what_there_is(site: Path) -> None:
    said = command("device", "status", "--store", site / "store").output
    assert "no model yet" in said
    assert "down" in said
    said = command("server", "status", site / "site").output
    assert DEVICE in said
    assert "down" in said


def test_a_run_needs_a_server_that_is_up(site: Path) -> None:
    assert "is down" in command("server", "run", site / "site", code=1).stderr
    assert "was not up" in command("server", "down", site / "site").output
    assert "no agent" in command("device", "down", "--store", site / "store").output
