"""Quantised files as onnxruntime's quantiser and optimiser write them: onnxruntime's numbers, and streams."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from gatestep.engine import oracle  # noqa: E402
from node_cases import array, feeds_of, node_cases, of_constants  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402
from onnx_models import info, make, read_onnx  # noqa: E402

from gatestep import UnsupportedModelError, load  # noqa: E402

SIZE, H, OUT = 5, 9, 4


def random(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (rng.standard_normal(shape) * 0.4).astype(np.float32)


def recurrent(op: str, direction: str = "forward") -> Any:
    """x (T, 1, SIZE) through a recurrent layer, a dense layer and a sigmoid."""
    rng, gates, d = np.random.default_rng(0), {"LSTM": 4, "GRU": 3}[op], 2 if direction == "bidirectional" else 1
    weights = {
        "w": random(rng, d, gates * H, SIZE),
        "r": random(rng, d, gates * H, H),
        "b": random(rng, d, 2 * gates * H),
        "k": random(rng, d * H, OUT),
        "bias": random(rng, OUT),
        "shape": np.array([0, 0, -1]),
    }
    attrs = {"linear_before_reset": 1} if op == "GRU" else {}
    nodes = [
        helper.make_node(op, ["x", "w", "r", "b"], ["y0"], name="rnn", hidden_size=H, direction=direction, **attrs),
        helper.make_node("Transpose", ["y0"], ["y1"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["y1", "shape"], ["y2"]),
        helper.make_node("MatMul", ["y2", "k"], ["y3"], name="dense"),
        helper.make_node("Add", ["y3", "bias"], ["y4"]),
        helper.make_node("Sigmoid", ["y4"], ["y"]),
    ]
    return make(nodes, [info("x", ("T", 1, SIZE))], [info("y", ("T", 1, OUT))], weights=weights)


def convolution() -> Any:
    """x (1, SIZE, T) through a padded convolution, a ReLU and a GRU over time."""
    rng = np.random.default_rng(1)
    weights = {
        "k": random(rng, 6, SIZE, 3),
        "kb": random(rng, 6),
        "w": random(rng, 1, 3 * H, 6),
        "r": random(rng, 1, 3 * H, H),
    }
    nodes = [
        helper.make_node("Conv", ["x", "k", "kb"], ["c"], name="conv", pads=[2, 0]),
        helper.make_node("Relu", ["c"], ["a"]),
        helper.make_node("Transpose", ["a"], ["t"], perm=[2, 0, 1]),
        helper.make_node("GRU", ["t", "w", "r"], ["", "y"], hidden_size=H, linear_before_reset=1),
    ]
    return make(nodes, [info("x", (1, SIZE, "T"))], [info("y", (1, 1, H))], weights=weights)


def cell() -> Any:
    """One step of an LSTM, written out in Gemm, as PyTorch exports an LSTMCell."""
    rng = np.random.default_rng(2)
    weights = {"w": random(rng, 4 * H, SIZE), "r": random(rng, 4 * H, H), "b": random(rng, 4 * H)}
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["gx"], transB=1, name="input"),
        helper.make_node("Gemm", ["h", "r"], ["gh"], transB=1, name="hidden"),
        helper.make_node("Add", ["gx", "gh"], ["g"]),
        helper.make_node("Split", ["g"], ["gi", "gf", "gg", "go"], axis=1),
        *(helper.make_node("Sigmoid", [f"g{k}"], [k]) for k in "ifo"),
        helper.make_node("Tanh", ["gg"], ["n"]),
        helper.make_node("Mul", ["f", "c"], ["fc"]),
        helper.make_node("Mul", ["i", "n"], ["in"]),
        helper.make_node("Add", ["fc", "in"], ["cn"]),
        helper.make_node("Tanh", ["cn"], ["th"]),
        helper.make_node("Mul", ["o", "th"], ["hn"]),
    ]
    ports = [info("x", (1, SIZE)), info("h", (1, H)), info("c", (1, H))]
    return make(nodes, ports, [info("hn", (1, H)), info("cn", (1, H))], opset=13, weights=weights)


MODELS: dict[str, Callable[[], Any]] = {
    "lstm": partial(recurrent, "LSTM"),
    "bilstm": partial(recurrent, "LSTM", "bidirectional"),
    "gru": partial(recurrent, "GRU"),
    "conv": convolution,
    "cell": cell,
}


def feeds(model: Any, seed: int = 5, steps: int = 7) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        port.name: rng.standard_normal([d.dim_value or steps for d in port.type.tensor_type.shape.dim]).astype("f4")
        for port in model.graph.input
    }


#: Ways to quantise. Weights keep to 7 bits: onnxruntime's sums of more overflow on machines without VNNI.
WAYS: dict[str, dict[str, Any]] = {
    "dynamic": {"weight_type": "QInt8", "reduce_range": True},
    "dynamic-unsigned": {"weight_type": "QUInt8"},
    "dynamic-channels": {"weight_type": "QInt8", "reduce_range": True, "per_channel": True},
    "qdq": {"quant_format": "QDQ", "activation_type": "QUInt8", "weight_type": "QInt8", "reduce_range": True},
    "qdq-channels": {"quant_format": "QDQ", "activation_type": "QInt8", "weight_type": "QInt8", "per_channel": True},
    "qdq-16": {"quant_format": "QDQ", "activation_type": "QUInt16", "weight_type": "QInt8"},
    "operators": {
        "quant_format": "QOperator",
        "activation_type": "QUInt8",
        "weight_type": "QInt8",
        "reduce_range": True,
    },
}


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """A file by model and way, made once."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    folder = tmp_path_factory.mktemp("quantised")
    logging.getLogger().setLevel(logging.ERROR)  # it advises, on the root logger

    def make_file(name: str, way: str) -> Path:
        path = folder / f"{name}-{way}.onnx"
        if path.exists():
            return path
        model = MODELS[name]()
        source = folder / f"{name}.onnx"
        source.write_bytes(model.SerializeToString())
        options = {
            key: getattr(quantization.QuantType, value)
            if key.endswith("_type")
            else getattr(quantization.QuantFormat, value)
            if key == "quant_format"
            else value
            for key, value in WAYS[way].items()
        }
        if way.startswith("dynamic"):
            quantization.quantize_dynamic(source, path, **options)
            return path

        class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
            seeds = iter(range(3))

            def get_next(self) -> Any:
                seed = next(self.seeds, None)
                return None if seed is None else feeds(model, seed)

        quantization.quantize_static(source, path, Reader(), **options)
        return path

    return make_file


