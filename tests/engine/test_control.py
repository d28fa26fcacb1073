"""If, Loop and Scan against ONNX Runtime: whole calls, bound inputs, streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from gatestep.engine import oracle  # noqa: E402
from gatestep.importers.onnx import read_onnx  # noqa: E402
from node_cases import node_cases  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

import gatestep as gs  # noqa: E402

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def port(name: str, shape: Sequence[Any] | None = (), kind: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def node(op: str, inputs: str, outputs: str, **attrs: Any) -> Any:
    """Names apart by blanks; ``_`` for one left out."""
    names = [["" if name == "_" else name for name in side.split()] for side in (inputs, outputs)]
    return helper.make_node(op, *names, name=f"{op}/{outputs.split()[0]}", **attrs)


def graph(nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], **weights: Any) -> Any:
    arrays = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    return helper.make_graph(list(nodes), "g", list(inputs), list(outputs), arrays)


def model(*args: Any, opset: int = 17, **weights: Any) -> Any:
    return helper.make_model(graph(*args, **weights), opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def session(proto: Any) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def same(proto: Any, feeds: Mapping[str, Any], atol: float = 1e-5, **options: Any) -> Any:
    """The model, whose whole call gives what ONNX Runtime gives, and whose definition gives that as well."""
    want = dict(zip([out.name for out in proto.graph.output], session(proto).run(None, dict(feeds)), strict=True))
    loaded = gs.load(proto, **options)
    bound = options.get("bind", {})
    got = loaded({name: value for name, value in feeds.items() if name not in bound})
    defined = oracle.evaluate(read_onnx(proto), feeds)
    for name, array in want.items():
        if not array.size:  # ONNX Runtime has no shape for what no iteration made
            assert not got[name].size and not defined[name].size
            continue
        assert got[name].shape == array.shape
        assert got[name].dtype == array.dtype
        np.testing.assert_allclose(got[name], array, atol=atol, rtol=1e-4)
        np.testing.assert_allclose(defined[name], array, atol=atol, rtol=1e-4)
    return loaded


def rand(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# ---------------------------------------------------------------------- ONNX's own node tests


MODULES = "if_ loop scan sequence_map sequenceinsert splittosequence"
OPS = "If Loop Scan SplitToSequence ConcatFromSequence SequenceAt SequenceConstruct SequenceEmpty SequenceErase"
OPS += " SequenceInsert SequenceLength SequenceMap"


def holds_tensors(case: Any) -> bool:
    infos = (*case.model.graph.input, *case.model.graph.output)
    return all(info.type.HasField("tensor_type") for info in infos)


@pytest.mark.parametrize("case", node_cases(MODULES, OPS), ids=lambda case: case.name)
def test_onnx_node(case: Any) -> None:
    if not holds_tensors(case):
        with pytest.raises(gs.UnsupportedModelError, match=r"not a tensor|is a sequence|operator .* is not supported"):
            gs.load(case.model)
        return
    loaded = gs.load(case.model)
    for inputs, outputs in case.data_sets:
        got = loaded(dict(zip([p.name for p in loaded.inputs], inputs, strict=True)))
        for out, want in zip(loaded.outputs, outputs, strict=True):
            np.testing.assert_allclose(got[out.name], want, rtol=case.rtol, atol=case.atol, strict=True)


# ---------------------------------------------------------------------- If


def two_nets(condition: Sequence[Any], inputs: Sequence[Any]) -> Any:
    """A net that has two layers to choose from, by what `condition` makes ``c`` of."""
    branches = [
        graph([node("Gemm", f"x {w}", "h"), node(act, "h", "out")], [], [port("out", None)])
        for w, act in (("wide", "Tanh"), ("flat", "Relu"))
    ]
    choice = node("If", "c", "y", then_branch=branches[0], else_branch=branches[1])
    weights = {"wide": rand(4, 5), "flat": rand(4, 5, seed=1)}
    return model([*condition, choice], [port("x", ["N", 4]), *inputs], [port("y", None)], **weights, **{
        "rate": np.array(16000), "zero": np.array(0, np.float32), "ax": np.array([0, 1]),
    })  # fmt: skip


BY_RATE = ([helper.make_node("Equal", ["sr", "rate"], ["c"])], [port("sr", (), INT64)])


@pytest.mark.parametrize("sr", [16000, 8000])
def test_a_branch_by_an_input(sr: int) -> None:
    proto = two_nets(*BY_RATE)
    feeds = {"x": rand(3, 4), "sr": np.array(sr)}
    free = same(proto, feeds)
    bound = same(proto, feeds, bind={"sr": sr})
    assert free(feeds)["y"].tobytes() == bound(feeds["x"]).tobytes()
    assert [p.name for p in bound.inputs] == ["x"]
    assert not any(n.op == "If" for n in bound.graph.nodes)
    assert bound.streams


def test_a_stream_that_must_be_told_its_branch() -> None:
    with pytest.raises(gs.UnsupportedModelError, match=r"does not stream.*bind=\{'sr': \.\.\.\}") as caught:
        gs.load(two_nets(*BY_RATE)).stream()
    assert "If 'If/y'" in str(caught.value)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_branch_by_what_is_computed(sign: int) -> None:
    condition = [node("ReduceSum", "x ax", "s", keepdims=0), node("Greater", "s zero", "c")]
    same(two_nets(condition, []), {"x": sign * np.abs(rand(3, 4))})


def test_branches_of_different_shapes() -> None:
    """Each has a program of its own."""
    shapes = [
        graph([node("Transpose", "x", "out")], [], [port("out", None)]),
        graph([node("Neg", "x", "out")], [], [port("out", None)]),
    ]
    choice = node("If", "c", "y", then_branch=shapes[0], else_branch=shapes[1])
    proto = model([choice], [port("x", [2, 3]), port("c", (), BOOL)], [port("y", None)])
    for c in (True, False):
        same(proto, {"x": rand(2, 3), "c": np.array(c)})
    nodes = [node("ReduceSum", "x", "s", keepdims=0), node("Greater", "s zero", "c"), choice]
    proto = model(nodes, [port("x", [2, 3])], [port("y", None)], zero=np.array(0, np.float32))
    for sign in (1, -1):
        same(proto, {"x": sign * np.abs(rand(2, 3))})


@pytest.mark.parametrize(
    ("bind", "error", "message"),
    [
        ({"rate": 1}, gs.UnsupportedModelError, r"Inputs are \['sr', 'x'\]"),
        ({"sr": 1.5}, gs.ShapeError, "'sr' has dtype float64"),
        ({"sr": [1, 2]}, gs.ShapeError, r"'sr' has shape \(2,\)"),
        ({"x": rand(2, 3)}, gs.ShapeError, r"'x' has shape \(2, 3\)"),
        ({"x": rand(2, 4), "sr": 1}, gs.UnsupportedModelError, "leaves no input"),
    ],
)
def test_what_cannot_be_bound(bind: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        gs.load(two_nets(*BY_RATE), bind=bind)


@pytest.mark.parametrize(("axis", "streams"), [(0, False), (2, True)])
def test_a_branch_by_a_size(axis: int, streams: bool) -> None:
    """By the number of frames it is no stream; by one that the file fixes it is no branch."""
    sized = [node("Shape", "y", "sizes"), node("Gather", "sizes at", "n"), node("Greater", "n few", "c")]
    branches = [graph([node(op, "y", "out")], [], [port("out", None)]) for op in ("Sin", "Neg")]
    nodes = [
        node("RNN", "x w r", "all", hidden_size=4),
        node("Squeeze", "all one", "y"),
        *sized,
        node("If", "c", "z", then_branch=branches[0], else_branch=branches[1]),
    ]
    weights = {"w": rand(1, 4, 3), "r": rand(1, 4, 4), "one": np.array([1]), "at": np.array(axis), "few": np.array(3)}
    proto = model(nodes, [port("x", ["T", "B", 3])], [port("z", None)], **weights)
    for steps in (2, 7):
        loaded = same(proto, {"x": rand(steps, 1, 3)})
    assert loaded.streams is streams
    if not streams:
        with pytest.raises(gs.UnsupportedModelError, match="If 'If/z': does not stream: it depends on the number of"):
            loaded.stream()


def test_sizes_that_the_caller_fixes() -> None:
    """A free size that is neither time nor batch: a stream must be told it, and one name is one size."""
    nodes = [node("Mul", "x x", "q"), node("ReduceMean", "q", "m", axes=[1]), node("Add", "s m", "s_out")]
    proto = model(nodes, [port("x", ["B", "N"]), port("s", ["B", 1])], [port("m", None), port("s_out", None)])
    with pytest.raises(gs.UnsupportedModelError, match=r"'N' of input 'x'.*shapes=\{'x'"):
        gs.load(proto).stream()
    loaded = gs.load(proto, shapes={"x": (1, 64)})
    assert [p.shape for p in loaded.inputs] == [(1, 64), (1, 1)]
    assert loaded.layout.carried == {"s": "s_out"}
    stream, total = loaded.stream(), 0.0
    for k in range(3):
        x = rand(64, seed=k)
        assert np.isclose(stream.step({"x": x.reshape(stream.inputs[0].shape)})["m"].item(), (x**2).mean(), atol=1e-6)
        total += float((x**2).mean())
    assert np.isclose(stream.state["s"].item(), total, atol=1e-5)
    assert [p.shape for p in gs.load(proto, shapes={"x": (None, 8)}).inputs] == [("B", 8), ("B", 1)]


@pytest.mark.parametrize(
    ("shapes", "error", "message"),
    [
        ({"y": (3, 4)}, gs.UnsupportedModelError, "is no input"),
        ({"x": (3, 5)}, gs.ShapeError, r"\('N', 4\)"),
        ({"x": (4,)}, gs.ShapeError, "does not fit"),
        ({"x": (-1, 4)}, gs.ShapeError, "not a tuple of sizes"),
        ({"x": "3, 4"}, gs.ShapeError, "not a tuple of sizes"),
        ({"x": (True, 4)}, gs.ShapeError, "not a tuple of sizes"),
    ],
)
def test_what_is_no_shape(shapes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        gs.load(two_nets(*BY_RATE), shapes=shapes)


# ---------------------------------------------------------------------- Loop


def counting(body: Sequence[Any], states: Sequence[str], scans: Sequence[str], **options: Any) -> Any:
    """A Loop over `states`, whose next values are called ``s+``; inputs ``m`` (trip) and ``go``."""
    again, kinds = options.pop("again", "go_in"), options.pop("kinds", {})
    inner = graph(
        body,
        [port("i", (), INT64), port("go_in", (), BOOL), *(port(s, None, kinds.get(s, FLOAT)) for s in states)],
        [
            port(again, (), BOOL),
            *(port(f"{s}+", None, kinds.get(s, FLOAT)) for s in states),
            *(port(s, None) for s in scans),
        ],
        **options.pop("inside", {}),
    )
    outs = [*(f"{s}_end" for s in states), *(f"{s}_all" for s in scans)]
    loop = helper.make_node(
        "Loop", ["m", options.pop("go", "go"), *(f"{s}_0" for s in states)], outs, "loop", body=inner
    )
    return loop, [port(name, None, kinds.get(name.removesuffix("_end"), FLOAT)) for name in outs]


@pytest.mark.parametrize("count", [0, 1, 2, 17])
@pytest.mark.parametrize("known", [True, False])
def test_a_loop_of_a_number_of_iterations(count: int, known: bool) -> None:
    loop, outs = counting(
        [node("Mul", "h w", "hw"), node("Tanh", "hw", "ht"), node("Add", "ht x", "h+"), node("Neg", "h", "old")],
        ["h"], ["old"], inside={"w": rand(3, seed=2)},
    )  # fmt: skip
    trip = {"m": np.array(count)} if known else {}
    inputs = [port("x", [2, 3]), port("h_0", [2, 3]), *([] if known else [port("m", (), INT64)])]
    proto = model([loop], inputs, outs, go=np.array(True), **trip)
    feeds = {"x": rand(2, 3), "h_0": rand(2, 3, seed=1)} | ({} if known else {"m": np.array(count)})
    same(proto, feeds)
    last = model([loop], inputs, outs[:1], go=np.array(True), **trip)
    same(last, feeds)


@pytest.mark.parametrize("limit", ["m", ""])
@pytest.mark.parametrize("go", [True, False])
def test_a_loop_while_a_condition_holds(limit: str, go: bool) -> None:
    """Halve until it is small: the number of iterations is known nowhere but in the loop."""
    loop, outs = counting(
        [node("Mul", "h half", "h+"), node("ReduceMax", "h+", "top", keepdims=0), node("Greater", "top half", "more"),
         node("Add", "k one", "k+")],
        ["h", "k"], [], again="more", kinds={"k": INT64},
        inside={"half": np.array(0.5, np.float32), "one": np.array(1)},
    )  # fmt: skip
    loop.input[0] = limit
    proto = model([loop], [port("h_0", ["N"]), port("go", (), BOOL), port("k_0", (), INT64)], outs, m=np.array(5))
    for size in (1.0, 7.0, 500.0):
        feeds = {"h_0": size * np.ones(3, np.float32), "go": np.array(go), "k_0": np.array(0)}
        same(proto, feeds)


def test_states_that_change_places() -> None:
    loop, outs = counting([node("Add", "a b", "c+")], ["a", "b", "c"], [])
    inner = loop.attribute[0].g
    for out, name in zip(inner.output[1:], ("b", "a", "c+"), strict=True):
        out.name = name
    states = {name: rand(2, 2, seed=k) for k, name in enumerate(("a_0", "b_0", "c_0"))}
    inputs = [port(name, [2, 2]) for name in states]
    same(model([loop], inputs, outs, go=np.array(True), m=np.array(3)), states)


def test_what_lives_longer_than_an_iteration() -> None:
    """Values from before the loop, read in it; values of an iteration, read behind it."""
    loop, outs = counting(
        [node("Add", "h before", "u"), node("Sigmoid", "u", "v"), node("Mul", "v v", "w"), node("Sub", "w x", "h+"),
         node("Exp", "v", "e")],
        ["h"], ["e"],
    )  # fmt: skip
    nodes = [node("Exp", "x", "before"), node("Abs", "x", "aside"), loop, node("Add", "h_end aside", "y")]
    proto = model(
        nodes, [port("x", [3, 4]), port("h_0", [3, 4])], [*outs, port("y", None)], go=np.array(True), m=np.array(9)
    )
    same(proto, {"x": rand(3, 4), "h_0": rand(3, 4, seed=1)})


def test_shapes_that_grow() -> None:
    loop, outs = counting([node("Concat", "h x", "h+", axis=0)], ["h"], [])
    inputs = [port("x", [1, 2]), port("h_0", [1, 2])]
    feeds = {"x": rand(1, 2), "h_0": rand(1, 2, seed=1)}
    same(model([loop], inputs, outs, go=np.array(True), m=np.array(4)), feeds)
    nodes = [node("ReduceSum", "x", "t", keepdims=0), node("Cast", "t", "m", to=INT64), loop]
    with pytest.raises(gs.UnsupportedModelError, match=r"Loop 'loop': state 0 is float32 \(1, 2\) before an iteration"):
        gs.load(model(nodes, inputs, outs, go=np.array(True)))


def test_a_branch_in_a_loop_in_a_loop() -> None:
    choice = node(
        "If", "odd", "t",
        then_branch=graph([node("Mul", "h u", "o")], [], [port("o", None)]),
        else_branch=graph([node("Sub", "h u", "o")], [], [port("o", None)]),
    )  # fmt: skip
    within = graph(
        [node("Mod", "j two", "r"), node("Equal", "r jt", "odd"), choice],
        [port("j", (), INT64), port("g", (), BOOL), port("h", None)],
        [port("g", (), BOOL), port("t", None), port("h", None)],
        two=np.array(2),
    )  # fmt: skip
    inner = helper.make_node("Loop", ["n", "", "s"], ["s+", "each"], body=within)
    loop, outs = counting(
        [node("Mod", "i one", "jt"), node("Tanh", "s", "u"), inner], ["s"], ["each"],
        inside={"one": np.array(2), "n": np.array(3)},
    )  # fmt: skip
    proto = model([loop], [port("s_0", [2, 2])], outs, go=np.array(True), m=np.array(4))
    same(proto, {"s_0": rand(2, 2)})


# ---------------------------------------------------------------------- Scan


def scanned(**attrs: Any) -> Any:
    """h' = sin(x_t @ W + h @ U), y_t = h' * 2."""
    body = graph(
        [node("MatMul", "x_t W", "a"), node("MatMul", "h U", "b"), node("Add", "a b", "c"), node("Sin", "c", "h+"),
         node("Add", "h+ h+", "y_t")],
        [port("h", None), port("x_t", None)], [port("h+", None), port("y_t", None)],
    )  # fmt: skip
    return node("Scan", "h_0 x", "h_end y", body=body, num_scan_inputs=1, **attrs)


WEIGHTS = {"W": rand(3, 4) / 2, "U": rand(4, 4, seed=1) / 2}


@pytest.mark.parametrize("steps", [1, 2, 9])
@pytest.mark.parametrize(
    "attrs",
    [
        {},
        {"scan_input_axes": [1], "scan_output_axes": [-2]},
        {"scan_input_directions": [1]},
        {"scan_input_directions": [1], "scan_output_directions": [1], "scan_output_axes": [2]},
    ],
)
def test_scans(steps: int, attrs: dict[str, Any]) -> None:
    shape = (2, steps, 3) if attrs.get("scan_input_axes") else (steps, 2, 3)
    proto = model(
        [scanned(**attrs)],
        [port("x", [None] * 3), port("h_0", [None, 4])],
        [port("y", None), port("h_end", None)],
        **WEIGHTS,
    )
    same(proto, {"x": rand(*shape), "h_0": rand(2, 4, seed=3)})


def test_a_scan_streams() -> None:
    """Rows, chunks and single frames give the same bits; the state is the operator's."""
    proto = model([scanned()], [port("x", ["T", 1, 3])], [port("y", None)], h_0=rand(1, 4), **WEIGHTS)
    x = rand(75, 1, 3)
    loaded = same(proto, {"x": x})
    assert loaded.streams, str(loaded)
    stream = loaded.stream()
    steps = np.stack([stream.step(frame) for frame in x.reshape(75, *stream.inputs[0].shape)])
    assert loaded.run(x.reshape(75, *stream.inputs[0].shape)).tobytes() == steps.tobytes()
    assert loaded(x).tobytes() == steps.tobytes()


