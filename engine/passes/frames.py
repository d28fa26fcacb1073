"""Frames of a value, and the operators that do the same to each of them.

Frames are the pieces that Gather, Slice or Split take from one axis of one value. Operators of one kind, with the same
attributes and constants, make frames again where each takes frame k of the same values; steps of a cell do where they
hand their state from one to the next.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import GatestepError
from ..graph import CELLS, Graph, Node
from ..lowering import NeedsValue
from ..ops import OPS
from ..ops.plumbing import Slice
from ..values import View
from ..walk import port_shapes, walk
from .affine import Known

__all__ = ["STATES", "Family", "Unrolled", "unrolled"]

#: Where a cell takes its states, and where it gives them.
STATES = {5: 1, 6: 2}


def unrolled(graph: Graph, real: np.dtype[Any]) -> Unrolled | None:
    """What does the same to every frame of a value, where anything can; None where there are no steps of a cell."""
    weights = [repeatable(graph, node) for node in graph.nodes if node.op in CELLS]
    if len(set(weights)) == len(weights):
        return None
    try:
        return Unrolled(graph, Known(graph, walk(graph, real, port_shapes(graph, {}))))
    except (GatestepError, NeedsValue):
        return None


def repeatable(graph: Graph, node: Node) -> tuple[Any, ...]:
    """What steps of one cell have in common, as far as a glance tells."""
    arrays = [graph.constants.get(name) for name in node.inputs[1:3]]
    glances = [
        name if a is None else (a.shape, a.reshape(-1)[:16].tobytes())
        for a, name in zip(arrays, node.inputs[1:3], strict=True)
    ]
    return node.op, *glances


@dataclass
class Family:
    """Operators that do the same, one per frame; their outputs are frames of one value each.

    Attributes
    ----------
    nodes : dict
        By frame.
    length : int
        How many frames there are.
    inputs : tuple
        Of every operator: family and output that an input is a frame of, or the value that all share.
    cut : tuple, optional
        Of pieces of a value: the value, the axis, and whether the pieces still have it.
    chained : bool
        A cell is among what they are made of.
    """

    nodes: dict[int, Node]
    length: int
    inputs: tuple[tuple[int, int] | str, ...] = ()
    cut: tuple[str, int, bool] | None = None
    chained: bool = False

    @property
    def one(self) -> Node:
        return self.nodes[min(self.nodes)]

    @property
    def is_cell(self) -> bool:
        return self.cut is None and self.one.op in CELLS


@dataclass
class Unrolled:
    """The families of a graph; `frames` says of a value which family's, which output, and which frame it is."""

    graph: Graph
    known: Known
    families: list[Family] = field(default_factory=list)
    frames: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    _ids: dict[Any, int] = field(default_factory=dict)
    _same: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.outputs = {port.name for port in self.graph.outputs}
        self.elements = self.known.elements
        for node in self.graph.nodes:
            if node.key in self.known.made and node.key not in self.known.fixed:
                self.enter(node)

    # ------------------------------------------------------------------ families
    def enter(self, node: Node) -> None:
        """Find the family of this operator."""
        taken = [self.frames.get(name) for name in node.inputs]
        if node.op in CELLS:
            if not self.is_step(node) or taken[0] is None:
                return
            states = tuple(STATES)
            taken = [None if k in states else found for k, found in enumerate(taken)]
            shared = ["" if k in states else self.same(name) for k, name in enumerate(node.inputs)]
        else:
            shared = [self.same(name) for name in node.inputs]
        places = {found[2] for found in taken if found is not None}
        if not places:
            self.enter_cut(node)
            return
        lengths = {self.families[found[0]].length for found in taken if found is not None}
        if len(places) > 1 or len(lengths) > 1 or any(isinstance(value, Graph) for value in node.attrs.values()):
            return
        inputs = [s if found is None else found[:2] for s, found in zip(shared, taken, strict=True)]
        attrs = sorted((name, value) for name, value in node.attrs.items() if name != "origin")
        key = (node.op, repr(attrs), len(node.outputs), *inputs)
        names = tuple(name if found is None else found[:2] for name, found in zip(node.inputs, taken, strict=True))
        self.add(key, node, places.pop(), Family({}, lengths.pop(), names))

    def add(self, key: Any, node: Node, place: int, new: Family) -> None:
        """Enter `node` as number `place` of the family of this key."""
        if key not in self._ids:
            self._ids[key] = len(self.families)
            parents = [self.families[found[0]] for found in new.inputs if isinstance(found, tuple)]
            new.chained = node.op in CELLS or any(parent.chained for parent in parents)
            self.families.append(new)
        family = self.families[self._ids[key]]
        if place in family.nodes and node.op in CELLS:
            return  # another chain
        family.nodes.setdefault(place, node)
        outputs = [name for name in node.outputs if name] if new.cut else node.outputs
        for k, name in enumerate(outputs):
            if name:
                at = (0, k) if new.cut and node.op == "Split" else (k, place)
                self.frames[name] = (self._ids[key], *at)

    def same(self, name: str) -> Any:
        """What is equal for equal values: what an array holds, else the name."""
        value = self.known.values.get(name)
        if not isinstance(value, np.ndarray):
            return name
        if name not in self._same:
            data = np.ascontiguousarray(value).data
            self._same[name] = (value.dtype.str, value.shape, hashlib.sha256(data).digest())
        return self._same[name]

    def is_step(self, node: Node) -> bool:
        """Whether this recurrent operator is one step of one direction."""
        x = self.known.values[node.inputs[0]]
        return x.shape[0] == 1 and node.attrs["direction"] == "forward" and not (node.inputs[4:5] or ("",))[0]

    def enter_cut(self, node: Node) -> None:
        """Is this one piece of a value, or all of them, they are frames."""
        if node.op not in ("Gather", "Slice", "Split") or node.inputs[0] in self.known.fixed:
            return
        x, *others = (self.known.values[name] if name else None for name in node.inputs)
        if not isinstance(x, View) or any(isinstance(value, View) for value in others):
            return
        known = [value for value in others if not isinstance(value, View)]
        if node.op == "Split":
            axis = node.attrs["axis"] % x.ndim
            if len(node.outputs) == x.shape[axis] > 1:
                cut = (node.inputs[0], axis, True)
                self.add(("cut", *cut), node, 0, Family({}, x.shape[axis], (), cut))
            return
        if node.op == "Gather":
            index = known[0]
            assert index is not None
            axis = node.attrs["axis"] % x.ndim
            if index.size != 1 or index.ndim > 1:
                return
            place, kept = int(index.reshape(-1)[0]) % x.shape[axis], index.ndim == 1
        else:
            parts = [(axis, Slice._range(part, x.shape[axis])) for axis, part in Slice._slices(x.ndim, known)]
            cuts = [(axis, taken) for axis, taken in parts if taken != range(x.shape[axis])]
            if len(cuts) != 1 or len(cuts[0][1]) != 1:
                return
            (axis, (place,)), kept = cuts[0], True
        if x.shape[axis] > 1:
            cut = (node.inputs[0], axis, kept)
            self.add(("cut", *cut), node, place, Family({}, x.shape[axis], (), cut))

    # ------------------------------------------------------------------ chains
    def order(self, family: Family) -> list[int]:
        """The frames of a cell in the order in which it takes them; [] where its steps are no chain."""
        places = sorted(family.nodes)
        for order in (places, places[::-1]):
            pairs = list(itertools.pairwise(order))
            if pairs and all(self.follows(family.nodes[a], family.nodes[b]) for a, b in pairs):
                return order
        return []

    def follows(self, first: Node, second: Node) -> bool:
        """Whether the second step begins where the first ends, and nothing else sees a c on its way."""
        for k, out in STATES.items():
            if out < len(first.outputs):
                ends = {first.outputs[out], first.outputs[0] if k == 5 else ""} - {""}
                if len(second.inputs) <= k or self.elements.link(second.inputs[k]) not in ends:
                    return False
        return len(first.outputs) < 3 or self.only_for(first.outputs[2], second)

    def only_for(self, name: str, step: Node) -> bool:
        """Whether the elements of this value go nowhere but into the c of `step`."""
        wanted, queue, seen = self.elements.of(name), [name], {name}
        while queue:
            name = queue.pop()
            if not np.isin(self.elements.of(name), wanted).any():
                continue
            if name in self.outputs:
                return False
            for taker in self.known.takers.get(name, []):
                if taker is step and step.inputs[6] == name and name not in step.inputs[:6]:
                    continue
                if taker.op == "Shape":
                    continue
                if not OPS[taker.op].moves:
                    return False
                queue += [out for out in taker.outputs if out and out not in seen]
                seen.update(taker.outputs)
        return True
