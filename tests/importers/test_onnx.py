"""ONNX files into graphs: forms and defaults, operator-set boundaries, ports, cuts, messages, hostile files."""

from __future__ import annotations

import itertools
import json
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from gatestep.engine.errors import GatestepError, ModelFormatError, UnsupportedModelError  # noqa: E402
from gatestep.engine.graph import Graph  # noqa: E402
from gatestep.importers.onnx import read_onnx, reader  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

F32, I64 = np.dtype(np.float32), np.dtype(np.int64)
CASES = Path(os.environ.get("GATESTEP_MODELS", Path(__file__).resolve().parents[3] / "shared" / "models"))


def info(name: str, shape: Sequence[Any] | None = (2, 3), dtype: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, dtype, shape)


def make(
    nodes: Sequence[Any],
    inputs: Sequence[Any] = ("x",),
    outputs: Sequence[Any] = ("y",),
    *,
    opset: int = 17,
    ir: int = 8,
    weights: dict[str, Any] | None = None,
    functions: Sequence[Any] = (),
    imports: Sequence[Any] = (),
    value_info: Sequence[Any] = (),
) -> Any:
    """A model; inputs and outputs given by name are float32 of shape (2, 3)."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [info(i) if isinstance(i, str) else i for i in inputs],
        [info(o) if isinstance(o, str) else o for o in outputs],
        [
            array if isinstance(array, TensorProto) else numpy_helper.from_array(np.asarray(array), name)
            for name, array in (weights or {}).items()
        ],
        value_info=list(value_info),
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset), *imports],
        ir_version=ir,
        functions=list(functions),
    )


def plain(graph: Graph) -> list[tuple[Any, ...]]:
    """The nodes of a graph as (op, inputs, outputs, attributes); constants made on the way appear as lists."""
    inputs = {port.name for port in graph.inputs}
    values = {}
    for name, array in graph.constants.items():
        values[name] = name if not name.startswith("\0") else array.tolist()

    def show(name: str) -> Any:
        assert not name or name in inputs or name in values or any(name in node.outputs for node in graph.nodes)
        return values.get(name, name.lstrip("\0"))

    return [(n.op, [show(i) for i in n.inputs], [o.lstrip("\0") for o in n.outputs], n.attrs) for n in graph.nodes]


def one(op: str, inputs: Sequence[str] = ("x",), outputs: Sequence[str] = ("y",), opset: int = 17, **attrs: Any) -> Any:
    """What a model of one node becomes. Inputs other than "x" are model inputs as well."""
    names = list(dict.fromkeys(i for i in inputs if i))
    model = make([helper.make_node(op, inputs, outputs, name="n", **attrs)], names, outputs[:1], opset=opset, ir=8)
    return plain(read_onnx(model))


# ---------------------------------------------------------------------- one form per operator
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


# ---------------------------------------------------------------------- recurrent operators
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def recurrent(
    op: str, opset: int = 17, inputs: Sequence[str] = (), outputs: Sequence[str] = ("y",), hidden: int = 2, **attrs: Any
) -> Graph:
    """One recurrent node of 3 inputs, with the weights that its direction asks for."""
    directions = 2 if attrs.get("direction") == "bidirectional" else 1
    g = GATES[op]
    weights = {
        "w": np.zeros((directions, g * hidden, 3), np.float32),
        "r": np.zeros((directions, g * hidden, hidden), np.float32),
    }
    node = helper.make_node(op, ["x", "w", "r", *inputs], outputs, name="cell", **attrs)
    ports = [info("x", ("T", "B", 3))]
    for name in filter(None, inputs):
        ports.append(info(name, None, TensorProto.INT32 if name == "lengths" else TensorProto.FLOAT))
    return read_onnx(make([node], ports, [info(o, None) for o in outputs if o], opset=opset, weights=weights))


def test_recurrent_defaults() -> None:
    sigmoid, tanh = ("Sigmoid", 0.0, 0.0), ("Tanh", 0.0, 0.0)
    common = {"hidden_size": 2, "direction": "forward", "clip": None}
    assert plain(recurrent("LSTM")) == [
        (
            "LSTM",
            ["x", "w", "r", "", "", "", "", "", ""],
            ["y", "", ""],
            {**common, "gates": "iofc", "activations": (sigmoid, tanh, tanh), "coupled": ""},
        )
    ]
    assert plain(recurrent("GRU")) == [
        (
            "GRU",
            ["x", "w", "r", "", "", ""],
            ["y", ""],
            {**common, "gates": "zrh", "activations": (sigmoid, tanh), "linear_before_reset": False},
        )
    ]
    assert plain(recurrent("RNN")) == [
        ("RNN", ["x", "w", "r", "", "", ""], ["y", ""], {**common, "gates": "h", "activations": (tanh,)})
    ]


def test_recurrent_inputs_and_outputs() -> None:
    ((_, inputs, outputs, _),) = plain(
        recurrent("LSTM", inputs=["b", "lengths", "h0", "c0", "p"], outputs=["", "hn", "cn"])
    )
    assert inputs == ["x", "w", "r", "b", "lengths", "h0", "c0", "p", ""]
    assert outputs == ["", "hn", "cn"]
    ((_, inputs, outputs, _),) = plain(recurrent("GRU", inputs=["", "", "h0"], outputs=["y", "hn"]))
    assert inputs == ["x", "w", "r", "", "", "h0"]
    assert outputs == ["y", "hn"]


def test_recurrent_attributes() -> None:
    (node,) = recurrent("LSTM", input_forget=1, clip=2.5, direction="reverse", hidden_size=2).nodes
    assert (node.attrs["coupled"], node.attrs["clip"], node.attrs["direction"]) == ("f=1-i", 2.5, "reverse")
    (node,) = recurrent("GRU", linear_before_reset=1, direction="bidirectional").nodes
    assert node.attrs["linear_before_reset"] is True
    assert len(node.attrs["activations"]) == 4
    assert recurrent("RNN", clip=float("inf")).nodes[0].attrs["clip"] is None


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_layout_1_is_transposes(op: str) -> None:
    outputs = ["y", "hn", "cn"][: 3 if op == "LSTM" else 2]
    states = ["h0", "c0"][: len(outputs) - 1]
    nodes = plain(recurrent(op, 14, ["", "", *states], outputs, layout=1))
    before = [("Transpose", [name], {"perm": (1, 0, 2)}) for name in ("x", *states)]
    assert [(n[0], n[1], n[3]) for n in nodes[: len(before)]] == before
    cell = nodes[len(before)]
    made = [n[2][0] for n in nodes[: len(before)]]
    assert (cell[1][0], cell[1][5]) == (made[0], made[1])
    if op == "LSTM":
        assert cell[1][6] == made[2]
    after = [("Transpose", [cell[2][k]], [name], (1, 0, 2) if k else (2, 0, 1, 3)) for k, name in enumerate(outputs)]
    assert [(n[0], n[1], n[2], n[3]["perm"]) for n in nodes[len(before) + 1 :]] == after
    assert [n[0] for n in plain(recurrent(op, 14, ["", "", *states], outputs, layout=0))] == [op]


def test_layout_1_without_states_or_sequence() -> None:
    nodes = plain(recurrent("LSTM", 14, outputs=["", "hn"], layout=1))
    assert [n[0] for n in nodes] == ["Transpose", "LSTM", "Transpose"]
    assert nodes[1][2] == ["", nodes[2][1][0], ""]
    assert nodes[2][2] == ["hn"]


def single(value: float) -> float:
    return float(np.float32(value))


@pytest.mark.parametrize(
    ("op", "direction", "names", "alpha", "beta", "expected"),
    [
        # each takes the next alpha and beta only if it has one
        ("RNN", "bidirectional", ["HardSigmoid", "Tanh"], [0.25], [0.5], [("HardSigmoid", 0.25, 0.5), ("Tanh", 0, 0)]),
        ("RNN", "bidirectional", ["Tanh", "Affine"], [0.25], [2], [("Tanh", 0, 0), ("Affine", 0.25, 2)]),
        ("RNN", "forward", ["HardSigmoid"], [], [], [("HardSigmoid", single(0.2), 0.5)]),
        ("RNN", "forward", ["LeakyRelu"], None, None, [("LeakyRelu", single(0.01), 0)]),
        ("RNN", "forward", ["LeakyRelu"], [0.5, 9.0], [7.0], [("LeakyRelu", 0.5, 0)]),
        ("RNN", "forward", ["Relu", "Tanh"], None, None, [("Relu", 0, 0)]),
        ("RNN", "forward", ["scaledtanh"], [2], None, [("ScaledTanh", 2, 1)]),
        ("GRU", "forward", ["THRESHOLDEDRELU", "elu"], [0.5], None, [("ThresholdedRelu", 0.5, 0), ("Elu", 1, 0)]),
        (
            "GRU",
            "bidirectional",
            ["LeakyRelu", "Tanh", "Sigmoid", "ScaledTanh"],
            [0.5, 2.0],
            [2.0],
            [("LeakyRelu", 0.5, 0), ("Tanh", 0, 0), ("Sigmoid", 0, 0), ("ScaledTanh", 2, 2)],
        ),
        (
            "LSTM",
            "forward",
            ["Softsign", "Softplus", "Affine"],
            None,
            None,
            [("Softsign", 0, 0), ("Softplus", 0, 0), ("Affine", 1, 0)],
        ),
    ],
)
def test_activations(op: str, direction: str, names: Any, alpha: Any, beta: Any, expected: Any) -> None:
    given = {"activation_alpha": alpha, "activation_beta": beta}
    attrs = {name: [float(value) for value in values] for name, values in given.items() if values}
    (node,) = recurrent(op, direction=direction, activations=names, **attrs).nodes
    assert node.attrs["activations"] == tuple(expected)


def test_hidden_size_may_be_left_out() -> None:
    assert recurrent("GRU", hidden=5).nodes[0].attrs["hidden_size"] == 5
    shapes = [info("x", None), info("w", (1, 12, None)), info("r", None)]
    model = make([helper.make_node("LSTM", ["x", "w", "r"], ["y"])], shapes)
    assert read_onnx(model).nodes[0].attrs["hidden_size"] == 3


# ---------------------------------------------------------------------- what is refused, and how it is said
def refused(error: type[Exception], match: str, run: Callable[[], object]) -> Any:
    with pytest.raises(error, match=match) as caught:
        run()
    assert "<ModelProto>" in str(caught.value)
    return caught.value


def test_unknown_operator_names_all() -> None:
    node = helper.make_node("FusedConv", ["x"], ["y"], name="front/conv", domain="com.microsoft")
    model = make([node], imports=[helper.make_opsetid("com.microsoft", 1)])
    with pytest.raises(UnsupportedModelError) as caught:
        read_onnx(model, name="speech.onnx")
    error = caught.value
    assert (error.source, error.node) == ("speech.onnx", "FusedConv 'front/conv'")
    for part in ("speech.onnx", "FusedConv 'front/conv'", "com.microsoft", "inputs=", "outputs="):
        assert part in str(error)


@pytest.mark.parametrize(
    ("op", "opset", "attrs", "name", "value"),
    [
        ("LSTM", 13, {"layout": 1}, "layout", 1),
        ("LSTM", 14, {"direction": "sideways"}, "direction", "sideways"),
        ("GRU", 14, {"output_sequence": 1}, "output_sequence", 1),
        ("RNN", 14, {"activations": ["Foo"]}, "activations", "Foo"),
        ("LSTM", 14, {"activations": ["Sigmoid", "Tanh"]}, "activations", ["Sigmoid", "Tanh"]),
        ("LSTM", 14, {"clip": -1.0}, "clip", -1.0),
        ("GRU", 14, {"input_forget": 1}, "input_forget", 1),
    ],
)
def test_recurrent_refusals(op: str, opset: int, attrs: dict[str, Any], name: str, value: Any) -> None:
    error = refused(UnsupportedModelError, name, lambda: recurrent(op, opset, **attrs))
    assert (error.node, error.attribute, error.value) == (f"{op} 'cell'", name, value)


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


@pytest.mark.parametrize(
    ("op", "shapes", "match"),
    [
        ("LSTM", {"w": (1, 12, 2), "r": (1, 8, 2)}, r"input W has shape \(1, 12, 2\).*\(1, 8, any\)"),
        ("LSTM", {"w": (1, 8, 2), "r": (1, 8, 3)}, "input R"),
        ("GRU", {"w": (2, 6, 2), "r": (1, 6, 2)}, "input W"),
        ("RNN", {"w": (1, 2), "r": (1, 2, 2)}, "input W"),
        ("RNN", {"w": (1, 2, 2), "r": (1, 2, 2), "b": (1, 2)}, "input B"),
    ],
)
def test_weights_that_do_not_fit(op: str, shapes: dict[str, Any], match: str) -> None:
    weights = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    node = helper.make_node(op, ["x", *weights], ["y"], hidden_size=2)
    refused(ModelFormatError, match, lambda: read_onnx(make([node], weights=weights)))


def test_sequence_lens_are_int32() -> None:
    node = helper.make_node("RNN", ["x", "w", "r", "", "lens"], ["y"], hidden_size=2)
    weights = {
        "w": np.zeros((1, 2, 3), np.float32),
        "r": np.zeros((1, 2, 2), np.float32),
        "lens": np.zeros(1, np.int64),
    }
    refused(ModelFormatError, "sequence_lens is int64", lambda: read_onnx(make([node], weights=weights)))


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


# ---------------------------------------------------------------------- ports, cuts
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


# ---------------------------------------------------------------------- weights
DTYPES = ["f4", "f8", "f2", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "c8", "c16"]


def weight(tensor: Any, **arguments: Any) -> np.ndarray:
    """What a tensor becomes when it is a weight."""
    tensor.name = "w"
    model = make([helper.make_node("Add", ["x", "w"], ["y"])], weights={"w": tensor})
    return read_onnx(model, **arguments).constants["w"]


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("code", DTYPES)
def test_weights(code: str, raw: bool) -> None:
    values = np.arange(-3, 3).reshape(2, 1, 3).astype(code)
    kind = helper.np_dtype_to_tensor_dtype(values.dtype)
    got = weight(helper.make_tensor("w", kind, values.shape, values.tobytes() if raw else values, raw=raw))
    assert got.dtype == values.dtype
    np.testing.assert_array_equal(got, values)


@pytest.mark.parametrize("raw", [True, False])
def test_bfloat16_becomes_float32(raw: bool) -> None:
    values = np.array([0, 1.5, -2, 3.0e38, np.inf, np.nan], np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    tensor = TensorProto(data_type=TensorProto.BFLOAT16, dims=[6])
    if raw:
        tensor.raw_data = bits.tobytes()
    else:
        tensor.int32_data.extend(bits.tolist())
    got = weight(tensor)
    assert got.dtype == F32
    np.testing.assert_array_equal(got, (bits.astype(np.uint32) << 16).view(np.float32))


def test_bool_bytes_other_than_one() -> None:
    got = weight(TensorProto(data_type=TensorProto.BOOL, dims=[3], raw_data=b"\x00\x01\x7f"))
    assert got.view(np.uint8).tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"dims": [3], "raw_data": b"1234"}, "is 12 bytes by its shape.*4 bytes are there"),
        ({"dims": [2**40, 2**40], "raw_data": b""}, "impossible shape"),
        ({"dims": [2**31, 2**31], "raw_data": b""}, "impossible shape"),
        ({"dims": [2**31], "raw_data": b"1234"}, "8589934592 bytes"),
        ({"dims": [0, 2**62]}, "impossible shape"),
        ({"dims": [-1], "raw_data": b""}, "negative size"),
        ({"dims": [1] * 65, "raw_data": b"1234"}, "65 axes"),
        ({"dims": [2], "float_data": [1.0]}, "1 values in float_data"),
        ({"dims": [1], "int32_data": [1]}, "0 values in float_data|1 values"),
        ({"dims": [1], "float_data": [1.0], "raw_data": b"1234"}, "its data twice"),
        ({"dims": [1], "int32_data": [256], "data_type": TensorProto.UINT8}, "do not fit"),
        ({"dims": [1], "raw_data": b"1234", "data_type": 0}, "no data type"),
    ],
)
def test_weights_whose_sizes_lie(fields: dict[str, Any], match: str) -> None:
    refused(ModelFormatError, match, lambda: weight(TensorProto(**{"data_type": TensorProto.FLOAT, **fields})))


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"data_type": TensorProto.STRING, "string_data": [b"a"]}, "data type STRING"),
        ({"data_type": TensorProto.INT4, "raw_data": b"1"}, "data type INT4"),
        ({"data_type": 999, "raw_data": b"1"}, "data type number 999"),
        ({"data_type": TensorProto.FLOAT, "segment": TensorProto.Segment(begin=0, end=1)}, "segments"),
    ],
)
def test_weights_that_are_not_supported(fields: dict[str, Any], match: str) -> None:
    refused(UnsupportedModelError, match, lambda: weight(TensorProto(dims=[1], **fields)))


def test_sparse_weights_are_refused_where_used() -> None:
    model = make([helper.make_node("Add", ["x", "w"], ["y"])])
    values = numpy_helper.from_array(np.ones(1, np.float32), "w")
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, numpy_helper.from_array(np.zeros(1, np.int64)), [3])
    )
    refused(UnsupportedModelError, "initializer 'w' is sparse", lambda: read_onnx(model))
    model.graph.node[0].input[1] = "x"
    assert not read_onnx(model).constants


# ---------------------------------------------------------------------- external data
def external(folder: Path, entries: dict[str, Any], content: bytes = b"", dims: Sequence[int] = (3,)) -> Path:
    """A model whose weight lies outside, and w.bin next to it."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    model = make([helper.make_node("Add", ["x", "w"], ["y"])], weights={"w": tensor})
    (folder / "w.bin").write_bytes(content)
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


