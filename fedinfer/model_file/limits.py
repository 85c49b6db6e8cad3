"""What a graph may hold: one table. Who imports foreign models reads it here and changes it here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from fedinfer.manifest import LABEL, MAX_ARTIFACT_BYTES

_ONNX: frozenset[str] | None = None  # every operator of the standard: the runtime knows each of them or refuses it
_MACHINE_LEARNING = frozenset(
    {"LabelEncoder", "TreeEnsembleRegressor", "TreeEnsembleClassifier", "TreeEnsemble", "LinearClassifier",
     "LinearRegressor", "Scaler", "Imputer", "Normalizer", "ArrayFeatureExtractor", "Binarizer", "OneHotEncoder",
     "SVMClassifier", "SVMRegressor", "FeatureVectorizer", "CategoryMapper"}
)  # fmt: skip
_MICROSOFT = frozenset(
    {"QGemm", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QuantizeLinear",
     "DequantizeLinear", "QLinearAdd", "QLinearMul", "QLinearSigmoid", "QLinearConcat", "QLinearAveragePool",
     "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearReduceMean", "QLinearSoftmax", "QLinearWhere",
     "QAttention", "QEmbedLayerNormalization", "MatMulNBits", "Gelu", "FastGelu", "BiasGelu", "FusedMatMul",
     "FusedGemm", "FusedConv", "SkipLayerNormalization", "LayerNormalization", "Attention", "CDist"}
)  # fmt: skip


def _domains() -> Mapping[str, frozenset[str] | None]:
    return MappingProxyType({"": _ONNX, "ai.onnx": _ONNX, "ai.onnx.ml": _MACHINE_LEARNING, "com.microsoft": _MICROSOFT})


def _size_inputs() -> Mapping[str, tuple[int, ...]]:
    return MappingProxyType({"ConstantOfShape": (0,), "Expand": (1,), "Tile": (1,), "Resize": (3,), "OneHot": (1,)})


@dataclass(frozen=True, slots=True)
class GraphLimits:
    """Limits and lists that a model file is checked against.

    Control flow is refused wholly: nothing that fedinfer exports or quantizes has any (recurrent cells are the
    operators GRU, LSTM and RNN), and a loop whose number of turns depends on a row takes time that depends on it.
    `control_flow` names operators that may have graphs inside; these are walked like the outer one. Loop and Scan do
    not belong there as long as nothing bounds their turns.

    Args:
        bytes: of the file.
        fields: of all messages in the file.
        nesting: messages inside each other; a graph inside a node costs three.
        nodes: of all graphs together.
        elements: of one tensor in the file, and of one declared shape.
        all_elements: of all tensors in the file.
        text_bytes: of one text that is no weight: a name, a description, a metadata value.
        activation: elements of one tensor whose size is a constant of the graph (Expand, Tile, Resize, Range, ...).
        domains: operator domain to the operators that may be used; None: all of it.
        imports: further domains that may be listed as long as no node uses them; the runtime lists them by itself.
        control_flow: operators that may have graphs inside.
        text_outputs: outputs that may be text.
        size_inputs: operators that make a tensor of a size that an input names, and which inputs.
        data_outside: weights may lie in other files; only for reading what an import folds in, never for a session.
    """

    bytes: int = MAX_ARTIFACT_BYTES
    fields: int = 6_000_000
    nesting: int = 16
    nodes: int = 20_000
    elements: int = 2**28
    all_elements: int = 2**29
    text_bytes: int = 2**24
    activation: int = 2**26
    domains: Mapping[str, frozenset[str] | None] = field(default_factory=_domains)
    imports: frozenset[str] = frozenset(
        {"ai.onnx.training", "ai.onnx.preview", "ai.onnx.preview.training", "com.microsoft.experimental",
         "com.microsoft.nchwc", "com.ms.internal.nhwc", "org.pytorch.aten", "pkg.onnxscript.torch_lib",
         "pkg.onnxscript.torch_lib.common", "pkg.torch"}
    )  # fmt: skip
    control_flow: frozenset[str] = frozenset()
    text_outputs: frozenset[str] = frozenset({LABEL})
    size_inputs: Mapping[str, tuple[int, ...]] = field(default_factory=_size_inputs)
    data_outside: bool = False


LIMITS = GraphLimits()
"""The limits of devices and servers alike."""
