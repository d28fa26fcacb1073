"""Inputs that the caller fixes when the model is loaded: from there on they are constants of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..arrays import exact
from ..errors import ShapeError, UnsupportedModelError
from ..graph import Dim, Graph, Port
from .bodies import simplified

__all__ = ["bound"]


def bound(
    graph: Graph, bind: Mapping[str, Any] | None = None, shapes: Mapping[str, Sequence[int | None]] | None = None
) -> Graph:
    """The graph with the inputs in `bind` as constants, and without what these decide.

    Parameters
    ----------
    graph : Graph
    bind : mapping of str to array_like, optional
        Input names and what they are from now on.
    shapes : mapping of str to sequence of (int or None), optional
        Input names and the sizes that they have from now on, None for what stays free.

    Raises
    ------
    ShapeError
        A value or a shape does not fit its input.
    UnsupportedModelError
        There is no such input, or none would be left.
    """
    ports = {port.name: port for port in graph.inputs}
    symbols: dict[str, int] = {}
    for name, shape in (shapes or {}).items():
        port = named(graph, ports, "shapes", name)
        sizes = sized(graph, name, shape)
        if not fits(port.shape, sizes, symbols):
            raise ShapeError(
                f"{graph.source}: shapes={{{name!r}: {sizes}}} does not fit the input of shape {port.shape}"
            )
        dims = port.shape if port.shape is not None else (None,) * len(sizes)
        ports[name] = port._replace(shape=tuple(d if n is None else n for n, d in zip(sizes, dims, strict=True)))
    constants = dict(graph.constants)
    for name, value in (bind or {}).items():
        port = named(graph, ports, "bind", name)
        array = np.asarray(exact("input", name, value, port.dtype), port.dtype)
        if not fits(port.shape, array.shape, symbols):
            raise ShapeError(f"{graph.source}: bind={name!r} has shape {array.shape}, the input {port.shape}")
        constants[name] = array.copy()
    if bind and not ports.keys() - bind.keys():
        raise UnsupportedModelError("leaves no input", source=graph.source, attribute="bind", value=sorted(bind))
    if bind or shapes:
        # One name is one size, wherever it stands: a batch of one input is that of its states.
        fixed = symbols if shapes else {}
        graph = graph.with_(
            inputs=[settled(ports[port.name], fixed) for port in graph.inputs if port.name not in (bind or {})],
            outputs=[settled(port, fixed) for port in graph.outputs],
            defaults={name: value for name, value in graph.defaults.items() if name not in (bind or {})},
            constants=constants,
        )
    return simplified(graph)


def named(graph: Graph, ports: Mapping[str, Port], argument: str, name: str) -> Port:
    """The input of this name."""
    if name not in ports:
        raise UnsupportedModelError(
            "is no input of the model",
            source=graph.source,
            attribute=argument,
            value=name,
            hint=f"Inputs are {sorted(ports)}",
        )
    return ports[name]


def sized(graph: Graph, name: str, shape: Any) -> tuple[int | None, ...]:
    """A shape as the caller gives it, checked."""
    sizes = tuple(shape) if isinstance(shape, Sequence) and not isinstance(shape, str) else (shape,)
    if not all(n is None or (isinstance(n, int | np.integer) and not isinstance(n, bool) and n >= 0) for n in sizes):
        raise ShapeError(f"{graph.source}: shapes={{{name!r}: {shape!r}}} is not a tuple of sizes, or None where free")
    return tuple(None if n is None else int(n) for n in sizes)


def fits(declared: Sequence[Dim] | None, sizes: Sequence[int | None], symbols: dict[str, int]) -> bool:
    """Whether sizes are what an input has; `symbols` learns what names of free dimensions stand for."""
    if declared is None:
        return True
    for have, dim in zip(sizes, declared, strict=False):
        if have is not None:
            want = symbols.setdefault(dim, have) if isinstance(dim, str) else dim
            if want is not None and want != have:
                return False
    return len(declared) == len(sizes)


def settled(port: Port, symbols: Mapping[str, int]) -> Port:
    """`port` with the sizes that the names of its free dimensions stand for."""
    if port.shape is None or symbols.keys().isdisjoint(dim for dim in port.shape if isinstance(dim, str)):
        return port
    return port._replace(shape=tuple(symbols.get(dim, dim) if isinstance(dim, str) else dim for dim in port.shape))
