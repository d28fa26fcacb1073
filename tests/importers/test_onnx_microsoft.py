"""Operators of onnxruntime's own, as its optimiser and quantiser write them, against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from onnx import helper, numpy_helper  # noqa: E402
from onnx_models import info, make  # noqa: E402

from gatestep import ModelFormatError, UnsupportedModelError, load  # noqa: E402

Array = np.ndarray


def reals(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def bytes_of(*shape: int, dtype: Any = np.uint8, seed: int = 1, bits: int = 8) -> Array:
    limits = np.iinfo(dtype)
    rng, half = np.random.default_rng(seed), 8 - bits
    return rng.integers(limits.min >> half, (limits.max >> half) + 1, shape).astype(dtype)


SCALE, ZERO = np.float32(0.03), np.uint8(117)
QUANTISED = (bytes_of(3, 4), SCALE, ZERO)
OTHER = (bytes_of(3, 4, seed=2), np.float32(0.05), np.uint8(9))
RESULT = (np.float32(0.07), np.uint8(100))
SEVEN = bytes_of(4, 5, dtype=np.int8, bits=7)  # what no instruction set overflows on

#: Operator, inputs (None: left out), attributes.
CASES: list[tuple[str, list[Any], dict[str, Any]]] = [
    ("FusedMatMul", [reals(2, 3, 4), reals(2, 4, 5)], {"alpha": 0.5}),
    ("FusedMatMul", [reals(2, 4, 3), reals(2, 5, 4)], {"transA": 1, "transB": 1}),
    ("FusedMatMul", [reals(3, 4), reals(5, 4)], {"transB": 1, "alpha": 2.0}),
    ("FusedGemm", [reals(3, 4), reals(4, 5), reals(5)], {"activation": "Relu", "beta": 0.5}),
    ("FusedGemm", [reals(4, 3), reals(5, 4)], {"transA": 1, "transB": 1, "activation": "Tanh"}),
    ("FusedGemm", [reals(3, 4), reals(4, 5)], {"activation": "LeakyRelu", "activation_alpha": 0.3}),
    ("FusedConv", [reals(1, 2, 9), reals(3, 2, 3), reals(3)], {"activation": "Sigmoid", "pads": [2, 0]}),
    (
        "FusedConv",
        [reals(1, 2, 9), reals(3, 2, 3), reals(3)],
        {"activation": "HardSigmoid", "activation_params": [0.3, 0.4], "kernel_shape": [3]},
    ),
    (
        "FusedConv",
        [reals(1, 2, 9), reals(3, 2, 3), None],
        {"activation": "Clip", "activation_params": [-0.5, 0.7], "kernel_shape": [3]},
    ),
    ("Gelu", [reals(3, 4)], {}),
    ("BiasGelu", [reals(3, 4), reals(4)], {}),
    ("FastGelu", [reals(3, 4)], {}),
    ("FastGelu", [reals(3, 4), reals(4)], {}),
    ("QuickGelu", [reals(3, 4)], {}),
    ("QuickGelu", [reals(3, 4)], {"alpha": 1.2}),
    ("SkipLayerNormalization", [reals(2, 3, 4), reals(2, 3, 4, seed=3), reals(4), reals(4), reals(4)], {}),
    ("SkipLayerNormalization", [reals(2, 3, 4), reals(2, 3, 4, seed=3), reals(4)], {"epsilon": 0.01}),
    ("SkipSimplifiedLayerNormalization", [reals(2, 3, 4), reals(2, 3, 4, seed=3), reals(4)], {"epsilon": 0.01}),
    ("QLinearAdd", [*QUANTISED, *OTHER, *RESULT], {}),
    ("QLinearMul", [*QUANTISED, *OTHER, np.float32(0.3), np.uint8(80)], {}),
    ("QLinearSigmoid", [*QUANTISED, np.float32(1 / 256), np.uint8(0)], {}),
    ("QLinearLeakyRelu", [*QUANTISED, *RESULT], {"alpha": 0.2}),
    ("QLinearSoftmax", [*QUANTISED, np.float32(1 / 256), np.uint8(0)], {"axis": -1, "opset": 13}),
    ("QLinearConcat", [*RESULT, *QUANTISED, *OTHER], {"axis": 1}),
    (
        "QGemm",
        [bytes_of(3, 4), SCALE, ZERO, SEVEN, np.float32(0.02), np.int8(3), np.arange(5, dtype=np.int32) * 40, *RESULT],
        {"alpha": 0.5},
    ),
    ("QGemm", [bytes_of(4, 3), SCALE, ZERO, SEVEN.T.copy(), SCALE, np.int8(0)], {"transA": 1, "transB": 1}),
    ("MatMulIntegerToFloat", [bytes_of(3, 4), SEVEN, SCALE, np.float32([0.01, 0.02, 0.03, 0.04, 0.05])], {}),
    ("MatMulIntegerToFloat", [bytes_of(3, 4), SEVEN, SCALE, SCALE, ZERO, np.int8(-2), reals(5)], {}),
    ("DynamicQuantizeMatMul", [reals(3, 4), SEVEN, SCALE], {}),
    ("DynamicQuantizeMatMul", [reals(3, 4), SEVEN, SCALE, np.int8(5), reals(5)], {}),
    ("QuantizeLinear", [reals(3, 4), SCALE, ZERO], {}),
    ("DequantizeLinear", [*QUANTISED], {}),
]


def case(op: str, inputs: list[Any], attrs: dict[str, Any], runtime: tuple[int, ...] = (0,), **options: Any) -> Any:
    """A model of one node: inputs at `runtime` are those of the model, the others constants."""
    names = ["" if value is None else f"i{k}" for k, value in enumerate(inputs)]
    ports = [
        info(names[k], inputs[k].shape, helper.np_dtype_to_tensor_dtype(np.asarray(inputs[k]).dtype)) for k in runtime
    ]
    weights = {
        name: value for k, (name, value) in enumerate(zip(names, inputs, strict=True)) if name and k not in runtime
    }
    node = helper.make_node(op, names, ["y"], name="n", domain="com.microsoft", **attrs)
    outputs = [onnx.ValueInfoProto(name="y")]
    return make([node], ports, outputs, weights=weights, imports=[helper.make_opsetid("com.microsoft", 1)], **options)


@pytest.mark.parametrize("every", [False, True], ids=["constants", "inputs"])
@pytest.mark.parametrize(("op", "inputs", "attrs"), CASES, ids=[f"{op}-{k}" for k, (op, _, _) in enumerate(CASES)])
def test_operator(op: str, inputs: list[Any], attrs: dict[str, Any], every: bool) -> None:
    """With weights as constants, and with every tensor of more than one element at run time."""
    tensors = tuple(k for k, v in enumerate(inputs) if v is not None and np.ndim(v) > 1)
    runtime = tensors if every and not op.startswith("FusedConv") else tensors[:1]
    model = case(op, inputs, attrs, runtime)
    feeds = {f"i{k}": inputs[k] for k in runtime}
    (expected,) = ort.InferenceSession(model.SerializeToString()).run(None, feeds)
    got = load(model)(feeds)["y"]
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(got.astype(float), expected, atol=1 if expected.dtype.kind in "iu" else 2e-5)
    if expected.dtype.kind in "iu":  # a tie may fall to the other side, as the order of the scales is not laid down
        assert np.count_nonzero(got != expected) <= 1


def test_the_sum_that_is_normalised_is_a_result_too() -> None:
    inputs = [reals(2, 3, 4), reals(2, 3, 4, seed=3), reals(4), reals(4), reals(4)]
    model = case("SkipLayerNormalization", inputs, {}, runtime=(0, 1))
    model.graph.node[0].output.extend(["", "", "sum"])
    model.graph.output.append(onnx.ValueInfoProto(name="sum"))
    feeds = {"i0": inputs[0], "i1": inputs[1]}
    expected = ort.InferenceSession(model.SerializeToString()).run(None, feeds)
    for got, value in zip(load(model)(feeds).values(), expected, strict=True):
        np.testing.assert_allclose(got, value, atol=2e-6)
    model.graph.node[0].output[1] = "mean"
    model.graph.output.append(onnx.ValueInfoProto(name="mean"))
    with pytest.raises(UnsupportedModelError, match=r"SkipLayerNormalization 'n'.*output 1"):
        load(model)


@pytest.mark.parametrize(
    ("op", "inputs", "attrs", "error", "match"),
    [
        ("FusedMatMul", [reals(3, 4), reals(4, 5)], {"transBatchA": 1}, UnsupportedModelError, "transBatchA=1"),
        (
            "FusedGemm",
            [reals(3, 4), reals(4, 5)],
            {"activation": "Shrink"},
            UnsupportedModelError,
            "activation='Shrink'",
        ),
        ("QLinearAdd", [*QUANTISED, *OTHER], {}, ModelFormatError, "lacks input 6"),
        ("QLinearConcat", [*RESULT, *QUANTISED, SCALE], {"axis": 0}, ModelFormatError, "no whole number of tensors"),
        ("DynamicQuantizeLSTM", [reals(2, 1, 4), SEVEN, SEVEN], {}, ModelFormatError, "lacks input 8"),
    ],
)
def test_refusals(op: str, inputs: list[Any], attrs: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        load(case(op, inputs, attrs))


def test_layouts_of_one_processor_are_refused_with_a_way_out() -> None:
    domain = "com.microsoft.nchwc"
    node = helper.make_node("ReorderInput", ["x"], ["y"], domain=domain)
    with pytest.raises(UnsupportedModelError, match=r"ReorderInput of domain.*ORT_ENABLE_EXTENDED"):
        load(make([node], imports=[helper.make_opsetid(domain, 1)]))


def test_weights_may_be_transposed_by_the_operator() -> None:
    """A fused product with a constant is a dense layer like any other."""
    model = load(case("FusedMatMul", [reals(3, 4), reals(5, 4)], {"transB": 1}))
    x = reals(3, 4, seed=9)
    expected = x @ numpy_helper.to_array(case("FusedMatMul", [reals(3, 4), reals(5, 4)], {}).graph.initializer[0]).T
    np.testing.assert_allclose(model(x), expected, atol=1e-6)
