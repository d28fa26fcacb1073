"""Normalisations that a file writes out in means, squares and roots become one operator again.

``(x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * scale + bias`` is LayerNormalization, the same without the mean
RMSNormalization, whichever way the division and the square are spelled. The search starts at the division.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..errors import GatestepError
from ..graph import Graph, Node
from ..lowering import Lowering, NeedsValue
from ..ops.plumbing import axes_of
from ..values import View
from ..walk import port_shapes, walk
from .fusing import in_order

__all__ = ["normalised"]


def normalised(graph: Graph, real: np.dtype[Any]) -> Graph:
    """The graph with LayerNormalization and RMSNormalization in place of what they are made of.

    Parameters
    ----------
    graph : Graph
    real : numpy.dtype

    Returns
    -------
    Graph
        `graph` itself where there is no such thing.
    """
    ops = {node.op for node in graph.nodes}
    if "ReduceMean" not in ops or not ops & {"Sqrt", "Pow"} or not any(map(deviation(graph), graph.nodes)):
        return graph
    try:
        ctx = walk(graph, real, port_shapes(graph, {}))
    except (GatestepError, NeedsValue):
        return graph
    return Search(graph, ctx).rewritten()


def deviation(graph: Graph) -> Callable[[Node], bool]:
    """Whether a node looks like the root of a mean and a number, at a glance."""
    made = {name: node for node in graph.nodes for name in node.outputs}

    def looks(node: Node) -> bool:
        total = made.get(node.inputs[0]) if node.op in ("Sqrt", "Pow") else None
        parts = [made[name].op for name in total.inputs if name in made] if total is not None else []
        return total is not None and (
            total.op == "Cast" or (total.op == "Add" and bool({*parts} & {"ReduceMean", "Cast"}))
        )

    return looks


class Search:
    """Looks for normalisations in a graph, as a walk knows it."""

    def __init__(self, graph: Graph, ctx: Lowering) -> None:
        self.graph, self.ctx = graph, ctx
        self.made = {name: node for node in graph.nodes for name in node.outputs if name}
        self.takers: dict[str, list[Node]] = {}
        for node in graph.nodes:
            for name in node.inputs:
                self.takers.setdefault(name, []).append(node)
        self.outputs = {port.name for port in graph.outputs}

    def rewritten(self) -> Graph:
        new = self.graph.blank()
        replaced: dict[str, Node] = {}
        for node in self.graph.nodes:
            found = next(self.readings(node), None) if node.op in ("Div", "Mul") else None
            if found is not None:
                made = self.operator(new, node, *found)
                replaced[made.outputs[0]] = made
        if not replaced:
            return self.graph
        new.nodes = [replaced.get(node.key, node) for node in self.graph.nodes]
        new.nodes = in_order(new)
        return new

    # ------------------------------------------------------------------ the equations
    def readings(self, node: Node) -> Iterator[tuple[str, int, float, bool]]:
        """Ways to read a division: what is normalised, from which axis on, epsilon, and whether its mean goes first."""
        for top, squares, epsilon in self.divided(node):
            mean = self.node(squares, "ReduceMean")
            square = self.squared(mean.inputs[0]) if mean is not None else ""
            axis = self.trailing(mean) if mean is not None else None
            if mean is None or axis is None or not square:
                continue
            top = self.plain(top)
            centred, other = self.centred(top), self.centred(square)
            if centred is not None and other is not None and centred == other == (centred[0], axis):
                yield centred[0], axis, epsilon, True
            elif top == square:
                yield top, axis, epsilon, False

    def divided(self, node: Node) -> Iterator[tuple[str, str, float]]:
        """A division by the root of a mean and epsilon: what is divided, the mean, and epsilon."""
        below: list[tuple[str, str | None]] = []
        if node.op == "Div":
            below.append((node.inputs[0], self.root(node.inputs[1], 0.5)))
        else:
            for top, factor in (node.inputs, node.inputs[::-1]):
                inverse, over = self.node(factor, "Reciprocal"), self.node(factor, "Div")
                below.append((top, self.root(factor, -0.5)))
                if inverse is not None:
                    below.append((top, self.root(inverse.inputs[0], 0.5)))
                if over is not None and self.number(over.inputs[0]) == 1:
                    below.append((top, self.root(over.inputs[1], 0.5)))
        for top, total in below:
            plus = self.node(total, "Add") if total is not None else None
            for mean, added in [plus.inputs, plus.inputs[::-1]] if plus is not None else []:
                epsilon = self.number(added)
                if epsilon is not None and epsilon >= 0:
                    yield top, mean, epsilon

    def root(self, name: str, exponent: float) -> str | None:
        """Of what this is the square root, or that power."""
        power, root = self.node(name, "Pow"), self.node(name, "Sqrt")
        if root is not None and exponent == 0.5:
            return root.inputs[0]
        return power.inputs[0] if power is not None and self.number(power.inputs[1]) == exponent else None

    def squared(self, name: str) -> str:
        """Of what this is the square; "" of nothing."""
        product, power = self.node(name, "Mul"), self.node(name, "Pow")
        if product is not None and self.plain(product.inputs[0]) == self.plain(product.inputs[1]):
            return self.plain(product.inputs[0])
        if power is not None and self.number(power.inputs[1]) == 2:
            return self.plain(power.inputs[0])
        return ""

    def centred(self, name: str) -> tuple[str, int | None] | None:
        """What a difference takes the mean off, and the first axis of that mean."""
        node = self.node(name, "Sub")
        mean = self.node(node.inputs[1], "ReduceMean") if node is not None else None
        if node is None or mean is None or self.plain(mean.inputs[0]) != self.plain(node.inputs[0]):
            return None
        return self.plain(node.inputs[0]), self.trailing(mean)

    def trailing(self, mean: Node) -> int | None:
        """The first axis of a mean that goes over all axes from one on; None for any other."""
        x = self.ctx.values.get(mean.inputs[0])
        axes = self.ctx.values.get(mean.inputs[1]) if len(mean.inputs) > 1 and mean.inputs[1] else None
        if not isinstance(x, View) or not isinstance(axes, np.ndarray) or not axes.size or not mean.attrs["keepdims"]:
            return None
        over = sorted(axes_of(axes, x.ndim))
        return over[0] - x.ndim if over == list(range(over[0], x.ndim)) and over[0] > 0 else None

    # ------------------------------------------------------------------ values
    def plain(self, name: str) -> str:
        """The value before conversions between floating types, which are all one here."""
        node = self.made.get(name)
        while node is not None and node.op == "Cast" and np.dtype(node.attrs["to"]).kind == "f":
            value = self.ctx.values.get(node.inputs[0])
            if value is None or value.dtype.kind != "f":
                break
            name = node.inputs[0]
            node = self.made.get(name)
        return name

    def node(self, name: str, op: str) -> Node | None:
        """The node that makes this value, if it is this operator."""
        node = self.made.get(self.plain(name))
        return node if node is not None and node.op == op and node.key in self.ctx.values else None

    def number(self, name: str) -> float | None:
        """A number of the file."""
        value = self.ctx.values.get(self.plain(name))
        return float(value.reshape(-1)[0]) if isinstance(value, np.ndarray) and value.size == 1 else None

    def only_taker(self, name: str, op: str) -> Node | None:
        """What takes this value, if it is one node of this operator."""
        takers = self.takers.get(name, [])
        while len(takers) == 1 and name not in self.outputs and takers[0].op == "Cast":
            name = takers[0].key
            takers = self.takers.get(name, []) if self.plain(name) != name else []
        return takers[0] if len(takers) == 1 and name not in self.outputs and takers[0].op == op else None

    def parameter(self, node: Node | None, name: str, shape: tuple[int, ...]) -> np.ndarray | None:
        """The other operand of `node`, where it is one number of the file for each element that is normalised."""
        others = [k for k in node.inputs if self.plain(k) != self.plain(name)] if node is not None else []
        value = self.graph.constants.get(self.plain(others[0])) if len(others) == 1 else None
        if value is None or value.dtype.kind != "f" or value.shape[-len(shape) :] != shape:
            return None
        return value.reshape(shape) if value.size == np.prod(shape) else None

    def operator(self, new: Graph, node: Node, x: str, axis: int, epsilon: float, mean: bool) -> Node:
        """One operator for the normalisation that ends in `node`, with the scale and the bias behind it."""
        shape = tuple(self.ctx.values[x].shape[axis:])
        name, scale, bias = node.outputs[0], None, None
        times = self.only_taker(name, "Mul")
        scale = self.parameter(times, name, shape)
        if scale is not None and times is not None:
            name = times.outputs[0]
            plus = self.only_taker(name, "Add") if mean else None
            bias = self.parameter(plus, name, shape)
            name = plus.outputs[0] if bias is not None and plus is not None else name
        inputs = [x, new.constant(np.ones(shape, self.ctx.real) if scale is None else scale)]
        inputs += [new.constant(bias)] if bias is not None else []
        op = "LayerNormalization" if mean else "RMSNormalization"
        return Node(op, tuple(inputs), (name,), {"axis": axis, "epsilon": epsilon}, node.name)
