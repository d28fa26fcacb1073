"""Elements followed by number through what only moves them: which value another one is, in another shape."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..graph import Node
from ..ops import OPS
from ..values import View

if TYPE_CHECKING:
    from .affine import Known

__all__ = ["Elements"]

#: Values with more elements than this are not followed.
MOST_ELEMENTS = 1 << 20


class Elements:
    """The elements of the values of a walk."""

    def __init__(self, known: Known) -> None:
        self.known = known
        self._numbers: dict[str, np.ndarray] = {}
        self._starts = [0]
        self._bases: list[str] = []

    def of(self, name: str) -> np.ndarray:
        """Every element of this value by number, numbered where it is made and not only moved."""
        if name not in self._numbers:
            node, shape = self.known.made.get(name), self.known.shape(name)
            found = None
            if node is not None and OPS[node.op].moves and np.prod(shape) <= MOST_ELEMENTS:
                found = self.moved(node)
            if found is None:
                count = int(np.prod(shape))
                found = (np.arange(self._starts[-1], self._starts[-1] + count).reshape(shape),)
                self._starts.append(self._starts[-1] + count)
                self._bases.append(name)
                self._numbers[name] = found[0]
            else:
                self._numbers.update((out, ids) for out, ids in zip(node.outputs, found, strict=False) if out)  # type: ignore[union-attr]
        return self._numbers[name]

    def moved(self, node: Node) -> tuple[np.ndarray, ...] | None:
        """The elements of what this operator makes by moving others."""
        count = len(node.inputs) if node.op == "Concat" else 1
        known = [self.known.values[name] if name else None for name in node.inputs[count:]]
        if any(isinstance(value, View) for value in known):
            return None
        return OPS[node.op].evaluate(node, *map(self.of, node.inputs[:count]), *known)  # type: ignore[arg-type]

    def link(self, name: str) -> str:
        """The value whose elements, each in its place, this one has."""
        ids = self.of(name).reshape(-1)
        base = int(np.searchsorted(self._starts, ids[0], side="right")) - 1 if ids.size else 0
        whole = ids.size and np.array_equal(ids, np.arange(self._starts[base], self._starts[base + 1]))
        return self._bases[base] if whole else name
