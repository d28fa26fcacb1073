"""Files made to harm, one by one: each is refused by name, or runs; nothing else happens."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fuzzing import contained
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from seeds import graphs, model

import gatestep as gs

node = helper.make_node
X, Y = {"x": ["T", 3]}, {"y": ["T", 3]}


def summed(nodes: list[Any], made: str) -> list[Any]:
    """`nodes`, and what they made added to x as one number."""
    return [*nodes, node("ReduceSum", [made], ["sum"], keepdims=0), node("Add", ["x", "sum"], ["y"])]


LARGE = np.array([2**20])
#: What small constants can be made to grow into.
GROWING: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "constant": ([node("ConstantOfShape", ["n"], ["c"])], {"n": np.array([2**40, 2**20])}),
    "product": (
        [node("Expand", ["a", "n"], ["e"]), node("Reshape", ["e", "col"], ["f"]), node("MatMul", ["f", "b"], ["c"])],
        {"n": LARGE, "a": np.float32([1]), "col": np.array([-1, 1]), "b": np.ones((1, 5000), np.float32)},
    ),
    "sum": (
        [node("Expand", ["a", "n"], ["e"]), node("Reshape", ["e", "col"], ["f"]), node("Add", ["f", "b"], ["c"])],
        {"n": LARGE, "a": np.float32([1]), "col": np.array([-1, 1]), "b": np.ones((1, 5000), np.float32)},
    ),
    "gather": (
        [node("Expand", ["a", "n"], ["e"]), node("Gather", ["b", "e"], ["c"])],
        {"n": LARGE, "a": np.array([0]), "b": np.ones((1, 5000), np.float32)},
    ),
    "one-hot": (
        [node("Expand", ["a", "n"], ["e"]), node("OneHot", ["e", "depth", "b"], ["c"])],
        {"n": LARGE, "a": np.array([0]), "depth": np.array(5000), "b": np.float32([0, 1])},
    ),
    "tile": ([node("Tile", ["a", "n"], ["c"])], {"n": np.array([2**62]), "a": np.float32([1])}),
    "pad": ([node("Pad", ["a", "n"], ["c"])], {"n": np.array([2**62, 2**62]), "a": np.float32([1])}),
    "many": (
        [node("ConstantOfShape", ["n"], ["c0"]), *(node("Add", [f"c{k}", "a"], [f"c{k + 1}"]) for k in range(40)),
         node("Identity", ["c40"], ["c"])],
        {"n": np.array([2**24]), "a": np.float32([1])},
    ),
    "concat": (
        [node("ConstantOfShape", ["n"], ["c0"]),
         *(node("Concat", [f"c{k}"] * 8, [f"c{k + 1}"], axis=0) for k in range(10)), node("Identity", ["c10"], ["c"])],
        {"n": np.array([2**10])},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GROWING)
def test_growth_is_seen_beforehand(name: str) -> None:
    nodes, held = GROWING[name]
    data = model(summed(nodes, "c"), X, Y, held)
    assert contained(data) in ("loaded", "refused")
    with pytest.raises(gs.GatestepError, match=r"proportion|impossible|too large|too big|Maximum"):
        gs.load(data)(np.zeros((2, 3), np.float32))


def test_an_output_is_no_exception() -> None:
    data = model([node("Expand", ["x", "n"], ["y"])], X, {"y": [None] * 3}, {"n": np.array([2**32, 1, 1])})
    with pytest.raises(gs.ShapeError, match="out of all proportion"):
        gs.load(data)(np.zeros((2, 3), np.float32))


def tensor(**fields: Any) -> TensorProto:
    return TensorProto(**({"name": "w", "data_type": 1, "dims": [3], "raw_data": bytes(12)} | fields))


TENSORS = {
    "negative": ({"dims": [-3]}, "negative"),
    "absurd": ({"dims": [2**62, 2**62]}, "impossible"),
    "overflow": ({"dims": [2**32, 2**32]}, "impossible|bytes by its shape"),
    "empty but absurd": ({"dims": [0, 2**63 - 1], "raw_data": b""}, "impossible"),
    "claims": ({"dims": [2**31]}, "bytes by its shape"),
    "many axes": ({"dims": [1] * 100 + [3]}, "axes"),
    "type": ({"data_type": 77}, "77"),
    "text": ({"data_type": 8, "raw_data": b"", "string_data": [b"a"] * 3}, "STRING"),
    "twice": ({"float_data": [1, 2, 3]}, "twice"),
    "location": ({"data_location": 1}, "external"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors(name: str) -> None:
    fields, why = TENSORS[name]
    whole = onnx.ModelProto.FromString(model([node("Add", ["x", "w"], ["y"])], X, Y, {"w": np.zeros(3, np.float32)}))
    whole.graph.initializer[0].CopyFrom(tensor(**fields))
    with pytest.raises(gs.GatestepError, match=why):
        gs.load(whole.SerializeToString())


@pytest.mark.parametrize(
    "location",
    [
        "/etc/passwd",
        "../secret",
        "a/../../secret",
        "link",
        "pipe",
        "folder",
        "/dev/zero",
        "",
        "C:\\secret",
        "none",
        "\0",
    ],
)
def test_external_data_stays_in_its_folder(location: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(12))
    inside = tmp_path / "inside"
    (inside / "folder").mkdir(parents=True)
    (inside / "a").mkdir()
    (inside / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(inside / "pipe")
    whole = onnx.ModelProto.FromString(model([node("Add", ["x", "w"], ["y"])], X, Y, {"w": np.zeros(3, np.float32)}))
    entry = onnx.StringStringEntryProto(key="location", value=location)
    whole.graph.initializer[0].CopyFrom(
        TensorProto(name="w", data_type=1, dims=[3], data_location=1, external_data=[entry])
    )
    path = inside / "model.onnx"
    path.write_bytes(whole.SerializeToString())
    with pytest.raises(gs.ModelFormatError, match="'w'"):
        gs.load(path)


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in (tmp_path / "pipe", "/dev/zero", tmp_path):
        with pytest.raises((gs.ModelFormatError, OSError), match=r"not a regular file|directory"):
            gs.load(name)


def nested_ifs(depth: int) -> bytes:
    info = helper.make_tensor_value_info
    inner = [node("Relu", ["x"], ["v0"])]
    for k in range(depth):
        body = helper.make_graph(inner, "b", [], [info(f"v{k}", 1, None)])
        inner = [node("If", ["yes"], [f"v{k + 1}"], then_branch=body, else_branch=body)] if k < 6 else [
            node("If", ["yes"], [f"v{k + 1}"], then_branch=body, else_branch=helper.make_graph(
                [node("Relu", ["x"], ["w"])], "e", [], [info("w", 1, None)]))
        ]  # fmt: skip
    return model([*inner, node("Identity", [f"v{depth}"], ["y"])], X, Y, {"yes": np.array(True)})


@pytest.mark.parametrize("depth", [3, 12, 25])
def test_graphs_in_graphs(depth: int) -> None:
    assert contained(nested_ifs(depth)) in ("ran", "loaded", "refused")


@pytest.mark.parametrize("calls", [1, 2, 10])
def test_functions_that_call_functions(calls: int) -> None:
    """Each calls the one before many times: a hundred nodes that ask for ten to the power of thirty."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    functions = [helper.make_function("own", "f0", ["a"], ["b"], [node("Relu", ["a"], ["b"])], opsets[:1])]
    for k in range(1, 30):
        body = [node(f"f{k - 1}", [f"v{n}" if n else "a"], [f"v{n + 1}"], domain="own") for n in range(calls)]
        functions.append(helper.make_function("own", f"f{k}", ["a"], [f"v{calls}"], body, opsets))
    whole = onnx.ModelProto.FromString(model([node("f29", ["x"], ["y"], domain="own")], X, Y, {}, functions=functions))
    whole.opset_import.append(opsets[1])
    assert contained(whole.SerializeToString()) == ("ran" if calls == 1 else "refused")
    whole.functions[0].node[0].op_type, whole.functions[0].node[0].domain = "f29", "own"
    whole.functions[0].opset_import.append(opsets[1])
    with pytest.raises(gs.GatestepError):
        gs.load(whole.SerializeToString())


