"""A Loop that takes one frame after the other is a Scan.

Exporters of scripted models write a recurrence as a Loop that counts, takes frame i, and appends to what it gives. It
is a Scan where three things hold, and only there: it runs as often as there are frames, iteration k reads frame k (or
the k-th from the end) and nothing else of them, and what it collects is put down in the same order. The counters,
conditions and indices that decide this follow from shapes alone. They are computed for two lengths that are no other
size in the graph: what they give for both is what they give for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import GatestepError
from ..graph import Graph, Node, Port, needed
from ..lowering import NeedsValue
from ..ops.control import TooLong, is_known
from ..ops.loop import Clock
from ..values import ValueList, View
from ..walk import port_shapes, unused, walk

__all__ = ["scanned"]

#: What says where in an array an iteration reads, by the operator: its inputs, and the axis if it is an attribute.
READS = {"Gather": (1,), "Slice": (1, 2), "SequenceAt": (1,)}


def scanned(graph: Graph, real: np.dtype[Any]) -> Graph:
    """The graph with a Scan for every Loop over frames."""
    if not any(node.op == "Loop" for node in graph.nodes):
        return graph
    walks = [ctx for ctx in (_values(graph, real, shapes) for shapes in _lengths(graph)) if ctx is not None]
    if not walks:
        return graph
    for node in [node for node in graph.nodes if node.op == "Loop"]:
        found = _Frames(graph, node, walks).scan()
        if found is not None:
            graph = found
    return graph


def _lengths(graph: Graph) -> list[dict[str, tuple[int, ...]]]:
    """Shapes of all inputs, in two ways that have no free size in common."""
    try:
        first = port_shapes(graph, {})
        primes = iter(unused(graph)[::-1])
        other: dict[int, int] = {}
        fixed = {}
        for port in graph.inputs:
            for axis, dim in enumerate(port.shape or ()):
                if not isinstance(dim, int):
                    size = first[port.name][axis]
                    fixed[port.name, axis] = other[size] if size in other else other.setdefault(size, next(primes))
        return [first, port_shapes(graph, fixed)] if fixed else [first]
    except (GatestepError, StopIteration):
        return []


def _values(graph: Graph, real: np.dtype[Any], shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, Any] | None:
    """What is known of the inputs of every Loop."""
    wanted = [name for node in graph.nodes if node.op == "Loop" for name in node.inputs if name]
    try:
        return walk(graph, real, shapes, wanted).values
    except (GatestepError, NeedsValue):
        return None


@dataclass
class _Read:
    """Frames of the captured value `source`, taken along `axis` by `node`, backwards or not."""

    node: Node
    source: str
    axis: int
    reverse: bool
    keeps: bool


@dataclass
class _Frames:
    """One Loop on its way into a Scan; `walks` are the known values at each length."""

    graph: Graph
    node: Node
    walks: Sequence[Mapping[str, Any]]
    reads: list[_Read] = field(default_factory=list)

    def scan(self) -> Graph | None:
        """The graph with a Scan in place of the Loop, if it is one."""
        node, body = self.node, self.node.attrs["body"]
        count = node.attrs["states"]
        self.outer = dict(zip((port.name for port in body.inputs[2:]), node.inputs[2:], strict=True))
        self.made = {name: inner for inner in body.nodes for name in inner.outputs if name}
        captured = {port.name for port in body.inputs[2 + count :]}
        for inner in body.nodes:
            if inner.op in READS and inner.inputs[0] in captured:
                self.read(inner)
        if not self.reads or not self.steps():
            return None
        collected = self.collected()
        if collected is None:
            return None
        return self.rewritten(collected)

    # ------------------------------------------------------------------ what is read
    def clock(self, values: Mapping[str, Any]) -> Clock:
        trip, condition, *rest = [values[name] if name else None for name in self.node.inputs]
        del trip, condition
        return Clock(
            self.node.attrs["body"], self.node.attrs["states"], [np.zeros((), np.int64), np.array(True), *rest]
        )

    def series(self, names: Sequence[str]) -> list[list[list[np.ndarray]]] | None:
        """What `names` are in each iteration, at each length."""
        found = []
        for values in self.walks:
            clock, limit = self.clock(values), self.limit(values)
            if limit is False or not clock.knows(names) or not clock.knows_condition:
                return None
            try:
                found.append(clock.series(limit, names))
            except (TooLong, GatestepError, ValueError, IndexError, TypeError, OverflowError, ArithmeticError):
                return None
        return found

    def limit(self, values: Mapping[str, Any]) -> Any:
        """The trip count: a number, None for any number; False if it is not known, or the loop may not begin."""
        trip, condition = self.node.inputs[:2]
        if condition and not (is_known(values[condition]) and values[condition].size == 1 and bool(values[condition])):
            return False
        if not trip:
            return None
        return int(values[trip].reshape(-1)[0]) if is_known(values[trip]) and values[trip].size == 1 else False

    def read(self, inner: Node) -> None:
        """Note where a node reads, if it does so frame by frame."""
        source = inner.inputs[0]
        values = [walked[self.outer[source]] for walked in self.walks]
        if not all(isinstance(value, View | ValueList) for value in values):
            return
        axis = self.axis(inner, values[0])
        series = self.series([inner.inputs[k] for k in READS[inner.op]])
        if series is None or axis is None:
            return
        directions = set()
        for value, steps in zip(values, series, strict=True):
            size = len(value.items) if isinstance(value, ValueList) else value.shape[axis]
            directions.add(direction(inner.op, steps, size))
        if len(directions) == 1 and None not in directions:
            self.reads.append(_Read(inner, source, axis, directions == {"backwards"}, inner.op == "Slice"))

    def axis(self, inner: Node, value: Any) -> int | None:
        """The axis along which a node reads."""
        if isinstance(value, ValueList):
            return 0 if inner.op == "SequenceAt" else None
        if inner.op == "Gather":
            return (
                int(inner.attrs["axis"]) % int(value.ndim) if -value.ndim <= inner.attrs["axis"] < value.ndim else None
            )
        constants = self.node.attrs["body"].constants
        axes, steps = ([*inner.inputs, "", ""][k] for k in (3, 4))
        given = constants.get(axes, np.zeros(1, np.int64)) if axes in constants or not axes else None
        stride = constants.get(steps, np.ones(1, np.int64)) if steps in constants or not steps else None
        if given is None or stride is None or given.size != 1 or (stride != 1).any():
            return None
        (axis,) = given.reshape(-1).tolist()
        return int(axis) % int(value.ndim)

    def steps(self) -> bool:
        """Whether there are as many iterations as frames in everything that is read."""
        series = self.series([])
        if series is None:
            return False
        for values, steps in zip(self.walks, series, strict=True):
            for read in self.reads:
                value = values[self.outer[read.source]]
                size = len(value.items) if isinstance(value, ValueList) else value.shape[read.axis]
                if size != len(steps):
                    return False
        return True

    # ------------------------------------------------------------------ what is collected
    def collected(self) -> dict[int, tuple[str, Node | None]] | None:
        """For states that only collect: the value that each iteration adds, and the node behind that joins them.

        None if one is used for anything else.
        """
        node, body = self.node, self.node.attrs["body"]
        found: dict[int, tuple[str, Node | None]] = {}
        for k in range(node.attrs["states"]):
            name, out = body.inputs[2 + k].name, body.outputs[1 + k].name
            maker = self.made.get(out)
            if maker is None or name not in maker.inputs[:1]:
                continue
            uses = [inner for inner in body.nodes if name in inner.inputs]
            again = [inner for inner in body.nodes if out in inner.inputs]
            if maker.op == "SequenceInsert" and len(list(filter(None, maker.inputs))) == 2:
                begins = [values[node.inputs[2 + k]] for values in self.walks]
                result = node.outputs[k] if k < len(node.outputs) else ""
                joins = [other for other in self.graph.nodes if result and result in other.inputs]
                empty = all(isinstance(value, ValueList) and not value.items for value in begins)
                joined = all(j.op == "ConcatFromSequence" and j.attrs["new_axis"] for j in joins) and len(joins) < 2
                if len(uses) > 1 or again or not empty or not joined:
                    return None
                found[k] = (maker.inputs[1], joins[0] if joins else None)
            elif maker.op in ("ScatterND", "ScatterElements") and len(uses) == 1 and not again:
                value = self.put(maker, k)
                if value is not None:
                    found[k] = (value, None)
        return found

    def put(self, maker: Node, k: int) -> str | None:
        """What `ScatterND(state, [[i]], [value])` puts at frame i of a state that is as long as there are frames."""
        _, where, update = maker.inputs
        wrapped = self.made.get(update)
        constants = self.node.attrs["body"].constants
        if (
            maker.op != "ScatterND"
            or maker.attrs["reduction"] != "none"
            or wrapped is None
            or wrapped.op != "Unsqueeze"
        ):
            return None
        axes = constants.get(wrapped.inputs[1])
        series = self.series([where])
        if axes is None or axes.reshape(-1).tolist() != [0] or series is None:
            return None
        for values, steps in zip(self.walks, series, strict=True):
            begin = values[self.node.inputs[2 + k]]
            places = [place.reshape(-1).tolist() if place.shape == (1, 1) else None for (place,) in steps]
            if (
                isinstance(begin, ValueList)
                or begin.shape[0] != len(steps)
                or places != [[t] for t in range(len(steps))]
            ):
                return None
        return str(wrapped.inputs[0])

    # ------------------------------------------------------------------ the Scan
    def rewritten(self, collected: Mapping[int, tuple[str, Node | None]]) -> Graph | None:
        """The graph with the Scan, if nothing else of the Loop depends on the counter."""
        node, body, graph = self.node, self.node.attrs["body"], self.graph
        count = node.attrs["states"]
        outputs = [*node.outputs, *[""] * (len(body.outputs) - 1 - len(node.outputs))]
        used = {name for other in graph.nodes for name in other.inputs if name} | {port.name for port in graph.outputs}
        ports, nodes, elements = [], [], []
        taken = {read.node.outputs[0] for read in self.reads}
        for read in self.reads:
            kept = read.node.outputs[0]
            name = body.fresh("frame") if read.keeps else kept
            ports.append(Port(name, None, np.dtype(np.float32)))
            elements.append(read)
            if read.keeps:
                nodes.append(
                    Node("Unsqueeze", (name, body.constant(np.array([read.axis]))), (kept,), {}, read.node.name)
                )
        nodes += [inner for inner in body.nodes if taken.isdisjoint(inner.outputs)]
        ys = {k: name for k, (name, join) in collected.items() if join is not None or outputs[k] in used}
        ys |= {count + k: port.name for k, port in enumerate(body.outputs[1 + count :]) if outputs[count + k] in used}
        states = [k for k in range(count) if k not in collected]
        # What the results that are asked for depend on; counters are not among it.
        live = {k for k in states if outputs[k] in used}
        probe = body.with_(nodes=nodes)
        while True:
            wanted = [*(body.outputs[1 + k].name for k in sorted(live)), *ys.values()]
            read_names = set(wanted).union(*(inner.inputs for inner in needed(probe, wanted, {})))
            more = {k for k in states if body.inputs[2 + k].name in read_names} - live
            if not more:
                break
            live |= more
        kept_states = sorted(live)
        gone = {port.name for port in body.inputs[:2]}
        gone |= {body.inputs[2 + k].name for k in range(count) if k not in live}
        sources = {read.source for read in self.reads}
        if read_names & (gone | sources):
            return None
        if any(is_counter(values[node.inputs[2 + k]]) for k in kept_states for values in self.walks):
            return None
        names = [port.name for port in body.inputs[2 + count :]]
        captured = [(port, node.inputs[2 + count + k]) for k, port in enumerate(body.inputs[2 + count :])
                    if names[k] in read_names]  # fmt: skip
        inner = body.with_(
            inputs=[*(body.inputs[2 + k] for k in kept_states), *ports, *(port for port, _ in captured)],
            outputs=[
                *(body.outputs[1 + k] for k in kept_states),
                *(Port(name, None, np.dtype(np.float32)) for name in ys.values()),
            ],
            nodes=needed(probe, wanted, {}),
        )
        sequences = {read.source for read in self.reads if read.node.op == "SequenceAt"}
        xs, in_axes = [], []
        for read in elements:
            frames = self.frames_of(read) if read.source in sequences else (self.outer[read.source], read.axis)
            if frames is None:
                return None
            xs.append(frames[0])
            in_axes.append(frames[1])
        joins = {id(join): k for k, (_, join) in collected.items() if join is not None}
        out_axes, out_names = [], []
        for k in ys:
            join = collected[k][1] if k in collected else None
            out_axes.append(0 if join is None else join.attrs["axis"])
            out_names.append(outputs[k] if join is None else join.outputs[0])
        scan = Node(
            "Scan",
            (*(node.inputs[2 + k] for k in kept_states), *xs, *(name for _, name in captured)),
            (*(outputs[k] for k in kept_states), *out_names),
            {
                "body": inner,
                "states": len(kept_states),
                "xs": len(xs),
                "in_axes": tuple(in_axes),
                "out_axes": tuple(out_axes),
                "in_reverse": tuple(read.reverse for read in elements),
                "out_reverse": (False,) * len(ys),
            },
            node.name or node.key,
        )
        left = [scan if other is node else other for other in graph.nodes if id(other) not in joins]
        return graph.with_(nodes=pruned_nodes(graph, left))

    def frames_of(self, read: _Read) -> tuple[str, int] | None:
        """What a sequence was split from, element by element, and the axis."""
        makers = {name: other for other in self.graph.nodes for name in other.outputs if name}
        split = makers.get(self.outer[read.source])
        whole = split is not None and split.op == "SplitToSequence" and not split.attrs["keepdims"]
        if split is None or not whole or (len(split.inputs) > 1 and split.inputs[1]):
            return None
        return split.inputs[0], split.attrs["axis"]


def pruned_nodes(graph: Graph, nodes: Iterable[Node]) -> list[Node]:
    """Those of `nodes` that the outputs depend on."""
    return needed(graph.with_(nodes=list(nodes)), [port.name for port in graph.outputs], {})


def is_counter(value: Any) -> bool:
    """Whether a state is no state of a network."""
    return isinstance(value, ValueList) or value.dtype.kind not in "f"


def direction(op: str, steps: Sequence[Sequence[np.ndarray]], size: int) -> str | None:
    """How the places that `op` reads in each iteration go over `size` frames: forwards, backwards, or otherwise."""
    begins = [int(places[0].reshape(-1)[0]) if places[0].size == 1 else size + 1 for places in steps]
    if op in ("Gather", "SequenceAt"):
        if any(places[0].ndim for places in steps):  # the axis would stay
            return None
        begins = [at + size if at < 0 else at for at in begins]
    else:
        ends = [int(places[1].reshape(-1)[0]) if places[1].size == 1 else 0 for places in steps]
        if any(
            end != begin + 1 and not (end > size and begin == size - 1) for begin, end in zip(begins, ends, strict=True)
        ):
            return None
    if begins == list(range(size)):
        return "forwards"
    return "backwards" if begins == list(range(size - 1, -1, -1)) else None
