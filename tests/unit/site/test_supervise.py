"""Who may connect follows the authority; one process per folder, found and ended by its lock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedinfer.errors import ConfigError, StoreError
from fedinfer.flower.control import RegisteredNode
from fedinfer.flower.service import end, holder, single
from fedinfer.site.supervise import admit_nodes, command_line, starts_runs
from fedinfer.system import SystemClock


class FakeControl:
    """Keeps what a SuperLink would."""

    def __init__(self) -> None:
        self.keys: dict[int, tuple[bytes, str]] = {}

    def nodes(self) -> list[RegisteredNode]:
        return [RegisteredNode(node, key, False, None) for node, (key, _) in self.keys.items()]

    def register(self, public_key: bytes, name: str) -> None:
        assert public_key not in [key for key, _ in self.keys.values()]
        self.keys[len(self.keys) + 100] = (public_key, name)

    def unregister(self, node: int) -> None:
        del self.keys[node]


def line() -> bytes:
    return ec.generate_private_key(ec.SECP384R1()).public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


def test_exactly_the_approved_devices_may_connect() -> None:
    control: Any = FakeControl()
    first, second = line(), line()
    admit_nodes(control, {"a": first, "b": second})
    admit_nodes(control, {"a": first, "b": second})
    assert sorted(name for _, name in control.keys.values()) == ["a", "b"]
    admit_nodes(control, {"b": second})
    assert [name for _, name in control.keys.values()] == ["b"]
    with pytest.raises(ConfigError, match="node key"):
        admit_nodes(control, {"c": b"ssh-rsa AAAA"})


def test_one_process_works_on_a_folder_and_is_ended_by_its_lock(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    assert holder(lock) == 0
    assert end(lock, SystemClock()) == 0
    program = (
        "import sys, time; from pathlib import Path; from fedinfer.flower.service import single, until_stopped\n"
        "with single(Path(sys.argv[1]), 'a test'), until_stopped():\n print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(lock)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        assert holder(lock) == other.pid
        with (
            pytest.raises(StoreError, match=f"a test is running already, as process {other.pid}"),
            single(lock, "a test"),
        ):
            pass
        assert end(lock, SystemClock()) == other.pid
        assert other.wait(10) == 0
    assert holder(lock) == 0
    with single(lock, "a test"):
        pass


def test_a_superlink_that_starts_no_runs_is_told_from_one_that_does() -> None:
    """Its helper ended when the SuperLink was stopped for a minute, and every later run stayed pending for ever."""
    program = (
        "import subprocess, sys, threading\n"
        "def child(): print(subprocess.Popen(['sleep', '60', ], executable='/bin/sleep').pid, flush=True)\n"
        "start = threading.Thread(target=child); start.start(); start.join(); sys.stdin.read()"
    )
    assert not starts_runs(os.getpid())
    with subprocess.Popen(
        [sys.executable, "-c", program.replace("'sleep', '60', ", "'flower-superexec', '60'")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as superlink:  # fmt: skip
        assert superlink.stdout is not None
        helper = int(superlink.stdout.readline())
        try:
            assert starts_runs(superlink.pid)
        finally:
            os.kill(helper, signal.SIGKILL)
        for _ in range(100):
            if not starts_runs(superlink.pid):
                break
            time.sleep(0.05)
        assert not starts_runs(superlink.pid)
        superlink.communicate()


def test_a_child_of_a_server_ends_with_it() -> None:
    assert "end_with_parent(7)" in command_line(["version"], parent=7)[2]
    assert "end_with_parent" not in command_line(["version"])[2]