def session(path: Path, level: str = "", out: Path | None = None) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if level:
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    if out is not None:
        options.optimized_model_filepath = str(out)
    return ort.InferenceSession(path, options)


@pytest.mark.parametrize("level", ["", "BASIC", "EXTENDED"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MODELS)
def test_numbers_are_those_of_onnxruntime(quantised: Any, tmp_path: Path, name: str, way: str, level: str) -> None:
    path = quantised(name, way)
    x = feeds(MODELS[name]())
    expected = session(path).run(None, x)
    if level:  # as its optimiser writes it
        path, before = tmp_path / "optimised.onnx", path
        session(before, level, path)
    for got, value in zip(load(path)(x).values(), expected, strict=True):
        np.testing.assert_allclose(got, value, atol=2e-6)


@pytest.mark.parametrize("way", ["qdq", "qdq-channels", "qdq-16", "operators"])
@pytest.mark.parametrize("name", ["lstm", "gru", "cell"])
def test_fixed_scales_stream(quantised: Any, name: str, way: str) -> None:
    model = load(quantised(name, way))
    x = feeds(MODELS[name](), steps=20)
    if name == "cell":
        stream, h, c = model.stream(), x["h"], x["c"]
        stream.state["h"], stream.state["c"] = h, c
        for frame in np.random.default_rng(7).standard_normal((5, SIZE)).astype(np.float32):
            h, c = model({"x": frame[None], "h": h, "c": c}).values()
            stream.step(frame)
            np.testing.assert_array_equal(stream.state["h"], h)
        return
    stream = model.stream()
    frames = np.stack([stream.step(frame) for frame in x["x"][:, 0]])
    np.testing.assert_array_equal(frames, model(x)["y"][:, 0])
    np.testing.assert_array_equal(model.run(x["x"][:, 0]), frames)


@pytest.mark.parametrize(
    ("name", "node"), [("lstm", "DynamicQuantizeLSTM 'rnn_quant'"), ("gru", "DynamicQuantizeLinear")]
)
def test_scales_of_whole_recordings_do_not_stream(quantised: Any, name: str, node: str) -> None:
    model = load(quantised(name, "dynamic"))
    with pytest.raises(UnsupportedModelError, match=f"{node}.*range of all frames.*fix='dequantize'"):
        model.stream()


def test_one_step_of_a_dynamic_cell_streams(quantised: Any) -> None:
    """A file of one frame per call is quantised with that frame's range, in a stream as in onnxruntime."""
    path = quantised("cell", "dynamic")
    model, runtime, x = load(path), session(path), feeds(cell())
    stream = model.stream()
    stream.state["h"], stream.state["c"] = x["h"], x["c"]
    for frame in np.random.default_rng(8).standard_normal((10, SIZE)).astype(np.float32):
        x["h"], x["c"] = runtime.run(None, {**x, "x": frame[None]})
        stream.step(frame)
        np.testing.assert_allclose(stream.state["c"], x["c"], atol=2e-6)


def test_weights_in_integers_are_weights() -> None:
    """What a file keeps in integers and dequantises is a constant, and its cell is the fused one."""
    rng = np.random.default_rng(3)
    weights: dict[str, Any] = {
        "zero": np.int8(3),
        "scale": np.float32(0.01),
        "scales": np.full(4 * H, 0.01, np.float32),
    }
    weights |= {name: rng.integers(-99, 99, (1, 4 * H, n)).astype(np.int8) for name, n in (("w", SIZE), ("r", H))}
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "scales"], ["wf"], axis=1),
        helper.make_node("DequantizeLinear", ["r", "scale", "zero"], ["rf"]),
        helper.make_node("LSTM", ["x", "wf", "rf"], ["y"], hidden_size=H),
    ]
    model = make(nodes, [info("x", ("T", 1, SIZE))], [info("y", None)], weights=weights)
    graph = read_onnx(model)
    assert [node.op for node in graph.nodes] == ["LSTM"]
    np.testing.assert_array_equal(graph.constants["rf"], (np.float32(weights["r"]) - 3) * np.float32(0.01))
    assert load(model).streams


