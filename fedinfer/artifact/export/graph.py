"""ONNX graphs as values: opening them safely, and the output head that every published graph ends with.

A *core* has the input "input" (float32 (batch, width), raw values, NaN = missing) and the output "logits" (float32
(batch, classes)). `finish` appends temperature, softmax, label names, top-k and abstention, so that a device feeds raw
values and gets labels. For a text schema it also puts the tokenizer before the core, and the graph takes texts.
Quantization only ever sees cores.
"""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fedinfer.artifact.export.heads import add_contributions, add_decision, add_value, terms_tensor
from fedinfer.artifact.export.large_weights import copy_small, written
from fedinfer.artifact.export.tokenizer import Prefixes, tokenizer_parts
from fedinfer.errors import ArtifactRejected, ConfigError, MissingExtra
from fedinfer.manifest import CONTRIBUTIONS, INPUT, LABEL, PROBABILITIES, TOP, VALUE
from fedinfer.metrics import EVEN
from fedinfer.model_file import check_model, open_checked
from fedinfer.printable import STEERING
from fedinfer.schema import Schema, Text
from fedinfer.text import column_of

LOGITS = "logits"
_BATCH_VALUES = 2**20
PRODUCER = "fedinfer"
_OURS, _PREFIX = "fedinfer/", "fedinfer_"  # names of the nodes and constants that `finish` adds
_TOKENS = "fedinfer_tokens"  # what the nodes of a core read in a graph that takes texts
_TEXT_OPSETS = {"": 20, "ai.onnx.ml": 4}  # StringSplit; LabelEncoder from text to whole numbers
OnnxModel: TypeAlias = Any
"""An onnx.ModelProto; onnx is imported only by the functions that need it."""


@dataclass(frozen=True, slots=True)
class OutputHead:
    """What `finish` appends to a core.

    Args:
        schema: gives the label names.
        temperature: divides the logits, > 0 (Guo et al. 2017, section 4.2).
        task, version: for the metadata of the file.
        top: list this many classes in the output "top"; 0 = no such output.
        abstain_below: answer `abstain_label` when the largest probability is below this, in [0, 1]; 0 = never.
        abstain_label: what the graph answers then.
        threshold: for two classes, in (0, 1): answer class 1 from this probability on; 0.5 = the likeliest class.
        terms: columns of each summand of an additive model; empty for other models.
    """

    schema: Schema
    temperature: float
    task: str
    version: int
    top: int = 0
    abstain_below: float = 0.0
    abstain_label: str = "abstain"
    threshold: float = EVEN
    terms: tuple[tuple[str, ...], ...] = ()


