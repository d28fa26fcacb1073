"""What no kernel can beat on this machine: reading the weights once, and multiplying as fast as the processor can.

Both are plain loops, measured in the same rounds as what they are held against.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import gatestep

from ..kernels import available_isas, pack
from ..kernels.precision import BITS, PRECISIONS
from ._probe import KernelCall, Multiplier, Reader
from .cells import Array, Case, Net
from .timing import Effort, Rounds, Timed, looped, rounds

__all__ = ["Ceiling", "Kernel", "Limits", "ceiling", "kernel", "kernel_call", "reading"]

#: Bytes per load or product that each instruction set has.
WIDTHS = {"avx512": 64, "avx2": 32}
#: Bytes of one weight, by precision.
BYTES = {name: BITS.get(name, 16 if name == "bfloat16" else 32) // 8 for name in PRECISIONS}
#: Working sets whose bandwidth is shown.
SETS = tuple(1 << k for k in range(13, 27))


def widths() -> list[int]:
    """Of the vectors that this machine has."""
    return [16, *(WIDTHS[isa] for isa in available_isas() if isa in WIDTHS)]


def memory(size: int) -> NDArray[np.uint8]:
    """Memory of so many bytes or a few more, as weights lie in it."""
    made: NDArray[np.uint8] = pack.aligned_empty(-(-size // 64) * 64, np.uint8)
    made[:] = 0
    return made


def reading(size: int) -> Timed:
    """A loop that reads so many bytes."""
    return Reader(memory(size), widths()[-1]).seconds


# ---------------------------------------------------------------------- the machine
@dataclass(frozen=True)
class Ceiling:
    """The machine: bytes per second that one core reads, by working set, and its products and sums per second."""

    bandwidth: dict[int, float]
    flops: float


def ceiling(effort: Effort, sets: Sequence[int] = SETS) -> Ceiling:
    """Measure the machine by itself."""
    bandwidth = {}
    for size in sets:
        held = memory(size)
        timed = rounds({str(width): Reader(held, width).seconds for width in widths()}, effort)
        bandwidth[size] = size / min(timed.median(name) for name in timed.ns) * 1e9
    timed = rounds({str(width): Multiplier(width).seconds for width in widths()}, effort)
    return Ceiling(bandwidth, 2 * Multiplier.PER_CALL / min(timed.median(name) for name in timed.ns) * 1e9)


# ---------------------------------------------------------------------- one case
class Limits:
    """The limit of a case, from loops that take part in its rounds.

    What waits for the frame before it reads its weights once per frame; what does not, once per call. Products are
    those of all rows. Activations, and reading anything but weights, count as nothing. With less than float32, only
    reading counts, and a batch has no limit (`known`): how fast the processor multiplies then depends on the
    instructions that it has for it. Two threads have half the limit.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        ahead, after = case.net.products
        size = BYTES[case.precision]
        self.rest = ahead * size if not case.carried else 0
        self.read = memory((after if self.rest else ahead + after) * size)
        self.wide = memory(self.rest) if self.rest else None
        width = widths()[-1]
        self.contenders: dict[str, Timed] = {"read": Reader(self.read, width).seconds}
        if self.wide is not None:
            self.contenders["read ahead"] = Reader(self.wide, width).seconds
        if not case.reduced:
            self.contenders["multiply"] = Multiplier(width).seconds

    @property
    def known(self) -> bool:
        """Whether there is a limit."""
        return not self.case.reduced or self.case.rows == 1

    @property
    def nbytes(self) -> int:
        """Weights that a call reads at the least, what it reads once per frame counted as often."""
        return self.rest + self.read.nbytes * (1 if self.case.carried else self.case.frames)

    def ns(self, timed: Rounds) -> NDArray[np.float64]:
        """The limit, by round."""
        case, (ahead, after) = self.case, self.case.net.products
        product = timed.ns["multiply"] / Multiplier.PER_CALL if "multiply" in timed.ns else 0.0 * timed.ns["read"]
        if case.carried:
            return np.maximum(timed.ns["read"], product * (ahead + after) * case.rows) / case.threads
        per_frame = np.maximum(timed.ns["read"], product * after * case.rows)
        at_once = np.maximum(timed.ns["read ahead"], product * ahead * case.frames * case.rows)
        return (case.frames * per_frame + at_once) / case.threads


# ---------------------------------------------------------------------- the kernel of a step
@dataclass(frozen=True)
class Kernel:
    """One step of one layer in float32, in nanoseconds (medians over rounds).

    Attributes
    ----------
    packed_bytes : int
        Weights that a step reads.
    read_ns : float
        Reading them in a plain loop, the fastest of those with 16, 32 and 64 bytes per load.
    kernel_ns : float
        The kernel, called in a C loop.
    kernel_over_read : float
        Median of the ratios within a round.
    overhead_out_ns, overhead_new_ns : float
        What ``stream.step(x, out)`` and ``stream.step(x)``, called in a Python loop, add to the kernel, loop included.
    """

    net: str
    packed_bytes: int
    read_ns: float
    kernel_ns: float
    kernel_over_read: float
    overhead_out_ns: float
    overhead_new_ns: float


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


def kernel(net: Net, effort: Effort) -> Kernel:
    """Reading, kernel and step of one layer, by turns."""
    model = gatestep.load(net.file())
    x = np.random.default_rng(1).standard_normal(net.inputs, np.float32)
    call, weights, _ = kernel_call(model, x)
    stream = model.stream()
    names = {"step": stream.step, "x": x, "out": np.empty(net.hidden, np.float32)}
    reads: dict[str, Timed] = {f"read {width}": Reader(weights, width).seconds for width in widths()}
    timed = rounds(
        {
            **reads,
            "kernel": call.seconds,
            "out": looped("step(x, out)", **names),
            "new": looped("step(x)", **names),
        },
        effort,
    )
    read = min(reads, key=timed.median)
    return Kernel(
        str(net),
        weights.nbytes,
        read_ns=timed.median(read),
        kernel_ns=timed.median("kernel"),
        kernel_over_read=timed.ratio("kernel", read),
        overhead_out_ns=timed.difference("out", "kernel"),
        overhead_new_ns=timed.difference("new", "kernel"),
    )
