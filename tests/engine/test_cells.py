"""Cells written out as elementary operators become recurrent operators; whatever is not quite one stays as it is."""

from __future__ import annotations

import io
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gatestep.engine.passes.cells import recognised
from hypothesis import given, settings
from hypothesis import strategies as st
from written_cells import CLOSE, B, F, H, Writer, noise

import gatestep as gs

MODELS = Path(os.environ.get("GATESTEP_MODELS", Path(__file__).resolve().parents[3] / "shared" / "models"))
ORDERS = {"LSTM": "ifco", "GRU": "rzh", "GRU before": "rzh", "RNN": "h"}


def cells(model: Any) -> list[Any]:
    """The nodes that were recognised."""
    return [node for node in model.graph.nodes if node.attrs.get("recognised")]


@pytest.mark.parametrize("kind", ORDERS)
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), shape=st.sampled_from([("B",), (B,), (1,), (), (1, "B"), ("B", 1), (1, 1)]))
def test_every_spelling_of_a_step(net: Any, kind: str, seed: int, shape: tuple[Any, ...]) -> None:
    """Recognised, nothing of it left over, and the same numbers, whole and as a stream that finds its own states."""
    n = net(seed % 1000)
    states = Writer(n, random.Random(seed)).step(kind, shape)
    model = n.model()
    (cell,) = cells(model)
    assert cell.op == kind.split()[0]
    assert not {node.op for node in model.graph.nodes} & {"Sigmoid", "Tanh", "Relu", "Softsign", "Mul", "Sub"}
    assert "recognised" in str(model)
    sizes = tuple(B if size == "B" else size for size in shape)
    feeds = {p.name: noise(*sizes, p.shape[-1], seed=seed % 997 + k) for k, p in enumerate(model.inputs)}
    called = model(feeds)
    for name, want in n.evaluate(feeds).items():
        np.testing.assert_allclose(called[name], want, **CLOSE)

    assert model.layout.states == states
    if not model.layout.free_batch and B in sizes:
        return
    stream = model.stream(batch=B if B in sizes else None)
    feeds |= {name: np.zeros_like(feeds[name]) for name in states}
    for t in range(4):
        feeds["x"] = noise(*sizes, F, seed=t)
        want = n.evaluate(feeds)
        got = stream.step(feeds["x"].reshape(stream.inputs[0].shape))
        np.testing.assert_allclose(np.asarray(got).reshape(-1), want["y"].reshape(-1), **CLOSE)
        feeds |= {name: want[out].astype(np.float32) for name, out in states.items()}


# ---------------------------------------------------------------------- which value is the state


def lstm(n: Any, x: str, h: str, c: str, size: int, seed: int = 0) -> tuple[Any, Any]:
    writer = Writer(n, random.Random(seed))
    writer.rank = 2
    return writer.lstm(x, h, c, size)


def test_as_wide_an_input_as_the_state(net: Any) -> None:
    """The equations do not tell x from h: names do; without, nothing is taken for a state."""
    for names, found in ((("x", "h", "c"), 1), (("a", "b", "c"), 0)):
        n = net()
        x, h, c = (n.input(name, B, H) for name in names)
        h1, c1 = lstm(n, x, h, c, H)
        n("Neg", n("Neg", h1), out="y")
        for value, out in ((h1, "hn"), (c1, "cn")):
            n("Reshape", value, [B, H], out=out, allowzero=False)
        n.output("y", "hn", "cn", shape=(B, H))
        model = n.model()
        assert len(cells(model)) == found
        if found:
            assert model.layout.states == {"h": "hn", "c": "cn"}
        feeds = {name: noise(B, H, seed=k) for k, name in enumerate(names)}
        for name, want in n.evaluate(feeds).items():
            np.testing.assert_allclose(model(feeds)[name], want, **CLOSE)
    assert len(cells(n.model(states={"b": "hn"}))) == 1


def test_a_dense_layer_of_two_values_is_no_cell(net: Any) -> None:
    n = net()
    query, key = n.input("query", B, H), n.input("key", B, F)
    n("Tanh", n("Add", n("MatMul", query, n.weights(H, H)), n("MatMul", key, n.weights(F, H))), out="score")
    n.output("score", shape=(B, H))
    assert not cells(n.model())