@pytest.mark.parametrize("packed", [False, True])
def test_states_of_a_scan_that_are_inputs_and_outputs(packed: bool) -> None:
    """As they are, or as a slice of one tensor: by the proof, and by hand."""
    nodes, begin, end = [scanned()], port("h_0", ["B", 4]), port("h_end", None)
    if packed:
        nodes = [node("Squeeze", "s ax", "h_0"), scanned(), node("Unsqueeze", "h_end ax", "s_end")]
        begin, end = port("s", ["B", 1, 4]), port("s_end", None)
    weights = {**WEIGHTS, "ax": np.array([1])} if packed else WEIGHTS
    proto = model(nodes, [port("x", ["T", "B", 3]), begin], [port("y", None), end], **weights)
    x, h = rand(20, 2, 3), rand(2, 4, seed=5).reshape([2, 1, 4] if packed else [2, 4])
    loaded = same(proto, {"x": x, begin.name: h})
    assert loaded.layout.states == {begin.name: end.name}
    stream = loaded.stream(batch=2)
    stream.state[begin.name] = h
    want, last = loaded(x, h)
    got = np.stack([stream.step(frame) for frame in x])
    assert got.tobytes() == want.tobytes()
    np.testing.assert_array_equal(stream.state[begin.name], last)
    alone = [loaded.stream() for _ in range(2)]
    for row, one in enumerate(alone):
        one.state[begin.name] = h[row : row + 1]
        assert one.run(x[:, row]).tobytes() == np.ascontiguousarray(want[:, row]).tobytes()


