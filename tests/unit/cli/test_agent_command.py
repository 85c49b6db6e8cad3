"""`fedinfer device agent`: what cannot work is said before a process is started."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedinfer.cli.main import app
from fedinfer.privacy.accounting.ledger import Budget
from tests.protocol.fleet import enrolled


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return enrolled(tmp_path, 1, Budget(2.0, 1e-5))[0]


def agent(store: Path, *more: str, root: Path | None = None) -> tuple[int, str]:
    options = ["device", "agent", "--store", str(store), "--superlink", "127.0.0.1:1"]
    options += ["--root-certificates", str(root or store / "authority.pub"), *more]
    done = CliRunner().invoke(app, options)
    return done.exit_code, " ".join(done.stderr.split())


def test_a_missing_certificate_or_key_is_named(store: Path) -> None:
    code, said = agent(store, root=store / "no.crt")
    assert code == 2
    assert "no.crt" in said
    code, said = agent(store, "--auth", str(store / "no.key"))
    assert code == 2
    assert "no.key" in said


def test_an_owner_who_agreed_to_nothing_is_told_how(store: Path) -> None:
    code, said = agent(store)
    assert code == 2
    assert "names no task" in said
    assert '"tasks"' in said


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("")
    code, said = agent(tmp_path, root=tmp_path / "ca.crt")
    assert code == 2
    assert "no device store" in said


@pytest.mark.parametrize("poll", ["0", "-1", "nan"])
def test_a_wait_is_positive(store: Path, poll: str) -> None:
    file = store / "device.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "tasks": ["heart"]}))
    assert agent(store, "--poll", poll)[0] == 2
