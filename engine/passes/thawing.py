"""Sizes that an export has frozen become computed ones, where they are provably those of time or of the batch.

A file that was exported without dynamic axes says its number of frames and rows in its inputs, in the targets of
reshapes, in bounds, and in the shapes of constants. The graph is walked twice side by side: with the file's sizes, and
with sizes for time and batch that nothing else has. At each node the tags say which axes are time or batch; a number in
the file that stands for such an axis is replaced, and one that only equals it is not. A constant that is the same for
every row or frame is one row or frame, repeated.

What comes out is held to the file: at the file's sizes every value has the same shape and every known value is the
same. A file that needs its number of frames (a position table, a dense layer over all frames, a mean) keeps it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import GatestepError, ShapeError, UnsupportedModelError
from ..graph import CELLS, SLIDING, Graph, Node, Port
from ..lowering import BATCH, TIME, Lowering, NeedsValue, needed
from ..ops.math import ELEMENTWISE
from ..ops.plumbing import FAR, Reshape
from ..streaming.causality import crosses, misfit
from ..values import Buffer, Merged, Tag, Value, View
from ..walk import axis_tag, is_in, port_shapes, tags_of, unused, walk
from .baked import baked

__all__ = ["thawed"]

#: What mixes frames without asking how many there are.
KEPT = SLIDING.union(CELLS, ["Pad"])

#: An axis of an input.
Axis = tuple[str, int]


def thawed(graph: Graph, real: np.dtype[Any]) -> Graph:
    """The graph with its frozen time and batch free, or the one of them that can be.

    Parameters
    ----------
    graph : Graph
    real : numpy.dtype

    Returns
    -------
    Graph
        `graph` itself where nothing is frozen, or nothing can be freed.
    """
    if not any(node.op in CELLS for node in graph.nodes):
        return graph
    with contextlib.suppress(GatestepError, NeedsValue):
        graph, ctx = walked(graph, real)
        return freed(graph, ctx) or graph
    found = (freed(sized, ctx) for sized, ctx in baked(graph, real))
    return next((thawed for thawed in found if thawed is not None), graph)


def freed(graph: Graph, ctx: Lowering) -> Graph | None:
    """The graph with whatever can be freed of it, if anything can."""
    if misfit(ctx) is not None:
        return None  # what is time to one operator is the batch to another
    try:
        primes = unused(graph)
    except UnsupportedModelError:
        return None
    axes = {what: fixed(graph, ctx, what) for what in (TIME, BATCH)}
    for choice in ((TIME, BATCH), (TIME,), (BATCH,)):
        if not all(axes[what] for what in choice):
            continue
        try:
            return Thaw(graph, ctx, {what: axes[what] for what in choice}, primes).thawed()
        except (GatestepError, NeedsValue, ValueError, IndexError):
            continue
    return None


def walked(graph: Graph, real: np.dtype[Any]) -> tuple[Graph, Lowering]:
    """A walk; where only a state of one row stands against a free batch, of the graph that repeats it."""
    try:
        return graph, walk(graph, real, port_shapes(graph, {}))
    except ShapeError:
        repeated = for_each_row(graph)
        return repeated, walk(repeated, real, port_shapes(repeated, {}))


def for_each_row(graph: Graph) -> Graph:
    """The graph with initial states of one row, which its cells begin at, for as many rows as they have."""
    new = graph.blank()
    for node in graph.nodes:
        inputs = list(node.inputs)
        for k in (5, 6) if node.op in CELLS else ():
            state = graph.constants.get(inputs[k]) if k < len(inputs) else None
            if state is not None and state.ndim == 3 and state.shape[1] == 1:
                (rows,) = new.add("Shape", [inputs[0]], start=1, end=2)
                sides = [new.constant(np.array([size], dtype=np.int64)) for size in state.shape[::2]]
                (shape,) = new.add("Concat", [sides[0], rows, sides[1]], axis=0)
                (inputs[k],) = new.add("Expand", [inputs[k], shape])
        new.nodes.append(node.with_(inputs=tuple(inputs)))
    return new


def fixed(graph: Graph, ctx: Lowering, what: str) -> list[Axis]:
    """The axes of inputs that are `what`, where the file gives all of them one size; a single frame is no time."""
    found = [
        (port.name, axis)
        for port in graph.inputs
        if port.name not in graph.defaults or graph.defaults[port.name] is None
        for axis, tag in enumerate(tags_of(ctx, port.name))
        if ctx.root(tag) == what
    ]
    shapes = {port.name: port.shape or () for port in graph.inputs}
    if what == BATCH and not found:  # a reshape does not show where an axis of one element goes
        for port in graph.inputs:
            tags = [ctx.root(tag) for tag in tags_of(ctx, port.name)]
            ones = [axis for axis, size in enumerate(shapes[port.name]) if size == 1 and tags[axis] != TIME]
            found += [(port.name, axis) for axis in ones if TIME in tags and len(ones) == 1]
    sizes = {shapes[name][axis] for name, axis in found}
    size = sizes.pop() if len(sizes) == 1 else None
    return found if isinstance(size, int) and (size > 1 or (what == BATCH and size == 1)) else []


def open_axes(graph: Graph, ctx: Lowering, what: str) -> list[Axis]:
    """The axes of inputs that are `what`, where the file leaves all of them free."""
    ports = {port.name: port.shape or () for port in graph.inputs}
    found = [(name, k) for name in ports for k, tag in enumerate(tags_of(ctx, name)) if ctx.root(tag) == what]
    alone = len({ctx.values[name].shape[axis] for name, axis in found}) == 1
    return found if alone and not any(isinstance(ports[name][axis], int) for name, axis in found) else []


class Refused(ShapeError):
    """The size is needed."""


class Thaw:
    """One attempt: `axes` are those to be freed, by what they are. What the file leaves free keeps its size here."""

    def __init__(self, graph: Graph, ctx: Lowering, axes: Mapping[str, list[Axis]], primes: Sequence[int]) -> None:
        self.graph, self.ctx, self.thawing = graph, ctx, axes
        self.axes = {what: open_axes(graph, ctx, what) for what in (TIME, BATCH)} | dict(axes)
        self.axes = {what: places for what, places in self.axes.items() if places}
        self.frozen = {what: ctx.values[name].shape[axis] for what, ((name, axis), *_) in self.axes.items()}
        self.free = self.frozen | {what: primes[-1 if what == TIME else -2] for what in axes}
        self.new = graph.blank()
        self.names: dict[str, str] = {}
        self.relative: set[str] = set()  # slices that end where the frames do, or so many after them
        self.walk = Lowering(self.new, ctx.real, carry=True, sketch=True, squeezed=dict(ctx.squeezed))
        whats = {place: what for what, places in axes.items() for place in places}
        for port in graph.inputs:
            value = ctx.values[port.name]
            if not isinstance(value, View):
                self.walk.values[port.name] = value
                continue
            sizes, tags = list(value.shape), [axis_tag(port.name, axis) for axis in range(value.ndim)]
            for axis in range(value.ndim):
                if (port.name, axis) in whats:
                    tags[axis] = whats[port.name, axis]
                    sizes[axis] = self.free[tags[axis]]
            buffer = Buffer("input", value.dtype, math.prod(sizes), name=port.name)
            self.walk.values[port.name] = View.whole(buffer, tuple(sizes), tuple(tags))
        for name, array in graph.constants.items():
            self.walk.values.setdefault(name, ctx.values.get(name, array))

    def thawed(self) -> Graph:
        """The graph at any size."""
        given = {port.name: None for port in self.graph.inputs}
        for node in needed(self.graph, [port.name for port in self.graph.outputs], given):
            self.follow(node)
        for mixing in self.walk.mixings:
            kept = mixing.node.op in KEPT or mixing.node.key in self.relative
            if TIME in self.thawing and is_in(self.walk.root(mixing.tag), TIME) and not kept:
                raise Refused(mixing.reason)
        if misfit(self.walk) is not None:
            raise Refused("rows would follow one another")
        self.new.inputs = [self.port(port) for port in self.graph.inputs]
        self.new.outputs = [self.port(port) for port in self.graph.outputs]
        self.new.notes += tuple(f"{what} un-frozen from {self.frozen[what]}" for what in self.thawing)
        self.compare()
        if BATCH in self.thawing:
            crossing = crosses(self.new, self.walk)
            if crossing is not None:
                raise Refused(crossing.reason)
        return self.new

    def port(self, port: Port) -> Port:
        """The port with names for the axes that are free now."""
        before, now = self.ctx.values[port.name], self.walk.values[port.name]
        if before.ndim != now.ndim:
            raise Refused("another rank")
        dims = list(port.shape if port.shape is not None and len(port.shape) == now.ndim else before.shape)
        for axis, (m, n) in enumerate(zip(before.shape, now.shape, strict=True)):
            if m != n:
                tag = self.walk.root(tags_of(self.walk, port.name)[axis])
                dims[axis] = self.called(tag) if isinstance(tag, str) and tag in self.thawing else None
                if tag is None:
                    raise Refused("a size that follows from another")
                if isinstance(tag, Merged) and any(part not in self.axes for part, _ in tag.parts):
                    raise Refused("rows or frames that are features of the result")
        return port if port.shape is None else port._replace(shape=tuple(dims))

    def called(self, what: str) -> str:
        """A name for the axis that the file does not use."""
        used = {dim for port in [*self.graph.inputs, *self.graph.outputs] for dim in port.shape or ()}
        return next(name for name in (what, f"{what}_size", f"{what} (free)") if name not in used)

    def compare(self) -> None:
        """Hold the new graph, at the file's sizes, to the file."""
        sizes = {place: self.frozen[what] for what, places in self.thawing.items() for place in places}
        again = walk(self.new, self.ctx.real, port_shapes(self.new, sizes), None, self.walk.squeezed)
        for node in self.graph.nodes:
            for name in node.outputs:
                a, b = self.ctx.values.get(name), again.values.get(name)
                if name and a is not None and b is not None and not alike(a, b):
                    raise Refused(f"{node.label} would change")

    # ------------------------------------------------------------------ node by node
    def follow(self, node: Node) -> None:
        """Add the node, with inputs that fit any size, and lower it."""
        inputs = list(node.inputs)
        if node.op == "Reshape":
            self.reshape(node, inputs)
        elif node.op == "Expand":
            self.expand(inputs)
        elif node.op in ("Slice", "Gather"):
            self.bounds(node, inputs)
        elif node.op in CELLS:
            self.states(inputs)
        elif node.op in ELEMENTWISE or node.op == "Concat":
            self.operands(node, inputs)
        self.add(Node(node.op, tuple(inputs), node.outputs, node.attrs, node.name))

    def add(self, node: Node) -> str:
        self.new.nodes.append(node)
        self.walk.lower(node)
        return node.outputs[0]

    def made(self, op: str, inputs: Sequence[str], **attrs: Any) -> str:
        return self.add(Node(op, tuple(inputs), (self.new.fresh(op.lower()),), attrs))

    def constant(self, array: np.ndarray) -> str:
        name = self.new.constant(array)
        self.walk.values[name] = array
        return name

    def numbers(self, *values: int) -> str:
        return self.constant(np.array(values, dtype=np.int64))

    def size(self, whats: Sequence[str]) -> str:
        """The product of these sizes, as a value of one element."""
        key = "*".join(whats)
        if key not in self.names:
            if len(whats) == 1:
                name, axis = self.axes[whats[0]][0]
                self.names[key] = self.made("Shape", [name], start=axis, end=axis + 1)
            else:
                self.names[key] = self.made("Mul", [self.size(whats[:1]), self.size(whats[1:])])
        return self.names[key]

    def shape(self, dims: Sequence[tuple[int, tuple[str, ...]]]) -> str:
        """A shape: for each axis a number, times the sizes of what it is of."""
        parts = []
        for number, whats in dims:
            part = self.numbers(number)
            if whats:
                part = self.size(whats) if number == 1 else self.made("Mul", [self.size(whats), part])
            parts.append(part)
        return self.made("Concat", parts, axis=0)

    def values(self, name: str) -> tuple[Value, Value]:
        return self.ctx.values[name], self.walk.values[name]

    def reshape(self, node: Node, inputs: list[str]) -> None:
        before, now = self.values(inputs[0])
        target = self.walk.values[inputs[1]]
        if not isinstance(target, np.ndarray) or before.shape == now.shape or not isinstance(now, View):
            return
        wanted = Reshape._shape(node, before.shape, self.ctx.values[inputs[1]])  # type: ignore[arg-type]
        atoms = [part for axis in range(now.ndim) for part in self.atoms(before.shape[axis], now, axis)]
        dims = next(fitted(atoms, wanted), None)
        if dims is None:
            raise Refused("a reshape of what is free")
        sizes = tuple(number * math.prod(self.free[what] for what in whats) for number, whats in dims)
        try:
            if Reshape._shape(node, now.shape, target) == sizes:
                return
        except ValueError:
            pass
        free = [k for k, (_, whats) in enumerate(dims) if whats]
        if len(free) == 1 and 0 not in sizes:
            inputs[1] = self.numbers(*(-1 if k in free else number for k, (number, _) in enumerate(dims)))
        else:
            inputs[1] = self.shape(dims)

    def atoms(self, before: int, now: View, axis: int) -> list[tuple[int, str]]:
        """What an axis is made of: sizes in the file, and what they are the sizes of."""
        tag: Tag = self.walk.root(now.tags[axis])
        parts = tag.parts if isinstance(tag, Merged) else ((tag, now.shape[axis]),)
        found = [(self.frozen[part], part) if part in self.axes else (size, "") for part, size in parts]
        if math.prod(size for size, _ in found) != before:
            raise Refused("an axis of unknown parts")
        return found

    def expand(self, inputs: list[str]) -> None:
        """An axis that is free already needs no target."""
        before, now = self.values(inputs[0])
        target = self.walk.values[inputs[1]]
        if not isinstance(target, np.ndarray) or before.shape == now.shape or target.size < now.ndim:
            return
        sizes, first = target.copy(), target.size - now.ndim
        for axis, (m, n) in enumerate(zip(before.shape, now.shape, strict=True)):
            if m != n and sizes[first + axis] == m:
                sizes[first + axis] = 1
        inputs[1] = self.numbers(*sizes)

    def bounds(self, node: Node, inputs: list[str]) -> None:
        """Places counted from the end of a free axis stay there."""
        before, now = self.values(inputs[0])
        given = [self.walk.values[name] if name else None for name in inputs[1:]]
        known = [value for value in given if not isinstance(value, View)]
        if before.shape == now.shape or len(known) < len(given):
            return
        if not all(alike(*self.values(name)) for name in inputs[1:] if name):
            self.relative.add(node.key)  # the file itself counts
            return
        if node.op == "Gather":
            axis, index = node.attrs["axis"] % now.ndim, known[0]
            size = before.shape[axis]
            if (
                size != now.shape[axis]
                and index is not None
                and index.size == 1
                and int(index.reshape(-1)[0]) == size - 1
            ):
                inputs[1] = self.constant(np.full(index.shape, -1, dtype=np.int64))
            return
        starts, ends = (np.array(value) for value in known[:2])
        axes = known[2].reshape(-1) if len(known) > 2 and known[2] is not None else np.arange(starts.size)
        for k, axis in enumerate(axes):
            size = before.shape[axis]
            if size == now.shape[axis]:
                continue
            if size <= ends[k] < FAR:
                starts[k], ends[k] = starts[k] - size if starts[k] > 0 else starts[k], FAR
            elif any(
                ends[k] == count and now.shape[axis] - self.free[what] == size - count
                for what, count in self.frozen.items()
            ):
                self.relative.add(node.key)
                ends[k] -= size  # as many as went in: what windows add behind them is cut off
        inputs[1:3] = self.numbers(*starts), self.numbers(*ends)

    def states(self, inputs: list[str]) -> None:
        """Initial states and lengths for as many rows as there are."""
        x_before, x = self.values(inputs[0])
        for k in (5, 6):
            if k < len(inputs) and inputs[k] and self.walk.values[inputs[k]].shape[1] != x.shape[1]:
                state = self.walk.values[inputs[k]]
                zeros = isinstance(state, np.ndarray) and not state.any()
                inputs[k] = "" if zeros else self.repeated(inputs[k], 1, BATCH)
        if len(inputs) > 4 and inputs[4]:
            lengths = self.walk.values[inputs[4]]
            if isinstance(lengths, np.ndarray) and (lengths == x_before.shape[0]).all():
                inputs[4] = ""

    def operands(self, node: Node, inputs: list[str]) -> None:
        """Operands that are the same all along a free axis have one element there, or as many as the others."""
        rank = max(self.walk.values[name].ndim for name in inputs if name)
        along = node.attrs["axis"] % rank if node.op == "Concat" else -1
        for axis in range(rank):
            here = {}
            for k, name in enumerate(inputs):
                own = axis - rank + self.walk.values[name].ndim if name else -1
                if own >= 0:
                    here[k] = (own, self.ctx.values[node.inputs[k]].shape[own], self.walk.values[name].shape[own])
            sizes = {now for _, before, now in here.values() if before != now}
            if axis == along or len(sizes) != 1:
                continue
            size = sizes.pop()
            what = next((what for what, prime in self.free.items() if prime == size and what in self.axes), None)
            for k, (own, before, now) in here.items():
                if now not in (1, size) or (node.op == "Concat" and now != size):
                    if what is None or before != self.frozen[what]:
                        raise Refused("operands of different sizes")
                    inputs[k] = self.repeated(inputs[k], own, what if node.op == "Concat" else None)

    def repeated(self, name: str, axis: int, what: str | None) -> str:
        """A value that does not change along `axis`: one element of it, or as many as `what` has."""
        value = self.walk.values[name]
        if isinstance(value, np.ndarray):
            same = bool((value == value.take([0], axis)).all())
        else:
            same = value.strides[axis] == 0
        if not same or (what is not None and what not in self.axes):
            raise Refused("a constant that differs along a free axis")
        if value.shape[axis] != 1:
            if name in self.new.constants:
                name = self.constant(value.take([0], axis))  # type: ignore[union-attr]
            else:
                name = self.made("Slice", [name, self.numbers(0), self.numbers(1), self.numbers(axis), self.numbers(1)])
        if what is None:
            return name
        dims: list[tuple[int, tuple[str, ...]]] = [(1, (what,) if k == axis else ()) for k in range(value.ndim)]
        return self.made("Expand", [name, self.shape(dims)])


