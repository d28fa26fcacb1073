"""The messages of an ONNX file, with what this package reads of them, under the names of ``onnx.proto``."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any, ClassVar

from . import wire
from .wire import Field, Message

__all__ = [
    "AttributeProto",
    "AttributeType",
    "DataType",
    "FunctionProto",
    "GraphProto",
    "ModelProto",
    "NodeProto",
    "OperatorSetIdProto",
    "SparseTensorProto",
    "StringStringEntryProto",
    "TensorProto",
    "TensorShapeProto",
    "TypeProto",
    "ValueInfoProto",
]


class StringStringEntryProto(Message):
    key: str = ""
    value: str = ""
    FIELDS = {1: Field("key", wire.TEXT), 2: Field("value", wire.TEXT)}


class OperatorSetIdProto(Message):
    domain: str = ""
    version: int = 0
    FIELDS = {1: Field("domain", wire.TEXT), 2: Field("version", wire.INT)}


class DataType(enum.IntEnum):
    UNDEFINED = 0
    FLOAT = 1
    UINT8 = 2
    INT8 = 3
    UINT16 = 4
    INT16 = 5
    INT32 = 6
    INT64 = 7
    STRING = 8
    BOOL = 9
    FLOAT16 = 10
    DOUBLE = 11
    UINT32 = 12
    UINT64 = 13
    COMPLEX64 = 14
    COMPLEX128 = 15
    BFLOAT16 = 16
    FLOAT8E4M3FN = 17
    FLOAT8E4M3FNUZ = 18
    FLOAT8E5M2 = 19
    FLOAT8E5M2FNUZ = 20
    UINT4 = 21
    INT4 = 22
    FLOAT4E2M1 = 23
    FLOAT8E8M0 = 24
    UINT2 = 25
    INT2 = 26
    FLOAT6E2M3 = 27
    FLOAT6E3M2 = 28


class TensorProto(Message):
    """A tensor. The fields of numbers are as they were written; `wire.numbers` reads them."""

    (
        UNDEFINED,
        FLOAT,
        UINT8,
        INT8,
        UINT16,
        INT16,
        INT32,
        INT64,
        STRING,
        BOOL,
        FLOAT16,
        DOUBLE,
        UINT32,
        UINT64,
        COMPLEX64,
        COMPLEX128,
        BFLOAT16,
        FLOAT8E4M3FN,
        FLOAT8E4M3FNUZ,
        FLOAT8E5M2,
        FLOAT8E5M2FNUZ,
        UINT4,
        INT4,
        FLOAT4E2M1,
        FLOAT8E8M0,
        UINT2,
        INT2,
        FLOAT6E2M3,
        FLOAT6E3M2,
    ) = DataType

    EXTERNAL: ClassVar[int] = 1

    dims: Sequence[int] = ()
    data_type: int = 0
    segment: Message | None = None
    float_data: Sequence[memoryview] = ()
    int32_data: Sequence[memoryview] = ()
    string_data: Sequence[bytes] = ()
    int64_data: Sequence[memoryview] = ()
    name: str = ""
    raw_data: memoryview = memoryview(b"")
    double_data: Sequence[memoryview] = ()
    uint64_data: Sequence[memoryview] = ()
    external_data: Sequence[StringStringEntryProto] = ()
    data_location: int = 0
    FIELDS = {
        1: Field("dims", wire.INT, True),
        2: Field("data_type", wire.INT32),
        3: Field("segment", Message),
        4: Field("float_data", wire.SINGLES, True),
        5: Field("int32_data", wire.VARINTS, True),
        6: Field("string_data", wire.BYTES, True),
        7: Field("int64_data", wire.VARINTS, True),
        8: Field("name", wire.TEXT),
        9: Field("raw_data", wire.VIEW),
        10: Field("double_data", wire.DOUBLES, True),
        11: Field("uint64_data", wire.VARINTS, True),
        13: Field("external_data", StringStringEntryProto, True),
        14: Field("data_location", wire.INT32),
    }


class SparseTensorProto(Message):
    values: TensorProto = TensorProto()
    FIELDS = {1: Field("values", TensorProto)}


class TensorShapeProto(Message):
    class Dimension(Message):
        dim_value: int = 0
        dim_param: str = ""
        FIELDS = {1: Field("dim_value", wire.INT), 2: Field("dim_param", wire.TEXT)}

    dim: Sequence[Dimension] = ()
    FIELDS = {1: Field("dim", Dimension, True)}


class TypeProto(Message):
    class Tensor(Message):
        elem_type: int = 0
        shape: TensorShapeProto = TensorShapeProto()
        FIELDS = {1: Field("elem_type", wire.INT32), 2: Field("shape", TensorShapeProto)}

    class Sequence(Message):
        elem_type: TypeProto
        FIELDS: ClassVar[dict[int, Field]] = {}

    tensor_type: Tensor = Tensor()
    sequence_type: Sequence
    optional_type: Sequence


TypeProto.Sequence.elem_type = TypeProto()
TypeProto.Sequence.FIELDS = {1: Field("elem_type", TypeProto)}
TypeProto.sequence_type = TypeProto.optional_type = TypeProto.Sequence()
TypeProto.FIELDS = {
    1: Field("tensor_type", TypeProto.Tensor),
    4: Field("sequence_type", TypeProto.Sequence),
    9: Field("optional_type", TypeProto.Sequence),
}


class ValueInfoProto(Message):
    name: str = ""
    type: TypeProto = TypeProto()
    FIELDS = {1: Field("name", wire.TEXT), 2: Field("type", TypeProto)}


class AttributeType(enum.IntEnum):
    UNDEFINED = 0
    FLOAT = 1
    INT = 2
    STRING = 3
    TENSOR = 4
    GRAPH = 5
    FLOATS = 6
    INTS = 7
    STRINGS = 8
    TENSORS = 9
    GRAPHS = 10
    SPARSE_TENSOR = 11
    SPARSE_TENSORS = 12
    TYPE_PROTO = 13
    TYPE_PROTOS = 14


class AttributeProto(Message):
    (
        UNDEFINED,
        FLOAT,
        INT,
        STRING,
        TENSOR,
        GRAPH,
        FLOATS,
        INTS,
        STRINGS,
        TENSORS,
        GRAPHS,
        SPARSE_TENSOR,
        SPARSE_TENSORS,
        TYPE_PROTO,
        TYPE_PROTOS,
    ) = AttributeType

    name: str = ""
    ref_attr_name: str = ""
    type: int = 0
    f: float = 0.0
    i: int = 0
    s: bytes = b""
    t: TensorProto = TensorProto()
    g: GraphProto
    tp: TypeProto = TypeProto()
    floats: Sequence[float] = ()
    ints: Sequence[int] = ()
    strings: Sequence[bytes] = ()
    graphs: Sequence[GraphProto] = ()


class NodeProto(Message):
    input: Sequence[str] = ()
    output: Sequence[str] = ()
    name: str = ""
    op_type: str = ""
    attribute: Sequence[AttributeProto] = ()
    domain: str = ""
    overload: str = ""
    metadata_props: Sequence[StringStringEntryProto] = ()
    FIELDS = {
        1: Field("input", wire.TEXT, True),
        2: Field("output", wire.TEXT, True),
        3: Field("name", wire.TEXT),
        4: Field("op_type", wire.TEXT),
        5: Field("attribute", AttributeProto, True),
        7: Field("domain", wire.TEXT),
        8: Field("overload", wire.TEXT),
        9: Field("metadata_props", StringStringEntryProto, True),
    }


class GraphProto(Message):
    node: Sequence[NodeProto] = ()
    name: str = ""
    initializer: Sequence[TensorProto] = ()
    sparse_initializer: Sequence[SparseTensorProto] = ()
    input: Sequence[ValueInfoProto] = ()
    output: Sequence[ValueInfoProto] = ()
    value_info: Sequence[ValueInfoProto] = ()
    FIELDS = {
        1: Field("node", NodeProto, True),
        2: Field("name", wire.TEXT),
        5: Field("initializer", TensorProto, True),
        11: Field("input", ValueInfoProto, True),
        12: Field("output", ValueInfoProto, True),
        13: Field("value_info", ValueInfoProto, True),
        15: Field("sparse_initializer", SparseTensorProto, True),
    }


AttributeProto.g = GraphProto()
AttributeProto.FIELDS = {
    1: Field("name", wire.TEXT),
    2: Field("f", wire.FLOAT),
    3: Field("i", wire.INT),
    4: Field("s", wire.BYTES),
    5: Field("t", TensorProto),
    6: Field("g", GraphProto),
    7: Field("floats", wire.FLOAT, True),
    8: Field("ints", wire.INT, True),
    9: Field("strings", wire.BYTES, True),
    11: Field("graphs", GraphProto, True),
    14: Field("tp", TypeProto),
    20: Field("type", wire.INT32),
    21: Field("ref_attr_name", wire.TEXT),
}


class FunctionProto(Message):
    name: str = ""
    input: Sequence[str] = ()
    output: Sequence[str] = ()
    attribute: Sequence[str] = ()
    attribute_proto: Sequence[AttributeProto] = ()
    node: Sequence[NodeProto] = ()
    opset_import: Sequence[OperatorSetIdProto] = ()
    domain: str = ""
    overload: str = ""
    FIELDS = {
        1: Field("name", wire.TEXT),
        4: Field("input", wire.TEXT, True),
        5: Field("output", wire.TEXT, True),
        6: Field("attribute", wire.TEXT, True),
        7: Field("node", NodeProto, True),
        9: Field("opset_import", OperatorSetIdProto, True),
        10: Field("domain", wire.TEXT),
        11: Field("attribute_proto", AttributeProto, True),
        13: Field("overload", wire.TEXT),
    }


class ModelProto(Message):
    ir_version: int = 0
    opset_import: Sequence[OperatorSetIdProto] = ()
    producer_name: str = ""
    producer_version: str = ""
    graph: GraphProto = GraphProto()
    functions: Sequence[FunctionProto] = ()
    metadata_props: Sequence[StringStringEntryProto] = ()
    FIELDS: ClassVar[dict[int, Any]] = {
        1: Field("ir_version", wire.INT),
        2: Field("producer_name", wire.TEXT),
        3: Field("producer_version", wire.TEXT),
        7: Field("graph", GraphProto),
        8: Field("opset_import", OperatorSetIdProto, True),
        14: Field("metadata_props", StringStringEntryProto, True),
        25: Field("functions", FunctionProto, True),
    }
