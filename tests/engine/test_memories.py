"""What needs a memory of past frames streams: every frame is what the whole call gives, late by what it looks ahead."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from gatestep.engine.errors import GatestepError, ShapeError, UnsupportedModelError
from hypothesis import given, settings
from hypothesis import strategies as st

CLOSE = {"rtol": 1e-3, "atol": 1e-4}
CONV: dict[str, Any] = {
    "strides": None,
    "pads": None,
    "auto_pad": "NOTSET",
    "dilations": None,
    "group": 1,
    "kernel_shape": None,
}
TRANSPOSED = CONV | {"output_padding": None, "output_shape": None}
POOL: dict[str, Any] = {
    "strides": None,
    "pads": None,
    "auto_pad": "NOTSET",
    "dilations": None,
    "ceil_mode": 0,
    "storage_order": 0,
}
MEAN = {k: v for k, v in POOL.items() if k not in ("dilations", "storage_order")} | {"count_include_pad": 1}
CHANNELS = 4


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def audio(net: Any, *shape: Any) -> tuple[Any, str]:
    """A net with frames of 4 channels, ``(B, 4, T)`` unless told."""
    n = net(source="audio.onnx")
    return n, n.input("x", *(shape or ("B", CHANNELS, "T")))


def conv(n: Any, x: str, channels: int = CHANNELS, size: int = 3, made: int = CHANNELS, **attrs: Any) -> str:
    group = attrs.get("group", 1)
    return str(n("Conv", x, n.weights(made, channels // group, size), n.weights(made), **CONV | attrs))


def recurrent(n: Any, x: str, op: str = "GRU", size: int = CHANNELS, hidden: int = CHANNELS) -> str:
    """A recurrent layer over ``(B, C, T)``."""
    return str(n("Transpose", n.layer(op, n("Transpose", x, perm=(2, 0, 1)), size, hidden), perm=(1, 2, 0)))


def assert_streams(n: Any, steps: int = 150, rows: int = 2, more: int = 0, seed: int = 3) -> Any:
    """The whole call, frame by frame and in chunks, by the operators' definitions; the model."""
    model = n.model()
    assert model.layout.blocker is None, model.layout.blocker
    delay, hop = model.delay + more, model.hop
    assert model.streams is (model.delay == 0)
    feeds = {}
    for port in model.inputs:
        axes = model.layout.axes[port.name]
        shape = [steps * hop if k == axes.time else rows if k == axes.batch else d for k, d in enumerate(port.shape)]
        feeds[port.name] = noise(*shape, seed=seed)
    want = n.evaluate(feeds)
    for name, array in model(feeds).items():
        np.testing.assert_allclose(array, want[name], **CLOSE)
    # A longer recording, which does not end where the stream is: padding and cutting at the end come later.
    longer = {}
    for name, array in feeds.items():
        axis = model.layout.axes[name].time
        longer[name] = array if axis is None else np.concatenate([array, array.take(range(40 * hop), axis)], axis)
    on = n.evaluate(longer)
    batch = rows if model.layout.free_batch else None
    frames = {}
    for name, array in feeds.items():
        axes = model.layout.axes[name]
        frames[name] = np.ascontiguousarray(array.transpose(axes.order(array.ndim)))
        if batch is None and axes.batch is not None:
            frames[name] = frames[name][:, 0]
    streams = [model.stream(batch, delay=delay) for _ in range(3)]
    assert all((stream.delay, stream.hop) == (delay, hop) for stream in streams)
    timed = {name for name in frames if model.layout.axes[name].time is not None}
    given = [
        {k: (a[t * hop : (t + 1) * hop] if hop > 1 else a[t]) if k in timed else a for k, a in frames.items()}
        for t in range(steps)
    ]
    stepped = [streams[0].step(frame) for frame in given]
    ran = streams[1].run(frames)
    parts, at = [], 0
    for length in (1, 7, 70, steps - 78):
        cut = slice(at * hop, (at + length) * hop)
        parts.append(streams[2].run({k: a[cut] if k in timed else a for k, a in frames.items()}))
        at += length
    alone = model.stream(1 if batch else None, delay=delay)
    for name, got in ran.items():
        axis, rate = model.layout.memories.outputs[name]
        pieces = [step[name] for step in stepped]
        assert got.tobytes() == (np.concatenate(pieces) if rate > 1 else np.stack(pieces)).tobytes()
        assert got.tobytes() == np.concatenate([part[name] for part in parts]).tobytes()
        whole = want[name]
        if axis is None:
            if not delay:
                np.testing.assert_allclose(got[-1].reshape(-1), whole.reshape(-1), **CLOSE)
            continue
        assert not got[: delay * rate].any()
        both = min(len(got) - delay * rate, want[name].shape[axis])
        short = want[name].transpose(model.layout.axes[name].order(want[name].ndim))
        np.testing.assert_allclose(got[delay * rate :][:both].reshape(short[:both].shape), short[:both], **CLOSE)
        whole = on[name].transpose(model.layout.axes[name].order(whole.ndim))
        got = got[delay * rate :]
        count = len(got)
        np.testing.assert_allclose(got[:count].reshape(whole[:count].shape), whole[:count], **CLOSE)
    if batch:  # a row alone has the bits that it has among others
        first = alone.run({k: a[:, :1] if model.layout.axes[k].batch is not None else a for k, a in frames.items()})
        for name, got in first.items():
            axes = model.layout.axes[name]
            if axes.batch is not None:
                assert got.tobytes() == np.ascontiguousarray(ran[name][:, :1]).tobytes()
    return model


