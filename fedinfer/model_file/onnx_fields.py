"""The fields of an ONNX file: message by message, field number to name and kind (onnx.proto3, IR version 10 to 13).

Only what is written here is read; every other field is refused, because the runtime may understand it and we do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Scalar(Enum):
    """Kinds of fields without an inner structure, with the wire type of one value (protobuf encoding, "Wire Types")."""

    VARINT = 0
    FIXED64 = 1
    BYTES = 2
    FIXED32 = 5


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message.

    Args:
        name: in onnx.proto.
        kind: a scalar, or the name of the message inside.
        repeated: may come more than once; numbers may then also come packed.
    """

    name: str
    kind: Scalar | str
    repeated: bool = False


_INT, _BYTES, _FLOAT, _DOUBLE = Scalar.VARINT, Scalar.BYTES, Scalar.FIXED32, Scalar.FIXED64


def _many(name: str, kind: Scalar | str) -> Field:
    return Field(name, kind, repeated=True)


def _pairs(name: str) -> Field:
    return _many(name, "StringStringEntryProto")


MESSAGES: dict[str, dict[int, Field]] = {
    "ModelProto": {
        1: Field("ir_version", _INT),
        2: Field("producer_name", _BYTES),
        3: Field("producer_version", _BYTES),
        4: Field("domain", _BYTES),
        5: Field("model_version", _INT),
        6: Field("doc_string", _BYTES),
        7: Field("graph", "GraphProto"),
        8: _many("opset_import", "OperatorSetIdProto"),
        14: _pairs("metadata_props"),
        20: _many("training_info", "TrainingInfoProto"),
        25: _many("functions", "FunctionProto"),
    },
    "GraphProto": {
        1: _many("node", "NodeProto"),
        2: Field("name", _BYTES),
        5: _many("initializer", "TensorProto"),
        10: Field("doc_string", _BYTES),
        11: _many("input", "ValueInfoProto"),
        12: _many("output", "ValueInfoProto"),
        13: _many("value_info", "ValueInfoProto"),
        14: _many("quantization_annotation", "TensorAnnotation"),
        15: _many("sparse_initializer", "SparseTensorProto"),
        16: _pairs("metadata_props"),
    },
    "NodeProto": {
        1: _many("input", _BYTES),
        2: _many("output", _BYTES),
        3: Field("name", _BYTES),
        4: Field("op_type", _BYTES),
        5: _many("attribute", "AttributeProto"),
        6: Field("doc_string", _BYTES),
        7: Field("domain", _BYTES),
        8: Field("overload", _BYTES),
        9: _pairs("metadata_props"),
    },
    "AttributeProto": {
        1: Field("name", _BYTES),
        2: Field("f", _FLOAT),
        3: Field("i", _INT),
        4: Field("s", _BYTES),
        5: Field("t", "TensorProto"),
        6: Field("g", "GraphProto"),
        7: _many("floats", _FLOAT),
        8: _many("ints", _INT),
        9: _many("strings", _BYTES),
        10: _many("tensors", "TensorProto"),
        11: _many("graphs", "GraphProto"),
        13: Field("doc_string", _BYTES),
        14: Field("tp", "TypeProto"),
        15: _many("type_protos", "TypeProto"),
        20: Field("type", _INT),
        21: Field("ref_attr_name", _BYTES),
        22: Field("sparse_tensor", "SparseTensorProto"),
        23: _many("sparse_tensors", "SparseTensorProto"),
    },
    "TensorProto": {
        1: _many("dims", _INT),
        2: Field("data_type", _INT),
        3: Field("segment", "Segment"),
        4: _many("float_data", _FLOAT),
        5: _many("int32_data", _INT),
        6: _many("string_data", _BYTES),
        7: _many("int64_data", _INT),
        8: Field("name", _BYTES),
        9: Field("raw_data", _BYTES),
        10: _many("double_data", _DOUBLE),
        11: _many("uint64_data", _INT),
        12: Field("doc_string", _BYTES),
        13: _pairs("external_data"),
        14: Field("data_location", _INT),
        16: _pairs("metadata_props"),
    },
    "Segment": {1: Field("begin", _INT), 2: Field("end", _INT)},
    "SparseTensorProto": {
        1: Field("values", "TensorProto"),
        2: Field("indices", "TensorProto"),
        3: _many("dims", _INT),
    },
    "ValueInfoProto": {
        1: Field("name", _BYTES),
        2: Field("type", "TypeProto"),
        3: Field("doc_string", _BYTES),
        4: _pairs("metadata_props"),
    },
    "TypeProto": {
        1: Field("tensor_type", "TypeProto.Tensor"),
        4: Field("sequence_type", "TypeProto.Sequence"),
        5: Field("map_type", "TypeProto.Map"),
        6: Field("denotation", _BYTES),
        8: Field("sparse_tensor_type", "TypeProto.SparseTensor"),
        9: Field("optional_type", "TypeProto.Optional"),
    },
    "TypeProto.Tensor": {1: Field("elem_type", _INT), 2: Field("shape", "TensorShapeProto")},
    "TypeProto.Sequence": {1: Field("elem_type", "TypeProto")},
    "TypeProto.Map": {1: Field("key_type", _INT), 2: Field("value_type", "TypeProto")},
    "TypeProto.Optional": {1: Field("elem_type", "TypeProto")},
    "TypeProto.SparseTensor": {1: Field("elem_type", _INT), 2: Field("shape", "TensorShapeProto")},
    "TensorShapeProto": {1: _many("dim", "TensorShapeProto.Dimension")},
    "TensorShapeProto.Dimension": {
        1: Field("dim_value", _INT),
        2: Field("dim_param", _BYTES),
        3: Field("denotation", _BYTES),
    },
    "StringStringEntryProto": {1: Field("key", _BYTES), 2: Field("value", _BYTES)},
    "OperatorSetIdProto": {1: Field("domain", _BYTES), 2: Field("version", _INT)},
    "TensorAnnotation": {1: Field("tensor_name", _BYTES), 2: _pairs("quant_parameter_tensor_names")},
    "TrainingInfoProto": {
        1: Field("initialization", "GraphProto"),
        2: Field("algorithm", "GraphProto"),
        3: _pairs("initialization_binding"),
        4: _pairs("update_binding"),
    },
    "FunctionProto": {
        1: Field("name", _BYTES),
        4: _many("input", _BYTES),
        5: _many("output", _BYTES),
        6: _many("attribute", _BYTES),
        7: _many("node", "NodeProto"),
        8: Field("doc_string", _BYTES),
        9: _many("opset_import", "OperatorSetIdProto"),
        10: Field("domain", _BYTES),
        11: _many("attribute_proto", "AttributeProto"),
        12: _many("value_info", "ValueInfoProto"),
        13: Field("overload", _BYTES),
        14: _pairs("metadata_props"),
    },
}