def loop(trips: Any, go_on: bool) -> bytes:
    whole = onnx.ModelProto.FromString(graphs()["loop.onnx"])
    del whole.graph.initializer[0]
    if trips is None:
        whole.graph.node[0].input[0] = ""
    else:
        whole.graph.initializer.append(numpy_helper.from_array(np.array(trips), "trips"))
    return bytes(whole.SerializeToString())


@pytest.mark.parametrize("trips", [None, 2**62, -1, 0])
def test_loops_have_an_end(trips: Any) -> None:
    assert contained(loop(trips, True)) in ("ran", "loaded", "refused")


def test_names() -> None:
    for name in ("\ud800".encode("utf-8", "surrogatepass"), b"\xff", b"a" * 10_000_000):
        data = model([node("Relu", ["x"], ["y"], name="NAME")], X, Y, {})
        at = data.index(b"NAME")
        if len(name) <= 4:
            name = name.ljust(4, b"x")
            with pytest.raises(gs.GatestepError):
                gs.load(data[:at] + name + data[at + 4 :])
    long = model([node("Relu", ["x"], ["y"], name="n" * 5_000_000)], X, Y, {})
    assert contained(long) == "ran"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e38])
@pytest.mark.parametrize("op", ["LeakyRelu", "Elu", "LayerNormalization", "LSTM"])
def test_attributes_that_are_no_numbers(op: str, value: float) -> None:
    held = {"s": np.ones(3, np.float32), "w": np.ones((1, 8, 3), np.float32), "r": np.ones((1, 8, 2), np.float32)}
    nodes = {
        "LayerNormalization": [node(op, ["x", "s"], ["y"], epsilon=value)],
        "LSTM": [node("Unsqueeze", ["x", "one"], ["u"]), node(op, ["u", "w", "r"], ["y"], hidden_size=2, clip=value)],
    }.get(op, [node(op, ["x"], ["y"], alpha=value)])
    data = model(nodes, X, {"y": None}, held | {"one": np.array([1])})
    assert contained(data) in ("ran", "loaded", "refused")


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/gatestep-was-here",)