# ---------------------------------------------------------------------- causal


def test_a_causal_convolution(net: Any) -> None:
    n, x = audio(net)
    y = n("Tanh", conv(n, x, pads=(4, 0), dilations=(2,)), out="y")
    model = assert_streams(n.output(y))
    assert (model.delay, model.hop) == (0, 1)
    stream = model.stream()
    assert [array.shape for array in stream.state.values()] == [(1, CHANNELS, 4)]
    assert stream.step(noise(CHANNELS)).shape == (CHANNELS,)


def test_padding_and_cutting_of_all_kinds(net: Any) -> None:
    """Pad before, also through a transposition; auto_pad; the tail that a causal network cuts off."""
    n, x = audio(net)
    wide = n("Pad", n("Transpose", x, perm=(0, 2, 1)), np.array([0, 2, 0, 0, 0, 0]), mode="constant")
    y = conv(n, n("Transpose", wide, perm=(0, 2, 1)))
    y = n("Relu", n("Slice", conv(n, y, pads=(4, 4), dilations=(2,)), [0], [-4], [2]))
    y = n("Add", x, n("Slice", conv(n, y, size=2, auto_pad="SAME_LOWER"), [0], [2**31 - 1], [2]))
    zeros = np.zeros((2, CHANNELS, 3), np.float32)
    n.input("e", 2, CHANNELS, "T")
    del n.graph.inputs[-1]
    y = conv(n, n("Concat", zeros, y, axis=2), size=4)
    n.graph.inputs[0] = type(n.graph.inputs[0])("x", (2, CHANNELS, "T"), n.graph.inputs[0].dtype)
    model = n.output(n("Tanh", y, out="y")).model()
    assert model.layout.blocker is None and model.delay == 0
    feed = noise(2, CHANNELS, 90)
    got = model.stream(2).run(np.ascontiguousarray(feed.transpose(2, 0, 1)))
    np.testing.assert_allclose(got, n.evaluate({"x": feed})["y"].transpose(2, 0, 1), **CLOSE)


def test_padding_once_for_many_convolutions(net: Any) -> None:
    """What stands before the recording goes through other nodes first: it is made before the stream begins."""
    n, x = audio(net)
    y = n("Pad", x, np.array([0, 0, 14, 0, 0, 0]), np.float32(0.5), mode="constant")
    for dilation in (1, 2, 4):
        y = n("Sigmoid", conv(n, y, dilations=(dilation,)))
    n("Tanh", recurrent(n, y), out="y")
    assert assert_streams(n.output("y")).layout.memories.before == 14