THREE = np.array([1, 2, 3], np.float32)


@pytest.mark.parametrize(
    ("entries", "content"),
    [
        ({"location": "w.bin"}, THREE.tobytes()),
        ({"location": "./w.bin", "offset": 4, "length": 12}, b"1234" + THREE.tobytes() + b"5678"),
    ],
)
def test_external_data(tmp_path: Path, entries: dict[str, Any], content: bytes) -> None:
    got = read_onnx(external(tmp_path, entries, content)).constants["w"]
    np.testing.assert_array_equal(got, THREE)


def test_external_data_by_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    external(tmp_path, {"location": "w.bin"}, THREE.tobytes())
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(read_onnx("m.onnx").constants["w"], THREE)


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ({"location": "../w.bin"}, "outside the model's folder"),
        ({"location": "sub/../../w.bin"}, "outside the model's folder"),
        ({"location": "/etc/passwd"}, "outside the model's folder"),
        ({"location": "C:\\w.bin"}, "outside the model's folder"),
        ({"location": "..\\w.bin"}, "outside the model's folder"),
        ({"location": "link.bin"}, "outside the model's folder.*is a link"),
        ({"location": "links/w.bin"}, "outside the model's folder.*is a link"),
        ({"location": "none.bin"}, "not next to the model"),
        ({"location": "."}, "not a regular file"),
        ({"location": "pipe"}, "not a regular file"),
        ({}, "without a location"),
        ({"location": "w.bin", "offset": 4}, "ends at byte 16 of 'w.bin', which has 12 bytes"),
        ({"location": "w.bin", "offset": -4}, "offset '-4'"),
        ({"location": "w.bin", "offset": "9" * 5000}, "offset '999"),
        ({"location": "w.bin", "length": 8}, "claims 8"),
    ],
)
def test_external_data_that_is_refused(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, entries: dict[str, Any], match: str
) -> None:
    path = external(tmp_path, entries, THREE.tobytes())
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "w.bin").write_bytes(THREE.tobytes())
    (tmp_path / "link.bin").symlink_to(elsewhere / "w.bin")
    (tmp_path / "links").symlink_to(elsewhere)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFormatError, match=match):
        read_onnx(path)


