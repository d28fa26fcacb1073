"""Dimensions that a file calls free while its own numbers say how large they are.

An exporter that traces one recording may declare a dynamic axis and still write the traced size into the targets of
reshapes. Such a file runs at that size and no other, whatever it declares; here the input gets the size, so that
`thawing` can free it in earnest.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import GatestepError
from ..graph import Dim, Graph, Port
from ..lowering import Lowering, NeedsValue
from ..walk import port_shapes, walk

__all__ = ["baked"]

#: Numbers and dimensions that are tried; files have one or two of each.
MOST = 8


def baked(graph: Graph, real: np.dtype[Any]) -> Iterator[tuple[Graph, Lowering]]:
    """The graph with a free dimension fixed to a number of its own, and the walk that this makes possible.

    Parameters
    ----------
    graph : Graph
        One that no walk goes through as its inputs are declared.
    real : numpy.dtype
    """
    if any(port.shape is None for port in graph.inputs):
        return
    dims = {(dim or (port.name, axis)): None for port in graph.inputs for axis, dim in enumerate(port.shape or ())}
    free = [dim for dim in dims if not isinstance(dim, int)]
    for dim, size in itertools.product(free[:MOST], numbers(graph)):
        fixed = graph.with_(inputs=[sized(port, dim, size) for port in graph.inputs])
        with contextlib.suppress(GatestepError, NeedsValue):
            yield fixed, walk(fixed, real, port_shapes(fixed, {}))


def numbers(graph: Graph) -> list[int]:
    """Sizes that reshapes of the graph ask for."""
    targets = [graph.constants.get(node.inputs[1]) for node in graph.nodes if node.op in ("Reshape", "Expand")]
    found = {int(size): None for target in targets if target is not None for size in target.reshape(-1) if size > 1}
    return list(found)[:MOST]


def sized(port: Port, dim: Dim | tuple[str, int], size: int) -> Port:
    """The port with `size` where it has the free dimension, by its name or by its place."""
    if port.shape is None:
        return port
    dims = (size if (have or (port.name, axis)) == dim else have for axis, have in enumerate(port.shape))
    return port._replace(shape=tuple(dims))
