"""`fedinfer server`, `device request|join|renew`, `artifact keys|root|adopt|rotate`: every step and refusal."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click
import pytest
import typer
from typer.testing import CliRunner, Result

from fedinfer.cli.main import app
from fedinfer.secagg.keys import IdentityKey
from fedinfer.secagg.revocation import read_revocations

RUNNER = CliRunner()
PASSPHRASE, ROOT_PASSPHRASE = "correct horse battery", "another horse battery"


@pytest.fixture(autouse=True)
def _site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    monkeypatch.setenv("FEDINFER_PASSPHRASE", PASSPHRASE)
    monkeypatch.setenv("FEDINFER_ROOT_PASSPHRASE", ROOT_PASSPHRASE)
    (tmp_path / "rows.csv").write_text("a\n1\n")


def tell(words: str, typed: str = "") -> Result:
    return RUNNER.invoke(app, words.split(), input=typed)


def ask(words: str) -> dict[str, Any]:
    done = tell(f"{words} --json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def request(name: str = "d") -> dict[str, Any]:
    return ask(
        f"device request --store {name} --out {name}.request --device {name} --data rows.csv --epsilon 1 "
        "--min-survivors 3 --authority ca/authority.pub"
    )


def approve(name: str, fingerprint: str) -> Result:
    words = ["server", "approve", f"{name}.request", "--authority", "ca", "--out", f"{name}.approval"]
    return RUNNER.invoke(app, [*words, "--fingerprint", fingerprint])


# --- devices ---


def test_a_device_is_requested_approved_joined_renewed_and_revoked() -> None:
    made = ask("server authority ca")
    assert sorted(path.name for path in Path("ca").iterdir()) == [
        "authority.0.key", "authority.pub", "issued.json", "revocations",
    ]  # fmt: skip
    asked = request()
    assert approve("d", asked["fingerprint"]).exit_code == 0
    joined = ask("device join d.approval --store d")
    assert (joined["device"], joined["authority"]) == ("d", made["fingerprint"])
    first = Path("d/identity.key").read_bytes()
    for extra in ("", " --new-key"):
        renewed = ask(f"device renew --store d --out d.request{extra}")
        assert approve("d", renewed["fingerprint"]).exit_code == 0
        assert ask("device join d.approval --store d")["device"] == "d"
    assert Path("d/identity.key").read_bytes() != first
    assert ask("server revoke d --authority ca")["revoked_keys"] == 2
    assert ask("server revoke --authority ca")["version"] == 4
    listed = read_revocations(Path("ca/authority.pub").read_bytes(), Path("ca/revocations").read_bytes())
    assert len(listed.keys) == 2
    refused = tell("server revoke nobody --authority ca")
    assert (refused.exit_code, "no key of 'nobody'" in refused.output) == (2, True)


def test_a_request_is_approved_only_with_the_fingerprint_that_its_owner_has() -> None:
    """The file may have been replaced on its way, name and all."""
    ask("server authority ca")
    asked = request()
    wrong = approve("d", "0000 " * 8)
    assert (wrong.exit_code, Path("d.approval").exists()) == (2, False)
    assert "not 0000" in wrong.output
    words = "server approve d.request --authority ca --out d.approval"
    declined = tell(words, "n\n")
    assert (declined.exit_code, Path("d.approval").exists()) == (2, False)
    assert asked["fingerprint"] in declined.output
    assert tell(words, "y\n").exit_code == 0


def test_an_authoritys_key_does_not_open_with_another_passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    ask("server authority ca")
    monkeypatch.delenv("FEDINFER_PASSPHRASE")
    refused = tell("server revoke --authority ca", "not the passphrase\n")
    assert (refused.exit_code, "cannot be opened with this passphrase" in refused.output) == (2, True)
    assert tell("server revoke --authority ca", f"{PASSPHRASE}\n").exit_code == 0
    silent = tell("server revoke --authority ca")
    assert (silent.exit_code, "none was given" in silent.output) == (2, True)
    file = Path("passphrase")
    file.write_text(PASSPHRASE + "\n")
    file.chmod(0o600)
    assert ask("server revoke --authority ca --passphrase-file passphrase")["version"] == 3


def test_a_passphrase_that_is_typed_is_not_shown_and_typed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDINFER_PASSPHRASE")
    typed = "a long enough passphrase"
    done = tell("server authority ca", f"{typed}\n{typed}\n")
    assert done.exit_code == 0, done.output
    assert typed not in done.output
    short = tell("server authority other", "short\nshort\n")
    assert (short.exit_code, "at least 12" in short.output) == (2, True)


def _commands(command: click.Command, path: str = "") -> dict[str, click.Command]:
    if not isinstance(command, click.Group):
        return {path: command}
    context = click.Context(command)
    children = {name: command.get_command(context, name) for name in command.list_commands(context)}
    return {k: v for name, child in children.items() if child for k, v in _commands(child, f"{path} {name}").items()}


def test_no_command_takes_a_secret_as_an_argument() -> None:
    """Arguments are seen by everybody on the machine and kept in the shell's history."""
    commands = _commands(typer.main.get_command(app))
    assert {parameter.name for parameter in commands[" server approve"].params} >= {"days", "passphrase_file"}
    for path, command in commands.items():
        for parameter in command.params:
            if parameter.name and any(word in parameter.name for word in ("passphrase", "pin", "secret", "password")):
                assert parameter.name.endswith("_file"), f"{path} --{parameter.name}"


