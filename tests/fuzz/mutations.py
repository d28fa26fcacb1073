"""Files made worse: bytes changed anywhere, or values where a format keeps them, with its checksums made right."""

from __future__ import annotations

import io
import json
import pickletools
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

__all__ = ["mutated"]

NUMBERS = [
    0,
    1,
    -1,
    2,
    3,
    7,
    16,
    127,
    128,
    255,
    256,
    2**15,
    2**16 + 1,
    2**31 - 1,
    2**31,
    2**32,
    2**62,
    2**63 - 1,
    -(2**63),
    -2,
    -7,
]
FLOATS = [0.0, -1.0, 1e-45, 3.4e38, float("inf"), float("-inf"), float("nan"), 1e300]
TEXTS = ["", "x", "\0", "../../etc/passwd", "/dev/zero", "Ω" * 50, "a" * 5000, "nan", "LSTM", "Identity", "\ud7ff"]


def mutated(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """`data`, changed in one to four places: half of the time in what it means."""
    for _ in range(rng.choice([1, 1, 1, 2, 2, 4])):
        known = [change for magic, change in FORMATS if data.startswith(magic)]
        if data[8:9] == b"{":
            known = [safetensors]
        try:
            data = known[0](data, rng) if known and rng.random() < 0.7 else in_bytes(data, rng, others)
        except Exception:  # no longer well formed
            data = in_bytes(data, rng, others)
    return data


# Bytes


def in_bytes(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    if not data:
        return bytes([rng.randrange(256)])
    changed = bytearray(data)
    at = rng.randrange(min(len(data), 4096) if rng.random() < 0.5 else len(data))
    size = rng.choice([1, 2, 4, 8, rng.randrange(1, 300)])
    kind = rng.randrange(8)
    if kind == 0:
        return data[:at]
    if kind == 1:
        changed[at] ^= 1 << rng.randrange(8)
    elif kind == 2:
        changed[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
    elif kind == 3:
        other = rng.choice(others) if others else data
        start = rng.randrange(len(other) or 1)
        changed[at : at + rng.choice([0, size])] = other[start : start + size]
    elif kind == 4:  # a length or an offset, of any width
        form = rng.choice(["<B", "<H", "<I", "<Q", ">I", ">Q"])
        number = rng.choice(NUMBERS) & (1 << 8 * struct.calcsize(form)) - 1
        changed[at : at + struct.calcsize(form)] = struct.pack(form, number)
    elif kind == 5:  # a varint, of one's own or too long
        changed[at:at] = rng.choice([b"\xff" * 9 + b"\x01", b"\xff" * 12, b"\x80" * 4 + b"\x08", b"\xff\x7f"])
    elif kind == 6:
        del changed[at : at + size]
    else:
        changed[at:at] = changed[at : at + size] * rng.choice([1, 2, 50])
    return bytes(changed)


# JSON, and what has it inside


def in_json(value: Any, rng: random.Random) -> Any:
    """One place in nested lists and dictionaries, changed."""
    places: list[tuple[Any, Any]] = []
    pending = [value]
    while pending and len(places) < 5000:
        inner = pending.pop()
        keys = inner if isinstance(inner, dict) else range(len(inner)) if isinstance(inner, list) else ()
        for key in keys:
            places.append((inner, key))
            pending.append(inner[key])
    if not places:
        return rng.choice([[], {}, None, 3])
    holder, key = rng.choice(places)
    kind = rng.randrange(7)
    other_holder, other = rng.choice(places)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, list):
        holder.insert(key, holder[key])
    elif kind == 2 and len(json.dumps(value)) < 100_000:
        holder[key] = json.loads(json.dumps(other_holder[other]))
    elif kind == 3 and isinstance(holder, dict):
        holder[rng.choice(TEXTS)] = holder.pop(key)
    else:
        old = holder[key]
        near = [old + rng.choice([-1, 1]), old * 2, -old] if isinstance(old, (int, float)) else []
        holder[key] = rng.choice(
            [*near, rng.choice(NUMBERS), rng.choice(FLOATS), rng.choice(TEXTS), None, True, [], {}, [[1]]]
        )
    return value


def json_text(data: bytes, rng: random.Random) -> bytes:
    return json.dumps(in_json(json.loads(data), rng)).encode()


def safetensors(data: bytes, rng: random.Random) -> bytes:
    size = int.from_bytes(data[:8], "little")
    header = json_text(data[8 : 8 + size], rng)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def container(data: bytes, rng: random.Random) -> bytes:
    """Our own file, every checksum right again."""
    size = int.from_bytes(data[16:24], "little")
    header = json_text(data[32 : 32 + size].rstrip(), rng)
    header += b" " * (-(32 + len(header)) % 64)
    start = data[:12] + struct.pack("<IQI", zlib.crc32(header), len(header), 0)[:16]
    return start + struct.pack("<I", zlib.crc32(start)) + header + data[32 + size :]


# Pickles


def pickled(data: bytes, rng: random.Random) -> bytes:
    """One opcode left out, repeated, moved, or with another argument."""
    ops = list(pickletools.genops(data))
    starts = [position for _, _, position in ops] + [len(data)]
    k = rng.randrange(len(ops))
    first, last = starts[k], starts[k + 1]
    j = rng.randrange(len(ops))
    kind = rng.randrange(5)
    if kind == 0:
        return data[:first] + data[last:]
    if kind == 1:
        return data[:last] + data[first:last] * rng.choice([1, 3, 1000]) + data[last:]
    if kind == 2:
        return data[:first] + data[starts[j] : starts[j + 1]] + data[last:]
    if kind == 3:
        number = struct.pack("<q", rng.choice(NUMBERS))
        return (
            data[:first] + rng.choice([b"\x8a\x08" + number, b"J" + number[:4], b"N", b")", b"]", b"}"]) + data[last:]
        )
    evil = [
        b"cposix\nsystem\n",
        b"cbuiltins\neval\n",
        b"ctorch\nload\n",
        b"(",
        b"0",
        b"R",
        b"b",
        b"Q",
        b"2",
        b"\x93",
        b".",
    ]
    return data[:first] + rng.choice(evil) + data[first:]


# Zip archives


def zipped(data: bytes, rng: random.Random) -> bytes:
    """One entry changed, renamed, doubled, compressed or left out, in an archive whose checksums hold."""
    with zipfile.ZipFile(io.BytesIO(data)) as old:
        entries = [(info.filename, old.read(info), info.compress_type) for info in old.infolist()]
    k = rng.randrange(len(entries))
    telling = [
        n for n, (name, _, _) in enumerate(entries) if name.endswith(("pkl", "json", "version", "byteorder", ".py"))
    ]
    if telling and rng.random() < 0.6:
        k = rng.choice(telling)
    name, content, kind = entries[k]
    what = rng.randrange(8)
    if what == 0:
        del entries[k]
    elif what == 1:
        entries[k] = (name + rng.choice(["x", "/", "/../x", "\x7f"]), content, kind)
    elif what == 2:
        entries[k] = (name, content, zipfile.ZIP_DEFLATED)
    elif what == 3:
        entries[k] = (name, entries[rng.randrange(len(entries))][1], kind)
    elif what == 4:
        entries[k] = (name, content[: rng.randrange(len(content) + 1)], kind)
    elif name.endswith(".pkl"):
        entries[k] = (name, pickled(content, rng), kind)
    elif name.endswith(".json"):
        entries[k] = (name, json_text(content, rng), kind)
    elif name.endswith(".h5"):
        entries[k] = (name, in_bytes(content, rng, []), kind)
    else:
        entries[k] = (name, in_bytes(content, rng, []), kind)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as new:
        for name, content, kind in entries:
            new.writestr(zipfile.ZipInfo(name), content, kind)
    return made.getvalue()


# ONNX


def onnx(data: bytes, rng: random.Random) -> bytes:
    """One field of one message of a model, or a message left out, doubled or moved."""
    from onnx import ModelProto

    model = ModelProto.FromString(data)
    messages: list[Any] = []
    pending: list[Any] = [model]
    while pending and len(messages) < 20_000:
        message = pending.pop()
        messages.append(message)
        for field, value in message.ListFields():
            if field.message_type is not None:
                pending.extend(value if field.is_repeated else [value])
    # Few messages are nodes and attributes, but that is where the meaning is.
    kind = rng.choice(["NodeProto", "AttributeProto", "TensorProto", "Dimension", "ValueInfoProto", "", ""])
    chosen = [m for m in messages if m.DESCRIPTOR.name == kind] or messages
    message = rng.choice(chosen)
    fields = [field for field, _ in message.ListFields()] if rng.random() < 0.8 else list(message.DESCRIPTOR.fields)
    if not fields:
        return data
    field = rng.choice(fields)
    held = getattr(message, field.name)
    if field.message_type is not None:
        if field.is_repeated and len(held):
            k = rng.randrange(len(held))
            if rng.random() < 0.4:
                del held[k]
            elif rng.random() < 0.5:
                held.add().CopyFrom(held[k])
            else:
                held[k].CopyFrom(held[rng.randrange(len(held))])
        else:
            message.ClearField(field.name)
        return model.SerializeToString()
    if rng.random() < 0.1:
        message.ClearField(field.name)
    elif field.is_repeated:
        values = list(held)
        kind = rng.randrange(4)
        if values and kind == 0:
            del values[rng.randrange(len(values))]
        elif values and kind == 1:
            values[rng.randrange(len(values))] = scalar(model, field, rng)
        elif values and kind == 2:
            rng.shuffle(values)
        else:
            values.insert(rng.randrange(len(values) + 1), scalar(model, field, rng))
        message.ClearField(field.name)
        getattr(message, field.name).extend(values)
    else:
        setattr(message, field.name, scalar(model, field, rng))
    return model.SerializeToString()


def scalar(model: Any, field: Any, rng: random.Random) -> Any:
    """A value of the type of `field`."""
    if field.name in ("input", "output", "name") and rng.random() < 0.8:
        names = [name for node in model.graph.node for name in (*node.input, *node.output)]
        return rng.choice(names or TEXTS)
    if field.name == "op_type":
        return rng.choice(OPS)
    kind = field.cpp_type
    if kind == field.CPPTYPE_STRING:
        text = rng.choice(TEXTS)
        return text.encode("utf-8", "ignore") if field.type == field.TYPE_BYTES else text
    if kind in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return rng.choice(FLOATS)
    if kind == field.CPPTYPE_ENUM:
        return rng.choice(field.enum_type.values).number
    number = rng.choice(NUMBERS) if rng.random() < 0.5 else rng.randrange(-4, 30)
    bits = 32 if kind in (field.CPPTYPE_INT32, field.CPPTYPE_UINT32) else 64
    if kind in (field.CPPTYPE_UINT32, field.CPPTYPE_UINT64):
        return number % (1 << bits)
    return (number + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1)


OPS = (
    "Add Mul Sub Div MatMul Gemm LSTM GRU RNN Reshape Transpose Squeeze Unsqueeze Concat Split Slice Gather Shape Cast "
    "Expand Tile Pad Conv ConvTranspose MaxPool AveragePool ReduceMean ReduceSum Softmax LayerNormalization "
    "BatchNormalization TopK OneHot Range Where ConstantOfShape CumSum GatherElements ScatterND ScatterElements Einsum "
    "If Loop Scan Identity Sigmoid Tanh Relu Clip ReverseSequence DynamicQuantizeLinear MatMulInteger QuantizeLinear "
    "DequantizeLinear Flatten Dropout Size ArgMax Pow InstanceNormalization GlobalAveragePool PRelu EyeLike"
).split()

#: By how a file begins.
FORMATS: list[tuple[bytes, Callable[[bytes, random.Random], bytes]]] = [
    (b"\x89GST", container),
    (b"PK\x03\x04", zipped),
    (b"{", json_text),
    (b"\x80\x02", pickled),
    (b"\x08", onnx),
]
