"""Time and batch taken away from a graph that was written for whole recordings.

One walk over the graph, with sizes for the free dimensions that nothing else has, tells which axis of which input is
time (the one that recurrent operators run along) and which is batch, whether any node mixes frames, and what the states
are. A model whose file fixes one frame per call needs none of that: its call is the frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .errors import GatestepError, ShapeError, UnsupportedModelError
from .graph import Graph, Node
from .lowering import BATCH, TIME, Lowering, Mixing, NeedsValue
from .ops.plumbing import cast
from .states import Slot, pair_by_name, trace
from .values import Buffer, Merged, Tag, Value, View, c_strides

__all__ = ["Axes", "Layout", "analyse", "arranged", "frame_view", "lowered", "place_shapes", "port_shapes"]

#: Sizes for free dimensions during the walk: primes, so that no reshape can take one for something else.
PRIMES = (53, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109, 113)


@dataclass(frozen=True)
class Axes:
    """How one port of the file turns into a frame.

    Attributes
    ----------
    time, batch : int or None
        Axes of the file's array that the frame does not have, or has first.
    dropped : tuple of int
        Axes of one element that the frame does without.
    """

    time: int | None = None
    batch: int | None = None
    dropped: tuple[int, ...] = ()

    def order(self, ndim: int) -> list[int]:
        """Axes of the file's array in the order time, batch, features."""
        lead = [a for a in (self.time, self.batch) if a is not None]
        return lead + [k for k in range(ndim) if k not in lead and k not in self.dropped]


@dataclass
class Layout:
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
    lengths : frozenset of str
        Inputs that only say where recordings end. A stream ends when its caller stops, so a frame does without.
    blocker : GatestepError or None
        Why it does not stream.
    state_batch : dict
        For states and lengths that are inputs: their axes along the batch.
    batch_blocker : str
        Why rows cannot be computed side by side.
    """

    axes: dict[str, Axes] = field(default_factory=dict)
    timed: bool = False
    chunked: bool = False
    free_batch: bool = False
    carried: dict[str, str] = field(default_factory=dict)
    states: dict[str, str | None] = field(default_factory=dict)
    owned: frozenset[Slot] = frozenset()
    finals: tuple[str, ...] = ()
    lengths: frozenset[str] = frozenset()
    blocker: GatestepError | None = None
    state_batch: dict[str, tuple[int, ...]] = field(default_factory=dict)
    batch_blocker: str = ""

    def wanted(self, graph: Graph) -> list[str]:
        """Values that a step computes."""
        return [p.name for p in graph.outputs if p.name in self.axes] + list(self.carried.values())

    def states_in(self) -> set[str]:
        """Inputs that are states."""
        return {*self.carried, *self.states}

    def states_out(self) -> set[str]:
        """Outputs that are states."""
        return {*self.carried.values(), *(out for out in self.states.values() if out), *self.finals}


def port_shapes(graph: Graph, fixed: Mapping[tuple[str, int], int]) -> dict[str, tuple[int, ...]]:
    """Concrete shapes of all inputs: the file's sizes, primes for free ones, `fixed` for the axes that it names."""
    symbols: dict[str, int] = {}
    spare = iter(PRIMES)
    shapes = {}
    for port in graph.inputs:
        if port.shape is None:
            raise UnsupportedModelError(
                f"input {port.name!r} has no declared shape", source=graph.source, hint="Declare its axes in the file"
            )
        shape = []
        for axis, dim in enumerate(port.shape):
            if (port.name, axis) in fixed:
                size = fixed[port.name, axis]
            elif isinstance(dim, int):
                size = dim
            elif dim is None:
                size = take(spare, graph)
            else:
                size = symbols[dim] if dim in symbols else symbols.setdefault(dim, take(spare, graph))
            shape.append(size)
        shapes[port.name] = tuple(shape)
    return shapes


def take(spare: Iterator[int], graph: Graph) -> int:
    """The next size that nothing else has."""
    try:
        return next(spare)
    except StopIteration:
        raise UnsupportedModelError(f"more than {len(PRIMES)} free dimensions", source=graph.source) from None


def axis_tag(name: str, axis: int) -> str:
    """The tag of an axis of an input."""
    return f"{name}\0{axis}"


def is_in(tag: Tag, what: str) -> bool:
    """Whether a resolved tag is `what`, or merged from it."""
    return any(is_in(part, what) for part, _ in tag.parts) if isinstance(tag, Merged) else tag == what


