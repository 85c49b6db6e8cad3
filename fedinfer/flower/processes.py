"""Starting Flower's own processes safely: own FLWR_HOME, own ports, an empty folder, everything stopped afterwards.

Flower's shared local SuperLink is not used: it outlives its project and hands other projects' code to simulated
devices that happen to have the same package names (docs/adr/0001).
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from fedinfer.errors import MissingExtra, TransportError
from fedinfer.private_files import only_owner

if TYPE_CHECKING:
    from fedinfer.ports import Clock

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
START_SECONDS = 120.0
STOP_SECONDS = 10.0
POLL_SECONDS = 0.2


def free_port() -> int:
    """A TCP port of the loopback interface that nobody uses now; another process may take it before the caller does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(home: Path) -> dict[str, str]:
    """Environment of a Flower process: quiet, with its own home, and with this Python's programs first on the path.

    Args:
        home: folder that becomes FLWR_HOME.
    """
    programs = str(Path(sys.executable).parent)
    return {
        **os.environ,
        **QUIET,
        "FLWR_HOME": str(home),
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def program(name: str) -> str:
    """Path of one of Flower's programs.

    Args:
        name: for instance "flower-superlink".

    Raises:
        MissingExtra: when it is not installed.
    """
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        raise MissingExtra(f"the program {name} is not installed", hint="pip install 'fedinfer[ray]'")
    return found


@contextmanager
def running(
    command: Sequence[str], folder: Path, variables: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A process with all its children in a session of its own; on leaving, the whole session is stopped.

    Args:
        command: program and arguments.
        folder: working folder.
        variables: environment.
        log: file for its output.
    """
    with open(log, "ab", opener=only_owner) as output:
        process = _start(command, folder, variables, output)
        try:
            yield process
        finally:
            stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and everything in its session: first SIGTERM, after STOP_SECONDS SIGKILL.

    Args:
        process: leader of its session, as `running` starts it.

    Raises:
        TimeoutExpired: it still lives STOP_SECONDS after SIGKILL.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            continue
    process.wait(STOP_SECONDS)


def ask_to_end(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    """Send SIGTERM to several processes at once, so that they end beside each other.

    Args:
        processes: leaders of their sessions; one that is gone is no error.
    """
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)


def stop_strays(home: Path) -> None:
    """End processes that left their session (Ray starts some) but carry our FLWR_HOME in their environment (Linux).

    Args:
        home: the FLWR_HOME.
    """
    stop_marked("FLWR_HOME", str(home))


def stop_marked(name: str, value: str) -> None:
    """End every process but this one that was started with a variable in its environment (Linux).

    Args:
        name: of the variable.
        value: exactly.
    """
    mark = f"{name}={value}".encode()
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in entry.read_bytes().split(b"\0") and int(entry.parent.name) != os.getpid():
                os.kill(int(entry.parent.name), signal.SIGKILL)
        except OSError:
            continue  # it is gone, or somebody else's


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path, clock: Clock) -> None:
    """Wait until somebody listens on a port of the loopback interface, at most START_SECONDS.

    Args:
        port: TCP port.
        process: that should listen; when it ends, there is nothing to wait for.
        log: file with its output.
        clock: measures the wait.

    Raises:
        TransportError: the process ended, or nobody listened in time; the message ends with its last words.
    """
    end = clock.seconds() + START_SECONDS
    while clock.seconds() < end:
        if process.poll() is not None:
            raise TransportError(f"{process.args!r} ended with code {process.returncode}: {tail(log)}")
        with socket.socket() as probe:
            probe.settimeout(POLL_SECONDS)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(POLL_SECONDS)
    raise TransportError(f"nobody listens on port {port} after {START_SECONDS:.0f} s: {tail(log)}")


def tail(log: Path, characters: int = 1500) -> str:
    """The last words of a log file; "(no log)" when it cannot be read.

    Args:
        log: the file.
        characters: most that are returned, > 0.
    """
    try:
        return log.read_text(errors="replace")[-characters:].strip()
    except OSError:
        return "(no log)"


def _start(
    command: Sequence[str], folder: Path, variables: Mapping[str, str], output: IO[bytes]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        list(command),
        cwd=folder,
        env=dict(variables),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
