"""From graph to kernel calls, for concrete shapes.

A `Lowering` walks the nodes once. What is known (constants, shapes, what follows from them) is computed on the spot
with NumPy; what only moves elements becomes a strided view; the rest becomes kernel calls over buffers. On the way
every axis keeps a tag that says which axis of which input it is, so that one walk also tells where time and batch
run and which node mixes them (see `streaming`).
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..kernels import pack
from ..kernels.precision import LARGEST
from ..kernels.tiers import WORTH
from .errors import GatestepError, ModelFormatError, NeedsValue, ShapeError, UnsupportedModelError
from .graph import Graph, Node, ancestors, needed
from .ops import OPS
from .ops.growth import growth, held
from .record import Record
from .values import MOST_AXES, MOST_ELEMENTS, Buffer, Merged, Tag, Value, ValueList, View, Weights, collapse, in_order

__all__ = [
    "BATCH",
    "TIME",
    "Choice",
    "Instruction",
    "Lowering",
    "Mixing",
    "NeedsValue",
    "Run",
    "Slot",
    "ancestors",
    "needed",
]

TIME, BATCH = "time", "batch"
#: A state of a recurrent operator: outputs[0] of the node, and "h", "c", or of a Scan "s0", "s1", ...
Slot = tuple[str, str]
#: The kernels' limit on axes after collapsing.
MAX_NDIM = 6
#: Elements that a program may compute from constants while it is built: these, 8 times the constants of the file and 16
#: times the inputs.
MOST_COMPUTED = 1 << 25
#: Slots of `gs_args.p` that a kernel writes: y, hn, cn, scratch.
WRITTEN = frozenset((4, 5, 6, 9))
#: Operators that leave the elements of a row side by side.
ROW_RESHAPES = frozenset(("Reshape", "Squeeze", "Unsqueeze", "Flatten"))


class Mixing(Record):
    """`node` mixes the frames (or rows) along an axis tagged `tag`, so it needs more than the present one."""

    def __init__(self, tag: Tag, node: Node, reason: str) -> None:
        self.tag, self.node, self.reason = tag, node, reason


class Run(Record):
    """A recurrent operator runs along the axis tagged `along`, for rows side by side along `across`.

    `begins` are the states that begin at a value of the graph, not at a known one, with the names of those values;
    `frames` the names of what it runs over, `steps` long.
    """

    def __init__(
        self, node: Node, along: Tag, across: Tag, begins: dict[str, str], frames: tuple[str, ...], steps: int
    ) -> None:
        self.node, self.along, self.across = node, along, across
        self.begins, self.frames, self.steps = begins, frames, steps


class Choice(Record):
    """`node` chooses what runs when the program runs, by what depends on these `inputs` of the model."""

    def __init__(self, node: Node, inputs: frozenset[str]) -> None:
        self.node, self.inputs = node, inputs


class Instruction:
    """One kernel call.

    `p` maps slots to views; `weights` is packed into slot 1 when the program is finished, and `team`, an address, put
    into slot 11. A jump has as its `target` a label: an instruction without a kernel, which marks a place among the
    others.
    """

    def __init__(
        self, kernel: str, node: Node, p: dict[int, View], n: list[int], f: list[float], weights: Weights | None = None
    ) -> None:
        self.kernel, self.node, self.p, self.n, self.f, self.weights = kernel, node, p, n, f, weights
        self.target: Instruction | None = None
        self.team = 0

    def buffers(self) -> Iterator[Buffer]:
        return (view.buffer for view in self.p.values())


class Lowering:
    """The state of one walk.

    Attributes
    ----------
    graph : Graph
    real : numpy.dtype
        The arithmetic: float32 or float64. Every floating value has it.
    carry : bool
        Recurrent operators that start from a known state keep it from call to call.
    sketch : bool
        What is asked for is what follows from shapes and tags: constants are not laid out, nor copies worked out.
    within : bool
        The walk is in a body that runs more than once, or not always.
    slots : dict
        State buffers of the recurrent operators that do, keyed ``(output name of the node, "h" | "c")``.
    initial : dict
        What those slots start from, in the shape ``(D, B, H)``.
    precision : str
        What cells and dense layers keep their weights as: one of `kernels.PRECISIONS`.
    tiers : dict
        What each of them does, by the node's label.
    owned : frozenset
        Slots that replace a state input of the file: they start from zeros, whatever the graph hands them.
    squeezed : dict
        Axes that Squeeze drops where the file does not name them, by node:
        for one frame or one row the sizes would mislead.
    clock : View or None
        How many steps a stream has made: where given, the program is for steps before the recording has reached
        every node, and keeps those that it has not (see `memories`).
    """

    def __init__(
        self,
        graph: Graph,
        real: np.dtype[Any],
        *,
        carry: bool = False,
        sketch: bool = False,
        owned: frozenset[Slot] = frozenset(),
        squeezed: dict[str, tuple[int, ...]] | None = None,
        precision: str = "float32",
    ) -> None:
        self.graph, self.real, self.carry, self.sketch, self.owned = graph, real, carry, sketch, owned
        self.precision = precision
        self.tiers: dict[str, str] = {}
        self.squeezed = {} if squeezed is None else squeezed
        self.within = False
        self.values: dict[str, Value] = {}
        self.instructions: list[Instruction] = []
        self.slots: dict[Slot, Buffer] = {}
        self.initial: dict[Slot, np.ndarray] = {}
        self.mixings: list[Mixing] = []
        self.lasts: list[Mixing] = []
        self.drops: list[Mixing] = []
        self.runs: list[Run] = []
        self.choices: list[Choice] = []
        self.clock: View | None = None
        self._tags: dict[str, str] = {}
        self._layers: dict[str, Instruction] = {}
        self._uses: Counter[str] = Counter()
        self._constants: dict[int, tuple[np.ndarray, View]] = {}
        self._sources: dict[str, tuple[str, ...]] = {}
        self._room: int | None = None  # elements that may still be computed from constants

    # ------------------------------------------------------------------ the walk
    def run(self, wanted: Iterable[str]) -> None:
        """Lower every node that `wanted` values depend on. Inputs must be in `values` already."""
        wanted = list(wanted)
        nodes = needed(self.graph, wanted, self.values)
        self._lower_all(self.graph, nodes, wanted)
        for name in wanted:
            if name not in self.values:
                raise ModelFormatError(f"{self.graph.source}: output {name!r} is made by no node")
            value = self.values[name]
            if not isinstance(value, ValueList) and value.ndim > MOST_AXES:
                raise ShapeError(f"{self.graph.source}: {name!r} has more axes than an array can have ({MOST_AXES})")
            if isinstance(value, ValueList) and any(port.name == name for port in self.graph.outputs):
                raise UnsupportedModelError(
                    f"output {name!r} is a sequence",
                    source=self.graph.source,
                    hint="Cut the part you need with load(..., outputs=[...])",
                )

    def copied(self, graph: Graph) -> Lowering:
        """The walk as it stands, over a `graph` of the same nodes; what is said of tags there, this does not know."""
        made = object.__new__(Lowering)
        made.__dict__.update(
            (name, value.copy() if isinstance(value, (dict, list)) else value) for name, value in vars(self).items()
        )
        made.graph = graph
        return made

    def _lower_all(self, graph: Graph, nodes: Iterable[Node], wanted: Iterable[str]) -> None:
        uses = Counter(name for node in nodes for name in node.inputs)
        uses.update(wanted)
        for name, count in uses.items():  # set, not added: a body may be lowered as often as there are iterations
            self._uses[name] = count
        for name, array in graph.constants.items():
            self.values.setdefault(name, self._as_real(array))
        for node in nodes:
            self.lower(node)

    def inline(self, node: Node, body: Graph, inputs: Sequence[Any], wanted: Sequence[int] | None = None) -> list[Any]:
        """Lower a body that `node` holds where the walk stands, for these inputs; returns its outputs.

        Those that are not `wanted` are None.
        """
        for port, outer, value in zip(body.inputs, inputs_of(node, body), inputs, strict=True):
            self.values[port.name] = self._as_real(value) if isinstance(value, np.ndarray) else value
            self._sources[port.name] = (outer,)
        ports = [port.name for port in body.outputs]
        names = [ports[k] for k in (range(len(ports)) if wanted is None else wanted)]
        given = dict.fromkeys(port.name for port in body.inputs)
        self._lower_all(body, needed(body, names, given), names)
        return [self.values[name] if name in names else None for name in ports]

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """In what runs more than once, or not always, operators begin anew each time, also in a stream."""
        before, self.carry, self.within = (self.carry, self.within), False, True
        try:
            yield
        finally:
            self.carry, self.within = before

    def trial(self) -> _Trial:
        """What is emitted and noted from here on, to be undone by `undo`."""
        return _Trial(tuple(len(notes) for notes in self._notes()), dict(self.squeezed))

    def undo(self, trial: _Trial) -> None:
        """Forget what was emitted and noted since `trial`. What tags were found to be the same remain so."""
        for notes, count in zip(self._notes(), trial.counts, strict=True):
            del notes[count:]
        self.squeezed = dict(trial.squeezed)

    def _notes(self) -> tuple[list[Any], ...]:
        return self.instructions, self.mixings, self.lasts, self.drops, self.runs, self.choices

    def lower(self, node: Node) -> None:
        """Lower one node, whose inputs are in `values`."""
        op = OPS.get(node.op)
        if op is None:
            raise UnsupportedModelError(
                f"operator {node.op} is not supported",
                source=self.graph.source,
                node=node.label,
                hint="Cut the part you need with load(..., inputs=[...], outputs=[...])",
            )
        inputs = [self.values[name] if name else None for name in node.inputs]
        while inputs and inputs[-1] is None:
            inputs.pop()
        for name in node.outputs:
            self._layers.pop(name, None)
            self._sources[name] = node.inputs
        known = all(value is None or isinstance(value, np.ndarray) for value in inputs)
        if op.folds and any(isinstance(value, ValueList) for value in inputs):
            raise self.unsupported(node, "takes a sequence")
        if known and op.folds and not (self.carry and node.op in ("LSTM", "GRU", "RNN")):
            results: tuple[Value, ...] = self.evaluate(node, inputs)
        else:
            for k in op.known:
                if k < len(inputs) and isinstance(inputs[k], View):
                    raise self.unknown(node, [k])
            with self.blaming(node):
                results = op.lower(self, node, *inputs)
        for name, value in zip(node.outputs, results, strict=False):
            if name:
                self.values[name] = value
        if node.op in ROW_RESHAPES and (layer := self.layer(node.inputs[0])) is not None:
            self.is_layer(node.outputs[0], layer)

    def evaluate(self, node: Node, inputs: Sequence[Any]) -> tuple[np.ndarray, ...]:
        """Compute a node whose inputs are all known."""
        for array in inputs:
            if array is not None:
                self.proportionate(array.size, array.shape)
        if self._room is None:
            views = [value for value in self.values.values() if isinstance(value, View)]
            given = sum(view.count for view in views if view.buffer.kind == "input")
            own = sum(array.size for part in self.graph.everything() for array in part.constants.values())
            self._room = MOST_COMPUTED + 8 * own + 16 * given
        if growth(node, inputs) > self._room:
            raise self._excess(node)
        with self.blaming(node), np.errstate(all="ignore"):
            results = tuple(self._as_real(np.asarray(a)) for a in OPS[node.op].evaluate(node, *inputs))
        self._room -= sum(map(held, results))
        if self._room < 0:
            raise self._excess(node)
        return results

    def _excess(self, node: Node) -> ShapeError:
        return ShapeError(
            f"{self.graph.source}: {node.label}: what is computed from constants is out of all proportion to them"
        )

    @contextlib.contextmanager
    def blaming(self, node: Node) -> Iterator[None]:
        """Turn what NumPy says of shapes that do not fit into an error that names the node."""
        try:
            yield
        except (ShapeError, ModelFormatError) as error:
            if str(error).startswith(self.graph.source):
                raise
            raise type(error)(f"{self.graph.source}: {error}") from error
        except (GatestepError, NeedsValue):
            raise
        except MemoryError as error:
            raise ShapeError(f"{self.graph.source}: {node.label}: asks for more memory than there is") from error
        except (ValueError, LookupError, TypeError, AttributeError, AssertionError, ArithmeticError) as error:
            raise ShapeError(f"{self.graph.source}: {node.label}: {error}") from error

    def _as_real(self, array: np.ndarray) -> np.ndarray:
        return array.astype(self.real) if array.dtype.kind == "f" and array.dtype != self.real else array

    # ------------------------------------------------------------------ errors
    def unsupported(self, node: Node, reason: str, **details: Any) -> UnsupportedModelError:
        """An error that names the file and the node."""
        return UnsupportedModelError(reason, source=self.graph.source, node=node.label, **details)

    def tier(self, node: Node, *weights: np.ndarray | None) -> str:
        """The precision in which this node keeps these weights: the model's, where that is the faster one."""
        held = [w for w in weights if w is not None]
        small = sum(w.size for w in held) < WORTH.get(self.precision, 0)
        precision = "float32" if small else self.precision
        if precision != "float32":
            for w in held:
                if w.size and not float(np.abs(w).max()) <= LARGEST:
                    raise self.unsupported(
                        node,
                        "has weights that no such number stands for: they are not finite, or too large",
                        attribute="precision",
                        value=precision,
                        hint='Load it with precision="float32"',
                    )
        self.tiers[node.label] = precision
        return precision

    def unknown(self, node: Node, positions: Iterable[int]) -> NeedsValue | UnsupportedModelError:
        """The error for inputs of `node` that must be known when the program is built, and are not."""
        names = [node.inputs[k] for k in positions if isinstance(self.values.get(node.inputs[k]), View)]
        sources = self.sources(names) & {port.name for port in self.graph.inputs}
        told = f", or say it with load(..., bind={{{', '.join(f'{name!r}: ...' for name in sorted(sources))}}})"
        error = self.unsupported(
            node,
            f"needs the value of {', '.join(repr(name.lstrip(chr(0))) for name in names)} before it runs",
            hint=f"Make it a constant of the file{told if sources else ''}",
        )
        return NeedsValue(frozenset(sources), error) if sources else error

    def sources(self, names: Iterable[str]) -> set[str]:
        """All values, inside and outside of bodies, that `names` are computed from, themselves included."""
        seen, todo = set(names), list(names)
        while todo:
            for name in self._sources.get(todo.pop(), ()):
                if name not in seen:
                    seen.add(name)
                    todo.append(name)
        return seen

    # ------------------------------------------------------------------ values
    def view(self, value: Value) -> View:
        """A view of `value`; known arrays become constant buffers, once each."""
        if isinstance(value, View):
            return value
        held = self._constants.get(id(value))
        if held is None:
            self.proportionate(value.size, value.shape)
            dtype = self.real if value.dtype.kind == "f" else value.dtype
            data = None if self.sketch else pack.aligned(value, dtype)
            buffer = Buffer("const", np.dtype(dtype), value.size, data=data)
            held = (value, View.whole(buffer, value.shape))
            self._constants[id(value)] = held
        return held[1]

    def proportionate(self, count: int, shape: tuple[int, ...]) -> None:
        """Refuse a value that a file merely claims, before there is memory for it."""
        if count > MOST_ELEMENTS:
            raise ShapeError(
                f"{self.graph.source}: a value of shape {shape} is out of all proportion (more than {MOST_ELEMENTS:,} "
                "elements)"
            )

    def temp(self, shape: Sequence[int], dtype: Any = None, tags: Sequence[Tag] | None = None) -> View:
        """A new dense buffer."""
        shape = tuple(int(size) for size in shape)
        count = 1
        for size in shape:
            count *= size
        self.proportionate(count, shape)
        buffer = Buffer("temp", np.dtype(self.real if dtype is None else dtype), count)
        return View.whole(buffer, shape, None if tags is None else tuple(tags))

    def slot(self, node: Node, state: str, shape: tuple[int, ...], tags: tuple[Tag, ...], dtype: Any = None) -> View:
        """The buffer in which an operator keeps a state from call to call."""
        name = f"{(node.name or node.key).lstrip(chr(0))}.{state}"
        if any(name == other.name for other in self.slots.values()):
            name = f"{node.key.lstrip(chr(0))}.{state}"
        count = math.prod(shape)
        self.proportionate(count, shape)
        buffer = Buffer("state", np.dtype(self.real if dtype is None else dtype), count, name=name)
        self.slots[node.key, state] = buffer
        return View.whole(buffer, shape, tags)

    def dense(self, node: Node, value: Value) -> View:
        """`value` in C order, copied where it is not."""
        view = self.view(value)
        return view if view.dense else self.copy(node, view, self.temp(view.shape, view.dtype, view.tags))

    def real_view(self, node: Node, value: Value) -> View:
        """`value` as a view, which must be floating point."""
        view = self.view(value)
        if view.dtype != self.real:
            raise self.unsupported(node, f"is not supported on {view.dtype} values", hint="Cast them to float first")
        return view

    def copy(self, node: Node, source: View, target: View) -> View:
        """Copy elements between views of one shape; returns `target`."""
        if self.sketch:
            self.emit("copy", node, {0: source, 4: target})
            return target
        shape, (ts, ss) = collapse(*in_order(source.shape, target.strides, source.strides))
        if len(shape) > MAX_NDIM:
            raise self.unsupported(node, f"moves {len(shape)} axes at once; at most {MAX_NDIM} are supported")
        n = [len(shape), *pad(shape, 1), *pad(ss, 0), *pad(ts, 0), source.dtype.itemsize]
        self.emit("copy", node, {0: source, 4: target}, n)
        return target

    # ------------------------------------------------------------------ instructions
    def emit(
        self,
        kernel: str,
        node: Node,
        p: Mapping[int, View],
        n: Sequence[int] = (),
        f: Sequence[float] = (),
        weights: Weights | None = None,
    ) -> Instruction:
        """Append a kernel call."""
        if self.sketch:
            instruction = Instruction(kernel, node, dict(p), list(n), list(f), weights)
        else:
            instruction = Instruction(kernel, node, dict(p), [int(v) for v in n], [float(v) for v in f], weights)
        self.instructions.append(instruction)
        return instruction

    def label(self, node: Node) -> Instruction:
        """A place to jump to, not yet among the instructions."""
        return Instruction("", node, {}, [], [])

    def place(self, label: Instruction) -> None:
        """Let `label` mark the place where the walk stands."""
        self.instructions.append(label)

    def used(self, value_name: str) -> bool:
        """Whether anything takes this value."""
        return self._uses[value_name] > 0

    def layer(self, value_name: str) -> Instruction | None:
        """The dense layer that made this value, if nothing else sees the value: more can be fused into it.

        Depends on the graph alone, never on sizes, so that programs for other numbers of rows fuse the same.
        """
        return self._layers.get(value_name) if self._uses[value_name] == 1 else None

    def is_layer(self, value_name: str, layer: Instruction) -> None:
        """Say that the dense layer, with what is fused into it so far, makes this value."""
        self._layers[value_name] = layer

    # ------------------------------------------------------------------ tags
    def root(self, tag: Tag) -> Tag:
        """The representative of a tag."""
        if isinstance(tag, Merged):
            return Merged(tuple((self.root(part), size) for part, size in tag.parts))
        while tag is not None and tag in self._tags:
            tag = self._tags[tag]
        return tag

    def unify(self, a: Tag, b: Tag) -> Tag:
        """Say that two axes are the same; returns the tag of both."""
        a, b = self.root(a), self.root(b)
        if a is None or b is None or a == b:
            return b if a is None else a
        if isinstance(a, Merged) or isinstance(b, Merged):
            if isinstance(a, Merged) and isinstance(b, Merged) and [s for _, s in a.parts] == [s for _, s in b.parts]:
                return Merged(tuple((self.unify(s, t), n) for (s, n), (t, _) in zip(a.parts, b.parts, strict=True)))
            return a
        if a in (TIME, BATCH):
            a, b = b, a
        if a not in (TIME, BATCH):
            self._tags[a] = b
        return b

    def same(self, node: Node, values: Sequence[Value], shape: tuple[int, ...]) -> tuple[Tag, ...]:
        """Tags of operands that are broadcast to `shape` and walked together.

        A known array that changes along a tagged axis makes the result depend on the position in it.
        """
        tags: list[Tag] = [None] * len(shape)
        arrays = [value for value in values if isinstance(value, np.ndarray)]
        for view in (value for value in values if isinstance(value, View)):
            new = len(shape) - view.ndim
            for axis, tag in enumerate(view.tags, start=new):
                if tag is not None and view.shape[axis - new] == shape[axis]:
                    tags[axis] = self.unify(tags[axis], tag)
        for array in arrays:
            new = len(shape) - array.ndim
            for axis, tag in enumerate(tags[new:]):
                if tag is not None and array.shape[axis] > 1 and (array != array.take([0], axis)).any():
                    self.mix(tag, node, "depends on the position of the frame")
        return tuple(tags)

    def mix(self, tag: Tag, node: Node, reason: str) -> None:
        """Note that `node` needs more of this axis than the present frame."""
        if isinstance(tag, Merged):
            for part, _ in tag.parts:
                self.mix(part, node, reason)
        elif tag is not None:
            self.mixings.append(Mixing(tag, node, reason))

    def ran(
        self, node: Node, along: Tag, across: Tag, begins: dict[str, str], frames: tuple[str, ...], steps: int
    ) -> None:
        """Note how the recurrent operator `node` runs."""
        self.runs.append(Run(node, along, across, begins, frames, steps))

    def chose(self, node: Node, condition: str) -> None:
        """Note that the value `condition` says, when the program runs, what it does next."""
        inputs = self.sources([condition]) & {port.name for port in self.graph.inputs}
        self.choices.append(Choice(node, frozenset(inputs)))

    def drop(self, tag: Tag, node: Node, reason: str) -> None:
        """Note that `node` would have another rank if this axis had one element."""
        if tag is not None:
            self.drops.append(Mixing(tag, node, reason))

    def last(self, tag: Tag, node: Node) -> None:
        """Note that `node` takes the last element of this axis."""
        if tag is not None:
            self.lasts.append(Mixing(tag, node, "takes the last frame"))


class _Trial:
    """How many there were of each kind of note."""

    def __init__(self, counts: tuple[int, ...], squeezed: dict[str, tuple[int, ...]]) -> None:
        self.counts, self.squeezed = counts, squeezed


def inputs_of(node: Node, body: Graph) -> list[str]:
    """What the inputs of a body are called outside; ``""`` for those that the node makes itself."""
    names = node.inputs[1:] if node.op == "If" else node.inputs
    return [*names, *[""] * (len(body.inputs) - len(names))][: len(body.inputs)]


def pad(values: Sequence[int], fill: int) -> list[int]:
    """`values` filled up to the kernels' number of axes."""
    return [*values, *[fill] * (MAX_NDIM - len(values))]