def test_external_data_that_claims_much_is_not_allocated(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match="which has 4 bytes"):
        read_onnx(external(tmp_path, {"location": "w.bin"}, b"1234", dims=[2**40]))


def test_external_data_is_not_taken_twice(tmp_path: Path) -> None:
    path = external(tmp_path, {"location": "w.bin"}, THREE.tobytes())
    model = onnx.load(path, load_external_data=False)
    same, shifted = TensorProto(), TensorProto()
    for tensor, name in ((same, "v"), (shifted, "u")):
        tensor.CopyFrom(model.graph.initializer[0])
        tensor.name = name
        model.graph.initializer.append(tensor)
    model.graph.node[0].CopyFrom(helper.make_node("Sum", ["x", "w", "v"], ["y"]))
    path.write_bytes(model.SerializeToString())
    assert set(read_onnx(path).constants) == {"w", "v"}  # tied weights are fine
    shifted.dims[:] = [2]
    shifted.external_data.add(key="offset", value="4")
    model.graph.initializer[2].CopyFrom(shifted)
    model.graph.node[0].input.append("u")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFormatError, match="overlaps"):
        read_onnx(path)


def test_external_data_needs_a_folder(tmp_path: Path) -> None:
    path = external(tmp_path, {"location": "w.bin"}, THREE.tobytes())
    with pytest.raises(UnsupportedModelError, match="Give the path"):
        read_onnx(path.read_bytes())