def test_a_gru_that_gates_two_inputs_has_no_state(net: Any) -> None:
    """The cell is recognised, and both of its inputs are frames, since nothing continues either."""
    n = net()
    writer = Writer(n, random.Random(1))
    writer.rank = 2
    x, h = n.input("x", 1, F), n.input("h", 1, H)
    n("MatMul", writer.gru(x, h, before=False), n.weights(H, 2), out="y")
    n.output("y", shape=(1, 2))
    model = n.model()
    assert len(cells(model)) == 1
    assert not model.layout.states
    feeds = {"x": noise(1, F), "h": noise(1, H)}
    stream = model.stream()
    for _ in range(2):
        np.testing.assert_allclose(
            stream.step({k: v[0] for k, v in feeds.items()}).popitem()[1].reshape(-1),
            n.evaluate(feeds)["y"][0],
            **CLOSE,
        )


@pytest.mark.parametrize("rows", [1, "B"])
@pytest.mark.parametrize("where", ["before", "after", "at the end"])
def test_gates_over_frames_are_no_step(net: Any, where: str, rows: Any) -> None:
    """Beside a recurrent operator, frames are no rows of a batch: the model streams as it did."""
    n = net()
    writer = Writer(n, random.Random(3))
    writer.rank = 2 if where == "at the end" else 3
    x, size = n.input("x", "T", rows, F), F
    y = writer.gru(x, n("MatMul", x, n.weights(F, H)), before=True) if where == "before" else x
    y, hn = n.cell("GRU", y, H if where == "before" else size, H)
    y = n("Squeeze", y, [1])
    if where == "after":
        y = writer.gru(x, y, before=False)
    if where == "at the end":
        final = n("Squeeze", n("Slice", x, [-1], [2**31 - 1], [0], [1]), [0])
        y = writer.gru(final, n("Squeeze", hn, [0]), before=False)
    n("MatMul", y, n.weights(H, 2), out="y")
    n.output("y", shape=(rows, 2) if where == "at the end" else ("T", rows, 2))
    model = n.model()
    assert len(cells(model)) == (where == "at the end")
    frames = noise(6, 1, F)
    stream = model.stream(1 if rows == "B" else None)
    for t in range(6):
        frame = frames[t].reshape(stream.inputs[0].shape)
        want = n.evaluate({"x": frames[: t + 1]})["y"]
        np.testing.assert_allclose(stream.step(frame).reshape(-1), want.reshape(-1)[-2:], **CLOSE)


def test_long_sums_end(net: Any) -> None:
    """Sums and products of thousands of operators are given up, not multiplied out."""
    n = net()
    x = n.input("x", "B", 8)
    y = n("MatMul", x, n.weights(8, 8))
    z = n("Sigmoid", y)
    for k in range(3000):
        y = n("Sub", n("Mul", z, y), y) if k % 3 else n("Add", y, n("Mul", y, y))
    n("Tanh", y, out="y")
    n.output("y", shape=("B", 8))
    assert recognised(n.graph, np.dtype(np.float32)) is n.graph


