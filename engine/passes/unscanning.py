"""Cells in the bodies of loops: recognised there, and a Scan that is nothing but cells becomes sequence operators.

What goes round in a loop is known exactly, so a body tells which value is h without any names. Where every state of a
Scan is that of a cell, the cells run over all frames at once, and what stands before and behind them in the body is
lifted (see `lifting`). Where something else goes round, the Scan stays, and steps with the fused kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import GatestepError
from ..graph import CELLS, Graph, Node, Port
from ..lowering import Lowering, NeedsValue
from ..values import Value, View
from ..walk import port_shapes, walk
from .affine import Known
from .frames import STATES
from .fusing import in_order
from .lifting import Frames, lifted

__all__ = ["unscanned"]

#: Finds cells in a graph.
Find = Callable[..., Graph]


def unscanned(graph: Graph, real: np.dtype[Any], find: Find) -> Graph:
    """The graph with the cells of its bodies recognised, and with sequence operators for Scans of cells.

    Parameters
    ----------
    graph : Graph
    real : numpy.dtype
    find : callable
        `recognised`, for the bodies.

    Returns
    -------
    Graph
        `graph` itself where no body holds a cell.
    """
    if not any(node.bodies for node in graph.nodes):
        return graph
    try:
        ctx = walk(graph, real, port_shapes(graph, {}))
    except (GatestepError, NeedsValue):
        return graph
    new = graph.blank()
    changed = False
    for node in graph.nodes:
        inner = with_cells(node, ctx, real, find) if node.op in ("Scan", "Loop") and node.key in ctx.values else None
        if inner is None:
            new.nodes.append(node)
            continue
        changed = True
        if node.op != "Scan" or not Unscan(new, inner[0], inner[1], ctx, real).made():
            new.nodes.append(inner[0].with_(attrs=inner[0].attrs | {"body": closed(node, inner[0], inner[1])}))
    if changed:
        new.nodes = in_order(new)
    return new if changed else graph


def closed(node: Node, inner: Node, body: Graph) -> Graph:
    """The body with the ports that it had."""
    had = {port.name: port for port in node.attrs["body"].inputs}
    return body.with_(inputs=[had[port.name] for port in body.inputs], outputs=list(node.attrs["body"].outputs))


def with_cells(node: Node, ctx: Lowering, real: np.dtype[Any], find: Find) -> tuple[Node, Graph] | None:
    """The node without the captured values that are known, and its body with cells, its ports with sizes."""
    body: Graph = node.attrs["body"]
    shapes = inner_shapes(node, ctx)
    if shapes is None:
        return None
    extra = 2 if node.op == "Loop" else 0
    first = extra + node.attrs["states"] + node.attrs.get("xs", 0)
    constants, inputs, taken = dict(body.constants), [], []
    for k, (port, name, shape) in enumerate(zip(body.inputs, node.inputs, shapes, strict=True)):
        value = ctx.values.get(name)
        if k >= first and isinstance(value, np.ndarray) and name in ctx.graph.constants:
            constants[port.name] = value
            continue
        dtype = port.dtype if value is None or k < extra else value.dtype
        inputs.append(Port(port.name, shape, dtype))
        taken.append(name)
    states = {body.inputs[extra + k].name: body.outputs[extra // 2 + k].name for k in range(node.attrs["states"])}
    sized = body.with_(inputs=inputs, constants=constants)
    found = find(sized, real, states)
    return None if found is sized else (node.with_(inputs=tuple(taken)), found)


def inner_shapes(node: Node, ctx: Lowering) -> list[tuple[int, ...]] | None:
    """The shapes that the body's inputs have."""
    values: list[Value | None] = [ctx.values.get(name) if name else None for name in node.inputs]
    extra = 2 if node.op == "Loop" else 0
    if any(not isinstance(value, (View, np.ndarray)) for value in values[extra:]):
        return None
    shapes: list[tuple[int, ...]] = [()] * extra
    shapes += [tuple(value.shape) for value in values[extra:] if value is not None]
    for k in range(node.attrs.get("xs", 0)):
        at = node.attrs["states"] + k
        shape = list(shapes[at])
        del shape[node.attrs["in_axes"][k]]
        shapes[at] = tuple(shape)
    return shapes


