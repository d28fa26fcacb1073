"""Which kernel calls threads share, and how: a rule over their sizes.

A layer can be cut by rows, where each thread takes its rows through all time steps; by outputs, where the threads meet
after every pass over the weights, once or twice per time step; and the directions of a bidirectional layer can run side
by side. What a call computes is the same number by number, however it is cut, so the rule decides about time alone.
Work is counted in multiply-adds.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence

import numpy as np

from ..kernels.tiers import kernel_of
from ._machine import MOST_THREADS, TEAMS
from .lowering import Instruction

__all__ = ["at_most", "checked", "shared", "together"]

#: Products per multiply-add of one row step: gates times the size of a gate.
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
#: Multiply-adds of a precision tier in the time of one on reals.
TIMES = {"float32": 1, "bfloat16": 1, "w16": 2, "w8": 3, "w8a8": 4}
#: Where the sizes of a cut stand in `gs_args.n`.
ROWS, OUTPUTS = 16, 17
#: Work of one part between two meetings that pays for the meeting: 1 µs against 0.3 µs.
WORTH_MEETING = 24 << 10
#: Work of a whole call for which sleeping threads are woken (some 5 µs, and as long again until they run).
WORTH_WAKING = 2 << 20
#: Rows of a part from which the weights are read often enough by each.
ENOUGH_ROWS = 8
#: Outputs that one thread takes at the least: two vectors of 16; of a dense layer, whose vectors stand side by side,
#: four times as many.
LEAST_OUTPUTS = 32


def checked(threads: object, backend: str) -> int:
    """`threads` as a number.

    Raises
    ------
    ValueError
        It is none from 1 to 64, or the backend's kernels cannot be divided.
    """
    if isinstance(threads, bool) or not isinstance(threads, (int, np.integer)) or not 1 <= threads <= MOST_THREADS:
        raise ValueError(f"threads={threads!r} is not a number from 1 to {MOST_THREADS}")
    if threads > 1 and backend != "cython":
        raise ValueError(f"threads={threads} is there for backend 'cython'; {backend!r} computes on one")
    return int(threads)


def at_most() -> int:
    """Processors that this process may use: more threads than that would wait for each other.

    Where a quota grants less time than that of all processors, as many threads as use it up: with more of them the
    system stops the whole process for the rest of its period.
    """
    from .quotas import processors  # of no use to one thread

    present = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(math.ceil(min(present, processors())), 1)


def shared(instructions: Sequence[Instruction], threads: int) -> list[Instruction]:
    """The same calls, divided among up to `threads` threads where that pays."""
    if threads > 1:
        threads = min(threads, at_most())
    if threads == 1:
        return list(instructions)
    result: list[Instruction] = []
    first: Instruction | None = None  # of two directions
    for instruction in instructions:
        divide(instruction, threads)
        if first is not None and opposite(first, instruction) and (beside := side_by_side(first, instruction, threads)):
            result.insert(-1, beside)
            first = None
        else:
            first = instruction
        result.append(instruction)
    return result


def divide(instruction: Instruction, threads: int) -> None:
    """Say in the call itself into how many parts it is cut, and enter the team that shares it."""
    if kernel_of(instruction.kernel)[0] not in (*GATES, "linear"):
        return
    rows, outputs = cut(instruction, threads)
    if rows == outputs == 1:
        return
    n = instruction.n
    n.extend([0] * (OUTPUTS + 1 - len(n)))
    n[ROWS], n[OUTPUTS] = rows, outputs
    instruction.team = TEAMS[work(instruction)[0] >= WORTH_WAKING]


def work(instruction: Instruction) -> tuple[int, int, int]:
    """Work of the whole call, of the passes between two meetings, and rows."""
    n, (kernel, precision) = instruction.n, kernel_of(instruction.kernel)
    if kernel == "linear":
        return n[0] * n[1] * n[2] // TIMES[precision], n[0] * n[1] * n[2] // TIMES[precision], n[0]
    t, b, i, h, p = n[:5]
    step = GATES[kernel] * h * (i + p) // TIMES[precision]
    return t * b * step, (1 if 10 in instruction.p else b) * step, b


def cut(instruction: Instruction, threads: int) -> tuple[int, int]:
    """Parts by rows and by outputs; one of them is 1."""
    whole, meeting, rows = work(instruction)
    kernel, _ = kernel_of(instruction.kernel)
    size = instruction.n[2 if kernel == "linear" else 3]
    least = LEAST_OUTPUTS if kernel in ("lstm", "gru") else 4 * LEAST_OUTPUTS
    by_outputs = max(min(threads, size // least, meeting // WORTH_MEETING), 1)
    by_rows = max(min(threads, rows, whole // WORTH_MEETING), 1)
    if by_rows > 1 and (rows >= ENOUGH_ROWS * by_rows or by_rows > by_outputs):
        return by_rows, 1
    return 1, by_outputs


def opposite(first: Instruction, second: Instruction) -> bool:
    """Whether these are the two directions of one layer."""
    return (
        first.node is second.node
        and first.kernel == second.kernel
        and kernel_of(first.kernel)[0] in GATES
        and (first.n[9], second.n[9]) == (0, 1)
        and second.p[0].buffer is not first.p[4].buffer
    )


def side_by_side(first: Instruction, second: Instruction, threads: int) -> Instruction | None:
    """What lets two directions run side by side, where that is better than to divide each of them."""
    whole, _, _ = work(first)
    if whole < WORTH_MEETING or max(cut(first, threads)) > 2:
        return None
    for instruction in (first, second):
        instruction.team = 0
    beside = Instruction("beside", first.node, {}, [2], [])
    beside.team = TEAMS[2 * whole >= WORTH_WAKING]
    return beside


def together(instructions: Sequence[Instruction]) -> Iterator[tuple[int, int]]:
    """First and last of the calls that run side by side, `instructions` being numbered as they stand."""
    for k, instruction in enumerate(instructions):
        if instruction.kernel == "beside":
            yield k, k + instruction.n[0]
