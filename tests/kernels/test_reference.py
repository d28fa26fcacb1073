"""The float64 cells against what others published: ONNX's node tests, and single operators of other engines' tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from gatestep.kernels import reference
from node_cases import node_cases

_MODELS = Path(__file__).resolve().parents[2].parent / "shared" / "models"
_NEED_ALPHA = {"affine", "leakyrelu", "thresholdedrelu", "scaledtanh", "hardsigmoid", "elu"}
_NEED_BETA = {"affine", "scaledtanh", "hardsigmoid"}
_DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
#: Where ONNX's gates are in our order.
_ORDER = {"LSTM": [0, 2, 3, 1], "GRU": [1, 0, 2], "RNN": [0]}

Arrays = dict[str, np.ndarray[Any, Any]]


def _reordered(a: np.ndarray[Any, Any], order: list[int]) -> np.ndarray[Any, Any]:
    return np.concatenate([np.split(a, len(order))[gate] for gate in order])


def run_node(node: onnx.NodeProto, values: Arrays) -> Arrays:
    """An ONNX recurrent operator through our definitions."""
    attrs = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    given = [values.get(name) if name else None for name in node.input] + [None] * 8
    x, w, r, b, lengths, h0 = given[:6]
    c0, p = given[6:8] if node.op_type == "LSTM" else (None, None)
    assert x is not None
    assert w is not None
    assert r is not None
    batch_first = attrs.get("layout", 0) == 1
    if batch_first:
        x = x.swapaxes(0, 1)
        h0, c0 = (None if s is None else s.swapaxes(0, 1) for s in (h0, c0))
    direction = attrs.get("direction", b"forward").decode()
    count = 2 if direction == "bidirectional" else 1
    order = _ORDER[node.op_type]
    names = [a.decode() for a in attrs.get("activations", [])] or _DEFAULTS[node.op_type] * count
    alphas, betas = (iter(attrs.get(f"activation_{which}", [])) for which in ("alpha", "beta"))
    activations = [
        (
            name,
            next(alphas, None) if name.lower() in _NEED_ALPHA else None,
            next(betas, None) if name.lower() in _NEED_BETA else None,
        )
        for name in names
    ]
    per_direction = len(activations) // count
    results = []
    for d in range(count):
        biases = np.zeros(2 * w.shape[1]) if b is None else b[d]
        b_ih, b_hh = np.split(biases, 2)
        options: dict[str, Any] = {
            "h0": None if h0 is None else h0[d],
            "lengths": lengths,
            "activations": activations[d * per_direction : (d + 1) * per_direction],
            "clip": attrs.get("clip") or None,
            "reverse": direction == "reverse" or d == 1,
        }
        weights = [_reordered(a, order) for a in (w[d], r[d], b_ih, b_hh)]
        if node.op_type == "LSTM":
            options["c0"] = None if c0 is None else c0[d]
            options["peepholes"] = None if p is None else p[d].reshape(3, -1)[[0, 2, 1]]
            options["coupled"] = "f=1-i" if attrs.get("input_forget", 0) else ""
            results.append(reference.lstm(x, *weights, **options))
        elif node.op_type == "GRU":
            options["linear_before_reset"] = bool(attrs.get("linear_before_reset", 0))
            results.append(reference.gru(x, *weights, **options))
        else:
            results.append(reference.rnn(x, *weights, **options))
    stacked = [np.stack(parts) for parts in zip(*results, strict=True)]
    y = stacked[0].transpose(2, 1, 0, 3) if batch_first else stacked[0].swapaxes(0, 1)
    states = [s.swapaxes(0, 1) if batch_first else s for s in stacked[1:]]
    return dict(zip(node.output, [y, *states], strict=False))


_CASES = node_cases("rnn gru lstm", " ".join(_ORDER))


@pytest.mark.parametrize("case", _CASES, ids=lambda case: case.name)
def test_node_tests_of_onnx(case: Any) -> None:
    graph = case.model.graph
    for inputs, outputs in case.data_sets:
        values = {port.name: np.asarray(a) for port, a in zip(graph.input, inputs, strict=False)}
        got = run_node(graph.node[0], values)
        for port, expected in zip(graph.output, outputs, strict=True):
            np.testing.assert_allclose(got[port.name], expected, rtol=case.rtol, atol=case.atol)


def test_there_are_all_eighteen_node_tests() -> None:
    assert len(_CASES) >= 18


def _single_operators() -> list[Any]:
    manifest = _MODELS / "manifest.json"
    if not manifest.exists():
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"no folder {_MODELS}"))]
    cases = json.loads(manifest.read_text())["cases"]
    return [
        pytest.param(case, id=case["name"])
        for case in cases
        if case["format"] == "onnx"
        and case["expect"] == "ok"
        and case["run"]["mode"] == "once"
        and list(case["ops"]) in (["LSTM"], ["GRU"], ["RNN"])
        and sum(case["ops"].values()) == 1
    ]


@pytest.mark.parametrize("case", _single_operators())
def test_single_operators_of_other_engines(case: dict[str, Any]) -> None:
    model = onnx.load(_MODELS / case["file"])
    data = np.load(_MODELS / case["data"])
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    values |= {name.removeprefix("in."): data[name] for name in data.files if name.startswith("in.")}
    got = run_node(model.graph.node[0], values)
    for name in data.files:
        if name.startswith("out."):
            np.testing.assert_allclose(
                got[name.removeprefix("out.")], data[name], rtol=case["rtol"], atol=case["atol"], err_msg=name
            )


def test_activation_takes_any_case_and_defaults() -> None:
    x = np.array([-3.0, -0.5, 0.0, 2.0])
    np.testing.assert_allclose(reference.activation("leakyRELU")(x), [-0.03, -0.005, 0, 2])
    np.testing.assert_allclose(reference.activation("HardSigmoid")(x), [0, 0.4, 0.5, 0.9])
    np.testing.assert_allclose(reference.activation("Affine", 2, 1)(x), 2 * x + 1)


def test_sigmoid_does_not_overflow() -> None:
    with np.errstate(over="raise"):
        got = reference.activation("Sigmoid")([-1e4, 1e4])
    np.testing.assert_array_equal(got, [0, 1])


def test_pytorch_agrees_on_projection_and_gate_order() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(5)
    for cell, options in (("LSTM", {}), ("LSTM", {"proj_size": 3}), ("GRU", {}), ("RNN", {})):
        layer = getattr(torch.nn, cell)(4, 6, **options).double()
        x = rng.standard_normal((5, 2, 4))
        weights = [p.detach().numpy() for p in layer.parameters()]
        expected = layer(torch.from_numpy(x))[0].detach().numpy()
        run = getattr(reference, cell.lower())
        extra = {"projection": weights[4]} if options else {}
        np.testing.assert_allclose(run(x, *weights[:4], **extra)[0], expected, atol=1e-12)
