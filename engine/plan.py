"""What all streams of one model and batch share: programs, the memory map of the state, its initial value."""

from __future__ import annotations

import math
from _thread import allocate_lock
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernels import pack
from ._machine import Machine
from .bounds import fitting, multiplied
from .errors import ShapeError
from .graph import Node, Port
from .lowering import Lowering, Slot
from .program import Program, finish, memory_map
from .streaming.layout import arranged, lowered, place_shapes
from .values import Buffer, View
from .walk import walk

if TYPE_CHECKING:
    from .model import Model

__all__ = ["Plan"]

#: Frames per machine call in `run`, longest first; what is left over goes frame by frame.
CHUNKS = (64, 8)
#: The count of steps in a stream's memory.
CLOCK = "\0clock"
#: Rows times frames beyond which longer chunks gain nothing.
MOST_ROWS = 1024


class Plan:
    """Programs for streams of `rows` rows, with results `delay` steps late.

    Attributes
    ----------
    states : dict
        Name of each state -> where its elements lie in a stream's memory, as indices of reals in the state's own shape.
    initial : array of bytes
        A stream's memory before the first frame.
    """

    def __init__(self, model: Model, rows: int, delay: int) -> None:
        self.model, self.rows, self.real, self.delay = model, rows, model.real, delay
        self._lock = allocate_lock()
        self._programs: dict[tuple[int, bool], Program] = {}
        layout, memories = model.layout, model.layout.memories
        self.graph = graph = memories.postponed(delay - memories.delay)
        self._squeezed = {
            new.key: layout.squeezed[old.key]
            for old, new in zip(memories.graph.nodes, graph.nodes, strict=False)
            if old.key in layout.squeezed
        }
        self.chunk_sizes = [n for n in CHUNKS if layout.chunked and n * rows <= max(MOST_ROWS, 8 * rows)]
        self.inputs: list[Port] = [
            p for p in graph.inputs if p.name in layout.axes and graph.defaults.get(p.name) is None
        ]
        self.outputs: list[Port] = [p for p in graph.outputs if p.name in layout.axes]
        ctx, buffers, carried = self._lower(1)
        model.nets |= ctx.tiers
        self._shapes = {name: value.shape for name, value in ctx.values.items()}
        self._kinds = {b.name: b.dtype for b in ctx.slots.values()}
        sizes = {b.name: b.nbytes for b in self._state_buffers(ctx, carried)}
        self._places, self._bytes = memory_map(sizes | ({CLOCK: 8} if self._clocked else {}))
        self.initial = pack.aligned_empty(max(self._bytes, 1), np.uint8)
        self.initial[:] = 0
        for slot, array in ctx.initial.items():
            buffer = ctx.slots[slot]
            start = self._places[buffer.name]
            self.initial[start : start + buffer.nbytes].view(buffer.dtype)[:] = array.reshape(-1)
        self._carried = carried
        self._slots = {slot: (buffer, ctx.initial[slot].shape) for slot, buffer in ctx.slots.items()}
        self._states: dict[str, np.ndarray] | None = None
        self._programs[1, False] = self._finish(ctx, buffers, carried)
        self._before()
        self._warm()

    # ------------------------------------------------------------------ building
    def _lower(self, frames: int, begins: bool = False) -> tuple[Lowering, list[Buffer], dict[str, View]]:
        model = self.model
        ctx = Lowering(
            self.graph,
            self.real,
            carry=True,
            owned=model.layout.owned,
            squeezed=dict(self._squeezed),
            precision=model.tier,
        )
        if begins:
            ctx.clock = View.whole(Buffer("state", np.dtype(np.int64), 1, name=CLOCK), (1,))
        return ctx, *lowered(ctx, model.layout, frames, self.rows, model.dtypes)

    @staticmethod
    def _state_buffers(ctx: Lowering, carried: dict[str, View]) -> list[Buffer]:
        clock = [ctx.clock.buffer] if ctx.clock is not None else []
        return [*ctx.slots.values(), *(view.buffer for view in carried.values()), *clock]

    @property
    def _clocked(self) -> bool:
        """Whether some steps are other than the rest."""
        memories = self.model.layout.memories
        return memories.begins > 0 or memories.before > 0

    def _before(self) -> None:
        """Make the steps of what stands before the recording."""
        steps = self.model.layout.memories.before
        if not steps:
            return
        program = self.program(1, True)
        machine = program.bind(self.initial)
        arrays = [np.zeros(buffer.count, buffer.dtype) for buffer in (*program.inputs, *program.outputs)]
        clock = self.initial[self._places[CLOCK] :][:8].view(np.int64)
        clock[0] = -steps
        for _ in range(steps):
            failed = machine.run(arrays)
            if failed >= 0:
                raise self.model.failure(program.instructions[failed].node, "before the first frame")

    def _warm(self) -> None:
        """Make a step that nobody sees, so that the first one is like any other: its code and weights are at hand."""
        program = self._programs[1, False]
        if any(instruction.target is not None for instruction in program.instructions):
            return  # how long a loop takes, its inputs say
        arrays = [np.zeros(buffer.count, buffer.dtype) for buffer in (*program.inputs, *program.outputs)]
        program.bind(self.fresh_memory()).run(arrays)

    @property
    def states(self) -> dict[str, np.ndarray]:
        """Where the elements of every named state lie. Found when it is first asked for: a stream runs without."""
        with self._lock, fitting(self.model.stored, self.model.source):
            if self._states is None:
                self._states = self._state_places()
            return self._states

    def _state_places(self) -> dict[str, np.ndarray]:
        from .streaming.states import trace  # most streams are never asked

        graph, layout = self.graph, self.model.layout
        size = self.real.itemsize
        places: dict[str, np.ndarray] = {}
        full = walk(graph, self.real, place_shapes(graph, layout, 1, self.rows), squeezed=self._squeezed)
        traced = trace(graph, full, [p.name for p in graph.outputs])
        table = np.zeros(sum(int(np.prod(s)) for s in traced.shapes.values()), dtype=np.intp)
        for slot, base in traced.bases.items():
            if slot in self._slots:
                count = int(np.prod(traced.shapes[slot]))
                table[base : base + count] = self._places[self._slots[slot][0].name] // size + np.arange(count)
        named: set[Slot] = set()
        for name, numbers in [
            *((name, traced.inputs[name]) for name in layout.states),
            *((name, traced.outputs[name]) for name in layout.finals),
        ]:
            if all(slot in self._slots for slot in traced.covered(numbers)):
                places[name] = table[numbers]
                named |= traced.covered(numbers)
        for name, view in self._carried.items():
            start = self._places[view.buffer.name] // size
            places[name] = start + np.arange(view.count, dtype=np.intp).reshape(view.shape)
        for slot, (buffer, shape) in self._slots.items():
            if slot not in named:
                start = self._places[buffer.name] // buffer.dtype.itemsize
                places[buffer.name] = start + np.arange(buffer.count, dtype=np.intp).reshape(shape)
        return places

    def _finish(self, ctx: Lowering, buffers: list[Buffer], carried: dict[str, View]) -> Program:
        """Deliver the outputs, write the states back, lay everything out."""
        model, layout = self.model, self.model.layout
        outputs = []
        for port in self.outputs:
            view, axes = ctx.view(ctx.values[port.name]), layout.axes[port.name]
            if view.buffer.kind == "state" and layout.carried:  # read before any state is overwritten
                view = ctx.copy(Node("Output", (), (), {}, port.name), view, ctx.temp(view.shape, view.dtype))
            order = axes.order(view.ndim)
            outputs.append(
                (
                    View(
                        view.buffer,
                        arranged(axes, view.shape),
                        tuple(view.strides[k] for k in order),
                        (None,) * len(order),
                        view.offset,
                    ),
                    model.dtypes[port.name],
                )
            )
        back = []
        for name, out in layout.carried.items():
            node = Node("State", (), (), {}, out)
            value = ctx.real_view(node, ctx.values[out])
            if value.shape != carried[name].shape:
                raise ShapeError(f"state {name!r} has shape {carried[name].shape}, its successor {out!r} {value.shape}")
            if value.buffer.kind == "state":  # read before any state is overwritten
                value = ctx.copy(node, value, ctx.temp(value.shape))
            back.append((node, value, carried[name]))
        for node, value, target in back:
            ctx.copy(node, value, target)
        if ctx.clock is not None:
            ctx.emit("tick", Node("Clock", (), (), {}, CLOCK), {4: ctx.clock})
        states = {buffer: self._places[buffer.name] for buffer in self._state_buffers(ctx, carried)}
        return finish(
            ctx, buffers, outputs, backend=model.backend, packed=model.packed, states=states, threads=model.threads
        )

    # ------------------------------------------------------------------ use
    def program(self, frames: int, begins: bool = False) -> Program:
        """The program for chunks of `frames` frames; with `begins` for those that have not reached every node."""
        with self._lock, fitting(self.model.stored, self.model.source):
            if (frames, begins) not in self._programs:
                made = self._finish(*self._lower(frames, begins))
                still = [self.model.layout.axes[port.name].time is None for port in self.inputs]
                multiplied(self._programs[1, False], made, frames, still, self.model.source)
                self._programs[frames, begins] = made
            return self._programs[frames, begins]

    def beginning(self, memory: np.ndarray) -> tuple[Machine | None, int, int]:
        """What makes the first steps of a stream on `memory`, where the count of steps lies, how many there are."""
        until = self.model.layout.memories.begins
        if not until:
            return None, 0, 0
        return self.program(1, True).bind(memory), self._places[CLOCK], until

    def fresh_memory(self) -> np.ndarray:
        """A stream's memory, in the initial state."""
        memory = pack.aligned_empty(self.initial.size, np.uint8)
        memory[:] = self.initial
        return memory

    def frames(self, batch: int | None, ports: Sequence[Port]) -> list[tuple[str, tuple[int, ...], Any, bool, int]]:
        """What `Frame` takes, for each of `ports`."""
        specs = []
        for port in ports:
            axes = self.model.layout.axes[port.name]
            shape = self._shapes[port.name]
            features = [shape[k] for k in axes.order(len(shape)) if k not in (axes.time, axes.batch)]
            rows = [self.rows] if axes.batch is not None and batch is not None else []
            hop = 1 if axes.time is None else shape[axes.time]
            if math.prod(rows) * math.prod(features) * hop != math.prod(shape):  # the memory of a frame hangs on it
                raise ShapeError(f"{self.model.source}: {port.name!r} of shape {shape} is no frame of {self.rows} rows")
            constant = self.model.layout.timed and axes.time is None and port in self.inputs
            inner = (hop, *rows, *features) if hop > 1 else (*rows, *features)
            specs.append((port.name, inner, self.model.dtypes[port.name], constant, hop))
        return specs

    def port_dtype(self, name: str) -> np.dtype[Any]:
        """The dtype in which a state is shown."""
        dtype: np.dtype[Any] = self.model.dtypes.get(name, self.kept_as(name))
        return dtype

    def kept_as(self, name: str) -> np.dtype[Any]:
        """The dtype in which a state is kept."""
        kind: np.dtype[Any] = self._kinds.get(name, self.real)
        return kind

    def failure(self, call: int, frame: int, begins: bool) -> ShapeError:
        """The error for call number `call` of a program, which refused what it read."""
        return self.model.failure(
            self._programs[1, begins].instructions[call].node, f"at frame {frame}" if frame >= 0 else ""
        )
