"""Which inputs and outputs of a model carry its state, found by following every element.

A file that carries state by hand hands each recurrent operator its initial state through slices, squeezes and
transposes of some input, and builds an output from the final states in the same way. Number every element of every
state of every recurrent operator; follow the numbers through the operators that only move elements; then an output is
the successor of an input exactly where the same numbers stand in the same places. That is a proof, not a guess: it
holds for separate h and c, stacked, interleaved or packed ones alike, and the moves need not happen at run time at all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..graph import Graph, Node
from ..lowering import Lowering, Slot, needed
from ..ops import OPS
from ..values import View

__all__ = ["Traced", "pair_by_name", "repeats", "trace"]

RECURRENT = ("LSTM", "GRU", "RNN", "Scan")


def begins_at(node: Node) -> dict[str, int]:
    """Which input of a recurrent operator each of its states begins at."""
    if node.op == "Scan":
        return {f"s{k}": k for k in range(node.attrs["states"])}
    return {"h": 5, "c": 6} if node.op == "LSTM" else {"h": 5}


def ends_at(node: Node) -> dict[str, int]:
    """Which output shows each state at the end."""
    return begins_at(node) if node.op == "Scan" else {"h": 1, "c": 2}


def repeats(numbers: np.ndarray) -> bool:
    """Whether a number is there twice. (`np.unique` imports `numpy.ma` for it.)"""
    ordered = np.sort(numbers, axis=None)
    return bool((ordered[1:] == ordered[:-1]).any())


class Traced:
    """What was found.

    Attributes
    ----------
    bases : dict
        Number of the first element of each slot, in order of execution.
    shapes : dict
        Shape of each slot: ``(D, B, H)``, or that of the Scan's state.
    inputs : dict
        For inputs that are nothing but initial states: the number that each element sets.
    outputs : dict
        For outputs that are nothing but final states: the number that each element shows.
    """

    def __init__(self) -> None:
        self.bases: dict[Slot, int] = {}
        self.shapes: dict[Slot, tuple[int, ...]] = {}
        self.inputs: dict[str, np.ndarray] = {}
        self.outputs: dict[str, np.ndarray] = {}

    def covered(self, numbers: np.ndarray) -> set[Slot]:
        """Slots that have elements among `numbers`."""
        return {
            slot
            for slot, base in self.bases.items()
            if ((numbers >= base) & (numbers < base + int(np.prod(self.shapes[slot])))).any()
        }

    def pairs(self) -> dict[str, str]:
        """Input to output, for every output that continues an input."""
        found: dict[str, str] = {}
        for name, numbers in self.inputs.items():
            for out, shown in self.outputs.items():
                if out not in found.values() and numbers.shape == shown.shape and (numbers == shown).all():
                    found[name] = out
                    break
        return found


class _Tracer:
    """The numbers on their way. Elements of inputs count down from -1, those of slots up from 0."""

    def __init__(self, graph: Graph, ctx: Lowering) -> None:
        self.ctx = ctx
        self.result = Traced()
        self.numbers: dict[str, np.ndarray] = {}
        self.owners: list[str] = []
        self.starts: list[int] = []
        self.sets: dict[str, np.ndarray] = {}
        self.escaped: set[str] = set()
        self.made = total = 0
        leading = _leading(graph)
        for port in graph.inputs:
            value = ctx.values.get(port.name)
            if not isinstance(value, View) or port.name not in leading:
                continue
            if value.dtype.kind == "f" and value.count <= MOST_ELEMENTS:
                self.numbers[port.name] = -1 - total - np.arange(value.count, dtype=np.int64).reshape(value.shape)
                self.sets[port.name] = np.full(value.count, -1, dtype=np.int64)
                self.owners.append(port.name)
                self.starts.append(total)
                total += value.count

    def origin(self, ids: np.ndarray) -> np.ndarray:
        """Which input each of these elements belongs to."""
        return np.searchsorted(self.starts, -1 - ids, side="right") - 1

    def escape(self, name: str) -> None:
        """The inputs whose elements are in this value are used for more than initial states."""
        ids = self.numbers.get(name)
        if ids is not None and (ids < 0).any():
            self.escaped.update(self.owners[k] for k in {*self.origin(ids[ids < 0]).tolist()})

    def moves(self, node: Node) -> None:
        """Follow numbers through a node that only moves elements; anything else is where they escape to."""
        traced = [name for name in node.inputs if name in self.numbers]
        if not traced:
            return
        op = OPS[node.op]
        inputs: list[Any] = [self.numbers.get(name, self.ctx.values.get(name)) for name in node.inputs]
        whole = traced[0] == node.inputs[0] and (node.op != "Concat" or len(traced) == len(node.inputs))
        if not op.moves or not whole or any(isinstance(value, View) for value in inputs):
            for name in traced:
                self.escape(name)
            return
        with self.ctx.blaming(node):
            results = op.evaluate(node, *inputs)
        self.numbers.update({name: ids for name, ids in zip(node.outputs, results, strict=False) if name})

    def recurrent(self, node: Node) -> None:
        """Number the final states of a recurrent node, and note which elements its initial states come from."""
        begins, ends = begins_at(node), ends_at(node)
        for k, name in enumerate(node.inputs):
            if name and (k not in begins.values() or not (self.numbers.get(name, np.zeros(1)) < 0).all()):
                self.escape(name)
        for state, k in begins.items():
            shape = self.shape(node, state)
            count = math.prod(shape)
            ids = np.arange(self.made, self.made + count, dtype=np.int64).reshape(shape)
            self.result.bases[node.key, state], self.result.shapes[node.key, state] = self.made, shape
            self.made += count
            source = self.numbers.get(node.inputs[k]) if k < len(node.inputs) else None
            if source is not None and source.shape == shape and (source < 0).all():
                which = self.origin(source)
                for w in sorted({*which.reshape(-1).tolist()}):
                    mine = which == w
                    places = -1 - source[mine] - self.starts[w]
                    if (self.sets[self.owners[w]][places] >= 0).any() or repeats(places):
                        self.escaped.add(self.owners[w])  # one element sets two states
                    self.sets[self.owners[w]][places] = ids[mine]
            at = ends[state]
            if at < len(node.outputs) and node.outputs[at]:
                self.numbers[node.outputs[at]] = ids

    def shape(self, node: Node, state: str) -> tuple[int, ...]:
        """The shape of a state, as the operator has it."""
        values = self.ctx.values
        if node.op == "Scan":
            return values[node.inputs[begins_at(node)[state]]].shape
        d = 2 if node.attrs["direction"] == "bidirectional" else 1
        widths = {"h": values[node.inputs[2]].shape[2], "c": node.attrs["hidden_size"]}
        return d, values[node.inputs[0]].shape[1], widths[state]


def _leading(graph: Graph) -> set[str]:
    """The values that may become initial states by moving elements. Following others would take their memory."""
    found: set[str] = set()
    for node in reversed(graph.nodes):
        if node.op in RECURRENT:
            found.update(node.inputs[k] for k in begins_at(node).values() if k < len(node.inputs))
        elif OPS[node.op].moves and not found.isdisjoint(node.outputs):
            found.update(node.inputs)
    return found


#: Inputs with more elements than this are not followed.
MOST_ELEMENTS = 1 << 22


def trace(graph: Graph, ctx: Lowering, outputs: Iterable[str]) -> Traced:
    """Follow the elements of states through `graph`, as lowered by `ctx`."""
    outputs = list(outputs)
    tracer = _Tracer(graph, ctx)
    for node in needed(graph, outputs, tracer.numbers):
        if node.op in RECURRENT and not node.attrs.get("banded"):
            tracer.recurrent(node)
        else:
            tracer.moves(node)
    result = tracer.result
    steps = {(node.key, state) for node in graph.nodes if node.attrs.get("recognised") for state in "hc"}
    for name in outputs:
        ids = tracer.numbers.get(name)
        if ids is not None and ids.size and (ids >= 0).all():
            result.outputs[name] = ids
        else:
            tracer.escape(name)
    for name, numbers in tracer.sets.items():
        if name not in tracer.escaped and numbers.size and (numbers >= 0).all():
            result.inputs[name] = numbers.reshape(tracer.numbers[name].shape)
    # One step of a cell has no states but what the caller hands back to it: the next step may be another node.
    pairs = result.pairs()
    shown = [result.inputs[name] for name in pairs]
    result.inputs = {k: ids for k, ids in result.inputs.items() if k in pairs or not result.covered(ids) & steps}
    result.outputs = {
        k: ids
        for k, ids in result.outputs.items()
        if not result.covered(ids) & steps or any(np.isin(ids, numbers).all() for numbers in shown)
    }
    return result


#: Words that say "before" or "after" and nothing of which state it is.
BESIDE_THE_POINT = frozenset("in out input output new next prev previous old init initial n o i".split())


#: What frames are called: a model that gives audio_out for audio_in does not mean its own.
FRAMES = frozenset(
    "x y z audio block chunk data feat feats feature features frame frames mag mel mels mix noisy sample samples "
    "sequence signal source spec spectrum token tokens wav wave waveform".split()
)


def stem(name: str, numbered: bool = False) -> str:
    """What is left of a name without "in", "out", "new", numbers and the like: hn and h0 are both h."""
    words = re.findall(r"[a-z]+|[0-9]+" if numbered else r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    words = [re.sub(r"(?<=^[hc])[nt]$", "", word) for word in words]
    return " ".join(word for word in words if word not in BESIDE_THE_POINT)


def pair_by_name(inputs: Mapping[str, tuple[int, ...]], outputs: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """Pairs of one shape and one stem, where there is exactly one such input and one such output.

    Numbers count where they tell states apart: cache_1 is before cache_1_out, though h0 is before h1.
    """
    found: dict[str, str] = {}
    for numbered in (True, False):
        left = {name: (shape, stem(name, numbered)) for name, shape in inputs.items() if name not in found}
        after = {name: (shape, stem(name, numbered)) for name, shape in outputs.items() if name not in found.values()}
        for name, key in left.items():
            there = [out for out, other in after.items() if other == key]
            if (
                set(stem(name).split()) - FRAMES
                and len(there) == list(left.values()).count(key) == 1
                and there[0] != name
            ):
                found[name] = there[0]
    return found