def alike(a: Value, b: Value) -> bool:
    """Whether two values of a walk are of one shape, and equal if they are known."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    return a.shape == b.shape and type(a) is type(b)


def fitted(atoms: Sequence[tuple[int, str]], wanted: Sequence[int]) -> Iterator[list[tuple[int, tuple[str, ...]]]]:
    """Ways to put runs of atoms into axes of these sizes, the likeliest first.

    One frame or row goes to an axis of one element where there is one; else rows join the frames, not the features.
    """
    atoms = [atom for atom in atoms if atom != (1, "")]
    if not wanted:
        if not atoms:
            yield []
        return
    options: list[tuple[bool, int, int, tuple[str, ...], list[tuple[int, str]]]] = []
    have, number = 1, 1
    whats: tuple[str, ...] = ()
    for taken in range(len(atoms) + 1):
        rest = atoms[taken:]
        if have == wanted[0]:
            astray = bool(rest) and rest[0][0] == 1 and (len(wanted) == 1 or wanted[1] != 1)
            alone = taken == 0 and bool(rest) and rest[0][0] == 1
            options.append((astray or alone, taken, number, whats, rest))
        if not rest:
            break
        size, what = rest[0]
        if have * size > wanted[0]:
            part = wanted[0] // have
            if not what and part > 1 and part * have == wanted[0] and size % part == 0:
                options.append((False, taken, number * part, whats, [(size // part, ""), *rest[1:]]))
            break
        have, number = have * size, number if what else number * size
        whats = (*whats, what) if what else whats
    for _, _, number, whats, rest in sorted(options):
        for others in fitted(rest, wanted[1:]):
            yield [(number, whats), *others]