def zip_of(**entries: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), data)
    return made.getvalue()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickles_with_code(protocol: int) -> None:
    bomb = pickle.dumps({"w": Evil()}, protocol)
    for data in (bomb, zip_of(a__data_pkl=bomb, a__version=b"3\n")):
        with pytest.raises(gs.GatestepError):
            gs.load(data)
    assert not Path("/tmp/gatestep-was-here").exists()


def test_zip_bombs() -> None:
    zeros = bytes(200_000_000)
    for data in (zip_of(w_npy=zeros), zip_of(config_json=zeros, model_weights_h5=b"x"), zip_of(a__data_pkl=zeros)):
        assert len(data) < 500_000
        assert contained(data) == "refused"


@pytest.mark.parametrize("name", sorted(graphs()))
def test_shapes_and_attributes_of_sound_graphs(name: str) -> None:
    """Every integer of every graph, one or two at a time: kernels only get sizes that were checked."""
    data = graphs()[name]

    @settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def one(draw: Any) -> None:
        whole = onnx.ModelProto.FromString(data)
        places: list[tuple[Callable[[int], None], int]] = []
        for made in whole.graph.node:
            for attribute in made.attribute:
                if attribute.type == onnx.AttributeProto.INT:
                    places.append((lambda v, a=attribute: setattr(a, "i", v), attribute.i))
                for k, held in enumerate(attribute.ints):
                    places.append((lambda v, a=attribute, k=k: a.ints.__setitem__(k, v), held))
        for k, array in enumerate(whole.graph.initializer):
            values = numpy_helper.to_array(array)
            if values.dtype == np.int64:
                for at in range(values.size):

                    def put(v: int, k: int = k, at: int = at) -> None:
                        changed = numpy_helper.to_array(whole.graph.initializer[k]).copy()
                        changed.reshape(-1)[at] = v
                        name = whole.graph.initializer[k].name
                        whole.graph.initializer[k].CopyFrom(numpy_helper.from_array(changed, name))

                    places.append((put, int(values.reshape(-1)[at])))
        for port in (*whole.graph.input, *whole.graph.output):
            for dim in port.type.tensor_type.shape.dim:
                places.append((lambda v, d=dim: setattr(d, "dim_value", v), dim.dim_value))
        for _ in range(draw.draw(st.integers(1, 2))):
            put_value, old = draw.draw(st.sampled_from(places))
            near = st.sampled_from([old - 1, old + 1, -old, 0, 1, -1, 2**31, 2**62, -(2**63), 2**63 - 1])
            put_value(max(min(draw.draw(near | st.integers(-9, 9)), 2**63 - 1), -(2**63)))
        assert contained(whole.SerializeToString()) in ("ran", "loaded", "refused")

    one()
