"""From one run to the next: which version the whole fleet got last, its weights, and whether a new one is worse.

`checkpoints/released` names the version. It is written when a rollout reached everybody, so a version that was held,
rolled back or withdrawn is never what a later run goes on from.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedinfer.config import ModelSection
from fedinfer.coordinator.context import Rows, Server
from fedinfer.errors import ConfigError, GateFailed, StoreError
from fedinfer.metrics import EVEN, Answers, Metric, loss_of, number_score
from fedinfer.private_files import only_owner
from fedinfer.schema import Schema
from fedinfer.training import Checkpoint, load_checkpoint, save_checkpoint
from fedinfer.types import FloatVector

if TYPE_CHECKING:
    from fedinfer.artifact import ChosenFile

CHECKPOINTS, POINTER = "checkpoints", "released"
RELEASED = "released"
"""Folder of the run with a copy of the repository, as of the last rollout that is over."""
FRESH, LATEST = "fresh", "latest"


@dataclass(frozen=True, slots=True)
class Start:
    """Where the weights of a run come from.

    Args:
        source: "fresh", "version N", or the file that was named.
        weights: float32 (all parameters,); None: fresh ones are made.
    """

    source: str
    weights: FloatVector | None


def save_version(server: Server, version: int, reason: str, weights: FloatVector) -> None:
    """Keep the float weights of a version.

    Args:
        server: wiring of the run.
        version: number, >= 1.
        reason: of the rounds that made it.
        weights: float32 (all parameters,).

    Raises:
        StoreError: the disk refuses.
    """
    header = {"version": version, "reason": reason, "fits": fits(server.scenario.model, server.schema)}
    save_checkpoint(server.folder / CHECKPOINTS / f"v{version}.npz", Checkpoint({"weights": weights}, header))


def keep_weights_as(folder: Path, version: int, number: int) -> None:
    """Keep the weights of a version under another number as well; nothing where there are none.

    Args:
        folder: of the run.
        version: whose weights are kept, >= 1.
        number: under which its files were signed again.

    Raises:
        StoreError: the disk refuses.
    """
    path = folder / CHECKPOINTS / f"v{version}.npz"
    if path.exists():
        kept = load_checkpoint(path)
        again = Checkpoint(kept.arrays, {**kept.header, "version": number})
        save_checkpoint(folder / CHECKPOINTS / f"v{number}.npz", again)


def mark_released(folder: Path, version: int) -> None:
    """Note that the whole fleet got a version.

    Args:
        folder: of the run.
        version: number, >= 0; 0: none, the first one was taken back.

    Raises:
        StoreError: the disk refuses.
    """
    path = folder / CHECKPOINTS / POINTER
    part = path.with_name(f"{POINTER}.part")
    try:
        with open(part, "w", encoding="ascii", opener=only_owner) as file:
            file.write(f"{version}\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}", hint="check free space and permissions") from error


def released_version(folder: Path) -> int:
    """The version that the whole fleet got last; 0: none.

    Args:
        folder: of the run.

    Raises:
        ConfigError: the note says something else.
    """
    path = folder / CHECKPOINTS / POINTER
    try:
        return int(path.read_text(encoding="ascii")) if path.exists() else 0
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}", hint='training.start = "fresh" goes on without it') from error


def start_of(server: Server) -> Start:
    """What `[training] start` names.

    Args:
        server: wiring of the run.

    Raises:
        ConfigError: the weights cannot be read, or are those of another model or schema.
    """
    wanted, size = server.scenario.training.start, server.trainer.size
    version = released_version(server.folder) if wanted == LATEST else 0
    if wanted == FRESH or (wanted == LATEST and not version):
        return Start(FRESH, None)
    path = server.folder / CHECKPOINTS / f"v{version}.npz" if version else Path(wanted)
    kept = load_checkpoint(path)
    weights = kept.arrays.get("weights")
    own = fits(server.scenario.model, server.schema)
    if weights is None or len(weights) != size or kept.header.get("fits", own) != own:
        raise ConfigError(
            f"{path} holds the weights of another model or schema than this run trains",
            hint='training.start = "fresh" begins anew; what the devices run stays until the next push',
        )
    return Start(f"version {version}" if version else str(path), weights)


def fits(model: ModelSection, schema: Schema) -> str:
    """What weights can be read as: a digest of the model section and of what rows look like.

    Args:
        model: kind and sizes.
        schema: columns and labels.
    """
    described = json.dumps([model.model_dump(mode="json"), schema.to_json()], sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()


def worse_by(metric: Metric, rows: Rows, active: ChosenFile, new: ChosenFile) -> tuple[float, float] | None:
    """The figure of the active and of the new model on the same labelled rows.

    Args:
        metric: of the task.
        rows: may be empty.
        active: of the version that devices run.
        new: that they would get.

    Returns:
        None where nothing can be judged: no rows, other columns or labels, or a figure that is not defined.
    """
    if not len(rows[1]) or active.schema.to_json() != new.schema.to_json():
        return None
    before, after = (_figure(metric, rows, each) for each in (active, new))
    return None if before is None or after is None else (before, after)


def check_not_worse(server: Server, previous: int, new: ChosenFile) -> str:
    """Refuse a version that answers worse than the one that devices run, on rows that a server may judge by.

    What simulated devices hold is nothing that a server may decide by: there the public rows alone count.

    Args:
        server: wiring of the run.
        previous: newest version of the repository, >= 1; the one that the whole fleet got last is compared while it is
            kept there.
        new: that is about to be signed.

    Returns:
        A sentence when nothing could be judged; empty otherwise.

    Raises:
        GateFailed: it is worse by more than `[rollout] max_public_drop`.
    """
    from fedinfer.artifact import ChosenFile

    rows = server.public if server.simulated else server.judged(0)
    metric, most = server.judged_by.metric, server.scenario.rollout.max_public_drop
    released = released_version(server.folder)
    active_version = released if released in server.repository.versions() else previous
    files = server.repository.model_files(active_version)
    active = ChosenFile.of(server.repository.manifest(active_version), files)
    found = worse_by(metric, rows, active, new)
    if found is None:
        return (
            f"nobody judged whether the new version is worse than version {active_version}: no public rows with labels"
        )
    before, after = found
    if loss_of(metric, before, after) > most:
        raise GateFailed(
            f"the new version answers worse than version {active_version}, which devices run, on {len(rows[1])} public "
            f"rows: {metric} {after:.4g}, now {before:.4g}, allowed is a loss of {most:g}",
            hint='train longer, start from the newest version (training.start = "latest"), or allow more with '
            "rollout.max_public_drop",
        )
    return ""


def _figure(metric: Metric, rows: Rows, file: ChosenFile) -> float | None:
    said = file.answers(rows[0])
    if metric.of_numbers:
        return number_score(metric, said[:, 0], rows[1])
    return Answers.of(said, rows[1], None if file.threshold == EVEN else file.threshold).score(metric)
