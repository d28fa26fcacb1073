"""``fix="dequantize"``: quantised operators in floating point, on the weights that their integers stand for.

The scales of activations that a file computes from what it sees (`DynamicQuantizeLinear`) mix all frames of a
recording. Without the rounding of activations nothing does, and products with dequantised weights are dense layers:
such a model streams, and runs in the fused kernels. Its numbers are those of the file but for that rounding; where a
file has fixed scales, what lies outside their range is still held in it, as files have their ReLU there.

An integer value *stands for* a real one, ``(q - zero) * scale``. One pass finds what each stands for and takes it where
the file goes back to reals; integers that nothing takes any more disappear, and those that a result needs stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from ...engine.graph import Graph, Node
from ...engine.ops import OPS

__all__ = ["in_float"]

Array = np.ndarray
ONE = np.ones((), np.float32)
#: Operators that do the same to integers as to what they stand for, on their first input alone.
MOVES = frozenset("Transpose Squeeze Unsqueeze Reshape Flatten Slice Split Gather Expand Tile MaxPool".split())
#: Operators on scales and weights alone.
FOLDED = frozenset("Mul Div Reshape Transpose".split())


class Stand(NamedTuple):
    """An integer value stands for ``value``, in units of `scale`."""

    value: str
    scale: Array


@dataclass(frozen=True)
class Product:
    """``factor * (op(x, w) + bias)``, where w and bias are known; factor is one number or one per column."""

    node: Node
    op: str
    x: str
    w: Array
    factor: Array
    bias: Array | None = None

    def scaled(self, by: Array) -> Product | None:
        """The product times `by`, if that can be part of its weights."""
        columns = self.w.shape[-1 if self.op == "MatMul" else 0]
        factor = np.asarray(self.factor * by.astype(np.float32).reshape(-1), np.float32)
        along = by.ndim == 0 or by.size == 1 or by.shape[-1 if self.op == "MatMul" else -(self.w.ndim - 1)] == by.size
        return replace(self, factor=factor) if along and factor.size in (1, columns) else None


@dataclass
class _Pass:
    """One graph on its way into floating point."""

    graph: Graph
    known: dict[str, Array]
    nodes: list[Node] = field(default_factory=list)
    stands: dict[str, Stand] = field(default_factory=dict)
    products: dict[str, Product] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def add(
        self, node: Node, op: str, inputs: tuple[str, ...], attrs: Mapping[str, Any], outputs: int = 1
    ) -> list[str]:
        """A new node in the place of `node`."""
        made = [self.graph.fresh(op.lower()) for _ in range(outputs)]
        self.nodes.append(Node(op, tuple(inputs), tuple(made), dict(attrs), node.name))
        return made

    def become(self, name: str, value: str) -> None:
        """`name` is `value` from here on."""
        self.names[name] = value
        if any(port.name == name for port in self.graph.outputs):
            at = next(k for k, node in enumerate(self.nodes) if name in node.outputs)
            self.nodes[at] = Node("Cast", (value,), (name,), {"to": np.dtype(np.float32)}, self.nodes[at].name)
            self.nodes.append(self.nodes.pop(at))

    def emit(self, name: str, product: Product) -> None:
        """`name` is this product."""
        w = product.w * (product.factor if product.op == "MatMul" else self._channels(product, product.w.ndim))
        value = self._layer(product, w.astype(np.float32))
        if product.bias is not None:
            factor = product.factor if product.op == "MatMul" else self._channels(product, product.w.ndim - 1)
            bias = self.graph.constant((product.bias * factor).astype(np.float32))
            (value,) = self.add(product.node, "Add", (value, bias), {})
        self.products[value] = product
        self.become(name, value)

    def _layer(self, product: Product, w: Array) -> str:
        inputs = (product.x, self.graph.constant(w), "")[: 2 if product.op == "MatMul" else 3]
        return self.add(product.node, product.op, inputs, product.node.attrs)[0]

    @staticmethod
    def _channels(product: Product, ndim: int) -> Array:
        return product.factor.reshape(-1, *(1,) * (ndim - 1)) if product.factor.size > 1 else product.factor

    # ------------------------------------------------------------------ one node
    def take(self, node: Node) -> None:
        node = node.with_(inputs=tuple(self.names.get(name, name) for name in node.inputs))
        for key, body in node.bodies.items():
            node.attrs[key] = in_float(body)
        self.nodes.append(node)  # stays where something takes its integers
        handler = getattr(self, f"_{node.op}", None)
        try:
            if handler is not None:
                handler(node)
            elif node.op in MOVES:
                self._moved(node)
            if node.op in FOLDED and all(name in self.known for name in node.inputs):
                (self.known[node.outputs[0]],) = OPS[node.op].evaluate(
                    node, *(self.known[name] for name in node.inputs)
                )
        except (ValueError, IndexError, TypeError):
            return  # scales or weights that do not fit: the node stays, and is refused where it is built

    def _DynamicQuantizeLinear(self, node: Node) -> None:
        q, scale, zero = node.outputs
        self.stands[q] = Stand(node.inputs[0], ONE)
        self.known |= {name: value for name, value in ((scale, ONE), (zero, np.zeros((), np.uint8))) if name}

    def _QuantizeLinear(self, node: Node) -> None:
        _, scale, zero = (*(self.known.get(name) for name in node.inputs), None)[:3]
        if scale is None or scale.size != 1 or (zero is None and len(node.inputs) > 2 and node.inputs[2]):
            return
        limits = np.iinfo(node.attrs["dtype"])
        offset = 0 if zero is None else int(zero.reshape(()))
        ends = ((limit - offset) * np.float32(scale.reshape(())) for limit in (limits.min, limits.max))
        inputs = (node.inputs[0], *(self.graph.constant(np.asarray(end, np.float32)) for end in ends))
        self.stands[node.outputs[0]] = Stand(self.add(node, "Clip", inputs, {})[0], scale.reshape(()))

    def _DequantizeLinear(self, node: Node) -> None:
        stand, scale = self.stands.get(node.inputs[0]), self.known.get(node.inputs[1])
        if stand is not None and scale is not None and scale.size == 1:
            self._multiply(node.outputs[0], node, stand.value, np.asarray(scale.reshape(()) / stand.scale))

    def _multiply(self, name: str, node: Node, value: str, by: Array) -> None:
        """`name` is `value` times a known number."""
        if by == 1:
            self.become(name, value)
        elif (product := self.products.get(value)) is not None and (scaled := product.scaled(by)) is not None:
            self.emit(name, scaled)
        else:
            self.become(name, self.add(node, "Mul", (value, self.graph.constant(by.astype(np.float32))), {})[0])

    def _MatMulInteger(self, node: Node) -> None:
        self._integers(node, "MatMul", -1, {})

    def _ConvInteger(self, node: Node) -> None:
        self._integers(node, "Conv", 0, node.attrs)

    def _integers(self, node: Node, op: str, axis: int, attrs: Mapping[str, Any]) -> None:
        stand, w = self.stands.get(node.inputs[0]), self.known.get(node.inputs[1])
        zero = node.inputs[3] if len(node.inputs) > 3 else ""
        if stand is None or w is None or (zero and zero not in self.known):
            return
        if op == "MatMul" and w.ndim != 2:
            return
        centred = w.astype(np.float32)
        if zero:
            shape = [1] * w.ndim
            if self.known[zero].size > 1:
                shape[axis] = -1
            centred = centred - self.known[zero].astype(np.float32).reshape(shape)
        factor = np.asarray(1 / stand.scale, np.float32).reshape(1)
        self.products[node.outputs[0]] = Product(node.with_(attrs=dict(attrs)), op, stand.value, centred, factor)

    def _Add(self, node: Node) -> None:
        product, bias = (self.products.get(node.inputs[0]), self.known.get(node.inputs[1]))
        if product is not None and bias is not None and bias.dtype == np.int32 and product.bias is None:
            self.products[node.outputs[0]] = replace(product, bias=bias / product.factor)

    def _Cast(self, node: Node) -> None:
        if node.inputs[0] in self.products and np.dtype(node.attrs["to"]).kind == "f":
            self.products[node.outputs[0]] = self.products[node.inputs[0]]

    def _Mul(self, node: Node) -> None:
        for value, by in (node.inputs, node.inputs[::-1]):
            product = self.products.get(value)
            if product is not None and by in self.known and (scaled := product.scaled(self.known[by])) is not None:
                self.emit(node.outputs[0], scaled)
                return

    def _moved(self, node: Node) -> None:
        stand = self.stands.get(node.inputs[0])
        if stand is not None:
            made = self.add(node, node.op, (stand.value, *node.inputs[1:]), node.attrs, len(node.outputs))
            self.stands |= {q: Stand(value, stand.scale) for q, value in zip(node.outputs, made, strict=True) if q}

    def _Concat(self, node: Node) -> None:
        stands = [self.stands[name] for name in node.inputs if name in self.stands]
        if len(stands) == len(node.inputs) and all(s.scale == stands[0].scale for s in stands):
            (value,) = self.add(node, "Concat", tuple(s.value for s in stands), node.attrs)
            self.stands[node.outputs[0]] = Stand(value, stands[0].scale)

    def _DynamicQuantizeLSTM(self, node: Node) -> None:
        names = (*node.inputs, *[""] * 12)[:12]
        if not all(names[k] in self.known for k in (1, 2, 8, 9, 10, 11)):
            return
        weights = []
        for k, at in ((1, 8), (2, 10)):
            scale, zero = (self.known[names[at + j]].astype(np.float32) for j in (0, 1))
            d = self.known[names[k]].shape[0]
            w = (self.known[names[k]].astype(np.float32) - zero.reshape(d, 1, -1)) * scale.reshape(d, 1, -1)
            weights.append(self.graph.constant(np.ascontiguousarray(w.swapaxes(1, 2))))
        self.nodes[-1] = Node("LSTM", (names[0], *weights, *names[3:8], ""), node.outputs, node.attrs, node.name)


def in_float(graph: Graph) -> Graph:
    """The graph with its quantised operators in floating point, as far as their scales are known or not needed."""
    work = _Pass(graph, dict(graph.constants))
    for node in list(graph.nodes):
        work.take(node)
    needed = {work.names.get(port.name, port.name) for port in graph.outputs} | {port.name for port in graph.outputs}
    kept = []
    for node in reversed(work.nodes):
        if not needed.isdisjoint(filter(None, node.outputs)):
            kept.append(node)
            needed.update(filter(None, node.inputs))
    graph.nodes[:] = kept[::-1]
    for name in graph.constants.keys() - needed:
        del graph.constants[name]
    return graph
