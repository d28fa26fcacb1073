"""`.gatestep` files changed on purpose, checksums and all: our errors, in little memory, or a model that runs."""

from __future__ import annotations

import contextlib
import copy
import json
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gatestep.engine.errors import GatestepError, ModelFormatError, UnsupportedModelError
from gatestep.engine.graph import Graph
from gatestep.importers.container import MOST_HEADER, PREFIX, Container
from gatestep.importers.kinds import CONTAINER_MAGIC as MAGIC
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gatestep as gs
from gatestep._feeds import frames, random_values, whole

#: What loading and running a hostile file may take: its models are a few kilobytes.
MOST_MEMORY = 128 << 20
MOST_SECONDS = 10.0


def opened(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and arrays of a file."""
    end = PREFIX.size + PREFIX.unpack(data[: PREFIX.size])[3]
    return json.loads(data[PREFIX.size : end]), data[end:]


def sealed(header: Any, arrays: bytes = b"") -> bytes:
    """A file with this header, or this text for one, all checksums right."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-(PREFIX.size + len(text)) % 64)
    start = PREFIX.pack(MAGIC, 1, zlib.crc32(text), len(text), 0, 0)[:-4]
    return start + struct.pack("<I", zlib.crc32(start)) + text + arrays


# ---------------------------------------------------------------------- models to begin with


def gru(net: Any) -> Any:
    """Ids into a table, a GRU whose state is an input and an output, a dense layer."""
    n = net()
    x = n("Gather", n.weights(7, 3), n.input("ids", "T", "B", dtype=np.int64), axis=0)
    y = n.cell("GRU", x, 3, 5, h0=n.input("h0", 1, "B", 5), out=["y4", "hn"])[0]
    n("Sigmoid", n("MatMul", n("Squeeze", y, [1]), n.weights(5, 2)), out="y")
    return n.output("y", "hn")


def cell(net: Any) -> Any:
    """One step of an RNN written out, its state by hand, and a window of everything."""
    n = net()
    h = n.input("h", 1, 4)
    x = n.input("x", 1, 3)
    n("Tanh", n("Add", n("MatMul", x, n.weights(3, 4)), n("MatMul", h, n.weights(4, 4))), out="h_out")
    n("Softmax", n("Gemm", "h_out", n.weights(4, 2), n.weights(2)), out="y")
    return n.output("y", "h_out")


def windows(net: Any) -> Any:
    """A convolution and pooling, normalised, shapes computed on the way."""
    n = net()
    x = n.input("x", 1, 2, "T")
    options = {"auto_pad": "NOTSET", "dilations": (1,), "group": 1, "kernel_shape": (3,), "strides": (1,)}
    y = n("Conv", x, n.weights(4, 2, 3), n.weights(4), pads=(1, 1), **options)
    shape = n("Concat", n("Gather", n("Shape", x, start=0, end=None), [0], axis=0), [-1], axis=0)
    n("Reshape", n("ReduceMean", y, [2], keepdims=0), shape, allowzero=0, out="mean")
    n("Pad", n("Slice", y, [0], [3], [1], [1]), [0, 0, 1, 0, 0, 1], 0.0, mode="constant", out="cut")
    return n.output("mean", "cut")


def loop(net: Any) -> Any:
    """A Scan whose body adds, and an If."""
    n = net()
    body = Graph("test.net", prefix="b")
    s, x = body.input("bs", [3], np.float32), body.input("bx", [3], np.float32)
    (out,) = body.add("Add", [s, x])
    body.output(out, [3], np.float32)
    body.output(x, [3], np.float32)
    axes = {"in_axes": (0,), "in_reverse": (0,), "out_axes": (0,), "out_reverse": (0,)}
    n("Scan", np.zeros(3), n.input("x", "T", 3), body=body, states=1, xs=1, **axes, out=["last", "all"])
    return n.output("last", "all")


def bands(net: Any) -> Any:
    """An operator along the bands of a frame, and one along frames."""
    n = net()
    x = n("Transpose", n.input("x", "T", 4, 3), perm=(1, 0, 2))
    along = n("Transpose", n.cell("GRU", x, 3, 2, direction="bidirectional")[0], perm=(2, 0, 1, 3))
    y = n.cell("RNN", n("Reshape", along, [0, 4, 4], allowzero=0), 4, 2, out=["y4", "hn"])[0]
    n("Squeeze", y, [1], out="y")
    return n.output("y")


MAKERS: dict[str, Callable[[Any], Any]] = {"gru": gru, "cell": cell, "windows": windows, "loop": loop, "bands": bands}


class Files(dict[str, bytes]):
    """Files by name, which hypothesis need not print."""

    def __repr__(self) -> str:
        return f"<{', '.join(self)}>"


@pytest.fixture(scope="module")
def files(net: Any, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A sound file of each."""
    folder, made = tmp_path_factory.mktemp("files"), Files()
    for name, maker in MAKERS.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gs, "_graph", lambda *_, maker=maker, **__: maker(net).graph)
            gs.convert(b"a file of tests", folder / name)
        made[name] = (folder / name).read_bytes()
        assert exercised(made[name]) == "ran"
    return made


def exercised(data: bytes) -> str:
    """Load and use in every way: what came of it, in no more time and memory than is in order."""
    began = time.monotonic()
    tracemalloc.start()
    try:
        model = gs.load(data, self_test=False)
        uses: list[Callable[[], object]] = [lambda: str(model), lambda: stepped(model)]
        uses += [lambda: model(whole(model, 5, 1, DRAW)), lambda: model(whole(model, 9, 2, DRAW))]
        for use in uses:
            with contextlib.suppress(GatestepError):
                use()
        gs.load(data)
    except GatestepError:
        return "refused"
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MOST_MEMORY
        assert time.monotonic() - began < MOST_SECONDS
    return "ran"


DRAW = random_values(np.random.default_rng(0))


def stepped(model: Any) -> None:
    stream = model.stream()
    stream.run(frames(model, 75, None, DRAW))
    for name in stream.state:
        stream.state[name] = stream.state[name]


# ---------------------------------------------------------------------- changes of every kind


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where everything in a header is."""
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from paths(inner, (*path, key))


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


#: Values of every type, and numbers of every size.
ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 7, 64, -5, 1 << 31, 1 << 40, -(1 << 62), 1 << 63, 1 << 70, 0.5, -1e300),
    *("", "x", "\0", "LSTM", "GRU", "forward", "reverse", "Scan", "Reshape", [], {}, [0], [1, 2], [-1, 0, 1], [[[]]]),
    *({"map": []}, {"list": [1]}, {"float": "nan"}, {"dtype": "<f8"}, {"array": 0}, {"array": 10**6}, {"graph": 0}),
    *({"graph": 1}, {"axes": {"time": 0, "batch": 1, "dropped": []}}, {"set": [["x", "h"]]}, {"error": {"class": "X"}}),
]