@pytest.mark.parametrize(
    ("attrs", "rows", "reason"),
    [
        ({"scan_input_directions": [1], "scan_output_directions": [1]}, 5, "Scan 'Scan/_'.*runs backwards in time"),
        ({"scan_input_axes": [1], "scan_output_axes": [1]}, 6, "fixes 6 time steps"),
    ],
)
def test_scans_that_do_not_stream(attrs: dict[str, Any], rows: int, reason: str) -> None:
    """Backwards, and along an axis that is not that of the recurrence before it."""
    body = scanned().attribute[0].g
    nodes = [
        node("RNN", "x w r", "h_all", hidden_size=3),
        node("Squeeze", "h_all one", "xs"),
        node("Scan", "h_0 xs", "_ y", body=body, num_scan_inputs=1, **attrs),
    ]
    weights = {"w": rand(1, 3, 3), "r": rand(1, 3, 3), "one": np.array([1]), "h_0": np.zeros((rows, 4), np.float32)}
    shape = [6, 5, 3] if rows == 6 else ["T", 5, 3]
    loaded = gs.load(model(nodes, [port("x", shape)], [port("y", None)], **weights, **WEIGHTS))
    with pytest.raises(gs.UnsupportedModelError, match=reason):
        loaded.stream()


# ---------------------------------------------------------------------- loops without end


