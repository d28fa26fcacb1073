"""Branches and loops of ONNX files as closed graphs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from gatestep.engine.errors import GatestepError, ModelFormatError, UnsupportedModelError  # noqa: E402
from gatestep.importers.onnx import read_onnx  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx_models import assert_sound, info, make  # noqa: E402

BOOL, INT64 = TensorProto.BOOL, TensorProto.INT64


def body(nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: dict[str, Any] | None = None) -> Any:
    arrays = [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()]
    ports = [[port if not isinstance(port, str) else info(port) for port in side] for side in (inputs, outputs)]
    return helper.make_graph(nodes, "body", *ports, arrays)


def branches(then: Any, orelse: Any, outputs: list[str] | None = None) -> Any:
    return helper.make_node("If", ["c"], outputs or ["y"], name="if", then_branch=then, else_branch=orelse)


def one(op: str, *names: str) -> Any:
    """A body of one node that makes ``out``."""
    return body([helper.make_node(op, names, ["out"])], [], ["out"])


def repeated(depth: int) -> Any:
    """If in If."""
    node = helper.make_node("Neg", ["x"], ["out"])
    for _ in range(depth):
        branch = body([node], [], ["out"])
        node = helper.make_node("If", ["c"], ["out"], then_branch=branch, else_branch=one("Abs", "x"))
    return body([node], [], ["out"])


COND = info("c", (), BOOL)


def test_what_bodies_use_from_outside_are_inputs() -> None:
    nodes = [
        helper.make_node("Exp", ["x"], ["e"]),
        branches(one("Add", "e", "w"), body([], [], ["e"])),
    ]
    graph = read_onnx(make(nodes, ["x", COND], weights={"w": np.ones(3, np.float32)}))
    assert_sound(graph)
    node = graph.nodes[-1]
    assert node.inputs == ("c", "e")
    then, orelse = node.attrs["then"], node.attrs["orelse"]
    assert len(then.inputs) == len(orelse.inputs) == 1
    assert then.constants.keys() == {"w"}
    assert not graph.constants  # nothing else uses it
    assert then.nodes[0].inputs == (then.inputs[0].name, "w")
    assert orelse.outputs[0].name == orelse.inputs[0].name


def test_a_body_counts_in_the_order_of_nodes_and_in_cuts() -> None:
    nodes = [branches(one("Neg", "e"), one("Abs", "e")), helper.make_node("Exp", ["x"], ["e"])]
    assert [node.op for node in read_onnx(make(nodes, ["x", COND])).nodes] == ["Exp", "If"]
    cut = read_onnx(make(nodes, ["x", COND]), inputs=["e", "c"])
    assert [node.op for node in cut.nodes] == ["If"]
    with pytest.raises(UnsupportedModelError, match="also depend on 'x'"):
        read_onnx(make(nodes, ["x", COND]), inputs=["c"])


def test_names_inside_hide_those_outside() -> None:
    inner = body([helper.make_node("Add", ["v", "w"], ["out"]), helper.make_node("Neg", ["x"], ["v"])], [], ["out"],
                 {"w": np.full(3, 7, np.float32)})  # fmt: skip
    nodes = [helper.make_node("Exp", ["x"], ["v"]), branches(inner, one("Add", "v", "w"))]
    graph = read_onnx(make(nodes, ["x", COND], weights={"w": np.ones(3, np.float32)}))
    assert_sound(graph)
    then, orelse = graph.nodes[-1].attrs["then"], graph.nodes[-1].attrs["orelse"]
    assert [node.op for node in then.nodes] == ["Neg", "Add"]
    assert [array.reshape(-1)[0] for array in then.constants.values()] == [7]
    assert [array.reshape(-1)[0] for array in orelse.constants.values()] == [1]


def test_a_loop_in_a_function_sees_its_values_and_attributes() -> None:
    inside = body(
        [
            helper.make_node("LeakyRelu", ["s"], ["t"]),
            helper.make_node("Add", ["t", "a"], ["n"]),
            helper.make_node("Identity", ["more"], ["again"]),
        ],
        [info("i", (), INT64), info("more", (), BOOL), "s"],
        [info("again", (), BOOL), "n", "t"],
    )
    ref = inside.node[0].attribute.add()
    ref.name, ref.ref_attr_name, ref.type = "alpha", "slope", onnx.AttributeProto.FLOAT
    loop = helper.make_node("Loop", ["k", "", "a"], ["", "ys"], body=inside)
    opset = helper.make_opsetid("", 17)
    function = helper.make_function("own", "F", ["a", "k"], ["ys"], [loop], [opset], ["slope"])
    calls = [
        helper.make_node("F", ["x", "three"], ["u"], domain="own", slope=0.5),
        helper.make_node("F", ["u", "three"], ["y"], domain="own", slope=0.25),
    ]
    graph = read_onnx(
        make(calls, functions=[function], imports=[helper.make_opsetid("own", 1)], weights={"three": np.array(3)})
    )
    assert_sound(graph)
    first, second = graph.nodes
    assert (first.inputs[0], first.inputs[1:], first.attrs["states"]) == ("three", ("", "x", "x"), 1)
    assert second.inputs[2:] == (first.outputs[1],) * 2
    assert [node.attrs["body"].nodes[0].attrs["alpha"] for node in (first, second)] == [0.5, 0.25]


@pytest.mark.parametrize(
    ("nodes", "error", "message"),
    [
        ([branches(one("Neg", "nowhere"), one("Abs", "x"))], ModelFormatError, "'nowhere', which nothing defines"),
        ([branches(one("Neg", "y"), one("Abs", "x"))], ModelFormatError, "cycle"),
        ([branches(body([helper.make_node("Neg", ["out"], ["out"])], [], ["out"]), one("Abs", "x"))],
         ModelFormatError, "cycle"),
        ([branches(one("Neg", "x"), body([], [], []))], ModelFormatError, "0 outputs"),
        ([branches(body([], ["a"], ["a"]), one("Abs", "x"))], ModelFormatError, "1 inputs"),
        ([helper.make_node("If", ["c"], ["y"], then_branch=one("Neg", "x"))], ModelFormatError, "lacks attribute"),
        ([helper.make_node("If", ["c"], ["y"], then_branch=3, else_branch=4)], ModelFormatError, "of type INT"),
        ([helper.make_node("Neg", ["x"], ["y"], extra=one("Neg", "x"))], UnsupportedModelError, "not an attribute"),
        ([branches(one("Neg", "x"), body([*one("Neg", "x").node, *one("Abs", "x").node], [], ["out"]))],
         ModelFormatError, "defined twice"),
        ([branches(one("Neg", "x"), repeated(20))], UnsupportedModelError, "deep"),
        ([helper.make_node("Loop", ["", ""], ["y"], body=body([], ["i"], ["i"]))], ModelFormatError, "1 inputs"),
        ([helper.make_node("Scan", ["x"], ["y"], num_scan_inputs=2, body=one("Neg", "x"))],
         ModelFormatError, "1 inputs"),
        ([helper.make_node("Scan", ["x"], ["y"], num_scan_inputs=1, scan_input_axes=[0, 1],
                           body=body([helper.make_node("Neg", ["a"], ["b"])], ["a"], ["b"]))],
         ModelFormatError, "2 entries"),
        ([branches(body([], ["a", "a"], ["a"]), one("Abs", "x"))], ModelFormatError, "twice"),
    ],
)  # fmt: skip
def test_bodies_that_are_no_bodies(nodes: list[Any], error: type[GatestepError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        read_onnx(make(nodes, ["x", COND]), name="model.onnx")
    assert "model.onnx" in str(caught.value)


def test_functions_that_call_themselves_through_bodies() -> None:
    call = helper.make_node("F", ["a", "c"], ["out"], domain="own")
    node = helper.make_node("If", ["c"], ["b"], then_branch=body([call], [], ["out"]), else_branch=one("Neg", "a"))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    function = helper.make_function("own", "F", ["a", "c"], ["b"], [node], opsets)
    model = make([helper.make_node("F", ["x", "c"], ["y"], domain="own")], ["x", COND], functions=[function],
                 imports=[opsets[1]])  # fmt: skip
    with pytest.raises(ModelFormatError, match="too deeply, or in a circle"):
        read_onnx(model)
