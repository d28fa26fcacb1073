"""`.gatestep` files: what comes back is what went in, and a file that was tampered with is refused in our words."""

from __future__ import annotations

import inspect
import io
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gatestep.engine.errors import ModelFormatError, UnsupportedModelError
from gatestep.engine.graph import Graph
from gatestep.engine.model import Model
from gatestep.engine.streaming.layout import Axes
from gatestep.importers import typed
from gatestep.importers.container import PREFIX, Container
from gatestep.importers.kinds import CONTAINER_MAGIC as MAGIC
from gatestep.importers.writing import Writer
from onnx import helper
from onnx_models import info, make

import gatestep as gs
from gatestep import nn
from gatestep._stored import OPTIONS


def weights(seed: int = 0, hidden: int = 6) -> dict[str, np.ndarray]:
    """A GRU of 3 inputs and a dense layer, as PyTorch names them."""
    rng = np.random.default_rng(seed)
    shapes = {
        "rnn.weight_ih_l0": (3 * hidden, 3),
        "rnn.weight_hh_l0": (3 * hidden, hidden),
        "rnn.bias_ih_l0": (3 * hidden,),
        "rnn.bias_hh_l0": (3 * hidden,),
        "fc.weight": (2, hidden),
        "fc.bias": (2,),
    }
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


