"""ONNX files as a whole: versions, ports, cuts, functions, order of nodes, what a file is instead."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from gatestep.engine.errors import ModelFormatError, UnsupportedModelError  # noqa: E402
from gatestep.importers.onnx import read_onnx, reader  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402
from onnx_models import F32, I64, function_model, info, make, own, plain, refused  # noqa: E402


def test_ports_are_as_declared() -> None:
    inputs = [info("a", ("N", 3, None)), info("b", None, TensorProto.INT64), info("c", (), TensorProto.BFLOAT16)]
    model = make([helper.make_node("Relu", ["a"], ["y"])], inputs, [info("y", ("N", -1, 0), TensorProto.FLOAT16)])
    graph = read_onnx(model)
    got = [(p.name, p.shape, p.dtype, p.optional) for p in graph.inputs]
    assert got == [("a", ("N", 3, None), F32, False), ("b", None, I64, False), ("c", (), F32, False)]
    assert [(p.name, p.shape, p.dtype) for p in graph.outputs] == [("y", ("N", None, 0), np.dtype(np.float16))]


def test_type_of_an_output_follows_where_it_is_not_declared() -> None:
    nodes = [helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Gather", ["s", "i"], ["y"])]
    model = make(nodes, weights={"i": np.array(0)}, outputs=[onnx.ValueInfoProto(name="y")])
    assert read_onnx(model).outputs[0].dtype == I64


@pytest.mark.parametrize("ir", [3, 4])
def test_inputs_with_an_initializer(ir: int) -> None:
    weights = {"w": np.full((3,), 2, np.float32)}
    graph = read_onnx(
        make([helper.make_node("Add", ["x", "w"], ["y"])], ["x", info("w", (3,))], weights=weights, ir=ir)
    )
    if ir == 3:  # where every initializer had to be an input
        assert [p.name for p in graph.inputs] == ["x"]
        np.testing.assert_array_equal(graph.constants["w"], weights["w"])
    else:
        assert [(p.name, p.shape, p.optional) for p in graph.inputs] == [("x", (2, 3), False), ("w", (3,), True)]
        np.testing.assert_array_equal(graph.defaults["w"], weights["w"])
        assert "w" not in graph.constants


def three_steps() -> Any:
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Add", ["b", "z"], ["c"]),
        helper.make_node("NonZero", ["c"], ["y"]),
    ]
    value_info = [info("a", ("N", 4), TensorProto.DOUBLE), info("c", ("N", 4), TensorProto.DOUBLE)]
    return make(nodes, ["x", "z"], weights={"k": np.zeros((1, 1, 1), np.float32)}, value_info=value_info)


def test_cut() -> None:
    graph = read_onnx(three_steps(), inputs=["z", "a"], outputs=["c", "b"])
    assert [(p.name, p.shape, p.dtype) for p in graph.inputs] == [
        ("z", (2, 3), F32),
        ("a", ("N", 4), np.dtype(np.float64)),
    ]
    assert [(p.name, p.shape, p.dtype) for p in graph.outputs] == [
        ("c", ("N", 4), np.dtype(np.float64)),
        ("b", None, np.dtype(np.float64)),
    ]
    assert [node.op for node in graph.nodes] == ["Relu", "Add"]
    assert not graph.constants


def test_cut_keeps_only_the_inputs_that_outputs_need() -> None:
    model = make(
        [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Relu", ["z"], ["w"])], ["x", "z"], ["y", "w"]
    )
    assert [p.name for p in read_onnx(model).inputs] == ["x", "z"]
    assert [p.name for p in read_onnx(model, outputs=["w"]).inputs] == ["z"]


def test_cut_at_one_of_several_results() -> None:
    model = make([helper.make_node("Split", ["x"], ["a", "b"]), helper.make_node("Add", ["a", "b"], ["y"])], opset=13)
    graph = read_onnx(model, inputs=["x", "a"])
    assert plain(graph)[0][2] == ["", "b"]
    assert [p.name for p in graph.inputs] == ["x", "a"]


def test_cut_at_a_weight_makes_it_an_optional_input() -> None:
    model = make([helper.make_node("Add", ["x", "w"], ["y"])], weights={"w": np.ones(3, np.float32)})
    graph = read_onnx(model, inputs=["x", "w"])
    assert graph.inputs[1].optional
    np.testing.assert_array_equal(graph.defaults["w"], np.ones(3))


@pytest.mark.parametrize(
    ("cut", "match"),
    [
        ({"outputs": ["nope"]}, "outputs='nope': is no value of the model"),
        ({"inputs": ["xx"]}, "Did you mean 'x'"),
        ({"inputs": ["a"]}, "also depends? on 'z'"),
        ({"inputs": []}, "must name values"),
        ({"outputs": ["c", "c"]}, "each once"),
    ],
)
def test_cuts_that_do_not_work(cut: dict[str, Any], match: str) -> None:
    refused(UnsupportedModelError, match, lambda: read_onnx(three_steps(), **cut))


# ---------------------------------------------------------------------- the file's own functions
def test_functions_are_inlined() -> None:
    leaky = helper.make_node("LeakyRelu", ["a"], ["t"], name="leaky")
    leaky.attribute.append(onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT))
    inner = own("Inner", ["a"], ["b"], [leaky, helper.make_node("Neg", ["t"], ["b"])], attributes=["slope"])
    outer = own("Outer", ["p", "q"], ["r"], [helper.make_node("Inner", ["p"], ["r"], domain="own", slope=0.25)])
    nodes = [
        helper.make_node("Outer", ["x"], ["m"], domain="own", name="first"),
        helper.make_node("Inner", ["m"], ["y"], domain="own", name="second"),
    ]
    graph = read_onnx(function_model(nodes, [outer, inner]))
    assert [(n.op, n.attrs) for n in graph.nodes] == [
        ("LeakyRelu", {"alpha": 0.25}),
        ("Neg", {}),
        ("LeakyRelu", {"alpha": float(np.float32(0.01))}),
        ("Neg", {}),
    ]
    assert [n.name for n in graph.nodes][2:] == ["second/leaky", "second/b"]
    first, second, third, fourth = graph.nodes
    assert first.inputs == ("x",)
    assert (second.inputs, third.inputs, fourth.inputs) == (first.outputs, second.outputs, third.outputs)
    assert fourth.outputs == ("y",)
    assert first.outputs != third.outputs


def test_function_attribute_defaults() -> None:
    leaky = helper.make_node("LeakyRelu", ["a"], ["b"])
    leaky.attribute.append(onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT))
    function = own("F", ["a"], ["b"], [leaky], attribute_protos=[helper.make_attribute("slope", 0.75)])
    graph = read_onnx(function_model([helper.make_node("F", ["x"], ["y"], domain="own")], [function]))
    assert graph.nodes[0].attrs == {"alpha": 0.75}


def test_functions_in_a_circle() -> None:
    call = helper.make_node("F", ["a"], ["b"], domain="own")
    model = function_model([helper.make_node("F", ["x"], ["y"], domain="own")], [own("F", ["a"], ["b"], [call])])
    refused(ModelFormatError, "in a circle", lambda: read_onnx(model))


def test_functions_that_multiply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_NODES", 5000)
    functions = [own("F0", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])])]
    for k in range(1, 30):
        calls = [
            helper.make_node(f"F{k - 1}", [source], [target], domain="own")
            for source, target in (("a", "t"), ("t", "b"))
        ]
        functions.append(own(f"F{k}", ["a"], ["b"], calls))
    model = function_model([helper.make_node("F29", ["x"], ["y"], domain="own")], functions)
    refused(UnsupportedModelError, "more than 5000 nodes", lambda: read_onnx(model))


# ---------------------------------------------------------------------- structure
@pytest.mark.parametrize(
    ("nodes", "match"),
    [
        ([("Relu", ["x"], ["y"]), ("Tanh", ["x"], ["y"])], "Tanh 'y': value 'y' is defined twice"),
        ([("Relu", ["x"], ["x"]), ("Relu", ["x"], ["y"])], "value 'x' is defined twice"),
        ([("Relu", ["x"], ["w"]), ("Relu", ["w"], ["y"])], "value 'w' is defined twice"),
        ([("Relu", ["q"], ["y"])], "Relu 'y': uses value 'q', which nothing defines"),
        ([("Relu", ["x"], ["z"])], "output 'y' is made by no node"),
        ([("Add", ["x", "b"], ["a"]), ("Relu", ["a"], ["b"]), ("Relu", ["b"], ["y"])], "Add 'a': is part of a cycle"),
        ([("Add", ["x", "y"], ["y"])], "is part of a cycle"),
    ],
)
def test_structure(nodes: Sequence[Any], match: str) -> None:
    model = make([helper.make_node(*node) for node in nodes], weights={"w": np.ones(3, np.float32)})
    refused(ModelFormatError, match, lambda: read_onnx(model))


def test_names_are_unique() -> None:
    relu = helper.make_node("Relu", ["x"], ["y"])
    refused(ModelFormatError, "declares input 'x' twice", lambda: read_onnx(make([relu], ["x", "x"])))
    refused(ModelFormatError, "declares output 'y' twice", lambda: read_onnx(make([relu], outputs=["y", "y"])))
    model = make([relu], weights={"w": np.ones(3)})
    model.graph.initializer.append(model.graph.initializer[0])
    refused(ModelFormatError, "initializer 'w' twice", lambda: read_onnx(model))
    model = make([helper.make_node("Elu", ["x"], ["y"], alpha=1.0)])
    model.graph.node[0].attribute.append(model.graph.node[0].attribute[0])
    refused(ModelFormatError, "attribute 'alpha' twice", lambda: read_onnx(model))
    refused(ModelFormatError, "unreadable name", lambda: read_onnx(make([helper.make_node("Relu", ["x"], ["\0v1"])])))


def test_nodes_out_of_order_are_sorted() -> None:
    nodes = [("Relu", ["c"], ["y"]), ("Tanh", ["x"], ["b"]), ("Add", ["b", "a"], ["c"]), ("Neg", ["x"], ["a"])]
    graph = read_onnx(make([helper.make_node(*node) for node in nodes]))
    assert [node.op for node in graph.nodes] == ["Tanh", "Neg", "Add", "Relu"]


def test_long_chains_need_no_recursion() -> None:
    names = ["x", *(f"v{k}" for k in range(20_000)), "y"]
    nodes = [helper.make_node("Relu", [a], [b]) for a, b in itertools.pairwise(names)]
    model = make(reversed(nodes))
    graph = read_onnx(model)
    assert len(graph.nodes) == len(nodes)
    assert graph.nodes[0].inputs == ("x",)


@pytest.mark.parametrize("part", ["node", "initializer", "value_info"])
def test_more_entries_than_any_model_has(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_NODES", 20)
    model = make([helper.make_node("Relu", ["x"], ["y"])])
    for _ in range(21):
        getattr(model.graph, part).add()
    refused(UnsupportedModelError, f"more than 20 entries of {part}", lambda: read_onnx(model))


@pytest.mark.parametrize("kind", ["sequence_type", "map_type", "optional_type"])
def test_inputs_that_are_no_tensors(kind: str) -> None:
    model = make([helper.make_node("Relu", ["x"], ["y"])])
    model.graph.input[0].type.ClearField("tensor_type")
    getattr(model.graph.input[0].type, kind).SetInParent()
    refused(UnsupportedModelError, "'x' is not a tensor", lambda: read_onnx(model))


# ---------------------------------------------------------------------- files
@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "it is empty"),
        (b"PK\x03\x04" + bytes(30), "zip archive, such as a PyTorch"),
        (b"\x1c\0\0\0TFL3" + bytes(30), "TensorFlow Lite"),
        (b"\x1c\0\0\0ORTM" + bytes(30), "onnxruntime's own"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS pointer.*git lfs pull"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\x80\x02}q\0.", "pickle"),
        (b'\x40\0\0\0\0\0\0\0{"w":{}}', "safetensors"),
        (b'{"layers": []}', "JSON"),
        (b"\xff" * 100, "no format known"),
        (b"\x08\x07", "damaged or cut short"),
    ],
)
def test_what_a_file_is_instead(tmp_path: Path, data: bytes, match: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelFormatError, match=match) as caught:
        read_onnx(path)
    assert str(path) in str(caught.value)
    with pytest.raises(ModelFormatError, match=match):
        read_onnx(data)


def test_missing_files_are_the_callers(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_onnx(tmp_path / "none.onnx")
    with pytest.raises(ModelFormatError, match="not a regular file"):
        read_onnx(tmp_path)


def test_every_kind_of_source(tmp_path: Path) -> None:
    model = make([helper.make_node("Relu", ["x"], ["y"])])
    data = model.SerializeToString()
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    sources = {
        str(path): [path, str(path)],
        "<bytes>": [data, bytearray(data), memoryview(data)],
        "<ModelProto>": [model],
    }
    for label, group in sources.items():
        for source in group:
            graph = read_onnx(source)
            assert graph.source == label
            assert plain(graph) == [("Relu", ["x"], ["y"], {})]
    assert read_onnx(data, name="mine").source == "mine"


@pytest.mark.parametrize(
    ("opset", "ir", "error", "match"),
    [
        (6, 8, UnsupportedModelError, "operator set 6; 7 is the oldest"),
        (1000, 8, UnsupportedModelError, "operator set 1000"),
        (13, 2, UnsupportedModelError, "IR version 2; 3 is the oldest"),
        (13, 99, UnsupportedModelError, "IR version 99"),
        (13, 0, ModelFormatError, "no IR version"),
    ],
)
def test_versions(opset: int, ir: int, error: type[Exception], match: str) -> None:
    refused(error, match, lambda: read_onnx(make([helper.make_node("Relu", ["x"], ["y"])], opset=opset, ir=ir)))


def test_operator_sets_must_be_imported_once() -> None:
    model = make([helper.make_node("Relu", ["x"], ["y"])])
    model.opset_import.append(helper.make_opsetid("ai.onnx", 9))
    refused(ModelFormatError, "'ai.onnx' in two versions", lambda: read_onnx(model))
    del model.opset_import[:]
    refused(ModelFormatError, "imports no operator set", lambda: read_onnx(model))
    model.opset_import.append(helper.make_opsetid("ai.onnx", 13))
    model.graph.node[0].domain = "ai.onnx"
    assert read_onnx(model).nodes[0].op == "Relu"