@pytest.mark.parametrize(
    ("a", "b"),
    [((4,), (4, 3)), ((2, 4), (4,)), ((4,), (4,)), ((2, 3, 4), (2, 4, 5)), ((3, 4), (2, 4, 5)), ((5, 2, 3, 4), (4,))],
)
def test_integer_products_of_any_rank(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    rng = np.random.default_rng(6)
    x = {"a": rng.integers(0, 256, a).astype(np.uint8), "b": rng.integers(-128, 128, b).astype(np.int8)}
    node = helper.make_node("MatMulInteger", ["a", "b", "az", "bz"], ["y"])
    ports = [info("a", a, TensorProto.UINT8), info("b", b, TensorProto.INT8)]
    model = make([node], ports, [info("y", None, TensorProto.INT32)], weights={"az": np.uint8(7), "bz": np.int8(-3)})
    expected = (x["a"].astype(int) - 7) @ (x["b"].astype(int) + 3)
    np.testing.assert_array_equal(load(model)(x)["y"], expected)
    folded = make(
        [node],
        ports[:1],
        [info("y", None, TensorProto.INT32)],
        weights={"az": np.uint8(7), "bz": np.int8(-3), "b": x["b"]},
    )
    np.testing.assert_array_equal(load(folded)(x["a"]), expected)


# ---------------------------------------------------------------------- the LSTM in all its forms
def quantised_lstm(rng: np.random.Generator, directions: int, per_channel: bool, dtype: Any, **attrs: Any) -> Any:
    limits, shape = np.iinfo(dtype), (directions, 4 * H) if per_channel else (directions,)
    zero = np.zeros(shape, dtype) if limits.min else np.full(shape, 120, dtype)
    weights = {
        "w": rng.integers(limits.min // 2, limits.max // 2 + 1, (directions, SIZE, 4 * H)).astype(dtype),
        "r": rng.integers(limits.min // 2, limits.max // 2 + 1, (directions, H, 4 * H)).astype(dtype),
        "b": random(rng, directions, 8 * H),
        "p": random(rng, directions, 3 * H),
        "ws": rng.uniform(0.002, 0.004, shape).astype(np.float32),
        "rs": rng.uniform(0.002, 0.004, shape).astype(np.float32),
        "wz": zero,
        "rz": zero,
    }
    inputs = ["x", "w", "r", "b", "lengths", "h", "c", "p", "ws", "wz", "rs", "rz"]
    node = helper.make_node(
        "DynamicQuantizeLSTM", inputs, ["y", "hn", "cn"], domain="com.microsoft", hidden_size=H, **attrs
    )
    ports = [info("x", ("T", "B", SIZE)), info("lengths", ("B",), TensorProto.INT32)]
    ports += [info("h", (directions, "B", H)), info("c", (directions, "B", H))]
    outputs = [info(name, None) for name in ("y", "hn", "cn")]
    return make([node], ports, outputs, weights=weights, imports=[helper.make_opsetid("com.microsoft", 1)])


@pytest.mark.parametrize(
    "attrs",
    [
        {},
        {"direction": "reverse", "clip": 1.5},
        {"direction": "bidirectional", "input_forget": 1},
        {"activations": ["HardSigmoid", "Relu", "Softsign"], "activation_alpha": [0.3], "activation_beta": [0.4]},
    ],
    ids=["plain", "reverse", "bidirectional", "activations"],
)
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_quantised_lstm(attrs: dict[str, Any], per_channel: bool, dtype: Any) -> None:
    rng, d = np.random.default_rng(4), 2 if attrs.get("direction") == "bidirectional" else 1
    model = quantised_lstm(rng, d, per_channel, dtype, **attrs)
    x = {"x": random(rng, 8, 3, SIZE), "lengths": np.array([8, 0, 5], np.int32), "h": random(rng, d, 3, H)}
    x["c"] = random(rng, d, 3, H)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1  # more threads divide the batch, each part with a range of its own
    expected = ort.InferenceSession(model.SerializeToString(), options).run(None, x)
    for got, value in zip(load(model)(x).values(), expected, strict=True):
        np.testing.assert_allclose(got, value, atol=1e-5)
    doubles = oracle.evaluate(read_onnx(model), x)
    for name, value in zip(("y", "hn", "cn"), expected, strict=True):
        np.testing.assert_allclose(doubles[name], value, atol=1e-5)


# ---------------------------------------------------------------------- the operators' own cases
MODULES = "quantizelinear dequantizelinear dynamicquantizelinear matmulinteger convinteger qlinearconv qlinearmatmul"
CASES = [case for case in node_cases(MODULES) if case.name.removeprefix("test_").startswith(tuple(MODULES.split()))]


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_node_case(case: Any, constant: bool) -> None:
    for inputs, outputs in case.data_sets:
        x, model = feeds_of(case, inputs), case.model
        if any(part in case.name for part in ("int4", "int2", "e4m3", "e5m2", "e2m1")):
            with pytest.raises(UnsupportedModelError, match="which is not supported"):
                load(model)(x)
            continue
        if constant:
            x, model = {}, of_constants(case, inputs)
        for got, value in zip(load(model)(x).values(), map(array, outputs), strict=True):
            np.testing.assert_array_equal(got, value, strict=True)


# ---------------------------------------------------------------------- in floating point, where the caller wants it
INTEGER_OPS = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"}
INTEGER_OPS.add("DynamicQuantizeLSTM")


@pytest.mark.parametrize("way", ["dynamic", "dynamic-unsigned", "dynamic-channels", "qdq", "operators"])
@pytest.mark.parametrize("name", ["lstm", "gru", "conv", "cell"])
def test_dequantized(quantised: Any, name: str, way: str) -> None:
    path = quantised(name, way)
    model, x = load(path, fix="dequantize"), feeds(MODELS[name](), seed=1)  # a seed that it was calibrated with
    assert not INTEGER_OPS & {node.op for node in model.graph.nodes}
    for got, as_written in zip(model(x).values(), load(path)(x).values(), strict=True):
        np.testing.assert_allclose(got, as_written, atol=0.03)


def test_dequantized_is_the_same_however_it_is_written(quantised: Any) -> None:
    x = feeds(cell(), seed=1)
    results = [load(quantised("cell", way), fix="dequantize")(x) for way in ("qdq", "operators")]
    for name, value in results[0].items():
        np.testing.assert_allclose(results[1][name], value, atol=0.02)  # the weights are signed in one of them


@pytest.mark.parametrize("name", ["lstm", "gru", "cell"])
def test_dequantized_streams_in_fused_kernels(quantised: Any, name: str) -> None:
    model = load(quantised(name, "dynamic"), fix="dequantize")
    assert {"lstm": "LSTM", "gru": "GRU", "cell": "LSTM"}[name] in {node.op for node in model.graph.nodes}
    x = feeds(MODELS[name](), steps=9)["x"][:, 0] if name != "cell" else random(np.random.default_rng(0), 9, SIZE)
    stream = model.stream()
    frames = [stream.step(frame) for frame in x]
    whole = model.run(x)
    for run, steps in zip(whole, zip(*frames, strict=True), strict=True) if name == "cell" else [(whole, frames)]:
        np.testing.assert_array_equal(run, steps)


def test_a_range_is_kept_where_the_file_has_its_relu_in_it() -> None:
    """What a fixed scale cannot hold is cut off: quantisers leave out a ReLU whose result starts at the zero point."""
    weights = {"s": np.float32(0.1), "z": np.uint8(0)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    model = load(make(nodes, weights=weights), fix="dequantize")
    x = np.array([[-1, 0.33, 12.71], [30, -30, 25.5]], np.float32)
    np.testing.assert_allclose(model(x), np.clip(x, 0, 25.5), rtol=1e-6)


def test_integers_that_are_results_stay() -> None:
    nodes = [helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])]
    outputs = [info("q", None, TensorProto.UINT8), info("s", ())]
    model, x = make(nodes, outputs=outputs), np.float32([[1, -2, 3], [0, 5, 6]])
    for got, expected in zip(load(model, fix="dequantize")(x), load(model)(x), strict=True):
        np.testing.assert_array_equal(got, expected)
