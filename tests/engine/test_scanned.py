"""Cells in the bodies of loops: a Scan of nothing else becomes sequence operators, any other steps with the cell."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from written_cells import CLOSE, B, F, H, Writer, noise

T = 6


def scan(n: Any, body: Any, *inputs: Any, states: int, axis: int = 0, reverse: bool = False, outputs: int = 1) -> Any:
    """A Scan with its frames along `axis` of what goes in and comes out."""
    count = outputs
    return n(
        "Scan",
        *inputs,
        out=states + count,
        body=body.graph,
        states=states,
        xs=1,
        in_axes=(axis,),
        out_axes=(axis,) * count,
        in_reverse=(reverse,),
        out_reverse=(reverse,) * count,
    )


def a_body(net: Any, seed: int) -> Any:
    body = net(seed)
    body.graph.prefix = "body"
    return body


def ops(model: Any) -> list[str]:
    return [node.op for node in model.graph.nodes if node.op in ("LSTM", "GRU", "RNN", "Scan", "Loop")]


def same(n: Any, model: Any, feeds: dict[str, np.ndarray]) -> None:
    for name, want in n.evaluate(feeds).items():
        np.testing.assert_allclose(model(feeds)[name], want, **CLOSE)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "GRU before", "RNN"])
def test_a_scan_of_a_cell(net: Any, kind: str, seed: int) -> None:
    """With what stands before and behind the cell in the body, captured weights, frames along any axis."""
    rng = random.Random(seed)
    axis, reverse = rng.choice([0, 1]), seed % 3 == 2
    body = a_body(net, seed)
    writer = Writer(body, rng)
    writer.rank = 2
    names = ["h", "c"][: 2 if kind == "LSTM" else 1]
    states = [body.input(f"b.{name}", None, None) for name in names]
    x = body.input("b.x", None, None)
    scale = body.input("b.scale", None, None)
    x = body("Mul", body("Relu", x), scale)
    if kind == "LSTM":
        states = list(writer.lstm(x, *states))
    elif kind == "RNN":
        states = [body("Tanh", writer.sums(x, *states, "h")["h"])]
    else:
        states = [writer.gru(x, *states, before=kind == "GRU before")]
    y = body("Softmax", body("Gemm", states[0], body.weights(H, 3), body.weights(3)))
    body.output(*states, y)
    n = net(seed)
    x = n.input("x", *(("T", "B") if axis == 0 else ("B", "T")), F)
    begin = [n.input(f"{name}0", "B", H) for name in names]
    *ends, y = scan(n, body, *begin, x, n.weights(F), states=len(names), axis=axis, reverse=reverse)
    n("Neg", y, out="y")
    for name, end in zip(names, ends, strict=True):
        n("Transpose", end, perm=(0, 1), out=f"{name}n")
    n.output("y", *(f"{name}n" for name in names))
    model = n.model()
    assert ops(model) == [kind.split()[0]]
    assert "recognised from" in str(model)
    feeds = {"x": noise(*((T, B) if axis == 0 else (B, T)), F)}
    feeds |= {f"{name}0": noise(B, H, seed=k) for k, name in enumerate(names)}
    same(n, model, feeds)
    assert model.streams is not reverse
    if model.streams:
        assert model.layout.states == {f"{name}0": f"{name}n" for name in names}
        stream = model.stream(B)
        for name in model.layout.states:
            stream.state[name] = feeds[name]
        steps = [stream.step(np.ascontiguousarray(f)) for f in np.moveaxis(feeds["x"], axis, 0)]
        whole = np.moveaxis(model(feeds)["y"], axis, 0)
        got = np.stack([step["y"] if isinstance(step, dict) else step for step in steps])
        assert got.tobytes() == np.ascontiguousarray(whole).tobytes()


def test_two_cells_in_one_body(net: Any) -> None:
    body = a_body(net, 0)
    writer = Writer(body, random.Random(0))
    writer.rank = 2
    first, second, x = (body.input(f"b.{name}", None, None) for name in ("h0", "h1", "x"))
    first = writer.gru(x, first, before=False)
    second = body("Tanh", writer.sums(first, second, "h", H)["h"])
    body.output(first, second, second)
    n = net()
    x = n.input("x", "T", "B", F)
    zeros = n("Expand", np.zeros((1, H)), n("Concat", n("Shape", x, start=1, end=2), np.array([H]), axis=0))
    scan(n, body, zeros, zeros, x, states=2)
    n.graph.output(n.graph.nodes[-1].outputs[2], None, np.float32)
    model = n.model()
    assert ops(model) == ["GRU", "RNN"]
    same(n, model, {"x": noise(T, B, F)})


def test_what_else_goes_round_keeps_the_scan(net: Any) -> None:
    """A sum beside the cell: the loop stays, and its step is the cell's."""
    body = a_body(net, 0)
    writer = Writer(body, random.Random(0))
    writer.rank = 2
    h, total, x = (body.input(f"b.{name}", None, None) for name in ("h", "sum", "x"))
    h = writer.gru(x, h, before=False)
    total = body("Add", total, h)
    body.output(h, total, total)
    n = net()
    x = n.input("x", "T", "B", F)
    begin = [n.input(name, "B", H) for name in ("h0", "s0")]
    scan(n, body, *begin, x, states=2)
    n.graph.output(n.graph.nodes[-1].outputs[2], None, np.float32)
    model = n.model()
    assert ops(model) == ["Scan"]
    (node,) = (node for node in model.graph.nodes if node.op == "Scan")
    assert [inner.op for inner in node.attrs["body"].nodes if inner.attrs.get("recognised")] == ["GRU"]
    assert "recognised from" in str(model)
    same(n, model, {"x": noise(T, B, F), "h0": noise(B, H, seed=1), "s0": noise(B, H, seed=2)})