def test_gates_residuals_and_skips(net: Any) -> None:
    """A WaveNet block: valid convolutions, and what they skip cut to their length."""
    n, x = audio(net)
    skips = []
    y = n("Pad", x, np.array([0, 0, 7, 0, 0, 0]), mode="constant")
    for k in range(3):
        gate = n(
            "Mul", n("Tanh", conv(n, y, size=2, dilations=(2**k,))), n("Sigmoid", conv(n, y, size=2, dilations=(2**k,)))
        )
        skips.append(n("Slice", conv(n, gate, size=1), [-(2**31) + 1], [2**31 - 1], [2]))
        y = n("Add", conv(n, gate, size=1), n("Slice", y, [2**k], [2**31 - 1], [2]))
    n("Tanh", y, out="y")
    assert_streams(n.output("y"))


def test_two_dimensions(net: Any) -> None:
    """Time and frequency: strides along frequency, memory along time; a recurrent operator on all of a frame."""
    n, x = audio(net, "B", 2, "T", 9)
    y = n("Conv", x, n.weights(4, 2, 2, 3), n.weights(4), **CONV | {"pads": (1, 1, 0, 1), "strides": (1, 2)})
    y = n("Relu", n("BatchNormalization", y, *(np.abs(n.weights(4)) + 0.5 for _ in range(4)), epsilon=1e-5))
    y = n(
        "Conv", y, n.weights(4, 1, 3, 3), n.weights(4), **CONV | {"pads": (4, 1, 0, 1), "dilations": (2, 1), "group": 4}
    )
    flat = n("Reshape", n("Transpose", y, perm=(2, 0, 1, 3)), [0, 0, -1])
    z = n("Transpose", n("Reshape", n.layer("GRU", flat, 20, 20), [0, 0, 4, 5]), perm=(1, 2, 0, 3))
    z = n(
        "ConvTranspose", n("Add", y, z), n.weights(4, 2, 2, 3), **TRANSPOSED | {"pads": (0, 1, 1, 1), "strides": (1, 2)}
    )
    n("Tanh", z, out="y")
    assert_streams(n.output("y"), steps=90)


def test_a_state_can_be_kept_set_and_taken_back(net: Any) -> None:
    n, x = audio(net)
    model = n.output(n("Tanh", recurrent(n, conv(n, x, pads=(2, 0))), out="y")).model()
    stream, frames = model.stream(), noise(20, CHANNELS)
    begun = stream.run(frames[:10])
    snapshot, twin = stream.snapshot(), stream.fork()
    want = stream.run(frames[10:])
    assert twin.run(frames[10:]).tobytes() == want.tobytes()
    stream.restore(snapshot)
    assert stream.run(frames[10:]).tobytes() == want.tobytes()
    other = model.stream()
    for name, array in snapshot.plan.model.stream().state.items():
        assert other.state[name].shape == array.shape
    stream.restore(snapshot)
    other.state.update(stream.state)
    assert other.run(frames[10:]).tobytes() == want.tobytes()
    stream.reset()
    assert stream.run(frames[:10]).tobytes() == begun.tobytes()


# ---------------------------------------------------------------------- late


def test_a_centred_convolution_streams_late(net: Any) -> None:
    n, x = audio(net)
    y = n("Relu", conv(n, x, pads=(1, 1)))
    y = n("Add", x, n.graph.add("Conv", [y, n._value(n.weights(4, 4, 5))], name="wide", **CONV | {"pads": (2, 2)})[0])
    n("Tanh", recurrent(n, y, "LSTM"), out="y")
    model = assert_streams(n.output("y"))
    assert model.delay == 3 and not model.streams
    with pytest.raises(UnsupportedModelError, match=r"Conv '.*': .*looks 3 frames ahead\. Use stream\(delay=3\)"):
        model.stream()
    with pytest.raises(UnsupportedModelError, match="delay=3"):
        model.stream(delay=2)
    with pytest.raises(ShapeError, match="delay=-1"):
        model.stream(delay=-1)
    assert_streams(n, more=4)
    frames = noise(30, CHANNELS)
    np.testing.assert_allclose(model.run(frames), model(frames.T[None])[0].T, **CLOSE)  # the whole call, not late


def test_a_causal_model_can_be_late(net: Any) -> None:
    n, x = audio(net)
    model = assert_streams(n.output(n("Tanh", recurrent(n, x), out="y")), more=2)
    assert model.delay == 0