def test_a_bare_key_of_an_authority_is_taken_over_and_encrypted() -> None:
    old = Path("authority.key")
    old.write_bytes(bytes(range(32)))
    old.chmod(0o644)
    assert tell("server authority ca --bare-key authority.key").exit_code == 2, "others could read it"
    old.chmod(0o600)
    ask("server authority ca --bare-key authority.key")
    assert Path("ca/authority.pub").read_bytes() == IdentityKey(bytes(range(32))).public_bytes
    assert Path("ca/authority.0.key").read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    old.write_bytes(b"short")
    assert "a bare key has 32" in tell("server authority other --bare-key authority.key").output
    assert tell("server authority other --bare-key authority.key --token t").exit_code == 2


# --- the update channel ---


def test_root_and_online_keys_lie_apart_and_open_with_different_passphrases() -> None:
    made = ask("artifact keys keys")
    assert made["root"] == ["root.0.key", "root.1.key", "root.2.key"]
    assert made["online"] == ["root.json", "snapshot.0.key", "targets.0.key", "timestamp.0.key"]
    moved = Path("keys/online/root.0.key")
    moved.write_bytes(Path("keys/root/root.0.key").read_bytes())
    moved.chmod(0o600)
    refused = tell("artifact renew site --keys keys/online")
    assert (refused.exit_code, "holds root keys" in refused.output) == (2, True)
    moved.unlink()
    ask("artifact renew site --keys keys/online")
    assert not any("root" in path.name for path in Path("keys/online").glob("*.key"))


def test_the_root_is_signed_offline_and_adopted_online(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two halves never meet: neither passphrase is known where the other keys are."""
    ask("artifact keys keys --root-keys 5 --threshold 3")
    monkeypatch.delenv("FEDINFER_ROOT_PASSPHRASE")
    ask("artifact renew site --keys keys/online")
    monkeypatch.setenv("FEDINFER_ROOT_PASSPHRASE", ROOT_PASSPHRASE)
    signed = ask("artifact root keys/online/root.json --root-keys keys/root --out next --role timestamp")
    assert signed["files"] == ["2.root.json", "timestamp.0.key"]
    monkeypatch.delenv("FEDINFER_ROOT_PASSPHRASE")
    before = Path("keys/online/timestamp.0.key").read_bytes()
    adopted = ask("artifact adopt site next/2.root.json --keys keys/online --new-keys next")
    assert adopted["root_version"] == 2
    assert Path("keys/online/timestamp.0.key").read_bytes() != before
    assert not list(Path("keys/online").glob("timestamp.1.key"))
    ask("artifact renew site --keys keys/online")
    again = tell("artifact adopt site next/2.root.json --keys keys/online")
    assert again.exit_code == 5


def test_more_signatures_than_there_are_keys_are_refused() -> None:
    refused = tell("artifact keys keys --threshold 4")
    assert (refused.exit_code, "4 of 3 root keys cannot sign" in refused.output) == (2, True)
    assert not Path("keys/root").exists()
    uneven = tell("artifact keys keys --root-token a --root-token b")
    assert (uneven.exit_code, "2 tokens for 3 root keys" in uneven.output) == (2, True)