@pytest.mark.parametrize("trip", [None, 2**62])
def test_a_loop_without_end_stops(trip: int | None) -> None:
    """What only the running program knows stops at a stated number, in well under a minute."""
    loop, outs = counting([node("Sin", "h", "h+")], ["h"], [])
    if trip is None:
        loop.input[0] = ""
    weights = {"m": np.array(trip)} if trip else {}
    loaded = gs.load(model([loop], [port("h_0", [1])], outs, go=np.array(True), **weights))
    with pytest.raises(gs.ShapeError, match=r"Loop 'loop': does not end \(more than 16,777,216 iterations\)"):
        loaded(np.ones(1, np.float32))


def test_a_loop_whose_end_takes_too_long_to_find() -> None:
    """A condition that is known before the loop runs is followed for a bounded number of steps."""
    loop, outs = counting(
        [node("Sin", "h", "h+"), node("Add", "k one", "k+"), node("Less", "k+ far", "more")],
        ["h", "k"], [], again="more", kinds={"k": INT64}, inside={"one": np.array(1), "far": np.array(2**60)},
    )  # fmt: skip
    loop.input[0] = ""
    proto = model([loop], [port("h_0", [1])], outs, go=np.array(True), k_0=np.array(0))
    with pytest.raises(gs.ShapeError, match="Loop 'loop': does not end"):
        gs.load(proto)(np.ones(1, np.float32))