def walk(
    graph: Graph, real: np.dtype[Any], shapes: Mapping[str, tuple[int, ...]], outputs: Iterable[str] | None = None
) -> Lowering:
    """Lower the graph, or what `outputs` need of it, for these shapes, with tags on every axis."""
    ctx = Lowering(graph, real, carry=True)
    for port in graph.inputs:
        default = graph.defaults.get(port.name)
        if default is not None:
            ctx.values[port.name] = default
            continue
        dtype = real if port.dtype.kind == "f" else port.dtype
        shape = shapes[port.name]
        buffer = Buffer("input", dtype, int(np.prod(shape)), name=port.name)
        ctx.values[port.name] = View.whole(buffer, shape, tuple(axis_tag(port.name, k) for k in range(len(shape))))
    ctx.run([port.name for port in graph.outputs] if outputs is None else outputs)
    return ctx


def axis_of(ctx: Lowering, tags: tuple[Tag, ...], what: str) -> int | None:
    """The first axis whose tag is `what`."""
    return next((k for k, tag in enumerate(tags) if ctx.root(tag) == what), None)


def tags_of(ctx: Lowering, name: str) -> tuple[Tag, ...]:
    value = ctx.values[name]
    return value.tags if isinstance(value, View) else (None,) * value.ndim


def analyse(graph: Graph, real: np.dtype[Any], states: Mapping[str, str] | None = None) -> Layout:
    """Find time, batch and states.

    Parameters
    ----------
    graph : Graph
    real : numpy.dtype
    states : mapping, optional
        Input to output, where the caller knows better.

    Returns
    -------
    Layout
        With `blocker` set where the model does not stream.
    """
    layout = Layout()
    try:
        shapes = port_shapes(graph, {})
        ctx = walk(graph, real, shapes)
    except NeedsValue as needs:
        layout.blocker = needs.error
        return layout
    except ShapeError as error:
        layout.blocker = error
        return layout
    time = {p.name: axis_of(ctx, tags_of(ctx, p.name), TIME) for p in graph.inputs}
    batch = {p.name: axis_of(ctx, tags_of(ctx, p.name), BATCH) for p in graph.inputs}
    ports = {p.name: p for p in graph.inputs}
    if all(axis is None for axis in batch.values()):
        batch |= {p.name: 0 for p in graph.inputs if p.shape and not isinstance(p.shape[0], int) and time[p.name] != 0}
    lengths = {ports[name].shape[axis] for name, axis in time.items() if axis is not None}  # type: ignore[index]
    ctx, layout.timed, layout.free_batch = freed(graph, real, ctx, time, batch)
    layout.lengths = only_lengths(graph)
    found_states(graph, ctx, states or {}, layout)
    assign_axes(graph, ctx, time, batch, layout)
    shapes = {p.name: ctx.values[p.name].shape for p in graph.inputs}
    for p in graph.inputs:
        axis = batch.get(p.name)
        if p.name in layout.states_in() | layout.lengths and axis is not None:
            layout.state_batch[p.name] = (axis,)
    ctx = walk(graph, real, shapes, layout.wanted(graph))  # now without what only hands states on
    layout.blocker = blocker(graph, ctx, layout, lengths)
    crossing = next((m for m in ctx.mixings if is_in(ctx.root(m.tag), BATCH)), None)
    if crossing is not None:
        layout.free_batch = False
        layout.batch_blocker = f"{crossing.node.label} mixes rows: {crossing.reason}"
    elif not layout.free_batch:
        layout.batch_blocker = "the file fixes the batch"
    lasts = any(is_in(ctx.root(m.tag), TIME) for m in ctx.lasts)
    outputs_timed = all(layout.axes[p.name].time is not None for p in graph.outputs if p.name in layout.axes)
    layout.chunked = layout.timed and not layout.carried and not lasts and outputs_timed
    return layout


