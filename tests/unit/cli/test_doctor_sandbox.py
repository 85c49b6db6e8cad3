"""`fedinfer doctor` says whether a model of a server can be locked in on this machine."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from fedinfer.cli.doctor import sandbox
from fedinfer.cli.main import app
from fedinfer.model_file.confinement import Confinement, available


@pytest.mark.parametrize(
    ("locks", "ok", "found"),
    [
        (Confinement(True, 7, True), True, "landlock, seccomp"),
        (Confinement(True, 0, True), True, "seccomp"),
        (Confinement(True, 1, False), True, "landlock"),
        (Confinement(True, 0, False), False, "limits"),
        (Confinement(False, 0, False), False, ""),
    ],
)
def test_a_sandbox_is_one_when_something_closes_files_and_network(locks: Confinement, ok: bool, found: str) -> None:
    finding = sandbox(locks)
    assert (finding.ok, finding.version, finding.base) == (ok, found, False)
    assert "not closed" in finding.consequence


def test_doctor_reports_the_sandbox_of_this_machine() -> None:
    report = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)
    (finding,) = [finding for finding in report["findings"] if finding["name"] == "model sandbox"]
    assert finding["ok"] == available().closed
