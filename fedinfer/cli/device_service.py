"""`fedinfer device up|down`: the agent of a device that joined a site, in the foreground or in the background."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from fedinfer.cli.output import a_number, errors_to_exit, print_document, stdout
from fedinfer.errors import ConfigError, TransportError
from fedinfer.system import SystemClock, SystemEntropy
from fedinfer.types import Json

Store = Annotated[Path, typer.Option("--store", help="folder of this device, which joined a site")]
JOIN = "`fedinfer device join FILE` with the approval of its request"
STEADY_SECONDS = 3.0
LOOK_SECONDS = 0.1


def up(
    store: Store,
    poll: Annotated[
        float, typer.Option("--poll", min=0.01, callback=a_number, help="seconds between two questions for work")
    ] = 0.2,
    detach: Annotated[bool, typer.Option("--detach", help="return at once; it goes on in the background")] = False,
) -> None:
    """Take part in the runs of the site that this device joined; address, certificate and keys are in its store."""
    with errors_to_exit():
        from fedinfer.deployment import CERTIFICATE, open_device, read_agreement
        from fedinfer.site import AGENT_LOG, agent_settings, start_detached

        if (store / "device.json").exists() and not (store / CERTIFICATE).exists():
            raise ConfigError(f"{store} has joined no site yet", hint=JOIN)
        settings = agent_settings(store, poll)
        read_agreement(open_device(store))
        if not detach:
            _agent(store, settings.wait_seconds)
            return
        folder = store.resolve()
        log = folder / AGENT_LOG
        process = start_detached(["device", "up", "--store", str(folder), "--poll", str(poll)], folder, log)
        clock = SystemClock()
        steady = clock.seconds() + STEADY_SECONDS
        while clock.seconds() < steady:
            if process.poll() is not None:
                from fedinfer.flower import tail

                raise TransportError(f"the agent does not start: {tail(log)}", hint="fedinfer preflight STORE")
            time.sleep(LOOK_SECONDS)
    print_document({"agent": f"process {process.pid}", "log": str(log)}, as_json=False)


def down(store: Annotated[Path, typer.Option("--store", help="folder of this device")]) -> None:
    """Stop the agent of this device."""
    with errors_to_exit():
        from fedinfer.deployment import LOCK
        from fedinfer.flower import end

        process = end(store / LOCK, SystemClock())
    stdout.print("the agent was stopped" if process else "no agent was running", highlight=False)


def part_in_runs(store: Path) -> Json:
    """What there is to say of a device's agent and site; empty for one that only predicts.

    Args:
        store: folder of the device.
    """
    if not (store / "certificate").exists():
        return {"joined": f"no: {JOIN}"} if (store / "device.json").exists() else {}
    from fedinfer.site import enrolled_status

    return enrolled_status(store)


def _agent(store: Path, poll: float) -> None:
    from fedinfer.cli.worker import COMMAND
    from fedinfer.deployment import become_agent
    from fedinfer.site import agent_settings

    become_agent(store, agent_settings(store, poll), COMMAND, SystemClock(), SystemEntropy())
