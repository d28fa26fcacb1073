"""Models with more inputs, outputs and axes than anyone counts."""

from __future__ import annotations

import numpy as np
import pytest
from streamed import noise

import gatestep

onnx = pytest.importorskip("onnx")

from gatestep.engine.errors import GatestepError, ShapeError  # noqa: E402
from onnx import helper  # noqa: E402
from onnx_models import info, make  # noqa: E402

PORTS = 70


def many(shape: tuple[object, ...]) -> bytes:
    """Each output is the input of the same number, and the one before it."""
    nodes = [helper.make_node("Add", [f"x{k}", f"x{max(k - 1, 0)}"], [f"y{k}"]) for k in range(PORTS)]
    model = make(nodes, [info(f"x{k}", shape) for k in range(PORTS)], [info(f"y{k}", shape) for k in range(PORTS)])
    return bytes(model.SerializeToString())


def expected(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"y{k}": feeds[f"x{k}"] + feeds[f"x{max(k - 1, 0)}"] for k in range(PORTS)}


def test_a_whole_call_has_any_number_of_ports() -> None:
    model = gatestep.load(many((2, 3)))
    feeds = {f"x{k}": noise(2, 3, seed=k) for k in range(PORTS)}
    got = model(feeds)
    for name, want in expected(feeds).items():
        np.testing.assert_array_equal(got[name], want)


@pytest.mark.parametrize("batch", [None, 4])
def test_a_stream_has_any_number_of_ports(batch: int | None) -> None:
    model = gatestep.load(many(("B", 3)))
    rows = () if batch is None else (batch,)
    frames = {f"x{k}": noise(20, *rows, 3, seed=k) for k in range(PORTS)}
    want = expected(frames)
    stream, again = model.stream(batch), model.stream(batch)
    steps = [stream.step({name: array[t] for name, array in frames.items()}) for t in range(20)]
    whole = again.run(frames)
    for name in want:
        np.testing.assert_array_equal(np.stack([step[name] for step in steps]), want[name])
        np.testing.assert_array_equal(whole[name], want[name])


def test_states_carried_by_hand_are_no_ports_of_a_stream() -> None:
    nodes = [helper.make_node("Add", [f"h{k}", "x"], [f"h{k}_out"]) for k in range(PORTS)]
    nodes.append(helper.make_node("Sum", [f"h{k}_out" for k in range(PORTS)], ["y"]))
    states = [info(f"h{k}", (1, 3)) for k in range(PORTS)]
    model = gatestep.load(
        bytes(
            make(
                nodes,
                [info("x", (1, 3)), *states],
                [info("y", (1, 3)), *(info(f"h{k}_out", (1, 3)) for k in range(PORTS))],
            ).SerializeToString()
        )
    )
    frames = noise(5, 3)
    stream = model.stream()
    assert [port.name for port in stream.inputs] == ["x"]
    got = np.stack([stream.step(frame) for frame in frames])
    np.testing.assert_allclose(got, PORTS * frames.cumsum(0), rtol=1e-5)


@pytest.mark.parametrize("axes", [8, 33, 64])
def test_a_frame_has_any_number_of_axes(axes: int) -> None:
    shape = ("B", *[1] * (axes - 2), 3)
    model = gatestep.load(
        bytes(
            make([helper.make_node("Relu", ["x"], ["y"])], [info("x", shape)], [info("y", shape)]).SerializeToString()
        )
    )
    frame = noise(*[1] * (axes - 2), 3)
    np.testing.assert_array_equal(model.stream().step(frame), np.maximum(frame, 0))


def test_more_axes_than_an_array_can_have_are_refused() -> None:
    shape = ("B", *[1] * 64, 3)
    node = helper.make_node("Relu", ["x"], ["y"])
    model = gatestep.load(bytes(make([node], [info("x", shape)], [info("y", shape)]).SerializeToString()))
    with pytest.raises(GatestepError, match="more axes than an array can have"):
        model.stream()
    node = helper.make_node("Unsqueeze", ["x", "axes"], ["y"])
    wide = make([node], outputs=[info("y", None)], weights={"axes": np.arange(2, 66)})
    with pytest.raises(ShapeError, match="'y' has more axes than an array can have"):
        gatestep.load(bytes(wide.SerializeToString()))(noise(2, 3))


def test_what_would_leave_no_frames_is_no_state() -> None:
    nodes = [helper.make_node("Relu", [name], [f"{name}_out"]) for name in ("left", "right")]
    ports = [info(name, (1, 3)) for name in ("left", "right")], [info(f"{n}_out", (1, 3)) for n in ("left", "right")]
    stream = gatestep.load(bytes(make(nodes, *ports).SerializeToString())).stream()
    assert [port.name for port in stream.inputs] == ["left", "right"]