# ---------------------------------------------------------------------- the file's own functions
def function_model(nodes: Sequence[Any], functions: Sequence[Any], **options: Any) -> Any:
    return make(nodes, functions=functions, imports=[helper.make_opsetid("own", 1)], **options)


def own(name: str, inputs: Sequence[str], outputs: Sequence[str], nodes: Sequence[Any], **options: Any) -> Any:
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_function("own", name, inputs, outputs, nodes, imports, **options)


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


# ---------------------------------------------------------------------- the shared cases, whole and damaged
def onnx_cases() -> list[Any]:
    manifest = CASES / "manifest.json"
    if not manifest.is_file():
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"no shared cases at {CASES}"))]
    cases = json.loads(manifest.read_text())["cases"]
    return [pytest.param(case, id=case["name"]) for case in cases if case["format"] == "onnx"]


#: Operators of the shared cases that have no translation yet.
NOT_YET = {"Loop", "Scan"}
#: Cases that must fail and do so here; others fail on the values that they are given.
REFUSED = {
    "ort/lstm_MismatchedWeightShapeIsRejected_0": "input W has shape",
    "ort/rnn_RNN_with_invalid_activation_load_failure_0": "Invalid_activation",
}


@pytest.mark.parametrize("case", onnx_cases())
def test_shared_case(case: dict[str, Any]) -> None:
    path = CASES / case["file"]
    if case["name"] in REFUSED:
        with pytest.raises(GatestepError, match=REFUSED[case["name"]]) as refusal:
            read_onnx(path)
        assert str(path) in str(refusal.value)
        return
    if missing := NOT_YET & set(case["ops"]):
        with pytest.raises(UnsupportedModelError) as caught:
            read_onnx(path)
        assert caught.value.node is not None
        assert caught.value.node.split()[0] in missing
        return
    graph = read_onnx(path)
    if case["expect"] == "ok":
        assert [port.name for port in graph.inputs] == list(case["inputs"])
        assert [port.name for port in graph.outputs] == list(case["outputs"])
    known = {port.name for port in graph.inputs} | graph.constants.keys()
    for node in graph.nodes:
        assert known.issuperset(filter(None, node.inputs)), node
        made = set(filter(None, node.outputs))
        assert known.isdisjoint(made), node
        known |= made
    assert known.issuperset(port.name for port in graph.outputs)