def onnx_module() -> Any:
    """The onnx package.

    Raises:
        MissingExtra: when it is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingExtra("onnx is not installed", hint="pip install 'fedinfer[train]'") from error
    return onnx


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporters and quantizers silent: what they report is checked by the gates, not read by a person."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def load(data: bytes) -> OnnxModel:
    """Parse and check a model file.

    Args:
        data: serialized ONNX model; untrusted.

    Returns:
        onnx.ModelProto.

    Raises:
        GateFailed: when it breaks a rule of `fedinfer.model_file`: what a device would refuse is refused here.
        ArtifactRejected: when it is no valid ONNX.
        MissingExtra: when onnx is not installed.
    """
    check_model(data)
    onnx = onnx_module()
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(data)
        onnx.checker.check_model(model)
    except (DecodeError, ValueError, onnx.checker.ValidationError) as error:
        raise ArtifactRejected(f"not a valid ONNX file: {str(error).splitlines()[0][:200]}") from error
    return model


def open_session(model: bytes) -> Any:
    """A session of a model file that keeps the rules of `fedinfer.model_file`.

    Args:
        model: ONNX file.

    Returns:
        onnxruntime.InferenceSession with one thread on the CPU.

    Raises:
        GateFailed: when it breaks a rule, or onnxruntime refuses the file.
    """
    return open_checked(check_model(model))


def batch_rows(width: int) -> int:
    """Rows per call of a model that is measured: 1024, fewer of wide rows, of which a run takes many times their size.

    Args:
        width: of a row, >= 1.
    """
    return max(1, min(1024, _BATCH_VALUES // width))


def run(model: bytes, x: npt.NDArray[Any], output: str, batch: int = 0) -> npt.NDArray[Any]:
    """One output of a model for all rows, in batches.

    Args:
        model: ONNX file.
        x: raw rows, float32 (n, width), or object (n, 1) for a graph that takes texts; n >= 1.
        output: name of the output.
        batch: rows per call; 0: `batch_rows`.

    Returns:
        (n, ...), with the type of the output.

    Raises:
        GateFailed: when the file breaks a rule of `fedinfer.model_file`, or onnxruntime cannot load it.
        ArtifactRejected: when onnxruntime cannot run the file, or it has no such input or output.
    """
    session, batch = open_session(model), batch or batch_rows(x.shape[1])
    if session.get_inputs()[0].shape[0] == 1:  # the graph takes one row at a time
        batch = 1
    try:
        parts = [session.run([output], {INPUT: x[i : i + batch]})[0] for i in range(0, len(x), batch)]
        return np.concatenate(parts)
    except Exception as error:  # its exceptions share no public base class
        raise ArtifactRejected(f"onnxruntime cannot run the file: {str(error)[:200]}") from error


def finish(core: OnnxModel, head: OutputHead) -> bytes:
    """The file that is published: the core followed by `head`, with metadata.

    Args:
        core: onnx.ModelProto with input "input" and output "logits"; not changed.
        head: what to append.

    Returns:
        ONNX file with outputs "label" (string (batch,)), "probabilities" (float32 (batch, classes)) and, when asked,
        "top" (int64 (batch, top), best first); of a numeric label "value" instead and of an additive model also
        "contributions", see `fedinfer.artifact.export.heads`. The input is "input", string (batch, 1) for a text
        schema, else as in the core.

    Raises:
        ConfigError: a text schema and a core of an operator set without string operators, or terms and a core that is
            no sum of them.
    """
    model, large = copy_small(core)
    graph = model.graph
    del graph.output[:]
    if head.schema.label_range is not None:
        _value(graph, head)
    else:
        _probabilities(graph, head)
        _label(graph, head)
        if head.top:
            _top(graph, head.top)
    if head.terms:
        _contributions(graph, head)
    if head.schema.text is not None:
        _take_text(model, head.schema.text)
    _metadata(model, head)
    return written(model, large)


def tokens_in(file: bytes, texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """The token numbers that the core of a finished file gets for texts; the gates compare them with those of training.

    Args:
        file: finished ONNX file of a text schema.
        texts: n >= 1 texts.

    Returns:
        float32 (n, length).

    Raises:
        ArtifactRejected: when onnxruntime cannot load or run the file, or it has no tokenizer.
    """
    onnx = onnx_module()
    model = onnx.load_model_from_string(file)
    _output(model.graph, _TOKENS, onnx.TensorProto.FLOAT, ["batch", "length"])
    return run(model.SerializeToString(), column_of(texts), _TOKENS)


def core_of(model: OnnxModel) -> OnnxModel:
    """The core of a published graph: `finish` undone, so that an exported file can be quantized later.

    Args:
        model: onnx.ModelProto of a published file; not changed.

    Returns:
        onnx.ModelProto with input "input" and output "logits".

    Raises:
        ArtifactRejected: when the graph was not made by `finish`.
    """
    onnx = onnx_module()
    core = onnx.ModelProto()
    core.CopyFrom(model)
    graph = core.graph
    nodes = [node for node in graph.node if not node.name.startswith(_OURS)]
    tensors = [tensor for tensor in graph.initializer if not tensor.name.startswith(_PREFIX)]
    if len(nodes) == len(graph.node) or not any(LOGITS in node.output for node in nodes):
        raise ArtifactRejected(
            "the graph has no output head of fedinfer", hint="make it with `fedinfer artifact export`"
        )
    shape = next(output for output in graph.output if output.name in (PROBABILITIES, VALUE)).type.tensor_type.shape
    classes = shape.dim[1].dim_value
    for field, kept in ((graph.node, nodes), (graph.initializer, tensors)):
        kept = [type(item).FromString(item.SerializeToString()) for item in kept]
        del field[:]
        field.extend(kept)
    if graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.STRING:
        _rename_input(graph, _TOKENS, INPUT)
        _set_input(graph, onnx.TensorProto.FLOAT, head_of(model).schema.width)
    del graph.output[:]
    del core.metadata_props[:]
    _output(graph, LOGITS, onnx.TensorProto.FLOAT, ["batch", classes])
    return core


def head_of(model: OnnxModel) -> OutputHead:
    """Schema, task and version that `finish` wrote into a file.

    Args:
        model: onnx.ModelProto of a published file.

    Returns:
        A head with temperature 1, of the likeliest class and without abstention: whoever publishes decides anew.

    Raises:
        ArtifactRejected: when the metadata is missing or malformed (what was a ValueError while reading).
    """
    found = {item.key: item.value for item in model.metadata_props}
    try:
        if not all(isinstance(value, str) for value in found.values()):
            raise ValueError("metadata that is not UTF-8")  # protobuf hands such text over as bytes
        schema = Schema.from_json(json.loads(found["schema"]))
        if STEERING.search(found["task"]):
            raise ValueError(f"control character in task {ascii(found['task'])[:80]}")
        terms = tuple(tuple(map(str, columns)) for columns in json.loads(found.get("terms", "[]")))
        return OutputHead(schema, 1.0, found["task"], int(found["version"]), terms=terms)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError, ConfigError) as error:
        raise ArtifactRejected(f"the file has no usable metadata: {error!r}") from error


def _take_text(model: OnnxModel, column: Text) -> None:
    onnx, graph = onnx_module(), model.graph
    opsets = {item.domain: item.version for item in model.opset_import}
    for domain, least in _TEXT_OPSETS.items():
        if opsets.setdefault(domain, least) < least:
            raise ConfigError(
                f"a graph of texts needs operator set {least} of {domain or 'ai.onnx'}, not {opsets[domain]}"
            )
    del model.opset_import[:]
    model.opset_import.extend(onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items())
    _rename_input(graph, INPUT, _TOKENS)
    nodes, constants = tokenizer_parts(onnx, column, INPUT, _TOKENS, Prefixes(_OURS, _PREFIX))
    for node in reversed(nodes):
        graph.node.insert(0, node)
    graph.initializer.extend(constants)
    _set_input(graph, onnx.TensorProto.STRING, 1)


def _rename_input(graph: Any, old: str, new: str) -> None:
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == old:
                node.input[place] = new


def _set_input(graph: Any, kind: int, width: int) -> None:
    del graph.input[:]
    graph.input.append(onnx_module().helper.make_tensor_value_info(INPUT, kind, ["batch", width]))


def _probabilities(graph: Any, head: OutputHead) -> None:
    onnx = onnx_module()
    _constant(graph, "fedinfer_temperature", np.array(head.temperature, np.float32))
    _node(graph, "Div", [LOGITS, "fedinfer_temperature"], ["fedinfer_scaled"])
    _node(graph, "Softmax", ["fedinfer_scaled"], [PROBABILITIES], axis=-1)
    _output(graph, PROBABILITIES, onnx.TensorProto.FLOAT, ["batch", head.schema.classes])


def _value(graph: Any, head: OutputHead) -> None:
    add_value(head.schema, LOGITS, VALUE, partial(_node, graph), partial(_constant, graph))
    _output(graph, VALUE, onnx_module().TensorProto.FLOAT, ["batch", head.schema.outputs])


def _contributions(graph: Any, head: OutputHead) -> None:
    terms = terms_tensor(graph, LOGITS)
    if not terms:
        raise ConfigError("the core is no sum of the terms of an additive model", hint="export it with fedinfer")
    number = head.schema.label_range is not None
    scaled = ("fedinfer_scaled", "Div", "fedinfer_temperature")
    how = ("fedinfer_unclipped", "Mul", "fedinfer_half") if number else scaled
    add_contributions(terms, *how, CONTRIBUTIONS, partial(_node, graph), partial(_constant, graph))
    shape = ["batch", len(head.terms) + 1, head.schema.outputs]
    _output(graph, CONTRIBUTIONS, onnx_module().TensorProto.FLOAT, shape)


def _label(graph: Any, head: OutputHead) -> None:
    onnx = onnx_module()
    name = LABEL if head.abstain_below == 0 else "fedinfer_name"
    _constant(graph, "fedinfer_labels", np.array(head.schema.labels, dtype=object))
    add_decision(head.threshold, PROBABILITIES, "fedinfer_class", partial(_node, graph), partial(_constant, graph))
    _node(graph, "Gather", ["fedinfer_labels", "fedinfer_class"], [name])
    if name != LABEL:
        _constant(graph, "fedinfer_single", np.array([1], np.int64))
        _constant(graph, "fedinfer_each_row", np.array([-1], np.int64))
        _constant(graph, "fedinfer_abstain_below", np.array(head.abstain_below, np.float32))
        _constant(graph, "fedinfer_abstain_label", np.array([head.abstain_label], dtype=object))
        # ReduceMax says its axes in one way up to operator set 17 and in another after it.
        _node(graph, "TopK", [PROBABILITIES, "fedinfer_single"], ["fedinfer_largest", "fedinfer_likeliest"], axis=-1)
        _node(graph, "Reshape", ["fedinfer_largest", "fedinfer_each_row"], ["fedinfer_confidence"])
        _node(graph, "Less", ["fedinfer_confidence", "fedinfer_abstain_below"], ["fedinfer_unsure"])
        _node(graph, "Where", ["fedinfer_unsure", "fedinfer_abstain_label", name], [LABEL])
    _output(graph, LABEL, onnx.TensorProto.STRING, ["batch"])


def _top(graph: Any, top: int) -> None:
    onnx = onnx_module()
    _constant(graph, "fedinfer_top", np.array([top], np.int64))
    _node(graph, "TopK", [PROBABILITIES, "fedinfer_top"], ["fedinfer_top_values", TOP], axis=-1)
    _output(graph, TOP, onnx.TensorProto.INT64, ["batch", top])


def _metadata(model: OnnxModel, head: OutputHead) -> None:
    model.producer_name, model.model_version, model.doc_string = PRODUCER, head.version, ""
    del model.metadata_props[:]
    schema = json.dumps(head.schema.to_json(), sort_keys=True, separators=(",", ":"))
    terms = {"terms": json.dumps(head.terms, separators=(",", ":"))} if head.terms else {}
    for key, value in {"schema": schema, "task": head.task, "version": str(head.version), **terms}.items():
        model.metadata_props.add(key=key, value=value)
    if head.threshold != EVEN:
        model.metadata_props.add(key="threshold", value=repr(head.threshold))


def _constant(graph: Any, name: str, value: npt.NDArray[Any]) -> None:
    graph.initializer.append(onnx_module().numpy_helper.from_array(value, name))


def _node(graph: Any, kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
    graph.node.append(onnx_module().helper.make_node(kind, inputs, outputs, name=_OURS + outputs[0], **attributes))


def _output(graph: Any, name: str, kind: int, shape: list[Any]) -> None:
    graph.output.append(onnx_module().helper.make_tensor_value_info(name, kind, shape))
