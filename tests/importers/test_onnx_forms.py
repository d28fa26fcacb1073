"""Each operator set's form of an operator becomes the graph's one form, or is refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from gatestep.engine.errors import ModelFormatError, UnsupportedModelError  # noqa: E402
from gatestep.importers.onnx import read_onnx  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx_models import F32, I64, info, make, one, plain, refused  # noqa: E402

FORMS = [
    # op, operator set, inputs, attributes in the file -> inputs and attributes in the graph
    ("Squeeze", 12, ["x"], {"axes": [0, 2]}, ["x", [0, 2]], {}),
    ("Squeeze", 12, ["x"], {}, ["x", ""], {}),
    ("Squeeze", 13, ["x", "a"], {}, ["x", "a"], {}),
    ("Squeeze", 13, ["x"], {}, ["x", ""], {}),
    ("Unsqueeze", 12, ["x"], {"axes": [-1]}, ["x", [-1]], {}),
    ("Unsqueeze", 13, ["x", "a"], {}, ["x", "a"], {}),
    ("Reshape", 13, ["x", "a"], {}, ["x", "a"], {"allowzero": False}),
    ("Reshape", 14, ["x", "a"], {"allowzero": 1}, ["x", "a"], {"allowzero": True}),
    ("Slice", 9, ["x"], {"starts": [1], "ends": [-1], "axes": [0]}, ["x", [1], [-1], [0], ""], {}),
    ("Slice", 9, ["x"], {"starts": [1, 0], "ends": [2, 9]}, ["x", [1, 0], [2, 9], "", ""], {}),
    ("Slice", 10, ["x", "a", "b"], {}, ["x", "a", "b", "", ""], {}),
    ("Slice", 13, ["x", "a", "b", "", "c"], {}, ["x", "a", "b", "", "c"], {}),
    ("Clip", 10, ["x"], {"min": 0.0}, ["x", 0.0, ""], {}),
    ("Clip", 10, ["x"], {}, ["x", "", ""], {}),
    ("Clip", 11, ["x", "", "a"], {}, ["x", "", "a"], {}),
    ("ReduceSum", 12, ["x"], {"axes": [1]}, ["x", [1]], {"keepdims": True, "noop_with_empty_axes": False}),
    (
        "ReduceSum",
        13,
        ["x", "a"],
        {"keepdims": 0, "noop_with_empty_axes": 1},
        ["x", "a"],
        {"keepdims": False, "noop_with_empty_axes": True},
    ),
    ("ReduceMean", 17, ["x"], {"keepdims": 0}, ["x", ""], {"keepdims": False, "noop_with_empty_axes": False}),
    ("ReduceMean", 18, ["x"], {}, ["x", ""], {"keepdims": True, "noop_with_empty_axes": False}),
    ("Softmax", 12, ["x"], {}, ["x"], {"axis": 1, "trailing": True}),
    ("Softmax", 13, ["x"], {}, ["x"], {"axis": -1, "trailing": False}),
    ("LogSoftmax", 12, ["x"], {"axis": 2}, ["x"], {"axis": 2, "trailing": True}),
    ("LogSoftmax", 13, ["x"], {"axis": 0}, ["x"], {"axis": 0, "trailing": False}),
    ("Transpose", 13, ["x"], {}, ["x"], {"perm": None}),
    ("Transpose", 13, ["x"], {"perm": [1, 0]}, ["x"], {"perm": (1, 0)}),
    ("Flatten", 13, ["x"], {}, ["x"], {"axis": 1}),
    ("Concat", 13, ["x", "a", "x"], {"axis": -1}, ["x", "a", "x"], {"axis": -1}),
    ("Gather", 13, ["x", "a"], {}, ["x", "a"], {"axis": 0}),
    ("Shape", 13, ["x"], {}, ["x"], {"start": 0, "end": None}),
    ("Shape", 15, ["x"], {"start": -2, "end": 3}, ["x"], {"start": -2, "end": 3}),
    ("Size", 13, ["x"], {}, ["x"], {}),
    ("Expand", 8, ["x", "a"], {}, ["x", "a"], {}),
    ("Tile", 7, ["x", "a"], {}, ["x", "a"], {}),
    ("Range", 11, ["x", "a", "b"], {}, ["x", "a", "b"], {}),
    ("Range", 27, ["x", "a", "b"], {"stash_type": 1}, ["x", "a", "b"], {}),
    ("Where", 9, ["a", "x", "b"], {}, ["a", "x", "b"], {}),
    ("Cast", 13, ["x"], {"to": TensorProto.INT64}, ["x"], {"to": I64}),
    ("Cast", 13, ["x"], {"to": TensorProto.BFLOAT16}, ["x"], {"to": F32}),
    ("Cast", 24, ["x"], {"to": TensorProto.BOOL, "saturate": 0, "round_mode": "down"}, ["x"], {"to": np.dtype(bool)}),
    ("Gemm", 7, ["x", "a", "b"], {}, ["x", "a", "b"], {"alpha": 1.0, "beta": 1.0, "transA": False, "transB": False}),
    (
        "Gemm",
        11,
        ["x", "a"],
        {"alpha": 0.5, "transB": 1},
        ["x", "a", ""],
        {"alpha": 0.5, "beta": 1.0, "transA": False, "transB": True},
    ),
    ("MatMul", 9, ["x", "a"], {}, ["x", "a"], {}),
    ("LeakyRelu", 16, ["x"], {}, ["x"], {"alpha": float(np.float32(0.01))}),
    ("Elu", 7, ["x"], {"alpha": 0.5}, ["x"], {"alpha": 0.5}),
    ("Selu", 7, ["x"], {}, ["x"], {"alpha": float(np.float32(1.6732632)), "gamma": float(np.float32(1.050701))}),
    ("HardSigmoid", 7, ["x"], {}, ["x"], {"alpha": float(np.float32(0.2)), "beta": 0.5}),
    ("ThresholdedRelu", 10, ["x"], {}, ["x"], {"alpha": 1.0}),
    ("Gelu", 20, ["x"], {}, ["x"], {"approximate": "none"}),
    ("Gelu", 20, ["x"], {"approximate": "tanh"}, ["x"], {"approximate": "tanh"}),
    ("PRelu", 9, ["x", "a"], {}, ["x", "a"], {}),
    (
        "LayerNormalization",
        17,
        ["x", "a"],
        {},
        ["x", "a", ""],
        {"axis": -1, "epsilon": float(np.float32(1e-5))},
    ),
    (
        "LayerNormalization",
        17,
        ["x", "a", "b"],
        {"axis": 1, "epsilon": 0.5, "stash_type": 1},
        ["x", "a", "b"],
        {"axis": 1, "epsilon": 0.5},
    ),
    *(
        (op, 13, ["x"], {}, ["x"], {})
        for op in ("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign", "Exp", "Log", "Not")
    ),
    *((op, 13, ["x"], {}, ["x"], {}) for op in ("Sqrt", "Abs", "Neg", "Reciprocal", "Floor", "Ceil", "Erf", "Sign")),
    *((op, 14, ["x", "a"], {}, ["x", "a"], {}) for op in ("Add", "Sub", "Mul", "Div", "Pow", "Equal", "Less", "And")),
    *((op, 14, ["x", "a"], {}, ["x", "a"], {}) for op in ("Greater", "Or", "Min", "Max", "LessOrEqual")),
    ("HardSwish", 14, ["x"], {}, ["x"], {}),
]


@pytest.mark.parametrize(("op", "opset", "inputs", "attrs", "graph_inputs", "graph_attrs"), FORMS)
def test_form(
    op: str, opset: int, inputs: list[str], attrs: dict[str, Any], graph_inputs: list[Any], graph_attrs: dict[str, Any]
) -> None:
    assert one(op, inputs, opset=opset, **attrs) == [(op, graph_inputs, ["y"], graph_attrs)]


@pytest.mark.parametrize(
    ("opset", "inputs", "attrs", "sizes"),
    [
        (12, ["x"], {"split": [2, 1], "axis": 1}, [2, 1]),
        (12, ["x"], {"axis": 1}, ""),
        (13, ["x", "s"], {"axis": 1}, "s"),
        (13, ["x"], {"axis": 1}, ""),
        (18, ["x"], {"axis": 1, "num_outputs": 2}, ""),
    ],
)
def test_split(opset: int, inputs: list[str], attrs: dict[str, Any], sizes: Any) -> None:
    expected = [("Split", ["x", sizes], ["y", "z"], {"axis": 1, "num_outputs": 2})]
    assert one("Split", inputs, ["y", "z"], opset=opset, **attrs) == expected


def test_split_counts_outputs_that_are_left_out() -> None:
    (node,) = one("Split", ["x"], ["y", "", ""], opset=13)
    assert node[2] == ["y", "", ""]
    assert node[3]["num_outputs"] == 3


@pytest.mark.parametrize(
    ("op", "opset", "inputs", "attrs", "expected"),
    [
        ("Max", 8, ["x", "a", "b"], {}, [("Max", ["x", "a"], ["max1"]), ("Max", ["max1", "b"], ["y"])]),
        ("Sum", 8, ["x", "a"], {}, [("Add", ["x", "a"], ["y"])]),
        ("Mean", 8, ["x", "a"], {}, [("Add", ["x", "a"], ["add1"]), ("Div", ["add1", 2.0], ["y"])]),
        ("Swish", 24, ["x"], {}, [("Sigmoid", ["x"], ["sigmoid1"]), ("Mul", ["x", "sigmoid1"], ["y"])]),
        (
            "Swish",
            24,
            ["x"],
            {"alpha": 2.0},
            [("Mul", ["x", 2.0], ["mul2"]), ("Sigmoid", ["mul2"], ["sigmoid3"]), ("Mul", ["x", "sigmoid3"], ["y"])],
        ),
        (
            "Mish",
            18,
            ["x"],
            {},
            [("Softplus", ["x"], ["softplus1"]), ("Tanh", ["softplus1"], ["tanh2"]), ("Mul", ["x", "tanh2"], ["y"])],
        ),
    ],
)
def test_composed(op: str, opset: int, inputs: list[str], attrs: dict[str, Any], expected: list[Any]) -> None:
    assert [node[:3] for node in one(op, inputs, opset=opset, **attrs)] == expected


def test_scalars_have_the_type_of_the_other_operand() -> None:
    x = info("x", (2,), TensorProto.DOUBLE)
    graph = read_onnx(make([helper.make_node("Clip", ["x"], ["y"], min=0.0, max=6.0)], [x], [x_as("y", x)], opset=7))
    assert {array.dtype for array in graph.constants.values()} == {np.dtype(np.float64)}


def x_as(name: str, other: Any) -> Any:
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(other)
    copy.name = name
    return copy


def test_cast_like_takes_the_type_of_its_second_input() -> None:
    nodes = [helper.make_node("Shape", ["x"], ["s"]), helper.make_node("CastLike", ["x", "s"], ["y"])]
    graph = read_onnx(make(nodes, opset=15))
    assert graph.nodes[-1].op == "Cast"
    assert graph.nodes[-1].inputs == ("x",)
    assert graph.nodes[-1].attrs == {"to": I64}


@pytest.mark.parametrize("value", [None, np.array([3], np.int64)])
def test_constant_of_shape(value: np.ndarray | None) -> None:
    attrs = {} if value is None else {"value": numpy_helper.from_array(value)}
    ((_, _, _, got),) = one("ConstantOfShape", ["s"], opset=9, **attrs)
    expected = np.zeros(1, np.float32) if value is None else value
    assert got["value"].dtype == expected.dtype
    np.testing.assert_array_equal(got["value"], expected)


@pytest.mark.parametrize(
    ("attrs", "expected"),
    [
        ({"value": numpy_helper.from_array(np.arange(4, dtype=np.float64))}, np.arange(4.0)),
        ({"value_float": 1.5}, np.float32(1.5)),
        ({"value_floats": [1.5, 2.0]}, np.array([1.5, 2], np.float32)),
        ({"value_int": -3}, np.int64(-3)),
        ({"value_ints": [1, 2]}, np.array([1, 2])),
    ],
)
def test_constants_are_values(attrs: dict[str, Any], expected: Any) -> None:
    nodes = [helper.make_node("Constant", [], ["c"], **attrs), helper.make_node("Add", ["x", "c"], ["y"])]
    graph = read_onnx(make(nodes))
    assert [node.op for node in graph.nodes] == ["Add"]
    got = graph.constants["c"]
    assert (got.shape, got.dtype) == (np.shape(expected), expected.dtype)
    np.testing.assert_array_equal(got, expected)


def test_identity_and_dropout_are_names() -> None:
    nodes = [
        helper.make_node("Identity", ["x"], ["a"]),
        helper.make_node("Dropout", ["a"], ["b", "mask"], ratio=0.3),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Identity", ["c"], ["d"]),
        helper.make_node("Sum", ["d"], ["y"]),
    ]
    graph = read_onnx(make(nodes, opset=11))
    assert plain(graph) == [("Relu", ["x"], ["y"], {})]


def test_dropout_takes_ratio_and_inference_mode() -> None:
    nodes = [
        helper.make_node("Dropout", ["x", "ratio", "mode"], ["d"], seed=3),
        helper.make_node("Relu", ["d"], ["y"]),
    ]
    weights = {"ratio": np.float32(0.5), "mode": np.array(False)}
    graph = read_onnx(make(nodes, weights=weights))
    assert plain(graph) == [("Relu", ["x"], ["y"], {})]
    with pytest.raises(UnsupportedModelError, match="training mode"):
        read_onnx(make(nodes, weights={**weights, "mode": np.array(True)}))
    with pytest.raises(UnsupportedModelError, match="training mode"):
        read_onnx(make(nodes, ["x", info("mode", (), TensorProto.BOOL)], weights={"ratio": np.float32(0.5)}))


def test_outputs_may_be_names_of_anything() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Identity", ["r"], ["made"]),
        helper.make_node("Identity", ["r"], ["made_too"]),
        helper.make_node("Identity", ["x"], ["copied"]),
        helper.make_node("Identity", ["w"], ["weight"]),
    ]
    outputs = ["made", "made_too", "copied", "weight", "w", "x"]
    graph = read_onnx(make(nodes, ["x"], outputs, weights={"w": np.ones(3, np.float32)}))
    assert [port.name for port in graph.outputs] == outputs
    assert plain(graph) == [
        ("Relu", ["x"], ["made"], {}),
        ("Cast", ["made"], ["made_too"], {"to": F32}),
        ("Cast", ["x"], ["copied"], {"to": F32}),
    ]
    np.testing.assert_array_equal(graph.constants["weight"], graph.constants["w"])


def test_nodes_that_no_output_needs_are_left_out() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("NoSuchOperator", ["x"], ["z"])]
    assert plain(read_onnx(make(nodes))) == [("Relu", ["x"], ["y"], {})]


# ---------------------------------------------------------------------- what is refused, and how it is said
def test_unknown_operator_names_all() -> None:
    node = helper.make_node("NhwcFusedConv", ["x"], ["y"], name="front/conv", domain="com.microsoft")
    model = make([node], imports=[helper.make_opsetid("com.microsoft", 1)])
    with pytest.raises(UnsupportedModelError) as caught:
        read_onnx(model, name="speech.onnx")
    error = caught.value
    assert (error.source, error.node) == ("speech.onnx", "NhwcFusedConv 'front/conv'")
    for part in ("speech.onnx", "NhwcFusedConv 'front/conv'", "com.microsoft", "inputs=", "outputs="):
        assert part in str(error)


@pytest.mark.parametrize(
    ("op", "opset", "inputs", "attrs", "name"),
    [
        ("Add", 7, ["x", "a"], {"broadcast": 1, "axis": 0}, "(broadcast|axis)"),
        ("Squeeze", 13, ["x"], {"axes": [0]}, "axes"),
        ("Reshape", 13, ["x", "a"], {"allowzero": 1}, "allowzero"),
        ("Relu", 13, ["x"], {"alpha": 1.0}, "alpha"),
        ("Gelu", 20, ["x"], {"approximate": "erf"}, "approximate"),
        ("LayerNormalization", 17, ["x", "a"], {"stash_type": 16}, "stash_type"),
        ("Cast", 19, ["x"], {"to": TensorProto.FLOAT8E4M3FN}, "FLOAT8E4M3FN"),
        ("Upsample", 9, ["x", "a"], {}, "operator Upsample is not supported"),
    ],
)
def test_unsupported(op: str, opset: int, inputs: list[str], attrs: dict[str, Any], name: str) -> None:
    refused(UnsupportedModelError, name, lambda: one(op, inputs, opset=opset, **attrs))


@pytest.mark.parametrize(
    ("op", "opset", "inputs", "attrs", "match"),
    [
        ("Unsqueeze", 12, ["x"], {}, "lacks attribute axes"),
        ("Concat", 13, ["x"], {}, "lacks attribute axis"),
        ("Concat", 13, ["x", "", "x"], {"axis": 0}, "lacks input 1"),
        ("Add", 13, ["x"], {}, "lacks input 1"),
        ("Add", 13, ["", "x"], {}, "lacks input 0"),
        ("Gemm", 10, ["x", "a"], {}, "lacks input 2"),
        ("Relu", 13, ["x", "a"], {}, "has 2 inputs"),
        ("Flatten", 13, ["x"], {"axis": 1.0}, "axis is of type FLOAT, not INT"),
        ("Transpose", 13, ["x"], {"perm": 1}, "perm is of type INT, not INTS"),
        ("Gemm", 13, ["x", "a"], {"transA": 2}, "transA is 2, not 0 or 1"),
        ("HardSwish", 13, ["x"], {}, "came with operator set 14"),
        ("Slice", 9, ["x"], {"starts": [1], "ends": [1, 2]}, "different lengths"),
        ("Split", 12, ["x"], {"split": [1, 2]}, "2 sizes for 1 outputs"),
        ("Split", 18, ["x"], {"num_outputs": 2}, "num_outputs is 2"),
    ],
)
def test_malformed_nodes(op: str, opset: int, inputs: list[str], attrs: dict[str, Any], match: str) -> None:
    error = refused(ModelFormatError, match, lambda: one(op, inputs, opset=opset, **attrs))
    assert f"{op} 'n'" in str(error)


def test_second_results_are_refused_only_where_used() -> None:
    norm = helper.make_node("LayerNormalization", ["x", "s"], ["y", "mean", "inv"])
    weights = {"s": np.ones(3, np.float32)}
    assert read_onnx(make([norm], weights=weights)).nodes[0].outputs == ("y",)
    refused(UnsupportedModelError, "mean", lambda: read_onnx(make([norm], outputs=["y", "mean"], weights=weights)))
    drop = helper.make_node("Dropout", ["x"], ["y", "mask"])
    refused(UnsupportedModelError, "mask", lambda: read_onnx(make([drop], outputs=["mask"])))
