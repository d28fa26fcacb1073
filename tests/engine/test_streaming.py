"""Time, batch and states, found: what streams gives at frame t what the whole call gives at the end of frames[:t+1]."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gatestep.engine.errors import GatestepError
from streamed import CLOSE, B, T, holds, noise, speech


def test_batch_first(net: Any) -> None:
    n, x = speech(net, "B", "T", 4)
    y = n.layer("LSTM", n("Transpose", x, perm=(1, 0, 2)), 4, 5)
    n("Transpose", n("Sigmoid", y), perm=(1, 0, 2), out="y")
    model = holds(n.output("y"), ("x", noise(B, T, 4)))
    assert model.stream().step(noise(4)).shape == (5,)
    assert model.run(noise(T, 2, 4)).shape == (T, 2, 5)


def test_residuals_branches_and_an_input_without_time(net: Any) -> None:
    n, x = speech(net)
    e = n("Expand", n("Unsqueeze", n.input("e", "B", 2), [0]), n("Shape", n("Slice", x, [0], [2], [2])))
    both = n("Concat", n.layer("GRU", x, 4, 3), n.layer("LSTM", n("Tanh", x), 4, 5), e, axis=-1)
    n("LogSoftmax", n("Add", x, n("MatMul", both, n.weights(10, 4))), out="y")
    holds(n.output("y"), ("x", noise(T, B, 4)), ("e", noise(B, 2)))


def test_time_and_batch_merged_and_taken_apart_again(net: Any) -> None:
    n, x = speech(net)
    y = n.layer("GRU", x, 4, 6)
    flat = n("Tanh", n("MatMul", n("Reshape", y, [-1, 6]), n.weights(6, 3)))
    sizes = n("Slice", n("Shape", y), [0], [2])
    apart = n("Reshape", flat, n("Concat", sizes, np.array([3]), axis=0))
    n("Squeeze", n.cell("LSTM", apart, 3, 2)[0], [1], out="y")
    holds(n.output("y"), ("x", noise(T, B, 4)))


def test_the_last_step_is_the_present_one(net: Any) -> None:
    n, x = speech(net)
    y, hn = n.cell("GRU", x, 4, 5)[:2]
    n("Gather", n("Squeeze", y, [1]), np.array(-1), out="taken")
    n("MatMul", n("Squeeze", hn, [0]), n.weights(5, 2), out="scored")
    model = holds(n.output("taken", "scored"), ("x", noise(T, B, 4)))
    assert model.run(noise(T, 4))[1].shape == (T, 2)


def test_final_states_are_states(net: Any) -> None:
    n, x = speech(net)
    y, _, _ = n.cell("LSTM", x, 4, 5, out=["all", "hn", "cn"])
    n("Squeeze", y, [1], out="y")
    model = holds(n.output("y", "hn", "cn"), ("x", noise(T, B, 4)))
    assert set(model.stream().state) == {"hn", "cn"}


def test_a_final_state_that_no_frame_needs_is_kept(net: Any) -> None:
    n, x = speech(net)
    n.layer("GRU", x, 4, 3, out="y")
    n.cell("RNN", x, 4, 5, out=["", "hn"])
    n.output("y", "hn")
    holds(n, ("x", noise(T, B, 4)))


def test_initial_states_without_outputs_are_set_by_the_caller(net: Any) -> None:
    n, x = speech(net)
    n.layer("GRU", x, 4, 3, h0=n.input("h0", 1, "B", 3), out="y")
    model = n.output("y").model()
    stream, h0, frames = model.stream(), noise(1, 1, 3, seed=5), noise(T, 4)
    assert [frame.name for frame in stream.inputs] == ["x"]
    stream.state["h0"] = h0
    want = n.evaluate({"x": frames[:, None], "h0": h0})["y"][:, 0]
    np.testing.assert_allclose(stream.run(frames), want, **CLOSE)


def test_lengths_end_with_the_caller(net: Any) -> None:
    n, x = speech(net)
    n.layer("GRU", x, 4, 3, lengths=n.input("lengths", "B", dtype=np.int32), out="y")
    model = n.output("y").model()
    frames = noise(T, 2, 4)
    want = n.evaluate({"x": frames, "lengths": np.array([T, T], np.int32)})["y"]
    np.testing.assert_allclose(model.stream(2).run(frames), want, **CLOSE)


def test_a_file_of_one_frame(net: Any) -> None:
    """States in and out, the frame a call of one step."""
    n = net()
    x = n("Reshape", n.input("x", 1, 1, 4), [1, 1, 4])
    y, hn = n.cell("GRU", x, 4, 3, h0=n.input("h", 1, 1, 3), out=["y", "hn"])
    model = n.output(y, hn).model()
    assert model.layout.states == {"h": "hn"}
    stream, frames, state = model.stream(), noise(6, 4), np.zeros((1, 1, 3))
    for frame in frames:
        want = n.evaluate({"x": frame[None, None], "h": state})
        state = want["hn"]
        np.testing.assert_allclose(np.squeeze(stream.step(frame)), np.squeeze(want["y"]), **CLOSE)
    np.testing.assert_allclose(stream.state["h"], state, **CLOSE)


def decomposed(net: Any, state: str = "h_in", after: str = "h_out") -> Any:
    """A GRU-like cell of plain operators."""
    n = net(source="cell.onnx")
    x, h = n.input("x", 1, 4), n.input(state, 1, 5)
    both = n("Concat", x, h, axis=1)
    gate = n("Sigmoid", n("Add", n("MatMul", both, n.weights(9, 5)), n.weights(5)))
    new = n("Tanh", n("MatMul", both, n.weights(9, 5)))
    n("Add", n("Mul", gate, h), n("Mul", n("Sub", 1.0, gate), new), out=after)
    n("MatMul", after, n.weights(5, 2), out="y")
    return n.output("y", after)


@pytest.mark.parametrize(
    ("names", "told"),
    [(("h_in", "h_out"), None), (("h0", "hn"), None), (("state", "new_state"), None), (("foo", "bar"), {"foo": "bar"})],
)
def test_states_of_plain_operators_by_name_or_as_told(net: Any, names: tuple[str, str], told: Any) -> None:
    n = decomposed(net, *names)
    model = n.model(states=told)
    assert model.layout.carried == {names[0]: names[1]}
    stream, frames, state = model.stream(), noise(6, 4), np.zeros((1, 5))
    for frame in frames:
        want = n.evaluate({"x": frame[None], names[0]: state})
        state = want[names[1]]
        np.testing.assert_allclose(stream.step(frame), want["y"][0], **CLOSE)
    np.testing.assert_allclose(stream.state[names[0]], state, **CLOSE)
    twin = stream.fork()
    assert stream.run(frames).tobytes() == np.stack([twin.step(frame) for frame in frames]).tobytes()


def test_an_old_state_shown_is_the_old_one(net: Any) -> None:
    """A delay line: what is carried is the frame, what is shown the one before."""
    n = net()
    x, before = n.input("x", 1, 4), n.input("before_in", 1, 4)
    n("Transpose", before, perm=(0, 1), out="y")
    n("Transpose", x, perm=(0, 1), out="before_out")
    model = n.output("y", "before_out").model(states={"before_in": "before_out"})
    stream, frames = model.stream(), noise(5, 4)
    got = stream.run(frames)
    np.testing.assert_array_equal(got.reshape(5, 4), np.concatenate([np.zeros((1, 4)), frames[:-1]]))


def test_two_states_that_change_places(net: Any) -> None:
    n = net()
    x, a, b = n.input("x", 1, 4), n.input("a", 1, 4), n.input("b", 1, 4)
    n("Add", x, a, out="y")
    n("Transpose", b, perm=(0, 1), out="a2")
    n("Add", a, x, out="b2")
    model = n.output("y", "a2", "b2").model(states={"a": "a2", "b": "b2"})
    stream, va, vb = model.stream(), np.zeros(4), np.zeros(4)
    for frame in noise(6, 4):
        np.testing.assert_allclose(stream.step(frame).reshape(4), frame + va, **CLOSE)
        va, vb = vb, va + frame


@pytest.mark.parametrize(
    ("states", "reason"),
    [
        ({"nothing": "bar"}, r"'nothing': 'bar'.* does not name an input and an output\. Inputs are"),
        ({"foo": "nothing"}, "does not name"),
        ({"foo": "y"}, "shape"),
        ({"x": "bar"}, "shape"),
    ],
)
def test_wrong_states_are_refused(net: Any, states: Any, reason: str) -> None:
    with pytest.raises(GatestepError, match=reason):
        decomposed(net, "foo", "bar").model(states=states).stream()


def test_two_paths_along_frames_and_along_bands(net: Any) -> None:
    """Dual-path networks: one operator runs over the bands of a frame, there and back, one over frames."""
    n, x = speech(net, "T", 6, 4)
    bands = n.cell("GRU", n("Transpose", x, perm=(1, 0, 2)), 4, 3, direction="bidirectional", name="bands")[0]
    joined = n("Reshape", n("Transpose", bands, perm=(2, 0, 1, 3)), [0, 6, 6])
    n.layer("GRU", joined, 6, 2, name="frames", out="y")
    model, frames = n.output("y").model(), noise(T, 6, 4)
    stream = model.stream()
    assert set(stream.state) == {"frames.h"}
    np.testing.assert_allclose(stream.run(frames), n.evaluate({"x": frames})["y"], **CLOSE)


def test_an_input_that_nothing_reads_does_not_matter(net: Any) -> None:
    n, x = speech(net)
    n.input("unused", "K", 3)
    n("Tanh", n.layer("GRU", x, 4, 3), out="y")
    stream = n.output("y").model().stream()
    assert [frame.name for frame in stream.inputs] == ["x"]
    assert stream.step(noise(4)).shape == (3,)