@pytest.mark.parametrize("begins", ["inputs", "zeros"])
def test_unrolled_over_time(net: Any, begins: str) -> None:
    """One node per step, weights shared; a call begins where the graph says, not where the last one ended."""
    n = net()
    x = n.input("x", B, 4, F)
    shape = (B, H)
    h, c = (n.input("h0", *shape), n.input("c0", *shape)) if begins == "inputs" else (np.zeros(shape), np.zeros(shape))
    w, r, b = n.weights(F, 4 * H), n.weights(H, 4 * H), n.weights(4 * H)
    w, r, b = (n.graph.constant(a) for a in (w, r, b))
    for t in range(4):
        s = n("Add", n("Add", n("MatMul", n("Gather", x, t, axis=1), w), n("MatMul", h, r)), b)
        i, f, g, o = n("Split", s, None, out=4, axis=1, num_outputs=4)
        c = n("Add", n("Mul", n("Sigmoid", f), c), n("Mul", n("Sigmoid", i), n("Tanh", g)))
        h = n("Mul", n("Sigmoid", o), n("Tanh", c))
    for value, out in ((h, "hn"), (c, "cn")):
        n("Reshape", value, list(shape), out=out, allowzero=False)
    n.output("hn", "cn", shape=shape)
    model = n.model()
    (cell,) = (node for node in model.graph.nodes if node.op == "LSTM")
    assert cell.attrs["origin"] == (
        f"recognised from {14 if begins == 'inputs' else 13} operators",
        "rolled up from 4 steps",
    )
    feeds = {p.name: noise(*p.shape, seed=k) for k, p in enumerate(n.graph.inputs)}
    for _ in range(2):
        for name, want in n.evaluate(feeds).items():
            np.testing.assert_allclose(model(feeds)[name], want, **CLOSE)
    assert model.layout.states == ({"h0": "hn", "c0": "cn"} if begins == "inputs" else {})
    stream = model.stream(B)
    for name in model.layout.states:
        stream.state[name] = feeds[name]
    for t in range(4):
        last = stream.step({"x": np.ascontiguousarray(feeds["x"][:, t])})
    for name, array in n.evaluate(feeds).items():
        np.testing.assert_allclose(last[name], array, **CLOSE)


def test_two_layers_packed_into_one_state(net: Any) -> None:
    n = net()
    x, h, c = n.input("x", "B", F), n.input("h", 2, "B", H), n.input("c", 2, "B", H)
    hs, cs = [], []
    for k in range(2):
        before = [n("Squeeze", n("Slice", s, [k], [k + 1], [0], [1]), [0]) for s in (h, c)]
        x, after = lstm(n, x, *before, F if k == 0 else H, seed=k)
        hs.append(n("Unsqueeze", x, [0]))
        cs.append(n("Unsqueeze", after, [0]))
    n("Concat", *hs, axis=0, out="hn")
    n("Concat", *cs, axis=0, out="cn")
    n("MatMul", x, n.weights(H, 2), out="y")
    n.output("hn", "cn", shape=(2, "B", H)).output("y", shape=("B", 2))
    model = n.model()
    assert len(cells(model)) == 2
    assert model.layout.states == {"h": "hn", "c": "cn"}
    assert model.layout.free_batch


def test_projection_after(net: Any) -> None:
    n = net()
    p = 4
    x, h, c = n.input("x", "B", F), n.input("h", "B", p), n.input("c", "B", H)
    s = n("Add", n("MatMul", x, n.weights(F, 4 * H)), n("Gemm", h, n.weights(4 * H, p), n.weights(4 * H), transB=1))
    i, f, g, o = n("Split", s, None, out=4, axis=-1, num_outputs=4)
    after = n("Add", n("Mul", n("Sigmoid", f), c), n("Mul", n("Sigmoid", i), n("Tanh", g)), out="cn")
    n("MatMul", n("Mul", n("Sigmoid", o), n("Tanh", after)), n.weights(H, p), out="hn")
    n.output("hn", shape=("B", p)).output("cn", shape=("B", H))
    model = n.model()
    (cell,) = cells(model)
    assert cell.inputs[8]
    assert model.layout.states == {"h": "hn", "c": "cn"}
    feeds = {"x": noise(B, F), "h": noise(B, p), "c": noise(B, H)}
    for name, want in n.evaluate(feeds).items():
        np.testing.assert_allclose(model(feeds)[name], want, **CLOSE)


# ---------------------------------------------------------------------- near misses


