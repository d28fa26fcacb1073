"""The cases that the onnx package generates for its operators, each a model of one node with inputs and outputs."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

_PACKAGE = "onnx.backend.test.case.node"


def node_cases(modules: str, ops: str = "") -> list[Any]:
    """What `modules` of the package make, and whatever else has been made by then; with `ops`, what has one of them.

    Cases that write a function out as other operators are cases of those operators, and left out.
    """
    package: Any = importlib.import_module(_PACKAGE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in modules.split():
            importlib.import_module(f"{_PACKAGE}.{name}")
    wanted = set(ops.split())
    return [
        case
        for case in package._NodeTestCases
        if "_expanded" not in case.name and (not wanted or wanted & {node.op_type for node in case.model.graph.node})
    ]


def array(value: Any) -> np.ndarray:
    """What a case gives as a tensor or as an array."""
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)


def feeds_of(case: Any, inputs: list[Any]) -> dict[str, np.ndarray]:
    """The inputs of one data set by name."""
    return {port.name: array(value) for port, value in zip(case.model.graph.input, inputs, strict=False)}


def of_constants(case: Any, inputs: list[Any]) -> ModelProto:
    """The model of a case with the inputs of one data set as constants of the file."""
    model = ModelProto()
    model.CopyFrom(case.model)
    del model.graph.input[:]
    values = feeds_of(case, inputs)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    return model
