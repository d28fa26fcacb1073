"""LSTM, GRU and RNN of ONNX files: defaults, layouts, activations, what does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from gatestep.engine.errors import ModelFormatError, UnsupportedModelError  # noqa: E402
from gatestep.engine.graph import Graph  # noqa: E402
from gatestep.importers.onnx import read_onnx  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402
from onnx_models import info, make, plain, refused  # noqa: E402

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


# ---------------------------------------------------------------------- what is refused
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
