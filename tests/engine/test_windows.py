"""Convolutions, pooling, padding and channel normalisation, held to the ONNX project's own cases."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import gatestep

MODULES = (
    "conv maxpool averagepool globalaveragepool globalmaxpool batch_normalization instance_normalization pad".split()
)
OPS = {"Conv", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "BatchNormalization"}
OPS |= {"InstanceNormalization", "Pad"}
#: What is refused, with a word of the reason.
REFUSED = {
    "test_maxpool_2d_uint8": "uint8",
    "test_maxpool_with_argmax_2d_precomputed_pads": "output 1",
    "test_maxpool_with_argmax_2d_precomputed_strides": "storage_order",
    "test_maxpool_3d_default": "axes",
    "test_averagepool_3d_default": "axes",
    "test_batchnorm_example_training_mode": "training_mode",
    "test_batchnorm_epsilon_training_mode": "training_mode",
}


def node_cases() -> list[Any]:
    """The cases that the onnx package generates for these operators."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = importlib.import_module("onnx.backend.test.case.node")
        for name in MODULES:
            importlib.import_module(f"onnx.backend.test.case.node.{name}")
        cases = list(package._NodeTestCases)
    return [case for case in cases if OPS & {node.op_type for node in case.model.graph.node}]


@pytest.mark.parametrize("case", node_cases(), ids=lambda case: case.name)
def test_node_case(case: Any) -> None:
    def array(value: Any) -> np.ndarray:
        return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value

    names = [port.name for port in case.model.graph.input]
    for inputs, outputs in case.data_sets:
        feeds = {name: array(value) for name, value in zip(names, inputs, strict=False)}
        if case.name in REFUSED:
            with pytest.raises(gatestep.UnsupportedModelError, match=REFUSED[case.name]):
                gatestep.load(case.model)(feeds)
            return
        results = gatestep.load(case.model)(feeds)
        for got, expected in zip(results.values(), map(array, outputs), strict=False):
            np.testing.assert_allclose(got, expected, rtol=case.rtol, atol=1e-5, strict=True)


def model_of(node: onnx.NodeProto, shape: list[Any], constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    """A model of one node over `x`."""
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("spatial", [(9,), (5, 7)])
def test_groups_dilation_and_strides_of_a_convolution(groups: int, spatial: tuple[int, ...]) -> None:
    from onnx.reference import ReferenceEvaluator

    rng = np.random.default_rng(groups)
    rank = len(spatial)
    w = rng.standard_normal((8, 4 // groups, *(3, 2)[:rank])).astype("f4")
    b = rng.standard_normal(8).astype("f4")
    options = {"strides": [2, 1][:rank], "dilations": [1, 2][:rank], "pads": [1, 0, 2, 1][: 2 * rank], "group": groups}
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], **options)
    model = model_of(node, ["N", 4, *spatial], {"w": w, "b": b})
    x = rng.standard_normal((3, 4, *spatial)).astype("f4")
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    np.testing.assert_allclose(gatestep.load(model)(x), expected, rtol=1e-5, atol=1e-5, strict=True)


def test_a_window_that_does_not_fit_is_an_error_that_names_the_node() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="front/conv")
    model = gatestep.load(model_of(node, [1, 1, "L"], {"w": np.ones((1, 1, 5), "f4")}))
    with pytest.raises(gatestep.ShapeError, match=r"front/conv.*window of 5 does not fit 3"):
        model(np.zeros((1, 1, 3), "f4"))
