"""Free dimensions that have names of their own, or none, and still have to be one size.

Converters often leave the batch of every input without a name, or give each a new one: that rows of a state are rows of
the frames then only shows in the operators. Analysis asks what is free with sizes that nothing else has, so it has to
know; where its walk does not go through, names that make it go through are given.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from .errors import GatestepError
from .graph import Dim, Graph, Port
from .lowering import NeedsValue
from .walk import port_shapes, walk

__all__ = ["united"]


def united(graph: Graph, real: np.dtype[Any]) -> Graph:
    """The graph with one name for the free dimensions that are one, where its operators ask for it.

    Parameters
    ----------
    graph : Graph
    real : numpy.dtype

    Returns
    -------
    Graph
        `graph` itself where its names do, or where no names would.
    """
    if len({dims for port in graph.inputs if (dims := free(port))}) < 2 or goes(graph, real):
        return graph
    return next((other for other in candidates(graph) if goes(other, real)), graph)


def free(port: Port) -> tuple[Dim, ...]:
    """The free dimensions of a port."""
    return tuple(dim for dim in port.shape or () if not isinstance(dim, int))


def goes(graph: Graph, real: np.dtype[Any]) -> bool:
    """Whether sizes that differ wherever names do fit all operators."""
    try:
        walk(graph, real, port_shapes(graph, {}))
    except (GatestepError, NeedsValue):
        return False
    return True


def candidates(graph: Graph) -> Iterator[Graph]:
    """The graph with other names: axes of the input with the most free ones, by place or one for all."""
    lead = max(graph.inputs, key=lambda port: (len(free(port)), len(port.shape or ())))
    names = {
        axis: dim or f"{lead.name}_{axis}" for axis, dim in enumerate(lead.shape or ()) if not isinstance(dim, int)
    }

    def named(every: str | None) -> Graph:
        ports = []
        for port in graph.inputs:
            taken = names if every is None or port is lead else dict.fromkeys(range(len(port.shape or ())), every)
            dims = (d if isinstance(d, int) else taken.get(k, d) for k, d in enumerate(port.shape or ()))
            ports.append(port if port.shape is None else replace(port, shape=tuple(dims)))
        return replace(graph, inputs=ports)

    yield named(None)
    for name in names.values():
        yield named(name)
