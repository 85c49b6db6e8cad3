"""The two Flower apps, as clients/app.py and server/app.py hand them to Flower.

One ClientApp and one ServerApp serve Flower's simulation on Ray and a real deployment. A node whose configuration names
a `store` is a real device; any other node is a simulated one. The run config says which coordinator runs.

Packages are imported where they are needed: most messages of a real device need no torch.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedinfer.config import Scenario, from_flat, load_scenario, to_flat
from fedinfer.device import DeviceResponder
from fedinfer.errors import ConfigError, FedInferError, TransportError
from fedinfer.flower import CohortClientApp, GridTransport, Responder, insist, make_prompt_grid, make_server_app
from fedinfer.ports import Clock, Listener, Nodes, both
from fedinfer.printable import shown
from fedinfer.private_files import private_folder
from fedinfer.simulation import RUN_ID, EventLog, alone_in
from fedinfer.system import SystemClock
from fedinfer.tracing import RunTrace, TracedNodes, provider_of
from fedinfer.types import DeviceId

FLAT = "flat:"
NOTICES = "notices"
NODES_SECONDS = 180.0
POLL_SECONDS = 0.5
SIMULATED_HINT = "a simulation needs num-supernodes equal to the number of devices"
DEPLOYED_HINT = (
    "`fedinfer server status DIR` names the devices that are offline; `fedinfer preflight STORE` there says why"
)
MOST_SHOWN = 1000
"""Characters of an error that is none of ours."""


def client_app() -> ClientApp:
    """The ClientApp of a device, real or simulated."""
    return CohortClientApp(_find)


def server_app() -> ServerApp:
    """The ServerApp of a coordinator. Run config: scenario, overrides, run-dir, deployment, authority, ..."""
    return make_server_app(_serve)


def scenario_of(name: str, overrides: str) -> Scenario:
    """The scenario that a run config names.

    Args:
        name: built-in name or TOML file; "flat:FILE" names JSON of a flat scenario, as `fedinfer run` writes it.
        overrides: texts `section.key=value`, one per line or separated by semicolons.

    Raises:
        ConfigError: see fedinfer.config.
    """
    if name.startswith(FLAT):
        flat = json.loads(Path(name.removeprefix(FLAT)).read_text())
        notices = tuple(flat.pop(NOTICES, ()))
        return from_flat(flat).noticed(notices)
    texts = overrides.replace("\n", ";").split(";")
    return load_scenario(name, [text.strip() for text in texts if text.strip()])


def folder_of(context: Context) -> Path:
    """The run folder: `run-dir`, or one named after Flower's run below the current folder.

    Args:
        context: of a Flower app; its run config may hold `run-dir`.
    """
    name = str(context.run_config.get("run-dir", ""))
    return Path(name) if name else Path.cwd() / "runs" / f"flower-{context.run_id}"


def _find(context: Context) -> tuple[DeviceId, Responder]:
    if "store" in context.node_config:
        responder = _real_device(str(context.node_config["store"]))
        return next(iter(responder.host.members)), responder
    texts = str(context.run_config.get("overrides", ""))
    names, responder = _simulated_devices(str(context.run_config["scenario"]), texts, str(folder_of(context)))
    number = int(context.node_config["partition-id"])
    if number >= len(names):
        raise ConfigError(f"node {number} of a simulation with {len(names)} devices")
    return names[number], responder


@lru_cache(maxsize=1)
def _real_device(store: str) -> DeviceResponder:
    from fedinfer.deployment import open_host

    return DeviceResponder(open_host(Path(store)))


@lru_cache(maxsize=1)
def _simulated_devices(scenario: str, overrides: str, folder: str) -> tuple[list[DeviceId], DeviceResponder]:
    """All devices of a scenario; a worker process answers now for one, now for another."""
    from fedinfer.data import load
    from fedinfer.simulation import Processes, simulated_host

    loaded = scenario_of(scenario, overrides)
    federation = load(loaded)
    host = simulated_host(loaded, federation, Path(folder) / "devices", SystemClock(), Processes.MANY)
    return sorted(federation.devices), DeviceResponder(host)


def _serve(grid: Grid, context: Context) -> None:
    """Run the coordinator; an error that stops it before its loop is an event too, so that whoever waits learns it."""
    clock, folder = SystemClock(), folder_of(context)
    private_folder(folder)
    run_id = _run_id(context, folder)
    log = EventLog(folder, clock, run_id)
    provider = provider_of(os.environ)
    trace = None if provider is None else RunTrace(provider, run_id, clock)
    emit = log if trace is None else both(log, trace)
    try:
        with alone_in(folder):
            _coordinate(make_prompt_grid(grid, clock), context, folder, clock, emit, trace)
    except FedInferError as error:
        emit("failed", {"error": type(error).__name__, "message": str(error), "hint": error.hint})
        raise
    except Exception as error:  # Flower's, for instance of a SuperLink that is gone
        hint = "start the server again: it goes on after the last finished step"
        emit("failed", {"error": type(error).__name__, "message": shown(str(error), MOST_SHOWN), "hint": hint})
        raise
    finally:
        if trace is not None:
            trace.close()


def _run_id(context: Context, folder: Path) -> str:
    """Name of the run that is begun or gone on with."""
    if not bool(context.run_config.get("deployment", False)):
        return RUN_ID
    from fedinfer.deployment import unfinished_run

    resumed = bool(context.run_config.get("resume", True))
    return (unfinished_run(folder) if resumed else "") or str(context.run_id)


def _coordinate(
    grid: Grid, context: Context, folder: Path, clock: Clock, emit: Listener, trace: RunTrace | None
) -> None:
    config = context.run_config
    scenario = scenario_of(str(config["scenario"]), str(config.get("overrides", "")))
    if bool(config.get("deployment", False)):
        _deploy(grid, scenario, context, folder, clock, emit, trace)
        return
    from fedinfer.data import load
    from fedinfer.simulation import begin_world, put_back, run_simulation

    federation = load(scenario)
    kept = put_back(folder, federation) if _goes_on(folder, scenario) else None
    begin_world(folder, scenario, federation, "ray")
    _wait_for_nodes(grid, len(federation.devices), clock, SIMULATED_HINT)
    run_simulation(grid, scenario, federation, folder, "ray", clock, emit, kept=kept)


def _goes_on(folder: Path, scenario: Scenario) -> bool:
    """Whether the folder holds a simulation of this scenario that did not come to its end.

    Raises:
        ConfigError: it holds one of another scenario, which is neither mixed with this one nor forgotten.
    """
    from fedinfer.simulation import begun_scenario, was_begun

    if not was_begun(folder):
        return False
    begun, _ = begun_scenario(folder)
    if to_flat(begun) != to_flat(scenario):
        raise ConfigError(f"{folder} holds an unfinished run of another scenario", hint="give another run-dir")
    return True


def _deploy(
    grid: Grid, scenario: Scenario, context: Context, folder: Path, clock: Clock, emit: Listener,
    trace: RunTrace | None,
) -> None:  # fmt: skip
    from fedinfer.artifact import PASSPHRASE, secret_from
    from fedinfer.deployment import Deployment, forget_run, run_deployment, run_orders

    config = context.run_config
    # Flower leaves the coordinator of a SuperLink that was killed behind, and with it the lock of the run folder.
    threading.Thread(target=insist, args=(os.getppid(), 0.0), name="end with the SuperLink", daemon=True).start()
    if not bool(config.get("resume", True)):
        forget_run(folder)
    authority = Path(str(config["authority"]))
    deployment = Deployment(
        run_id=str(context.run_id),
        folder=folder,
        authority=_given(authority, "the authority's public key file"),
        revocations=_given(
            _path(config, "revocations") or authority.with_name("revocations"), "the authority's revocation list"
        ),
        keys=_path(config, "keys") or folder / "keys",
        secret=secret_from({PASSPHRASE: _path(config, "passphrase-file")}, os.environ),
        public_data=_path(config, "public-data"),
    )
    _wait_for_nodes(grid, int(config["min-devices"]), clock, DEPLOYED_HINT)
    carry_out = run_orders if bool(config.get("orders", False)) else run_deployment

    def nodes_of(grid: Grid) -> Nodes:
        nodes = GridTransport(grid)
        return nodes if trace is None else TracedNodes(nodes, trace)

    carry_out(grid, scenario, deployment, clock, emit, nodes_of=nodes_of)


def _path(config: Mapping[str, object], key: str) -> Path | None:
    text = str(config.get(key, ""))
    return Path(text) if text else None


def _given(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", hint=what) from error


def _wait_for_nodes(grid: Grid, count: int, clock: Clock, hint: str) -> None:
    """Wait until enough nodes are connected.

    Raises:
        TransportError: when they do not appear.
    """
    end = clock.seconds() + NODES_SECONDS
    while len(found := list(grid.get_node_ids())) < count:
        if clock.seconds() > end:
            raise TransportError(f"{len(found)} of {count} nodes connected within {NODES_SECONDS:.0f} s", hint=hint)
        time.sleep(POLL_SECONDS)
