"""What a graph computes by definition: node by node, in float64 NumPy.

Every operator is evaluated by its own `evaluate`, the cells by `kernels/reference.py`, on the graph as the importer
made it. What comes out is independent of everything that makes the engine fast, and so can be wrong: recognition and
the other rewritings of the graph, lowering and its views, fusing, packing, the kernels of every instruction set, single
precision, the layout of memory, and streaming.

It is *not* independent of the importer, which says what the graph is, nor of `evaluate`, with which the engine folds
what is known when a program is built. Both of those are held to ONNX Runtime and PyTorch instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from .errors import GatestepError, ShapeError, UnsupportedModelError
from .graph import Dim, Graph, Node
from .ops import OPS

__all__ = ["compute", "evaluate"]

Array = np.ndarray[Any, np.dtype[Any]]


#: What is done to every floating value on its way.
Rounding = Callable[[Array], Array]


def evaluate(
    graph: Graph, feeds: Mapping[str, Any], outputs: Iterable[str] | None = None, rounding: Rounding | None = None
) -> dict[str, Array]:
    """The values of a graph for these inputs.

    Parameters
    ----------
    graph : Graph
        As imported: before any rewriting.
    feeds : mapping of str to array_like
        In the file's own shapes. Optional inputs may be left out: they have their default, or zeros of the shape that
        the other inputs give.
    outputs : iterable of str, optional
        The values wanted; by default the outputs of the graph. They may be any values in it.
    rounding : callable, optional
        Done to every constant, input and result in float64: how far the outputs move when each value is a little off
        says how far single precision may.

    Returns
    -------
    dict of str to numpy.ndarray
        Floating values are float64, whatever type the file gives them.

    Raises
    ------
    ShapeError
        An operator cannot do this with values of these shapes; the message names the node.
    UnsupportedModelError
        There is no such operator.
    """
    values: dict[str, Array | None] = {"": None}
    sizes: dict[Dim, int] = {
        dim: size
        for port in graph.inputs
        if port.name in feeds
        for dim, size in zip(port.shape or (), np.shape(feeds[port.name]), strict=False)
        if isinstance(dim, str)
    }
    for name, array in graph.constants.items():
        values[name] = _double(array, rounding)
    for port in graph.inputs:
        given = feeds.get(port.name, graph.defaults.get(port.name))
        if given is None:
            given = np.zeros([d if isinstance(d, int) else sizes.get(d, 1) for d in port.shape or ()], port.dtype)
        values[port.name] = _double(np.asarray(given), rounding)
    with np.errstate(all="ignore"):
        for node in graph.nodes:
            compute(node, values, graph.source, rounding)
    names = [port.name for port in graph.outputs] if outputs is None else list(outputs)
    found = {name: values.get(name) for name in names}
    missing = [name for name, array in found.items() if array is None]
    if missing:
        raise ShapeError(f"{graph.source}: no node makes {', '.join(map(repr, missing))}")
    return {name: array for name, array in found.items() if array is not None}


def compute(node: Node, values: dict[str, Array | None], source: str, rounding: Rounding | None = None) -> None:
    """Add to `values`, which has None for ``""``, what one node makes of them."""
    op = OPS.get(node.op)
    if op is None:
        raise UnsupportedModelError(f"operator {node.op} is not supported", source=source, node=node.label)
    inputs = [values[name] for name in node.inputs]
    while inputs and inputs[-1] is None:
        inputs.pop()
    try:
        results = op.evaluate(node, *inputs)
    except GatestepError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError) as error:
        raise ShapeError(f"{source}: {node.label}: {error}") from error
    for name, result in zip(node.outputs, results, strict=False):
        if name:
            values[name] = result if isinstance(result, tuple) else _double(np.asarray(result), rounding)  # a sequence


def _double(array: Array, rounding: Rounding | None) -> Array:
    """`array` in float64 where it is of a floating type."""
    if array.dtype.kind != "f":
        return array
    array = array.astype(np.float64)
    return array if rounding is None else rounding(array)
