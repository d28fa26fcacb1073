"""Recordings of different lengths in one batch, for models that do not ask for lengths themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import ShapeError, UnsupportedModelError
from ..graph import CELLS, Dim, Graph, Node
from ..lowering import BATCH, TIME, NeedsValue, ancestors
from ..streaming.causality import misfit
from ..walk import axis_of, is_in, port_shapes, tags_of, walk

__all__ = ["as_lengths", "with_lengths"]

#: What runs over frames by itself, and knows no lengths.
_LOOPS = ("Loop", "Scan", "If")


def with_lengths(graph: Graph, real: np.dtype[Any]) -> tuple[Graph, str]:
    """A graph whose recurrent operators stop where a row ends.

    Every one of them gets one more input of the graph, int32 lengths. That is what PyTorch computes from a packed
    sequence where all recurrent operators run along one time axis, which is proven here, and where nothing behind them
    looks along it.

    Parameters
    ----------
    graph : Graph
    real : numpy.dtype

    Returns
    -------
    (Graph, str)
        The graph, and the name of the new input.

    Raises
    ------
    UnsupportedModelError
        It has lengths of its own, or a node for which lengths mean nothing; names it.
    """

    def refuse(node: Node | None, why: str, hint: str) -> UnsupportedModelError:
        label = None if node is None else node.label
        return UnsupportedModelError(why, source=graph.source, node=label, attribute="lengths", hint=hint)

    cells = [node for node in graph.nodes if node.op in CELLS]
    cut = "Cut the recordings to their lengths and call the model on each"
    if not cells:
        raise refuse(None, "it has no recurrent operator, to which alone lengths mean something", cut)
    for node in graph.nodes:
        given = node.inputs[4] if node.op in CELLS and len(node.inputs) > 4 else ""
        if given:
            raise refuse(node, f"takes its lengths from {given!r}", "Give them there, as the file has it")
        if node.op in _LOOPS or node.attrs.get("recognised"):
            raise refuse(node, "steps from frame to frame by itself and does not know of lengths", cut)
    try:
        ctx = walk(graph, real, port_shapes(graph, {}))
    except NeedsValue as needs:
        raise needs.error from None
    wrong = misfit(ctx)
    if wrong is not None:
        raise refuse(wrong.node, wrong.reason, cut)
    behind = {name for node in cells for name in node.outputs if name}
    for mixing in [*ctx.mixings, *ctx.lasts]:
        node = mixing.node
        if node.op not in CELLS and is_in(ctx.root(mixing.tag), TIME) and behind & ancestors(graph, node.inputs):
            why = f"{mixing.reason}: beyond the end of a row" if mixing.reason else "looks beyond the end of a row"
            raise refuse(node, why, cut)
    rows: Dim = None
    for port in graph.inputs:
        axis = axis_of(ctx, tags_of(ctx, port.name), BATCH)
        if axis is not None and port.shape is not None and not port.optional:
            rows = port.shape[axis]
            break
    name = next(n for n in ("lengths", graph.fresh("lengths")) if n not in {p.name for p in graph.inputs})
    longer = graph.with_(inputs=list(graph.inputs), nodes=[])
    longer.input(name, (rows,), np.int32)
    for node in graph.nodes:
        if node.op in CELLS:
            head, tail = (*node.inputs, "", "")[:4], node.inputs[5:]
            node = node.with_(inputs=(*head, name, *tail))
        longer.nodes.append(node)
    return longer, name


def as_lengths(lengths: Sequence[int] | Any) -> np.ndarray:
    """Lengths as the graph takes them."""
    array = np.asarray(lengths)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ShapeError(f"lengths={lengths!r} are not one whole number per row")
    if array.size and (array.min() < 0 or array.max() > np.iinfo(np.int32).max):
        raise ShapeError(f"lengths={lengths!r} lie outside the time axis")
    return array.astype(np.int32)