def small_models() -> list[bytes]:
    """Small models that use much of the format."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((1, 8, 3)).astype(np.float32),
        "r": helper.make_tensor("r", TensorProto.FLOAT, (1, 8, 2), rng.standard_normal(16)),
        "axes": np.array([1]),
    }
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r", "", "", "h0"], ["a", "hn"], name="cell", hidden_size=2, clip=3.0),
        helper.make_node("Squeeze", ["a", "axes"], ["b"]),
        helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.float32([2]))),
        helper.make_node("Twice", ["b", "k"], ["c"], domain="own"),
        helper.make_node("Split", ["c"], ["d", "e"], axis=2),
        helper.make_node("Concat", ["e", "d"], ["y"], axis=-1),
    ]
    body = [helper.make_node("Mul", ["p", "q"], ["t"]), helper.make_node("LeakyRelu", ["t"], ["u"], alpha=0.5)]
    inputs = [info("x", ("T", 1, 3)), info("h0", (1, 1, 2))]
    model = function_model(
        nodes, [own("Twice", ["p", "q"], ["u"], body)], inputs=inputs, outputs=["y", "hn"], weights=weights
    )
    plumbing = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Slice", ["s", "i", "j"], ["n"]),
        helper.make_node("ConstantOfShape", ["n"], ["z"], value=numpy_helper.from_array(np.float32([1]))),
        helper.make_node("Cast", ["z"], ["f"], to=TensorProto.DOUBLE),
        helper.make_node("Gemm", ["x", "g"], ["y"], transB=1),
        helper.make_node("Identity", ["f"], ["v"]),
    ]
    other = make(plumbing, outputs=["y", "v"], weights={"i": [0], "j": [1], "g": np.ones((4, 3), np.float32)})
    return [model.SerializeToString(), other.SerializeToString()]


def outcome(data: bytes) -> Graph | None:
    """Only our own errors may come out; everything else fails the test."""
    try:
        return read_onnx(data)
    except (ModelFormatError, UnsupportedModelError):
        return None


@pytest.mark.parametrize("data", small_models(), ids=["lstm", "plumbing"])
def test_cut_short_anywhere(data: bytes) -> None:
    assert outcome(data) is not None
    for end in range(len(data)):
        outcome(data[:end])


@pytest.mark.parametrize("data", small_models(), ids=["lstm", "plumbing"])
def test_any_bit_flipped(data: bytes) -> None:
    for k in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[k] ^= 1 << bit
            outcome(bytes(damaged))


@pytest.mark.parametrize("data", small_models(), ids=["lstm", "plumbing"])
def test_bytes_shuffled(data: bytes) -> None:
    rng = random.Random(1)
    for _ in range(2000):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            choice, k = rng.randrange(4), rng.randrange(len(damaged))
            if choice == 0:
                damaged[k] = rng.randrange(256)
            elif choice == 1:
                damaged[k:k] = damaged[rng.randrange(len(damaged)) :][: rng.randrange(40)]
            elif choice == 2:
                del damaged[k : k + rng.randrange(1, 20)]
            else:
                damaged[k : k + 9] = b"\xff" * 8 + b"\x7f"
        outcome(bytes(damaged))
