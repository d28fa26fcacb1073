"""Bodies of loops and branches: graphs of their own, handed all that they use from outside."""

from __future__ import annotations

import dataclasses

import numpy as np

from ...engine.graph import Graph
from ..aten import Aten, SymInt, Tensor

__all__ = ["Scope", "Scopes"]


class Scope:
    """A graph under construction within another.

    Attributes
    ----------
    aten : Aten
    prefix : str
        What the names of its values begin with; nothing for the outermost.
    captured : dict of str to Tensor
        What it uses from outside, by its name there.
    """

    def __init__(self, aten: Aten, prefix: str) -> None:
        self.aten, self.prefix = aten, prefix
        self.captured: dict[str, Tensor] = {}

    def owns(self, name: str) -> bool:
        return not self.prefix or name.startswith(f"\0{self.prefix}")


class Scopes:
    """The graphs that an evaluation is within at present, the outermost first."""

    def __init__(self, aten: Aten) -> None:
        self.stack = [Scope(aten, "")]
        self.count = 0

    @property
    def aten(self) -> Aten:
        return self.stack[-1].aten

    def enter(self) -> Scope:
        """Begin a body."""
        self.count += 1
        prefix = f"{self.stack[-1].prefix}body{self.count}/"
        source = self.aten.source
        scope = Scope(Aten(Graph(source, prefix=prefix), source), prefix)
        self.stack.append(scope)
        return scope

    def leave(self) -> Scope:
        """End it."""
        return self.stack.pop()

    def here(self, tensor: Tensor, depth: int | None = None) -> Tensor:
        """A value from outside as the present body has it."""
        depth = len(self.stack) - 1 if depth is None else depth
        scope = self.stack[depth]
        if scope.owns(tensor.name):
            return tensor
        outside = self.here(tensor, depth - 1)
        held = scope.captured.get(outside.name)
        if held is None:
            array = self.stack[depth - 1].aten.known(outside)
            if array is not None:
                held = scope.aten.constant(array)
            else:
                held = scope.aten.input(scope.aten.graph.fresh("in"), outside.shape, outside.dtype)
            scope.captured[outside.name] = held
        return held

    def size(self, size: SymInt) -> SymInt:
        """A size from outside as the present body has it."""
        if self.stack[-1].owns(size.name):
            return size
        return dataclasses.replace(size, name=self.here(Tensor(size.name, np.dtype(np.int64), ())).name)

    def inputs(self, scope: Scope) -> list[str]:
        """What the node of a body that ended is handed for what it captured: names in the present graph."""
        return [name for name, held in scope.captured.items() if held.name not in scope.aten.graph.constants]