# ---------------------------------------------------------------------- sequences


def test_sequences_while_a_program_is_built() -> None:
    """Made, cut, put in, taken out, measured and joined: with positions that are known."""
    nodes = [
        node("SplitToSequence", "x", "parts", axis=1, keepdims=0),
        node("SplitToSequence", "x sizes", "uneven", axis=1),
        node("SequenceAt", "uneven last", "tail"),
        node("Tanh", "tail", "t"),
        node("SequenceErase", "parts first", "fewer"),
        node("SequenceInsert", "fewer z first", "more"),
        node("ConcatFromSequence", "more", "joined", axis=-1, new_axis=1),
        node("SequenceConstruct", "t x", "two"),
        node("ConcatFromSequence", "two", "wide", axis=1),
        node("SequenceLength", "more", "n"),
        node("SequenceEmpty", "", "none"),
        node("SequenceInsert", "none wide", "single"),
        node("SequenceAt", "single first", "again"),
    ]
    proto = model(
        nodes, [port("x", [2, 5]), port("z", [2])],
        [port("joined", None), port("again", None), port("n", (), INT64)],
        sizes=np.array([1, 4]), first=np.array(0), last=np.array(-1),
    )  # fmt: skip
    same(proto, {"x": rand(2, 5), "z": rand(2, seed=1)})


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node("SequenceConstruct", "x x", "s"), node("Neg", "s", "y")], "Neg 'Neg/y': takes a sequence"),
        ([node("SequenceLength", "x", "y")], "SequenceLength"),
        ([node("SequenceConstruct", "x", "s"), node("SequenceAt", "s far", "y")], "position 9 lies outside"),
        ([node("SequenceEmpty", "", "s"), node("ConcatFromSequence", "s", "y", axis=0)], "a sequence of nothing"),
        ([node("SequenceConstruct", "x", "s"), node("Identity", "s", "y")], "'y' is a sequence"),
    ],
)
def test_sequences_that_are_refused(nodes: list[Any], message: str) -> None:
    with pytest.raises(gs.GatestepError, match=message):
        gs.load(model(nodes, [port("x", [2, 3])], [port("y", None)], far=np.array(9)))(rand(2, 3))


