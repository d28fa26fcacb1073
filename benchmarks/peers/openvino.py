"""OpenVINO."""

from __future__ import annotations

import importlib
from typing import Any

from ..cells import Case
from ..timing import looped
from .contender import Contender

__all__ = ["compiled", "openvino"]


def compiled(model: Any, threads: int, reduced: bool) -> Any:
    """A model for calls one after the other, in so many threads."""
    runtime: Any = importlib.import_module("openvino")
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "bf16" if reduced else "f32",
    }
    return runtime.Core().compile_model(model, "CPU", settings)


def openvino(case: Case) -> Contender:
    """The same file with fixed shapes, states kept by the model (ReadValue, Assign), shared memory. Reduced: bf16."""
    runtime: Any = importlib.import_module("openvino")
    passes: Any = importlib.import_module("openvino._offline_transformations")
    model = runtime.Core().read_model(case.net.file(case.frames, case.rows))
    if case.net.states:
        pairs = {f"{name}_in": f"{name}_out" for name in case.net.states}
        passes.apply_make_stateful_transformation(model, pairs)
    request = compiled(model, case.threads, case.reduced).create_infer_request()
    feed, out = case.arrays()
    request.set_tensor("x", runtime.Tensor(feed, shared_memory=True))
    request.set_tensor("y", runtime.Tensor(out, shared_memory=True))
    return Contender(request.infer, feed, lambda: out, looped("infer()", infer=request.infer))
