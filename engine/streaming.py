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
from .lowering import BATCH, TIME, Lowering, Mixing, NeedsValue, ancestors, needed
from .ops import OPS
from .ops.plumbing import cast
from .states import Slot, pair_by_name, trace
from .values import Buffer, Merged, Tag, Value, View, c_strides

__all__ = ["Axes", "Layout", "analyse", "arranged", "frame_view", "lowered", "place_shapes", "port_shapes"]

#: Sizes for free dimensions during the walk: primes, so that no reshape can take one for something else.
PRIMES = (53, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167, 173)


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
    kept : tuple of str
        Outputs that are states of operators which nothing else asks for.
    lengths : frozenset of str
        Inputs that only say where recordings end. A stream ends when its caller stops, so a frame does without.
    blocker : GatestepError or None
        Why it does not stream.
    state_batch : dict
        For states and lengths that are inputs: their axes along the batch.
    batch_blocker : str
        Why rows cannot be computed side by side.
    squeezed : dict
        As in `Lowering`.
    """

    axes: dict[str, Axes] = field(default_factory=dict)
    timed: bool = False
    chunked: bool = False
    free_batch: bool = False
    carried: dict[str, str] = field(default_factory=dict)
    states: dict[str, str | None] = field(default_factory=dict)
    owned: frozenset[Slot] = frozenset()
    finals: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    lengths: frozenset[str] = frozenset()
    blocker: GatestepError | None = None
    state_batch: dict[str, tuple[int, ...]] = field(default_factory=dict)
    batch_blocker: str = ""
    squeezed: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def wanted(self, graph: Graph) -> list[str]:
        """Values that a step computes."""
        return [p.name for p in graph.outputs if p.name in self.axes] + [*self.carried.values(), *self.kept]

    def states_in(self) -> set[str]:
        """Inputs that are states."""
        return {*self.carried, *self.states}

    def states_out(self) -> set[str]:
        """Outputs that are states."""
        return {*self.carried.values(), *(out for out in self.states.values() if out), *self.finals}


def port_shapes(graph: Graph, fixed: Mapping[tuple[str, int], int]) -> dict[str, tuple[int, ...]]:
    """Concrete shapes of all inputs: the file's sizes, primes for free ones, `fixed` for the axes that it names."""
    symbols: dict[str, int] = {}
    spare = iter(unused(graph)[:-2])
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


def unused(graph: Graph) -> list[int]:
    """Primes that are no size in the file. The last two are for time and batch."""
    sizes = {n for array in graph.constants.values() for n in array.shape}
    for array in graph.constants.values():
        if array.dtype.kind in "iu" and array.size < 64:  # shapes, bounds, indices and what is one off
            sizes.update(int(n) + d for n in array.reshape(-1) for d in (-1, 0, 1))
    sizes.update(n for port in graph.inputs for n in port.shape or () if isinstance(n, int))
    return [n for n in PRIMES if n not in sizes]


def take(spare: Iterator[int], graph: Graph) -> int:
    """The next size that nothing else has."""
    try:
        return next(spare)
    except StopIteration:
        raise UnsupportedModelError("too many free dimensions", source=graph.source) from None


def axis_tag(name: str, axis: int) -> str:
    """The tag of an axis of an input."""
    return f"{name}\0{axis}"


def is_in(tag: Tag, what: str) -> bool:
    """Whether a resolved tag is `what`, or merged from it."""
    return any(is_in(part, what) for part, _ in tag.parts) if isinstance(tag, Merged) else tag == what


def walk(
    graph: Graph,
    real: np.dtype[Any],
    shapes: Mapping[str, tuple[int, ...]],
    outputs: Iterable[str] | None = None,
    squeezed: Mapping[str, tuple[int, ...]] | None = None,
) -> Lowering:
    """Lower the graph, or what `outputs` need of it, for these shapes, with tags on every axis."""
    ctx = Lowering(graph, real, carry=True, squeezed=dict(squeezed or {}))
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


