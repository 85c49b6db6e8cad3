"""A torch module becomes an ONNX core: written by the model itself, or traced once per architecture.

Rules:
* a built-in kind writes its own graph (`write_graph`), weights included, in milliseconds; torch.onnx.export is for the
  cores of users. Once such a core was traced, only its weights are swapped;
* the template is exported with `optimize=False`: only then every parameter keeps its name and shape. The optimizing
  export folds BatchNorm into a convolution under the same name, so that a swap would give a silently wrong model;
* a missing name, another shape or another dtype is refused (`WrongTemplate`), never skipped;
* every core, however it came about, is compared with torch on probe rows before anyone sees it;
* an architecture whose parameters do not all appear by name is exported in full each time.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fedinfer.artifact.export.builder import GraphBuilder
from fedinfer.artifact.export.graph import LOGITS, OnnxModel, onnx_module, quiet, run
from fedinfer.errors import ArtifactRejected, ConfigError, GateFailed, MissingExtra
from fedinfer.manifest import INPUT
from fedinfer.schema import Schema

Module: TypeAlias = Any
"""A torch.nn.Module: raw float32 rows (n, width) with NaN -> logits (n, classes)."""
State: TypeAlias = Mapping[str, npt.NDArray[Any]]

_NOT_EXPORTED = "num_batches_tracked"  # BatchNorm counts its training steps; inference never reads it


class WrongTemplate(ArtifactRejected):
    """The weights do not fit the template; the message names the first misfit."""


class CoreOrigin(StrEnum):
    """How a core came about."""

    WRITTEN = "written"
    EXPORTED = "exported"
    SWAPPED = "swapped"


@dataclass(frozen=True, slots=True)
class Core:
    """An exported model that agrees with its source on the probe rows.

    Args:
        model: onnx.ModelProto with input "input" and output "logits".
        way: written by the model itself, traced in full, or the weights of a template swapped.
        parity: of torch: largest |onnx - torch| / (1 + |torch|) over the logits of the probe rows; of scikit-learn:
            largest absolute difference of a probability.
    """

    model: OnnxModel
    way: CoreOrigin
    parity: float


class Templates:
    """Remembers one template per architecture hash for as long as the server lives."""

    def __init__(self) -> None:
        self._models: dict[str, OnnxModel] = {}

    def get(self, architecture: str) -> OnnxModel | None:
        """The template of an architecture; None when none was kept.

        Args:
            architecture: of `architecture_hash`.
        """
        return self._models.get(architecture)

    def put(self, architecture: str, model: OnnxModel) -> None:
        """Remember a template.

        Args:
            architecture: of `architecture_hash`.
            model: exported core whose weights all bear the names of the module's parameters.
        """
        self._models[architecture] = model


def export_core(
    module: Module, schema: Schema, probe: npt.NDArray[np.float32], templates: Templates, parity_limit: float = 1e-4
) -> Core:
    """Let a module write its graph; else trace it, or swap its weights into the template of its architecture.

    Args:
        module: torch module from raw rows to logits.
        schema: inputs and labels; part of the architecture hash, because public ranges become constants of the graph.
        probe: float32 (n, width), n >= 2, rows to compare with torch; some should hold NaN.
        templates: where templates are kept between rounds.
        parity_limit: largest allowed |onnx - torch| / (1 + |torch|) of a logit, > 0.

    Raises:
        GateFailed: when ONNX and torch disagree.
        WrongTemplate: when a template of the same architecture does not take the weights.
        ConfigError: when the module does not answer (n, classes) logits or cannot be exported.
        MissingExtra: when torch or onnx is not installed.
    """
    expected = torch_logits(module, probe, schema.outputs)
    written = write_graph(module, schema)
    if written is not None:
        return _agreeing(written, CoreOrigin.WRITTEN, probe, expected, parity_limit)
    state = state_of(module)
    key = architecture_hash(module, schema)
    template = templates.get(key)
    if template is not None:
        return _agreeing(swap_weights(template, state), CoreOrigin.SWAPPED, probe, expected, parity_limit)
    core = _agreeing(_export(module, probe), CoreOrigin.EXPORTED, probe, expected, parity_limit)
    if _swappable(core.model, state):
        templates.put(key, core.model)
    return core


def write_graph(module: Module, schema: Schema) -> OnnxModel | None:
    """The core that a module writes itself; None where it cannot: it has to be traced.

    Args:
        module: torch module; one with a method `write_graph(graph, rows)` may write itself, see
            `fedinfer.training.models.build.Model`.
        schema: widths of input and output.

    Raises:
        MissingExtra: when onnx is not installed.
    """
    describe = getattr(module, "write_graph", None)
    if describe is None:
        return None
    builder = GraphBuilder()
    logits = describe(builder, INPUT)
    return None if logits is None else builder.model(logits, schema)


def _agreeing(
    model: OnnxModel,
    way: CoreOrigin,
    probe: npt.NDArray[np.float32],
    expected: npt.NDArray[np.float32],
    parity_limit: float,
) -> Core:
    difference = parity(model, probe, expected)
    if not difference <= parity_limit:
        raise GateFailed(
            f"{way}: ONNX differs from torch by {difference:.2e} on {len(probe)} probe rows, limit {parity_limit:.0e}",
            hint="an operator behaves differently in onnxruntime; compare the layers one by one",
        )
    return Core(model, way, difference)


def architecture_hash(module: Module, schema: Schema) -> str:
    """SHA-256 over the printed module, names, shapes and types of its state, and the schema.

    Args:
        module: torch module; its weights do not count.
        schema: its public ranges become constants of the graph.

    Returns:
        64 hexadecimal digits.
    """
    state = {name: (list(value.shape), str(value.dtype)) for name, value in state_of(module).items()}
    text = json.dumps([repr(module), state, schema.to_json()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def state_of(module: Module) -> State:
    """Copies of all parameters and persistent buffers that the graph needs, by name.

    Args:
        module: torch module on any device.

    Returns:
        Name in the module's state_dict to array, in the dtype of the parameter.
    """
    items = module.state_dict().items()
    return {name: value.detach().cpu().numpy().copy() for name, value in items if not name.endswith(_NOT_EXPORTED)}


def torch_logits(module: Module, x: npt.NDArray[np.float32], classes: int) -> npt.NDArray[np.float32]:
    """What torch answers in evaluation mode.

    Args:
        module: torch module; its training mode is restored afterwards.
        x: raw rows, float32 (n, width).
        classes: columns that the answer must have.

    Returns:
        float32 (n, classes).

    Raises:
        ConfigError: when the answer has another shape.
        MissingExtra: when torch is not installed.
    """
    torch = _torch()
    was_training = module.training
    module.eval()
    try:
        with torch.inference_mode():
            logits = module(torch.from_numpy(np.ascontiguousarray(x))).numpy()
    finally:
        module.train(was_training)
    if logits.shape != (len(x), classes):
        raise ConfigError(f"the module answers {logits.shape}, expected logits ({len(x)}, {classes})")
    return np.asarray(logits, np.float32)


def swap_weights(template: OnnxModel, state: State) -> OnnxModel:
    """A copy of the template that holds the values of `state`.

    Args:
        template: onnx.ModelProto; not changed.
        state: of `state_of`, from a module of the same architecture.

    Raises:
        WrongTemplate: for a name that the template lacks, another shape, another type or a value that is not finite.
    """
    onnx = onnx_module()
    model = onnx.ModelProto()
    model.CopyFrom(template)
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, value in state.items():
        if name not in initializers:
            raise WrongTemplate(f"the template has no weight {name!r}", hint="export the changed architecture anew")
        tensor, new = initializers[name], onnx.numpy_helper.from_array(value, name)
        if list(tensor.dims) != list(new.dims) or tensor.data_type != new.data_type:
            raise WrongTemplate(f"{name}: template {list(tensor.dims)}, weights {list(new.dims)} {value.dtype}")
        if not np.isfinite(value).all():
            raise WrongTemplate(f"{name}: {int((~np.isfinite(value)).sum())} values are not finite")
        tensor.CopyFrom(new)
    return model


def parity(model: OnnxModel, x: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    """Largest |onnx - expected| / (1 + |expected|) over all logits; inf when one is not finite or the shapes differ.

    Args:
        model: onnx.ModelProto of a core.
        x: probe rows, float32 (n, width), n >= 1.
        expected: logits of torch for them, float32 (n, classes).

    Raises:
        ArtifactRejected: when onnxruntime cannot load or run the core.
    """
    found = run(model.SerializeToString(), x, LOGITS)
    if found.shape != expected.shape or not np.isfinite(found).all() or not np.isfinite(expected).all():
        return math.inf
    return float((np.abs(found - expected) / (1.0 + np.abs(expected))).max())


def _export(module: Module, probe: npt.NDArray[np.float32]) -> OnnxModel:
    torch = _torch()
    was_training = module.training
    module.eval()
    example = torch.from_numpy(
        np.ascontiguousarray(np.resize(probe, (4, probe.shape[1])))
    )  # a batch of 1 would be fixed
    try:
        with quiet():
            program = torch.onnx.export(
                module, (example,), dynamo=True, optimize=False, verbose=False, external_data=False,
                input_names=[INPUT], output_names=[LOGITS],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            )  # fmt: skip
    except Exception as error:  # torch's exporter raises many unrelated types, all of them mean the same to the user
        raise ConfigError(
            f"the model cannot be exported: {type(error).__name__}: {str(error).splitlines()[0][:200]}",
            hint="use operators that torch.export can trace with a dynamic batch",
        ) from error
    finally:
        module.train(was_training)
    return bare(program.model_proto)


def bare(model: OnnxModel) -> OnnxModel:
    """Without the source lines and shapes that torch notes at every node: most of a small file, and not public.

    Args:
        model: onnx.ModelProto; it is changed.
    """
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    for item in (*model.graph.node, *model.graph.input, *model.graph.output):
        item.doc_string = ""
        del item.metadata_props[:]
    return model


def _swappable(model: OnnxModel, state: State) -> bool:
    try:
        swap_weights(model, state)
    except WrongTemplate:
        return False
    return True


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("torch is not installed", hint="pip install 'fedinfer[train]'") from error
    return torch
