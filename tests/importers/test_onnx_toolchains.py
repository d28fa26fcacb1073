"""Recurrent files in the manner of toolchains that are gone, or cannot be installed here: onnxruntime's numbers.

Written from what their converters are known to write: weights cut out of one flat vector (MXNet), weights and states
made from shapes (Paddle), everything an input (CNTK, operator set 7), reversed copies in place of a reverse layer
(Keras), half precision with casts around it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper  # noqa: E402
from onnx_models import info, make  # noqa: E402

from gatestep import load  # noqa: E402

SIZE, H = 3, 4
Node = helper.make_node


def weights(gates: int, directions: int = 1, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {"w": (gates * H, SIZE), "r": (gates * H, H)}
    arrays = {name: rng.standard_normal((directions, *shape)).astype("f4") for name, shape in shapes.items()}
    return {**arrays, "b": rng.standard_normal((directions, 2 * gates * H)).astype("f4")}


def flat_parameters() -> Any:
    """MXNet: one vector for all parameters, cut and shaped in the graph; states come in and go out."""
    arrays = weights(4)
    flat = np.concatenate([array.reshape(-1) for array in arrays.values()])
    starts = np.cumsum([0, *(array.size for array in arrays.values())])
    constants: dict[str, Any] = {"params": flat, "zero": np.array([0])}
    nodes = []
    for k, (name, array) in enumerate(arrays.items()):
        constants |= {f"{name}_from": starts[k : k + 1], f"{name}_to": starts[k + 1 : k + 2]}
        constants[f"{name}_shape"] = np.array(array.shape)
        nodes += [
            Node("Slice", ["params", f"{name}_from", f"{name}_to", "zero"], [f"{name}_flat"]),
            Node("Reshape", [f"{name}_flat", f"{name}_shape"], [name]),
        ]
    nodes += [
        Node("LSTM", ["data", "w", "r", "b", "", "state", "cell"], ["y", "state_out", "cell_out"], hidden_size=H),
        Node("Squeeze", ["y", "one"], ["rnn_output"]),
    ]
    constants["one"] = np.array([1])
    ports = [info("data", ("T", 1, SIZE)), info("state", (1, 1, H)), info("cell", (1, 1, H))]
    outputs = [info("rnn_output", ("T", 1, H)), info("state_out", (1, 1, H)), info("cell_out", (1, 1, H))]
    return make(nodes, ports, outputs, opset=13, weights=constants)


def states_from_shapes() -> Any:
    """Paddle: batch first, states of zeros in the size of the batch, weights as Constant nodes."""
    nodes = [
        Node("Constant", [], [name], value=onnx.numpy_helper.from_array(array)) for name, array in weights(3).items()
    ]
    nodes += [
        Node("Transpose", ["x"], ["xt"], perm=[1, 0, 2]),
        Node("Shape", ["x"], ["shape"]),
        Node("Constant", [], ["at"], value_ints=[0]),
        Node("Gather", ["shape", "at"], ["batch"]),
        Node("Constant", [], ["before"], value_ints=[1]),
        Node("Constant", [], ["after"], value_ints=[H]),
        Node("Concat", ["before", "batch", "after"], ["state_shape"], axis=0),
        Node("ConstantOfShape", ["state_shape"], ["h0"]),
        Node("GRU", ["xt", "w", "r", "b", "", "h0"], ["y"], hidden_size=H, linear_before_reset=1),
        Node("Transpose", ["y"], ["yt"], perm=[2, 0, 1, 3]),
        Node("Constant", [], ["axis"], value_ints=[2]),
        Node("Squeeze", ["yt", "axis"], ["out"]),
    ]
    return make(nodes, [info("x", ("B", "T", SIZE))], [info("out", ("B", "T", H))], opset=13)


def everything_an_input() -> Any:
    """CNTK: IR version 3, where each initializer is an input as well; activations spelled out."""
    arrays: dict[str, Any] = {**weights(1), "shape": np.array([-1, 1, H])}
    activations = {"activations": ["LeakyRelu"], "activation_alpha": [0.25], "activation_beta": [0.0]}
    nodes = [
        Node("RNN", ["x", "w", "r", "b"], ["y"], hidden_size=H, direction="forward", **activations),
        Node("Reshape", ["y", "shape"], ["out"]),
    ]
    ports = [info("x", ("T", 1, SIZE))]
    ports += [info(name, a.shape, helper.np_dtype_to_tensor_dtype(a.dtype)) for name, a in arrays.items()]
    return make(nodes, ports, [info("out", ("T", 1, H))], opset=7, ir=3, weights=arrays)


def reversed_copies() -> Any:
    """Keras: a layer that runs backwards is a forward one between two reversals of time."""
    arrays: dict[str, Any] = {**weights(4), "lengths": np.array([6]), "one": np.array([1])}
    nodes = [
        Node("ReverseSequence", ["x", "lengths"], ["back"], time_axis=0, batch_axis=1),
        Node("LSTM", ["back", "w", "r", "b"], ["y"], hidden_size=H),
        Node("Squeeze", ["y", "one"], ["yb"]),
        Node("ReverseSequence", ["yb", "lengths"], ["out"], time_axis=0, batch_axis=1),
    ]
    return make(nodes, [info("x", (6, 1, SIZE))], [info("out", (6, 1, H))], opset=13, weights=arrays)


def half_inside() -> Any:
    """A converter to half precision that keeps single precision outside: casts around all of it, states included."""
    arrays: dict[str, Any] = {name: array.astype(np.float16) for name, array in weights(4).items()}
    nodes = [Node("Cast", [name], [f"{name}_half"], to=TensorProto.FLOAT16) for name in ("x", "h", "c")]
    nodes += [
        Node("LSTM", ["x_half", "w", "r", "b", "", "h_half", "c_half"], ["y", "hn_half", "cn_half"], hidden_size=H),
        Node("Cast", ["y"], ["out"], to=TensorProto.FLOAT),
        Node("Cast", ["hn_half"], ["hn"], to=TensorProto.FLOAT),
        Node("Cast", ["cn_half"], ["cn"], to=TensorProto.FLOAT),
    ]
    ports = [info("x", ("T", 1, SIZE)), info("h", (1, 1, H)), info("c", (1, 1, H))]
    outputs = [info("out", ("T", 1, 1, H)), info("hn", (1, 1, H)), info("cn", (1, 1, H))]
    return make(nodes, ports, outputs, weights=arrays)


def slashes_and_dots() -> Any:
    """Names as exporters make them, an empty optional output, and a declared shape that is wrong."""
    arrays = {f"model.rnn/{name}:0": array for name, array in weights(3).items()}
    w, r, b = arrays
    nodes = [
        Node("GRU", ["in/x:0", w, r, b], ["/rnn/y", ""], hidden_size=H, linear_before_reset=1, name="/rnn/GRU.1"),
        Node("Squeeze", ["/rnn/y", "axes"], ["out/y:0"], name="/rnn/Squeeze"),
    ]
    lie = [info("/rnn/y", (1, 2, 3))]
    constants = {**arrays, "axes": np.array([1])}
    ports = [info("in/x:0", ("T", "B", SIZE))], [info("out/y:0", ("T", "B", H))]
    return make(nodes, *ports, weights=constants, value_info=lie)


#: The file, and how far half precision puts onnxruntime off.
FILES: list[tuple[Callable[[], Any], float]] = [
    (flat_parameters, 2e-6),
    (states_from_shapes, 2e-6),
    (everything_an_input, 2e-6),
    (reversed_copies, 2e-6),
    (half_inside, 5e-3),
    (slashes_and_dots, 2e-6),
]


def feeds(model: Any, steps: int = 6) -> dict[str, np.ndarray]:
    held = {tensor.name for tensor in model.graph.initializer}
    sizes = {"T": steps, "B": 1}
    rng = np.random.default_rng(3)
    return {
        port.name: rng.standard_normal(
            [sizes.get(d.dim_param, d.dim_value) for d in port.type.tensor_type.shape.dim]
        ).astype(np.float32)
        for port in model.graph.input
        if port.name not in held
    }


@pytest.mark.parametrize(("build", "tolerance"), FILES, ids=[build.__name__ for build, _ in FILES])
def test_numbers(build: Callable[[], Any], tolerance: float) -> None:
    model = build()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    x = feeds(model)
    expected = ort.InferenceSession(model.SerializeToString(), options).run(None, x)
    for got, value in zip(load(model)(x).values(), expected, strict=True):
        assert got.shape == value.shape
        np.testing.assert_allclose(got, value, atol=tolerance)


@pytest.mark.parametrize("build", [build for build, _ in FILES if build is not reversed_copies])
def test_streams(build: Callable[[], Any]) -> None:
    proto = build()
    model, x = load(proto), feeds(proto)
    stream = model.stream()
    for name in ({"h", "c"} if "h" in x else {"state", "cell"}) & x.keys():
        stream.state[name] = x[name]
    frames = next(iter(x.values()))
    steps = [stream.step(frame) for frame in frames.reshape(-1, SIZE)]
    outputs = [step[0] if isinstance(step, tuple) else step for step in steps]
    np.testing.assert_array_equal(np.reshape(outputs, -1), next(iter(model(x).values())).reshape(-1))


def test_reversed_copies_do_not_stream() -> None:
    model = load(reversed_copies())
    assert not model.streams
    assert "ReverseSequence" in str(model.layout.blocker)
