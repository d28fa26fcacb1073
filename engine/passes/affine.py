"""Values of a graph as sums of dense terms, ``a @ A + b @ B + bias``, whatever operators they are written with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..graph import Graph, Node
from ..lowering import Lowering
from ..ops import OPS
from ..values import Value, View
from .elements import Elements

__all__ = ["Affine", "Known", "lead"]

#: Sums of more terms than this are no gate.
MOST_TERMS = 64
#: Sums with more operators than this, beside dense ones, are no gate.
MOST_ADDENDS = 8
#: Operators whose results can be sums of dense terms.
SUMS = frozenset(("MatMul", "Gemm", "Add", "Sub", "Mul", "Div"))
#: Values with more elements than this are not followed through what moves their elements.
MOST_ELEMENTS = 1 << 20


@dataclass(frozen=True)
class Affine:
    """The sum of ``value @ matrix`` over `terms`, plus `bias`.

    Attributes
    ----------
    terms : dict
        Name of a value to its matrix, ``(in, width)``.
    bias : numpy.ndarray
        ``(width,)``, float64, so that several biases are rounded once.
    """

    terms: dict[str, np.ndarray]
    bias: np.ndarray

    @property
    def width(self) -> int:
        return int(self.bias.size)

    def __neg__(self) -> Affine:
        return self.times(-1.0)

    def __add__(self, other: Affine) -> Affine:
        terms = dict(self.terms)
        for name, matrix in other.terms.items():
            terms[name] = terms[name] + matrix if name in terms else matrix
        return Affine(terms, self.bias + other.bias)

    def times(self, factor: float) -> Affine:
        if factor == 1:
            return self
        return Affine({name: m * m.dtype.type(factor) for name, m in self.terms.items()}, self.bias * factor)

    def stretched(self, factors: np.ndarray) -> Affine:
        """Each column times a factor."""
        if (factors == factors[0]).all():
            return self.times(float(factors[0]))
        return Affine({name: m * factors.astype(m.dtype) for name, m in self.terms.items()}, self.bias * factors)

    def columns(self, places: np.ndarray) -> Affine:
        """Some of the columns, in this order."""
        return Affine({name: matrix[:, places] for name, matrix in self.terms.items()}, self.bias[places])


def lead(value: Value) -> tuple[int, ...]:
    """Sizes of all axes but the last."""
    return tuple(value.shape[:-1])


@dataclass
class Known:
    """What a walk over `graph` knows: `values` by name, as views and arrays of concrete sizes.

    Attributes
    ----------
    made : dict
        Value to the node that makes it.
    takers : dict
        Value to the nodes that take it.
    fixed : set of str
        Values that depend on no input: those of the file.
    factors : dict
        Value to the matrices that it, or a rearrangement of it, is multiplied by.
    more : Graph
        Holds what moves elements in front of a product where the file does it behind, for terms that need it.
    """

    graph: Graph
    ctx: Lowering
    made: dict[str, Node] = field(default_factory=dict)
    takers: dict[str, list[Node]] = field(default_factory=dict)
    fixed: set[str] = field(default_factory=set)
    factors: dict[str, list[np.ndarray]] = field(default_factory=dict)
    _affine: dict[str, Affine | None] = field(default_factory=dict)
    _added: dict[Any, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.values = self.ctx.values
        self.elements = Elements(self)
        self.more = self.graph.blank()
        self.fixed.update(self.graph.constants)
        for node in self.graph.nodes:
            if node.key not in self.values:
                continue
            self.made.update((name, node) for name in node.outputs if name)
            for name in set(node.inputs) - {""}:
                self.takers.setdefault(name, []).append(node)
            if all(name in self.fixed for name in node.inputs if name):
                self.fixed.update(name for name in node.outputs if name)
            if node.op in SUMS:  # in order of execution, so that no sum is too deep for recursion
                self.affine(node.key)

    def op(self, name: str) -> str:
        """The operator that makes this value; "" for inputs and constants."""
        return self.made[name].op if name in self.made else ""

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.values[name].shape)

    def before(self, name: str) -> str:
        """The value of which this one is a part, or a rearrangement."""
        while name in self.made and OPS[self.op(name)].moves:
            data = [k for k in self.made[name].inputs if k and k not in self.fixed]
            if len(data) != 1 or data[0] != self.made[name].inputs[0]:
                break
            name = data[0]
        return name

    def source(self, name: str) -> str:
        """The value that this one is, however it was moved, packed and taken out again."""
        base = self.before(name)
        return self.elements.link(name) if self.op(base) == "Concat" else base

    def affine(self, name: str) -> Affine | None:
        """The sum of dense terms that this value is; None where it is no such sum of known matrices."""
        if name not in self._affine:
            self._affine[name] = None  # also what a cycle would find
            self._affine[name] = self._moved(name)
        return self._affine[name]

    def _moved(self, name: str) -> Affine | None:
        """Through operators that select columns; every row must stay where it is."""
        chain: list[str] = []
        base = name
        while base in self.made and OPS[self.op(base)].moves and base not in self.fixed:
            node = self.made[base]
            others = [self.values[k] for k in node.inputs[1:] if k]
            if node.op == "Concat" or any(isinstance(value, View) for value in others):
                return None
            chain.append(base)
            base = node.inputs[0]
        if not chain:
            return self._computed(name)
        shape = self.shape(base)
        if not shape or not 0 < np.prod(shape) <= MOST_ELEMENTS or (found := self.affine(base)) is None:
            return None
        if found.width != shape[-1]:
            return None
        ids: np.ndarray = np.arange(np.prod(shape)).reshape(shape)
        for step in reversed(chain):
            node = self.made[step]
            known = [self.values[k] if k else None for k in node.inputs[1:]]
            ids = OPS[node.op].evaluate(node, ids, *known)[node.outputs.index(step)]  # type: ignore[arg-type]
        if not ids.ndim or ids.shape[-1] == 0:
            return None
        rows = ids.reshape(-1, ids.shape[-1])
        places = rows[0] % found.width
        if (rows % found.width != places).any() or (rows // found.width != rows[:, :1] // found.width).any():
            return None  # rows made of several
        if len(rows) * found.width == np.prod(shape) and (rows[:, 0] // found.width == np.arange(len(rows))).all():
            return found.columns(places)
        if len(places) != found.width or (places != np.arange(found.width)).any():
            return None
        return self._in_front(found, chain[::-1])

    def _in_front(self, found: Affine, chain: list[str]) -> Affine | None:
        """Rows of a product are products of rows: what moves them, moved in front of the matrices."""
        terms = {}
        for name, matrix in found.terms.items():
            moved = name
            for step in chain:
                node = self.made[step]
                if (again := self._rows_only(node, len(matrix))) is None:
                    return None
                moved = self.added(node.op, [moved, *again], node.outputs.index(step), len(node.outputs), node.attrs)
            if moved in terms or self.shape(moved) != (*self.shape(chain[-1])[:-1], len(matrix)):
                return None
            terms[moved] = matrix
        return Affine(terms, found.bias)

    def _rows_only(self, node: Node, width: int) -> list[str] | None:
        """The other inputs of an operator that moves rows, for rows of another width."""
        rank = self.values[node.inputs[0]].ndim
        arrays = [
            value for value in (self.values.get(name) for name in node.inputs[1:]) if isinstance(value, np.ndarray)
        ]
        last = (-1, rank - 1)
        if node.op == "Reshape":
            return [self.more.constant(np.array([*arrays[0][:-1], width], dtype=np.int64))]
        apart = {
            "Transpose": (node.attrs.get("perm") or range(rank)[::-1])[-1] == rank - 1,
            "Gather": node.attrs.get("axis") not in last,
            "Split": node.attrs.get("axis") not in last,
            "Slice": len(arrays) > 2 and not set(last) & set(arrays[2].reshape(-1).tolist()),
            "Squeeze": bool(arrays),
            "Unsqueeze": True,
        }
        return list(node.inputs[1:]) if apart.get(node.op) else None

    def added(self, op: str, inputs: list[str], output: int, outputs: int, attrs: dict[str, Any]) -> str:
        """A value that the graph does not have yet, once."""
        key = (op, repr(sorted(attrs.items())), *(self._content(name) for name in inputs))
        if key not in self._added:
            names = self.more.add(op, inputs, outputs, **attrs)
            node = self.more.nodes[-1]
            for name in inputs:
                if name in self.more.constants:
                    self.values.setdefault(name, self.more.constants[name])
                    self.fixed.add(name)
            self.ctx.lower(node)
            self.made.update((name, node) for name in names)
            self._added[key] = names
        return self._added[key][output]

    def _content(self, name: str) -> Any:
        """What is equal for equal constants."""
        array = self.more.constants.get(name)
        return name if array is None or array.size > 16 else (array.shape, array.dtype.str, array.tobytes())

    def _computed(self, name: str) -> Affine | None:
        node, value = self.made.get(name), self.values.get(name)
        if value is None or value.dtype.kind != "f" or not value.ndim:
            return None
        if node is not None and node.op == "MatMul":
            return self._product(node.inputs[0], self._matrix(node.inputs[1]))
        if node is not None and node.op == "Gemm":
            return self._gemm(node)
        if node is not None and node.op in ("Add", "Sub"):
            a, b = (self._operand(k, name) for k in node.inputs)
            if a is None or b is None:
                return None
            both = a + (-b if node.op == "Sub" else b)
            return both if len(both.terms) <= MOST_TERMS else None
        if node is not None and node.op in ("Mul", "Div"):
            scaled, factor = self.scaled(name)
            total = None if factor is None else self.affine(scaled)
            return None if total is None or factor is None else total.stretched(factor)
        return self._constant(name, value.shape[-1])

    def scaled(self, name: str) -> tuple[str, np.ndarray | None]:
        """The value as another one of its shape, times a vector of the file; None where it is no such product."""
        node = self.made.get(name)
        if node is None or node.op not in ("Mul", "Div") or name in self.fixed:
            return name, None
        for other, factor in (node.inputs, node.inputs[::-1]):
            found = self._constant(factor, self.shape(name)[-1]) if self.shape(name) else None
            if found is not None and other not in self.fixed and self.shape(other) == self.shape(name):
                if node.op == "Mul":
                    return other, found.bias
                if factor == node.inputs[1] and found.bias.all():
                    return other, 1 / found.bias
        return name, None

    def addends(self, name: str, depth: int = 0) -> list[tuple[float, str]]:
        """The terms of a sum of full-width values, with their signs; what is dense is one term."""
        node = self.made.get(name)
        if node is None or node.op not in ("Add", "Sub") or depth > MOST_ADDENDS or self.affine(name) is not None:
            return [(1.0, name)]
        if any(self.shape(k) != self.shape(name) and k not in self.fixed for k in node.inputs):
            return [(1.0, name)]
        first, second = (self.addends(k, depth + 1) for k in node.inputs)
        flip = -1.0 if node.op == "Sub" else 1.0
        return first + [(flip * sign, value) for sign, value in second]

    def _gemm(self, node: Node) -> Affine | None:
        alpha, beta = node.attrs["alpha"], node.attrs["beta"]
        matrix = self._matrix(node.inputs[1])
        if node.attrs["transA"] or matrix is None:
            return None
        found = self._product(node.inputs[0], matrix.T if node.attrs["transB"] else matrix)
        if found is None or len(node.inputs) < 3 or not node.inputs[2]:
            return None if found is None else found.times(alpha)
        added = self._operand(node.inputs[2], node.key)
        return None if added is None else found.times(alpha) + added.times(beta)

    def _matrix(self, name: str) -> np.ndarray | None:
        value = self.values.get(name)
        return value if name in self.fixed and isinstance(value, np.ndarray) and value.ndim == 2 else None

    def _product(self, name: str, matrix: np.ndarray | None) -> Affine | None:
        """``name @ matrix``; a row that was put together from several values is taken apart again."""
        value = self.values[name]
        if matrix is None or value.dtype.kind != "f" or not value.ndim or value.shape[-1] != len(matrix):
            return None
        node = self.made.get(name)
        if node is None or node.op != "Concat" or node.attrs["axis"] not in (-1, value.ndim - 1):
            self.factors.setdefault(self.source(name), []).append(matrix)
            return Affine({name: matrix}, np.zeros(matrix.shape[1]))
        found, start = Affine({}, np.zeros(matrix.shape[1])), 0
        for part in node.inputs:
            size = self.shape(part)[-1]
            term = self._product(part, matrix[start : start + size])
            if term is None:
                return None
            found, start = found + term, start + size
        return found

    def _operand(self, name: str, result: str) -> Affine | None:
        """An operand of a sum: of the result's own shape, or the same for every row."""
        width = self.shape(result)[-1]
        if self.shape(name) == self.shape(result):
            return self.affine(name) or self._constant(name, width)
        fewer = len(self.shape(result)) - len(self.shape(name))
        if fewer > 0 and self.shape(result) == (*[1] * fewer, *self.shape(name)) and name not in self.fixed:
            return self._widened(name, fewer, self.shape(result)[:-1])
        return self._constant(name, width)

    def _widened(self, name: str, fewer: int, rows: tuple[int, ...]) -> Affine | None:
        """An operand that lacks axes of one element."""
        if (found := self.affine(name)) is None:
            return None
        terms = {}
        for term, matrix in found.terms.items():
            if self.shape(term)[:-1] != rows:
                term = self.added("Unsqueeze", [term, self.more.constant(np.arange(fewer))], 0, 1, {})
            terms[term] = matrix
        return Affine(terms, found.bias) if len(terms) == len(found.terms) else None

    def _constant(self, name: str, width: int) -> Affine | None:
        """What the file adds to every row."""
        value = self.values.get(name)
        if name not in self.fixed or not isinstance(value, np.ndarray) or value.dtype.kind != "f":
            return None
        if value.size not in (1, width) or (value.ndim and value.shape[-1] != value.size):
            return None
        return Affine({}, np.broadcast_to(value.reshape(-1).astype(np.float64), (width,)))
