"""Sizes that an exporter has frozen are freed where they are those of time or batch, and stay where they are needed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gatestep as gs

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
T, B, F, H = 9, 4, 6, 6
UNSAID = ("strides", "pads", "dilations", "kernel_shape", "output_padding", "output_shape")
TRANSPOSED = dict.fromkeys(UNSAID) | {"auto_pad": "NOTSET", "group": 1}


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def free(n: Any, model: Any, *sizes: tuple[int, int], time: int = 0) -> None:
    """The model gives at the file's sizes what the file says, at others what each row gives by itself, as a stream."""
    (port,) = n.graph.inputs
    for k, (t, b) in enumerate([(T, port.shape[1 - time]), *sizes]):
        x = noise(*((t, b) if time == 0 else (b, t)), F, seed=k)
        got = model(x)
        if k == 0:
            np.testing.assert_allclose(got, next(iter(n.evaluate({"x": x}).values())), **CLOSE)
        stream = model.stream(b)
        steps = np.stack([stream.step(np.ascontiguousarray(frame)) for frame in np.moveaxis(x, time, 0)])
        whole = np.moveaxis(got, time, 0) if got.ndim == 3 else got
        last = steps if got.ndim == 3 else steps[-1]
        assert last.reshape(whole.shape).tobytes() == np.ascontiguousarray(whole).tobytes()


@pytest.mark.parametrize("batch", [1, B, F])
def test_reshapes_around_a_layer(net: Any, batch: int) -> None:
    """Six features, six units and, the third time, six rows: only the tags tell them apart."""
    n = net()
    x = n.input("x", T, batch, F)
    y = n("Reshape", x, [T * batch, F])
    y = n("Relu", n("Gemm", y, n.weights(F, H), n.weights(H)))
    y = n("Reshape", y, [T, batch, H])
    y = n.cell("GRU", y, H, H, h0=np.zeros((1, batch, H)))[0]
    y = n("Reshape", n("Transpose", y, perm=(0, 2, 1, 3)), [T, batch, H])
    y = n("Reshape", n("MatMul", n("Reshape", y, [T * batch, H]), n.weights(H, 3)), [T, batch, 3], out="y")
    model = n.output("y", shape=(T, batch, 3)).model()
    assert [p.shape for p in (*model.inputs, *model.outputs)] == [("time", "batch", F), ("time", "batch", 3)]
    assert f"time un-frozen from {T}" in str(model)
    free(n, model, (5, 3), (1, 1), (13, batch))


def test_the_last_step_by_its_number(net: Any) -> None:
    n = net()
    x = n.input("x", B, T, F)
    y = n.layer("LSTM", n("Transpose", x, perm=(1, 0, 2)), F, H)
    y = n("Squeeze", n("Slice", y, [T - 1], [T], [0], [1]), [0])
    n("MatMul", y, n.weights(H, 3), out="y")
    model = n.output("y", shape=(B, 3)).model()
    assert model.outputs[0].shape == ("batch", 3)
    free(n, model, (4, 2), (12, 1), time=1)


@pytest.mark.parametrize("how", ["constant", "learned", "computed"])
def test_an_initial_state_for_each_row(net: Any, how: str) -> None:
    n = net()
    x = n.input("x", T, B, F)
    row = n.weights(1, 1, H)
    h0 = np.repeat(row, B, 1) if how == "constant" else n("Expand", n.graph.constant(row), [1, B, H])
    if how == "computed":
        h0 = n("Concat", n("Expand", row[..., :2], [1, B, 2]), n("Expand", row[..., 2:], [1, B, H - 2]), axis=2)
    y = n.cell("GRU", x, F, H, h0=h0)[0]
    n("Squeeze", y, [1], out="y")
    model = n.output("y").model()
    assert model.inputs[0].shape == ("time", "batch", F)
    free(n, model, (5, 7), (3, 1))


def test_rows_that_begin_differently_keep_their_number(net: Any) -> None:
    n = net()
    x = n.input("x", T, B, F)
    n("Squeeze", n.cell("GRU", x, F, H, h0=n.weights(1, B, H))[0], [1], out="y")
    model = n.output("y").model()
    assert model.inputs[0].shape == ("time", B, F)
    assert not model.layout.free_batch


WINDOWS = {
    "dense": lambda n, y: n("MatMul", n("Reshape", n("Transpose", y, perm=(1, 0, 2)), [B, T * H]), n.weights(T * H, 2)),
    "table": lambda n, y: n("Add", y, n.weights(T, 1, H)),
    "mean": lambda n, y: n("Mul", n("ReduceSum", y, [0], keepdims=0), 1 / T),
    "part": lambda n, y: n("Slice", y, [2], [5], [0], [1]),
}


