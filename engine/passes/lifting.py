"""One operator per frame becomes the same operator over all frames, which lie along a new first axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..graph import Graph, Node
from ..ops.math import ELEMENTWISE, REDUCTIONS
from ..values import Value

__all__ = ["Frames", "lifted"]


@dataclass(frozen=True)
class Frames:
    """A value in which the frames of another lie along a new first axis."""

    name: str


@dataclass
class Operands:
    """What one lifted operator is made of: its inputs, and what one frame of each is."""

    graph: Graph
    node: Node
    values: Mapping[str, Value]
    given: Sequence[str | Frames]

    def rank(self, k: int) -> int:
        return self.values[self.node.inputs[k]].ndim

    def size(self, k: int, axis: int) -> int:
        return int(self.values[self.node.inputs[k]].shape[axis])

    def over(self, k: int) -> bool:
        return isinstance(self.given[k], Frames)

    def name(self, k: int) -> str:
        value = self.given[k] if k < len(self.given) else ""
        return value.name if isinstance(value, Frames) else value

    def known(self, k: int) -> np.ndarray | None:
        """An input that says which axes or places are meant."""
        value = self.values.get(self.name(k)) if k < len(self.given) and not self.over(k) else None
        return value if isinstance(value, np.ndarray) else None

    def only_first(self) -> bool:
        """Whether nothing but the first input differs from frame to frame."""
        return self.over(0) and not any(map(self.over, range(1, len(self.given))))

    def add(self, op: str, inputs: Sequence[str], outputs: int = 1, **attrs: Any) -> tuple[str, ...]:
        return self.graph.add(op, inputs, outputs, name=self.node.name, **attrs)

    def constant(self, *numbers: int) -> str:
        return self.graph.constant(np.array(numbers, dtype=np.int64))

    def aligned(self, k: int, rank: int) -> str:
        """Input `k` with its frames first and its other axes where they broadcast to `rank` of them."""
        missing = rank - self.rank(k)
        if not missing or not self.over(k):
            return self.name(k)
        return self.add("Unsqueeze", [self.name(k), self.constant(*range(1, 1 + missing))])[0]

    def again(self, *changed: tuple[int, str], **attrs: Any) -> tuple[str, ...]:
        """The same operator on other inputs."""
        inputs = [self.name(k) for k in range(len(self.given))]
        for k, name in changed:
            inputs += [""] * (k + 1 - len(inputs))
            inputs[k] = name
        return self.add(self.node.op, inputs, len(self.node.outputs), **self.node.attrs | attrs)

    def shifted(self, axis: int) -> int:
        return axis + 1 if axis >= 0 else axis


def lifted(
    graph: Graph, node: Node, values: Mapping[str, Value], given: Sequence[str | Frames]
) -> tuple[str, ...] | None:
    """Add to `graph` what `node` is over all frames.

    Parameters
    ----------
    graph : Graph
    node : Node
        The operator for one frame.
    values : mapping
        What a walk knows of one frame.
    given : sequence
        The inputs: `Frames` of them, or the name of a value that is the same for every frame.

    Returns
    -------
    tuple of str, or None
        Values that hold the frames of the outputs; None where the operator cannot be said over all frames.
    """
    found = Operands(graph, node, values, given)
    if node.op in ELEMENTWISE:
        rank = max((found.rank(k) for k in range(len(given)) if node.inputs[k]), default=0)
        return found.again(*((k, found.aligned(k, rank)) for k in range(len(given)) if found.over(k)))
    if node.op == "MatMul":
        return product(found)
    if node.op == "Gather" and node.attrs["axis"] == 0 and not found.over(0):
        return found.again()
    if node.op == "Concat":
        return found.again(axis=found.shifted(node.attrs["axis"])) if all(map(found.over, range(len(given)))) else None
    return moved(found) if given and found.only_first() else None


def product(found: Operands) -> tuple[str, ...] | None:
    a, b = found.rank(0), found.rank(1)
    if found.over(0) and not found.over(1):
        return found.again() if b == 2 and a >= 1 else None
    return found.again() if a == b >= 3 or (a == b == 2 and found.over(0)) else None


def moved(found: Operands) -> tuple[str, ...] | None:
    """Operators on one value that differs from frame to frame."""
    node, attrs, rank = found.node, found.node.attrs, found.rank(0)
    if node.op == "Gemm" and not attrs["transA"]:
        return gemm(found)
    if node.op in ("Softmax", "LogSoftmax", "LayerNormalization", "RMSNormalization", "Split", "Gather"):
        if node.op == "Split" and (len(found.given) > 1) and found.known(1) is None:
            return None
        return found.again(axis=found.shifted(attrs["axis"]))
    if node.op == "Transpose":
        perm = attrs.get("perm") or tuple(range(rank - 1, -1, -1))
        return found.again(perm=(0, *(k + 1 for k in perm)))
    if node.op in ("Squeeze", "Unsqueeze"):
        axes = found.known(1)
        if axes is None:
            return None
        total = rank if node.op == "Squeeze" else rank + axes.size
        return found.again((1, found.constant(*(int(k) % total + 1 for k in axes.reshape(-1)))))
    if node.op in REDUCTIONS:
        axes = found.known(1)
        if (axes is None and len(found.given) > 1 and found.name(1)) or (axes is not None and not axes.size):
            return None
        over = range(rank) if axes is None else [int(k) % rank for k in axes.reshape(-1)]
        return None if attrs.get("noop_with_empty_axes") else found.again((1, found.constant(*(k + 1 for k in over))))
    if node.op == "Slice":
        starts, axes = found.known(1), found.known(3)
        if starts is None:
            return None
        where = range(starts.size) if axes is None else [int(k) % rank for k in axes.reshape(-1)]
        return found.again((3, found.constant(*(k + 1 for k in where))))
    if node.op == "Flatten" and attrs["axis"] == 1 and rank > 1:
        return found.add("Reshape", [found.name(0), found.constant(0, 0, -1)], allowzero=False)
    if node.op == "Reshape":
        shape = found.known(1)
        if shape is None or (attrs.get("allowzero") and (shape == 0).any()):
            return None
        return found.again((1, found.constant(0, *map(int, shape.reshape(-1)))), allowzero=False)
    if node.op == "Expand":
        shape = found.known(1)
        if shape is None or shape.size < rank:
            return None
        return found.again((0, found.aligned(0, shape.size)), (1, found.constant(1, *map(int, shape.reshape(-1)))))
    return None


def gemm(found: Operands) -> tuple[str, ...]:
    """As a product and a sum."""
    attrs, right = found.node.attrs, found.name(1)

    def scaled(name: str, factor: float) -> str:
        if factor == 1:
            return name
        return found.add("Mul", [name, found.graph.constant(np.array(factor, dtype=np.float32))])[0]

    if attrs["transB"]:
        (right,) = found.add("Transpose", [right], perm=(1, 0))
    result = scaled(found.add("MatMul", [found.name(0), right])[0], attrs["alpha"])
    if found.name(2):
        (result,) = found.add("Add", [result, scaled(found.name(2), attrs["beta"])])
    return (result,)
