"""ONNX's wire format: what the library of protocol buffers reads, we read; what is made to cost memory does not."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from gatestep.importers.onnx import proto, wire
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import gatestep as gs

MODELS = Path(__file__).resolve().parents[3] / "shared" / "models"
INT64 = st.integers(-(2**63), 2**63 - 1)


def same(ours: Any, theirs: Any) -> None:
    """Every field that we have against the library's."""
    for field in type(ours).FIELDS.values():
        mine, other = getattr(ours, field.name), getattr(theirs, field.name)
        if field.kind in (wire.SINGLES, wire.DOUBLES, wire.VARINTS):
            kind = {"float_data": "<f4", "double_data": "<f8", "int32_data": "i4", "uint64_data": "u8"}
            np.testing.assert_array_equal(wire.numbers(mine, np.dtype(kind.get(field.name, "i8"))), list(other))
        elif field.kind == wire.INT32 and not 0 <= mine <= {"type": 14, "data_location": 1}.get(field.name, mine):
            assert other == 0  # the library passes over a value that is none of its own
        elif isinstance(field.kind, int):
            assert (list(mine) if field.repeated else mine) == (list(other) if field.repeated else other), field.name
        elif field.kind is wire.Message:
            assert ours.HasField(field.name) == theirs.HasField(field.name)
        elif field.repeated:
            assert len(mine) == len(other)
            for a, b in zip(mine, other, strict=True):
                same(a, b)
        else:
            assert ours.HasField(field.name) == theirs.HasField(field.name), field.name
            if ours.HasField(field.name):
                same(mine, other)


def test_every_shared_file_reads_as_the_library_reads_it() -> None:
    paths = sorted(MODELS.rglob("*.onnx"))
    if not paths:
        pytest.skip("no ../shared/models beside the repository")
    for path in paths:
        data = path.read_bytes()
        same(wire.read(proto.ModelProto, memoryview(data)), onnx.ModelProto.FromString(data))


@given(
    st.lists(INT64),
    st.lists(st.integers(-(2**31), 2**31 - 1)),
    st.lists(st.integers(0, 2**64 - 1)),
    st.lists(st.floats(width=32)),
    st.lists(st.floats(allow_nan=False)),
    st.text(),
    st.binary(),
)
def test_a_tensor_of_any_values(i64: Any, i32: Any, u64: Any, f32: Any, f64: Any, name: str, raw: bytes) -> None:
    f32 = [value for value in f32 if value == value]
    tensor = TensorProto(
        dims=i64,
        int64_data=i64,
        int32_data=i32,
        uint64_data=u64,
        float_data=f32,
        double_data=f64,
        name=name,
        raw_data=raw,
    )
    same(wire.read(proto.TensorProto, memoryview(tensor.SerializeToString())), tensor)
    attr = onnx.AttributeProto(ints=i64, floats=f32, s=raw, strings=[raw] * 3, name=name, i=i64[0] if i64 else 0)
    same(wire.read(proto.AttributeProto, memoryview(attr.SerializeToString())), attr)


def test_numbers_side_by_side_or_one_by_one() -> None:
    side = b"\x42\x05" + b"\x01\x7f\x80\x01\x05"  # field 8, packed
    alone = b"\x40\x01\x40\x7f\x40\x80\x01\x40\x05"
    for data in (side, alone):
        assert wire.read(proto.AttributeProto, memoryview(data)).ints == [1, 127, 128, 5]
    pieces = b"\x22\x04\x00\x00\x80\x3f" + b"\x25\x00\x00\x00\x40" + b"\x22\x04\x00\x00\x40\x40"  # field 4, as it comes
    floats = wire.read(proto.TensorProto, memoryview(pieces)).float_data
    assert wire.numbers(floats, np.dtype("<f4")).tolist() == TensorProto.FromString(pieces).float_data == [1, 2, 3]
    packed = TensorProto(int64_data=range(-3, 400_000), data_type=7).SerializeToString()  # more than a block
    chunks = wire.read(proto.TensorProto, memoryview(packed)).int64_data
    np.testing.assert_array_equal(wire.numbers(chunks, np.dtype(np.int64)), np.arange(-3, 400_000))


