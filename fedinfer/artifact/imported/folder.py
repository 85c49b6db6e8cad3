"""An imported model as a folder: `model.onnx`, as it was but with all weights inside, and `model.toml`."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.artifact.export.graph import OnnxModel, OutputHead, finish
from fedinfer.artifact.imported.adapt import adapt, schema_of
from fedinfer.artifact.imported.declaration import Declaration, ModelTask
from fedinfer.artifact.imported.facts import GraphFacts, read_facts
from fedinfer.artifact.imported.model_toml import MOST_BYTES, from_toml, to_toml
from fedinfer.artifact.imported.outside import parse, read_model
from fedinfer.artifact.imported.propose import Wishes, propose_inputs, propose_outputs, states_of
from fedinfer.artifact.imported.trial import Trial, calibration_rows, check_core, trial_rows, try_graph
from fedinfer.artifact.imported.watch import watched_of, with_watch
from fedinfer.artifact.release.files import write_file
from fedinfer.errors import ArtifactRejected, ConfigError
from fedinfer.manifest import is_name
from fedinfer.model_file import check_model
from fedinfer.ports import Clock
from fedinfer.schema import Schema
from fedinfer.types import Json

MODEL, DECLARATION = "model.onnx", "model.toml"
Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Imported:
    """A model that was read, tried and found to be what its declaration says.

    Args:
        declaration: of the model.
        facts: that its graph says.
        data: the model file.
        core: its core, onnx.ModelProto.
        schema: of its rows and answers.
        public: calibration rows as rows of the core, float32 (k, width); k may be 0.
        parity: largest difference of the core to the graph.
    """

    declaration: Declaration
    facts: GraphFacts
    data: bytes
    core: OnnxModel
    schema: Schema
    public: npt.NDArray[np.float32]
    parity: float

    @property
    def watched(self) -> tuple[str, ...]:
        """Channels of the rows' statistics that a watch for drift counts beside the answers."""
        return watched_of(self.declaration)

    def head(self, version: int) -> OutputHead:
        """What a published file of it ends with.

        Args:
            version: number of the file, >= 1.
        """
        deciding = self.declaration.deciding
        return OutputHead(
            self.schema, 1.0, self.declaration.name, version, deciding.top, deciding.abstain_below,
            threshold=deciding.threshold,
        )  # fmt: skip


def facts_of(path: Path) -> tuple[bytes, GraphFacts]:
    """A model file, its weights inside, and what its graph says.

    Args:
        path: of the ONNX file; untrusted.

    Raises:
        ConfigError, GateFailed, ArtifactRejected: as `read_model` and `read_facts`.
    """
    data = read_model(path)
    return data, read_facts(parse(data), data)


def import_model(
    data: bytes, facts: GraphFacts, name: str, label: str, wishes: Wishes, calibration: Arrays,
    clock: Clock, rng: np.random.Generator,
) -> Imported:  # fmt: skip
    """Find out what a model is, try it, and check its core against it.

    Args:
        data: of `facts_of`.
        facts: of `facts_of`.
        name: of the task.
        label: column of labelled tables that holds the label.
        wishes: what its owner says.
        calibration: public rows by input, (k, *shape); may be empty.
        clock: for time limits.
        rng: for rows that are drawn.

    Raises:
        ConfigError: what neither the graph nor the owner says, or what contradicts the graph.
        GateFailed: the model fails on trial rows, or breaks a rule.
    """
    if not is_name(name):
        raise ConfigError(f"name {name[:80]!r}: 1 to 64 of a-z, 0-9, _ and -", hint="--name NAME")
    inputs, one_row = propose_inputs(facts, wishes, calibration)
    digest = hashlib.sha256(data).hexdigest()
    started = Declaration(name, ModelTask.TENSORS, label, (), one_row, wishes.missing, digest, inputs, ())
    rows = trial_rows(started, calibration, rng)
    trial = try_graph(check_model(data), started, rows, states_of(facts, wishes), clock)
    task, labels, outputs = propose_outputs(facts, wishes, trial.seen, trial.axes, inputs)
    decided = replace(started, deciding=wishes.deciding, detections=wishes.detections)
    found = with_watch(replace(decided, task=task, labels=labels, outputs=outputs))
    return _imported(found, facts, data, trial, calibration_rows(found, calibration), clock)