def tagged(ctx: Lowering, batch: Mapping[str, int | None]) -> None:
    """Say which axes of the inputs are the batch."""
    for name, axis in batch.items():
        if axis is not None:
            ctx.unify(axis_tag(name, axis), BATCH)


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
        tagged(ctx, batch)
    lengths = {ports[name].shape[axis] for name, axis in time.items() if axis is not None}  # type: ignore[index]
    ctx, layout.timed, layout.free_batch, layout.batch_blocker = freed(graph, real, ctx, time, batch)
    layout.squeezed = ctx.squeezed
    layout.lengths = only_lengths(graph)
    found_states(graph, ctx, states or {}, layout)
    assign_axes(graph, ctx, time, batch, layout)
    shapes = {p.name: ctx.values[p.name].shape for p in graph.inputs}
    for p in graph.inputs:
        axis = batch.get(p.name)
        if layout.free_batch and p.name in layout.states_in() | layout.lengths and axis is not None:
            layout.state_batch[p.name] = (axis,)
    ctx = walk(graph, real, shapes, layout.wanted(graph), layout.squeezed)  # now without what only hands states on
    tagged(ctx, batch)
    layout.blocker = blocker(graph, ctx, layout, lengths, states or {})
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
) -> tuple[Lowering, bool, bool, str]:
    """Try other sizes than the file's for time and batch: what still goes through was not really fixed.

    Returns
    -------
    (Lowering, bool, bool, str)
        The walk at those sizes (one row where the batch is neither free nor fixed); whether time is free; whether the
        batch is, and if not why.
    """
    ports = {p.name: p for p in graph.inputs}

    def sized(axes: Mapping[str, int | None], size: int, fixed: bool) -> dict[tuple[str, int], int]:
        return {
            (name, axis): size
            for name, axis in axes.items()
            if axis is not None and isinstance(ports[name].shape[axis], int) is fixed  # type: ignore[index]
        }

    has_time = any(axis is not None for axis in time.values())
    has_batch = any(axis is not None for axis in batch.values())
    primes = unused(graph)
    time_fixed, batch_fixed = sized(time, primes[-1], True), sized(batch, primes[-2], True)
    why = "the file fixes the batch"
    for free_time, free_batch in ((True, True), (True, False), (False, True), (False, False)):
        if (free_time and not has_time) or (free_batch and not has_batch):
            continue
        change = (time_fixed if free_time else {}) | (batch_fixed if free_batch else sized(batch, 1, False))
        other = ctx
        if change:
            try:
                other = walk(graph, real, port_shapes(graph, change))
            except (GatestepError, NeedsValue):
                continue
            tagged(other, batch)
            if any(axis_of(other, tags_of(other, name), TIME) != axis for name, axis in time.items()):
                continue
        if free_time and time_fixed:
            mixed = any(is_in(other.root(m.tag), TIME) for m in other.mixings)
            if mixed and not any(is_in(ctx.root(m.tag), TIME) for m in ctx.mixings):
                continue
        if change and misfit(other) and not misfit(ctx):
            continue
        if free_batch:
            crossing = crosses(graph, other)
            if crossing is not None:
                why = f"{crossing.node.label} mixes rows: {crossing.reason}"
                continue
        return other, free_time, free_batch, "" if free_batch else why
    return ctx, False, False, why


def crosses(graph: Graph, ctx: Lowering) -> Mixing | None:
    """What makes a row depend on its neighbours, or on how many there are."""
    notes = [*ctx.mixings, *ctx.lasts, *ctx.drops]
    crossing = next((m for m in notes if is_in(ctx.root(m.tag), BATCH)), None)
    return crossing or varies(graph, ctx, [p.name for p in graph.outputs], BATCH)


def misfit(ctx: Lowering) -> Mixing | None:
    """The recurrent operator that does not run from frame to frame."""
    for run in ctx.runs:
        if ctx.root(run.along) != TIME:
            return Mixing(TIME, run.node, "runs along an axis that is not that of the frames")
        if is_in(ctx.root(run.across), TIME):
            return Mixing(TIME, run.node, "takes the frames for rows, each with a state of its own")
    return None


def varies(graph: Graph, ctx: Lowering, outputs: Iterable[str], what: str) -> Mixing | None:
    """What in a walk depends on how long the time or batch axis is: held against a walk where it has one element."""
    shapes = {}
    for port in graph.inputs:
        tags = tags_of(ctx, port.name)
        sizes = zip(tags, ctx.values[port.name].shape, strict=True)
        shapes[port.name] = tuple(1 if ctx.root(tag) == what else size for tag, size in sizes)
    outputs = list(outputs)
    axis = "frames" if what == TIME else "rows"
    try:
        one = walk(graph, ctx.real, shapes, outputs, ctx.squeezed)
    except (GatestepError, NeedsValue) as error:
        return Mixing(what, graph.nodes[-1], f"does not work with one of the {axis}: {error}")
    for node in graph.nodes:
        made = [name for name in node.outputs if name in ctx.values and name in one.values]
        if any(ctx.values[name].ndim != one.values[name].ndim for name in made):
            return Mixing(what, node, f"has another rank where there is one of the {axis}")
        if not any(isinstance(ctx.values[name], View) for name in made):
            continue
        shaping = {"Gather": (1,), "Clip": ()}.get(node.op, OPS[node.op].known)
        for k, name in enumerate(node.inputs):
            if name and k not in shaping and differ(ctx.values[name], one.values[name]):
                return Mixing(what, node, f"depends on the number of {axis}")
    for name in outputs:
        value, tags = ctx.values[name], tags_of(ctx, name)
        sizes = zip(value.shape, one.values[name].shape, tags, strict=True)
        if any(n != m and not is_in(ctx.root(tag), what) for n, m, tag in sizes) or differ(value, one.values[name]):
            node = next(node for node in graph.nodes if name in node.outputs)
            return Mixing(what, node, f"has a shape that depends on the number of {axis}")
    return None


