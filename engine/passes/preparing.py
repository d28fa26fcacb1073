"""From the graph of a file to the graph that runs: what is fixed, recognised, rolled up, freed.

Each step gives a new graph, or the same where there is nothing for it; and one that no operator of the graph gives a
reason for is not even imported: most files need few of them, and then they load in a few milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import UnsupportedModelError
from ..graph import ACTIVATING, CELLS, HOLDING, Graph

__all__ = ["converted", "prepared"]


def prepared(
    graph: Graph,
    real: np.dtype[Any],
    *,
    states: Mapping[str, str] | None = None,
    bind: Mapping[str, Any] | None = None,
    shapes: Mapping[str, Sequence[int | None]] | None = None,
) -> Graph:
    """The graph that runs; its constants are those of `graph`, in the model's arithmetic.

    Parameters
    ----------
    graph : Graph
        As imported.
    real : numpy.dtype
    states, bind, shapes
        As for `gatestep.load`.
    """
    ops = operators(graph)
    if bind or shapes or ops & HOLDING:
        from .binding import bound

        graph = bound(graph, bind, shapes)
    if "Loop" in ops:
        from .loops import scanned

        graph = scanned(graph, real)
    converted(graph, real)
    if len(graph.inputs) > 1 and any(not isinstance(dim, int) for port in graph.inputs for dim in port.shape or ()):
        from .alike import alike

        graph = alike(graph, real)
    ops = operators(graph)
    if "ReduceMean" in ops:
        from .normalising import normalised

        graph = normalised(graph, real)
    if ops & HOLDING or (ops & ACTIVATING and ops & {"MatMul", "Gemm"}):
        from .cells import recognised

        graph = recognised(graph, real, states)
    cells = [node for node in graph.nodes if node.op in CELLS]
    if len(cells) > 1:
        from .rolling import rolled

        graph = rolled(graph, real)
    if cells and not shapes:  # what the caller says is not freed again
        from .thawing import thawed

        graph = thawed(graph, real)
    return graph


def operators(graph: Graph) -> frozenset[str]:
    """Names of the operators in a graph and in the bodies that it holds."""
    return frozenset(node.op for part in graph.everything() for node in part.nodes)


def converted(graph: Graph, real: np.dtype[Any]) -> None:
    """Put all constants into the model's arithmetic.

    Raises
    ------
    UnsupportedModelError
        It cannot hold one of them.
    """
    done: dict[str, np.ndarray] = {}  # bodies share constants
    for part in graph.everything():
        for name, array in part.constants.items():
            if array.dtype.kind == "f" and array.dtype != real:
                if name not in done:
                    done[name] = held(graph.source, name, array, real)
                part.constants[name] = done[name]


def held(source: str, name: str, array: np.ndarray, real: np.dtype[Any]) -> np.ndarray:
    """A constant in the model's arithmetic."""
    with np.errstate(over="ignore"):
        narrow = array.astype(real)
    if array.dtype.itemsize > narrow.dtype.itemsize and (np.isinf(narrow) & np.isfinite(array)).any():
        raise UnsupportedModelError(
            f"constant {name.lstrip(chr(0))!r} has values that float32 does not hold",
            source=source,
            hint='Load it with dtype="float64"',
        )
    return narrow
