"""What a frame alone cannot say: how a model can need other frames than those that it has seen, or other rows.

Each check names the first node at fault, or finds none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from ..errors import GatestepError
from ..graph import Graph
from ..lowering import BATCH, TIME, Lowering, Mixing, NeedsValue, ancestors
from ..ops import OPS
from ..values import Merged, Value, View
from ..walk import is_in, tags_of, walk
from .layout import Layout

__all__ = ["crosses", "hindsight", "misfit", "restarts", "squares", "varies"]


def crosses(graph: Graph, ctx: Lowering) -> Mixing | None:
    """What makes a row depend on its neighbours, or on how many there are."""
    notes = [*ctx.mixings, *ctx.lasts, *ctx.drops]
    crossing = next((m for m in notes if is_in(ctx.root(m.tag), BATCH)), None)
    return crossing or paired(graph, ctx) or varies(graph, ctx, [p.name for p in graph.outputs], BATCH)


def paired(graph: Graph, ctx: Lowering) -> Mixing | None:
    """The operator that sets every row against every other."""
    for node in graph.nodes:
        for name in node.outputs:
            value = ctx.values.get(name)
            tags = value.tags if isinstance(value, View) else ()
            if sum(is_in(ctx.root(tag), BATCH) for tag in tags) > 1:
                return Mixing(BATCH, node, "sets every row against every other")
    return None


def misfit(ctx: Lowering) -> Mixing | None:
    """The recurrent operator that does not run from frame to frame."""
    for run in ctx.runs:
        if ctx.root(run.along) != TIME:
            return Mixing(TIME, run.node, "runs along an axis that is not that of the frames")
        if is_in(ctx.root(run.across), TIME):
            return Mixing(TIME, run.node, "takes the frames for rows, each with a state of its own")
    return None


def restarts(graph: Graph, ctx: Lowering, layout: Layout, given: Mapping[str, str]) -> Mixing | None:
    """A recurrent operator whose state begins at a value that is computed, and so would begin anew at every frame."""
    for run in ctx.runs:
        for state, first in run.begins.items():
            if (run.node.key, state) in layout.owned:
                continue
            sources = ancestors(graph, [first]) & {p.name for p in graph.inputs}
            if not sources or not sources <= given.keys():  # what the caller says is carried continues
                return Mixing(TIME, run.node, f"begins at a state ({state}) that the model computes")
    return None


def hindsight(graph: Graph, ctx: Lowering) -> Mixing | None:
    """A recurrent operator over frames that the last one has changed."""
    lasts: set[str] = set()
    for mixing in ctx.lasts:
        if is_in(ctx.root(mixing.tag), TIME):
            finals = slice(mixing.node.attrs["states"]) if mixing.node.op == "Scan" else slice(1, None)
            recurrent = mixing.node.op in ("LSTM", "GRU", "RNN", "Scan")
            lasts.update(mixing.node.outputs[finals] if recurrent else mixing.node.outputs)
    for run in ctx.runs:
        if lasts & ancestors(graph, run.frames):
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


def varies(graph: Graph, ctx: Lowering, outputs: Iterable[str], what: str, least: int = 1) -> Mixing | None:
    """What in a walk depends on how long the time or batch axis is, held against a walk with `least` elements."""
    shapes = {}
    for port in graph.inputs:
        tags = tags_of(ctx, port.name)
        sizes = zip(tags, ctx.values[port.name].shape, strict=True)
        shapes[port.name] = tuple(least if ctx.root(tag) == what else size for tag, size in sizes)
    outputs = list(outputs)
    axis, few = ("frames" if what == TIME else "rows"), "one" if least == 1 else str(least)
    try:
        one = walk(graph, ctx.real, shapes, outputs, ctx.squeezed)
    except (GatestepError, NeedsValue) as error:
        return Mixing(what, graph.nodes[-1], f"does not work with {few} of the {axis}: {error}")
    for node in graph.nodes:
        made = [name for name in node.outputs if name in ctx.values and name in one.values]
        if any(ctx.values[name].ndim != one.values[name].ndim for name in made):
            return Mixing(what, node, f"has another rank where there is {few} of the {axis}")
        if not any(isinstance(ctx.values[name], View) for name in made):
            continue
        shaping = {"Gather": (1,), "Clip": ()}.get(node.op, OPS[node.op].known)
        for k, name in enumerate(node.inputs):
            if name and k not in shaping and differ(ctx.values[name], one.values[name]):
                return Mixing(what, node, f"depends on the number of {axis}")
    for name in outputs:
        value, tags = ctx.values[name], tags_of(ctx, name)
        changed = zip(value.shape, one.values[name].shape, tags, strict=True)
        if any(n != m and not is_in(ctx.root(tag), what) for n, m, tag in changed) or differ(value, one.values[name]):
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
