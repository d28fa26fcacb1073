"""What an exporter unrolled is rolled up: T steps of one cell over the frames of one value become one operator over it.

An exporter that cannot say a loop writes its body once per frame. Steps of a cell that hand their state from one to the
next over the frames of a value become a recurrent operator over all of them. What takes the frames one by one behind it
is lifted in the same way (see `lifting`), and what joins them is a transpose.

All of it is proven on the graph (see `frames`): the same operator, the same attributes and constants, frame k in place
k, and of states every element where it was. A first step that the exporter has computed, as far as zeros allow, is put
back before (see `peeling`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..graph import Graph, Node
from ..ops import OPS
from .frames import STATES, Family, Unrolled, unrolled
from .fusing import in_order
from .lifting import Frames, lifted
from .peeling import with_first_steps

__all__ = ["rolled"]


def rolled(graph: Graph, real: np.dtype[Any]) -> Graph:
    """The graph with one recurrent operator in place of every chain of one-step cells over the frames of a value.

    Parameters
    ----------
    graph : Graph
    real : numpy.dtype

    Returns
    -------
    Graph
        `graph` itself where there is no such chain.
    """
    found = unrolled(graph, real)
    if found is None:
        return graph
    while (complete := with_first_steps(found)) is not None and (again := unrolled(complete, real)) is not None:
        found = again
    return Roller(found).rolled()


class Roller:
    """Builds the new graph.

    Attributes
    ----------
    whole : dict
        Per family, for each of its outputs the value that holds all frames along its first axis; "" where none does.
    ends : dict
        Per family of a cell: its states after the last step, and which frame that takes.
    """

    def __init__(self, found: Unrolled) -> None:
        self.found, self.known, self.graph = found, found.known, found.graph
        self.whole: dict[int, tuple[str, ...]] = {}
        self.ends: dict[int, tuple[tuple[str, ...], int]] = {}
        self.new = found.graph.blank()

    def rolled(self) -> Graph:
        for k, family in enumerate(self.found.families):
            self.make(k, family)
        if not self.ends:
            return self.graph
        for node in self.graph.nodes:
            if not any(map(self.is_whole, node.outputs)):
                self.keep(node)
        for port in self.graph.outputs:
            if self.is_whole(port.name):
                self.one(port.name, port.name)
        self.new.nodes = in_order(self.new)
        used = {name for node in self.new.nodes for name in node.inputs} | {port.name for port in self.new.outputs}
        self.new.constants = {name: array for name, array in self.new.constants.items() if name in used}
        return self.new

    # ------------------------------------------------------------------ all frames at once
    def make(self, number: int, family: Family) -> None:
        """Add what the family is over all frames, where it can be said."""
        if family.cut:
            x, axis, kept = family.cut
            if axis:
                others = (k for k in range(self.known.values[x].ndim) if k != axis)
                (x,) = self.new.add("Transpose", [x], perm=(axis, *others))
            self.whole[number] = self.new.add("Unsqueeze", [x, self.numbers(axis + 1)]) if kept else (x,)
            return
        if family.chained and len(family.nodes) < family.length:
            return  # made only for some frames
        given: list[str | Frames] = []
        for found in family.inputs:
            whole = self.whole.get(found[0], ("", "", ""))[found[1]] if isinstance(found, tuple) else found
            if isinstance(found, tuple) and not whole:
                return
            given.append(Frames(whole) if isinstance(found, tuple) else whole)
        if family.is_cell:
            self.make_cell(number, family, given[0])
        else:
            made = lifted(self.new, family.one, self.known.values, given)
            if made is not None:
                self.whole[number] = made

    def make_cell(self, number: int, family: Family, x: str | Frames) -> None:
        order = self.found.order(family)
        if not order or not isinstance(x, Frames):
            return
        first, node = family.nodes[order[0]], family.one
        inputs = [*self.new.add("Squeeze", [x.name, self.numbers(1)]), *node.inputs[1:]]
        for k in STATES:
            if k < len(inputs):
                inputs[k] = (*first.inputs, *[""] * 9)[k]
        attrs = {key: value for key, value in node.attrs.items() if key != "recognised"}
        attrs["origin"] = (*attrs.get("origin", ()), f"rolled up from {family.length} steps")
        attrs["direction"] = "forward" if order[0] == 0 else "reverse"
        y, *ends = self.new.add(node.op, inputs, len(node.outputs), name=first.name or first.key, **attrs)
        self.whole[number] = (*self.new.add("Unsqueeze", [y, self.numbers(1)]), y, "")
        self.ends[number] = (tuple(ends), order[-1])

    # ------------------------------------------------------------------ one frame at a time
    def is_whole(self, name: str) -> bool:
        """Whether this value is a frame of one behind a cell that is made over all frames."""
        at = self.found.frames.get(name)
        return at is not None and self.found.families[at[0]].chained and at[0] in self.whole

    def keep(self, node: Node) -> None:
        """Add an operator that stays, with frames from where they are now."""
        if not self.joins(node) and not self.measures(node):
            inputs = tuple(self.one(name) if self.is_whole(name) else name for name in node.inputs)
            self.new.nodes.append(Node(node.op, inputs, node.outputs, node.attrs, node.name))

    def measures(self, node: Node) -> bool:
        """Add the shape of one frame as what it is of all: no frame by itself is asked for."""
        number, k, _ = self.found.frames.get(node.inputs[0], (-1, 0, 0)) if node.op == "Shape" else (-1, 0, 0)
        if number not in self.whole:
            return False
        bounds = {end: None if node.attrs.get(end) is None else node.attrs[end] for end in ("start", "end")}
        bounds["start"] = bounds["start"] or 0
        attrs = {end: at + 1 if at is not None and at >= 0 else at for end, at in bounds.items()}
        self.new.add("Shape", [self.whole[number][k]], node.outputs, name=node.name, **attrs)
        return True

    def joins(self, node: Node) -> bool:
        """Add a Concat of all frames in order as what it is."""
        found = self.found.frames.get(node.inputs[0]) if node.op == "Concat" else None
        if found is None or not self.is_whole(node.inputs[0]):
            return False
        number, k, _ = found
        rank, shape = self.known.values[node.inputs[0]].ndim, self.known.shape(node.inputs[0])
        axis = node.attrs["axis"] % rank
        wanted = [(number, k, place) for place in range(self.found.families[number].length)]
        if [self.found.frames.get(name) for name in node.inputs] != wanted or shape[axis] != 1:
            return False
        (frames,) = self.new.add("Squeeze", [self.whole[number][k], self.numbers(axis + 1)])
        perm = (*range(1, axis + 1), 0, *range(axis + 1, rank))
        self.new.add("Transpose", [frames], node.outputs, name=node.name, perm=perm)
        return True

    def one(self, name: str, target: str | None = None) -> str:
        """One frame of a whole by itself; what only moves the last state of a cell stays what it was."""
        number, k, place = self.found.frames[name]
        node, outs = self.known.made[name], [target] if target else 1
        ends, last = self.ends.get(number, ((), -1))
        if place == last:
            end = ends[max(k - 1, 0)]
            if k == 0:
                return self.new.add("Unsqueeze", [end, self.numbers(0)], outs)[0]
            return self.new.add("Transpose", [end], outs, perm=(0, 1, 2))[0] if target else end
        if not ends and OPS[node.op].moves and sum(map(self.is_whole, node.inputs)) == 1:
            inputs = tuple(self.one(taken) if self.is_whole(taken) else taken for taken in node.inputs)
            made = [self.new.fresh() for _ in node.outputs]
            made[k] = target or made[k]
            self.new.nodes.append(Node(node.op, inputs, tuple(made), node.attrs, node.name))
            return made[k]
        index = place if place + 1 < self.found.families[number].length else -1
        return self.new.add("Gather", [self.whole[number][k], self.new.constant(np.array(index))], outs, axis=0)[0]

    def numbers(self, *values: int) -> str:
        return self.new.constant(np.array(values, dtype=np.int64))