@cache
def places(text: str) -> list[tuple[Any, ...]]:
    return [path for path in paths(json.loads(text)) if path and path[0] != "selftest"]


@st.composite
def changes(draw: Any) -> tuple[str, list[tuple[str, int, int]]]:
    """A model, and what is done where in its header."""
    what = st.sampled_from(["odd", "odd", "more", "other", "gone", "twice", "backwards"])
    step = st.tuples(what, st.integers(0, 1 << 20), st.integers(0, 1 << 20))
    return draw(st.sampled_from(sorted(MAKERS))), draw(st.lists(step, min_size=1, max_size=3))


def changed(header: dict[str, Any], steps: list[tuple[str, int, int]]) -> dict[str, Any]:
    """A header after these changes."""
    spots = places(json.dumps(header))
    header = copy.deepcopy(header)
    for what, where, how in steps:
        path = spots[where % len(spots)]
        try:
            parent, key = at(header, path[:-1]), path[-1]
            old = parent[key]
        except (LookupError, TypeError):
            continue  # an earlier change took it away
        if not isinstance(parent, (dict, list)):
            continue
        if what == "odd":
            parent[key] = ODD[how % len(ODD)]
        elif what == "more" and isinstance(old, (int, float)):
            parent[key] = old + (-1, 1, 2, -2, 10, -1000, 1000)[how % 7]
        elif what == "other":
            same = [spot for spot in spots if spot[-1] == key or len(spot) == len(path)]
            try:
                parent[key] = copy.deepcopy(at(header, same[how % len(same)]))
            except (LookupError, TypeError):
                continue
        elif what == "gone":
            del parent[key]
        elif isinstance(old, list) and old:
            old.append(copy.deepcopy(old[how % len(old)])) if what == "twice" else old.reverse()
    return header


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(changes())
def test_headers_changed_on_purpose(files: Files, change: tuple[str, list[tuple[str, int, int]]]) -> None:
    name, steps = change
    header, arrays = opened(files[name])
    exercised(sealed(changed(header, steps), arrays))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(sorted(MAKERS)), st.integers(0, 1 << 20), st.binary(min_size=1, max_size=8), st.booleans())
def test_bytes_changed_on_purpose(files: Files, name: str, where: int, new: bytes, seal: bool) -> None:
    data = bytearray(files[name])
    end = PREFIX.size + PREFIX.unpack(data[: PREFIX.size])[3]
    where %= end - PREFIX.size
    data[PREFIX.size + where : PREFIX.size + where + len(new)] = new
    data = data[: len(files[name])]
    if seal:
        exercised(sealed(bytes(data[PREFIX.size : end]), bytes(data[end:])))
    elif data != files[name]:
        with pytest.raises((ModelFormatError, UnsupportedModelError)):
            Container(bytes(data)).check()