def test_states_are_as_set_until_the_recording_comes(net: Any) -> None:
    """A recurrent operator behind a look-ahead: the first steps change no state."""
    n, x = audio(net)
    y = n("Transpose", conv(n, x, pads=(2, 2), size=5), perm=(2, 0, 1))
    n.layer("GRU", y, CHANNELS, 3, h0=n.input("h0", 1, "B", 3), out="y")
    model = n.output("y").model()
    stream, h0, frames = model.stream(delay=2), noise(1, 1, 3, seed=5), noise(20, CHANNELS)
    stream.state["h0"] = h0
    want = n.evaluate({"x": frames.T[None], "h0": h0})["y"][:, 0]
    np.testing.assert_allclose(stream.run(frames)[2:], want[:-2], **CLOSE)


def test_an_error_in_the_first_steps_leaves_the_state_alone(net: Any) -> None:
    n = net(source="audio.onnx")
    ids = n.input("ids", "B", "T", dtype=np.int64)
    e = n("Transpose", n("Gather", n.weights(5, CHANNELS), ids), perm=(0, 2, 1))
    model = n.output(n("Tanh", recurrent(n, conv(n, e, pads=(1, 1))), out="y")).model()
    stream = model.stream(delay=1)
    good = np.array([1, 2, 3, 4])
    with pytest.raises(ShapeError, match=r"Gather .*at frame 0"):
        stream.run(np.array([7, 1]))
    with pytest.raises(ShapeError, match=r"Gather .*at frame 2"):
        stream.run(np.array([1, 2, 9]))
    want = n.evaluate({"ids": good[None]})["y"][0].T
    np.testing.assert_allclose(stream.run(good)[1:], want[:-1], **CLOSE)


# ---------------------------------------------------------------------- strides


def test_strides_make_the_hop(net: Any) -> None:
    n, x = audio(net)
    y = n("Relu", conv(n, x, size=4, pads=(2, 0), strides=(2,)))
    y = n("MaxPool", y, kernel_shape=(3,), **POOL | {"pads": (2, 0), "strides": (3,)})
    model = assert_streams(n.output(n("Tanh", recurrent(n, y), out="y")))
    assert model.hop == 6
    assert "a step takes 6 frames" in str(model)
    stream = model.stream()
    assert stream.step(noise(6, CHANNELS)).shape == (CHANNELS,)
    assert stream.run(noise(24, CHANNELS)).shape == (4, CHANNELS)
    with pytest.raises(ShapeError, match=r"T a multiple of 6"):
        stream.run(noise(25, CHANNELS))
    with pytest.raises(ShapeError, match=r"\(6, 4\)"):
        stream.step(noise(CHANNELS))


@pytest.mark.parametrize("size", [2, 3, 5, 8])
def test_strides_and_back(net: Any, size: int) -> None:
    """An encoder and a decoder, whose kernels overlap or leave gaps."""
    n, x = audio(net)
    y = n("Relu", conv(n, x, size=6, pads=(3, 0), strides=(3,)))
    y = n(
        "ConvTranspose", recurrent(n, y), n.weights(CHANNELS, 2, size), n.weights(2), **TRANSPOSED | {"strides": (3,)}
    )
    model = assert_streams(n.output(n("Tanh", y, out="y")))
    assert model.stream().step(noise(3, CHANNELS)).shape == (3, 2)


def test_frames_of_two_rates_do_not_meet(net: Any) -> None:
    n, x = audio(net)
    y = conv(n, x, size=2, strides=(2,))
    n("MatMul", n("Transpose", x, perm=(0, 2, 1)), n("ReduceMean", y, [2]), out="y")
    assert not n.output("y").model().streams


# ---------------------------------------------------------------------- all frames so far


@pytest.mark.parametrize("kind", ["Mean", "Sum", "Max", "Min", "L2", "SumSquare", "Prod"])
@pytest.mark.parametrize(("axes", "keepdims"), [([2], 0), ([2], 1), ([1, 2], 0)])
def test_running_reductions(net: Any, kind: str, axes: list[int], keepdims: int) -> None:
    n, x = audio(net)
    y = n("Sigmoid", conv(n, x, pads=(2, 0)))
    n("Tanh", n(f"Reduce{kind}", n("Mul", y, np.float32(1.5)), axes, keepdims=keepdims), out="y")
    model = n.output("y").model()
    stream, frames = model.stream(2), noise(12, 2, CHANNELS)
    for t, frame in enumerate(frames):
        want = n.evaluate({"x": frames[: t + 1].transpose(1, 2, 0)})["y"]
        np.testing.assert_allclose(stream.step(frame).reshape(want.shape), want, **CLOSE)
    assert_streams(n)


