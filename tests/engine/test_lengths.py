"""Recordings of different lengths in one batch, against PyTorch's packed sequences and the oracle."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from gatestep.engine.oracle import evaluate
from gatestep.engine.passes.lengths import with_lengths
from gatestep.importers.weights import read_graph
from onnx import TensorProto, helper, numpy_helper

import gatestep as gs
from gatestep import nn

LENGTHS = [3, 7, 1, 5]
OPTIONS = list(itertools.product(("LSTM", "GRU", "RNN"), (1, 2), (False, True), (False, True)))


def reference(module: Any, x: Any, hx: Any) -> list[np.ndarray]:
    torch = pytest.importorskip("torch")
    rnn = torch.nn.utils.rnn
    packed = rnn.pack_padded_sequence(x, torch.tensor(LENGTHS), module.batch_first, enforce_sorted=False)
    with torch.no_grad():
        y, last = module(packed, hx)
    y, _ = rnn.pad_packed_sequence(y, module.batch_first, total_length=7)
    return [t.numpy() for t in (y, *(last if isinstance(last, tuple) else [last]))]


@pytest.mark.parametrize(("kind", "layers", "both", "first"), OPTIONS)
@pytest.mark.filterwarnings("ignore:.*nonlinearity")
def test_packed_sequences(kind: str, layers: int, both: bool, first: bool) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(5)
    module = getattr(torch.nn, kind)(6, 9, layers, batch_first=first, bidirectional=both)
    x = torch.randn(4, 7, 6) if first else torch.randn(7, 4, 6)
    state = torch.randn(2, layers * (1 + both), 4, 9)
    want = reference(module, x, (state[0], state[1]) if kind == "LSTM" else state[0])
    spec = getattr(nn, kind)(6, 9, layers, batch_first=first, bidirectional=both)
    weights = module.state_dict()
    names = ["input", "h0", "c0"][: 3 if kind == "LSTM" else 2]
    given: dict[str, np.ndarray] = {}
    got: list[np.ndarray] = []
    for dtype in ("float32", "float64"):
        model = gs.load(weights, spec=spec, dtype=dtype)
        given = {n: array.numpy().astype(dtype) for n, array in zip(names, (x, *state), strict=False)}
        got = list(model(*given.values(), lengths=LENGTHS))
        for one, two in zip(got, want, strict=True):
            np.testing.assert_allclose(one, two, atol=2e-6)
        assert np.array_equal(got[0], model(given, lengths=LENGTHS)["output"])
    graph, name = with_lengths(read_graph(weights, spec=spec), np.dtype(np.float64))
    for one, two in zip(evaluate(graph, {**given, name: LENGTHS}).values(), got, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-12)


def test_rows_are_those_of_calls_of_their_own() -> None:
    rng = np.random.default_rng(0)
    spec = nn.Sequential({"rnn": nn.GRU(6, 17, bidirectional=True, batch_first=True), "fc": nn.Linear(34, 3)})
    shapes = {f"rnn.{key}": shape for key, shape in dict(spec.layers)["rnn"].parameters()}
    shapes |= {"fc.weight": (3, 34), "fc.bias": (3,)}
    weights = {key: rng.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}
    model = gs.load(weights, spec=spec)
    x = rng.standard_normal((4, 7, 6)).astype(np.float32)
    whole = model(x, lengths=LENGTHS)
    for row, length in enumerate(LENGTHS):
        assert np.array_equal(whole[row, :length], model(x[row : row + 1, :length])[0])
        assert np.allclose(whole[row, length:], weights["fc.bias"])
    assert np.array_equal(model(x, lengths=[7] * 4), model(x))


def file(*nodes: Any, inputs: dict[str, list[Any]], outputs: list[str]) -> bytes:
    """An ONNX file with one LSTM's weights."""
    rng = np.random.default_rng(1)
    shapes = {"w": (1, 20, 4), "r": (1, 20, 5), "b": (1, 40)}
    weights = [numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n) for n, s in shapes.items()]
    weights += [numpy_helper.from_array(np.array(value), n) for n, value in (("one", [1]), ("minus", -1))]
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(n, TensorProto.INT32 if n == "ends" else 1, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, 1, None) for n in outputs],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


