"""The coordinator of a real deployment: entropy of the operating system, keys on disk, public rows only."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from flwr.serverapp import Grid

from fedinfer.artifact import (
    ROOT_METADATA,
    Protection,
    Repository,
    Secret,
    holds_root_keys,
    load_keys,
    save_keys,
)
from fedinfer.config import Scenario, to_flat, weighted
from fedinfer.coordinator import (
    Rows,
    Site,
    StateFile,
    carry_out,
    carry_out_starts,
    planned_population,
    read_state,
    rehearse,
    start_up,
)
from fedinfer.data import check_judging, check_qat_rows, load_own, public_schema
from fedinfer.deployment.older_copy import check_not_older
from fedinfer.errors import ConfigError, TransportError
from fedinfer.flower import GridTransport, build_id
from fedinfer.inference import latest_known, note_refresh
from fedinfer.ports import Clock, Listener, Nodes
from fedinfer.privacy import SecureStream
from fedinfer.schema import Schema
from fedinfer.secagg import Challenge, Validation, seconds_of, validation
from fedinfer.system import SystemEntropy, simulation_rng
from fedinfer.training import Checkpoint, GradientEngine, load_trainer
from fedinfer.types import Json


@dataclass(frozen=True, slots=True)
class Deployment:
    """What an operator gives.

    Args:
        run_id: name of the run, if it begins; a new name gets no new budget on any device.
        folder: run folder of the server: ledger, checkpoints, artifacts.
        authority: public key of the enrolment authority, 32 or 65 bytes.
        revocations: the authority's newest list, signed.
        keys: folder with the online signing keys and the root metadata that names them; no root key may be in it.
        secret: opens the keys: from a file or the environment, because nobody is there to be asked.
        public_data: table with rows the server may hold, or None.
    """

    run_id: str
    folder: Path
    authority: bytes
    revocations: bytes
    keys: Path
    secret: Secret
    public_data: Path | None


def run_deployment(
    grid: Grid,
    scenario: Scenario,
    deployment: Deployment,
    clock: Clock,
    emit: Listener,
    rest: Callable[[float], None] = time.sleep,
    nodes_of: Callable[[Grid], Nodes] = GridTransport,
) -> Json:
    """Enrol the connected devices and run the scenario, or go on with the run of the folder that did not end.

    A device whose owner started it after the run began takes part as well; one that is away is left out. Both are
    planned for as at the beginning, because the budget was shared out then.

    Args:
        grid: of Flower, with the devices' nodes connected.
        scenario: validated.
        deployment: what the operator gives.
        clock: of the operating system.
        emit: gets every event of the run.
        rest: waits so many seconds, while devices have not predicted enough for a window.
        nodes_of: reaches the devices of a grid.

    Returns:
        What run.json holds.

    Raises:
        ConfigError: signing keys are missing, root keys lie among them, `qat_steps` has no public rows, or the folder
            is an old copy.
        Misbehaviour: the revocation list is missing, not the authority's, or has ended.
        TransportError: a run is gone on with, and too few devices joined for a sum.
        FedInferError: as `fedinfer.coordinator.run.run`.
    """
    kept, run_id = kept_run(scenario, deployment)
    site = _site(nodes_of(grid), scenario, deployment, run_id, clock, emit, rest)
    rehearse(site.scenario, site.schema, site.trainer, GradientEngine.PER_EXAMPLE, clock)
    site = replace(site, population=None if kept is None else planned_population(kept))
    server, plan = start_up(site)
    check_not_older(server)
    if kept is not None and len(server.devices) < plan.train.min_survivors:  # going on would end the run
        raise TransportError(
            f"{len(server.devices)} devices joined, a sum of run {run_id} needs {plan.train.min_survivors}",
            hint="start it again when they are back: it waits, and nothing was spent",
        )
    return carry_out(server, plan, kept)


def run_orders(
    grid: Grid,
    scenario: Scenario,
    deployment: Deployment,
    clock: Clock,
    emit: Listener,
    rest: Callable[[float], None] = time.sleep,
    nodes_of: Callable[[Grid], Nodes] = GridTransport,
) -> str:
    """Enrol the connected devices and bring them what operators started; nothing is trained and nothing is spent.

    Args:
        grid: of Flower, with the devices' nodes connected.
        scenario: validated; its [rollout] section holds.
        deployment: what the operator gives.
        clock: of the operating system.
        emit: gets every event of the run.
        rest: waits so many seconds, while a held rollout waits for an operator.
        nodes_of: reaches the devices of a grid.

    Returns:
        Name of the rollout; empty when none was started.

    Raises:
        ConfigError: a run of the folder did not end: that one carries out orders itself.
        GateFailed: the rollout did not reach the whole fleet.
        FedInferError: as `run_deployment`.
    """
    if unfinished := unfinished_run(deployment.folder):
        raise ConfigError(
            f"run {unfinished} did not end; it carries out orders itself",
            hint="go on with it (`fedinfer server run DIR`), or give it up",
        )
    return carry_out_starts(
        *start_up(_site(nodes_of(grid), scenario, deployment, deployment.run_id, clock, emit, rest))
    )


def _site(
    nodes: Nodes, asked: Scenario, deployment: Deployment, run_id: str, clock: Clock, emit: Listener,
    rest: Callable[[float], None],
) -> Site:  # fmt: skip
    """What the server has before it has met a device."""
    schema, entropy = public_schema(asked), SystemEntropy()
    public, judged = _public_and_judged(asked, schema, deployment.public_data)
    scenario = weighted(asked, schema.labels, public[1])
    return Site(
        engine="deployment",
        scenario=scenario,
        schema=schema,
        challenge=Challenge.draw(run_id, build_id(), entropy),
        against=_validation(deployment, clock),
        revocations=deployment.revocations,
        nodes=nodes,
        repository=_repository(deployment, clock),
        trainer=load_trainer(scenario.model, schema, scenario.training, scenario.scenario.seed),
        public=public,
        judged=lambda _window: judged,
        witness=None,
        entropy=entropy,
        noise=lambda _round: SecureStream(entropy),
        generator=lambda use: simulation_rng(int.from_bytes(entropy.take(8), "little"), use),
        simulated=False,
        population=None,
        warnings=(),
        folder=deployment.folder,
        clock=clock,
        emit=emit,
        keeper=StateFile(deployment.folder, _header(asked, run_id)),
        rest=rest,
    )


def unfinished_run(folder: Path) -> str:
    """Name of the run in a folder that did not end; empty when there is none.

    Args:
        folder: of the server's runs.

    Raises:
        ConfigError: its state cannot be read.
    """
    kept = read_state(folder)
    return "" if kept is None else str(kept.header["run_id"])


def kept_run(scenario: Scenario, deployment: Deployment) -> tuple[Checkpoint | None, str]:
    """The state to go on with, and the name of the run.

    Args:
        scenario: that is asked for.
        deployment: what an operator gives.

    Raises:
        ConfigError: a run of another scenario or version waits in the folder: it is neither mixed with this one nor
            forgotten.
    """
    kept = read_state(deployment.folder)
    if kept is None:
        return None, deployment.run_id
    run_id, hint = str(kept.header["run_id"]), "ask for the same, or start a new run with `resume = false`"
    if kept.header["build"] != build_id():
        raise ConfigError(f"run {run_id} was begun by {kept.header['build']}, this is {build_id()}", hint=hint)
    before, now = kept.header["scenario"], _header(scenario, run_id)["scenario"]
    if before != now:
        changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
        raise ConfigError(f"run {run_id} did not end, and its scenario was another: {', '.join(changed)}", hint=hint)
    return kept, run_id


def forget_run(folder: Path) -> None:
    """Give up a run that did not end; what it spent stays spent.

    Args:
        folder: of the server's runs.
    """
    StateFile(folder, {}).end()


def _header(scenario: Scenario, run_id: str) -> Json:
    """By what a later process knows the run again."""
    return {"run_id": run_id, "build": build_id(), "scenario": json.loads(json.dumps(to_flat(scenario)))}


def _validation(deployment: Deployment, clock: Clock) -> Validation:
    """What certificates are checked against; a clock that was set back does not make an expired one count again."""
    now = latest_known(deployment.folder, clock.now())
    against = validation(deployment.authority, deployment.revocations, seconds_of(now))
    note_refresh(deployment.folder, now)
    return against


def _repository(deployment: Deployment, clock: Clock) -> Repository:
    """The signed repository; its root was signed where the root keys are, which is not here.

    Raises:
        ConfigError: no keys, no root metadata for a first run, or a root key in the folder.
    """
    folder, entropy = deployment.keys, SystemEntropy()
    if holds_root_keys(folder):
        raise ConfigError(
            f"{folder} holds root keys: whoever reads this folder could name keys of his own",
            hint="move root.*.key to a folder that is kept offline; a run needs none of them",
        )
    keys, root = load_keys(folder, deployment.secret), folder / ROOT_METADATA
    return Repository(
        deployment.folder / "artifacts",
        keys,
        clock,
        lambda kept: save_keys(kept, folder, Protection(deployment.secret, entropy)),
        root=root.read_bytes() if root.is_file() else b"",
    )


def _public_and_judged(scenario: Scenario, schema: Schema, path: Path | None) -> tuple[Rows, Rows]:
    """Rows to learn from and rows to evaluate on: the same ones, or every second one when files are fine-tuned on them.

    Raises:
        ConfigError: `qat_steps` without public rows.
    """
    x, y = rows = _public_rows(scenario, schema, path)
    check_qat_rows(scenario, len(y))
    check_judging(scenario, schema, y)
    return ((x[::2], y[::2]), (x[1::2], y[1::2])) if scenario.artifact.qat_steps else (rows, rows)


def _public_rows(scenario: Scenario, schema: Schema, path: Path | None) -> Rows:
    if path is None:
        return np.empty((0, schema.width), np.float32), np.empty(0, np.int64)
    data = load_own(scenario, schema, path, simulation_rng(scenario.scenario.seed, "public"))
    return np.concatenate([data.train_x, data.test_x]), np.concatenate([data.train_y, data.test_y])
