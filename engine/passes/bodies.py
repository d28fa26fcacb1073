"""Bodies made as small as they can be before anything is looked for in them.

Branches whose condition is known take the place of their If. What a body is handed from outside, if it is known, is a
constant of the body; what a loop hands on as it is from iteration to iteration is handed in from outside; results,
states and inputs that nothing uses are gone. What is left of a loop is what it computes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..errors import GatestepError
from ..graph import Graph, Node, needed
from ..ops import OPS

__all__ = ["simplified"]

#: Elements of what is computed here: conditions and counters, not weights.
MOST_ELEMENTS = 4096


def simplified(graph: Graph, *, body: bool = False) -> Graph:
    """The same computation with the least in its bodies; a graph without control flow is returned as it is.

    A `body` may have outputs of other names than it came with; a model has not.
    """
    if not any(node.bodies for node in graph.nodes):
        return graph
    return pruned(_Forward(graph, top=not body).run())


class _Forward:
    """One walk from the front: known branches in place, known values into bodies, bodies within."""

    def __init__(self, graph: Graph, top: bool) -> None:
        self.graph = graph.with_(nodes=[], constants=dict(graph.constants), outputs=list(graph.outputs))
        self.todo = deque(graph.nodes)
        self.ports = {port.name: port for port in graph.outputs}
        self.top = top
        self.aliases: dict[str, str] = {}
        self.made: dict[str, Node] = {}
        self.folded: dict[str, np.ndarray | None] = {}

    def run(self) -> Graph:
        while self.todo:
            node = self.todo.popleft()
            node = node.with_(inputs=tuple(self.aliases.get(name, name) for name in node.inputs))
            condition = self.known(node.inputs[0]) if node.op == "If" else None
            if condition is not None and condition.size == 1:
                self.branch(node, node.attrs["then" if condition.reshape(-1)[0] else "orelse"])
                continue
            if node.bodies:
                node = self.closed(self.steady(node) if node.op in ("Loop", "Scan") else node)
            self.graph.nodes.append(node)
            self.made.update((name, node) for name in node.outputs if name)
        self.graph.outputs = [
            port if self.top else port._replace(name=self.aliases.get(port.name, port.name))
            for port in self.graph.outputs
        ]
        return self.graph

    def known(self, name: str) -> np.ndarray | None:
        """The value of `name` where it follows from constants, and is small."""
        if name in self.graph.constants:
            return self.graph.constants[name]
        if name not in self.folded:
            self.folded[name] = None
            node = self.made.get(name)
            if node is not None and OPS.get(node.op) is not None and OPS[node.op].folds:
                inputs = [self.known(source) if source else None for source in node.inputs]
                sizes = [a.size for a in inputs if a is not None]
                if len(sizes) == sum(map(bool, node.inputs)) and max(sizes, default=0) <= MOST_ELEMENTS:
                    self.folded.update(self.computed(node, inputs))
        return self.folded[name]

    @staticmethod
    def computed(node: Node, inputs: list[Any]) -> dict[str, np.ndarray]:
        while inputs and inputs[-1] is None:
            inputs.pop()
        if node.op in ("ConstantOfShape", "Expand", "Tile", "Range", "OneHot"):  # what makes much of little
            return {}
        try:
            with np.errstate(all="ignore"):
                results = OPS[node.op].evaluate(node, *inputs)
        except (GatestepError, ValueError, IndexError, TypeError, OverflowError, ArithmeticError):
            return {}  # the walk says what is wrong with it
        return {name: np.asarray(value) for name, value in zip(node.outputs, results, strict=False) if name}

    def branch(self, node: Node, body: Graph) -> None:
        """Put a body in the place of the node that holds it."""
        names = dict(zip((port.name for port in body.inputs), node.inputs[1:], strict=True))
        made = {name for inner in body.nodes for name in inner.outputs if name}
        aliases = {}
        for port, name in zip(body.outputs, node.outputs, strict=False):
            if not name:
                continue
            if port.name in made and port.name not in names:
                names[port.name] = name
            else:
                aliases[name] = port.name
        self.graph.constants.update(body.constants)
        behind = []
        for name, value in aliases.items():
            behind += self.renamed(name, names.get(value, value))
        inner = (
            node.with_(
                inputs=tuple(names.get(name, name) for name in node.inputs),
                outputs=tuple(names.get(name, name) for name in node.outputs),
            )
            for node in body.nodes
        )
        self.todo.extendleft(reversed([*inner, *behind]))

    def renamed(self, name: str, value: str) -> list[Node]:
        """Let `name` be another name of `value`; a node where it is an output of the model."""
        value = self.aliases.get(value, value)
        if self.top and name in self.ports:
            return [Node("Cast", (value,), (name,), {"to": self.ports[name].dtype}, name)]
        self.aliases[name] = value
        return []

    def closed(self, node: Node) -> Node:
        """`node` with what is known of its captured values as constants of its bodies, and its bodies simplified."""
        first = {"If": 1, "Loop": 2 + node.attrs.get("states", 0)}.get(
            node.op, node.attrs.get("states", 0) + node.attrs.get("xs", 0)
        )
        captured = node.inputs[first:]
        values = [self.known(name) for name in captured]
        attrs = dict(node.attrs)
        for key, body in node.bodies.items():
            ports = body.inputs[len(body.inputs) - len(captured) :]
            constants, names = dict(body.constants), {}
            for port, name, value in zip(ports, captured, values, strict=True):
                if value is not None:
                    shared = name in self.graph.constants
                    names[port.name] = name if shared else port.name
                    constants[names[port.name]] = value
            known = set(names)
            attrs[key] = simplified(
                body.with_(
                    inputs=[port for port in body.inputs if port.name not in known],
                    outputs=[port._replace(name=names.get(port.name, port.name)) for port in body.outputs],
                    nodes=[
                        inner.with_(inputs=tuple(names.get(name, name) for name in inner.inputs))
                        for inner in body.nodes
                    ],
                    constants=constants,
                ),
                body=True,
            )
        left = tuple(name for name, value in zip(captured, values, strict=True) if value is None)
        return node.with_(inputs=node.inputs[:first] + left, attrs=attrs)

    def steady(self, node: Node) -> Node:
        """`node` without the states that every iteration hands on as they are: they are captured."""
        body, count = node.attrs["body"], node.attrs["states"]
        lead = 2 if node.op == "Loop" else 0  # before the states: trip and condition, i and condition
        out = 1 if node.op == "Loop" else 0
        kept = [k for k in range(count) if body.outputs[out + k].name == body.inputs[lead + k].name]
        if not kept:
            return node
        gone_in, gone_out = {lead + k for k in kept}, {out + k for k in kept}
        for k in kept:
            if k < len(node.outputs) and node.outputs[k]:
                self.todo.extendleft(self.renamed(node.outputs[k], node.inputs[lead + k]))
        moved = body.with_(
            inputs=[*drop(body.inputs, gone_in), *(body.inputs[k] for k in sorted(gone_in))],
            outputs=drop(body.outputs, gone_out),
        )
        return node.with_(
            inputs=(*drop(node.inputs, gone_in), *(node.inputs[k] for k in sorted(gone_in))),
            outputs=tuple(drop(node.outputs, set(kept))),
            attrs={**node.attrs, "body": moved, "states": count - len(kept)},
        )


def drop(values: Iterable[Any], places: set[int]) -> list[Any]:
    """`values` without those at `places`."""
    return [value for k, value in enumerate(values) if k not in places]


# ---------------------------------------------------------------------- from the back
def pruned(graph: Graph) -> Graph:
    """Without what nothing uses: nodes, results and states of loops, values that bodies are handed."""
    used = {port.name for port in graph.outputs}
    nodes = []
    for node in reversed(graph.nodes):
        if used.isdisjoint(filter(None, node.outputs)):
            continue
        if node.op in ("Loop", "Scan"):
            node = without_results(node, used)
        if node.bodies:
            node = without_captures(node)
        nodes.append(node)
        used.update(filter(None, node.inputs))
    return graph.with_(nodes=nodes[::-1])


def without_results(node: Node, used: set[str]) -> Node:
    """`node` with the results that are used, and the states that these depend on."""
    body, count = node.attrs["body"], node.attrs["states"]
    out = 1 if node.op == "Loop" else 0
    lead = 2 if node.op == "Loop" else 0
    names = [port.name for port in body.outputs]
    asked = [k < len(node.outputs) and node.outputs[k] in used for k in range(len(names) - out)]
    live = {k for k in range(len(asked)) if asked[k]}
    while True:
        wanted = [*names[:out], *(names[out + k] for k in sorted(live))]
        read = reads(body, wanted)
        more = {k for k in range(count) if body.inputs[lead + k].name in read} - live
        if not more:
            break
        live |= more
    states = [k for k in range(count) if k in live]
    gone = set(range(len(asked))) - live
    attrs = {**node.attrs, "states": len(states)}
    if node.op == "Scan":
        for name in ("out_axes", "out_reverse"):
            attrs[name] = tuple(drop(node.attrs[name], {k - count for k in gone if k >= count}))
    attrs["body"] = body.with_(
        inputs=drop(body.inputs, {lead + k for k in gone if k < count}),
        outputs=drop(body.outputs, {out + k for k in gone}),
        nodes=needed(body, wanted, {}),
    )
    outputs = [node.outputs[k] if asked[k] else "" for k in range(len(asked))]
    return node.with_(
        inputs=tuple(drop(node.inputs, {lead + k for k in gone if k < count})),
        outputs=tuple(drop(outputs, gone)),
        attrs=attrs,
    )


def reads(body: Graph, wanted: Iterable[str]) -> set[str]:
    """All values that `wanted` depend on, themselves included."""
    wanted = list(wanted)
    return set(wanted).union(*(node.inputs for node in needed(body, wanted, {})))


def without_captures(node: Node) -> Node:
    """`node` without the captured values that no body reads."""
    states = node.attrs.get("states", 0)
    first = {"If": 1, "Loop": 2 + states}.get(node.op, states + node.attrs.get("xs", 0))
    count = len(node.inputs) - first
    unread = set(range(count))
    for body in node.bodies.values():
        read = reads(body, [port.name for port in body.outputs])
        ports = body.inputs[len(body.inputs) - count :] if count else []
        unread -= {k for k, port in enumerate(ports) if port.name in read}
    if not unread:
        return node
    attrs = dict(node.attrs)
    for key, body in node.bodies.items():
        offset = len(body.inputs) - count
        attrs[key] = body.with_(inputs=drop(body.inputs, {offset + k for k in unread}))
    return node.with_(inputs=tuple(drop(node.inputs, {first + k for k in unread})), attrs=attrs)
