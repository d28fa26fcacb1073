"""ONNX Runtime."""

from __future__ import annotations

import importlib
import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ..cells import Array, Case
from ..timing import looped
from .contender import Absent, Contender

__all__ = ["bound", "int8", "onnxruntime", "session_of"]


def session_of(file: bytes | str, threads: int) -> Any:
    """A session of so many threads, which do not spin between calls."""
    runtime: Any = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    if threads == 1:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return runtime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def onnxruntime(case: Case) -> Contender:
    """The same file, every buffer bound once; two bindings, each taking its states from the other. Reduced: int8."""
    net = case.net
    if case.reduced and net.cell != "lstm":
        raise Absent(f"quantize_dynamic leaves {net.cell.upper()} in float32")
    file = int8(net.file()) if case.reduced else net.file()
    session = session_of(file, case.threads)
    feed, out = case.arrays()
    shape = (1, case.rows, net.hidden)
    held = [{name: np.zeros(shape, np.float32) for name in net.states} for _ in range(2)]
    bindings = [
        bound(
            session,
            {"x": feed, **{f"{name}_in": array for name, array in before.items()}},
            {"y": out, **{f"{name}_out": array for name, array in after.items()}},
        )
        for before, after in (held, held[::-1])
    ]
    run = session.run_with_iobinding
    this, other = bindings

    def call() -> None:
        nonlocal this, other
        run(this)
        this, other = other, this

    def result(_kept: object = held) -> Array:  # a binding holds addresses, not the arrays
        return out

    def timed(count: int) -> float:
        pairs = -(-count // 2)
        return looped("run(this); run(other)", run=run, this=this, other=other)(pairs) * count / (2 * pairs)

    return Contender(call, feed, result, timed)


def bound(session: Any, given: dict[str, Any], taken: dict[str, Any]) -> Any:
    """A binding of inputs and outputs to arrays, which have to live as long."""
    binding = session.io_binding()
    for name, array in given.items():
        binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    for name, array in taken.items():
        binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    return binding


def int8(file: bytes | str) -> bytes:
    """A file with weights of 8 bits, by ONNX Runtime's own tool; `file` is a path, or what is in it."""
    quantization: Any = importlib.import_module("onnxruntime.quantization")
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it warns through the root logger that another tool did not see the file first
    try:
        with tempfile.TemporaryDirectory() as folder:
            before, after = Path(folder, "float32.onnx"), Path(folder, "int8.onnx")
            if isinstance(file, bytes):
                before.write_bytes(file)
            else:
                before = Path(file)
            quantization.quantize_dynamic(before, after, weight_type=quantization.QuantType.QInt8, per_channel=True)
            return after.read_bytes()
    finally:
        root.setLevel(level)
