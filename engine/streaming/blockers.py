"""The sentence that `stream()` refuses with: the first thing that prevents it, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import GatestepError, ShapeError, UnsupportedModelError
from ..graph import SLIDING, Graph
from ..lowering import TIME, Lowering, Mixing
from ..values import View
from ..walk import axis_tag, is_in
from .causality import hindsight, misfit, restarts, squares, varies
from .layout import Axes, Layout

__all__ = ["blocker", "unsized"]


def blocker(
    graph: Graph, ctx: Lowering, layout: Layout, lengths: set[Any], given: Mapping[str, str]
) -> GatestepError | None:
    """Why the model does not stream, if it does not."""

    def refuse(mixing: Mixing, why: str) -> UnsupportedModelError:
        return UnsupportedModelError(
            why, source=graph.source, node=mixing.node.label, hint="Use run(frames) or model(x) on whole recordings"
        )

    for choice in ctx.choices:
        # What an input says for a whole recording, it would say frame by frame; what a frame says is the model's own.
        told = sorted(name for name in choice.inputs if layout.axes.get(name, Axes()).time is None)
        if layout.timed or any(ctx.values[name].dtype.kind != "f" for name in told):
            values = ", ".join(f"{name!r}: ..." for name in told)
            return UnsupportedModelError(
                f"does not stream: it chooses what runs by {' and '.join(map(repr, told)) or 'the frames'}",
                source=graph.source,
                node=choice.node.label,
                hint=f"Load it with bind={{{values}}}" if told else "Use run(frames) or model(x) on whole recordings",
            )
    mixing = next((m for m in ctx.mixings if is_in(ctx.root(m.tag), TIME)), None)
    backwards = next((m for m in ctx.mixings if "backwards" in m.reason), None)
    if layout.timed:
        mixing = mixing or misfit(ctx) or restarts(graph, ctx, layout, given) or hindsight(graph, ctx)
        mixing = (
            mixing or squares(graph, ctx, layout) or varies(graph, ctx, layout.wanted(graph), TIME, layout.memories.hop)
        )
    if layout.timed and mixing is not None:
        return refuse(mixing, f"does not stream: it {mixing.reason}")
    if backwards is not None:
        return refuse(backwards, f"does not stream: it {backwards.reason}")
    if not layout.timed:
        kept = {key for key, state in ctx.slots if (key, state) not in layout.owned}
        by_hand = layout.states_in() and not kept  # a call is a block of frames, which says all that it goes on from
        frozen = [n for n in lengths if isinstance(n, int) and n != 1 and not by_hand]
        steps = [run.steps for run in ctx.runs if run.node.key in kept and run.steps != 1]
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
        free = [k for k, d in enumerate(shape) if not isinstance(d, int) and k not in (axes.time, axes.batch)]
        if free:
            count = counted(graph, ctx, port.name, free[0])
            sizes = tuple(d if isinstance(d, int) else count if k == free[0] else None for k, d in enumerate(shape))
            unrolled = f"It is unrolled: {count} of it are read by their numbers. " if count else ""
            asked = f"{{{port.name!r}: {sizes if count else '(...)'}}}"
            dim = f"dimension {shape[free[0]]!r} of input {port.name!r}"
            return UnsupportedModelError(
                f"does not stream: {dim} is free, and is neither time nor batch",
                source=graph.source,
                hint=f"{unrolled}Say how large it is with load(..., shapes={asked})",
            )
    window = next((m for m in ctx.mixings if m.node.op in SLIDING), None)
    if window is not None and not layout.timed and not ctx.slots and not layout.carried and not layout.states:
        return UnsupportedModelError(
            "does not stream: the file fixes what its windows slide over and keeps no state, so each call stands alone",
            source=graph.source,
            node=window.node.label,
            hint="Export it with a dynamic time axis, or use model(x)",
        )
    return None


def unsized(graph: Graph, layout: Layout, error: GatestepError) -> GatestepError:
    """`error`, with what the caller can say where it comes of a size that the file leaves free."""
    doubtful = layout.timed and (layout.slides or layout.states_in()) and isinstance(error, UnsupportedModelError)
    if not isinstance(error, ShapeError) and not doubtful:
        return error
    free = {port.name: [d for d in port.shape or () if not isinstance(d, int)] for port in graph.inputs}
    port = next((p for p in graph.inputs if free[p.name] and p.name not in layout.states_in()), None)
    if port is None or port.shape is None:
        return error
    axis = max(k for k, dim in enumerate(port.shape) if not isinstance(dim, int))
    sizes = [str(dim) if isinstance(dim, int) else "n" if k == axis else "1" for k, dim in enumerate(port.shape)]
    said = f"load(..., shapes={{{port.name!r}: ({', '.join(sizes)}{',' if len(sizes) == 1 else ''})}})"
    name = repr(port.shape[axis]) if isinstance(port.shape[axis], str) else str(axis)
    if isinstance(error, ShapeError):
        why = str(error).removeprefix(f"{graph.source}: ")
        return UnsupportedModelError(
            f"does not stream: dimension {name} of input {port.name!r} is free, but not just any size fits ({why})",
            source=graph.source,
            hint=f"Say how large it is in one call with {said}",
        )
    assert isinstance(error, UnsupportedModelError)
    return UnsupportedModelError(
        error.reason,
        source=error.source,
        node=error.node,
        attribute=error.attribute,
        value=error.value,
        hint=f"{error.hint}; is dimension {name} of {port.name!r} not time but one call, say how large with {said}",
    )


def counted(graph: Graph, ctx: Lowering, port: str, axis: int) -> int | None:
    """How many elements of an axis a graph takes one by one, as a traced loop over frames does; None if not all."""
    taken = set()
    for node in graph.nodes:
        if node.op != "Gather":
            continue
        value, index = (ctx.values.get(name) for name in node.inputs)
        if isinstance(value, View) and isinstance(index, np.ndarray) and index.size == 1:
            own = ctx.root(value.tags[node.attrs["axis"]]) == ctx.root(axis_tag(port, axis))
            taken |= {int(index.item())} if own else set()
    return len(taken) if len(taken) > 1 and taken == set(range(len(taken))) else None