def test_a_head_over_valid_convolutions(net: Any) -> None:
    """Keyword spotting: strides, convolutions that shrink, one mean at the end."""
    n, x = audio(net)
    y = n("Relu", conv(n, n("Relu", conv(n, x, size=5, strides=(2,))), size=3))
    y = n("Flatten", n("GlobalAveragePool", y), axis=1)
    model = assert_streams(n.output(n("MatMul", y, n.weights(CHANNELS, 3), out="y")))
    assert (model.delay, model.hop) == (0, 2)
    assert {"mean", "seen"} <= {name.rpartition(".")[2] for name in model.stream().state}


@pytest.mark.parametrize("exclusive", [0, 1])
def test_sums_along_time(net: Any, exclusive: int) -> None:
    n, x = audio(net)
    y = n("CumSum", conv(n, x, pads=(1, 1)), np.array(2), exclusive=exclusive, reverse=0)
    model = assert_streams(n.output(n("Tanh", y, out="y")))
    assert model.delay == 1 and model.layout.chunked


def test_the_last_frame_of_a_convolution(net: Any) -> None:
    n, x = audio(net)
    y = n("Tanh", conv(n, x, size=4))
    n("Gather", y, np.array(-1), axis=2, out="taken")
    n("Slice", y, [-1], [2**31 - 1], [2], out="sliced")
    assert_streams(n.output("taken", "sliced"))


def test_a_long_mean_stays_one(net: Any) -> None:
    """Sums are kept in double precision: a stream of hours is as good as one of seconds."""
    n, x = audio(net)
    n("ReduceMean", conv(n, x, size=1, pads=(1, 0)), [2], keepdims=0, out="y")
    model = n.output("y").model()
    stream = model.stream()
    name = next(name for name in stream.state if name.endswith("seen"))
    stream.state[name] = np.full(1, 2.0**25)
    before = stream.state[name]
    stream.step(noise(CHANNELS))
    assert stream.state[name] == before + 1


# ---------------------------------------------------------------------- what does not stream

