"""A graph with recurrent operators in place of the cells that were recognised in it."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..graph import Graph, Node
from ..ops.recurrent import GATES
from .affine import Affine, Known, lead

__all__ = ["Cell", "rewritten"]


@dataclass(frozen=True)
class Cell:
    """One step of a cell, as the values of the graph that it explains.

    Attributes
    ----------
    op : str
        ``LSTM``, ``GRU`` or ``RNN``.
    gates : tuple of Affine
        What goes into each gate, in our order.
    state : str
        h before the step.
    result : str
        h after the step.
    inner : Affine, optional
        The part of a GRU's last gate that is multiplied by the reset gate; without, h is multiplied before the product.
    carry, carried : str
        An LSTM's c, before and after.
    projection : numpy.ndarray, optional
        ``(P, H)``.
    activations : tuple of (str, float, float)
        As the recurrent operator has them.
    clip : float, optional
    coupled : str
    peepholes : numpy.ndarray, optional
        ``(3, H)``, in the order i o f.
    names : tuple of str
        Values inside the cell, to call it by what their nodes have in common.
    """

    op: str
    gates: tuple[Affine, ...]
    state: str
    result: str
    inner: Affine | None = None
    carry: str = ""
    carried: str = ""
    projection: np.ndarray | None = None
    activations: tuple[tuple[str, float, float], ...] = ()
    clip: float | None = None
    coupled: str = ""
    peepholes: np.ndarray | None = None
    names: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """The values that make up x."""
        found = dict.fromkeys(name for gate in self.gates for name in gate.terms)
        return tuple(name for name in found if name != self.state)


def rewritten(graph: Graph, known: Known, cells: Iterable[Cell]) -> Graph:
    """The graph with these cells as recurrent operators, without what nothing asks for any more."""
    new = known.more
    interned: dict[Any, str] = {}

    def constant(array: np.ndarray) -> str:
        """One constant for equal arrays: steps share their weights."""
        key = (array.shape, array.dtype.str, hashlib.sha256(array.data).digest())
        if key not in interned:
            interned[key] = new.constant(array)
        return interned[key]

    for cell in cells:
        append(new, known, cell, constant)
    replaced = {name for node in new.nodes for name in node.outputs}
    for node in graph.nodes:
        if replaced.isdisjoint(node.outputs):
            new.nodes.append(node)
    new.nodes = in_order(new)
    used = {name for node in new.nodes for name in node.inputs} | {port.name for port in new.outputs}
    new.constants = {name: array for name, array in new.constants.items() if name in used}
    return new


def append(new: Graph, known: Known, cell: Cell, constant: Callable[[np.ndarray], str]) -> None:
    """Add the nodes of one cell."""
    rows = lead(known.values[cell.result])
    kept = next((k for k, size in enumerate(rows) if size != 1), 0)
    ones = np.array([k for k in range(len(rows)) if k != kept], dtype=np.int64)
    front = constant(np.array([0] if rows else [0, 1], dtype=np.int64))

    def three(name: str) -> str:
        """``(1, rows, width)``: the operator's axes."""
        if ones.size:
            (name,) = new.add("Squeeze", [name, constant(ones)])
        return new.add("Unsqueeze", [name, front])[0]

    def back(name: str, target: str) -> None:
        """The value `target`, as the rest of the graph has it."""
        if ones.size:
            (name,) = new.add("Squeeze", [name, front])
            new.add("Unsqueeze", [name, constant(ones)], [target])
        else:
            new.add("Squeeze", [name, front], [target])

    def stacked(gate: Affine, names: Iterable[str]) -> np.ndarray:
        sizes = {name: known.shape(name)[-1] for name in names}
        blocks = [gate.terms[k].T if k in gate.terms else np.zeros((gate.width, n)) for k, n in sizes.items()]
        return np.concatenate(blocks, axis=1)

    real = known.values[cell.result].dtype
    hidden = cell.gates[0].width
    w = np.concatenate([stacked(gate, cell.inputs) for gate in cell.gates])
    recurrent = cell.gates if cell.inner is None else (*cell.gates[:-1], cell.inner)
    r = np.concatenate([stacked(gate, [cell.state]) for gate in recurrent])
    second = np.zeros((len(cell.gates), hidden))
    if cell.inner is not None:
        second[-1] = cell.inner.bias
    b = np.concatenate([gate.bias for gate in cell.gates] + [second.reshape(-1)])
    x = cell.inputs[0]
    if len(cell.inputs) > 1:
        (x,) = new.add("Concat", cell.inputs, axis=len(rows))
    weights = [constant(np.ascontiguousarray(array[None], dtype=real)) for array in (w, r, b)]
    inputs = [three(x), *weights, "", three(cell.state)]
    attrs: dict[str, Any] = {"linear_before_reset": cell.inner is not None} if cell.op == "GRU" else {}
    if cell.op == "LSTM":
        attrs["coupled"] = cell.coupled
        inputs.append(three(cell.carry))
        p = "" if cell.peepholes is None else constant(np.ascontiguousarray(cell.peepholes.reshape(1, -1), dtype=real))
        inputs += [p] if p or cell.projection is not None else []
        if cell.projection is not None:
            inputs.append(constant(np.ascontiguousarray(cell.projection[None], dtype=real)))
    outputs = new.add(
        cell.op,
        inputs,
        3 if cell.op == "LSTM" else 2,
        name=called(known, cell),
        hidden_size=hidden,
        direction="forward",
        gates=GATES[cell.op],
        activations=cell.activations,
        clip=cell.clip,
        recognised=True,
        origin=(f"recognised from {explained(known, cell)} operators",),
        **attrs,
    )
    back(outputs[1], cell.result)
    if cell.carried:
        back(outputs[2], cell.carried)


def explained(known: Known, cell: Cell) -> int:
    """How many operators of the file the cell takes the place of."""
    seen: set[str] = set()
    queue = [cell.result, cell.carried]
    ends = {
        *cell.inputs,
        cell.state,
        cell.carry,
    }
    while queue:
        name = queue.pop()
        node = known.made.get(name)
        if node is not None and node.key not in seen and name not in ends and name not in known.fixed:
            seen.add(node.key)
            queue += node.inputs
    return len(seen)


def called(known: Known, cell: Cell) -> str:
    """What the names of the cell's nodes have in common: ``model/lstm_6``; else that of the node that makes h."""
    names = [known.made[name].name or name for name in cell.names]
    parts = zip(*(name.split("/")[:-1] for name in names), strict=False)
    common = "/".join(same[0] for same in itertools.takewhile(lambda part: len(set(part)) == 1, parts))
    return common or names[-1]


def in_order(graph: Graph) -> list[Node]:
    """The nodes that the outputs depend on, each after what it takes."""
    made = {name: node for node in graph.nodes for name in node.outputs if name}
    order: list[Node] = []
    done: set[str] = set()
    for port in graph.outputs:
        stack = [(made[port.name], False)] if port.name in made else []
        while stack:
            node, ready = stack.pop()
            if node.key in done:
                continue
            if ready:
                done.add(node.key)
                order.append(node)
            else:
                stack.append((node, True))
                stack.extend((made[k], False) for k in reversed(node.inputs) if k in made and made[k].key not in done)
    return order