@pytest.mark.parametrize("name", MAKERS)
def test_cut_short_anywhere(files: Files, name: str) -> None:
    for size in {*range(0, 64, 3), *range(64, len(files[name]), 41)}:
        with pytest.raises(GatestepError):
            gs.load(MAGIC + files[name][len(MAGIC) : max(size, len(MAGIC))])


# ---------------------------------------------------------------------- lies with a purpose


def refused(header: Any, arrays: bytes, words: str) -> None:
    with pytest.raises(GatestepError, match=words):
        gs.load(sealed(header, arrays), self_test=False)


def test_deep_and_large_headers() -> None:
    for text in (b"[" * 100_000, b'{"a":' * 100_000, b"[" * 20_000 + b"]" * 20_000, b"1" * 10_000, b"NaN", b'"\xff"'):
        with pytest.raises(ModelFormatError):
            gs.load(sealed(text))
    start = PREFIX.pack(MAGIC, 1, 0, MOST_HEADER + 1, 0, 0)[:-4]
    with pytest.raises(ModelFormatError, match="a header of"):
        gs.load(start + struct.pack("<I", zlib.crc32(start)))


def test_absurd_arrays(files: Files) -> None:
    sizes: list[Any] = [[1 << 40], [1 << 20] * 20, [-1], [0, 1 << 60], [1] * 40, [True], ["T"], [1.0], {}, None]
    entries: list[Any] = [["<f4", size, 0] for size in sizes]
    for entry in [*entries, ["|O", [1], 0], ["<c8", [1], 0], ["<f4", [1]], None, {}]:
        header, arrays = opened(files["gru"])
        header["arrays"][0] = entry
        refused(header, arrays, "proportion|element type|is not|shorter|cut short|checksum")


def test_graphs_that_are_none(files: Files) -> None:
    def graph(name: str) -> tuple[dict[str, Any], dict[str, Any], bytes]:
        header, arrays = opened(files[name])
        return header, header["graphs"][header["prepared"]["graph"]], arrays

    header, inner, arrays = graph("gru")
    inner["nodes"].reverse()
    refused(header, arrays, "nothing before it makes")
    header, inner, arrays = graph("gru")
    inner["nodes"].append(inner["nodes"][0])
    refused(header, arrays, "is made twice")
    header, inner, arrays = graph("gru")
    inner["nodes"][0][0] = "Teapot"
    refused(header, arrays, "operator Teapot is not supported.*update")
    header, inner, arrays = graph("gru")
    inner["outputs"][0][0] = "nowhere"
    refused(header, arrays, "nothing makes the output")
    header, inner, arrays = graph("gru")
    next(node for node in inner["nodes"] if node[0] == "GRU")[4]["alpha"] = 1.0
    refused(header, arrays, "attributes that no cell has")
    header, inner, arrays = graph("loop")
    for number, body in enumerate(header["graphs"]):
        for node in body["nodes"]:
            for key in node[4].keys() & {"body"}:
                node[4][key] = {"graph": number}
    refused(header, arrays, "there is no graph")


def test_layouts_that_lie(files: Files) -> None:
    def lie(name: str, **fields: Any) -> bytes:
        header, arrays = opened(files[name])
        header["prepared"]["layout"] |= fields
        return sealed(header, arrays)

    axes = {"axes": {"time": 1, "batch": None, "dropped": []}}
    for data in (
        lie("gru", axes={"map": []}),
        lie("gru", axes={"map": [["ids", axes], ["nothing", axes]]}),
        lie("gru", states={"map": [["ids", "y"]]}),
        lie("gru", carried={"map": [["h0", "nothing"]]}),
        lie("gru", owned={"set": [["nothing", "h"]]}),
        lie("gru", axes={"map": [["ids", {"axes": {"time": 5, "batch": 1, "dropped": []}}], ["y", axes]]}),
        lie("gru", axes={"map": [["ids", {"axes": {"time": 0, "batch": 0, "dropped": []}}], ["y", axes]]}),
        lie("gru", axes={"map": [["ids", {"axes": {"time": -1, "batch": 1, "dropped": []}}], ["y", axes]]}),
        lie("gru", timed=1),
        lie("gru", surplus=0),
    ):
        assert exercised(data) == "refused"
    for data in (
        lie("gru", chunked=False),
        lie("cell", chunked=True),
        lie("cell", timed=True),
        lie("gru", timed=False),
    ):
        exercised(data)


def test_a_file_that_changes_its_path_is_no_matter(files: Files, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(files["gru"])
    assert gs.load(tmp_path / "a.onnx").source == str(tmp_path / "a.onnx")
