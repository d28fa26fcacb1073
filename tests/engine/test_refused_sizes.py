"""What the sizes of a file forbid: time steps and rows that it fixes, rows that mix, free dimensions without a name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gatestep.engine.errors import UnsupportedModelError
from streamed import CLOSE, B, T, holds, noise, refused, speech


def test_a_window_that_the_file_fixes(net: Any) -> None:
    n, x = speech(net, 10, 1, 4)
    y = n("Reshape", n.layer("GRU", x, 4, 3), [1, 30])
    n("MatMul", y, n.weights(30, 2), out="y")
    refused(n.output("y"), "fixes 10 time steps per call.*Export it with a dynamic time axis")


def test_rows_that_mix_go_one_at_a_time(net: Any) -> None:
    n, x = speech(net)
    y = n.layer("GRU", x, 4, 3)
    n("Sub", y, n("ReduceMean", y, [1], name="centre"), out="y")
    model = holds(n.output("y"), ("x", noise(T, B, 4)))
    with pytest.raises(UnsupportedModelError, match="ReduceMean 'centre' mixes rows"):
        model.stream(2)


def test_a_batch_that_the_file_fixes(net: Any) -> None:
    n, x = speech(net, "T", 2, 4)
    n("Reshape", n.layer("GRU", x, 4, 3), [-1, 6], out="y")
    model = n.output("y").model()
    assert model.streams
    with pytest.raises(UnsupportedModelError, match=r"the file fixes the batch\. Use stream\(batch=2\)"):
        model.stream()
    frames = noise(T, 2, 4)
    np.testing.assert_allclose(model.stream(2).run(frames).reshape(T, 6), n.evaluate({"x": frames})["y"], **CLOSE)


def test_weights_that_are_inputs(net: Any) -> None:
    n, x = speech(net)
    n.input("W", 1, 9, 4)
    n.cell("GRU", x, 4, 3, out=["y", ""], name="enc")
    (node,) = n.graph.nodes
    n.graph.nodes[0] = type(node)(node.op, (node.inputs[0], "W", *node.inputs[2:]), node.outputs, node.attrs, node.name)
    refused(n.output("y"), "GRU 'enc': needs the value of 'W' before it runs")


def test_an_unrolled_model_names_no_time(net: Any) -> None:
    n, x = speech(net)
    n("Sigmoid", n("MatMul", x, n.weights(4, 2)), out="y")
    refused(n.output("y"), "dimension '[TB]' of input 'x' is free")


def test_calls_that_stand_alone(net: Any) -> None:
    n, x = speech(net, 1, 4, 20)
    n("MaxPool", x, kernel_shape=(3,), strides=None, pads=None, dilations=None, auto_pad="NOTSET", ceil_mode=0, out="y")
    refused(
        n.output("y"), "MaxPool 'y': does not stream: the file fixes what .* keeps no state, so each call stands alone"
    )


def test_rows_that_are_part_of_a_frame(net: Any) -> None:
    """One frame per call, of three rows: no stream of one row, and none of more."""
    n, x = speech(net, 3, 4)
    h = n.input("h_in", 3, 5)
    both = n("Concat", x, h, axis=1)
    n("Tanh", n("MatMul", both, n.weights(9, 5)), out="h_out")
    n("Softmax", n("MatMul", "h_out", n.weights(5, 2)), axis=0, out="y")
    model = n.output("y", "h_out").model()
    assert model.stream().step(noise(3, 4)).shape == (3, 2)
    with pytest.raises(UnsupportedModelError, match=r"Use stream\(\): a frame has the rows of the file"):
        model.stream(3)