@pytest.mark.parametrize("window", WINDOWS)
def test_a_window_that_is_needed_stays(net: Any, window: str) -> None:
    """What depends on the number of frames, or on the place in them, has no other size."""
    n = net()
    y = WINDOWS[window](n, n.layer("GRU", n.input("x", T, B, F), F, H))
    n("Sigmoid", y, out="y")
    model = n.output("y").model()
    assert model.inputs[0].shape == (T, "batch", F)
    x = noise(T, B, F)
    np.testing.assert_allclose(model(x), n.evaluate({"x": x})["y"], **CLOSE)
    with pytest.raises(gs.UnsupportedModelError, match=r"fixes 9 time steps|does not stream"):
        model.stream()


def test_lengths_of_whole_rows(net: Any) -> None:
    n = net()
    x = n.input("x", T, B, F)
    n("Squeeze", n.cell("RNN", x, F, H, lengths=np.full(B, T, np.int32))[0], [1], out="y")
    free(n, n.output("y").model(), (4, 2))


def test_one_frame_per_call_stays_a_frame(net: Any) -> None:
    n = net()
    x, h = n.input("x", 1, 1, F), n.input("h", 1, 1, H)
    y, _ = n.cell("GRU", x, F, H, h0=h, out=["y", "hn"])
    model = n.output(y, "hn").model()
    assert model.inputs[0].shape == (1, "batch", F)
    assert model.layout.states == {"h": "hn"}


@pytest.mark.parametrize("zeros", [True, False])
def test_the_state_of_one_row_in_a_file_of_any_batch(net: Any, zeros: bool) -> None:
    n = net()
    x = n.input("x", "T", "B", F)
    h0, c0 = (np.zeros((1, 1, H)) if zeros else n.weights(1, 1, H) for _ in range(2))
    n("Squeeze", n.cell("LSTM", x, F, H, h0=h0, c0=c0)[0], [1], out="y")
    model = n.output("y").model()
    frames = noise(T, B, F)
    whole = model(frames)
    for row in range(B):
        want = n.evaluate({"x": frames[:, row : row + 1]})["y"]
        np.testing.assert_allclose(whole[:, row : row + 1], want, **CLOSE)
    assert model.stream(B).run(frames).tobytes() == whole.tobytes()


@pytest.mark.parametrize("batch", ["N", 1])
def test_a_reshape_that_has_the_traced_size_of_a_free_axis(net: Any, batch: Any) -> None:
    """What PyTorch's exporters write for ``y.reshape(-1, T, H)`` of a recording of nine frames."""
    n = net()
    y = n.layer("GRU", n("Transpose", n.input("x", batch, "time", F), perm=(1, 0, 2)), F, H)
    y = n("Reshape", n("Transpose", y, perm=(1, 0, 2)), [-1, T, 2, H // 2])
    n("Relu", y, out="y")
    model = n.output("y").model()
    assert f"time un-frozen from {T}" in str(model)
    x = noise(1 if batch == 1 else 3, T, F)
    np.testing.assert_allclose(model(x), n.evaluate({"x": x})["y"], **CLOSE)
    rows = None if batch == 1 else 3
    longer = noise(rows or 1, T + 4, F)
    stream = model.stream(rows)
    steps = [stream.step(np.ascontiguousarray(longer[:, t] if rows else longer[0, t])) for t in range(T + 4)]
    assert np.stack(steps).tobytes() == np.ascontiguousarray(np.moveaxis(model(longer), 1, 0)).tobytes()


def test_a_slice_to_the_length_of_the_input_follows_it(net: Any) -> None:
    """A transposed convolution adds a frame behind the last; the file cuts it off by number."""
    n = net()
    y = n.layer("GRU", n.input("x", T, 1, F), F, H)
    y = n("ConvTranspose", n("Transpose", y, perm=(1, 2, 0)), n.weights(H, 3, 2), **TRANSPOSED)
    n("Slice", y, [0], [T], [2], [1], out="y")
    model = n.output("y").model()
    assert f"time un-frozen from {T}" in str(model)
    x = noise(T + 3, 1, F)
    stream = model.stream()
    steps = np.stack([stream.step(frame) for frame in x[:, 0]])
    assert steps.reshape(T + 3, 3).tobytes() == np.ascontiguousarray(model(x)[0].T).tobytes()
    np.testing.assert_allclose(model(x[:T]), n.evaluate({"x": x[:T]})["y"], **CLOSE)


def test_padding_ahead_of_a_window_is_for_any_number_of_frames(net: Any) -> None:
    """Causal convolutions as they are exported: frames of zeros, then windows without padding of their own."""
    n = net()
    y = n(
        "Pad", n("Transpose", n.input("x", 2, T, F), perm=(0, 2, 1)), [0, 0, 2, 0, 0, 0], np.float32(0), mode="constant"
    )
    y = n("Conv", y, n.weights(F, F, 3), **{k: v for k, v in TRANSPOSED.items() if not k.startswith("output")})
    y = n.layer("GRU", n("Transpose", y, perm=(2, 0, 1)), F, H)
    n("Transpose", y, perm=(1, 0, 2), out="y")
    model = n.output("y").model()
    assert f"time un-frozen from {T}" in str(model)
    free(n, model, (T + 3, 2), time=1)
