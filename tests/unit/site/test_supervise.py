"""Who may connect follows the authority; one process per folder, found and ended by its lock."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedinfer.errors import ConfigError, StoreError
from fedinfer.flower.control import RegisteredNode
from fedinfer.flower.service import end, holder, single
from fedinfer.site.supervise import admit_nodes, command_line
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


def test_a_child_of_a_server_ends_with_it() -> None:
    assert "end_with_parent(7)" in command_line(["version"], parent=7)[2]
    assert "end_with_parent" not in command_line(["version"])[2]
