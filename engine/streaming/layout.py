"""What a model is to a stream, and its graph lowered for one."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import GatestepError
from ..graph import Graph, Node
from ..lowering import Lowering, Slot
from ..ops.plumbing import cast
from ..record import Record
from ..values import Buffer, View, c_strides
from ..walk import port_shapes
from .memories import Memories

__all__ = ["Axes", "Layout", "arranged", "lowered", "place_shapes"]


class Axes(Record):
    """How one port of the file turns into a frame.

    Attributes
    ----------
    time, batch : int or None
        Axes of the file's array that the frame does not have, or has first.
    dropped : tuple of int
        Axes of one element that the frame does without.
    """

    time: int | None
    batch: int | None
    dropped: tuple[int, ...]

    def __init__(self, time: int | None = None, batch: int | None = None, dropped: tuple[int, ...] = ()) -> None:
        self.time, self.batch, self.dropped = time, batch, dropped

    def order(self, ndim: int) -> list[int]:
        """Axes of the file's array in the order time, batch, features."""
        lead = [a for a in (self.time, self.batch) if a is not None]
        return lead + [k for k in range(ndim) if k not in lead and k not in self.dropped]


class Layout(Record):
    """What a model is to a stream.

    Attributes
    ----------
    axes : dict
        For every input and output that a frame has: those that are not states. Where every output is a state, a frame
        shows them all the same.
    timed : bool
        The file has a time axis that can have any length; otherwise one call is one frame.
    chunked : bool
        Several frames can be computed in one go.
    free_batch : bool
        Rows can be computed side by side.
    carried : dict
        Inputs whose file layout is kept as state, with the output that continues each.
    states : dict
        States that live in the recurrent operators: input -> output or None, for those that are inputs of the file.
    owned : frozenset of Slot
        The recurrent operators' states that those inputs set.
    finals : tuple of str
        Outputs that only show final states, and are states of the stream for that.
    kept : tuple of str
        Outputs that are states of operators which nothing else asks for.
    lengths : frozenset of str
        Inputs that only say where recordings end. A stream ends when its caller stops, so a frame does without.
    blocker : GatestepError or None
        Why it does not stream.
    late : GatestepError or None
        Why it only streams with a delay.
    state_batch : dict
        For states and lengths that are inputs: their axes along the batch.
    batch_blocker : str
        Why rows cannot be computed side by side.
    squeezed : dict
        As in `Lowering`.
    slides : bool
        Time, where there is one, is what windows slide along: no recurrent operator says so.
    memories : Memories
        The graph of a stream, where that is another than the file's, and how late its results are.
    """

    # What a file says of these is held to their types (`importers/typed.py`), which therefore are no text.
    memories: Memories
    axes: dict[str, Axes]
    timed: bool
    chunked: bool
    free_batch: bool
    carried: dict[str, str]
    states: dict[str, str | None]
    owned: frozenset[Slot]
    finals: tuple[str, ...]
    kept: tuple[str, ...]
    lengths: frozenset[str]
    blocker: GatestepError | None
    late: GatestepError | None
    state_batch: dict[str, tuple[int, ...]]
    batch_blocker: str
    squeezed: dict[str, tuple[int, ...]]
    slides: bool

    def __init__(self, memories: Memories) -> None:
        self.memories = memories
        self.axes, self.timed, self.chunked, self.free_batch = {}, False, False, False
        self.carried, self.states, self.owned = {}, {}, frozenset()
        self.finals, self.kept, self.lengths = (), (), frozenset()
        self.blocker, self.late = None, None
        self.state_batch, self.batch_blocker, self.squeezed, self.slides = {}, "", {}, False

    def wanted(self, graph: Graph) -> list[str]:
        """Values that a step computes."""
        return [p.name for p in graph.outputs if p.name in self.axes] + [*self.carried.values(), *self.kept]

    def states_in(self) -> set[str]:
        """Inputs that are states."""
        return {*self.carried, *self.states}

    def states_out(self) -> set[str]:
        """Outputs that are states."""
        return {*self.carried.values(), *(out for out in self.states.values() if out), *self.finals}


def arranged(axes: Axes, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the caller's array, time first, then batch, for a file's array of `shape`."""
    return tuple(shape[k] for k in axes.order(len(shape)))


def frame_view(buffer: Buffer, axes: Axes, shape: tuple[int, ...]) -> View:
    """The file's array of `shape`, as a view of the caller's, which has time first."""
    order = axes.order(len(shape))
    steps = dict(zip(order, c_strides(tuple(shape[k] for k in order)), strict=True))
    return View(buffer, shape, tuple(steps.get(k, 0) for k in range(len(shape))), (None,) * len(shape))


def place_shapes(graph: Graph, layout: Layout, frames: int, rows: int) -> dict[str, tuple[int, ...]]:
    """Shapes of all inputs for chunks of `frames` frames of `rows` rows."""
    fixed = {}
    for name, axes in layout.axes.items():
        for axis, size in ((axes.time, frames * layout.memories.hop), (axes.batch, rows)):
            if axis is not None:
                fixed[name, axis] = size
    # States have no axes of their own here: a free dimension is what it is at the other ports, else the batch.
    symbols = {
        port.shape[axis]: size
        for port in graph.inputs
        for (name, axis), size in fixed.items()
        if name == port.name and port.shape is not None
    }
    for port in graph.inputs:
        if port.name not in layout.axes:
            for k, dim in enumerate(port.shape or ()):
                if not isinstance(dim, int):
                    fixed[port.name, k] = symbols.get(dim, rows)
                elif k in layout.state_batch.get(port.name, ()):
                    fixed[port.name, k] = rows
    return port_shapes(graph, fixed)


def lowered(
    ctx: Lowering, layout: Layout, frames: int, rows: int, dtypes: Mapping[str, np.dtype[Any]]
) -> tuple[list[Buffer], dict[str, View]]:
    """Lower the graph of `ctx` for chunks of `frames` frames of `rows` rows.

    Returns
    -------
    (list of Buffer, dict)
        The buffers of the frame inputs in the file's order; the views of states kept in the file's layout.
    """
    graph, real = ctx.graph, ctx.real
    shapes = place_shapes(graph, layout, frames, rows)
    inputs: list[Buffer] = []
    carried: dict[str, View] = {}
    for port in graph.inputs:
        shape = shapes[port.name]
        default = graph.defaults.get(port.name)
        count = int(np.prod(shape))
        if port.name in layout.carried:
            view = View.whole(Buffer("state", real, count, name=port.name), shape)
            carried[port.name] = ctx.values[port.name] = view
        elif port.name in layout.states:
            # Slots of the operators replace it; what it is traced through still needs its shape.
            ctx.values[port.name] = View.whole(Buffer("temp", real, count, name=port.name), shape)
        elif default is not None:
            ctx.values[port.name] = default
        elif port.name not in layout.axes:
            ctx.values[port.name] = View.whole(Buffer("temp", port.dtype, count, name=port.name), shape)
        else:
            buffer = Buffer("input", dtypes[port.name], count, name=port.name)
            inputs.append(buffer)
            view = frame_view(buffer, layout.axes[port.name], shape)
            node = Node("Input", (), (), {}, port.name)
            ctx.values[port.name] = cast(ctx, node, view, real) if port.dtype.kind == "f" else view
    ctx.run(layout.wanted(graph))
    return inputs, carried