def step(n: Any, change: str = "") -> None:
    """An LSTM's step with one thing that no LSTM has, or that has to be seen from outside."""
    x, h, c = n.input("x", B, F), n.input("h", B, H), n.input("c", B, H)
    w: Any = n.input("w", F, 4 * H) if change == "weights given" else n.weights(F, 4 * H)
    if change == "weights computed":
        w = n("Mul", w, n("ReduceMean", x, [0, 1], keepdims=0, noop_with_empty_axes=False))
    s = n("Add", n("Add", n("MatMul", x, w), n("MatMul", h, n.weights(H, 4 * H))), n.weights(4 * H))
    if change == "rows shifted":
        s = n("Concat", n("Slice", s, [1], [B], [0], [1]), n("Slice", s, [0], [1], [0], [1]), axis=0)
    if change == "bias by row":
        s = n("Add", s, n.weights(B, 4 * H))
    if change == "scaled":
        s = n("Mul", s, n.weights(4 * H))
    pieces = n("Split", s, None, out=4, axis=1, num_outputs=4)
    i, f, g, o = pieces
    if change in ("peephole", "all peepholes"):
        f = n("Add", f, n("Mul", c, n.weights(H)))
    if change == "all peepholes":
        i = n("Add", n("Mul", n.weights(1, H), c), i)
    if change == "output gate of the old state":
        o = n("Add", o, n("Mul", c, n.weights(H)))
    if change == "peephole of another":
        f = n("Add", f, n("Mul", h, n.weights(H)))
    if change == "one clipped":
        i = n("Clip", i, -0.5, 0.5)
    if change == "clipped":
        i, f, g, o = (n("Clip", s, -0.5, 0.5) for s in (i, f, g, o))
    if change == "late peephole":
        o = n("Add", o, n("MatMul", n("Neg", c), n.weights(H, H)))
    gate = "HardSigmoid" if change == "hard" else "Sigmoid"
    options = {"alpha": 0.3, "beta": 0.4} if change == "hard" else {}
    i, f, g = n(gate, i, **options), n(gate, f, **options), n("Relu" if change == "relu" else "Tanh", g)
    if change == "coupled":
        f = n("Sub", 1.0, i)
    if change == "coupled to the other":
        i = n("Sub", np.ones(H), f)
    if change == "nearly coupled":
        f = n("Sub", 0.9, i)
    new = n("Mul", i, g)
    if change == "three":
        new = n("Add", new, n("Mul", i, c))
    if change == "clip":
        f = n("Clip", f, 0.0, 0.9)
    c1 = n("Sub" if change == "minus" else "Add", n("Mul", f, c), new)
    if change == "output gate of the new state":
        o = n("Add", o, n("MatMul", c1, n.weights(H, H)))
    if change == "all peepholes":
        o = n("Sub", o, n("Mul", c1, n.weights(H)))
    o = i if change == "gate twice" else n("Tanh" if change == "another gate" else gate, o, **options)
    shown = c1 if change == "no tanh" else n("Relu" if change == "relu of the state" else "Tanh", c1)
    h1 = n("Mul", o, n("Clip", shown, -0.5, 0.5) if change == "clipped at last" else shown)
    for value, out in ((h1, "hn"), (c1, "cn")):
        n("Reshape", value, [B, H], out=out, allowzero=False)
    n.output("hn", "cn", shape=(B, H))
    if change == "gates shown":
        n("Neg", f, out="gate")
        n("Neg", pieces[3], out="sum")
        n("Tanh", c1, out="tanh")
        n("Neg", h, out="old")
        n.output("gate", "sum", "tanh", "old", shape=(B, H))


MISSES = ["weights given", "weights computed", "rows shifted", "bias by row", "three", "clip", "minus", "gate twice"]
MISSES += ["output gate of the new state", "output gate of the old state", "peephole of another", "one clipped"]
MISSES += ["nearly coupled", "another gate", "no tanh", "clipped at last"]
FORMS = [
    "",
    "gates shown",
    "late peephole",
    "scaled",
    "peephole",
    "all peepholes",
    "clipped",
    "relu",
    "hard",
    "coupled",
]
FORMS += ["coupled to the other", "relu of the state"]


@pytest.mark.parametrize("change", [*MISSES, *FORMS])
def test_near_misses(net: Any, change: str) -> None:
    n = net()
    step(n, change)
    model = n.model()
    assert len(cells(model)) == (change not in MISSES)
    feeds = {p.name: noise(*p.shape, seed=k) for k, p in enumerate(n.graph.inputs)}
    called = model(feeds)
    for name, want in n.evaluate(feeds).items():
        np.testing.assert_allclose(called[name], want, **CLOSE)


