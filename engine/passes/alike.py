"""Free sizes under different names that can only be one: the batch of an input, and that of the states beside it.

Exporters name every free dimension by itself, or not at all. With a size of its own for each, such a graph cannot be
walked; what lets the walk go further, up to the end, was meant to be the same. Names become one only where one row
beside many fails as well, so that nothing is refused that the file can do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import GatestepError, ShapeError
from ..graph import Dim, Graph
from ..lowering import NeedsValue
from ..walk import begun, port_shapes

__all__ = ["alike"]

#: An axis of an input, and what it is to be: a size, or the name of one.
Same = dict[tuple[str, int], Dim]
#: Walks that are tried before a file's sizes are left as they are.
MOST_TRIALS = 32


def alike(graph: Graph, real: np.dtype[Any]) -> Graph:
    """The graph with one name, or the size, for free dimensions of its inputs that have to be one.

    Parameters
    ----------
    graph : Graph
    real : numpy.dtype

    Returns
    -------
    Graph
        `graph` itself where there are none, or where that is not enough.
    """
    named = with_names(graph)
    loose = alone(named)
    if not loose or (best := reached(named, real)) is None:
        return graph
    same: Same = {}
    trials = 0
    while best is not None:
        least, found = best, Same()
        for further in choices(named, {axis: name for axis, name in loose.items() if axis not in same}):
            trials += 1
            if trials > MOST_TRIALS:
                return graph
            reach = reached(changed(named, same | further), real)
            if reach is None or reach > least:
                found, best = further, reach
                if reach is None:
                    break
        if not found:
            return graph
        same |= found
    # What works with one row broadcasts it: that is for the caller to choose.
    one: Same = dict.fromkeys(same, 1)
    if any(size != 1 for size in same.values()) and reached(changed(named, one), real) is None:
        return graph
    return changed(graph, same, named)


def with_names(graph: Graph) -> Graph:
    """The graph with a name for every free dimension that has none."""
    inputs = [
        port
        if port.shape is None
        else port._replace(shape=tuple(f"{port.name}.{k}" if d is None else d for k, d in enumerate(port.shape)))
        for port in graph.inputs
    ]
    return graph.with_(inputs=inputs)


def alone(graph: Graph) -> Same:
    """Free axes whose name no other input has, of inputs beside the first that has a free axis."""
    names = {port.name: {d for d in port.shape or () if isinstance(d, str)} for port in graph.inputs}
    loose: Same = {}
    for port in graph.inputs:
        others = set().union(*(names[other] for other in names if other != port.name))
        loose |= {(port.name, k): d for k, d in enumerate(port.shape or ()) if isinstance(d, str) and d not in others}
    # One that the first input has alone is most often that of time.
    return {} if len(graph.inputs) < 2 or (len(loose) == 1 and graph.inputs[0].name in names_of(loose)) else loose


def names_of(axes: Same) -> list[str]:
    """The inputs that these are axes of."""
    return [name for name, _ in axes]


def choices(graph: Graph, loose: Same) -> Iterator[Same]:
    """What loose axes can be: first for all inputs together that have one, then one by one."""
    dims: dict[str, list[Dim]] = {port.name: list(dict.fromkeys(port.shape or ())) for port in graph.inputs}
    single = {axis: name for axis, name in loose.items() if names_of(loose).count(axis[0]) == 1}
    first = next((port.name for port in graph.inputs if any(isinstance(d, str) for d in dims[port.name])), "")
    targets = dict.fromkeys(d for name in dims for d in dims[name])
    for target in targets:
        together = {axis: target for axis, name in single.items() if axis[0] != first and name != target}
        if len(together) > 1:
            yield together
    for axis, name in loose.items():
        for target in targets:
            if target != name and (isinstance(target, int) or axis[0] != first):
                yield {axis: target}


def changed(graph: Graph, same: Same, named: Graph | None = None) -> Graph:
    """The graph with these sizes and names, and everywhere for what they replace; `named` has a name for each."""
    renamed: dict[Dim, Dim] = {}
    shapes = {port.name: port.shape for port in (named or graph).inputs}
    for (name, axis), dim in same.items():
        shape = shapes[name]
        assert shape is not None
        renamed[shape[axis]] = dim
    targets = {dim for dim in same.values() if isinstance(dim, str)}

    def settled(name: str, axis: int, dim: Dim) -> Dim:
        if (name, axis) in same:
            return same[name, axis]
        shape = shapes.get(name)
        if dim is None and shape is not None and shape[axis] in targets:
            return shape[axis]
        return renamed.get(dim, dim)

    def shaped(name: str, shape: tuple[Dim, ...] | None) -> tuple[Dim, ...] | None:
        return None if shape is None else tuple(settled(name, axis, dim) for axis, dim in enumerate(shape))

    return graph.with_(
        inputs=[port._replace(shape=shaped(port.name, port.shape)) for port in graph.inputs],
        outputs=[port._replace(shape=shaped("", port.shape)) for port in graph.outputs],
    )


def reached(graph: Graph, real: np.dtype[Any]) -> int | None:
    """How many values a walk makes before shapes do not fit; None where they do, or something else is wrong."""
    most = 0
    for long in (None, 1, 0):  # windows may need longer recordings
        try:
            ctx = begun(graph, real, port_shapes(graph, {}, long))
        except GatestepError:
            return None
        try:
            ctx.run([port.name for port in graph.outputs])
        except ShapeError:
            most = max(most, len(ctx.values))
        except (GatestepError, NeedsValue):
            return None
        else:
            return None
    return most