def freed(
    graph: Graph,
    real: np.dtype[Any],
    ctx: Lowering,
    time: Mapping[str, int | None],
    batch: Mapping[str, int | None],
) -> tuple[Lowering, bool, bool]:
    """Try other sizes than the file's for time and batch: what still goes through was not really fixed.

    Returns
    -------
    (Lowering, bool, bool)
        The walk at those sizes; whether time is free; whether the batch is.
    """

    def fixed(axes: Mapping[str, int | None], size: int) -> dict[tuple[str, int], int]:
        ports = {p.name: p for p in graph.inputs}
        return {
            (name, axis): size
            for name, axis in axes.items()
            if axis is not None and isinstance(ports[name].shape[axis], int)  # type: ignore[index]
        }

    has_time = any(axis is not None for axis in time.values())
    has_batch = any(axis is not None for axis in batch.values())
    time_fixed, batch_fixed = fixed(time, PRIMES[-1]), fixed(batch, PRIMES[-2])
    for free_time, free_batch in ((True, True), (True, False), (False, True)):
        if (free_time and not has_time) or (free_batch and not has_batch):
            continue
        change = (time_fixed if free_time else {}) | (batch_fixed if free_batch else {})
        if change:
            try:
                other = walk(graph, real, port_shapes(graph, change))
            except (GatestepError, NeedsValue):
                continue
            if any(axis_of(other, tags_of(other, name), TIME) != axis for name, axis in time.items()):
                continue
        else:
            other = ctx
        mixed = any(is_in(other.root(m.tag), TIME) for m in other.mixings)
        if free_time and time_fixed and mixed and not any(is_in(ctx.root(m.tag), TIME) for m in ctx.mixings):
            continue
        if batch_fixed and free_batch and any(is_in(other.root(m.tag), BATCH) for m in other.mixings):
            continue
        return other, free_time, free_batch
    return ctx, False, False


def found_states(graph: Graph, ctx: Lowering, given: Mapping[str, str], layout: Layout) -> None:
    """Sort inputs and outputs into states and frames."""
    ins, outs = {p.name for p in graph.inputs}, {p.name for p in graph.outputs}
    for name, out in given.items():
        if name not in ins or out not in outs:
            raise UnsupportedModelError(
                f"states={{{name!r}: {out!r}}} does not name an input and an output",
                source=graph.source,
                hint=f"Inputs are {sorted(ins)}, outputs {sorted(outs)}",
            )
    traced = trace(graph, ctx, [p.name for p in graph.outputs])
    proven = traced.pairs()
    layout.carried = {name: out for name, out in given.items() if proven.get(name) != out}
    taken = {*layout.carried, *layout.carried.values()}
    for name in traced.inputs:
        if name not in taken:
            layout.states[name] = proven.get(name)
    layout.owned = frozenset(slot for name in layout.states for slot in traced.covered(traced.inputs[name]))
    shown = {out for out in layout.states.values() if out}
    finals = [
        name
        for name in traced.outputs
        if name not in shown | taken and not layout.owned & traced.covered(traced.outputs[name])
    ]
    if outs - layout.states_out() - set(finals):
        layout.finals = tuple(finals)
    left_in = {p.name: ctx.values[p.name] for p in graph.inputs if p.name not in layout.states_in()}
    left_out = {p.name: ctx.values[p.name] for p in graph.outputs if p.name not in layout.states_out()}
    if len(left_in) > 1 and len(left_out) > 1:
        layout.carried |= pair_by_name(untimed(ctx, left_in), untimed(ctx, left_out))


def untimed(ctx: Lowering, values: Mapping[str, Value]) -> dict[str, tuple[int, ...]]:
    """Shapes of the floating values that have no time axis."""
    return {
        name: value.shape
        for name, value in values.items()
        if value.dtype == ctx.real and axis_of(ctx, tags_of(ctx, name), TIME) is None
    }


def only_lengths(graph: Graph) -> frozenset[str]:
    """Inputs that are sequence lengths of recurrent operators and nothing else."""
    uses = [(name, k, node.op) for node in graph.nodes for k, name in enumerate(node.inputs)]
    lengths = {name for name, k, op in uses if k == 4 and op in ("LSTM", "GRU", "RNN")}
    other = {name for name, k, op in uses if not (k == 4 and op in ("LSTM", "GRU", "RNN"))}
    return frozenset(p.name for p in graph.inputs if p.name in lengths - other)


