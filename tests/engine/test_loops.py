"""Loops over frames as exporters write them: what is a Scan becomes one and streams, what is none stays a Loop."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from gatestep.engine.passes.binding import bound  # noqa: E402
from gatestep.engine.passes.loops import scanned  # noqa: E402
from gatestep.importers.onnx import read_onnx  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

import gatestep as gs  # noqa: E402

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def port(name: str, shape: Sequence[Any] | None = None, kind: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def node(op: str, inputs: str, outputs: str, **attrs: Any) -> Any:
    return helper.make_node(op, inputs.split(), outputs.split(), **attrs)


def rand(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


WEIGHTS = {
    "W": rand(3, 4) / 2, "U": rand(4, 4, seed=1) / 2, "one": np.array(1), "zero": np.array([0]), "yes": np.array(True),
    "back": np.array(-1), "h_0": np.zeros((1, 4), np.float32), "k_0": np.array(0, np.int64),
    "two": np.array(2), "zero0": np.array(0), "zero2": np.array([0, 1]), "one1": np.array([1]),
    "rest": np.array([1, 4]), "three": np.array(3),
}  # fmt: skip

#: What makes frame ``x_t`` of ``x``, by its kind.
READS = {
    "gather": [node("Gather", "x i", "x_t", axis=0)],
    "counter": [node("Gather", "x k", "x_t", axis=0)],
    "slice": [node("Unsqueeze", "i zero", "from"), node("Add", "from one", "to"),
              node("Slice", "x from to zero", "row"), node("Squeeze", "row zero", "x_t")],
    "backwards": [node("Sub", "T i", "left"), node("Sub", "left one", "at"), node("Gather", "x at", "x_t", axis=0)],
    "wrapped": [node("Sub", "back i", "at"), node("Gather", "x at", "x_t", axis=0)],
    "every other": [node("Mul", "i two", "far"), node("Mod", "far T", "at"), node("Gather", "x at", "x_t", axis=0)],
    "the next": [node("Add", "i one", "far"), node("Mod", "far T", "at"), node("Gather", "x at", "x_t", axis=0)],
}  # fmt: skip


def looped(read: str, collect: str = "scan", count: str = "T", condition: str = "go") -> Any:
    """h' = sin(x_t @ W + h @ U) for every frame, as a Loop: no cell that there is an operator for."""
    nodes = [
        *READS[read],
        node("MatMul", "x_t W", "a"),
        node("MatMul", "h U", "b"),
        node("Add", "a b", "c"),
        node("Sin", "c", "h+"),
        node("Add", "k one", "k+"),
    ]
    states = [("h", FLOAT), ("k", INT64)]
    before = [node("Shape", "x", "sizes"), node("Gather", "sizes zero0", "T", axis=0)]
    behind = []
    again = "go_in"
    scans = []
    if condition == "less":
        nodes.append(node("Less", "k+ T", "again"))
        again = "again"
    if collect == "scan":
        nodes.append(node("Identity", "h+", "y_t"))
        scans = ["y_t"]
    loop_in, loop_out = ["h_0", "k_0"], ["h_end", "k_end"]
    inputs = [port("i", (), INT64), port("go_in", (), BOOL), *(port(n, None, kind) for n, kind in states)]
    outputs = [port(again, (), BOOL), *(port(f"{n}+", None, kind) for n, kind in states)]
    if collect == "sequence":
        kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, None))
        inputs.append(helper.make_value_info("s", kind))
        nodes.append(node("SequenceInsert", "s h+", "s+"))
        outputs.append(helper.make_value_info("s+", kind))
        before.append(helper.make_node("SequenceEmpty", [], ["s_0"]))
        loop_in.append("s_0")
        loop_out.append("s_end")
        behind = [node("ConcatFromSequence", "s_end", "y", axis=0, new_axis=1)]
    if collect == "scatter":
        inputs.append(port("s"))
        nodes += [node("Unsqueeze", "i zero2", "place"), node("Unsqueeze", "h+ zero", "row_y"),
                  node("ScatterND", "s place row_y", "s+")]  # fmt: skip
        outputs.append(port("s+"))
        before += [node("Slice", "sizes zero one1", "rows"), node("Concat", "rows rest", "full", axis=0),
                   node("ConstantOfShape", "full", "s_0")]  # fmt: skip
        loop_in.append("s_0")
        loop_out.append("y")
    body = helper.make_graph(nodes, "body", inputs, [*outputs, *(port(name) for name in scans)])
    ends = [*loop_out, *(["y"] if collect == "scan" else [])]
    loop = helper.make_node("Loop", [count, "yes", *loop_in], ends, "loop", body=body)
    weights = [numpy_helper.from_array(array, name) for name, array in WEIGHTS.items()]
    graph = helper.make_graph(
        [*before, loop, *behind], "g", [port("x", ["T", 1, 3])], [port("y", ["T", 1, 4])], weights
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def held(proto: Any, steps: Sequence[int] = (1, 2, 9)) -> Any:
    """The model, which gives what ONNX Runtime gives."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    loaded = gs.load(proto)
    for count in steps:
        x = rand(count, 1, 3, seed=count)
        np.testing.assert_allclose(loaded(x), session.run(["y"], {"x": x})[0], atol=1e-5)
    return loaded


def ops(proto: Any) -> list[str]:
    return [n.op for n in scanned(bound(read_onnx(proto)), np.dtype(np.float32)).nodes]


@pytest.mark.parametrize("collect", ["scan", "sequence", "scatter"])
@pytest.mark.parametrize("read", ["gather", "counter", "slice"])
@pytest.mark.parametrize("condition", ["go", "less"])
def test_a_loop_over_frames_streams(read: str, collect: str, condition: str) -> None:
    proto = looped(read, collect, condition=condition)
    assert "Scan" in ops(proto)
    assert "Loop" not in ops(proto)
    loaded = held(proto)
    assert loaded.streams, str(loaded)
    x = rand(70, 1, 3, seed=9)
    stream = loaded.stream()
    frames = x.reshape(70, *stream.inputs[0].shape)
    steps = np.stack([stream.step(frame) for frame in frames])
    assert steps.tobytes() == loaded(x).tobytes() == loaded.run(frames).tobytes()


@pytest.mark.parametrize("read", ["backwards", "wrapped"])
def test_a_loop_from_the_end_is_a_scan_backwards(read: str) -> None:
    proto = looped(read)
    assert "Scan" in ops(proto)
    loaded = held(proto)
    with pytest.raises(gs.UnsupportedModelError, match=r"Scan 'loop'.*backwards"):
        loaded.stream()


@pytest.mark.parametrize(
    ("read", "count"),
    [("every other", "T"), ("the next", "T"), ("gather", "three")],
    ids=["strided", "shifted", "three"],
)
def test_what_is_no_scan_stays_a_loop(read: str, count: str) -> None:
    proto = looped(read, count=count)
    assert "Loop" in ops(proto)
    loaded = held(proto, (3, 5, 9))
    with pytest.raises(gs.UnsupportedModelError):
        loaded.stream()


# ---------------------------------------------------------------------- PyTorch's exporter


def exported(net: Any, args: tuple[Any, ...], axes: dict[str, Any]) -> bytes:
    torch = pytest.importorskip("torch")
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            torch.jit.script(net.eval()),
            args,
            file,
            dynamo=False,
            input_names=list(axes),
            dynamic_axes=axes,
            opset_version=17,
        )
    return file.getvalue()


def cell_loop(kind: str) -> Any:
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.cell = torch.nn.LSTMCell(3, 5)
            self.out = torch.nn.Linear(5, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.zeros(x.size(1), 5)
            c = torch.zeros(x.size(1), 5)
            outs: list[torch.Tensor] = []
            for t in range(x.size(0)):
                h, c = self.cell(x[t], (h, c))
                outs.append(self.out(h))
            return torch.stack(outs)

    class Gates(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Linear(3 + 5, 20)
            self.r = torch.nn.Linear(5, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.zeros(x.size(1), 5)
            c = torch.zeros(x.size(1), 5)
            outs: list[torch.Tensor] = []
            for t in range(x.size(0)):
                i, f, g, o = self.w(torch.cat([x[t], h], 1)).chunk(4, 1)
                c = torch.sigmoid(f + 1) * c + torch.sigmoid(i) * torch.tanh(g)
                h = self.r(torch.sigmoid(o) * torch.tanh(c))
                outs.append(h)
            return torch.stack(outs)

    torch.manual_seed(0)
    return {"cell": Net, "gates": Gates}[kind]()


@pytest.mark.parametrize("kind", ["cell", "gates"])
def test_a_scripted_loop_of_pytorch(kind: str) -> None:
    torch = pytest.importorskip("torch")
    net = cell_loop(kind)
    data = exported(net, (torch.zeros(4, 2, 3),), {"x": {0: "T", 1: "B"}})
    loaded = gs.load(data)
    x = rand(21, 2, 3)
    with torch.no_grad():
        want = net(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(loaded(x), want, atol=1e-5)
    stream = loaded.stream(batch=2)
    assert np.stack([stream.step(frame) for frame in x]).tobytes() == loaded(x).tobytes()


# ---------------------------------------------------------------------- random programs


@st.composite
def programs(draw: st.DrawFn) -> tuple[Any, int]:
    """A Loop or Scan over states of one shape, with random operations between them, branches among them."""
    values = ["a", "b", "x_t"]
    nodes = []
    for k in range(draw(st.integers(1, 7))):
        op = draw(st.sampled_from(["Add", "Mul", "Tanh", "Sigmoid", "MatMul", "Neg", "If"]))
        left, right = draw(st.sampled_from(values)), draw(st.sampled_from(values))
        out = f"v{k}"
        if op == "If":
            branches = [
                helper.make_graph([node(kind, used, f"{out}{kind}")], "b", [], [port(f"{out}{kind}")])
                for kind, used in (("Sin", left), ("Abs", right))
            ]
            nodes += [node("ReduceSum", left, f"{out}s", keepdims=0), node("Less", f"{out}s nought", f"{out}c")]
            nodes.append(helper.make_node("If", [f"{out}c"], [out], then_branch=branches[0], else_branch=branches[1]))
        elif op == "MatMul":
            nodes.append(node(op, f"{left} M", out))
        else:
            nodes.append(node(op, f"{left} {right}" if op in ("Add", "Mul") else left, out))
        values.append(out)
    after = [draw(st.sampled_from(values)) for _ in "ab"]
    given = draw(st.sampled_from(values))
    nodes += [node("Tanh", after[0], "a+"), node("Identity", after[1], "b+"), node("Identity", given, "y_t")]
    weights = {
        "M": rand(3, 3, seed=3) / 2,
        "nought": np.array(0, np.float32),
        "yes": np.array(True),
        "zero": np.array(0),
    }
    ports = [port("a"), port("b")]
    outs = [port("a+"), port("b+")]
    if draw(st.booleans()):
        body = helper.make_graph(nodes, "body", [*ports, port("x_t")], [*outs, port("y_t")])
        main = [helper.make_node("Scan", ["a_0", "b_0", "x"], ["a_end", "b_end", "y"], body=body, num_scan_inputs=1)]
    else:
        nodes.insert(0, node("Gather", "x i", "x_t", axis=0))
        inputs = [port("i", (), INT64), port("go", (), BOOL), *ports]
        body = helper.make_graph(nodes, "body", inputs, [port("go", (), BOOL), *outs, port("y_t")])
        main = [node("Shape", "x", "sizes"), node("Gather", "sizes zero", "T", axis=0)]
        main.append(helper.make_node("Loop", ["T", "yes", "a_0", "b_0"], ["a_end", "b_end", "y"], body=body))
    arrays = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    inputs = [port("x", ["T", 2, 3]), port("a_0", [2, 3]), port("b_0", [2, 3])]
    graph = helper.make_graph(main, "g", inputs, [port("y"), port("a_end"), port("b_end")], arrays)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return proto, draw(st.integers(1, 6))


@settings(max_examples=40, deadline=None)
@given(programs())
def test_random_loops(program: tuple[Any, int]) -> None:
    proto, steps = program
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {"x": rand(steps, 2, 3), "a_0": rand(2, 3, seed=1), "b_0": rand(2, 3, seed=2)}
    want = session.run(None, feeds)
    for got, array in zip(gs.load(proto)(feeds).values(), want, strict=True):
        np.testing.assert_allclose(got, array, atol=1e-4, rtol=1e-3)