GRU_FORMS = ["relu", "hard", "hard the other way", "cut", "cut the other way", "clipped"]


@pytest.mark.parametrize("change", [*GRU_FORMS, "reset unseen", "other h", "two thirds", "whole h as well", "mixed"])
def test_near_misses_of_a_gru(net: Any, change: str) -> None:
    n = net()
    x, h = n.input("x", B, F), n.input("h", B, H)
    other = n.input("other", B, H) if change == "other h" else h
    xr, xz, xn = n("Split", n("MatMul", x, n.weights(F, 3 * H)), None, out=3, axis=1, num_outputs=3)
    hr, hz, hn = n("Split", n("MatMul", h, n.weights(H, 3 * H)), None, out=3, axis=1, num_outputs=3)

    def gate(s: Any) -> Any:
        if change.startswith("hard"):
            return n("HardSigmoid", s, alpha=0.3, beta=0.4)
        if change.startswith("cut"):  # as Keras writes it
            return n("Clip", n("Add", n("Mul", s, 0.2), 0.5), 0.0, 1.0)
        return n("Sigmoid", n("Clip", s, -0.4, 0.4) if change == "clipped" else s)

    r, z = gate(n("Add", xr, hr)), n("Tanh", n("Add", xz, hz)) if change == "mixed" else gate(n("Add", xz, hz))
    s = n("Add", xn, hn if change == "reset unseen" else n("Mul", r, hn))
    if change == "whole h as well":
        s = n("Add", s, n("MatMul", h, n.weights(H, H)))
    if change == "clipped":
        s = n("Clip", s, -0.4, 0.4)
    new = n("Relu" if change == "relu" else "Tanh", s)
    rest = n("Sub", 2 / 3 if change == "two thirds" else 1.0, z)
    turned = change.endswith("the other way")
    n("Add", n("Mul", rest, other if turned else new), n("Mul", z, new if turned else other), out="hn")
    n.output("hn", shape=(B, H))
    model = n.model()
    assert len(cells(model)) == (change in GRU_FORMS)
    feeds = {p.name: noise(*p.shape, seed=k) for k, p in enumerate(n.graph.inputs)}
    np.testing.assert_allclose(model(feeds)["hn"], n.evaluate(feeds)["hn"], **CLOSE)


# ---------------------------------------------------------------------- real files


@pytest.fixture(scope="module")
def dtln() -> Path:
    folder = MODELS / "real" / "dtln"
    if not (folder / "model_2.onnx").exists():
        pytest.skip("no ../shared/models beside the repository")
    return folder