REFUSED = {
    "squeeze and excite": (
        lambda n, y: n("Mul", y, n("Sigmoid", n("ReduceMean", y, [2], name="squeeze"))),
        "Mul '.*every frame together with what ReduceMean 'squeeze' finds over all of them",
    ),
    "instance norm": (
        lambda n, y: n("InstanceNormalization", y, n.weights(4), n.weights(4), epsilon=1e-5),
        "InstanceNormalization '.*normalises over the frames",
    ),
    "softmax": (lambda n, y: n("Softmax", y, axis=2), "Softmax '.*normalises"),
    "reversed sum": (lambda n, y: n("CumSum", y, np.array(2), exclusive=0, reverse=1), "CumSum '.*adds up"),
    "reflection": (
        lambda n, y: conv(n, n("Pad", y, np.array([0, 0, 2, 0, 0, 0]), mode="reflect")),
        "Pad '.*repeats frames .mode=reflect",
    ),
    "mean at the edge": (
        lambda n, y: n("AveragePool", y, kernel_shape=(3,), **MEAN | {"count_include_pad": 0, "pads": (2, 0)}),
        "AveragePool '.*count_include_pad=0",
    ),
    "first frames": (lambda n, y: n("Slice", y, [0], [10], [2]), "Slice '.*takes part"),
    "last frames": (lambda n, y: n("Slice", y, [-3], [2**31 - 1], [2]), "Slice '.*takes part"),
    "backwards": (lambda n, y: recurrent(n, n("Slice", y, [-1], [-(2**31)], [2], [-1])), "Slice '"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_needs_all_frames_is_refused_by_name(net: Any, kind: str) -> None:
    make, reason = REFUSED[kind]
    n, x = audio(net)
    y = conv(n, x, pads=(2, 0))
    model = n.output(n("Tanh", make(n, y), out="y")).model()
    assert not model.streams
    with pytest.raises(GatestepError, match=reason):
        model.stream(delay=20)
    feed = noise(2, CHANNELS, 20)
    np.testing.assert_allclose(model(feed), n.evaluate({"x": feed})["y"], **CLOSE)


def test_two_free_axes_leave_time_open(net: Any) -> None:
    n, x = audio(net, "B", 1, "W", "V")
    n("Conv", x, n.weights(2, 1, 3, 3), **CONV | {"pads": (2, 2, 0, 0)}, out="y")
    with pytest.raises(UnsupportedModelError, match="neither time nor batch"):
        n.output("y").model().stream()


# ---------------------------------------------------------------------- nets at random


def grow(n: Any, pick: random.Random) -> None:
    """A net of what voice models are made of."""
    y, channels = "x", CHANNELS
    for _ in range(pick.randrange(1, 7)):
        kind = pick.randrange(11)
        size, dilation = pick.choice([1, 2, 3, 5]), pick.choice([1, 1, 2, 3])
        reach = (size - 1) * dilation
        if kind < 4:
            left, right = pick.choice(
                [(reach, 0), (reach, 0), (reach // 2, reach - reach // 2), (0, 0), (reach, reach)]
            )
            group = pick.choice([1, 1, 2, 4])
            before = y
            step = pick.choice([1, 1, 1, 2])
            if pick.random() < 0.3:
                y = n("Pad", y, np.array([0, 0, left, 0, 0, right]), np.float32(pick.choice([0, 1])), mode="constant")
                left = right = 0
                y = n("Tanh", y) if pick.random() < 0.3 else y
                made = conv(n, y, size=size, dilations=(dilation,), group=group, strides=(step,))
            else:
                made = conv(n, y, size=size, dilations=(dilation,), group=group, pads=(left, right), strides=(step,))
            if right == reach and reach and left == reach and step == 1:
                made = n("Slice", made, [0], [-reach], [2])
            y = made
            if step == 1 and left + right == reach and pick.random() < 0.5:
                y = n("Add", before, n("Relu", made))
        elif kind == 4:
            op = pick.choice(["MaxPool", "AveragePool"])
            attrs = (POOL if op == "MaxPool" else MEAN) | {"pads": pick.choice([(1, 0), (0, 0), (1, 1)])}
            y = n(op, y, kernel_shape=(2,), **attrs | {"strides": (pick.choice([1, 2]),)})
        elif kind == 5:
            y = n("Mul", n("Tanh", y), n("Sigmoid", conv(n, y, size=1)))
        elif kind == 6:
            y = recurrent(n, y, pick.choice(["LSTM", "GRU", "RNN"]))
        elif kind == 7:
            y = n("BatchNormalization", y, *(np.abs(n.weights(channels)) + 0.5 for _ in range(4)), epsilon=1e-5)
        elif kind == 8:
            y = n("Relu", n("Slice", y, [pick.choice([0, 1, 2])], [pick.choice([-1, 2**31 - 1])], [2]))
        elif kind == 9:
            y = n("ConvTranspose", y, n.weights(channels, channels, size), **TRANSPOSED | {"strides": (2,)})
        else:
            y = n("Div", n("CumSum", y, np.array(2), exclusive=0, reverse=0), np.float32(50))
    tail = pick.randrange(6)
    if tail == 0:
        n("Tanh", n("ReduceMean", y, [2], keepdims=0), out="y")
    elif tail == 1:
        n("Tanh", n("Gather", y, np.array(-1), axis=2), out="y")
    else:
        n("Tanh", y, out="y")
    n.output("y")


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_nets_at_random_stream_rightly(net: Any, seed: int) -> None:
    n, _ = audio(net)
    n.rng = np.random.default_rng(seed)
    grow(n, random.Random(seed))
    model = n.model()
    if isinstance(model.layout.blocker, UnsupportedModelError) and not any(
        node.op in ("Conv", "MaxPool", "AveragePool", "ConvTranspose", "LSTM", "GRU", "RNN") for node in n.graph.nodes
    ):
        return  # nothing says which axis is time
    assert_streams(n, steps=100, seed=seed % 1000)