SPEC = nn.Sequential({"rnn": nn.GRU(3, 6), "fc": nn.Linear(6, 2)})
FRAMES = np.random.default_rng(1).standard_normal((90, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file."""
    path = tmp_path_factory.mktemp("container") / "model.gatestep"
    gs.convert(weights(), path, spec=SPEC)
    return path


def sealed(header: dict[str, Any], arrays: bytes, **changes: Any) -> bytes:
    """A file with this header, all checksums right."""
    text = json.dumps(header).encode()
    text += b" " * (-(PREFIX.size + len(text)) % 64)
    start = PREFIX.pack(MAGIC, changes.get("version", 1), zlib.crc32(text), changes.get("length", len(text)), 0, 0)[:-4]
    return start + struct.pack("<I", zlib.crc32(start)) + text + arrays


def opened(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and arrays of a file."""
    length = PREFIX.unpack(data[: PREFIX.size])[3]
    end = PREFIX.size + length
    return json.loads(data[PREFIX.size : end]), data[end:]


# ---------------------------------------------------------------------- what comes back


def test_same_bits(original: Path) -> None:
    before, after = gs.load(weights(), spec=SPEC), gs.load(original)
    assert after.run(FRAMES).tobytes() == before.run(FRAMES).tobytes()
    assert after(FRAMES[:, None]).tobytes() == before(FRAMES[:, None]).tobytes()
    stream = after.stream(3)
    rows = np.stack([FRAMES] * 3, axis=1)
    assert stream.run(rows)[:, 1].tobytes() == before.run(FRAMES).tobytes()
    assert [str(port) for port in after.inputs] == [str(port) for port in before.inputs]
    assert list(after.stream().state) == list(before.stream().state)


def test_a_stream_that_keeps_frames(tmp_path: Path) -> None:
    """Layouts hold a graph of their own, whose cells wait for the frames that windows keep."""
    rng = np.random.default_rng(0)
    shapes = {"k": (4, 3, 4), "w": (1, 15, 4), "r": (1, 15, 5), "w2": (1, 6, 5), "r2": (1, 6, 2)}
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    nodes = [
        helper.make_node("Transpose", ["x"], ["rows"], perm=[1, 2, 0]),
        helper.make_node("Conv", ["rows", "k"], ["seen"], pads=[2, 1]),
        helper.make_node("Transpose", ["seen"], ["frames"], perm=[2, 0, 1]),
        helper.make_node("GRU", ["frames", "w", "r"], ["h"], hidden_size=5),
        helper.make_node("Squeeze", ["h", "axis"], ["h1"]),
        helper.make_node("GRU", ["h1", "w2", "r2"], ["h2"], hidden_size=2),
        helper.make_node("Squeeze", ["h2", "axis"], ["y"]),
    ]
    ports = [info("x", ("T", 1, 3))], [info("y", ("T", 1, 2))]
    model = make(nodes, *ports, weights=weights | {"axis": np.array([1])})
    before = gs.load(model)
    gs.convert(model, tmp_path / "m.gatestep")
    after = gs.load(tmp_path / "m.gatestep")
    assert before.delay == after.delay == 1
    want = before.stream(delay=1).run(FRAMES)
    assert after.stream(delay=1).run(FRAMES).tobytes() == want.tobytes()


def test_bytes_too(original: Path) -> None:
    assert gs.load(original.read_bytes()).run(FRAMES).tobytes() == gs.load(original).run(FRAMES).tobytes()


def test_a_file_of_a_file_is_the_same(original: Path, tmp_path: Path) -> None:
    gs.convert(original, tmp_path / "again.gatestep")
    assert (tmp_path / "again.gatestep").read_bytes() == original.read_bytes()
    assert os.listdir(tmp_path) == ["again.gatestep"]


def test_numpy_is_all_that_it_takes(original: Path) -> None:
    code = (
        "import sys, numpy, gatestep\n"
        f"gatestep.load({str(original)!r}).stream().step(numpy.zeros(3, 'f4'))\n"
        "heavy = {'onnx', 'torch', 'google', 'safetensors', 'numba', 'h5py', 'onnxruntime'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_arrays_are_views_of_the_file(original: Path) -> None:
    held = Container(original)
    for array in held.imported.constants.values():
        assert not array.flags.writeable
        assert not array.flags.owndata
        start = np.frombuffer(held._data, np.uint8).ctypes.data
        assert 0 <= array.ctypes.data - start < len(held._data)
        assert array.ctypes.data % 64 == 0


def test_another_version_analyses_afresh(original: Path) -> None:
    header, arrays = opened(original.read_bytes())
    header["writer"], header["prepared"] = "0.0.9", {"of": "another kind"}
    assert gs.load(sealed(header, arrays)).run(FRAMES).tobytes() == gs.load(original).run(FRAMES).tobytes()


@pytest.mark.parametrize("precision", ["w4", "auto", 8, None, ["w8"], {"list": ["w8"]}])
def test_a_precision_that_there_is_not(original: Path, precision: Any) -> None:
    header, arrays = opened(original.read_bytes())
    header["options"]["map"] = [
        [name, precision if name == "precision" else value] for name, value in header["options"]["map"]
    ]
    with pytest.raises(ModelFormatError, match="not what gatestep writes"):
        gs.load(sealed(header, arrays))


def test_double_precision_and_options_are_kept(tmp_path: Path) -> None:
    gs.convert(weights(), tmp_path / "m", spec=SPEC, dtype="float64")
    model = gs.load(tmp_path / "m")
    assert model.real == np.float64
    options: dict[str, Any] = {
        "dtype": "float64",
        "states": {"a": "b"},
        "spec": SPEC,
        "inputs": ["x"],
        "fix": "torch-gru",
    }
    for name, value in options.items():
        with pytest.raises(ValueError, match=f"{name}=: a .gatestep file keeps"):
            gs.load(tmp_path / "m", **{name: value})


VALUES = [
    None,
    True,
    3,
    -(1 << 63),
    0.1,
    5e-324,
    -0.0,
    float("inf"),
    float("-inf"),
    "\0text\ud800",
    (1, (2.0, "x"), ()),
    [1, [2]],
    frozenset({("a", "h"), ("b", "c")}),
    {"a": 1, ("b", 2): (3,)},
    np.dtype(np.float16),
    Axes(0, None, (2,)),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_come_back_as_they_were(value: Any) -> None:
    text = json.dumps(Writer("x").value(value), allow_nan=False)
    back = typed.unpack_value(json.loads(text), Graph, Graph, "x")
    assert repr(back) == repr(value) if not isinstance(value, frozenset) else back == value
    assert type(back) is type(value)


def test_values_that_are_none() -> None:
    with pytest.raises(UnsupportedModelError, match="a object has no place"):
        Writer("x").value(object())
    nested: Any = 1
    for _ in range(20):
        nested = [nested]
    for data in (nested, {"a": 1, "b": 2}, {}, {"class": "os.system"}, {"set": [{"list": []}]}, {"map": [1]}, 1 << 70):
        with pytest.raises(ModelFormatError):
            typed.unpack_value(data, Graph, Graph, "x")


def test_nothing_of_a_graph_is_left_behind() -> None:
    graph = Graph("g", notes=("a note",), prefix="body")
    graph.fresh()
    x = graph.input("x", ["T", None, 3], np.float32)
    graph.input("h", None, np.int64, optional=True)
    graph.input("k", [2], np.float32, optional=True, default=np.ones(2, np.float32))
    body = Graph("g", prefix="b1")
    body.output(body.add("Tanh", [body.input("bx", ["T"], np.float32)], name="inner")[0], None, np.float32)
    graph.output(graph.add("If", [graph.constant(np.array(True)), x], 1, then=body, orelse=body)[0], ["T"], np.float32)
    writer = Writer("g")
    number = writer.graph(graph)
    header = {"writer": "", "source": "", "options": {}, "graph": number, "prepared": None, "selftest": None}
    with io.BytesIO() as file:
        writer.write(file, **header)
        held = Container(file.getvalue())
    back = held.imported
    apart: dict[str, Any] = {"source": "", "nodes": [], "constants": {}, "defaults": {}}
    assert back.with_(**apart) == graph.with_(**apart)
    assert [node.with_(attrs={}) for node in back.nodes] == [node.with_(attrs={}) for node in graph.nodes]
    assert back.nodes[0].attrs["then"] is back.nodes[0].attrs["orelse"]
    assert back.nodes[0].attrs["then"].nodes == body.nodes
    assert back.constants.keys() == graph.constants.keys()
    assert back.defaults["h"] is None
    assert back.defaults["k"].tolist() == [1, 1]


# ---------------------------------------------------------------------- what is refused


def test_every_bit_counts(original: Path) -> None:
    data = bytearray(original.read_bytes())
    rng = np.random.default_rng(0)
    for place in [*range(32), *rng.integers(32, len(data), 150)]:
        data[place] ^= 1 << int(rng.integers(8))
        with pytest.raises((ModelFormatError, UnsupportedModelError)):
            Container(bytes(data)).check()
        data[:] = original.read_bytes()


def test_every_length_counts(original: Path) -> None:
    data = original.read_bytes()
    for size in [8, 31, 32, 33, len(data) // 2, len(data) - 64, len(data) - 1]:
        with pytest.raises(ModelFormatError, match="cut short"):
            gs.load(data[:size])
    with pytest.raises(ModelFormatError):
        gs.load(data + b"\0")


def test_versions_are_named(original: Path) -> None:
    header, arrays = opened(original.read_bytes())
    with pytest.raises(UnsupportedModelError, match=r"format version 7; this gatestep reads version 1"):
        gs.load(sealed(header, arrays, version=7))
    header["writer"] = "99.1"
    with pytest.raises(UnsupportedModelError, match=rf"gatestep 99\.1, .* {gs.__version__}"):
        gs.load(sealed(header, arrays))


def test_a_failing_self_test(original: Path) -> None:
    header, arrays = opened(original.read_bytes())
    table = header["arrays"]
    (outputs,) = [value for key, value in header["selftest"]["map"] if key == "outputs"]
    ((_, number),) = outputs["map"]
    dtype, shape, _ = table[number["array"]]
    places = [0]
    for entry in table:
        size = int(np.prod(entry[1])) * np.dtype(entry[0]).itemsize
        places.append(places[-1] + size + -size % 64)
    start = places[number["array"]]
    values = np.frombuffer(arrays, dtype, int(np.prod(shape)), start) * np.float32(1.001)
    arrays = arrays[:start] + values.tobytes() + arrays[start + values.nbytes :]
    table[number["array"]][2] = zlib.crc32(values.tobytes())
    with pytest.raises(ModelFormatError, match=r"self-test fails: output .* self_test=False"):
        gs.load(sealed(header, arrays))
    assert gs.load(sealed(header, arrays), self_test=False).streams


def test_what_cannot_be_converted(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError):
        gs.convert({"a": np.zeros(3)}, tmp_path / "m")
    assert os.listdir(tmp_path) == []
    with pytest.raises(FileNotFoundError):
        gs.convert(weights(), tmp_path / "none" / "m", spec=SPEC)


def test_a_file_keeps_every_option_of_a_model() -> None:
    elsewhere = {"graph", "layout", "backend", "threads"}
    assert {*OPTIONS} == inspect.signature(Model).parameters.keys() - elsewhere
