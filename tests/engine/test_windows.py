"""Convolutions, pooling, padding and channel normalisation, held to the ONNX project's own cases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from node_cases import array, feeds_of, node_cases
from onnx import helper
from onnx_models import info, make

import gatestep

MODULES = "conv maxpool averagepool globalaveragepool globalmaxpool batch_normalization instance_normalization pad"
OPS = "Conv MaxPool AveragePool GlobalAveragePool GlobalMaxPool BatchNormalization InstanceNormalization Pad"
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


@pytest.mark.parametrize("case", node_cases(MODULES, OPS), ids=lambda case: case.name)
def test_node_case(case: Any) -> None:
    for inputs, outputs in case.data_sets:
        feeds = feeds_of(case, inputs)
        if case.name in REFUSED:
            with pytest.raises(gatestep.UnsupportedModelError, match=REFUSED[case.name]):
                gatestep.load(case.model)(feeds)
            return
        results = gatestep.load(case.model)(feeds)
        for got, expected in zip(results.values(), map(array, outputs), strict=False):
            np.testing.assert_allclose(got, expected, rtol=case.rtol, atol=1e-5, strict=True)


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
    model = make([node], [info("x", ["N", 4, *spatial])], [info("y", None)], weights={"w": w, "b": b})
    x = rng.standard_normal((3, 4, *spatial)).astype("f4")
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    np.testing.assert_allclose(gatestep.load(model)(x), expected, rtol=1e-5, atol=1e-5, strict=True)


@pytest.mark.parametrize("channels", [3, 16, 37])
@pytest.mark.parametrize("spatial", [(9,), (5, 7), (4, 3, 5)])
def test_a_convolution_of_each_channel_by_itself(channels: int, spatial: tuple[int, ...]) -> None:
    from onnx.reference import ReferenceEvaluator

    rng, rank = np.random.default_rng(channels), len(spatial)
    w = rng.standard_normal((channels, 1, *(3, 2, 2)[:rank])).astype("f4")
    b = rng.standard_normal(channels).astype("f4")
    options = {"strides": [2, 1, 1], "dilations": [1, 2, 1], "pads": [1, 0, 2][:rank] + [2, 1, 0][:rank]}
    options = {name: values[: 2 * rank] if name == "pads" else values[:rank] for name, values in options.items()}
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], group=channels, **options)
    model = make([node], [info("x", ["N", channels, *spatial])], [info("y", None)], weights={"w": w, "b": b})
    x = rng.standard_normal((3, channels, *spatial)).astype("f4")
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    loaded = gatestep.load(model)
    np.testing.assert_allclose(loaded(x), expected, rtol=1e-5, atol=1e-5, strict=True)
    np.testing.assert_array_equal(loaded(x[1:2]), loaded(x)[1:2])


def test_a_window_that_does_not_fit_is_an_error_that_names_the_node() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="front/conv")
    model = gatestep.load(
        make([node], [info("x", [1, 1, "L"])], [info("y", None)], weights={"w": np.ones((1, 1, 5), "f4")})
    )
    with pytest.raises(gatestep.ShapeError, match=r"front/conv.*window of 5 does not fit 3"):
        model(np.zeros((1, 1, 3), "f4"))
