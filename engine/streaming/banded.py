"""Recurrent operators that run within a frame, from band to band, where others run from frame to frame.

Networks with two paths have both. What tells them apart is the file: time has any length, or one frame per call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..graph import Graph
from ..values import View
from ..walk import axis_tag, walk

__all__ = ["banded"]


def banded(graph: Graph, real: np.dtype[Any], shapes: Mapping[str, tuple[int, ...]]) -> tuple[Graph, bool] | None:
    """The graph with `banded` on the recurrent operators that do not run along time, and whether some do; or None.

    Where none does, it is for what else is kept from call to call to say that a call is a frame.
    """

    def marked(keys: set[str]) -> Graph:
        nodes = [n.with_(attrs={**n.attrs, "banded": True}) if n.key in keys else n for n in graph.nodes]
        return graph.with_(nodes=nodes)

    cells = {n.key: n for n in graph.nodes if n.op in ("LSTM", "GRU", "RNN") and not n.attrs.get("recognised")}
    keys = {key: n.inputs[0] for key, n in cells.items()}
    if not keys:
        return None
    ctx = walk(marked({*keys}), real, shapes)
    free = {
        ctx.root(axis_tag(p.name, k))
        for p in graph.inputs
        for k, d in enumerate(p.shape or ())
        if not isinstance(d, int)
    }
    inputs = {key: value for key, x in keys.items() if isinstance(value := ctx.values.get(x), View)}
    long = {key for key, x in inputs.items() if ctx.root(x.tags[0]) not in free}
    if len(long) == len(inputs):  # no axis is free: time is what has one frame
        long = {key for key, x in inputs.items() if x.shape[0] > 1}
    if not long or any(isinstance(ctx.values.get(name), View) for key in long for name in cells[key].inputs[5:7]):
        return None  # within a frame they begin anew
    return marked(long), len(long) < len(inputs)
