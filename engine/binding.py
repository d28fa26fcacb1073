"""Inputs that the caller fixes when the model is loaded: from there on they are constants of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from .arrays import exact
from .bodies import simplified
from .errors import ShapeError, UnsupportedModelError
from .graph import Graph

__all__ = ["bound"]


def bound(graph: Graph, bind: Mapping[str, Any] | None = None) -> Graph:
    """The graph with the inputs in `bind` as constants, and without what these decide.

    Parameters
    ----------
    graph : Graph
    bind : mapping of str to array_like, optional
        Input names and what they are from now on.

    Raises
    ------
    ShapeError
        A value does not fit its input.
    UnsupportedModelError
        There is no such input, or none would be left.
    """
    ports = {port.name: port for port in graph.inputs}
    constants = dict(graph.constants)
    symbols: dict[str, int] = {}
    for name, value in (bind or {}).items():
        if name not in ports:
            raise UnsupportedModelError(
                "is no input of the model",
                source=graph.source,
                attribute="bind",
                value=name,
                hint=f"Inputs are {sorted(ports)}",
            )
        port = ports[name]
        array = np.asarray(exact("input", name, value, port.dtype), port.dtype)
        fits = port.shape is None or len(port.shape) == array.ndim
        for have, dim in zip(array.shape, port.shape or (), strict=False):
            want = symbols.setdefault(dim, have) if isinstance(dim, str) else dim
            fits = fits and (want is None or want == have)
        if not fits:
            raise ShapeError(f"{graph.source}: bind={name!r} has shape {array.shape}, the input {port.shape}")
        constants[name] = array.copy()
    if bind and not ports.keys() - bind.keys():
        raise UnsupportedModelError("leaves no input", source=graph.source, attribute="bind", value=sorted(bind))
    if bind:
        graph = replace(
            graph,
            inputs=[port for port in graph.inputs if port.name not in bind],
            defaults={name: value for name, value in graph.defaults.items() if name not in bind},
            constants=constants,
        )
    return simplified(graph)