LSTM = helper.make_node("LSTM", ["x", "w", "r", "b"], ["y", "hn", "cn"], "rnn", hidden_size=5)
X = {"x": ["T", "B", 4]}


def test_files_without_an_input_for_lengths() -> None:
    model = gs.load(file(LSTM, inputs=X, outputs=["y", "hn"]))
    asked = helper.make_node("LSTM", ["x", "w", "r", "b", "ends"], ["y", "hn", "cn"], "rnn", hidden_size=5)
    other = gs.load(file(asked, inputs={**X, "ends": ["B"]}, outputs=["y", "hn"]))
    x = np.random.default_rng(2).standard_normal((7, 4, 4)).astype(np.float32)
    want = other(x, np.array(LENGTHS, np.int32))
    for one, two in zip(model(x, lengths=LENGTHS), want, strict=True):
        assert np.array_equal(one, two)
    with pytest.raises(gs.UnsupportedModelError, match=r"LSTM 'rnn': lengths: takes its lengths from 'ends'"):
        other(x, np.array(LENGTHS, np.int32), lengths=LENGTHS)


def test_what_looks_along_time_behind_a_cell_is_refused_by_name() -> None:
    mean = helper.make_node("ReduceMean", ["y"], ["z"], "pooled", axes=[0])
    last = helper.make_node("Gather", ["y", "minus"], ["z"], "last", axis=0)
    for node, name in ((mean, "pooled"), (last, "last")):
        model = gs.load(file(LSTM, node, inputs=X, outputs=["z"]))
        with pytest.raises(gs.UnsupportedModelError, match=rf"{name}.*lengths"):
            model(np.zeros((3, 2, 4), np.float32), lengths=[1, 2])


def test_what_comes_before_a_cell_may_look_along_time() -> None:
    mean = helper.make_node("ReduceMean", ["x"], ["m"], axes=[0])
    less = helper.make_node("Sub", ["x", "m"], ["d"])
    cell = helper.make_node("LSTM", ["d", "w", "r", "b"], ["y", "hn", "cn"], "rnn", hidden_size=5)
    model = gs.load(file(mean, less, cell, inputs=X, outputs=["hn"]))
    x = np.random.default_rng(3).standard_normal((5, 2, 4)).astype(np.float32)
    got = model(x, lengths=[5, 2])
    assert np.array_equal(got[:, :1], model(x)[:, :1])
    assert not np.array_equal(got[:, 1:], model(x)[:, 1:])


def test_a_cell_along_another_axis_is_refused_by_name() -> None:
    turn = helper.make_node("Transpose", ["x"], ["turned"], perm=[1, 0, 2])
    other = helper.make_node("LSTM", ["turned", "w", "r", "b"], ["z", "", ""], "across", hidden_size=5)
    model = gs.load(file(LSTM, turn, other, inputs=X, outputs=["y", "z"]))
    with pytest.raises(gs.UnsupportedModelError, match=r"LSTM '(rnn|across)': lengths"):
        model(np.zeros((3, 2, 4), np.float32), lengths=[1, 2])


def test_lengths_are_checked() -> None:
    model = gs.load(file(LSTM, inputs=X, outputs=["y"]))
    x = np.zeros((3, 2, 4), np.float32)
    for lengths in ([1], [1, 2, 3], [1, 4], [-1, 2], [1.5, 2], [[1, 2]]):
        with pytest.raises(gs.ShapeError, match=r"length"):
            model(x, lengths=lengths)
    dense = gs.load({"weight": np.eye(4, dtype=np.float32)}, spec=nn.Linear(4, 4, bias=False))
    with pytest.raises(gs.UnsupportedModelError, match="no recurrent operator"):
        dense(x, lengths=[1, 2])