# ---------------------------------------------------------------------- a detector of voice


def detector() -> Any:
    """Both nets of a voice detector in one file, by rate: a convolution, and an LSTM whose state goes in and out."""

    def net(width: int, seed: int) -> Any:
        nodes = [
            node("Unsqueeze", "input one", "u"),
            node("Conv", "u k", "v", strides=[width]),
            node("Relu", "v", "r"),
            node("ReduceMean", "r", "m", axes=[2], keepdims=0),
            node("Unsqueeze", "m nought", "f"),
            node("Gather", "state first", "h", axis=0),
            node("Gather", "state second", "c", axis=0),
            node("Unsqueeze", "h nought", "h1"),
            node("Unsqueeze", "c nought", "c1"),
            node("LSTM", "f w q _ _ h1 c1", "_ hn cn", hidden_size=4),
            node("Concat", "hn cn", "out_state", axis=0),
            node("Squeeze", "hn nought", "g"),
            node("MatMul", "g o", "p"),
            node("Sigmoid", "p", "out"),
        ]
        weights = {
            "k": rand(6, 1, width, seed=seed), "w": rand(1, 16, 6, seed=seed) / 2, "q": rand(1, 16, 4, seed=seed) / 2,
            "o": rand(4, 1, seed=seed), "one": np.array([1]), "nought": np.array([0]),
            "first": np.array(0), "second": np.array(1),
        }  # fmt: skip
        made = graph(nodes, [], [port("out", None), port("out_state", None)], **weights)
        for part in made.node:  # names of its own, as exporters give them
            for names in (part.input, part.output):
                names[:] = [n if n in ("", "input", "state") else f"{n}{seed}" for n in names]
        for named in (*made.initializer, *made.output):
            named.name = f"{named.name}{seed}"
        return made

    choice = node("If", "c", "output stateN", then_branch=net(8, 1), else_branch=net(4, 2))
    return model(
        [node("Equal", "sr rate", "c"), choice],
        [port("input", [1, 32]), port("state", [2, 1, 4]), port("sr", (), INT64)],
        [port("output", None), port("stateN", None)], rate=np.array(16000),
    )  # fmt: skip


@pytest.mark.parametrize("rate", [16000, 8000])
def test_a_detector_with_a_net_for_every_rate(rate: int) -> None:
    proto = detector()
    reference = session(proto)
    loaded = gs.load(proto, bind={"sr": rate})
    assert loaded.layout.states == {"state": "stateN"}
    stream = loaded.stream()
    state = np.zeros((2, 1, 4), np.float32)
    for k in range(9):
        x = rand(1, 32, seed=k)
        want, state = reference.run(None, {"input": x, "state": state, "sr": np.array(rate)})
        got = stream.step(x.reshape(stream.inputs[0].shape))
        np.testing.assert_allclose(got.reshape(want.shape), want, atol=1e-6)
    with pytest.raises(gs.UnsupportedModelError, match=r"bind=\{'sr': \.\.\.\}"):
        gs.load(proto).stream()
