"""How near is a step to the time that reading its weights takes, and what does the call from Python add?

The limit is a plain loop that reads the very same packed weights front to back, on this machine, in the same rounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import gatestep

from ..kernels import available_isas, pack
from ._probe import KernelCall, Reader
from .cells import Array, Layer
from .timing import Effort, Timed, looped, rounds

__all__ = ["Bound", "measure"]

#: Bytes per load that each instruction set has.
WIDTHS = {"avx512": 64, "avx2": 32}


@dataclass(frozen=True)
class Bound:
    """One step of one layer, in nanoseconds (medians over rounds; `best_`: the fastest round).

    Attributes
    ----------
    packed_bytes : int
        Weights that a step reads.
    read_ns, best_read_ns : float
        Reading them in a plain loop, the fastest of those with 16, 32 and 64 bytes per load.
    kernel_ns, best_kernel_ns : float
        The kernel, called in a C loop.
    kernel_over_read, best_kernel_over_read : float
        Median of the ratios within a round; ratio of the fastest rounds.
    step_out_ns, step_new_ns : float
        ``stream.step(x, out)`` and ``stream.step(x)``, called in a Python loop, the loop included.
    overhead_out_ns, overhead_new_ns, best_overhead_out_ns, best_overhead_new_ns : float
        What those add to the kernel.
    """

    cell: str
    inputs: int
    hidden: int
    packed_bytes: int
    read_ns: float
    best_read_ns: float
    kernel_ns: float
    best_kernel_ns: float
    kernel_over_read: float
    best_kernel_over_read: float
    step_out_ns: float
    step_new_ns: float
    overhead_out_ns: float
    overhead_new_ns: float
    best_overhead_out_ns: float
    best_overhead_new_ns: float


def kernel_call(model: gatestep.Model, frame: Array) -> tuple[KernelCall, NDArray[Any], NDArray[Any]]:
    """The recurrent kernel of a model of one layer, its states starting at zero and carried from call to call.

    Returns
    -------
    call : KernelCall
        One step with input `frame`.
    weights : ndarray
        The packed weights that it reads: the model's own.
    y : ndarray
        What the last call put out.
    """
    program = model.stream()._plan.program(1)
    (index,) = (k for k, packed in enumerate(program.packed) if packed is not None)
    instruction, weights = program.instructions[index], program.packed[index]
    assert weights is not None
    inputs, hidden = instruction.n[2], instruction.n[3]
    lanes = -(-hidden // pack.BLOCK) * pack.BLOCK
    x, h, c, y, scratch = (
        pack.aligned_empty(size, weights.dtype) for size in (inputs, lanes, lanes, lanes, pack.scratch(1, 1, hidden))
    )
    x[:] = frame
    h[:] = c[:] = y[:] = scratch[:] = 0
    slots = {0: x, 1: weights, 2: h, 3: c, 4: y, 5: h, 6: c, 9: scratch}
    addresses = {slot: array.ctypes.data for slot, array in slots.items()}
    call = KernelCall(program.addresses[index], addresses, instruction.n, instruction.f, (slots, program))
    return call, weights, y[:hidden]


def measure(layer: Layer, effort: Effort) -> Bound:
    """Reading, kernel and step of one layer, by turns."""
    model = gatestep.load(layer.file)
    x = np.random.default_rng(1).standard_normal(layer.inputs, np.float32)
    kernel, weights, _ = kernel_call(model, x)
    stream = model.stream()
    names = {"step": stream.step, "x": x, "out": np.empty(layer.hidden, np.float32)}
    reads: dict[str, Timed] = {
        f"read {width}": Reader(weights, width).seconds
        for width in (16, *(WIDTHS[isa] for isa in available_isas() if isa in WIDTHS))
    }
    timed = rounds(
        {
            **reads,
            "kernel": kernel.seconds,
            "out": looped("step(x, out)", **names),
            "new": looped("step(x)", **names),
        },
        effort,
    )
    read = min(reads, key=timed.median)
    best_read = min(timed.best(name) for name in reads)
    return Bound(
        layer.cell,
        layer.inputs,
        layer.hidden,
        weights.nbytes,
        read_ns=timed.median(read),
        best_read_ns=best_read,
        kernel_ns=timed.median("kernel"),
        best_kernel_ns=timed.best("kernel"),
        kernel_over_read=timed.ratio("kernel", read),
        best_kernel_over_read=timed.best("kernel") / best_read,
        step_out_ns=timed.median("out"),
        step_new_ns=timed.median("new"),
        overhead_out_ns=timed.difference("out", "kernel"),
        overhead_new_ns=timed.difference("new", "kernel"),
        best_overhead_out_ns=timed.best("out") - timed.best("kernel"),
        best_overhead_new_ns=timed.best("new") - timed.best("kernel"),
    )
