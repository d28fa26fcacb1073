"""A program: kernel calls with their memory laid out, ready to be bound to arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..kernels import KernelSet, kernel_set, pack
from . import bounds
from ._machine import Machine
from .errors import MissingExtraError
from .graph import Node
from .lowering import WRITTEN, Instruction, Lowering
from .ops.plumbing import cast
from .threads import shared, together
from .values import Buffer, Value, View, Weights

__all__ = ["Packed", "Program", "finish", "memory_map"]

ALIGNMENT = 64
#: Kernels that can refuse what they read (GS_BAD_INDEX).
FALLIBLE = frozenset(("gather", "check_range", "element_index", "tuple_index", "reverse_sequence"))


class Packed:
    """Packed weights, shared by every program of a model."""

    def __init__(self) -> None:
        self.arrays: dict[tuple[Any, ...], tuple[tuple[np.ndarray | None, ...], np.ndarray]] = {}

    def get(self, weights: Weights, real: np.dtype[Any]) -> np.ndarray:
        """The packed form of `weights`."""
        held = self.arrays.get(weights.key)
        if held is None or not all(map(_same, held[0], weights.arrays)):
            held = weights.arrays, weights.pack(*weights.arrays, real)
            self.arrays[weights.key] = held
        return held[1]

    @property
    def nbytes(self) -> int:
        return sum(packed.nbytes for _, packed in self.arrays.values())


def _same(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    """Whether two arrays, both alive, hold the same: most often they are the same memory."""
    if a is None or b is None:
        return a is b
    layouts = [(x.ctypes.data, x.shape, x.strides, x.dtype) for x in (a, b)]
    return layouts[0] == layouts[1] or np.array_equal(a, b)


class Program:
    """Kernel calls for concrete shapes.

    Attributes
    ----------
    inputs, outputs : list of Buffer
        The caller's arrays, in the order in which they are given to the machine.
    states : dict
        Place of each state buffer in the stream's memory, in bytes.
    """

    def __init__(
        self,
        instructions: list[Instruction],
        inputs: list[Buffer],
        outputs: list[Buffer],
        states: Mapping[Buffer, int],
        places: dict[Buffer, int],
        arena: int,
        addresses: list[int],
        packed: list[np.ndarray | None],
    ) -> None:
        self.instructions, self.inputs, self.outputs, self.states = instructions, inputs, outputs, states
        self.places, self.arena, self.addresses, self.packed = places, arena, addresses, packed

    @property
    def fallible(self) -> bool:
        """Whether a kernel can refuse what it reads (an index out of range)."""
        return any(i.kernel in FALLIBLE or (i.kernel == "count" and i.n[4]) for i in self.instructions)

    @property
    def shared(self) -> bool:
        """Whether threads share any of it."""
        return any(i.team for i in self.instructions)

    @property
    def weight_bytes(self) -> int:
        """Packed weights that one run reads."""
        return sum(a.nbytes for a in self.packed if a is not None)

    def bind(self, memory: np.ndarray | None = None) -> Machine:
        """A machine on a new arena, and on a stream's `memory`, for as long as those live."""
        arena = pack.aligned_empty(self.arena, np.uint8)
        arena[:] = 0
        ports = {buffer: k for k, buffer in enumerate([*self.inputs, *self.outputs])}
        keep: list[object] = [arena, memory, self]
        calls = []
        for instruction, address, packed in zip(self.instructions, self.addresses, self.packed, strict=True):
            pointers = []
            for slot, view in instruction.p.items():
                buffer, offset = view.buffer, view.offset * view.dtype.itemsize
                if buffer in ports:
                    pointers.append((slot, ports[buffer], offset))
                    continue
                if buffer.kind == "const":
                    assert buffer.data is not None
                    base = buffer.data.ctypes.data
                elif buffer.kind == "state":
                    assert memory is not None
                    base = memory.ctypes.data + self.states[buffer]
                else:
                    base = arena.ctypes.data + self.places[buffer]
                pointers.append((slot, -1, base + offset))
            if packed is not None:
                pointers.append((1, -1, packed.ctypes.data))
            if instruction.team:
                pointers.append((11, -1, instruction.team))
            calls.append((address, pointers, instruction.n, instruction.f))
        return Machine(calls, keep)