class Unscan:
    """Adds to `new` what a Scan of cells is over all frames."""

    def __init__(self, new: Graph, node: Node, body: Graph, ctx: Lowering, real: np.dtype[Any]) -> None:
        self.new, self.node, self.body, self.ctx = new, node, body, ctx
        self.known = Known(body, walk(body, real, port_shapes(body, {})))
        self.elements = self.known.elements
        self.whole: dict[str, str | Frames] = dict.fromkeys([""], "")
        self.final: dict[str, str] = {}
        self.count = node.attrs["states"]
        self.names = [port.name for port in body.inputs]
        self.outputs = [port.name for port in body.outputs]
        self.given = dict(zip(self.names, node.inputs, strict=True))

    def made(self) -> bool:
        """Whether it could be said; else nothing is added."""
        attrs, mark = self.node.attrs, len(self.new.nodes)
        if len(set(attrs["in_reverse"])) != 1:
            return False
        self.reverse = bool(attrs["in_reverse"][0])
        self.new.constants |= self.body.constants
        self.whole.update((name, name) for name in self.body.constants)
        for k, name in enumerate(self.names[self.count :]):
            outer = self.given[name]
            self.whole[name] = self.front(outer, attrs["in_axes"][k]) if k < attrs["xs"] else outer
        for node in self.body.nodes:
            self.follow(node)
        if all(self.ended(k) for k in range(len(self.node.outputs))):
            return True
        del self.new.nodes[mark:]
        return False

    def front(self, name: str, axis: int) -> Frames:
        """The value with its frames first."""
        rank = self.ctx.values[name].ndim
        axis %= rank
        perm = (axis, *(k for k in range(rank) if k != axis))
        return Frames(self.new.add("Transpose", [name], perm=perm)[0] if axis else name)

    def follow(self, node: Node) -> None:
        """Add a node of the body, over all frames or once; what cannot be is left out."""
        given = [self.whole.get(name) for name in node.inputs]
        if node.op in CELLS:
            self.cell(node, given[0])
            return
        if any(found is None for found in given):
            return
        inputs = [found for found in given if found is not None]
        if any(isinstance(found, Frames) for found in inputs):
            made = lifted(self.new, node, self.known.values, inputs)
            if made is not None:
                self.whole.update((name, Frames(frames)) for name, frames in zip(node.outputs, made, strict=True))
        else:
            self.new.nodes.append(node.with_(inputs=tuple(map(str, inputs))))
            self.whole.update((name, name) for name in node.outputs)

    def cell(self, node: Node, x: str | Frames | None) -> None:
        """Add a cell whose states go round as they are."""
        value = self.known.values[node.inputs[0]]
        weights = [self.whole.get(name) for name in node.inputs[1:5]] + [
            self.whole.get(name) for name in node.inputs[7:]
        ]
        if not isinstance(x, Frames) or value.shape[0] != 1 or not all(isinstance(name, str) for name in weights):
            return
        inputs = [*self.new.add("Squeeze", [x.name, self.axes(1)]), *node.inputs[1:]]
        for k, out in STATES.items():
            if out >= len(node.outputs):
                continue
            state = self.elements.link(node.inputs[k])
            at = self.names.index(state) if state in self.names else self.count
            ends = {node.outputs[out], node.outputs[0] if k == 5 else node.outputs[out]}
            if at >= self.count or self.elements.link(self.outputs[at]) not in ends:
                return
            inputs[k] = self.replayed(node.inputs[k], {state: self.given[state]})
        attrs = {key: value for key, value in node.attrs.items() if key != "recognised"}
        attrs["origin"] = (*attrs.get("origin", ()), "in the body of a Scan")
        attrs["direction"] = "reverse" if self.reverse else "forward"
        y, *ends_ = self.new.add(node.op, inputs, len(node.outputs), name=node.name, **attrs)
        self.whole[node.outputs[1]] = Frames(y)
        self.whole[node.outputs[0]] = Frames(self.new.add("Unsqueeze", [y, self.axes(1)])[0])
        self.final.update(zip(node.outputs[1:], ends_, strict=True))
        self.final[node.outputs[0]] = self.new.add("Unsqueeze", [ends_[0], self.axes(0)])[0]

    def replayed(self, name: str, start: dict[str, str]) -> str:
        """A value of the body that moves the elements of others, over these."""
        if name in start:
            return start[name]
        node = self.known.made.get(name)
        if node is None:
            return name
        inputs = [self.replayed(k, start) if k else "" for k in node.inputs]
        outputs = self.new.add(node.op, inputs, len(node.outputs), name=node.name, **node.attrs)
        start.update(zip(node.outputs, outputs, strict=True))
        return start[name]

    def ended(self, k: int) -> bool:
        """Add output `k` of the Scan, where anything takes it."""
        target, name = self.node.outputs[k], self.outputs[k]
        if not target:
            return True
        if k < self.count:
            last = self.elements.link(name)
            if last not in self.final:
                return False
            end = self.replayed(name, {last: self.final[last]})
            rank = self.known.values[name].ndim
            self.new.add("Transpose", [end], [target], perm=tuple(range(rank)))
            return True
        frames = self.whole.get(name)
        if not isinstance(frames, Frames):
            return False
        axis, turned = (self.node.attrs[key][k - self.count] for key in ("out_axes", "out_reverse"))
        value = frames.name
        if bool(turned) is not self.reverse:
            (value,) = self.new.add("Slice", [value, *map(self.axes, (-1, -(2**31), 0, -1))])
        rank = self.known.values[name].ndim + 1
        axis %= rank
        self.new.add("Transpose", [value], [target], perm=(*range(1, axis + 1), 0, *range(axis + 1, rank)))
        return True

    def axes(self, *values: int) -> str:
        return self.new.constant(np.array(values, dtype=np.int64))
