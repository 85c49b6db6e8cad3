"""Ctrl-C ends a command with one line and the exit code that a shell gives."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = "from fedinfer.cli.main import main; main()"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "digits", "--out", "r"], "go on with: fedinfer run --resume r"),
        (["sweep", "heart", "--epsilon", "1,2", "--jobs", "1", "--out", "s"], "the same command goes on"),
        (["audit", "digits"], "interrupted"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_ctrl_c_says_what_can_be_done(words: list[str], said: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, *words]
    root = str(Path(__file__).resolve().parents[3])
    with subprocess.Popen(
        command, cwd=tmp_path, env={"PYTHONPATH": root, "PATH": "", "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        if words[0] != "audit":
            while not any((tmp_path / words[-1]).glob("*")) and process.poll() is None:
                time.sleep(0.05)
        else:  # it writes no file; with torch it works on the rows
            while "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text() and process.poll() is None:
                time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert said in output
    assert "Traceback" not in output
