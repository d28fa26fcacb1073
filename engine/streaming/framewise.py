"""Time and batch taken away from a graph that was written for whole recordings.

One walk over the graph, with sizes for the free dimensions that nothing else has, tells which axis of which input is
time (the one that recurrent operators run along) and which is batch, whether any node mixes frames, and what the states
are. A model whose file fixes one frame per call needs none of that: its call is the frame.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from ..errors import GatestepError, ShapeError, UnsupportedModelError
from ..graph import SLIDING, Graph
from ..lowering import BATCH, TIME, Lowering, NeedsValue, ancestors, needed
from ..values import Value, View
from ..walk import axis_of, axis_tag, is_in, lengthened, port_shapes, tagged, tags_of, unused, walk
from .banded import banded
from .blockers import blocker, unsized
from .causality import crosses, misfit
from .layout import Axes, Layout
from .memories import Memories
from .states import pair_by_name, repeats, trace

__all__ = ["analyse"]

#: Reductions whose size depends on how many frames there are.
TOTALS = frozenset(f"Reduce{kind}" for kind in ("Sum", "Prod", "L2", "SumSquare"))


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
    states = states or {}
    layout = analysed(graph, real, states)
    if layout.blocker is None:
        # What would come late as one recording may have been written for blocks, one per call.
        if layout.late is not None and layout.states_in():
            block = analysed(graph, real, states, True)
            if block.blocker is None and block.late is None:
                return block
            layout.late = unsized(graph, layout, layout.late)
        return layout
    with contextlib.suppress(GatestepError, NeedsValue):
        values = surveyed(graph, real, port_shapes(graph, {})).values
        shapes = {p.name: values[p.name].shape for p in graph.inputs}
        inner = banded(graph, real, shapes)
        bands, some = inner or (graph, False)
        for other, held in ((bands, False), (bands, True), (graph, True)):
            if held or (inner and some):
                found = analysed(other, real, states, held)
                if found.blocker is None and (not held or found.states_in()):
                    return found
    layout.blocker = unsized(graph, layout, layout.blocker)
    return layout


def analysed(graph: Graph, real: np.dtype[Any], states: Mapping[str, str], held: bool = False) -> Layout:
    """As `analyse`, where every recurrent operator runs along time unless it says otherwise.

    With `held`, a file that was written for one frame per call keeps to that.
    """
    layout = Layout(Memories(graph))
    try:
        shapes = port_shapes(graph, {})
    except UnsupportedModelError as error:
        layout.blocker = error
        return layout
    try:
        ctx = surveyed(graph, real, shapes)
    except NeedsValue as needs:
        layout.blocker = needs.error
        return layout
    except ShapeError as error:
        layout.blocker = error
        return layout
    time = {p.name: axis_of(ctx, tags_of(ctx, p.name), TIME) for p in graph.inputs}
    if all(axis is None for axis in time.values()):
        time |= slid(graph, ctx)
        layout.slides = True
        tagged(ctx, time, TIME)
    batch = {p.name: axis_of(ctx, tags_of(ctx, p.name), BATCH) for p in graph.inputs}
    ports = {p.name: p for p in graph.inputs}
    if all(axis is None for axis in batch.values()):
        batch |= {p.name: 0 for p in graph.inputs if p.shape and not isinstance(p.shape[0], int) and time[p.name] != 0}
        batch |= rows(graph, ctx, time) if all(axis is None for axis in batch.values()) else {}
        tagged(ctx, batch, BATCH)
    ctx, layout.timed, layout.free_batch, layout.batch_blocker = freed(graph, real, ctx, time, batch, held)
    layout.squeezed = ctx.squeezed
    layout.lengths = only_lengths(graph)
    fixed = all(isinstance(ports[name].shape[axis], int) for name, axis in batch.items() if axis is not None)  # type: ignore[index]
    if fixed and not layout.free_batch and any(node.attrs.get("banded") for node in graph.nodes):
        batch = dict.fromkeys(batch)  # rows of what runs over time are the bands of one frame
    mixing = {m.node.op for m in ctx.mixings if is_in(ctx.root(m.tag), TIME)} if layout.timed else set()
    if mixing and remembers(mixing):
        shapes = {p.name: ctx.values[p.name].shape for p in graph.inputs}

        def walked(frames: int) -> Lowering:
            longer = {
                name: tuple(frames if k == time[name] else size for k, size in enumerate(shape))
                for name, shape in shapes.items()
            }
            other = walk(graph, real, longer)
            tagged(other, time, TIME)
            tagged(other, batch, BATCH)
            return other

        shown = trace(graph, ctx, [p.name for p in graph.outputs]).outputs
        try:
            from .remembering import remembered

            layout.memories = remembered(graph, walked, ctx, time, {*shown, *states.values()})
            graph = layout.memories.graph
            hop = layout.memories.hop
            frames = next(shapes[name][axis] for name, axis in time.items() if axis is not None)
            shapes = {
                name: tuple(-(-frames // hop) * hop if k == time[name] else size for k, size in enumerate(shape))
                for name, shape in shapes.items()
            }
            ctx = walk(graph, real, shapes)
            layout.squeezed = ctx.squeezed
        except NeedsValue as needs:
            layout.blocker = needs.error
        except (UnsupportedModelError, ShapeError) as error:
            layout.blocker = error
        tagged(ctx, time, TIME)
        tagged(ctx, batch, BATCH)
    found_states(graph, ctx, states, layout)
    assign_axes(graph, ctx, time, batch, layout)
    shapes = {p.name: ctx.values[p.name].shape for p in graph.inputs}
    for p in graph.inputs:
        axis = batch.get(p.name)
        if layout.free_batch and p.name in layout.states_in() | layout.lengths and axis is not None:
            layout.state_batch[p.name] = (axis,)
    ctx = walk(graph, real, shapes, layout.wanted(graph), layout.squeezed)  # now without what only hands states on
    tagged(ctx, time, TIME)
    tagged(ctx, batch, BATCH)
    lengths = {
        ports[name].shape[axis]  # type: ignore[index]
        for name, axis in time.items()
        if axis is not None and name not in layout.states_in()
    }
    layout.blocker = layout.blocker or blocker(graph, ctx, layout, lengths, states)
    lasts = any(is_in(ctx.root(m.tag), TIME) for m in ctx.lasts)
    outputs_timed = all(layout.axes[p.name].time is not None for p in graph.outputs if p.name in layout.axes)
    layout.chunked = layout.timed and not layout.carried and not lasts and outputs_timed
    if layout.memories.outputs is None:
        outputs = [p.name for p in graph.outputs if p.name in layout.axes]
        layout.memories.outputs = {name: (layout.axes[name].time, 1) for name in outputs}
    if layout.memories.delay and layout.blocker is None:
        layout.late = UnsupportedModelError(
            f"does not stream without a delay: it looks {layout.memories.delay} frames ahead",
            source=graph.source,
            node=layout.memories.ahead,
            hint=f"Use stream(delay={layout.memories.delay}), or run(frames) or model(x) on whole recordings",
        )
    return layout


def remembers(ops: Collection[str]) -> bool:
    """Whether what one of these operators needs of other frames can be remembered."""
    from .rewriting import HANDLERS  # many models have no windows

    return not HANDLERS.keys().isdisjoint(ops)


def surveyed(graph: Graph, real: np.dtype[Any], shapes: Mapping[str, tuple[int, ...]]) -> Lowering:
    """A walk over all of the graph; for recordings as long as its windows need, if others do not fit."""
    try:
        return walk(graph, real, shapes)
    except ShapeError:
        for long in (1, 0):
            with contextlib.suppress(ShapeError):
                return walk(graph, real, port_shapes(graph, {}, long))
        raise


def slid(graph: Graph, ctx: Lowering) -> dict[str, int]:
    """Axes of time where no recurrent operator says so: the one axis of free length along which all windows slide."""
    free = {
        ctx.root(axis_tag(p.name, k))
        for p in graph.inputs
        for k, d in enumerate(p.shape or ())
        if not isinstance(d, int)
    }
    spatial = [ctx.values.get(node.inputs[0]) for node in graph.nodes if node.op in SLIDING]
    sliding = {ctx.root(m.tag) for m in ctx.mixings if m.node.op in SLIDING}
    still = {ctx.root(tag) for value in spatial if isinstance(value, View) for tag in value.tags[2:]}
    for along in (sliding & free, still & free):  # windows of one frame, if there are no others
        if len(along) == 1:
            axes = {p.name: axis_of(ctx, tags_of(ctx, p.name), str(*along)) for p in graph.inputs}
            return {name: axis for name, axis in axes.items() if axis is not None}
        if along:
            break
    return {}


def rows(graph: Graph, ctx: Lowering, time: Mapping[str, int | None]) -> dict[str, int]:
    """Axes of the batch where no recurrent operator says so: that of the rows of windows along time."""
    for node in graph.nodes:
        value = ctx.values.get(node.inputs[0]) if node.op in SLIDING else None
        if isinstance(value, View) and any(ctx.root(tag) == TIME for tag in value.tags[2:]):
            tag = ctx.root(value.tags[0])
            axes = {p.name: axis_of(ctx, tags_of(ctx, p.name), tag) for p in graph.inputs if isinstance(tag, str)}
            return {name: axis for name, axis in axes.items() if axis is not None and axis != time[name]}
    return {}


def freed(
    graph: Graph,
    real: np.dtype[Any],
    ctx: Lowering,
    time: Mapping[str, int | None],
    batch: Mapping[str, int | None],
    held: bool,
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
    shapes = {p.name: ctx.values[p.name].shape for p in graph.inputs}

    def changed(name: str, change: Mapping[tuple[str, int], int]) -> tuple[int, ...]:
        return tuple(change.get((name, axis), size) for axis, size in enumerate(shapes[name]))

    time_fixed, batch_fixed = sized(time, lengthened(graph, primes[-1]), True), sized(batch, primes[-2], True)
    lengths = {shapes[name][axis] for name, axis in time_fixed}
    if len(lengths) > 1 or (held and lengths):  # more than one: some inputs are frames of before
        has_time = False
    why = "the file fixes the batch"
    for free_time, free_batch in ((True, True), (True, False), (False, True), (False, False)):
        if (free_time and not has_time) or (free_batch and not has_batch):
            continue
        change = (time_fixed if free_time else {}) | (batch_fixed if free_batch else sized(batch, 1, False))
        other = ctx
        if change:
            try:
                other = walk(graph, real, {name: changed(name, change) for name in shapes})
            except (GatestepError, NeedsValue):
                continue
            tagged(other, time, TIME)
            tagged(other, batch, BATCH)
            if any(axis_of(other, tags_of(other, name), TIME) != axis for name, axis in time.items()):
                continue
        if (
            free_time
            and max(lengths, default=1) > 1
            and any(m.node.op in TOTALS and is_in(other.root(m.tag), TIME) for m in other.mixings)
        ):
            continue  # of so many frames: a mean may be written as a sum, and a number
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
        and not repeats(traced.outputs[name])
    ]
    if outs - layout.states_out() - set(finals):
        layout.finals = tuple(finals)
    # States that no frame asks for: their operators still run.
    rest = outs - layout.states_out()
    running = {node.key for node in needed(graph, [*rest, *layout.carried.values()], dict.fromkeys(ins))}
    layout.kept = tuple(
        out
        for out in (*layout.finals, *shown)
        if any(key not in running for key, _ in traced.covered(traced.outputs[out]))
    )
    left_in = {p.name: ctx.values[p.name] for p in graph.inputs if p.name not in layout.states_in()}
    left_out = {p.name: ctx.values[p.name] for p in graph.outputs if p.name not in layout.states_out()}
    if len(left_in) > 1 and len(left_out) > 1:
        named = pair_by_name(kept(ctx, left_in, layout.timed), kept(ctx, left_out, layout.timed))
        layout.carried |= named if left_in.keys() - named.keys() - layout.lengths else {}  # something is a frame


def kept(ctx: Lowering, values: Mapping[str, Value], timed: bool) -> dict[str, tuple[int, ...]]:
    """Shapes of the floating values that may be states: a time axis of any length only the frames have."""
    return {
        name: value.shape
        for name, value in values.items()
        if value.dtype == ctx.real and not (timed and axis_of(ctx, tags_of(ctx, name), TIME) is not None)
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
    used = ancestors(graph, [p.name for p in graph.outputs])
    states |= {p.name for p in graph.inputs if p.name not in used}
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
        # Where a file declares another number of axes, it does not know.
        shape = port.shape if port.shape is not None and len(port.shape) == value.ndim else None
        free = shape is not None and b is not None and not isinstance(shape[b], int)
        # What a file leaves open of an output is the batch only where that of an input is.
        free = free and (port in graph.inputs or any(axes.batch is not None for axes in layout.axes.values()))
        keep = b if layout.free_batch or free else None
        layout.axes[port.name] = Axes(None, keep, tuple(k for k in ones if k != keep))