def differ(a: Value, b: Value) -> bool:
    """Whether known arrays differ in more than how often they repeat themselves along an axis."""
    if not (isinstance(a, np.ndarray) and isinstance(b, np.ndarray)) or a is b:
        return isinstance(a, np.ndarray) is not isinstance(b, np.ndarray)
    if a.ndim != b.ndim:
        return True
    first = tuple(slice(None) if n == m else slice(0, m) for n, m in zip(a.shape, b.shape, strict=True))
    return not np.array_equal(a[first], b, equal_nan=a.dtype.kind == "f")


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
        if name not in shown | taken
        and not layout.owned & traced.covered(traced.outputs[name])
        and np.unique(traced.outputs[name]).size == traced.outputs[name].size
    ]
    if outs - layout.states_out() - set(finals):
        layout.finals = tuple(finals)
    # States that no frame asks for: their operators still run.
    rest = outs - layout.states_out()
    running = {node.key for node in needed(graph, [*rest, *layout.carried.values()], ins)}
    layout.kept = tuple(
        out
        for out in (*layout.finals, *shown)
        if any(key not in running for key, _ in traced.covered(traced.outputs[out]))
    )
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
    rows = next((ctx.values[n].shape[a] for n, a in batch.items() if a is not None), 1)
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
            # Rows of another operator, as many as it likes, are no batch.
            b = next(
                (
                    k
                    for k, tag in enumerate(tags)
                    if ctx.root(tag) in leads | {BATCH} and k != t and value.shape[k] == rows
                ),
                None,
            )
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


def blocker(
    graph: Graph, ctx: Lowering, layout: Layout, lengths: set[Any], given: Mapping[str, str]
) -> GatestepError | None:
    """Why the model does not stream, if it does not."""

    def refuse(mixing: Mixing, why: str) -> UnsupportedModelError:
        return UnsupportedModelError(
            why, source=graph.source, node=mixing.node.label, hint="Use run(frames) or model(x) on whole recordings"
        )

    mixing = next((m for m in ctx.mixings if is_in(ctx.root(m.tag), TIME)), None)
    backwards = next((m for m in ctx.mixings if "backwards" in m.reason), None)
    if layout.timed:
        mixing = mixing or misfit(ctx) or restarts(graph, ctx, layout, given) or hindsight(graph, ctx)
        mixing = mixing or squares(graph, ctx, layout) or varies(graph, ctx, layout.wanted(graph), TIME)
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


def restarts(graph: Graph, ctx: Lowering, layout: Layout, given: Mapping[str, str]) -> Mixing | None:
    """A recurrent operator whose state begins at a value that is computed, and so would begin anew at every frame."""
    for run in ctx.runs:
        for state in run.begins:
            if (run.node.key, state) in layout.owned:
                continue
            sources = ancestors(graph, [run.node.inputs[5 if state == "h" else 6]]) & {p.name for p in graph.inputs}
            if not sources or not sources <= given.keys():  # what the caller says is carried continues
                return Mixing(TIME, run.node, f"begins at a state ({state}) that the model computes")
    return None


def hindsight(graph: Graph, ctx: Lowering) -> Mixing | None:
    """A recurrent operator over frames that the last one has changed."""
    lasts = set()
    for mixing in ctx.lasts:
        if is_in(ctx.root(mixing.tag), TIME):
            lasts.update(mixing.node.outputs[1:] if mixing.node.op in ("LSTM", "GRU", "RNN") else mixing.node.outputs)
    for run in ctx.runs:
        if lasts & ancestors(graph, [run.node.inputs[0]]):
            return Mixing(TIME, run.node, "runs over frames that hold what comes after them")
    return None


def squares(graph: Graph, ctx: Lowering, layout: Layout) -> Mixing | None:
    """What gives an input or output the frames along two axes, or folds them up with their features."""

    def folds(name: str) -> str:
        timed = [tag for tag in map(ctx.root, tags_of(ctx, name)) if is_in(tag, TIME)]
        parts = [part for tag in timed if isinstance(tag, Merged) for part, _ in tag.parts]
        if any(part not in (TIME, BATCH) for part in parts) or parts.count(TIME) > 1:
            return "within one axis"
        return "along more than one axis" if len(timed) > 1 else ""

    for port in [*graph.inputs, *graph.outputs]:
        where = folds(port.name) if port.name in layout.axes else ""
        if where:
            made = ancestors(graph, [port.name])
            nodes = [n for n in graph.nodes if any(k in made and k in ctx.values and folds(k) for k in n.outputs)]
            node = nodes[0] if nodes else next(n for n in graph.nodes if port.name in n.inputs)
            return Mixing(TIME, node, f"puts the frames of {port.name!r} {where}")
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
    ctx = Lowering(graph, real, carry=True, owned=layout.owned, squeezed=dict(layout.squeezed))
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