@given(st.data())
def test_bytes_changed_anywhere(data: st.DataObject) -> None:
    """The model that the library reads, or an error."""
    nodes = [helper.make_node("LeakyRelu", ["x"], ["y"], alpha=0.5, name="n")]
    info = [helper.make_tensor_value_info(n, 1, [1, "T"]) for n in "xy"]
    weights = [numpy_helper.from_array(np.arange(3.0), "w")]
    whole = bytearray(helper.make_model(helper.make_graph(nodes, "g", info[:1], info[1:], weights)).SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        ours = wire.read(proto.ModelProto, memoryview(bytes(whole)))
    except wire.Damaged:
        return
    try:
        theirs = onnx.ModelProto.FromString(bytes(whole))
    except DecodeError:  # in a field that we pass over
        return
    with contextlib.suppress(wire.Damaged):
        same(ours, theirs)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\x3a", "cut short"),
        (b"\x3a\x05\x00", "does not end"),
        (b"\x08" + b"\xff" * 11, "ten bytes"),
        (b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "does not end"),
        (b"\x0b\x0c", "wire type 3"),
        (b"\x38\x01", "no message"),
        (b"\x0d\x00\x00\x00\x00", "wire type 5"),
        (b"\x12\x02\xff\xfe", "not text"),
        (b"\x3a\x00\x3a\x00", "second graph"),
        (b"\x02\x00", "does not end"),
    ],
)
def test_damage_is_named(data: bytes, what: str) -> None:
    with pytest.raises(wire.Damaged, match=what):
        wire.read(proto.ModelProto, memoryview(data))


def nested(depth: int) -> bytes:
    """Graphs in attributes of nodes of graphs."""
    data = b""
    for _ in range(depth):
        for tag in (b"\x32", b"\x2a", b"\x0a"):  # attribute.g, node.attribute, graph.node
            size = len(data)
            length = bytes([size]) if size < 128 else bytes([size & 0x7F | 0x80, size >> 7])
            data = tag + length + data
    return data


def test_nesting_has_an_end() -> None:
    wire.read(proto.GraphProto, memoryview(nested(30)))
    with pytest.raises(wire.Damaged, match="within messages"):
        wire.read(proto.GraphProto, memoryview(nested(40)))


def test_loading_needs_no_protobuf(tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    info = [helper.make_tensor_value_info(n, 1, ["T", 3]) for n in "xy"]
    path = tmp_path / "relu.onnx"
    onnx.save(helper.make_model(helper.make_graph([node], "g", info[:1], info[1:]), ir_version=9), path)
    code = (
        "import sys, gatestep; gatestep.load(sys.argv[1]);"
        "print([n for n in ('onnx', 'google.protobuf', 'torch', 'h5py', 'numba') if n in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_what_is_no_model() -> None:
    with pytest.raises(TypeError, match="not int"):
        gs.load(3)  # type: ignore[arg-type]


def test_empty_messages_cost_what_is_stated(tmp_path: Path) -> None:
    """The library of protocol buffers takes two hundred bytes for each of these two."""
    path = tmp_path / "empty.onnx"
    body = b"\x0a\x00" * 10_000_000
    path.write_bytes(b"\x08\x09\x3a" + varint(len(body)) + body)
    code = """if True:
        import resource, sys, gatestep
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        most = now + 3 * 20_000_000 + (1 << 30)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        try:
            gatestep.load(sys.argv[1])
        except gatestep.UnsupportedModelError as error:
            print(error)
    """
    run = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True, timeout=60)
    assert "more parts than" in run.stdout


def varint(number: int) -> bytes:
    data = b""
    while number > 0x7F:
        data, number = data + bytes([number & 0x7F | 0x80]), number >> 7
    return data + bytes([number])