def assign_axes(
    graph: Graph, ctx: Lowering, time: Mapping[str, int | None], batch: Mapping[str, int | None], layout: Layout
) -> None:
    """Decide the frame of every port that is not a state."""
    states = layout.states_in() | layout.lengths
    if not layout.states_out().issuperset(p.name for p in graph.outputs):
        states |= layout.states_out()
    for port in [*graph.inputs, *graph.outputs]:
        if port.name in states:
            continue
        value = ctx.values[port.name]
        tags = tags_of(ctx, port.name)
        t = time.get(port.name, axis_of(ctx, tags, TIME))
        b = batch.get(port.name)
        if port.name not in batch:
            # An axis that is the batch by its tag, or that follows the first axis of an input taken for it.
            leads = {ctx.root(axis_tag(n, a)) for n, a in batch.items() if a is not None}
            b = next((k for k, tag in enumerate(tags) if ctx.root(tag) in leads | {BATCH} and k != t), None)
        if layout.timed:
            layout.axes[port.name] = Axes(t, b)
            continue
        ones = [k for k in (t, b) if k is not None and value.shape[k] == 1]
        if not ones and b is None:  # nothing is known: leading axes of one element say nothing
            ones = []
            while len(ones) < value.ndim - 1 and value.shape[len(ones)] == 1:
                ones.append(len(ones))
        free = port.shape is not None and b is not None and not isinstance(port.shape[b], int)
        keep = b if layout.free_batch or free else None
        layout.axes[port.name] = Axes(None, keep, tuple(k for k in ones if k != keep))


def blocker(graph: Graph, ctx: Lowering, layout: Layout, lengths: set[Any]) -> GatestepError | None:
    """Why the model does not stream, if it does not."""

    def refuse(mixing: Mixing, why: str) -> UnsupportedModelError:
        return UnsupportedModelError(
            why, source=graph.source, node=mixing.node.label, hint="Use run(frames) or model(x) on whole recordings"
        )

    mixing = next((m for m in ctx.mixings if is_in(ctx.root(m.tag), TIME)), None)
    backwards = next((m for m in ctx.mixings if "backwards" in m.reason), None)
    if layout.timed and mixing is not None:
        return refuse(mixing, f"does not stream: it {mixing.reason}")
    if backwards is not None:
        return refuse(backwards, f"does not stream: it {backwards.reason}")
    if not layout.timed:
        frozen = [n for n in lengths if isinstance(n, int) and n != 1]
        slots = {
            node.key: ctx.values[node.inputs[0]].shape[0]
            for node in graph.nodes
            if node.op in ("LSTM", "GRU", "RNN") and node.inputs[0] in ctx.values
        }
        kept = {name for name, _ in ctx.slots}
        steps = [n for name, n in slots.items() if name in kept and (name, "h") not in layout.owned and n != 1]
        if frozen or steps:
            length = (frozen or steps)[0]
            where = next((m for m in ctx.mixings if is_in(ctx.root(m.tag), TIME)), None)
            return UnsupportedModelError(
                f"does not stream: the file fixes {length} time steps per call",
                source=graph.source,
                node=where.node.label if where else None,
                hint="Export it with a dynamic time axis, or with its states as inputs and outputs",
            )
    for port in graph.inputs:
        if port.name not in layout.axes or port.optional:
            continue
        axes = layout.axes[port.name]
        shape = port.shape or ()
        free = [d for k, d in enumerate(shape) if not isinstance(d, int) and k not in (axes.time, axes.batch)]
        if free:
            return UnsupportedModelError(
                f"does not stream: dimension {free[0]!r} of input {port.name!r} is free, and is neither time nor batch",
                source=graph.source,
                hint="Fix it in the file",
            )
    return None


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
        for axis, size in ((axes.time, frames), (axes.batch, rows)):
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
    graph: Graph, real: np.dtype[Any], layout: Layout, frames: int, rows: int, dtypes: Mapping[str, np.dtype[Any]]
) -> tuple[Lowering, list[Buffer], dict[str, View]]:
    """Lower the graph for chunks of `frames` frames of `rows` rows.

    Returns
    -------
    (Lowering, list of Buffer, dict)
        The walk; the buffers of the frame inputs in the file's order; the views of states kept in the file's layout.
    """
    shapes = place_shapes(graph, layout, frames, rows)
    ctx = Lowering(graph, real, carry=True, owned=layout.owned)
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
        elif port.name in layout.lengths:
            ctx.values[port.name] = View.whole(Buffer("temp", port.dtype, count, name=port.name), shape)
        else:
            buffer = Buffer("input", dtypes[port.name], count, name=port.name)
            inputs.append(buffer)
            view = frame_view(buffer, layout.axes[port.name], shape)
            node = Node("Input", (), (), {}, port.name)
            ctx.values[port.name] = cast(ctx, node, view, real) if port.dtype.kind == "f" else view
    ctx.run(layout.wanted(graph))
    return ctx, inputs, carried
