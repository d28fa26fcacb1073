"""Files that leave sizes free which a stream has to know: a block of samples per call, a batch of many names."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

import gatestep as gs

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper  # noqa: E402
from onnx_models import info, make  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
H, BLOCK = 8, {16000: 96, 8000: 48}


def front(tag: str, window: int, rng: np.random.Generator) -> tuple[list[Any], dict[str, np.ndarray]]:
    """A short-time transform of a reflected block, its magnitude, and one frame of features."""
    nodes = [
        helper.make_node("Pad", ["x", f"{tag}pads"], [f"{tag}padded"], mode="reflect"),
        helper.make_node("Unsqueeze", [f"{tag}padded", "one"], [f"{tag}wave"]),
        helper.make_node("Conv", [f"{tag}wave", f"{tag}basis"], [f"{tag}waves"], strides=[window // 2]),
        helper.make_node("Abs", [f"{tag}waves"], [f"{tag}magnitude"]),
        helper.make_node("Conv", [f"{tag}magnitude", f"{tag}down"], [f"{tag}out"], strides=[4]),
    ]
    arrays = {
        f"{tag}pads": np.array([0, window // 4, 0, window // 4]),
        f"{tag}basis": rng.standard_normal((6, 1, window)).astype(np.float32) / window,
        f"{tag}down": rng.standard_normal((H, 6, 2)).astype(np.float32),
    }
    return nodes, arrays


def detector(dims: tuple[Any, Any, Any]) -> bytes:
    """Silero's way: a branch for each sampling rate, blocks of samples with an LSTM's state (2, B, H) beside them."""
    rng = np.random.default_rng(5)
    branches, arrays = [], {"one": np.array([1]), "rate": np.array(16000)}
    for tag, window in (("high", 96), ("low", 48)):
        nodes, own = front(tag, window, rng)
        branches.append(helper.make_graph(nodes, tag, [], [info(f"{tag}out", None)]))
        arrays |= own
    arrays |= {
        "w": rng.standard_normal((1, 4 * H, H)).astype(np.float32),
        "r": rng.standard_normal((1, 4 * H, H)).astype(np.float32) * 0.3,
        "zero": np.array([0]),
        "two": np.array([2]),
    }
    nodes = [
        helper.make_node("Equal", ["sr", "rate"], ["is_high"]),
        helper.make_node("If", ["is_high"], ["features"], then_branch=branches[0], else_branch=branches[1]),
        helper.make_node("Transpose", ["features"], ["frames"], perm=[2, 0, 1]),
        helper.make_node("Slice", ["state", "zero", "one", "zero"], ["h"]),
        helper.make_node("Slice", ["state", "one", "two", "zero"], ["c"]),
        helper.make_node("LSTM", ["frames", "w", "r", "", "", "h", "c"], ["y", "hn", "cn"], hidden_size=H),
        helper.make_node("Concat", ["hn", "cn"], ["stateN"], axis=0),
        helper.make_node("ReduceMean", ["y"], ["mean"], axes=[0, 1, 3], keepdims=0),
        helper.make_node("Sigmoid", ["mean"], ["output"]),
    ]
    batch, samples, rows = dims
    inputs = [info("x", (batch, samples)), info("state", (2, rows, H)), info("sr", (), TensorProto.INT64)]
    return bytes(make(nodes, inputs, [info("output", None), info("stateN", None)], weights=arrays).SerializeToString())


FREE = [("B", "samples", "B"), ("batch", "samples", "rows"), (None, None, None)]


@pytest.mark.parametrize("dims", FREE, ids=["named", "apart", "unnamed"])
@pytest.mark.parametrize("rate", BLOCK)
def test_a_block_per_call_streams_where_its_size_is_said(dims: Any, rate: int) -> None:
    data, n = detector(dims), 5 * BLOCK[rate] // 2
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    model = gs.load(data, bind={"sr": rate}, shapes={"x": (1, n)})
    assert model.layout.states_in() == {"state"}
    stream = model.stream()
    assert [frame.shape for frame in stream.inputs] == [(n,)]
    state, rng = np.zeros((2, 1, H), np.float32), np.random.default_rng(rate)
    for _ in range(20):
        block = rng.standard_normal((1, n)).astype(np.float32)
        want, state = session.run(None, {"x": block, "state": state, "sr": np.array(rate)})
        np.testing.assert_allclose(stream.step(block[0]), want, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(stream.state["state"], state, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dims", FREE, ids=["named", "apart", "unnamed"])
def test_the_refusal_says_which_size_to_say(dims: Any) -> None:
    model = gs.load(detector(dims), bind={"sr": 16000})
    with pytest.raises(gs.UnsupportedModelError) as refused:
        model.stream()
    assert "shapes={'x': (1, n)}" in str(refused.value)
    assert repr(dims[1] or 1) in str(refused.value)
    feeds = {"x": np.ones((3, 240), np.float32), "state": np.zeros((2, 3, H), np.float32)}
    assert model(feeds)["stateN"].shape == (2, 3, H)


@pytest.mark.parametrize("names", [("B", "T", "C"), (None, None, None)])
@pytest.mark.parametrize("cell", ["GRU", "LSTM"])
def test_the_batch_of_a_state_is_that_of_the_frames(cell: str, names: Any) -> None:
    """Both exporters of PyTorch name every free axis by itself where they are not told names."""
    torch = pytest.importorskip("torch")
    module = getattr(torch.nn, cell)(5, 6, batch_first=True).eval()
    args: Any = torch.zeros(1, 2, 6) if cell == "GRU" else (torch.zeros(1, 2, 6), torch.zeros(1, 2, 6))
    states = ["h"] if cell == "GRU" else ["h", "c"]
    axes: dict[str, Any] = {"x": [0, 1]} | {name: [1] for name in states}
    if names[0]:
        axes = {"x": {0: "B", 1: "T"}} | {name: {1: f"{name}_rows"} for name in states}
    buffer = io.BytesIO()
    torch.onnx.export(
        module,
        (torch.zeros(2, 4, 5), args),
        buffer,
        input_names=["x", *states],
        output_names=["y", *(f"{name}n" for name in states)],
        dynamic_axes=axes,
        dynamo=False,
    )
    model = gs.load(buffer.getvalue())
    assert model.streams, model.layout.blocker
    assert model.layout.states_in() == set(states)
    x = np.random.default_rng(0).standard_normal((3, 7, 5)).astype(np.float32)
    with torch.no_grad():
        want = module(torch.from_numpy(x))[0].numpy()
    np.testing.assert_allclose(model.run(x.transpose(1, 0, 2)), want.transpose(1, 0, 2), rtol=1e-4, atol=1e-5)
    with pytest.raises(gs.ShapeError, match="'h' has shape"):
        model({"x": x, **{name: np.zeros((1, 1, 6), np.float32) for name in states}})


def test_what_may_be_one_row_beside_many_stays_free() -> None:
    data = make(
        [helper.make_node("Add", ["a", "b"], ["y"])], [info("a", ("N", 3)), info("b", ("M", 3))], [info("y", None)]
    )
    model = gs.load(bytes(data.SerializeToString()))
    assert [port.shape for port in model.inputs] == [("N", 3), ("M", 3)]
    a, b = np.ones((4, 3), np.float32), np.ones((1, 3), np.float32)
    np.testing.assert_array_equal(model(a, b), a + b)