def load_imported(folder: Path, clock: Clock, rng: np.random.Generator) -> Imported:
    """Read a folder, and try its model again: somebody may have changed `model.toml`.

    Args:
        folder: of `save_imported`.
        clock: for time limits.
        rng: for rows that are drawn.

    Raises:
        ConfigError: a file is missing or wrong.
        ArtifactRejected: the model is not the one that the declaration describes.
        GateFailed: the model fails on trial rows, or its core answers otherwise.
    """
    found = _read(folder / DECLARATION)
    data, facts = facts_of(folder / MODEL)
    if hashlib.sha256(data).hexdigest() != found.sha256:
        raise ArtifactRejected(f"{folder / MODEL} is not the model of its {DECLARATION}", hint="import it again")
    schema_of(found)
    watched_of(found)
    states = {spec.feeds: spec.name for spec in found.outputs if spec.feeds}
    trial = try_graph(check_model(data), found, trial_rows(found, {}, rng), states, clock)
    return _imported(found, facts, data, trial, trial.rows[:0], clock)


def is_imported(path: Path) -> bool:
    """Whether a path is a folder of an imported model.

    Args:
        path: that somebody named.
    """
    return (path / DECLARATION).is_file()


def save_imported(folder: Path, imported: Imported) -> None:
    """Write a folder; the declaration comes last, so a folder with one is complete.

    Args:
        folder: made when it does not exist.
        imported: to write.

    Raises:
        StoreError: when the disk refuses.
    """
    write_file(folder, MODEL, imported.data)
    write_file(folder, DECLARATION, to_toml(imported.declaration).encode())


def weights_of(core: OnnxModel) -> int:
    """How many numbers a core holds.

    Args:
        core: onnx.ModelProto.
    """
    return sum(math.prod(tensor.dims) for tensor in core.graph.initializer)


def describe_imported(imported: Imported) -> Json:
    """What an imported model is, for the command line.

    Args:
        imported: the model.
    """
    found, facts = imported.declaration, imported.facts
    return {
        "kind": "imported model",
        "name": found.name,
        "task": str(found.task),
        "bytes": len(imported.data),
        "opset": facts.opset,
        "one_row_at_a_time": found.one_row,
        "quantized_already": facts.quantized,
        "inputs": [_shown(spec.name, spec.dtype, spec.shape, _input_note(spec)) for spec in found.inputs],
        "outputs": [_shown(spec.name, spec.dtype, spec.shape, _output_note(spec)) for spec in found.outputs],
        "labels": list(found.labels),
        "watched": list(imported.watched),
        "row_values": imported.schema.width,
        "parity": imported.parity,
        "operators": dict(facts.operators),
    }


def _imported(
    found: Declaration, facts: GraphFacts, data: bytes, trial: Trial, public: npt.NDArray[np.float32], clock: Clock
) -> Imported:
    schema, core = schema_of(found), adapt(parse(data), found)
    file = finish(core, OutputHead(schema, 1.0, found.name, 1))
    return Imported(found, facts, data, core, schema, public, check_core(file, found, trial, clock))


def _read(path: Path) -> Declaration:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ConfigError(f"{path}: more than {MOST_BYTES} bytes")
        return from_toml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def _shown(name: str, dtype: str, shape: tuple[int, ...], note: str) -> str:
    return f"{name}: {dtype} {list(shape)}{note}"


def _input_note(spec: Any) -> str:
    if spec.constant is not None:
        return f" = {spec.constant:g}"
    if spec.image is not None:
        return f", made of raw pixels {spec.image.height} x {spec.image.width}"
    if spec.vocabulary is not None:
        return f", looked up for {len(spec.vocabulary.found)} words of a text"
    if spec.audio is not None:
        return f", made of {spec.audio.samples} raw samples"
    return f", {len(spec.categories)} categories" if spec.categories else f" in [{spec.low:g}, {spec.high:g}]"


def _output_note(spec: Any) -> str:
    return f" as {spec.use}" + (f", feeds {spec.feeds}" if spec.feeds else "")