def memory_map(sizes: Mapping[Any, int]) -> tuple[dict[Any, int], int]:
    """Lay buffers of `sizes` bytes one behind the other; returns places and the total."""
    places, end = {}, 0
    for key, size in sizes.items():
        places[key] = end
        end += -(-size // ALIGNMENT) * ALIGNMENT
    return places, end


def finish(
    ctx: Lowering,
    inputs: Sequence[Buffer],
    outputs: Sequence[tuple[Value, np.dtype[Any]]],
    *,
    backend: str,
    packed: Packed,
    states: Mapping[Buffer, int],
    threads: int,
) -> Program:
    """Make the caller's output arrays the target of what computes them, lay out the arena, pack the weights."""
    targets = [deliver(ctx, value, dtype, k) for k, (value, dtype) in enumerate(outputs)]
    instructions = shared(live(ctx.instructions), threads)
    places, arena = arena_map(instructions)
    instructions = resolved(instructions)
    weights = [None if i.weights is None else packed.get(i.weights, ctx.real) for i in instructions]
    bounds.check(instructions, weights, ctx.graph.source)
    try:
        kernels: KernelSet = kernel_set(backend, ctx.real)
        addresses = [kernels.address(i.kernel, i.n, i.f) for i in instructions]
    except ImportError as error:
        raise MissingExtraError(backend, backend) from error
    return Program(
        instructions,
        list(inputs),
        targets,
        states,
        places,
        arena,
        addresses,
        weights,
    )


def live(instructions: Sequence[Instruction]) -> list[Instruction]:
    """Without the calls whose results nothing reads."""
    read: set[Buffer] = set()
    loops = bool(loops_of(instructions))
    while True:
        known, kept = len(read), []
        for instruction in reversed(instructions):
            written = [view.buffer for slot, view in instruction.p.items() if slot in WRITTEN]
            needless = written and instruction.target is None
            if not needless or any(buffer in read or buffer.kind in ("output", "state") for buffer in written):
                kept.append(instruction)
                read.update(view.buffer for slot, view in instruction.p.items() if slot not in WRITTEN)
        if not loops or len(read) == known:  # what a loop reads may be written behind it
            return kept[::-1]


def loops_of(instructions: Sequence[Instruction]) -> list[tuple[int, int]]:
    """First and last instruction of everything that is repeated, inner loops first."""
    places = {id(instruction): k for k, instruction in enumerate(instructions) if not instruction.kernel}
    jumps = [(places[id(i.target)], k) for k, i in enumerate(instructions) if i.target is not None]
    return [(first, last) for first, last in jumps if first < last]


def resolved(instructions: Sequence[Instruction]) -> list[Instruction]:
    """Jumps with the numbers of the calls that they go to, without the labels."""
    places: dict[int, int] = {}
    calls: list[Instruction] = []
    for instruction in instructions:
        if instruction.kernel:
            calls.append(instruction)
        else:
            places[id(instruction)] = len(calls)
    for call in calls:
        if call.target is not None:
            call.n[0] = places[id(call.target)]
    return calls


def deliver(ctx: Lowering, value: Value, dtype: np.dtype[Any], k: int) -> Buffer:
    """The buffer of output `k`: the one that the value is computed in where it is free to be that, else a copy."""
    node = Node("Output", (), (), {}, str(k))
    view = ctx.view(value)
    if view.dtype != dtype:
        view = cast(ctx, node, view, dtype)
    buffer = view.buffer
    if buffer.kind == "temp" and view.dense and view.offset == 0 and view.count == buffer.count > 0:
        buffer.kind = "output"
        return buffer
    ctx.proportionate(view.count, view.shape)
    target = Buffer("output", dtype, view.count)
    ctx.copy(node, view, View.whole(target, view.shape))
    return target


def arena_map(instructions: Sequence[Instruction]) -> tuple[dict[Buffer, int], int]:
    """Places for temporary buffers, sharing memory where their lives do not meet. First fit, in order of birth.

    What lives beyond an iteration of a loop, before it or behind it, lives as long as the loop; and calls side by side
    are one moment.
    """
    first: dict[Buffer, int] = {}
    last: dict[Buffer, int] = {}
    for k, instruction in enumerate(instructions):
        for buffer in instruction.buffers():
            if buffer.kind == "temp":
                first.setdefault(buffer, k)
                last[buffer] = k
    for begin, end in together(instructions):
        for buffer, born in first.items():
            if begin <= last[buffer] and born <= end:
                first[buffer], last[buffer] = min(born, begin), max(last[buffer], end)
    for begin, end in loops_of(instructions):
        for buffer, born in first.items():
            if begin <= last[buffer] and born <= end and (born < begin or last[buffer] > end):
                first[buffer], last[buffer] = min(born, begin), max(last[buffer], end)
    places: dict[Buffer, int] = {}
    live: list[tuple[int, int, Buffer]] = []  # (start, end, buffer), by start
    arena = 0
    for buffer, born in sorted(first.items(), key=lambda entry: entry[1]):
        live = [entry for entry in live if last[entry[2]] >= born]
        size = max(-(-buffer.nbytes // ALIGNMENT) * ALIGNMENT, ALIGNMENT)
        start = 0
        for low, high, _ in live:
            if start + size <= low:
                break
            start = max(start, high)
        places[buffer] = start
        live.append((start, start + size, buffer))
        live.sort(key=lambda entry: entry[0])
        arena = max(arena, start + size)
    return places, arena
