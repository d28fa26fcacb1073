"""Comparisons, choice, indexing, sums over axes and the rest, held to the ONNX project's own cases.

Each case runs twice: with its inputs at run time, by kernels, and as constants of the file, by `evaluate`.
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import gatestep

#: Modules of the onnx package, and the operators they show.
MODULES = {
    "equal greater greater_or_equal less less_or_equal": "Equal Greater GreaterOrEqual Less LessOrEqual",
    "and_ or_ xor not_ where isnan isinf": "And Or Xor Not Where IsNaN IsInf",
    "argmax argmin topk cumsum reversesequence": "ArgMax ArgMin TopK CumSum ReverseSequence",
    "gatherelements gathernd scatter": "GatherElements GatherND Scatter",
    "scatterelements scatternd onehot trilu": "ScatterElements ScatterND OneHot Trilu",
    "einsum convtranspose center_crop_pad": "Einsum ConvTranspose CenterCropPad",
    "sin cos round mod clip": "Sin Cos Round Mod Clip",
    "reducel1 reduce_log_sum reduce_log_sum_exp": "ReduceL1 ReduceLogSum ReduceLogSumExp",
    "reducel2 reducemax reducemean reducemin": "ReduceL2 ReduceMax ReduceMean ReduceMin",
    "reduceprod reducesum reducesumsquare": "ReduceProd ReduceSum ReduceSumSquare",
    "lpnormalization meanvariancenormalization": "LpNormalization MeanVarianceNormalization",
    "groupnormalization rmsnormalization": "GroupNormalization RMSNormalization",
}
OPS = {op for ops in MODULES.values() for op in ops.split()}
#: What is refused, with a word of the reason: always, or only at run time.
NEVER = {
    "test_equal_string": "STRING",
    "test_equal_string_broadcast": "STRING",
    "test_not_2d": "operator set 1",
    "test_not_3d": "operator set 1",
    "test_not_4d": "operator set 1",
}
UNSIGNED = [
    f"test_{op}_{dtype}"
    for op in ("equal", "greater", "greater_equal", "less", "less_equal", "mod")
    for dtype in ("uint16", "uint32", "uint64")
]
REFUSED = {**NEVER, **dict.fromkeys([*UNSIGNED, "test_top_k_uint64"], "cannot convert uint")}


def node_cases() -> list[Any]:
    """The cases that the onnx package generates for these operators; functions written out are cases of others."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = importlib.import_module("onnx.backend.test.case.node")
        for names in MODULES:
            for name in names.split():
                importlib.import_module(f"onnx.backend.test.case.node.{name}")
        cases = list(package._NodeTestCases)
    mine = [case for case in cases if OPS & {node.op_type for node in case.model.graph.node}]
    return [case for case in mine if "_expanded" not in case.name]


def array(value: Any) -> np.ndarray:
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def check(case: Any, model: onnx.ModelProto, feeds: dict[str, np.ndarray], expected: list[Any]) -> None:
    results = gatestep.load(model)(feeds)
    for got, value in zip(results.values(), map(array, expected), strict=True):
        if value.dtype.kind == "V":  # bfloat16, which is computed in single precision
            np.testing.assert_allclose(got, value.astype("f4"), rtol=2**-7, atol=2**-7)
            continue
        np.testing.assert_allclose(got, value, rtol=case.rtol, atol=1e-5, strict=True)


@pytest.mark.parametrize("case", node_cases(), ids=lambda case: case.name)
def test_node_case(case: Any) -> None:
    names = [port.name for port in case.model.graph.input]
    for inputs, outputs in case.data_sets:
        feeds = {name: array(value) for name, value in zip(names, inputs, strict=False)}
        if case.name in REFUSED:
            with pytest.raises(gatestep.UnsupportedModelError, match=REFUSED[case.name]):
                gatestep.load(case.model)(feeds)
            continue
        check(case, case.model, feeds, outputs)


@pytest.mark.parametrize("case", [c for c in node_cases() if c.name not in NEVER], ids=lambda case: case.name)
def test_node_case_of_constants(case: Any) -> None:
    names = [port.name for port in case.model.graph.input]
    for inputs, outputs in case.data_sets:
        model = onnx.ModelProto()
        model.CopyFrom(case.model)
        del model.graph.input[:]
        model.graph.initializer.extend(
            numpy_helper.from_array(array(value), name) for name, value in zip(names, inputs, strict=False)
        )
        check(case, model, {}, outputs)