def test_dtln(dtln: Path) -> None:
    """Both LSTMs of the second half are cells, its packed state is found, and 622 blocks give what onnxruntime gave."""
    model = gs.load(dtln / "model_2.onnx")
    assert [(node.op, node.name) for node in cells(model)] == [("LSTM", "model_2/lstm_6"), ("LSTM", "model_2/lstm_7")]
    assert model.layout.states == {"input_5": "tf_op_layer_stack_5"}
    data = np.load(dtln / "model_2.npz")
    stream = model.stream()
    for block, want in zip(data["in.input_4"], data["out.conv1d_3"], strict=True):
        np.testing.assert_allclose(stream.step(block[0]).reshape(want.shape), want, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(stream.state["input_5"], data["final.input_5"], rtol=1e-3, atol=1e-4)


def test_the_whole_suppressor(dtln: Path) -> None:
    """Noisy speech to clean, block by block: spectrum, mask, second half, overlap and add."""
    data = np.load(dtln / "pipeline.npz")
    noisy, length, shift = data["noisy"], int(data["block_len"]), int(data["block_shift"])
    mask, clean = (gs.load(dtln / f"model_{k}.onnx").stream() for k in (1, 2))
    block, buffer = np.zeros(length, np.float32), np.zeros(length, np.float32)
    enhanced = np.zeros_like(noisy)
    for k in range(int(data["blocks"])):
        start = k * shift
        block = np.concatenate([block[shift:], noisy[start : start + shift]])
        spectrum = np.fft.rfft(block)
        magnitude = np.abs(spectrum).astype(np.float32)
        gain = mask.step(magnitude.reshape(mask.inputs[0].shape)).reshape(-1)
        estimate = np.fft.irfft(magnitude * gain * np.exp(1j * np.angle(spectrum))).astype(np.float32)
        out = clean.step(estimate.reshape(clean.inputs[0].shape)).reshape(-1)
        buffer = np.concatenate([buffer[shift:], np.zeros(shift, np.float32)]) + out
        enhanced[start : start + shift] = buffer[:shift]
    np.testing.assert_allclose(enhanced, data["enhanced"], rtol=1e-3, atol=1e-4)


def test_unrolled_by_torch() -> None:
    path = MODELS / "export" / "CellLoop_LSTM__ts_static.onnx"
    if not path.exists():
        pytest.skip("no ../shared/models beside the repository")
    model = gs.load(path)
    data = np.load(path.with_suffix(".npz"))
    assert "recognised from 12 operators, rolled up from 6 steps" in str(model)
    np.testing.assert_allclose(model(data["in.x"]), data["out.y"], **CLOSE)


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("kind", "options"), [("LSTM", {}), ("GRU", {}), ("RNN", {}), ("RNN", {"nonlinearity": "relu"})]
)
@pytest.mark.filterwarnings("ignore")
def test_exported_by_torch(kind: str, options: dict[str, Any], bias: bool, dynamo: bool) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnx")
    if dynamo:
        pytest.importorskip("onnxscript")
    torch.manual_seed(0)

    class Step(torch.nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.cell = getattr(torch.nn, f"{kind}Cell")(F, H, bias=bias, **options)
            self.head = torch.nn.Linear(H, 2)

        def forward(self, x: Any, *states: Any) -> Any:
            after = self.cell(x, states if len(states) > 1 else states[0])
            after = after if isinstance(after, tuple) else (after,)
            return self.head(after[0]), *after

    names = ["h", "c"] if kind == "LSTM" else ["h"]
    module = Step().eval()
    feeds = {"x": noise(1, F), **{name: noise(1, H, seed=k + 1) for k, name in enumerate(names)}}
    args = tuple(torch.from_numpy(a) for a in feeds.values())
    outs = ["y", *(f"{name}n" for name in names)]
    file = io.BytesIO()
    if dynamo:
        torch.onnx.export(module, args, dynamo=True, input_names=[*feeds], output_names=outs, verbose=False).save(file)
    else:
        torch.onnx.export(module, args, file, dynamo=False, input_names=[*feeds], output_names=outs)
    model = gs.load(file.getvalue())
    assert [node.op for node in cells(model)] == [kind]
    assert model.layout.states == {name: f"{name}n" for name in names}
    with torch.no_grad():
        for got, want in zip(model(feeds).values(), module(*args), strict=True):
            np.testing.assert_allclose(got, want.numpy(), **CLOSE)
        stream, states = model.stream(), [torch.zeros(1, H) for _ in names]
        for t in range(5):
            frame = noise(1, F, seed=t)
            y, *states = module(torch.from_numpy(frame), *states)
            np.testing.assert_allclose(stream.step(frame[0]).reshape(-1), y[0].numpy(), **CLOSE)


def test_the_summary_knows_sizes_of_weights_that_the_file_puts_together(net: Any) -> None:
    n = net()
    w = n("Unsqueeze", n("Concat", n.weights(4, 3), n.weights(8, 3), axis=0), [0])
    n.cell("GRU", n.input("x", "T", "B", 3), 3, 4, out=["y", ""], name="enc")
    (node,) = [node for node in n.graph.nodes if node.op == "GRU"]
    place = n.graph.nodes.index(node)
    n.graph.nodes[place] = type(node)(
        node.op, (node.inputs[0], w, *node.inputs[2:]), node.outputs, node.attrs, node.name
    )
    assert "GRU 'enc' 3 -> 4" in str(n.output("y").model())
