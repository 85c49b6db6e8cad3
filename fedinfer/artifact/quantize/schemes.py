"""Which quantization schemes are tried for which kind of graph, in which order.

The kind is read off the graph, so a user's own architecture gets a scheme too. The order follows measurements:
static S8S8 before U8S8 (U8S8 loses accuracy on CPUs without VNNI), constant weights only for attention (a quantized
attention mask costs 27 points of accuracy), no static scheme for recurrent cells (onnxruntime does not quantize them).
Static comes before dynamic because dynamic scales depend on the other rows of a batch.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from fedinfer.artifact.export.graph import LOGITS, OnnxModel
from fedinfer.artifact.export.heads import terms_tensor
from fedinfer.types import GraphFamily

AROUND = "around/"
"""Names of nodes begin so that were put around a model of another tool, and that stay as they are."""


class Method(StrEnum):
    """How weights and activations are stored."""

    FLOAT = "float"
    HALF_WEIGHTS = "half-weights"
    INT8_WEIGHTS = "int8-weights"
    DYNAMIC = "dynamic"
    STATIC = "static"


class Activation(StrEnum):
    """Type of the activations of a static scheme; its weights have the same type."""

    S8 = "s8"
    U8 = "u8"


class QuantizedNodes(StrEnum):
    """Which nodes a static scheme quantizes."""

    ALL = "all"
    INNER = "inner"  # the first and the last weighted node stay float
    CONSTANT_ONLY = "constant-only"  # a product of two activations stays float


@dataclass(frozen=True, slots=True)
class Scheme:
    """One way of making a variant.

    Args:
        name: as it stands in manifests and reports.
        variant: kind of the file: "float", "fp16" or "int8".
        method: how weights and activations are stored.
        activation: for a static scheme, type of the activations and weights.
        scope: for a static scheme, which nodes are quantized.
    """

    name: str
    variant: str
    method: Method
    activation: Activation = Activation.S8
    scope: QuantizedNodes = QuantizedNodes.ALL


FLOAT = Scheme("float", "float", Method.FLOAT)
FP16 = Scheme("fp16-weights", "fp16", Method.HALF_WEIGHTS)
INT8_WEIGHTS = Scheme("int8-weights", "int8", Method.INT8_WEIGHTS)
DYNAMIC = Scheme("dynamic-s8", "int8", Method.DYNAMIC)
STATIC_S8 = Scheme("static-qdq-s8s8", "int8", Method.STATIC)
STATIC_U8 = Scheme("static-qdq-u8u8", "int8", Method.STATIC, Activation.U8)
STATIC_INNER = Scheme("static-qdq-s8s8-inner", "int8", Method.STATIC, scope=QuantizedNodes.INNER)
STATIC_CONSTANT = Scheme("static-qdq-s8s8-constant", "int8", Method.STATIC, scope=QuantizedNodes.CONSTANT_ONLY)

INT8_RECIPES: dict[GraphFamily, tuple[Scheme, ...]] = {
    GraphFamily.DENSE: (STATIC_S8, STATIC_U8, DYNAMIC, STATIC_INNER, INT8_WEIGHTS),
    GraphFamily.ADDITIVE: (INT8_WEIGHTS,),  # rounded activations would give each shape function steps
    GraphFamily.CONVOLUTION: (STATIC_S8, STATIC_U8, STATIC_INNER, INT8_WEIGHTS, DYNAMIC),
    GraphFamily.EMBEDDING: (STATIC_CONSTANT, INT8_WEIGHTS, DYNAMIC),
    GraphFamily.RECURRENT: (INT8_WEIGHTS, DYNAMIC),
    GraphFamily.ATTENTION: (STATIC_CONSTANT, DYNAMIC, INT8_WEIGHTS),
    GraphFamily.OTHER: (),
}
"""Tried in this order until one passes and is a tenth smaller than the float file; fp16 and float follow."""


def rounds_inputs(name: str, family: GraphFamily) -> bool:
    """Does a scheme round what enters a layer, too? For a file without int8 the family's first scheme answers.

    Args:
        name: of the scheme of the chosen file.
        family: kind of its graph.
    """
    schemes = INT8_RECIPES[family]
    found = next((recipe for recipe in schemes if recipe.name == name), schemes[0] if schemes else FLOAT)
    match found.method:
        case Method.STATIC | Method.DYNAMIC:
            return True
        case Method.FLOAT | Method.HALF_WEIGHTS | Method.INT8_WEIGHTS:
            return False
        case _:
            assert_never(found.method)


def family_of(core: OnnxModel) -> GraphFamily:
    """The kind of a graph, by its operators.

    Args:
        core: onnx.ModelProto, of a core: the softmax of an output head would look like attention.
    """
    if terms_tensor(core.graph, LOGITS):
        return GraphFamily.ADDITIVE
    nodes = [node for node in core.graph.node if not node.name.startswith(AROUND)]
    kinds = Counter(node.op_type for node in nodes)
    if kinds["GRU"] or kinds["LSTM"] or kinds["RNN"]:
        return GraphFamily.RECURRENT
    if kinds["Softmax"] and kinds["MatMul"]:
        return GraphFamily.ATTENTION
    if kinds["Conv"]:
        return GraphFamily.CONVOLUTION
    tables = {tensor.name for tensor in core.graph.initializer if len(tensor.dims) == 2}
    if any(node.op_type == "Gather" and node.input[0] in tables for node in nodes):
        return GraphFamily.EMBEDDING
    return GraphFamily.DENSE if kinds["Gemm"] or kinds["MatMul"] else GraphFamily.OTHER
