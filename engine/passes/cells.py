"""Recurrent cells recognised: one step of an LSTM, a GRU or an RNN that is written out as elementary operators.

Files spell a cell in many ways: one product or eight, gates cut out by Split or Slice in any order,
``(1 - z) * n + z * h`` or ``n + z * (h - n)``. The equations of the state say what is what all the same. The search
starts there, and takes every gate back to a sum of dense terms with known matrices. Where all of it is accounted for, a
recurrent operator of one step takes its place; where anything is left over, the graph stays as it is.

In an LSTM or an RNN the equations do not tell h from x. Which of the values is the state follows from where it comes
from and where it goes; without that, nothing is replaced: an input that is taken for a state is no input any more.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..errors import GatestepError
from ..graph import ACTIVATING, Graph, Node
from ..lowering import TIME, Lowering, NeedsValue, ancestors
from ..ops import OPS
from ..streaming.states import stem
from ..values import View
from ..walk import port_shapes, walk
from .affine import Affine, Known, lead
from .fusing import Cell, rewritten
from .gates import Activation, Gate, Gates
from .unscanning import unscanned

__all__ = ["recognised"]

ARITHMETIC = frozenset(("Add", "Sub", "Mul", "Neg"))
#: Sums with more terms than this, or longer ones, are no state equation.
MOST_TERMS, MOST_FACTORS = 8, 4
#: A sum of products: how often each product of values occurs.
Products = dict[tuple[str, ...], float]


def recognised(graph: Graph, real: np.dtype[Any], states: Mapping[str, str] | None = None) -> Graph:
    """The graph with recurrent operators in place of cells that are written out.

    Parameters
    ----------
    graph : Graph
    real : numpy.dtype
    states : mapping, optional
        Input to output, where the caller says what is state.

    Returns
    -------
    Graph
        `graph` itself where there is no such cell.
    """
    graph = unscanned(graph, real, recognised)
    ops = {node.op for node in graph.nodes}
    if not ops & ACTIVATING or not ops & {"MatMul", "Gemm"}:
        return graph
    try:
        ctx = walk(graph, real, port_shapes(graph, {}))
    except (GatestepError, NeedsValue):
        return graph
    search = Search(graph, ctx, states or {})
    for node in graph.nodes:
        if node.key in search.known.made:
            search.look(node)
    return rewritten(graph, search.known, search.cells) if search.cells else graph


@dataclass
class Search:
    """The cells found so far, in order of execution; `owners` says whose states a value is."""

    graph: Graph
    ctx: Lowering
    states: Mapping[str, str]
    cells: list[Cell] = field(default_factory=list)
    owners: dict[str, Cell] = field(default_factory=dict)
    products: dict[str, Products] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.known = Known(self.graph, self.ctx)
        self.gates = Gates(self.known)
        self.places = {name: k for k, node in enumerate(self.graph.nodes) for name in node.outputs}

    def look(self, node: Node) -> None:
        """Take the first reading of `node` as the new state of a cell that explains everything."""
        readings: Iterable[Cell] = ()
        products = self.multiplied(node) if node.op in ARITHMETIC else {}
        if node.op in ("Add", "Sub"):
            readings = itertools.chain(self.lstms(node, products), self.grus(node, products))
        elif node.op in ACTIVATING:
            readings = self.rnns(node)
        found = next((cell for cell in readings if self.fits(cell)), None)
        if found is not None:
            self.cells.append(found)
            self.owners.update((name, found) for name in (found.result, found.carried) if name)
        if node.op in ARITHMETIC:
            self.keep(node.outputs[0], products)

    # ------------------------------------------------------------------ the equations of each cell
    def factors(self, name: str) -> Iterator[tuple[str, str]]:
        """Both ways to read this value as a product whose first factor is a gate."""
        if self.known.op(name) == "Mul":
            a, b = self.known.made[name].inputs
            for first, second in ((a, b), (b, a)):
                if self.gates.activation(first) is not None:
                    yield first, second

    def lstms(self, node: Node, products: Products) -> Iterator[Cell]:
        """c' = f * c + i * g, or i for 1 - f, or f for 1 - i; h' = o * tanh(c')."""
        after = node.outputs[0]
        for o, act, h in self.shown(after):
            if node.op == "Add":
                for new, old in (node.inputs, node.inputs[::-1]):
                    for (i, g), (f, c) in itertools.product(self.factors(new), self.factors(old)):
                        yield from self.lstm((i, f, g, o), "", act, c, after, h)
            if len(products) == 3:
                for g, z, c in itertools.permutations({name for product in products for name in product}, 3):
                    if products == mixed(g, z, c):
                        yield from self.lstm(("", z, g, o), "i=1-f", act, c, after, h)
                    if products == mixed(c, z, g):
                        yield from self.lstm((z, "", g, o), "f=1-i", act, c, after, h)

    def shown(self, after: str) -> Iterator[tuple[str, Activation, str]]:
        """Values o * tanh(c'), each with its o and its tanh."""
        for taker in self.known.takers.get(after, []):
            found = self.gates.activation(taker.outputs[0])
            if found is not None and found[1] == after:
                for product in self.known.takers.get(taker.outputs[0], []):
                    for o, other in self.factors(product.outputs[0]):
                        if other == taker.outputs[0]:
                            yield o, found[0], product.outputs[0]

    def lstm(
        self, values: tuple[str, str, str, str], coupled: str, act: Activation, before: str, after: str, shown: str
    ) -> Iterator[Cell]:
        """The cell of these gates i, f, g, o; of coupled ones, one is ""."""
        named = [name for name in values if name]
        gates = {name: self.gates.of(name) for name in named}
        found = [gate for gate in gates.values() if gate is not None]
        if len(found) < len(named) or len(gates) < len(named) or before in named:
            return
        i, f, g, o = (gates[name] if name else None for name in values)
        kept = i or f
        assert kept is not None and g is not None and o is not None
        if {gate.activation for gate in (i, f, o) if gate is not None} != {kept.activation} or not g.plain:
            return
        if len({gate.clip for gate in found}) > 1 or len({gate.sum.width for gate in found}) > 1:
            return
        peepholes = np.zeros((3, kept.sum.width))
        for row, gate, carry in ((0, i, before), (2, f, before), (1, o, after)):
            if gate is not None:
                if gate.peepholes.keys() - {carry}:
                    return
                peepholes[row] = gate.peepholes.get(carry, 0.0)
        nothing = Affine({}, np.zeros(kept.sum.width))
        plain = Cell(
            "LSTM",
            tuple(nothing if gate is None else gate.sum for gate in (i, f, g, o)),
            "",
            shown,
            carry=before,
            carried=after,
            activations=(kept.activation, g.activation, act),
            clip=kept.clip,
            coupled=coupled,
            peepholes=peepholes if peepholes.any() else None,
            names=(*named, shown),
        )
        sources = dict.fromkeys(name for gate in plain.gates for name in gate.terms)
        for cell in (plain, *self.projected(plain)):
            state = self.state_of(cell, sources)
            if state is not None:
                yield replace(cell, state=state)

    def projected(self, cell: Cell) -> Iterator[Cell]:
        """The same cell with a matrix after it."""
        for node in self.known.takers.get(cell.result, []):
            out = self.known.affine(node.outputs[0]) if node.op in ("MatMul", "Gemm") else None
            if out is not None and [*out.terms] == [cell.result] and not out.bias.any():
                yield replace(cell, result=node.outputs[0], projection=out.terms[cell.result].T)

    def grus(self, node: Node, products: Products) -> Iterator[Cell]:
        """h' = (1 - z) * n + z * h, or the same with 1 - z for z."""
        after = node.outputs[0]
        if len(products) != 3:
            return
        for n, z, h in itertools.permutations({name for product in products for name in product}, 3):
            if products not in (mixed(n, z, h), mixed(h, z, n)):
                continue
            gate = self.gates.of(z)
            if gate is not None and products != mixed(n, z, h):
                gate = gate.complement()
            if gate is not None and gate.plain:
                yield from self.gru(gate, n, h, after, (z, n, after))

    def gru(self, z: Gate, n: str, h: str, after: str, names: tuple[str, ...]) -> Iterator[Cell]:
        """n = tanh(x + r * (h @ R + b)), or n = tanh(x + (r * h) @ R)."""
        found = self.gates.activation(n)
        if found is None:
            return
        before, clip = self.gates.unclipped(found[1])
        if clip != z.clip:
            return

        def cell(r: Gate, last: Affine, inner: Affine | None = None) -> Cell:
            gates, acts = (r.sum, z.sum, last), (z.activation, found[0])
            return Cell("GRU", gates, h, after, inner=inner, activations=acts, clip=clip, names=names)

        def fits(r: Gate | None) -> bool:
            return r is not None and r.plain and (r.activation, r.clip) == (z.activation, z.clip)

        whole = self.known.affine(before)
        if whole is not None:
            for name in whole.terms:
                for r, other in self.factors(name):
                    gate = self.gates.of(r)
                    if other == h and h not in whole.terms and gate is not None and fits(gate):
                        terms = {h if source == name else source: m for source, m in whole.terms.items()}
                        yield cell(gate, Affine(terms, whole.bias))
            return
        sums = [(sign, name, self.known.affine(name)) for sign, name in self.known.addends(before)]
        products = [(sign, name) for sign, name, total in sums if total is None]
        if len(products) != 1:
            return
        outer = [total.times(sign) for sign, _, total in sums if total is not None]
        sign, product = products[0]
        for r, other in self.factors(product):
            gate, reset = self.gates.of(r), self.known.affine(other)
            if gate is None or not fits(gate) or reset is None:
                continue
            if any({reset.width} != {part.width} for part in outer):
                continue
            rest = sum(outer, Affine({}, np.zeros(reset.width)))
            if set(reset.terms) == {h} and h not in rest.terms:
                yield cell(gate, rest, reset.times(sign))

    def rnns(self, node: Node) -> Iterator[Cell]:
        """h' = tanh(x @ W + h @ R + b)."""
        gate = self.gates.of(node.outputs[0])
        if gate is not None and gate.plain and len(gate.sum.terms) > 1:
            name = node.outputs[0]
            plain = Cell("RNN", (gate.sum,), "", name, activations=(gate.activation,), clip=gate.clip, names=(name,))
            again = [name for name in gate.sum.terms if self.shaped(name, plain) and self.recurs(name, plain)]
            state = again[0] if len(again) == 1 else self.named(plain, gate.sum.terms)
            if state is not None:
                yield replace(plain, state=state)

    def multiplied(self, node: Node) -> Products:
        """The arithmetic of `node`, multiplied out."""
        parts = [self.product(name) for name in node.inputs]
        first, second = parts[0], parts[-1]
        result: Products = {}
        if node.op == "Mul":
            for (a, m), (b, n) in itertools.product(first.items(), second.items()):
                key = tuple(sorted((*a, *b)))
                result[key] = result.get(key, 0.0) + m * n
        elif node.op == "Neg":
            result = {key: -m for key, m in first.items()}
        else:
            result = dict(first)
            for key, m in second.items():
                result[key] = result.get(key, 0.0) + (-m if node.op == "Sub" else m)
        return {key: m for key, m in result.items() if m}

    def product(self, name: str) -> Products:
        """An operand, multiplied out if it is known to be arithmetic itself; a number, if it is one."""
        if name not in self.products:
            value = self.known.values[name]
            number = name in self.known.fixed and isinstance(value, np.ndarray) and value.size
            uniform = number and (value == value.flat[0]).all()  # type: ignore[union-attr]
            self.products[name] = {(): float(value.flat[0])} if uniform else {(name,): 1.0}  # type: ignore[union-attr]
        return self.products[name]

    def keep(self, name: str, products: Products) -> None:
        """Multiply this value out where it is an operand; but states, and what is dense, are values by themselves."""
        dense = any(taker.op in ("MatMul", "Gemm", "Concat") for taker in self.known.takers.get(name, []))
        large = len(products) > MOST_TERMS or max(map(len, products), default=0) > MOST_FACTORS
        if not dense and not large and name not in self.owners:
            self.products[name] = products

    # ------------------------------------------------------------------ which value is the state
    def state_of(self, cell: Cell, sources: Iterable[str]) -> str | None:
        """Which of the values that the gates are made of is h.

        It comes from where c comes from; or its matrix is that of h' in the next step; or it is an input of the model,
        and h' an output of the same shape. Where something else could be h as well, the names of input and output must
        agree.
        """
        sources = list(sources)
        beside = [name for name in sources if self.shaped(name, cell) and self.beside(name, cell.carry)]
        if len(beside) != 1 and any(taker.op == "Mul" for taker in self.known.takers.get(cell.carried, [])):
            beside = [name for name in sources if self.shaped(name, cell) and self.recurs(name, cell)]
        return beside[0] if len(beside) == 1 else self.named(cell, sources, by_name=False)

    def shaped(self, name: str, cell: Cell) -> bool:
        return self.known.shape(name) == self.known.shape(cell.result)

    def recurs(self, h: str, cell: Cell) -> bool:
        """Whether the step before this one multiplies its h by the same matrices, or the one behind by one of them."""
        before = self.known.source(h)
        owner = self.owners.get(before)
        if owner is not None and owner.result == before and owner.op == cell.op:
            then = [gate.terms.get(owner.state) for gate in owner.gates]
            now = [gate.terms.get(h) for gate in cell.gates]
            if all(a is b or np.array_equal(a, b) for a, b in zip(then, now, strict=True)):  # type: ignore[arg-type]
                return True
        pairs = itertools.product(self.known.factors.get(before, []), self.known.factors.get(cell.result, []))
        return any(a is b or np.array_equal(a, b) for a, b in pairs)

    def beside(self, h: str, c: str) -> bool:
        """Whether h and c are states of one step, parts of one input, or both known."""
        h, c = self.known.before(h), self.known.before(c)
        if h in self.owners or c in self.owners:
            owner = self.owners.get(c)
            return owner is not None and (h, c) == (owner.result, owner.carried)
        if all(not isinstance(self.known.values[name], View) for name in (h, c)):
            return True
        return h == c and h in {port.name for port in self.graph.inputs}

    def named(self, cell: Cell, sources: Iterable[str], *, by_name: bool = True) -> str | None:
        """The one value that is an input, or part of one, which an output of the same shape continues."""
        ports = {port.name for port in self.graph.inputs}
        reached = self.reached(cell.result)
        fits: list[str] = []
        named: list[str] = []
        for name in sources:
            port = self.known.before(name)
            shapes = {out: self.known.shape(out) for out in reached}
            if port in ports and self.shaped(name, cell) and self.known.shape(port) in shapes.values():
                fits.append(name)
                same = [out for out, shape in shapes.items() if shape == self.known.shape(port)]
                if self.states.get(port) in same or (stem(port) and stem(port) in map(stem, same)):
                    named.append(name)
        others = [name for name in sources if self.shaped(name, cell) and self.known.before(name) not in self.owners]
        chosen = named if by_name or len(others) > 1 else fits
        return chosen[0] if len(chosen) == 1 else None

    def reached(self, name: str) -> list[str]:
        """The model's outputs that this value reaches without being changed."""
        seen, queue = {name}, [name]
        while queue:
            for node in self.known.takers.get(queue.pop(), []):
                if OPS[node.op].moves:
                    fresh = [out for out in node.outputs if out and out not in seen]
                    seen.update(fresh)
                    queue.extend(fresh)
        return [port.name for port in self.graph.outputs if port.name in seen]

    # ------------------------------------------------------------------ the last word
    def fits(self, cell: Cell) -> bool:
        """Whether sizes agree, rows are rows throughout, and the cell does not read what it makes."""
        known = self.known
        width = known.shape(cell.carried or cell.result)[-1]
        rows = lead(known.values[cell.result])
        after = known.values[cell.result]
        if not cell.inputs or cell.state in cell.inputs or not isinstance(after, View):
            return False
        if after.dtype != self.ctx.real or sum(size != 1 for size in rows) > 1:
            return False
        everything = [*cell.inputs, cell.state, *([cell.carry, cell.carried] if cell.carry else [])]
        if any(lead(known.values[name]) != rows or known.values[name].dtype != self.ctx.real for name in everything):
            return False
        if known.shape(cell.state) != known.shape(cell.result):
            return False
        if cell.carry and known.shape(cell.carry) != known.shape(cell.carried):
            return False
        if any(gate.width != width for gate in cell.gates) or (cell.inner is not None and cell.inner.width != width):
            return False
        # Frames side by side are no rows of a batch: this is no step in time.
        views = [value for value in (known.values[name] for name in everything) if isinstance(value, View)]
        if any(self.ctx.root(tag) == TIME for view in views for tag in view.tags[:-1]):
            return False
        made = {cell.carried, cell.result} - {""}
        first = min(self.places[name] for name in made)
        late = [name for name in everything if name not in made and self.places.get(name, -1) > first]
        return not (made & ancestors(self.graph, late) if late else made & {*cell.inputs, cell.state, cell.carry})


def mixed(n: str, z: str, h: str) -> Products:
    """``(1 - z) * n + z * h``, multiplied out."""
    return {(n,): 1.0, pair(n, z): -1.0, pair(h, z): 1.0}


def pair(a: str, b: str) -> tuple[str, ...]:
    """A product of two values."""
    return tuple(sorted((a, b)))
