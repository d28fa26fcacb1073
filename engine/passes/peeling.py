"""The first step of an unrolled cell, put back where an exporter has computed what zeros give.

``0 @ R + b`` is a constant, and a first step that begins at zeros is left with half of its equations. It is the same
cell all the same: the step written out in full, over frame 0 and from zeros, must give what the file has there, for
any input. That is held against each other on random ones; two formulas of a cell that agree on those are one.
"""

from __future__ import annotations

import numpy as np

from ..errors import GatestepError
from ..graph import Graph, Node, Port
from ..ops import OPS
from ..oracle import evaluate
from .frames import STATES, Family, Unrolled
from .fusing import in_order

__all__ = ["with_first_steps"]

#: Random inputs on which both must agree, and how closely: constants of a file are rounded to single precision.
DRAWS, CLOSE = 2, 1e-5


def with_first_steps(found: Unrolled) -> Graph | None:
    """The graph with first steps written out like the others; None where none is missing."""
    changed: Graph | None = None
    for family in found.families:
        missing = sorted(set(range(family.length)) - family.nodes.keys())
        if family.is_cell and family.length > 2 and missing in ([0], [family.length - 1]):
            changed = Peeled(found, changed or found.graph).mended(family, missing[0]) or changed
    return changed


class Peeled:
    """Adds one step to `graph`, the graph of `found` with what was put back before."""

    def __init__(self, found: Unrolled, graph: Graph) -> None:
        self.found, self.known = found, found.known
        self.new = graph.blank()
        self.new.nodes = [*graph.nodes]

    def mended(self, family: Family, place: int) -> Graph | None:
        """The graph with the step of frame `place`, where the file has what it gives."""
        one, two = (
            (family.nodes[place + 1], family.nodes[place + 2])
            if place == 0
            else (family.nodes[place - 1], family.nodes[place - 2])
        )
        if not self.found.follows(one, two):
            return None
        x = self.frame(family.inputs[0], place)
        if not x:
            return None
        inputs = [x, *one.inputs[1:]]
        for k in STATES:
            if k < len(inputs):
                inputs[k] = ""
        outputs = self.new.add(one.op, inputs, len(one.outputs), name=one.name, **one.attrs)
        renamed = dict(zip(one.outputs, outputs, strict=True))
        results: dict[str, str] = {}
        for k, out in STATES.items():
            if out < len(outputs):
                given = self.found.elements.link(one.inputs[k])
                back = self.path(one.inputs[k], {given})
                if given in self.known.fixed or given not in self.known.made or not back:
                    return None
                results[given] = self.continued(self.path(two.inputs[k], {*renamed}), len(back) - 1, renamed)
        if "" in results.values() or not self.agree(results):
            return None
        names = {made: given for given, made in results.items()}
        nodes = [
            Node(
                n.op,
                tuple(names.get(k, k) for k in n.inputs),
                tuple(names.get(k, k) for k in n.outputs),
                n.attrs,
                n.name,
            )
            for n in self.new.nodes
            if not results.keys() & set(n.outputs)
        ]
        self.new.nodes = nodes
        self.new.nodes = in_order(self.new)
        return self.new

    def path(self, name: str, ends: set[str]) -> list[str]:
        """The values that this one was moved from, back to one of `ends`; [] where it was not."""
        path = [name]
        while path[-1] not in ends:
            node = self.known.made.get(path[-1])
            if node is None or not OPS[node.op].moves:
                return []
            parts = [k for k in node.inputs if node.op != "Concat" or self.found.elements.link(k) in ends]
            if not parts:
                return []
            path.append(parts[0])
        return path

    def continued(self, path: list[str], distance: int, renamed: dict[str, str]) -> str:
        """What the next state goes through, but for the last `distance` operators, over the new step's outputs."""
        if distance >= len(path) or any(self.known.op(step) == "Concat" for step in path[distance:-1]):
            return ""
        for step in reversed(path[distance:-1]):
            node = self.known.made[step]
            outputs = self.new.add(
                node.op, [renamed[node.inputs[0]], *node.inputs[1:]], len(node.outputs), name=node.name, **node.attrs
            )
            renamed[step] = outputs[node.outputs.index(step)]
        return renamed[path[distance]]

    def frame(self, wanted: tuple[int, int] | str, place: int) -> str:
        """Frame `place` of what a family makes; "" where that is a cell without it."""
        if isinstance(wanted, str):
            return wanted
        number, k = wanted
        family = self.found.families[number]
        for name, at in self.found.frames.items():
            if at == (number, k, place):
                return name
        if family.cut:
            x, axis, kept = family.cut
            index = self.new.constant(np.array([place] if kept else place, dtype=np.int64))
            return self.new.add("Gather", [x, index], axis=axis)[0]
        if family.is_cell:
            return ""
        inputs = [self.frame(found, place) for found in family.inputs]
        if any(found and not made for found, made in zip(family.inputs, inputs, strict=True)):
            return ""
        node = family.one
        return self.new.add(node.op, inputs, len(node.outputs), name=node.name, **node.attrs)[k]

    def agree(self, results: dict[str, str]) -> bool:
        """Whether each pair of values is the same for any input."""
        names = [*results, *results.values()]
        graph = self.new.blank()
        graph.nodes = self.new.nodes
        graph.outputs = [Port(name, None, np.dtype(np.float64)) for name in names]
        graph.nodes = in_order(graph)
        for seed in range(DRAWS):
            rng = np.random.default_rng(seed)
            feeds = {
                port.name: rng.standard_normal(self.known.shape(port.name)).astype(port.dtype)
                for port in graph.inputs
                if port.name not in graph.defaults
            }
            try:
                values = evaluate(graph, feeds)
            except GatestepError:
                return False
            pairs = ((values[a], values[b]) for a, b in results.items())
            if not all(a.shape == b.shape and np.allclose(a, b, CLOSE, CLOSE / 10) for a, b in pairs):
                return False
        return True
